from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def gsm8k_dir() -> Path:
    """The directory of the real GSM8K."""
    beside_checkout = Path(__file__).parents[3].parent / "shared" / "data" / "gsm8k"
    directory = Path(os.environ.get("EZTINKER_GSM8K_DIR", beside_checkout))
    if not (directory / "test.jsonl").is_file():
        pytest.skip("GSM8K is not here; set EZTINKER_GSM8K_DIR to a directory with train.jsonl and test.jsonl")
    return directory
