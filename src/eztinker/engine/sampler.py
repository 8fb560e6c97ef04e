"""Continuous batching: samples join the decode batch at any step and leave it when they end.

A prompt is read once for all its samples, and a prefix that it shares with earlier prompts is not read again. Every
sample draws from a random generator of its own, so its tokens do not depend on its batch neighbours. A step decodes for
some shares or for all: the samples of the others keep their slots, and go on where they were.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from eztinker.engine.batch_slots import BatchSlots
from eztinker.engine.draw import draw, likeliest
from eztinker.engine.prefill import PromptReader
from eztinker.engine.sample_job import SampleJob, SampleRow
from eztinker.engine.sample_queue import SampleQueue
from eztinker.model.decoder import Decoder
from eztinker.model.lora import adapter_rows
from eztinker.types import StopReason, TopkLogprobs

STEP_OVERHEAD_ROWS = 8
"""Fixed cost of a decode step, which reads all weights, as a number of samples."""


@dataclass(frozen=True, slots=True, eq=False)
class SamplerStep:
    """The outcome of a step."""

    done: list[SampleJob]
    """Jobs that have ended."""
    parts: dict[str, float]
    """Fraction of the step's cost by share; they add up to 1."""


class BatchSampler:
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
        """Start with an empty batch.

        Args:
            max_batch_size: samples decoded together; a quarter more where several shares sample.
            kv_cache_bytes: memory for the batch, whose slots are all as long as its longest sample may get; a quarter
                more where several shares sample.
            prefix_cache_bytes: memory for the keys and values of recent prompts.
        """
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._num_tokens = min(tokenizer.get_vocab_size(with_added_tokens=True), decoder.config.vocab_size)
        self._slots = BatchSlots(max_batch_size, kv_cache_bytes // decoder.kv_bytes_per_token)
        self._reader = PromptReader(decoder, prefix_cache_bytes, num_drawable=self._num_tokens)
        self._jobs: dict[str, SampleJob] = {}
        """Every job that has not ended, by id."""
        self._queues: dict[str, SampleQueue] = {}
        """Queues by share; the share that has waited longest since it got a slot is first."""
        self._set_aside: deque[list[SampleJob]] = deque()
        """Groups of jobs to run one after the other after a failed step, to find the job that fails it."""
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
        return self._slots.held

    @property
    def num_waiting(self) -> int:
        return sum(queue.num_jobs for queue in self._queues.values()) + sum(map(len, self._set_aside))

    def new_tokens(self) -> Iterator[tuple[SampleJob, list[int]]]:
        """Running streamed jobs, each with the tokens of its first sample that were drawn since the last call."""
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
        """Drop a waiting or running job; False if there is none with this id."""
        job = self._jobs.pop(op_id, None)
        if job is None:
            return False
        self._queue(job.share).remove(op_id)
        for group in self._set_aside:
            group[:] = [job for job in group if job.op_id != op_id]
        for slot in reversed([slot for slot, row in enumerate(self._rows) if row.job.op_id == op_id]):
            self._remove(slot)
        self._resume_set_aside()
        return True

    def is_ready(self, share: str) -> bool:
        """Whether a step can make progress for the share now."""
        return share in self.num_rows or self._may_join(share)

    def ready_shares(self) -> list[str]:
        """Shares for which a step can make progress now."""
        waiting = self._waiting
        running = self.num_rows
        joining = [share for share in waiting if share not in running and self._slots.may_join(share, waiting)]
        return [*joining, *running]

    def step(self) -> list[SampleJob]:
        """Run a step for all shares; returns the jobs that have ended."""
        shares = self.ready_shares()
        return self.advance(shares[0], shares[1:]).done if shares else []

    @torch.inference_mode()
    def advance(self, share: str, neighbours: Sequence[str] = (), *, max_rows: int | None = None) -> SamplerStep:
        """Read prompts of `share` if it has a slot for a sample, or else draw one token for each of its samples.

        If a prompt cannot be read, its job alone fails. If a decode step fails, the job at fault is found by running
        all jobs in the batch again; none of the others is lost.

        Args:
            neighbours: shares whose samples get a token in the same step.
            max_rows: most samples in the step; those that joined first come first.
        """
        try:
            finished, parts = self._advance(share, [share, *neighbours], max_rows)
        except Exception as error:
            done, parts = self._isolate_failure(error), {share: 1.0}
        else:
            done = [job for job in dict.fromkeys(finished) if job.is_done or job.error]
        for job in done:
            del self._jobs[job.op_id]
        self._resume_set_aside()
        return SamplerStep(done, parts)

    @property
    def _waiting(self) -> dict[str, int]:
        """Most tokens of the next sample of each share that has one waiting, longest waiting first."""
        lengths = {share: queue.next_length for share, queue in self._queues.items()}
        return {share: length for share, length in lengths.items() if length is not None}

    def _advance(
        self, share: str, served: Sequence[str], max_rows: int | None
    ) -> tuple[list[SampleJob], dict[str, float]]:
        """Jobs of which a sample has ended or that have failed, and the parts of the step by share."""
        finished = self._join(share)
        if self._may_join(share):
            if self._queue(share).has_samples:  # some ended with their first token, so there are slots again
                return finished, {share: 1.0}
            return [*finished, *self._queue(share).read(), *self._join(share)], {share: 1.0}
        num_rows = self._move_to_front(served, max_rows)
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

    def _resume_set_aside(self) -> None:
        """Queue the next group of jobs that was set aside, once the one before it has ended."""
        self._queues = {share: queue for share, queue in self._queues.items() if queue}
        while self._set_aside and not self._queues and not self._rows:
            for job in self._set_aside.popleft():
                self._queue(job.share).add(job)

    def _isolate_failure(self, error: Exception) -> list[SampleJob]:
        """Set the jobs behind a failed step aside in halves, to run again; a job that failed alone has ended."""
        untouched = [job for queue in self._queues.values() for job in queue.unread]
        idle = {job.op_id for group in (untouched, *self._set_aside) for job in group}
        suspects = [job for job in self._jobs.values() if job.op_id not in idle]
        if not suspects:
            raise error
        self._queues.clear()
        self._rows.clear()
        self._slots.clear()
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
        return share in waiting and self._slots.may_join(share, waiting)

    def _join(self, share: str) -> list[SampleJob]:
        """Draw the first token of each sample that gets a slot, from its prompt's logits, and add it to the batch.

        Returns:
            Jobs of the samples that ended with their first token, which do not enter the batch.
        """
        joining: list[SampleRow] = []
        while share in self._queues and self._queues[share].has_samples and self._may_join(share):
            self._queues[share] = queue = self._queues.pop(share)
            row = queue.take()
            row.number, self._num_joined = self._num_joined, self._num_joined + 1
            self._slots.add(share, row.max_length)
            joining.append(row)
        if not joining:
            return []
        logits = torch.stack([row.job.read.next_logits for row in joining if row.job.read is not None])
        finished = []
        for row, reason in zip(joining, self._draw(logits, joining), strict=True):
            if reason is not None:
                self._slots.remove(share, row.max_length)
                row.finish(reason)
                finished.append(row.job)
            else:
                assert row.job.read is not None
                self._cache.add_row(row.job.read.block)
                self._rows.append(row)
        return finished

    def _move_to_front(self, shares: Sequence[str], max_rows: int | None) -> int:
        """Move samples of `shares` to the first slots, over which a step runs; returns their number.

        Samples of earlier shares come first and, within a share, those that joined first.
        """
        rank = {share: index for index, share in enumerate(shares)}
        if self.num_rows.keys() <= rank.keys() and (max_rows is None or len(self._rows) <= max_rows):
            return len(self._rows)
        order = sorted((row for row in self._rows if row.share in rank), key=lambda row: (rank[row.share], row.number))
        chosen = {id(row) for row in order[:max_rows]}
        inside = [slot for slot in range(len(chosen), len(self._rows)) if id(self._rows[slot]) in chosen]
        outside = [slot for slot in range(len(chosen)) if id(self._rows[slot]) not in chosen]
        for slot, other in zip(outside, inside, strict=True):
            self._cache.swap_rows(slot, other)
            self._rows[slot], self._rows[other] = self._rows[other], self._rows[slot]
        return len(chosen)

    def _decode(self, num_rows: int) -> list[SampleJob]:
        """Draw one more token for each of the first samples; returns the jobs of the samples that have ended."""
        rows = self._rows[:num_rows]
        tokens = torch.tensor([row.tokens[-1] for row in rows], device=self._decoder.device)
        adapters = adapter_rows([row.job.prompt.adapter for row in rows], self._decoder.device)
        hidden = self._decoder.next_hidden_states(tokens, self._cache, adapters)
        logits = self._decoder.logits(hidden, adapters)
        self._cache.advance(num_rows)
        finished = []
        for slot, reason in reversed(list(enumerate(self._draw(logits, rows)))):
            if reason is not None:
                rows[slot].finish(reason)
                finished.append(rows[slot].job)
                self._remove(slot)
        return finished

    def _remove(self, slot: int) -> None:
        """Free a slot, into which the last sample moves, in the KV cache as in the list."""
        self._slots.remove(self._rows[slot].share, self._rows[slot].max_length)
        self._cache.remove_row(slot)
        self._rows[slot] = self._rows[-1]
        self._rows.pop()

    def _draw(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[StopReason | None]:
        self._record_topk(logits, rows)
        params = [row.job.request.params for row in rows]
        tokens, logprobs = draw(logits, params, [row.rng.random() for row in rows], self._num_tokens)
        return [row.take(token, logprob) for row, token, logprob in zip(rows, tokens, logprobs, strict=True)]

    def _record_topk(self, logits: Tensor, rows: Sequence[SampleRow]) -> None:
        """Store the top-k logprobs of the coming token for the samples that want them.

        Samples with the same k are looked up together: the order of two equally likely tokens may depend on k.
        """
        by_k: dict[int, list[int]] = defaultdict(list)
        for slot, row in enumerate(rows):
            by_k[row.job.request.topk_sample_logprobs].append(slot)
        by_k.pop(0, None)
        for k, slots in by_k.items():
            params = [rows[slot].job.request.params for slot in slots]
            table = likeliest(logits[slots], params, self._num_tokens, k)
            for index, slot in enumerate(slots):
                cells = slice(index, index + 1)
                rows[slot].topk.append(TopkLogprobs(token_ids=table.token_ids[cells], logprobs=table.logprobs[cells]))
