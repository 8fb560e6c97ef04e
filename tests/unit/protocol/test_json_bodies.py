"""JSON bodies: what is in them is in the record, once, and no deeper and no more than there is room for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import MalformedBody, TooLarge
from eztinker.protocol import json_bodies
from eztinker.protocol.json_bodies import MAX_DEPTH, MAX_NAMED_BYTES, parse_object

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=5), st.booleans())
def test_any_object_is_read_as_it_was_written(value: dict[str, object], ascii_only: bool):
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")) == value


@given(st.dictionaries(st.text(max_size=5), values, min_size=1, max_size=5), st.data())
def test_a_name_that_stands_twice_is_found_wherever_it_stands(value: dict[str, object], data: st.DataObject):
    """Written by hand, for no encoder would: the entry of one name once more, behind all others of its object."""
    name = data.draw(st.sampled_from(sorted(value)))
    again = f"{json.dumps(name)}: {json.dumps(data.draw(values))}"
    for body in (
        json.dumps(value)[:-1] + f", {again}}}",
        f'{{"a": [1, {{"b:": {json.dumps(value)[:-1]}, {again}}}}}]}}',
    ):
        with pytest.raises(MalformedBody, match="more than once in one object"):
            parse_object(body.encode())


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "\\u003a", "a": 1}',
        b'{"a": 1, "\\u0061": 2, "b": "\\u003A"}',
        b'{"a:": 1, "a\\u003a": 2}',
        b'{"a": "\\\\u003a", "a": 1}',
        b'{"a": {"x": ":::"}, "b": "\\u003a\\u003a", "a": {}}',
    ],
)
def test_escaped_colons_hide_no_repeated_name(body: bytes):
    with pytest.raises(MalformedBody, match="more than once"):
        parse_object(body)


@pytest.mark.parametrize("body", [b'{"a": "\\u003a"}', b'{"a\\u003A": ":"}', b'{"a": "\\\\u003a"}'])
def test_escaped_colons_are_no_repeated_names(body: bytes):
    assert parse_object(body) == json.loads(body)


def test_a_large_body_is_not_read_twice_to_find_the_name():
    filler = b'"x": "' + b"y" * MAX_NAMED_BYTES + b'"'
    assert len(parse_object(b"{" + filler + b"}")["x"]) == MAX_NAMED_BYTES
    with pytest.raises(MalformedBody, match="names something twice"):
        parse_object(b"{" + filler + b', "a": 1, "a": 2}')


@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_depth_is_counted_in_objects_and_lists(opening: str):
    def body(depth: int) -> bytes:
        closing = "}" if opening != "[" else "]"
        return ('{"a":' + opening * (depth - 1) + "1" + closing * (depth - 1) + "}").encode()

    parse_object(body(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 255, 900):
        with pytest.raises(MalformedBody, match=f"nested {MAX_DEPTH} deep"):
            parse_object(body(depth))


@pytest.mark.parametrize(
    ("bound", "part", "what"),
    [
        ("MAX_CONTAINERS", "{}", "objects and lists"),
        ("MAX_CONTAINERS", "[]", "objects and lists"),
        ("MAX_STRINGS", '"a"', "names and strings"),
        ("MAX_VALUES", "1", "values"),
        ("MAX_VALUES", "null", "values"),
    ],
)
def test_parts_are_counted_before_any_is_made(monkeypatch: pytest.MonkeyPatch, bound: str, part: str, what: str):
    monkeypatch.setattr(json_bodies, bound, 100)
    parse_object(f'{{"a": [{", ".join([part] * 98)}]}}'.encode())
    monkeypatch.setattr(json_bodies.orjson, "loads", None)
    with pytest.raises(TooLarge, match=f"may hold 100 {what}"):
        parse_object(f'{{"a": [{", ".join([part] * 102)}]}}'.encode())
