"""One reader for all data files: what is no JSON Lines in UTF-8 is refused in a sentence with its line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from eztinker.dataset import GSM8KDataset, ShareGPTDataset, json_records
from eztinker.dataset.json_records import read_records
from eztinker.errors import DataDamaged, DataNotFound
from tests.tiny_tokenizers import byte_tokenizer

LINE = json.dumps({"question": "é?", "answer": "#### 2"}, ensure_ascii=False)


def read_gsm8k(path: Path) -> None:
    GSM8KDataset("train", data_dir=path.parent)


def read_chats(path: Path) -> None:
    ShareGPTDataset(path, byte_tokenizer())


READERS = [read_records, read_gsm8k, read_chats]


def zipped(text: str) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train.jsonl", text)
    return buffer.getvalue()


FILES = {
    "Latin-1": (f"{{}}\n{LINE}".encode("latin-1"), r"^Line 2 of .*is not UTF-8 text \(byte 0xe9\); .*iconv -f LATIN1"),
    "UTF-16 with a mark": (LINE.encode("utf-16"), r"^Line 1 of .*not UTF-8 text but UTF-16; .*iconv -f UTF-16"),
    "UTF-16 without a mark": (LINE.encode("utf-16-le"), r"^Line 1 of .*NUL byte.*iconv -f UTF-16"),
    "UTF-32": (LINE.encode("utf-32"), r"^Line 1 of .*UTF-32"),
    "a NUL byte": (b"{}\n{}\n\0", r"^Line 3 of .*NUL byte"),
    "gzip": (gzip.compress(LINE.encode()), r"is a gzip file; unpack it"),
    "bzip2": (bz2.compress(LINE.encode()), r"is a bzip2 file"),
    "xz": (lzma.compress(LINE.encode()), r"is a xz file"),
    "zip": (zipped(LINE), r"is a zip file"),
    "Parquet": (b"PAR1....", r"is a Parquet file"),
    "nothing": (b"", r"is empty; expected JSON Lines"),
    "blank lines": (b"\xef\xbb\xbf\n \n", r"is empty"),
    "an empty array": (b"[]", r"is an empty JSON array"),
    "a broken array": (b'[{"a": 1}\n {"a": 2}]', r"JSON array in .* breaks off after item 1 \(line 1\)"),
    "text after an array": (b"[{}]\n[{}]", r"goes on after its JSON array of 1 items"),
    "an array nested deep": (
        b"[" * 100_000,
        r"^Item 1 \(line 1\) of the JSON array in .*: its JSON is nested too deep",
    ),
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(("content", "reason"), FILES.values(), ids=FILES)
def test_a_file_in_another_form_is_refused_in_a_sentence(
    content: bytes, reason: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataDamaged, match=reason):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_a_directory_is_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(DataNotFound, match=r"train\.jsonl cannot be read: Is a directory"):
        read(tmp_path / "train.jsonl")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_either_line_end_are_read(mark: bytes, line_end: str, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(mark + line_end.join([LINE, "", LINE, ""]).encode())
    assert [each["question"] for each in GSM8KDataset("train", data_dir=tmp_path)] == ["é?", "é?"]


def test_an_array_gives_its_items_with_their_lines_and_goes_past_an_unusable_one(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"a": 1},\n\n 7, {"a": 1,\n "a": 2}, {"b": "\\ud800"},\n{"c": 3}\n]')
    records = read_records(path)
    assert [record.place for record in records] == [
        "Item 1 (line 1)",
        "Item 2 (line 3)",
        "Item 3 (line 3)",
        "Item 4 (line 4)",
        "Item 5 (line 5)",
    ]
    assert [record.value for record in records] == [{"a": 1}, None, None, None, {"c": 3}]
    faults = [record.fault or "" for record in records[1:4]]
    assert ["got a number" in faults[0], "'a' stands twice" in faults[1], "surrogate" in faults[2]] == [True] * 3


FAULTS = {
    "{": "not JSON",
    "[1]": "got a list",
    '"x"': "got a string",
    "null": "got null",
    "true": "got a truth value",
    "3": "got a number",
    "{} {}": "not JSON",
    "{'a': 1}": "not JSON",
    '{"a": NaN}': "NaN is no JSON number",
    '{"a": [-Infinity]}': "-Infinity is no JSON number",
    '{"a": {"b": 1, "b": 2}}': "the key 'b' stands twice",
    '{"a": "\\udfff"}': "half a surrogate pair",
    '{"a": "' + "\t" + '"}': "not JSON",
    '{"a": ' + "9" * 5_000 + "}": "cannot be read",
    '{"a":' * 20_000: "nested too deep",
}


@pytest.mark.parametrize(("line", "fault"), FAULTS.items(), ids=lambda text: text[:20])
def test_a_line_that_says_nothing_or_two_things_has_a_fault_and_no_value(line: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("{}\n" + line + "\n{}\n", encoding="utf-8")
    records = read_records(path)
    assert [record.place for record in records] == ["Line 1", "Line 2", "Line 3"]
    assert records[1].value is None
    assert fault in (records[1].fault or "")
    assert (records[0].fault, records[2].fault) == (None, None)
    with pytest.raises(DataDamaged, match=r"^Line 1 of .* is not a problem: expected a JSON object with the texts"):
        GSM8KDataset("train", data_dir=tmp_path)


def test_whole_surrogate_pairs_are_characters(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_records(tmp_path / "train.jsonl")[0].value == {"a": "😀"}


def test_a_record_without_end_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "MAX_RECORD_CHARS", 1_000)
    (tmp_path / "train.jsonl").write_text('{}\n{"a": "' + "x" * 1_000 + '"}')
    assert "it has 1009 characters; a record has at most 1000" in (
        read_records(tmp_path / "train.jsonl")[1].fault or ""
    )


def test_an_answer_that_holds_nothing_to_grade_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(LINE + '\n{"question": "Q?", "answer": "\\u200b"}')
    with pytest.raises(DataDamaged, match=r"^Line 2 of .*train\.jsonl is not a problem: The ground truth is empty"):
        GSM8KDataset("train", data_dir=tmp_path)
