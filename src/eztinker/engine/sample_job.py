"""A sampling request in the sampler, and each of its samples while it is drawn."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer

from eztinker.engine.prefill import Prompt, ReadPrompt
from eztinker.engine.stopping import StopRule
from eztinker.types import SampledSequence, SampleRequest, SampleResult, StopReason, TopkLogprobs


@dataclass(slots=True, eq=False)
class SampleJob:
    """One sampling request. It has ended when all its samples have, or when it has an `error`."""

    op_id: str
    prompt: Prompt
    share: str = ""
    """Share whose turns the job takes."""
    sequences: dict[int, SampledSequence] = field(default_factory=dict)
    """Finished samples by index."""
    read: ReadPrompt | None = None
    error: Exception | None = None
    is_streamed: bool = False
    num_reported: int = 0
    """Number of the first sample's tokens that have been streamed."""

    @property
    def request(self) -> SampleRequest:
        return self.prompt.request

    @property
    def is_done(self) -> bool:
        return len(self.sequences) == self.request.num_samples

    @property
    def max_length(self) -> int:
        """Most tokens of a sample, its prompt included."""
        return len(self.request.prompt) + self.request.params.max_tokens

    def restart(self) -> None:
        """Forget all that has been read and drawn."""
        self.sequences.clear()
        self.read = None

    def rows(self, tokenizer: Tokenizer) -> Iterator[SampleRow]:
        """Rows for the job's samples, with nothing drawn yet."""
        stop_rule = StopRule(self.request.params, tokenizer)
        seed = self.request.params.seed
        root = secrets.randbits(64) if seed is None else seed % 2**64
        for index in range(self.request.num_samples):
            yield SampleRow(self, index, np.random.default_rng([root, index]), stop_rule)

    @property
    def value(self) -> object:
        """The result, as of every job that has ended without an error."""
        return self.result()

    def result(self) -> SampleResult:
        assert self.read is not None
        scores = self.read.scores
        return SampleResult(
            sequences=[self.sequences[index] for index in range(self.request.num_samples)],
            prompt_logprobs=scores.prompt_logprobs,
            topk_prompt_logprobs=scores.topk_prompt_logprobs,
            target_prompt_logprobs=scores.target_prompt_logprobs,
            prompt_alt_tokens=scores.prompt_alt_tokens,
            prompt_cache_hit_tokens=self.read.num_cached_tokens,
        )


@dataclass(slots=True, eq=False)
class SampleRow:
    """One sample that is being drawn; its keys and values are in the KV cache's row of the same index."""

    job: SampleJob
    index: int
    rng: np.random.Generator
    stop_rule: StopRule
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    topk: list[TopkLogprobs] = field(default_factory=list)
    """Top-k logprobs, one row per token, if the request wants them."""
    number: int = 0
    """Number of samples that joined the batch before this one."""

    @property
    def share(self) -> str:
        return self.job.share

    @property
    def max_length(self) -> int:
        return self.job.max_length

    def take(self, token: int, logprob: float) -> StopReason | None:
        self.tokens.append(token)
        self.logprobs.append(logprob)
        return self.stop_rule.reason_to_stop(self.tokens)

    def finish(self, reason: StopReason) -> None:
        self.job.sequences[self.index] = SampledSequence(
            tokens=np.array(self.tokens, dtype=np.int32),
            logprobs=np.array(self.logprobs, dtype=np.float32),
            stop_reason=reason,
            topk_logprobs=self._topk_table() if self.topk else None,
        )

    def _topk_table(self) -> TopkLogprobs:
        return TopkLogprobs(
            token_ids=np.concatenate([table.token_ids for table in self.topk]),
            logprobs=np.concatenate([table.logprobs for table in self.topk]),
        )
