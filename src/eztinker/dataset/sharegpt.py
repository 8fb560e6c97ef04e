"""Conversations as supervised examples: token ids, and a loss weight per token that is 1 on the assistant's turns."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, overload

from rich.progress import track

from eztinker.dataset.arguments import check_max_samples
from eztinker.dataset.chat_tokens import Message, Role, encode_conversation
from eztinker.errors import DataDamaged, DataNotFound, InvalidInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}


class ChatExample(TypedDict):
    input_ids: list[int]
    """N tokens of the conversation, at most `max_length`."""
    loss_weights: list[float]
    """N: 1.0 on what the assistant says, its end-of-turn token included; 0.0 elsewhere. Aligned with `input_ids`."""


class ShareGPTDataset(Sequence[ChatExample]):
    """Conversations from a JSON array or a JSONL file.

    A conversation is an object with `conversations` or `messages`: turns in the `from`/`value` or the `role`/`content`
    dialect. A conversation longer than `max_length` tokens loses its end; one that loses all of the assistant's
    words by it is a bad one.

    Args:
        file_path: the file; what it starts with, not its name, tells JSON from JSONL.
        tokenizer: a Hugging Face tokenizer. Its chat template is used; without one, turns are set as "User: ..." and
            "Assistant: ..." lines, and the tokenizer's end-of-sequence token ends the assistant's.
        system_prompt: a system turn for conversations that bring none.
        strict: raise at the first bad conversation. False leaves it out and counts it in `num_skipped`.
        max_samples: stop after so many conversations; None takes all.
        shuffle: draw the order from `seed`, before `max_samples` counts.
    Raises:
        DataNotFound: there is no such file.
        DataDamaged: a bad conversation, named by its line (JSONL) or place (JSON), or a file that is neither.
    """

    def __init__(
        self,
        file_path: str | os.PathLike[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 2048,
        system_prompt: str | None = None,
        strict: bool = True,
        max_samples: int | None = None,
        shuffle: bool = False,
        seed: int = 42,
    ) -> None:
        if max_length < 1:
            raise InvalidInput(f"max_length must be at least 1 token, got {max_length}", field="max_length")
        check_max_samples(max_samples)
        self._tokenizer, self._max_length, self._system_prompt = tokenizer, max_length, system_prompt
        self._examples: list[ChatExample] = []
        self.num_skipped = 0
        """Bad conversations that `strict=False` left out."""
        records = _records(Path(file_path))
        if shuffle:
            random.Random(seed).shuffle(records)
        for record in track(records, "Reading conversations", transient=True, disable=not sys.stderr.isatty()):
            if max_samples is not None and len(self._examples) >= max_samples:
                break
            try:
                self._examples.append(self._example(record.value))
            except InvalidInput as error:
                if strict:
                    raise DataDamaged(f"{record.place} of {file_path}: {error.message}") from error
                self.num_skipped += 1

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> ChatExample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ChatExample]: ...
    def __getitem__(self, index: int | slice) -> ChatExample | Sequence[ChatExample]:
        return self._examples[index]

    def _example(self, record: Any) -> ChatExample:
        messages = _messages(record)
        if self._system_prompt is not None and messages[0]["role"] != "system":
            messages = [Message(role="system", content=self._system_prompt), *messages]
        input_ids, loss_weights = encode_conversation(messages, self._tokenizer)
        example = ChatExample(input_ids=input_ids[: self._max_length], loss_weights=loss_weights[: self._max_length])
        if not any(example["loss_weights"]):
            raise InvalidInput(
                f"the assistant says nothing within the first {self._max_length} tokens; "
                "raise max_length, or pass strict=False to leave such conversations out"
            )
        return example


@dataclass(frozen=True, slots=True)
class _Record:
    place: str
    """Where it stands in the file, for error messages: "Line 3" or "Item 3"."""
    value: Any
    """As decoded; None where the line is not JSON."""


def _records(path: Path) -> list[_Record]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataNotFound(f"Conversations cannot be read from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataDamaged(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if text.lstrip().startswith("["):
        return [_Record(f"Item {number}", value) for number, value in enumerate(_json_array(path, text), start=1)]
    # Not splitlines: JSON strings may hold line separators such as U+2028.
    lines = enumerate(text.split("\n"), start=1)
    return [_Record(f"Line {number}", _json_or_none(line)) for number, line in lines if line.strip()]


def _json_array(path: Path, text: str) -> list[Any]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataDamaged(f"{path} starts like a JSON array but is not one: {error}") from error


def _json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _messages(record: Any) -> list[Message]:
    """The turns of one conversation, in one dialect. Raises InvalidInput with what is wrong with it."""
    turns = record.get("conversations", record.get("messages")) if isinstance(record, dict) else None
    if not isinstance(turns, list) or not turns:
        raise InvalidInput("expected a JSON object with a list of turns under 'conversations' or 'messages'")
    messages = [_message(turn, number) for number, turn in enumerate(turns, start=1)]
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise InvalidInput("the conversation has no assistant turn, so there is nothing to learn")
    if "user" not in roles[: roles.index("assistant")]:
        raise InvalidInput("the assistant speaks before any user turn; start the conversation with the user")
    return messages


def _message(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise InvalidInput(f"turn {number} is not an object with from and value, or role and content")
    said_by, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    role = _ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        raise InvalidInput(f"turn {number} is from {said_by!r}; expected one of {', '.join(_ROLES)}")
    if not isinstance(content, str) or not content.strip():
        raise InvalidInput(f"turn {number} has no text")
    return Message(role=role, content=content)
