"""Models of the hub, where there is no network: what is in the cache is found, and all else refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from eztinker.base_models.hub import cached_snapshot, download_snapshot
from eztinker.errors import DataNotFound


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def test_the_snapshot_that_a_cache_points_to_is_found(cache: Path):
    repository = cache / "models--org--tiny"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert cached_snapshot("org/tiny") == snapshot


@pytest.mark.parametrize("name", ["org/absent", "no/such/name", "", "a b"])
def test_what_is_not_there_is_none_and_cannot_be_had(name: str):
    assert cached_snapshot(name) is None
    with pytest.raises(
        DataNotFound, match=r"could not be had from the hub \(.+\); check the name, or fetch it elsewhere"
    ):
        download_snapshot(name)
