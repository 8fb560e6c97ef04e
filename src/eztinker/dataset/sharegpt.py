"""Conversations as supervised examples: token ids, and loss weights that are 1 on the assistant's turns."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, overload

from rich.progress import track

from eztinker.dataset.argument_checks import check_max_samples, check_text
from eztinker.dataset.chat_messages import read_conversation
from eztinker.dataset.chat_tokens import encode_conversation
from eztinker.dataset.json_records import JsonRecord, read_records
from eztinker.errors import DataDamaged, InvalidInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatExample(TypedDict):
    input_ids: list[int]
    """Token ids of the conversation, at most `max_length`."""
    loss_weights: list[float]
    """Weight of each token in the loss: 1.0 on the assistant's turns, end-of-turn tokens included; 0.0 elsewhere."""


class ShareGPTDataset(Sequence[ChatExample]):
    """Conversations from a JSON array or a JSONL file.

    A conversation is an object with `conversations` or `messages`: turns in the `from`/`value` or the `role`/`content`
    dialect, where content may be a list of text parts. `system` beside them is its system turn. `weight`, `train` or
    `loss` takes the loss off an assistant's turn. A conversation with any other field, such as `tools` or `tool_calls`,
    is invalid, so that nothing to be learned is lost, unless the field only describes its origin.

    A conversation is one example, or one per learned turn if the chat template renders earlier turns differently from
    the last one. Examples are truncated to `max_length` tokens; a conversation with no token of the assistant left is
    invalid.

    Args:
        file_path: the file, UTF-8; its first character, not its name, tells JSON from JSONL.
        tokenizer: a Hugging Face tokenizer. Its chat template is used; without one, turns become "User: ..." and
            "Assistant: ..." lines after the tokenizer's start token, and its end-of-sequence token ends the
            assistant's.
        max_length: most tokens of an example.
        system_prompt: system turn for conversations that have none.
        strict: raise at the first invalid conversation. False skips it and counts it in `num_skipped`.
        max_samples: number of conversations to take; None takes all.
        shuffle: draw the order from `seed` before taking `max_samples`.
        seed: seed of the order.
    Raises:
        DataNotFound: there is no such file.
        DataDamaged: a conversation is invalid, named by its line (JSONL) or place (JSON), or the file is neither.
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
        check_text(system_prompt or "", "system_prompt")
        self._tokenizer, self._max_length, self._system_prompt = tokenizer, max_length, system_prompt
        self._examples: list[ChatExample] = []
        self.num_skipped = 0
        """Number of invalid conversations that `strict=False` skipped."""
        records = read_records(Path(file_path))
        if shuffle:
            random.Random(seed).shuffle(records)
        num_taken = 0
        for record in track(records, "Reading conversations", transient=True, disable=not sys.stderr.isatty()):
            if num_taken == max_samples:
                break
            try:
                self._examples += self._examples_of(record)
                num_taken += 1
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

    def _examples_of(self, record: JsonRecord) -> list[ChatExample]:
        if record.fault:
            raise InvalidInput(record.fault)
        messages = read_conversation(record.value, self._system_prompt)
        examples = [
            ChatExample(
                input_ids=text.input_ids[: self._max_length], loss_weights=text.loss_weights[: self._max_length]
            )
            for text in encode_conversation(messages, self._tokenizer)
        ]
        learned = [example for example in examples if any(example["loss_weights"])]
        if not learned:
            raise InvalidInput(
                f"the assistant says nothing to be learned within the first {self._max_length} tokens; "
                "raise max_length, or pass strict=False to leave such conversations out"
            )
        return learned
