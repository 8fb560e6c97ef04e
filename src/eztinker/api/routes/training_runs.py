"""Listings of training runs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from eztinker.api.auth import Owner, ServiceDep
from eztinker.api.listing import AccessScope, Limit, Offset, cursor, run_as_json
from eztinker.types import Page

router = APIRouter()


@router.get("/training_runs")
async def list_training_runs(
    service: ServiceDep, owner: Owner, limit: Limit = 20, offset: Offset = 0, access_scope: AccessScope = "owned"
) -> dict[str, Any]:
    listings, total = await service.runs.listings(owner, Page(offset=offset, limit=limit))
    return {"training_runs": [run_as_json(run) for run in listings], "cursor": cursor(offset, limit, total)}


@router.get("/training_runs/{model_id}")
async def get_training_run(
    model_id: str, service: ServiceDep, owner: Owner, access_scope: AccessScope = "owned"
) -> dict[str, Any]:
    return run_as_json(await service.runs.listing(owner, model_id))
