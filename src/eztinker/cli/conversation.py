"""A conversation with a model: turns in the model's chat template, and answers streamed as text."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from eztinker.cli.targets import Target
from eztinker.errors import InvalidInput, SessionEnded
from eztinker.rest_client import RestClient

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Conversation:
    """The turns so far, and the sampler that answers them."""

    def __init__(
        self,
        client: RestClient,
        target: Target,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context_length: int,
        system: str | None,
        max_tokens: int,
        temperature: float,
        seed: int | None,
    ) -> None:
        """Start a conversation without turns.

        Args:
            context_length: most tokens of prompt and answer together.
            system: system turn, if any.
            max_tokens: most tokens of an answer.
            seed: seed of the first answer; None draws one for each answer.
        Raises:
            InvalidInput: the model has no chat template.
        """
        if not tokenizer.chat_template:
            raise InvalidInput(
                f"{target.base_model} has no chat template, so it continues text rather than answers; "
                'use: eztinker sample TARGET "Question: ... Answer:"'
            )
        self._client = client
        self._target = target
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._system = system
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._seed = seed
        self._turns: list[dict[str, str]] = []
        self._session_id = ""
        self._sampler_id = ""
        self._num_asked = 0
        self.reset()

    def reset(self) -> None:
        """Forget all turns but the system turn."""
        self._turns = [{"role": "system", "content": self._system}] if self._system else []

    def answer(self, text: str) -> Generator[str, None, None]:
        """Stream the model's answer to the user's next turn, in pieces of whole characters.

        Closing the iterator stops the answer; the part drawn so far stays in the conversation.

        Raises:
            InvalidInput: the conversation has become too long; the turn is not kept.
        """
        prompt = self._prompt([*self._turns, {"role": "user", "content": text}])
        max_tokens = min(self._max_tokens, self._context_length - len(prompt))
        if max_tokens < 1:
            raise InvalidInput(
                f"The conversation has {len(prompt)} tokens and the model takes {self._context_length}; "
                "/reset begins a new one"
            )
        said: list[str] = []
        try:
            for piece in self._text(prompt, max_tokens):
                said.append(piece)
                yield piece
        finally:
            if said:
                self._turns += [{"role": "user", "content": text}, {"role": "assistant", "content": "".join(said)}]

    def close(self) -> None:
        if self._session_id:
            self._client.end_session(self._session_id)

    def _prompt(self, turns: list[dict[str, str]]) -> list[int]:
        text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self._tokenizer.encode(str(text), add_special_tokens=False)

    def _text(self, prompt: list[int], max_tokens: int) -> Generator[str, None, None]:
        """Text of the answer up to its first special token; bytes of an incomplete character are held back."""
        from tokenizers.decoders import DecodeStream

        special = {id_ for id_, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        decoder = DecodeStream()
        backend: Any = self._tokenizer.backend_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
        with closing(self._tokens(prompt, max_tokens)) as tokens:
            for token in tokens:
                if token in special:
                    return
                if piece := decoder.step(backend, token):
                    yield piece

    def _tokens(self, prompt: list[int], max_tokens: int) -> Generator[int, None, None]:
        params = {"max_tokens": max_tokens, "temperature": self._temperature, "seed": self._next_seed()}
        body = {"prompt": {"chunks": [{"type": "encoded_text", "tokens": prompt}]}, "sampling_params": params}
        with closing(self._pieces(body)) as pieces:
            for piece in pieces:
                yield from piece["tokens"]

    def _pieces(self, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Lines of one streamed sample. If the session has expired in the meantime, a new one is opened."""
        if not self._sampler_id:
            self._open()
        try:
            yield from self._client.stream_sample({**body, **self._numbered()})
        except SessionEnded:
            self._open()
            yield from self._client.stream_sample({**body, **self._numbered()})

    def _open(self) -> None:
        self._session_id = self._client.new_session("chat")
        path, run = self._target.path, self._target.run
        if path is not None and run is not None:
            self._sampler_id = self._client.new_sampler_of_training(self._session_id, path, run)
        else:
            base_model = self._target.base_model if path is None else None
            self._sampler_id = self._client.new_sampler(self._session_id, base_model=base_model, model_path=path)

    def _numbered(self) -> dict[str, Any]:
        self._num_asked += 1
        return {"sampling_session_id": self._sampler_id, "seq_id": self._num_asked}

    def _next_seed(self) -> int:
        """Seed of the next answer, different for each one, but the same for equal conversations."""
        if self._seed is None:
            return secrets.randbits(31)
        return (self._seed + self._num_asked) % 2**31
