"""Runs by the ids and names that users know: their progress, their names and notes."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from eztinker.api.auth import Owner, ServiceDep, router_with_key
from eztinker.api.bodies import LabelRunBody
from eztinker.api.listing import Limit, Offset, checkpoint_as_json, cursor
from eztinker.api.reading import read_json
from eztinker.service.training.run_directory import Run
from eztinker.types import Page

router = router_with_key()


@router.get("/runs")
async def list_runs(service: ServiceDep, owner: Owner, limit: Limit = 100, offset: Offset = 0) -> dict[str, Any]:
    found, total = await service.run_directory.page(owner, Page(offset=offset, limit=limit))
    return {"runs": [_as_json(run) for run in found], "cursor": cursor(offset, limit, total)}


@router.get("/runs/{run}")
async def get_run(run: str, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    return _as_json(await service.run_directory.one(owner, run))


@router.patch("/runs/{run}")
async def label_run(run: str, request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    """Set a run's name or note; null clears a field, and a field that is left out stays."""
    body = await read_json(request, LabelRunBody)
    return _as_json(await service.run_directory.label(owner, run, body.changes()))


def _as_json(run: Run) -> dict[str, Any]:
    first, newest, last = run.first, run.models[0], run.last_checkpoint
    return {
        "run_id": run.run_id,
        "name": first.name,
        "note": first.note,
        "base_model": newest.base_model,
        "lora_rank": newest.rank,
        "num_steps": run.num_steps,
        "last_loss": run.last_loss,
        "created_at": first.created_at.isoformat(),
        "last_request_time": newest.last_request_at.isoformat(),
        "model_ids": [model.model_id for model in run.models],
        "last_checkpoint": None if last is None else checkpoint_as_json(last, newest.base_model),
    }
