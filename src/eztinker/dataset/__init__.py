"""Data sets and grading for training loops. Names load on first use, so importing the package costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eztinker.dataset.arithmetic import ArithmeticDataset
    from eztinker.dataset.grading import Grade, evaluate_answer, evaluate_answers
    from eztinker.dataset.gsm8k import GSM8KDataset
    from eztinker.dataset.math_dataset import MathDataset, MathExample
    from eztinker.dataset.sharegpt import ChatExample, ShareGPTDataset

__all__ = [
    "ArithmeticDataset",
    "ChatExample",
    "GSM8KDataset",
    "Grade",
    "MathDataset",
    "MathExample",
    "ShareGPTDataset",
    "evaluate_answer",
    "evaluate_answers",
]

_MODULES = {
    "ArithmeticDataset": "arithmetic",
    "ChatExample": "sharegpt",
    "GSM8KDataset": "gsm8k",
    "Grade": "grading",
    "MathDataset": "math_dataset",
    "MathExample": "math_dataset",
    "ShareGPTDataset": "sharegpt",
    "evaluate_answer": "grading",
    "evaluate_answers": "grading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
