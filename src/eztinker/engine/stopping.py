"""Stop conditions of a completion: a stop token, a stop string, or the greatest length."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from eztinker.types import SamplingParams, StopReason


class StopRule:
    """Decides when completions with one set of parameters end."""

    def __init__(self, params: SamplingParams, tokenizer: Tokenizer) -> None:
        self._params = params
        self._stop_token_ids = frozenset(params.stop_token_ids)
        self._tokenizer = tokenizer
        # Every token adds at least one byte, so a stop string that ends in the newest token began within this many.
        # The tokens before give the decoder its context: some tokenizers drop a leading space.
        self._tail = max((len(text.encode()) for text in params.stop_strings), default=0) + 4

    def reason_to_stop(self, tokens: Sequence[int]) -> StopReason | None:
        """The reason why the completion ends with its newest token; None if it goes on."""
        if tokens[-1] in self._stop_token_ids:
            return "stop"
        if self._params.stop_strings:
            text = self._tokenizer.decode(list(tokens[-self._tail :]), skip_special_tokens=False)
            if any(stop in text for stop in self._params.stop_strings):
                return "stop"
        return "length" if len(tokens) >= self._params.max_tokens else None
