"""Continuous batching: requests join the running batch at any step, and leave it token by token.

A prompt is read once for all its samples, and what it shares with earlier prompts is not read again. Every sample
draws from a random generator of its own, so its tokens do not depend on its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from eztinker.engine.draw import draw, likeliest
from eztinker.engine.prefill import PromptReader
from eztinker.engine.sample_job import SampleJob, SampleRow
from eztinker.model.decoder import Decoder
from eztinker.model.lora import adapter_rows
from eztinker.types import StopReason, TopkLogprobs

MAX_PREFILL_TOKENS = 2048
"""Tokens read in one pass: more would make running samples wait, and gain nothing."""


class Sampler:
    """Draws completions from one base model and any number of its adapters, `max_batch_size` at a time."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        *,
        max_batch_size: int,
        kv_cache_bytes: int = 4 << 30,
        prefix_cache_bytes: int = 256 << 20,
    ) -> None:
        """`kv_cache_bytes` bounds the running batch: every place in it is as long as its longest sample may get."""
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._num_tokens = min(tokenizer.get_vocab_size(with_added_tokens=True), decoder.config.vocab_size)
        self._max_batch_size = max_batch_size
        self._max_batch_tokens = kv_cache_bytes // decoder.kv_bytes_per_token
        self._reader = PromptReader(decoder, prefix_cache_bytes, num_drawable=self._num_tokens)
        self._jobs: dict[str, SampleJob] = {}
        """Every job that is not done, wherever it is."""
        self._waiting: deque[SampleJob] = deque()
        self._set_aside: deque[list[SampleJob]] = deque()
        """After a step that broke: groups that are run one after the other, to find the job that breaks it."""
        self._starting: deque[SampleRow] = deque()
        """Samples of prompts that have been read, waiting for a place in the batch."""
        self._rows: list[SampleRow] = []
        self._cache = decoder.new_cache()

    @property
    def is_idle(self) -> bool:
        return not self._jobs

    @property
    def num_running(self) -> int:
        return len(self._rows)

    @property
    def num_waiting(self) -> int:
        num_unread = len(self._waiting) + sum(len(group) for group in self._set_aside)
        return num_unread + len({id(row.job) for row in self._starting})

    def news(self) -> Iterator[tuple[SampleJob, list[int]]]:
        """Streamed jobs that run, each with the tokens of its first sample that are new since this was last asked."""
        for row in self._rows:
            if row.job.is_streamed and row.index == 0 and len(row.tokens) > row.job.num_reported:
                yield row.job, row.tokens[row.job.num_reported :]
                row.job.num_reported = len(row.tokens)

    def submit(self, job: SampleJob) -> None:
        self._jobs[job.op_id] = job
        if self._set_aside:
            self._set_aside[-1].append(job)
        else:
            self._waiting.append(job)

    @torch.inference_mode()
    def cancel(self, op_id: str) -> bool:
        """Drop a job, wherever it is; False if it is not here."""
        if self._jobs.pop(op_id, None) is None:
            return False
        self._waiting = deque(job for job in self._waiting if job.op_id != op_id)
        for group in self._set_aside:
            group[:] = [job for job in group if job.op_id != op_id]
        self._starting = deque(row for row in self._starting if row.job.op_id != op_id)
        for place in reversed([place for place, row in enumerate(self._rows) if row.job.op_id == op_id]):
            self._remove(place)
        return True

    @torch.inference_mode()
    def step(self) -> list[SampleJob]:
        """Read waiting prompts, fill the batch, add one token to every sample in it; gives the jobs that are over.

        When it breaks, only the job at fault fails: the others begin anew, and none is lost.
        """
        while self._set_aside and not (self._waiting or self._starting or self._rows):
            self._waiting.extend(self._set_aside.popleft())
        try:
            finished = self._admit()
            if self._rows:
                finished += self._decode()
        except Exception as error:
            return self._find_culprit(error)
        done = [job for job in dict.fromkeys(finished) if job.is_done]
        for job in done:
            del self._jobs[job.op_id]
        return done

    def _find_culprit(self, error: Exception) -> list[SampleJob]:
        """Run the jobs behind a broken step again, in halves, until one breaks alone; that one is over."""
        idle = {job.op_id for group in (self._waiting, *self._set_aside) for job in group}
        suspects = [job for job in self._jobs.values() if job.op_id not in idle]
        if not suspects:
            raise error
        self._starting.clear()
        self._rows.clear()
        self._cache = self._decoder.new_cache()
        if len(suspects) == 1:
            suspects[0].error = error
            del self._jobs[suspects[0].op_id]
            return suspects
        for job in suspects:
            job.restart()
        middle = len(suspects) // 2
        self._set_aside.extendleft([list(self._waiting), suspects[middle:], suspects[:middle]])
        self._waiting.clear()
        return []

    def _admit(self) -> list[SampleJob]:
        """Fill free places; prompts are read only when the samples of earlier ones have all found a place."""
        finished: list[SampleJob] = []
        while self._starting or self._waiting:
            if not self._starting:
                self._read_prompts()
            joining = self._take_fitting()
            if not joining:
                break
            finished += self._join(joining)
        return finished

    def _take_fitting(self) -> list[SampleRow]:
        """As many of the next samples as there are places and memory for; a sample alone always fits."""
        joining: list[SampleRow] = []
        longest = max((row.max_length for row in self._rows), default=0)
        while self._starting and len(self._rows) + len(joining) < self._max_batch_size:
            longest = max(longest, self._starting[0].max_length)
            num_rows = len(self._rows) + len(joining) + 1
            if num_rows > 1 and num_rows * longest > self._max_batch_tokens:
                break
            joining.append(self._starting.popleft())
        return joining

    def _read_prompts(self) -> None:
        """Read the next prompts, within the token budget. More than there are places: one large pass costs less."""
        room = MAX_PREFILL_TOKENS
        jobs: list[SampleJob] = []
        while self._waiting and (not jobs or room >= len(self._waiting[0].prompt.tokens)):
            jobs.append(self._waiting.popleft())
            room -= len(jobs[-1].prompt.tokens)
        for job, read in zip(jobs, self._reader.read([job.prompt for job in jobs]), strict=True):
            job.read = read
            self._starting.extend(job.rows(self._tokenizer))

    def _join(self, rows: Sequence[SampleRow]) -> list[SampleJob]:
        """Draw the first token of each new sample from its prompt's logits; those that go on enter the batch."""
        reads = [row.job.read for row in rows]
        logits = torch.stack([read.next_logits for read in reads if read is not None])
        finished = []
        for row, reason in zip(rows, self._draw(logits, rows), strict=True):
            if reason is not None:
                row.finish(reason)
                finished.append(row.job)
            else:
                assert row.job.read is not None
                self._cache.add_row(row.job.read.block)
                self._rows.append(row)
        return finished

    def _decode(self) -> list[SampleJob]:
        tokens = torch.tensor([row.tokens[-1] for row in self._rows], device=self._decoder.device)
        adapters = adapter_rows([row.job.prompt.adapter for row in self._rows], self._decoder.device)
        hidden = self._decoder.next_hidden_states(tokens, self._cache, adapters)
        logits = self._decoder.logits(hidden, adapters)
        self._cache.advance(len(self._rows))
        reasons = self._draw(logits, self._rows)
        finished = []
        for place in reversed(range(len(reasons))):
            reason = reasons[place]
            if reason is not None:
                self._rows[place].finish(reason)
                finished.append(self._rows[place].job)
                self._remove(place)
        return finished

    def _draw(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[StopReason | None]:
        self._note_likeliest(logits, rows)
        params = [row.job.request.params for row in rows]
        tokens, logprobs = draw(logits, params, [row.rng.random() for row in rows], self._num_tokens)
        return [row.take(token, logprob) for row, token, logprob in zip(rows, tokens, logprobs, strict=True)]

    def _note_likeliest(self, logits: Tensor, rows: Sequence[SampleRow]) -> None:
        """Keep the top-k of the coming token for the samples that want it."""
        wanting = [place for place, row in enumerate(rows) if row.job.request.topk_sample_logprobs]
        if not wanting:
            return
        requests = [rows[place].job.request for place in wanting]
        widest = max(request.topk_sample_logprobs for request in requests)
        table = likeliest(logits[wanting], [request.params for request in requests], widest)
        for index, (place, request) in enumerate(zip(wanting, requests, strict=True)):
            cells = slice(index, index + 1), slice(request.topk_sample_logprobs)
            rows[place].topk.append(TopkLogprobs(token_ids=table.token_ids[cells], logprobs=table.logprobs[cells]))

    def _remove(self, place: int) -> None:
        """Free a place; the last sample takes it, in the cache as in the list."""
        self._cache.remove_row(place)
        self._rows[place] = self._rows[-1]
        self._rows.pop()
