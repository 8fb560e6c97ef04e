from pathlib import Path

import pytest

from eztinker.errors import DataDamaged, InvalidInput
from eztinker.rl import load_buffer, save_buffer


def test_a_buffer_comes_back_as_it_was_saved(tmp_path: Path):
    data = [{"question": "1\n2\u2028 é", "logprobs": [-0.5, -1.25], "trained": False}, {"reward": 1.0}]
    save_buffer(tmp_path / "new" / "buffer.jsonl", data)
    assert load_buffer(tmp_path / "new" / "buffer.jsonl") == data


def test_a_buffer_that_is_not_there_is_empty(tmp_path: Path):
    assert load_buffer(str(tmp_path / "none.jsonl")) == []


def test_a_damaged_line_is_named_with_its_number(tmp_path: Path):
    path = tmp_path / "buffer.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2\n', encoding="utf-8")
    with pytest.raises(DataDamaged, match=r"Line 3 of .*buffer\.jsonl is not JSON"):
        load_buffer(path)


def test_a_line_that_is_no_object_is_refused(tmp_path: Path):
    path = tmp_path / "buffer.jsonl"
    path.write_text("[1, 2]\n", encoding="utf-8")
    with pytest.raises(DataDamaged, match=r"Line 1 .* must be a JSON object, got list"):
        load_buffer(path)


@pytest.mark.parametrize("bad", [object(), float("nan")])
def test_data_that_cannot_be_written_leaves_the_buffer_as_it_was(tmp_path: Path, bad: object):
    path = tmp_path / "buffer.jsonl"
    save_buffer(path, [{"a": 1}])
    with pytest.raises(InvalidInput, match="cannot be written as JSON"):
        save_buffer(path, [{"a": 2}, {"a": bad}])
    assert load_buffer(path) == [{"a": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["buffer.jsonl"]
