"""Sessions and sampling sessions in the log."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from eztinker.oplog import checkpoints, sessions
from eztinker.oplog.rows import SamplingSession
from eztinker.oplog.store import Store
from tests.unit.oplog.log_entries import NOW, checkpoint, session, with_run


def test_the_newest_inflight_save_counts_in_whatever_order_they_were_stored(store: Store):
    def sampler(name: str, save_seq_id: int | None) -> SamplingSession:
        inflight = {"inflight_model_id": "run", "save_seq_id": save_seq_id} if save_seq_id else {}
        return SamplingSession(
            sampling_session_id=name,
            owner="local",
            session_id="s",
            seq_id=None,
            base_model="tiny",
            checkpoint_id=f"of-{name}",
            created_at=NOW,
            **inflight,  # pyright: ignore[reportArgumentType]
        )

    def save_out_of_order(db: Connection) -> tuple[list[str | None], list[str]]:
        with_run(db)
        samplers = [sampler("snapshot", None), sampler("first", 3), sampler("third", 9), sampler("second", 5)]
        for each in samplers:
            checkpoints.add(db, checkpoint(f"of-{each.sampling_session_id}", None), overwrite=False)
            sessions.add_sampling_session(db, each)
            checkpoints.remove_superseded(db, "run", NOW)
        return [sessions.current_checkpoint_id(db, each) for each in samplers], checkpoints.removed(db, NOW)

    current, removed = asyncio.run(store.write(save_out_of_order))
    assert current == ["of-snapshot", "of-third", "of-third", "of-third"]
    assert sorted(removed) == ["of-first", "of-second"]


def test_a_session_is_made_once_per_idempotency_key(store: Store):
    def both(db: Connection) -> list[str]:
        return [sessions.add_session(db, session(name, key="k")).session_id for name in ("first", "second")]

    assert asyncio.run(store.write(both)) == ["first", "first"]
