"""How runs and checkpoints look in listings, and how links are written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from eztinker.api.listing import checkpoint_as_json, cursor, run_as_json, signed_url
from eztinker.oplog.rows import Checkpoint, Model, ModelStatus
from eztinker.service.accounts.signed_links import Signature
from eztinker.service.training.run_listings import RunListing
from eztinker.types import CheckpointKind

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CHECKPOINT = Checkpoint(
    checkpoint_id="c",
    owner="ann",
    model_id="s:train:0",
    kind=CheckpointKind.TRAINING,
    name="a",
    size_bytes=7,
    step=3,
    user_metadata={"k": "v"},
    created_at=NOW,
    expires_at=None,
)
MODEL = Model(
    model_id="s:train:0",
    owner="ann",
    session_id="s",
    base_model="tiny",
    rank=4,
    train_attn=True,
    train_mlp=True,
    train_unembed=False,
    user_metadata={"text": "a", "number": 1},
    created_at=NOW,
    last_request_at=NOW,
)


@pytest.mark.parametrize(
    ("kind", "path", "checkpoint_type"),
    [
        (CheckpointKind.TRAINING, "weights/a", "training"),
        (CheckpointKind.SAMPLER, "sampler_weights/a", "sampler"),
        (CheckpointKind.EXTERNAL, "external_weights/a", "external"),
    ],
)
def test_a_checkpoint_is_told_by_its_path(kind: CheckpointKind, path: str, checkpoint_type: str):
    shown = checkpoint_as_json(msgspec.structs.replace(CHECKPOINT, kind=kind, expires_at=NOW), "tiny")
    assert shown == {
        "checkpoint_id": path,
        "checkpoint_type": checkpoint_type,
        "time": "2026-01-02T03:04:05+00:00",
        "tinker_path": f"tinker://s:train:0/{path}",
        "base_model": "tiny",
        "size_bytes": 7,
        "public": False,
        "user_metadata": {"k": "v"},
        "expires_at": "2026-01-02T03:04:05+00:00",
    }
    assert checkpoint_as_json(CHECKPOINT, "tiny")["expires_at"] is None


@pytest.mark.parametrize(
    ("status", "is_corrupted"),
    [
        (ModelStatus.ACTIVE, False),
        (ModelStatus.UNLOADED, False),
        (ModelStatus.LOST, True),
        (ModelStatus.FAILED, True),
    ],
)
def test_a_run_is_told_with_its_newest_checkpoints_and_whether_it_broke(status: ModelStatus, is_corrupted: bool):
    model = msgspec.structs.replace(MODEL, status=status)
    shown = run_as_json(RunListing(model=model, last_checkpoint=CHECKPOINT, last_sampler_checkpoint=None))
    assert shown["corrupted"] is is_corrupted
    assert shown["last_checkpoint"] == checkpoint_as_json(CHECKPOINT, "tiny")
    assert shown["last_sampler_checkpoint"] is None
    assert shown["user_metadata"] == {"text": "a", "number": "1"}
    assert (shown["training_run_id"], shown["model_owner"], shown["lora_rank"]) == ("s:train:0", "ann", 4)


def test_a_link_is_absolute_and_carries_what_opens_it():
    async def link(request: Request) -> JSONResponse:
        signature = Signature(expires=5, signature="a b")
        return JSONResponse(signed_url(request, "file", signature, name="x/y z"))

    async def file(request: Request) -> JSONResponse:
        return JSONResponse(request.path_params | dict(request.query_params))

    routes = [Route("/link", link), Route("/files/{name:path}", file, name="file")]
    client = TestClient(Starlette(routes=routes), base_url="http://server:8000")
    url: str = client.get("/link").json()
    assert url.startswith("http://server:8000/files/")
    opened: dict[str, Any] = client.get(url).json()
    assert opened == {"name": "x/y z", "expires": "5", "signature": "a b"}


def test_a_cursor_says_where_the_page_is():
    assert cursor(20, 10, 25) == {"offset": 20, "limit": 10, "total_count": 25}
