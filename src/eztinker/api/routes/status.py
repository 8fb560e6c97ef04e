"""The server's present activity and resources, for `eztinker status`."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from eztinker import __version__
from eztinker.api.auth import Owner, ServiceDep, router_with_key
from eztinker.protocol.frames import Ready
from eztinker.service.execution.process_memory import resident_bytes
from eztinker.types import Page

router = router_with_key()


@router.get("/status")
async def status(service: ServiceDep, owner: Owner) -> dict[str, Any]:
    """Activity, queue and rates of the whole server, and numbers of the caller's own runs and checkpoints."""
    nothing = Page(offset=0, limit=0)
    _, num_runs = await service.run_directory.page(owner, nothing)
    _, num_checkpoints = await service.checkpoints.of_owner(owner, nothing)
    work = service.engine.in_hand
    waiting = max(0, service.futures.num_unsettled - work.num_samples - work.num_training)
    return {
        "version": __version__,
        "models": service.catalog.names,
        "runs": num_runs,
        "checkpoints": num_checkpoints,
        "engine": await asyncio.to_thread(_engine, service.engine.ready),
        "activity": {"samples": work.num_samples, "training": work.num_training},
        "queue": waiting,
        "tokens_per_second": {
            kind.value: round(rate, 1) for kind, rate in service.futures.activity.tokens_per_second().items()
        },
        "memory_bytes": resident_bytes(os.getpid()),
    }


def _engine(ready: Ready | None) -> dict[str, Any]:
    if ready is None:
        return {"state": "starting"}
    return {
        "state": "ready",
        "pid": ready.pid,
        "device": ready.device,
        "dtype": ready.dtype,
        "num_threads": ready.num_threads,
        "kernels": ready.kernels,
        "memory_bytes": resident_bytes(ready.pid),
    }
