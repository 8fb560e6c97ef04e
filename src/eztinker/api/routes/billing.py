"""Usage and storage in the form of a bill that always amounts to 0 USD."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from eztinker.api.auth import Owner, ServiceDep, router_with_key
from eztinker.service.accounts.usage import HOUR, Session, Stored, Usage, UsageKind
from eztinker.service.sessions.session_search import as_text

router = router_with_key()

GIGABYTE = 10**9


@router.get("/billing/usage/events")
async def billing_usage(
    service: ServiceDep, owner: Owner, starting_on: datetime, ending_before: datetime
) -> dict[str, Any]:
    rows, sessions = await service.usage.between(owner, starting_on, ending_before)
    return {
        "data": [_event(row, sessions.get(row.session_id)) for row in rows],
        "sessions": {
            session_id: {"user_metadata": as_text(session.user_metadata)} for session_id, session in sessions.items()
        },
        "cost_data_through": None,
    }


@router.get("/billing/usage/checkpoints/current")
async def checkpoint_storage(service: ServiceDep, owner: Owner, project_id: str | None = None) -> dict[str, Any]:
    by_project = await service.usage.stored(owner)
    return {
        "effective_rate_usd_per_gigabyte_month": 0.0,
        "data": [
            _storage(owner, project, stored)
            for project, stored in sorted(by_project.items())
            if project_id in (None, project)
        ],
    }


def _event(used: Usage, session: Session | None) -> dict[str, Any]:
    is_tokens = used.kind is not UsageKind.CHECKPOINT
    return {
        "bucket_start": used.hour.isoformat(),
        "bucket_end": (used.hour + HOUR).isoformat(),
        "base_model": used.base_model,
        "user_id": used.owner,
        "user_name": used.owner,
        "session_id": used.session_id,
        "training_run_id": used.model_id,
        "project_id": None if session is None else session.project_id,
        "estimated_cost_usd": 0.0,
        "effective_rate_usd_per_million_tokens": 0.0 if is_tokens else None,
        "effective_rate_usd_per_gigabyte_month": None,
        "event_info": _info(used),
    }


def _info(used: Usage) -> dict[str, Any]:
    match used.kind:
        case UsageKind.TRAINING:
            return {"type": "training", "token_count": used.amount}
        case UsageKind.PREFILL | UsageKind.CACHED_PREFILL:
            cached = used.kind is UsageKind.CACHED_PREFILL
            return {"type": "sampling_prefill", "cached": cached, "token_count": used.amount}
        case UsageKind.SAMPLING:
            return {"type": "sampling_sample", "token_count": used.amount}
        case UsageKind.CHECKPOINT:
            return {"type": "checkpoint", "count": used.amount}


def _storage(owner: str, project_id: str, stored: Stored) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "org_user_urn": owner,
        "user_name": owner,
        "checkpoint_count": stored.count,
        "size_bytes": stored.size_bytes,
        "size_gigabytes": stored.size_bytes / GIGABYTE,
        "estimated_monthly_cost_usd": 0.0,
    }
