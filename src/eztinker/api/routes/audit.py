"""The audit log of the caller's objects."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

from eztinker.api.auth import Owner, ServiceDep, router_with_key
from eztinker.service.accounts.audit_log import AuditEntry

router = router_with_key()

_RESOURCE = {
    "all": None,
    "checkpoints": "checkpoint",
    "projects": "project",
    "teams": "team",
    "organizations": "organization",
}
"""First word of the events of each type. This server has no teams and organizations, hence no events of them."""


@router.get("/audit")
async def audit_log(
    service: ServiceDep,
    owner: Owner,
    event_type: Literal["all", "checkpoints", "projects", "teams", "organizations"] = "all",
    day: date | None = None,
) -> dict[str, Any]:
    entries = await service.audit.of_day(owner, day, resource=_RESOURCE[event_type])
    return {"entries": [_as_json(entry) for entry in entries]}


def _as_json(entry: AuditEntry) -> dict[str, Any]:
    """An entry as JSON; three of its details are repeated at the top level, where older clients look for them."""
    older = {name: entry.details.get(name) for name in ("model_id", "tinker_path", "purpose")}
    return {"timestamp": entry.created_at.isoformat(), "event": entry.event, "event_details": entry.details} | older
