"""Fields of a model's JSON files: each of its type and in its range, or refused in a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from eztinker.errors import DataDamaged, DataNotFound
from eztinker.model_files import json_fields
from eztinker.model_files.json_fields import JsonFields, read_json


def fields(**values: Any) -> JsonFields:
    return JsonFields(values, where="config.json of base model 'x'")


@pytest.mark.parametrize("value", ["4", 4.0, True, None, 0, 11, [4]])
def test_an_integer_is_one_in_its_range(value: Any):
    assert fields(n=4).integer("n", 7, high=10) == 4
    assert fields().integer("n", 7, high=10) == 7
    with pytest.raises(DataDamaged, match=r"config\.json of base model 'x' must give n as an integer from 1 to 10"):
        fields(n=value).integer("n", 7, high=10)


def test_null_is_a_value_where_it_may_be():
    assert fields(n=None).optional_integer("n", 7) is None
    assert fields().optional_integer("n", 7) == 7
    assert fields().optional_integer("n", None) is None
    assert fields(n=3).optional_integer("n", None) == 3
    assert fields(x=None).optional_number("x") is None
    assert fields(x=2).optional_number("x") == 2.0


@pytest.mark.parametrize("value", ["1", None, True, float("nan"), float("inf"), 10**400, 0.5, 0.4])
def test_a_number_is_finite_and_in_its_range(value: Any):
    assert fields(x=1).number("x", above=0.5) == 1.0
    with pytest.raises(DataDamaged, match=r"a number above 0\.5"):
        fields(x=value).number("x", above=0.5)


def test_the_end_of_a_range_is_within_it_or_not():
    assert fields(x=0).number("x", at_least=0) == 0.0
    with pytest.raises(DataDamaged, match=r"of at least 0, got -0\.1"):
        fields(x=-0.1).number("x", at_least=0)
    with pytest.raises(DataDamaged, match="got none"):
        fields().number("x", above=0)


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_a_flag_is_true_or_false(value: Any):
    assert fields().flag("f") is False
    assert fields(f=True).flag("f") is True
    with pytest.raises(DataDamaged, match="true or false"):
        fields(f=value).flag("f")


@pytest.mark.parametrize("value", ["ab", ["a"], ["a", 1], {"a": "b"}])
def test_a_list_of_texts_has_its_length(value: Any):
    assert fields(t=["a", "b"]).texts("t", length=2) == ["a", "b"]
    assert fields().texts("t", length=2) is None
    with pytest.raises(DataDamaged, match="a list of 2 texts"):
        fields(t=value).texts("t", length=2)


def test_an_object_within_another_says_where_it_is():
    inner = fields(rope={"theta": "x"}).object("rope")
    assert inner is not None
    with pytest.raises(DataDamaged, match=r"^rope in config\.json of base model 'x' must give theta"):
        inner.number("theta")
    assert fields(rope=None).object("rope") is None
    with pytest.raises(DataDamaged, match="an object"):
        fields(rope=[]).object("rope")


def test_a_wrong_value_is_shown_cut():
    with pytest.raises(DataDamaged) as refusal:
        fields(t="x" * 10_000).integer("t", 1)
    assert len(refusal.value.message) < 300


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff", b"{" + b'"a":{' * 100_000, b'{"a": ' + b"9" * 10_000 + b"}"]
)
def test_a_file_that_holds_no_object_is_damaged(tmp_path: Path, content: bytes):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(DataDamaged, match=r"config\.json of base model 'x'.*fetch it again"):
        read_json(path, name="x")


def test_a_file_is_read_unless_it_is_too_large_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "config.json"
    path.write_text('{"ä": 1}', encoding="utf-8")
    assert read_json(path, name="x") == {"ä": 1}
    monkeypatch.setattr(json_fields, "MAX_FILE_BYTES", 5)
    with pytest.raises(DataDamaged, match="more than 5 bytes"):
        read_json(path, name="x")
    os.mkfifo(tmp_path / "pipe.json")  # opening it would wait for ever
    for name in ("absent.json", "pipe.json"):
        with pytest.raises(DataNotFound, match=f"has no {name}"):
            read_json(tmp_path / name, name="x")
