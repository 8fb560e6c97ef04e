"""New sampling sessions, made by a request of their own or together with a save."""

from __future__ import annotations

import secrets
from datetime import datetime

from eztinker.oplog.rows import SamplingSession


def new_sampling_session(
    *,
    owner: str,
    session_id: str,
    seq_id: int | None,
    base_model: str,
    checkpoint_id: str | None,
    inflight_model_id: str | None = None,
    save_seq_id: int | None = None,
    now: datetime,
) -> SamplingSession:
    return SamplingSession(
        sampling_session_id=f"{session_id}:sample:{secrets.token_hex(8)}",
        owner=owner,
        session_id=session_id,
        seq_id=seq_id,
        base_model=base_model,
        checkpoint_id=checkpoint_id,
        inflight_model_id=inflight_model_id,
        save_seq_id=save_seq_id,
        created_at=now,
    )
