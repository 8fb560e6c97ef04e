"""Records of what was sampled, which training data name as the source of their tokens and logprobs.

A record belongs to the session in which it was drawn, and is kept for a day after its last use.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import Connection

from eztinker.errors import InvalidInput
from eztinker.oplog import recorded_samples
from eztinker.oplog.rows import RecordedSample, RecordedSequence, SamplingSession, checksum
from eztinker.oplog.store import Store
from eztinker.service.clock import Clock
from eztinker.types import Record, SampleResult

log = logging.getLogger(__name__)

RETENTION = timedelta(days=1)
MAX_NAMED_BYTES = 64 << 20
"""Most bytes of records that one request may name; all of them are in memory at once, beside the request."""


class Recorded(Record):
    """A completion with the prompt it was drawn for. T = tokens drawn."""

    op_id: str
    """Id of the sample request, whose record is kept or dropped as a whole."""
    prompt: np.ndarray
    """int32."""
    tokens: np.ndarray
    """int32 (T,)."""
    logprobs: np.ndarray
    """float32 (T,), as the client was told them."""


RecordedById = Mapping[str, Recorded]
"""Recorded completions by sequence id, without those whose record is missing or damaged."""


def sequence_id(op_id: str, place: int) -> str:
    """Id by which clients name one completion of a request."""
    return f"{op_id}-{place}"


def record_of(
    sampler: SamplingSession, op_id: str, prompt: np.ndarray, result: SampleResult, now: datetime
) -> tuple[RecordedSample, list[RecordedSequence]]:
    """Make the rows that record a sample request and its completions."""
    sequences = [
        RecordedSequence(
            op_id=op_id, place=place, tokens=tokens, logprobs=logprobs, checksum=checksum(tokens + logprobs)
        )
        for place, drawn in enumerate(result.sequences)
        for tokens, logprobs in [(drawn.tokens.astype("<i4").tobytes(), drawn.logprobs.astype("<f4").tobytes())]
    ]
    raw_prompt = prompt.astype("<i4").tobytes()
    sample = RecordedSample(
        op_id=op_id,
        owner=sampler.owner,
        session_id=sampler.session_id,
        prompt=raw_prompt,
        checksum=checksum(raw_prompt),
        num_bytes=len(raw_prompt) + sum(len(each.tokens) + len(each.logprobs) for each in sequences),
        used_at=now,
    )
    return sample, sequences


class RecordedSamples:
    """Records of sampled completions, for training data that name them as their source."""

    def __init__(self, store: Store, clock: Clock, *, max_bytes: int) -> None:
        """Keep at most `max_bytes` of records for each owner."""
        self._store = store
        self._clock = clock
        self._max_bytes = max_bytes

    async def named(self, owner: str, session_id: str, sequence_ids: Iterable[str]) -> RecordedById:
        """Find the records of these sequences in a session of the owner.

        Raises:
            InvalidInput: it is more than one request may name.
        """
        keys = {key for key in map(_key, sequence_ids) if key is not None}
        return await self._store.read(lambda db: _read(db, owner, session_id, keys)) if keys else {}

    async def expire(self) -> None:
        """Drop records not used for a day, those of ended sessions, and the oldest above the limit of an owner."""
        oldest = self._clock.now() - RETENTION

        def drop(db: Connection) -> list[str]:
            recorded_samples.forget_unused(db, oldest)
            return recorded_samples.forget_surplus(db, self._max_bytes)

        for owner in await self._store.write(drop):
            log.warning(
                "The recorded samples of %s took more than %d bytes; those unused for longest were dropped. "
                "max_recorded_bytes sets the limit",
                owner,
                self._max_bytes,
                extra={"event": "recorded_samples_dropped"},
            )


def _key(sequence: str) -> tuple[str, int] | None:
    """Request and place of a sequence id; None if it cannot be one."""
    op_id, _, place = sequence.rpartition("-")
    is_number = place.isascii() and place.isdigit() and len(place) < 10
    return (op_id, int(place)) if is_number and sequence_id(op_id, int(place)) == sequence else None


def _read(db: Connection, owner: str, session_id: str, keys: set[tuple[str, int]]) -> RecordedById:
    op_ids = {op_id for op_id, _ in keys}
    num_bytes = recorded_samples.num_prompt_bytes(db, owner, session_id, op_ids)
    _check_size(num_bytes)
    samples = {
        sample.op_id: sample
        for sample in recorded_samples.samples(db, owner, session_id, op_ids)
        if _is_whole(sample.op_id, sample.prompt, sample.checksum)
    }
    recorded = {}
    for found in recorded_samples.sequences(db, [key for key in keys if key[0] in samples]):
        num_bytes += len(found.tokens) + len(found.logprobs)
        _check_size(num_bytes)
        if _is_whole(found.op_id, found.tokens + found.logprobs, found.checksum):
            recorded[sequence_id(found.op_id, found.place)] = Recorded(
                op_id=found.op_id,
                prompt=np.frombuffer(samples[found.op_id].prompt, "<i4"),
                tokens=np.frombuffer(found.tokens, "<i4"),
                logprobs=np.frombuffer(found.logprobs, "<f4"),
            )
    return recorded


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_NAMED_BYTES:
        raise InvalidInput(
            f"The sampled sequences that the data name have more than {MAX_NAMED_BYTES} bytes of tokens and logprobs; "
            "send fewer data in one request",
            field="model_input_spans",
        )


def _is_whole(op_id: str, content: bytes, expected: int) -> bool:
    """Whether a record is as it was written; a damaged one counts as gone."""
    if checksum(content) == expected:
        return True
    log.error("The record of sample %s is damaged in the operation log", op_id, extra={"event": "record_damaged"})
    return False
