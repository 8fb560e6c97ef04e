"""Checkpoints are listed, paged, aged, overwritten and deleted through the unmodified SDK."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tinker
from tinker import types

from eztinker.service.checkpoints.collector import REMOVAL_DELAY
from tests.e2e.rest.helpers import audit, names
from tests.servers import RunningServer


def wait_for(seen: Callable[[], set[Path]]) -> set[Path]:
    """What `seen` sees once it sees something."""
    for _ in range(100):
        if found := seen():
            return found
        time.sleep(0.05)
    raise AssertionError("nothing has happened for five seconds")


def later(server: RunningServer, monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Let the server's calendar show a time to come."""
    monkeypatch.setattr(server.app.state.service.clock, "now", lambda: datetime.now(UTC) + by)


@pytest.mark.conforms(65)
def test_a_checkpoint_is_listed_with_all_it_is(rest: tinker.RestClient, trainer: tinker.TrainingClient):
    before = datetime.now(UTC)
    path = trainer.save_state("s1", ttl_seconds=7200, user_metadata={"k": "v"}).result().path
    assert path == f"tinker://{trainer.model_id}/weights/s1"
    of_run = rest.list_checkpoints(trainer.model_id).result().checkpoints
    of_user = rest.list_user_checkpoints(limit=1).result().checkpoints
    assert of_run == of_user
    (row,) = of_run
    assert (row.tinker_path, row.checkpoint_type, row.user_metadata, row.public) == (
        path,
        "training",
        {"k": "v"},
        False,
    )
    assert row.size_bytes == 2  # what the scripted engine writes
    assert before <= row.time <= datetime.now(UTC)
    assert row.expires_at is not None
    assert timedelta(seconds=7199) < row.expires_at - row.time < timedelta(seconds=7201)


@pytest.mark.conforms(73)
def test_the_lifetime_is_set_renewed_and_removed(rest: tinker.RestClient, trainer: tinker.TrainingClient):
    path = trainer.save_state("s1").result().path

    def expires_at() -> datetime | None:
        return rest.list_checkpoints(trainer.model_id).result().checkpoints[0].expires_at

    assert expires_at() is None
    rest.set_checkpoint_ttl_from_tinker_path(path, 3600).result()
    first = expires_at()
    rest.set_checkpoint_ttl_from_tinker_path(path, 3600).result()
    second = expires_at()
    assert first is not None
    assert second is not None
    assert second > first
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result()
    assert expires_at() is None
    for ttl_seconds in (3599, 10 * 365 * 24 * 3600 + 1):
        with pytest.raises(tinker.UnprocessableEntityError, match="ttl_seconds must be between 3600"):
            rest.set_checkpoint_ttl_from_tinker_path(path, ttl_seconds).result()


@pytest.mark.conforms(73)
def test_what_has_expired_is_gone_from_listings_loads_and_disk(
    server: RunningServer,
    rest: tinker.RestClient,
    admin: tinker.AdminClient,
    service: tinker.ServiceClient,
    trainer: tinker.TrainingClient,
    monkeypatch: pytest.MonkeyPatch,
):
    path = trainer.save_state("short", ttl_seconds=3600).result().path
    kept = trainer.save_state("long", ttl_seconds=10_000).result().path
    root = server.app.state.service.config.data_dir / "checkpoints"
    directories = set(root.iterdir())
    later(server, monkeypatch, timedelta(seconds=3601))
    assert names(rest, trainer) == ["weights/long"]
    assert path not in [row.tinker_path for row in rest.list_user_checkpoints(limit=1000).result().checkpoints]
    with pytest.raises(tinker.RequestFailedError, match=r"No checkpoint at .*; this run has long( |$)"):
        service.create_training_client_from_state(path).result().get_info()
    trainer.save_state("short").result()  # the name is free again
    later(server, monkeypatch, timedelta(seconds=3602) + REMOVAL_DELAY)
    gone = wait_for(lambda: directories - set(root.iterdir()))
    assert len(gone) == 1
    assert rest.get_weights_info_by_tinker_path(kept).result().lora_rank == 4
    expired = [entry for entry in audit(admin, datetime.now(UTC) + timedelta(seconds=3602)) if "expire" in entry.event]
    assert [(entry.tinker_path, entry.event_details["by"]) for entry in expired] == [(path, "server")]
    rest.delete_checkpoint_from_tinker_path(path).result()  # it would be the newest for an hour


@pytest.mark.conforms(66, 75)
def test_a_name_is_taken_until_it_is_overwritten_or_deleted(rest: tinker.RestClient, trainer: tinker.TrainingClient):
    path = trainer.save_state("s1", user_metadata={"try": "1"}).result().path
    with pytest.raises(tinker.RequestFailedError, match="exists already; choose another name"):
        trainer.save_state("s1").result()
    assert trainer.save_state("s1", overwrite=True).result().path == path
    (row,) = rest.list_checkpoints(trainer.model_id).result().checkpoints
    assert row.user_metadata is None  # not that of the one before
    rest.delete_checkpoint(trainer.model_id, "weights/s1").result()
    assert names(rest, trainer) == []
    with pytest.raises(tinker.NotFoundError):
        rest.delete_checkpoint_from_tinker_path(path).result()
    trainer.save_state("s1").result()


@pytest.mark.conforms(67)
@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 129])
def test_a_name_that_cannot_be_a_path_is_refused(trainer: tinker.TrainingClient, name: str):
    with pytest.raises(tinker.RequestFailedError, match="A checkpoint name has 1 to 128 letters"):
        trainer.save_state(name).result()


@pytest.mark.conforms(78)
def test_pages_are_newest_first_and_add_up(rest: tinker.RestClient, service: tinker.ServiceClient):
    trainers = [service.create_lora_training_client(base_model="tiny", rank=4).result() for _ in range(3)]
    paths = [trainer.save_state(f"s{n}").result().path for trainer in trainers for n in range(2)]
    total = rest.list_user_checkpoints(limit=0).result().cursor
    assert total is not None
    pages = [rest.list_user_checkpoints(limit=4, offset=offset).result() for offset in (0, 4)]
    assert [row.tinker_path for page in pages for row in page.checkpoints][:6] == paths[::-1]
    for offset, page in zip((0, 4), pages, strict=True):
        assert page.cursor == types.Cursor(offset=offset, limit=4, total_count=total.total_count)
    past = rest.list_user_checkpoints(limit=4, offset=total.total_count).result()
    assert (past.checkpoints, past.cursor) == ([], total.model_copy(update={"offset": total.total_count, "limit": 4}))
    runs = [rest.list_training_runs(limit=1, offset=offset).result() for offset in range(3)]
    assert [page.training_runs[0].training_run_id for page in runs] == [t.model_id for t in trainers[::-1]]
    assert {page.cursor.total_count for page in runs} == {rest.list_training_runs().result().cursor.total_count}
    session_id = trainers[0].model_id.partition(":")[0]
    assert rest.list_sessions(limit=1).result().sessions == [session_id]
