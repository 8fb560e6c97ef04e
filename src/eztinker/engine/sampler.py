"""Continuous batching: requests join the running batch at any step, and leave it token by token.

A prompt is read once for all its samples, and what it shares with earlier prompts is not read again. Every sample
draws from a random generator of its own, so its tokens do not depend on its neighbours. A step decodes for some shares
or for all: the samples of the others keep their places, and go on where they were.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from eztinker.engine.draw import draw, likeliest
from eztinker.engine.places import Places
from eztinker.engine.prefill import PromptReader
from eztinker.engine.sample_job import SampleJob, SampleRow
from eztinker.engine.sample_queue import SampleQueue
from eztinker.model.decoder import Decoder
from eztinker.model.lora import adapter_rows
from eztinker.types import StopReason, TopkLogprobs

STEP_OVERHEAD_ROWS = 8
"""A decode step costs about as much as so many samples in it would by themselves: it reads all weights."""


@dataclass(frozen=True, slots=True, eq=False)
class SamplerStep:
    """What came of a step."""

    done: list[SampleJob]
    """The jobs that are over."""
    parts: dict[str, float]
    """What each share had of it; together 1."""


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
        """
        Args:
            kv_cache_bytes: bounds the running batch, whose places are all as long as its longest sample may get. Where
                several shares sample, they may take a quarter more.
        """
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._num_tokens = min(tokenizer.get_vocab_size(with_added_tokens=True), decoder.config.vocab_size)
        self._places = Places(max_batch_size, kv_cache_bytes // decoder.kv_bytes_per_token)
        self._reader = PromptReader(decoder, prefix_cache_bytes, num_drawable=self._num_tokens)
        self._jobs: dict[str, SampleJob] = {}
        """Every job that is not done, wherever it is."""
        self._queues: dict[str, SampleQueue] = {}
        """By share; the one that has waited longest since it got a place is first."""
        self._set_aside: deque[list[SampleJob]] = deque()
        """After a step that broke: groups that are run one after the other, to find the job that breaks it."""
        self._rows: list[SampleRow] = []
        self._num_joined = 0
        self._cache = decoder.new_cache()

    @property
    def is_idle(self) -> bool:
        return not self._jobs

    @property
    def num_running(self) -> int:
        return len(self._rows)

    @property
    def num_rows(self) -> Mapping[str, int]:
        """Running samples by share."""
        return self._places.held

    @property
    def num_waiting(self) -> int:
        return sum(queue.num_jobs for queue in self._queues.values()) + sum(map(len, self._set_aside))

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
            self._queue(job.share).add(job)

    @torch.inference_mode()
    def cancel(self, op_id: str) -> bool:
        """Drop a job, wherever it is; False if it is not here."""
        job = self._jobs.pop(op_id, None)
        if job is None:
            return False
        self._queue(job.share).remove(op_id)
        for group in self._set_aside:
            group[:] = [job for job in group if job.op_id != op_id]
        for place in reversed([place for place, row in enumerate(self._rows) if row.job.op_id == op_id]):
            self._remove(place)
        self._go_on()
        return True

    def is_ready(self, share: str) -> bool:
        """Whether a step can do something for the share now."""
        return share in self.num_rows or self._may_join(share)

    def ready_shares(self) -> list[str]:
        """The shares for which a step can do something now."""
        waiting = self._waiting
        running = self.num_rows
        joining = [share for share in waiting if share not in running and self._places.may_join(share, waiting)]
        return [*joining, *running]

    def step(self) -> list[SampleJob]:
        """A step for everyone; gives the jobs that are over."""
        shares = self.ready_shares()
        return self.advance(shares[0], shares[1:]).done if shares else []

    @torch.inference_mode()
    def advance(self, share: str, beside: Sequence[str] = (), *, max_rows: int | None = None) -> SamplerStep:
        """Read a prompt of `share` if it has a place for it, or else add one token to its samples.

        When a prompt cannot be read, its job alone fails. When a token cannot be drawn, the job at fault is found by
        running those that are under way anew; none of the others is lost.

        Args:
            beside: shares whose samples get a token in the same step.
            max_rows: samples in the step; those that joined first come first.
        """
        try:
            finished, parts = self._advance(share, [share, *beside], max_rows)
        except Exception as error:
            done, parts = self._find_culprit(error), {share: 1.0}
        else:
            done = [job for job in dict.fromkeys(finished) if job.is_done or job.error]
        for job in done:
            del self._jobs[job.op_id]
        self._go_on()
        return SamplerStep(done, parts)

    @property
    def _waiting(self) -> dict[str, int]:
        """What the next sample of each share may come to, where one waits for a place; longest waiting first."""
        lengths = {share: queue.next_length for share, queue in self._queues.items()}
        return {share: length for share, length in lengths.items() if length is not None}

    def _advance(
        self, share: str, served: Sequence[str], max_rows: int | None
    ) -> tuple[list[SampleJob], dict[str, float]]:
        """The jobs that have a sample less to draw or have failed, and what each share had of the step."""
        finished = self._join(share)
        if self._may_join(share):
            if self._queue(share).has_samples:  # some ended with their first token, so there is room again
                return finished, {share: 1.0}
            return [*finished, *self._queue(share).read(), *self._join(share)], {share: 1.0}
        num_rows = self._bring_forward(served, max_rows)
        if not num_rows:
            return finished, {share: 1.0}
        parts = Counter(row.share for row in self._rows[:num_rows])
        weights = {each: STEP_OVERHEAD_ROWS + parts[each] for each in parts}
        total = sum(weights.values())
        return finished + self._decode(num_rows), {each: weight / total for each, weight in weights.items()}

    def _queue(self, share: str) -> SampleQueue:
        if share not in self._queues:
            self._queues[share] = SampleQueue(self._reader, self._tokenizer)
        return self._queues[share]

    def _go_on(self) -> None:
        """Take the next group that was set aside, if the one before it is over."""
        self._queues = {share: queue for share, queue in self._queues.items() if queue}
        while self._set_aside and not self._queues and not self._rows:
            for job in self._set_aside.popleft():
                self._queue(job.share).add(job)

    def _find_culprit(self, error: Exception) -> list[SampleJob]:
        """Run the jobs behind a broken step again, in halves, until one breaks alone; that one is over."""
        untouched = [job for queue in self._queues.values() for job in queue.unread]
        idle = {job.op_id for group in (untouched, *self._set_aside) for job in group}
        suspects = [job for job in self._jobs.values() if job.op_id not in idle]
        if not suspects:
            raise error
        self._queues.clear()
        self._rows.clear()
        self._places.clear()
        self._cache = self._decoder.new_cache()
        self._set_aside.appendleft(untouched)
        if len(suspects) == 1:
            suspects[0].error = error
            return suspects
        for job in suspects:
            job.restart()
        middle = len(suspects) // 2
        self._set_aside.extendleft([suspects[middle:], suspects[:middle]])
        return []

    def _may_join(self, share: str) -> bool:
        if share not in self._queues:
            return False
        waiting = self._waiting
        return share in waiting and self._places.may_join(share, waiting)

    def _join(self, share: str) -> list[SampleJob]:
        """Draw the first token of each sample that gets a place, from its prompt's logits; those that go on enter.

        Gives the jobs of those that are over with it.
        """
        joining: list[SampleRow] = []
        while share in self._queues and self._queues[share].has_samples and self._may_join(share):
            self._queues[share] = queue = self._queues.pop(share)
            row = queue.take()
            row.number, self._num_joined = self._num_joined, self._num_joined + 1
            self._places.add(share, row.max_length)
            joining.append(row)
        if not joining:
            return []
        logits = torch.stack([row.job.read.next_logits for row in joining if row.job.read is not None])
        finished = []
        for row, reason in zip(joining, self._draw(logits, joining), strict=True):
            if reason is not None:
                self._places.remove(share, row.max_length)
                row.finish(reason)
                finished.append(row.job)
            else:
                assert row.job.read is not None
                self._cache.add_row(row.job.read.block)
                self._rows.append(row)
        return finished

    def _bring_forward(self, shares: Sequence[str], max_rows: int | None) -> int:
        """Give the first places to the samples of `shares`, for a step is over the first ones; how many they are.

        Earlier shares come first, and of each the samples that joined first.
        """
        rank = {share: index for index, share in enumerate(shares)}
        if self.num_rows.keys() <= rank.keys() and (max_rows is None or len(self._rows) <= max_rows):
            return len(self._rows)
        order = sorted((row for row in self._rows if row.share in rank), key=lambda row: (rank[row.share], row.number))
        chosen = {id(row) for row in order[:max_rows]}
        inside = [place for place in range(len(chosen), len(self._rows)) if id(self._rows[place]) in chosen]
        outside = [place for place in range(len(chosen)) if id(self._rows[place]) not in chosen]
        for place, other in zip(outside, inside, strict=True):
            self._cache.swap_rows(place, other)
            self._rows[place], self._rows[other] = self._rows[other], self._rows[place]
        return len(chosen)

    def _decode(self, num_rows: int) -> list[SampleJob]:
        """One more token for each of the first samples; gives the jobs of those that are over with it."""
        rows = self._rows[:num_rows]
        tokens = torch.tensor([row.tokens[-1] for row in rows], device=self._decoder.device)
        adapters = adapter_rows([row.job.prompt.adapter for row in rows], self._decoder.device)
        hidden = self._decoder.next_hidden_states(tokens, self._cache, adapters)
        logits = self._decoder.logits(hidden, adapters)
        self._cache.advance(num_rows)
        finished = []
        for place, reason in reversed(list(enumerate(self._draw(logits, rows)))):
            if reason is not None:
                rows[place].finish(reason)
                finished.append(rows[place].job)
                self._remove(place)
        return finished

    def _remove(self, place: int) -> None:
        """Free a place; the last sample takes it, in the cache as in the list."""
        self._places.remove(self._rows[place].share, self._rows[place].max_length)
        self._cache.remove_row(place)
        self._rows[place] = self._rows[-1]
        self._rows.pop()

    def _draw(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[StopReason | None]:
        self._note_likeliest(logits, rows)
        params = [row.job.request.params for row in rows]
        tokens, logprobs = draw(logits, params, [row.rng.random() for row in rows], self._num_tokens)
        return [row.take(token, logprob) for row, token, logprob in zip(rows, tokens, logprobs, strict=True)]

    def _note_likeliest(self, logits: Tensor, rows: Sequence[SampleRow]) -> None:
        """Keep the top-k of the coming token for the samples that want it.

        Those that want equally many are looked up together: which of two equally likely tokens comes first may depend
        on how many are asked for.
        """
        by_k: dict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            by_k[row.job.request.topk_sample_logprobs].append(place)
        by_k.pop(0, None)
        for k, places in by_k.items():
            params = [rows[place].job.request.params for place in places]
            table = likeliest(logits[places], params, self._num_tokens, k)
            for index, place in enumerate(places):
                cells = slice(index, index + 1)
                rows[place].topk.append(TopkLogprobs(token_ids=table.token_ids[cells], logprobs=table.logprobs[cells]))
