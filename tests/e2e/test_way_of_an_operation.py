"""How much of the code one operation meets: a page of a newcomer's reading, not a book."""

from __future__ import annotations

from pathlib import Path

from tests.trace_operation import trace

MOST_FILES, MOST_RECORDS = 50, 9
MUST_SEE_IT = {"api/routes/training.py", "oplog/operations.py", "engine/trainer.py", "api/routes/futures.py"}
MUST_CARRY_IT = {"ForwardBackwardRequest", "Operation", "OperationRow", "ForwardBackward", "ForwardBackwardResult"}


def test_a_forward_backward_meets_few_files_and_few_records(tiny_model_dir: Path, tmp_path: Path):
    way = trace(tiny_model_dir, tmp_path)
    assert set(way.files) >= MUST_SEE_IT, "the trace has missed a part of the way"
    assert set(way.records) >= MUST_CARRY_IT, "the trace has missed a part of the way"
    assert len(way.files) <= MOST_FILES, way.files
    assert len(way.records) <= MOST_RECORDS, way.records
    page = Path("docs/one-request.md").read_text(encoding="utf-8")
    assert [record for record in way.records if f"`{record}`" not in page] == []
