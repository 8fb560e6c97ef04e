"""Checks of the arguments that data sets share."""

from __future__ import annotations

from eztinker.errors import InvalidInput


def check_max_samples(max_samples: int | None) -> None:
    """Raise InvalidInput for a negative count; None stands for all."""
    if max_samples is not None and max_samples < 0:
        raise InvalidInput(f"max_samples must be 0 or more, or None for all, got {max_samples}", field="max_samples")


def check_split(split: str) -> None:
    """Raise InvalidInput for anything but "train" and "test"."""
    if split not in ("train", "test"):
        raise InvalidInput(f"split must be 'train' or 'test', got {split!r}", field="split")


def check_text(text: str, name: str) -> None:
    """Raise InvalidInput for half a surrogate pair, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} has half a surrogate pair at character {error.start + 1}", field=name) from error
