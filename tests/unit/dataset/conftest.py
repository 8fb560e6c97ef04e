"""Data sets on disk, and a tokenizer for conversations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def gsm8k_dir() -> Path:
    """The directory of the real GSM8K."""
    beside_checkout = Path(__file__).parents[3].parent / "shared" / "data" / "gsm8k"
    directory = Path(os.environ.get("EZTINKER_GSM8K_DIR", beside_checkout))
    if not (directory / "test.jsonl").is_file():
        pytest.skip("GSM8K is not here; set EZTINKER_GSM8K_DIR to a directory with train.jsonl and test.jsonl")
    return directory


@pytest.fixture
def small_dir(tmp_path: Path) -> Path:
    """A directory of three problems in the form of GSM8K."""
    rows = [{"question": f"What is {n} + 1?", "answer": f"{n}+1 = {n + 1}\n#### {n + 1:,}"} for n in (1, 2, 999)]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return tmp_path


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, with a chat template."""
    from tests.tiny_tokenizers import CHATML, byte_tokenizer  # transformers, which most tests here do without

    return byte_tokenizer(CHATML)
