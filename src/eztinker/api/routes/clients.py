"""Client flags and server capabilities, which a client asks for first; and telemetry, which is discarded."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from eztinker.api.auth import Owner, ServiceDep, router_with_key
from eztinker.api.reading import MAX_JSON_BYTES, drop_body

router = router_with_key()

MAX_TELEMETRY_BYTES = 8 << 20


@router.post("/client/config")
async def client_config(request: Request, owner: Owner) -> dict[str, Any]:
    """Feature flags for the client; flags that are not named keep the client's defaults.

    The body, in which the client describes itself, is not decoded: a newer client must not fail here.
    """
    await drop_body(request, max_bytes=MAX_JSON_BYTES)
    return {
        "pjwt_auth_enabled": True,
        "parallel_fwdbwd_chunks": True,
        "proto_compress_fwdbwd": False,
        "sample_use_retrieve_futures": True,
        "sample_join_sampling_session": True,
        "custom_loss_server_side": False,
    }


@router.post("/client/dynamic_config")
async def client_dynamic_config(request: Request, owner: Owner) -> dict[str, Any]:
    await drop_body(request, max_bytes=MAX_JSON_BYTES)
    return {"refresh_interval_sec": 300, "sample_cancel_enabled": True, "sample_cancel_max_batch_size": 64}


@router.get("/get_server_capabilities")
async def get_server_capabilities(service: ServiceDep, owner: Owner) -> dict[str, Any]:
    models = [
        {
            "model_name": model.name,
            "max_context_length": model.context_length,
            "trainable": True,
            "sampleable": True,
        }
        for model in service.catalog
    ]
    return {"supported_models": models}


@router.post("/telemetry")
async def telemetry(request: Request, owner: Owner) -> dict[str, str]:
    """Accept telemetry and discard it: it may contain prompts and error texts, which are the user's own."""
    await drop_body(request, max_bytes=MAX_TELEMETRY_BYTES)
    return {"status": "accepted"}
