"""One share's queue for the decode batch: prompts are read, then their samples wait for slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from eztinker.engine.prefill import MAX_PASS_TOKENS, PromptReader, ReadPrompt
from eztinker.engine.sample_job import SampleJob, SampleRow

MAX_AHEAD_TOKENS = 2048
"""Most tokens of prompts that are read together, cached ones included: each prompt keeps its keys while it waits."""


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """A prompt that is being read in several passes."""

    job: SampleJob
    passes: Iterator[ReadPrompt | None]


class SampleQueue:
    """A first-come, first-served queue of jobs and of the samples of jobs whose prompts have been read."""

    def __init__(self, reader: PromptReader, tokenizer: Tokenizer) -> None:
        self._reader = reader
        self._tokenizer = tokenizer
        self._unread: deque[SampleJob] = deque()
        self._reading: _Reading | None = None
        self._suspects: set[str] = set()
        """Ids of jobs whose prompts could not be read together; each of them is read alone."""
        self._starting: deque[SampleRow] = deque()
        """Samples whose prompts have been read, waiting for slots."""

    def __bool__(self) -> bool:
        return self.next_length is not None

    @property
    def unread(self) -> list[SampleJob]:
        """Jobs whose prompts have not been read at all."""
        return list(self._unread)

    @property
    def num_jobs(self) -> int:
        num_starting = len({id(row.job) for row in self._starting})
        return len(self._unread) + (self._reading is not None) + num_starting

    @property
    def has_samples(self) -> bool:
        """Whether a sample waits for nothing but a slot."""
        return bool(self._starting)

    @property
    def next_length(self) -> int | None:
        """Most tokens of the next sample; None if nothing waits."""
        if self._starting:
            return self._starting[0].max_length
        if self._reading is not None:
            return self._reading.job.max_length
        return self._unread[0].max_length if self._unread else None

    def add(self, job: SampleJob) -> None:
        self._unread.append(job)

    def take(self) -> SampleRow:
        """Remove and return the next sample, which has got a slot."""
        return self._starting.popleft()

    def remove(self, op_id: str) -> None:
        """Drop a job and its samples."""
        self._suspects.discard(op_id)
        self._unread = deque(job for job in self._unread if job.op_id != op_id)
        self._starting = deque(row for row in self._starting if row.job.op_id != op_id)
        if self._reading is not None and self._reading.job.op_id == op_id:
            self._reading = None

    def read(self) -> list[SampleJob]:
        """Run one pass over the next prompts that fit, or over a part of a longer one; no samples may be waiting.

        Returns:
            The job that cannot be read, if one was found.
        """
        if self._reading is None and self._reader.num_unread(self._unread[0].prompt) > MAX_PASS_TOKENS:
            job = self._unread.popleft()
            self._reading = _Reading(job, self._reader.read_in_passes(job.prompt))
        jobs = self._next_jobs() if self._reading is None else [self._reading.job]
        try:
            reads = self._read(jobs)
        except Exception as error:
            self._reading = None
            if len(jobs) == 1:
                jobs[0].error = error
                return jobs
            self._suspects.update(job.op_id for job in jobs)
            self._unread.extendleft(reversed(jobs))
            return []
        for job, read in zip(jobs, reads, strict=True):
            if read is not None:
                self._reading = None
                job.read = read
                self._starting.extend(job.rows(self._tokenizer))
        return []

    def _read(self, jobs: list[SampleJob]) -> Sequence[ReadPrompt | None]:
        if self._reading is not None:
            return [next(self._reading.passes)]
        return self._reader.read([job.prompt for job in jobs])

    def _next_jobs(self) -> list[SampleJob]:
        """The next jobs for one pass, even more than there are slots: one large pass costs less than several."""
        jobs: list[SampleJob] = []
        room, room_ahead = MAX_PASS_TOKENS, MAX_AHEAD_TOKENS
        while self._unread and (num_tokens := self._reader.num_unread(self._unread[0].prompt)) <= room:
            is_suspect = self._unread[0].op_id in self._suspects
            room_ahead -= len(self._unread[0].prompt.tokens)
            if jobs and (is_suspect or room_ahead < 0):
                break
            jobs.append(self._unread.popleft())
            room -= num_tokens
            if is_suspect:
                self._suspects.discard(jobs[0].op_id)
                break
        return jobs
