"""Listings of training runs."""

from __future__ import annotations

from typing import Any

from eztinker.api.auth import Owner, ServiceDep, router_with_key
from eztinker.api.listing import AccessScope, Limit, Offset, cursor, run_as_json
from eztinker.types import Page

router = router_with_key()


@router.get("/training_runs")
async def list_training_runs(
    service: ServiceDep,
    owner: Owner,
    limit: Limit = 20,
    offset: Offset = 0,
    access_scope: AccessScope = "owned",
    project_id: str | None = None,
) -> dict[str, Any]:
    listings, total = await service.run_listings.page(
        owner, Page(offset=offset, limit=limit), with_public=access_scope == "accessible", project_id=project_id
    )
    return {"training_runs": [run_as_json(run) for run in listings], "cursor": cursor(offset, limit, total)}


@router.get("/training_runs/{model_id}")
async def get_training_run(
    model_id: str, service: ServiceDep, owner: Owner, access_scope: AccessScope = "owned"
) -> dict[str, Any]:
    return run_as_json(await service.run_listings.one(owner, model_id, with_public=access_scope == "accessible"))
