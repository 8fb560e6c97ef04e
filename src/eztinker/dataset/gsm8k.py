"""GSM8K: 8,792 grade-school word problems that take two to eight steps (Cobbe et al. 2021, arXiv:2110.14168)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from eztinker.dataset.argument_checks import check_max_samples, check_split
from eztinker.dataset.grading import extract_answer
from eztinker.dataset.json_records import JsonRecord, read_records
from eztinker.dataset.math_dataset import MathDataset, MathExample
from eztinker.errors import DataDamaged, DataNotFound, InvalidInput

DATA_DIR_VARIABLE = "EZTINKER_GSM8K_DIR"
HUB_REPOSITORY = "openai/gsm8k"
_HUB_FILE = "main/{split}-00000-of-00001.parquet"
_WAYS_TO_GET_IT = (
    f"Either set {DATA_DIR_VARIABLE} (or data_dir=) to a directory with train.jsonl and test.jsonl "
    "(github.com/openai/grade-school-math has both), or install pyarrow (pip install 'eztinker[hub]') and be "
    "online once, so that the Hugging Face hub can be asked; ArithmeticDataset needs no download"
)


class GSM8KDataset(MathDataset):
    """One split of GSM8K: 7,473 problems to train on or 1,319 to test with.

    Args:
        split: "train" or "test".
        max_samples: number of problems to take, from the first; None, or more than there are, takes all.
        use_math_verify: False grades by exact numbers alone.
        data_dir: a directory with train.jsonl and test.jsonl. By default the one EZTINKER_GSM8K_DIR names, else
            the hub's copy, which is downloaded once and cached.
    Raises:
        DataNotFound: the data is not on this machine, and the hub cannot be reached.
        DataDamaged: a line is invalid.
    """

    few_shot_examples: ClassVar[tuple[MathExample, ...]] = (
        MathExample(
            question="A baker makes 4 trays of 12 rolls and sells 30 of the rolls. How many rolls are left?",
            ground_truth="The baker makes 4*12 = 48 rolls.\nAfter the sale 48-30 = 18 rolls are left.\n#### 18",
            extracted_answer="18",
        ),
        MathExample(
            question="Omar reads 15 pages a day for 6 days. His book has 120 pages. How many pages are still unread?",
            ground_truth="Omar reads 15*6 = 90 pages.\nThat leaves 120-90 = 30 pages unread.\n#### 30",
            extracted_answer="30",
        ),
        MathExample(
            question="Three friends share a bill of $54 equally. One of them adds a tip of $5. How much does she pay?",
            ground_truth="Each friend's share is 54/3 = $18.\nWith the tip she pays 18+5 = $23.\n#### 23",
            extracted_answer="23",
        ),
    )

    def __init__(
        self,
        split: str = "train",
        max_samples: int | None = None,
        use_math_verify: bool = True,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        check_split(split)
        check_max_samples(max_samples)
        directory = data_dir or os.environ.get(DATA_DIR_VARIABLE)
        source = Path(directory) / f"{split}.jsonl" if directory else HUB_REPOSITORY
        records = _records_in(source) if isinstance(source, Path) else _records_on_hub(split)
        examples = [_example(record, source) for record in records[:max_samples]]
        super().__init__(examples, use_math_verify=use_math_verify)


def _example(record: JsonRecord, source: str | Path) -> MathExample:
    row = record.value
    texts = [row.get(name) for name in ("question", "answer")] if record.fault is None else []
    fault = record.fault or "expected a JSON object with the texts question and answer"
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataDamaged(f"{record.place} of {source} is not a problem: {fault}")
    try:
        answer = extract_answer(row["answer"])
    except InvalidInput as error:
        raise DataDamaged(f"{record.place} of {source} is not a problem: {error.message}") from error
    return MathExample(question=row["question"], ground_truth=row["answer"], extracted_answer=answer)


def _records_in(path: Path) -> list[JsonRecord]:
    try:
        return read_records(path)
    except DataNotFound as error:
        raise DataNotFound(f"GSM8K is not here: {error.message}. {_WAYS_TO_GET_IT}") from error


def _records_on_hub(split: str) -> list[JsonRecord]:
    """Records of the hub's copy, which is downloaded once, with a progress bar, and cached."""
    try:
        from huggingface_hub import hf_hub_download
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]

        path = hf_hub_download(HUB_REPOSITORY, _HUB_FILE.format(split=split), repo_type="dataset")
    except ImportError as error:
        raise DataNotFound(f"Reading GSM8K from the hub needs {error.name}. {_WAYS_TO_GET_IT}") from error
    except (OSError, ValueError) as error:
        raise DataNotFound(f"The Hugging Face hub did not give {HUB_REPOSITORY}. {_WAYS_TO_GET_IT}") from error
    rows = parquet.read_table(path).to_pylist()
    return [JsonRecord(f"Row {number}", row) for number, row in enumerate(rows, start=1)]
