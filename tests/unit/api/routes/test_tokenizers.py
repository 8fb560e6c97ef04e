"""Tokenizer files of served models, in the protocol of a model hub."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from fastapi.testclient import TestClient

from eztinker.api.app import create_app
from eztinker.api.routes.tokenizers import LLAMA_3_TOKENIZER, TOKENIZER_FILES
from eztinker.base_models.catalog import Catalog
from eztinker.settings.server_config import ServerConfig
from tests.servers import SCRIPTED_BASE_MODEL


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        (folder / name).write_text(f"{name} of the model")
    return folder


@pytest.fixture
def hub(directory: Path, tmp_path: Path) -> TestClient:
    """The application with two models and nothing else behind it."""
    names = ("org/tiny", "meta-llama/Llama-3.2-1B")
    models = [msgspec.structs.replace(SCRIPTED_BASE_MODEL, name=name, directory=directory) for name in names]
    catalog = Catalog(models)
    app = create_app(ServerConfig.model_validate({"data_dir": tmp_path / "data"}), catalog)
    app.state.service = SimpleNamespace(catalog=catalog)
    return TestClient(app, base_url="http://127.0.0.1")


@pytest.mark.parametrize("repository", ["org/tiny", "meta-llama/Llama-3.2-1B", LLAMA_3_TOKENIZER])
@pytest.mark.parametrize("revision", ["main", "0123abc"])
def test_a_tokenizer_file_is_had_without_a_key(hub: TestClient, repository: str, revision: str):
    answer = hub.get(f"/{repository}/resolve/{revision}/tokenizer.json")
    assert (answer.status_code, answer.text) == (200, "tokenizer.json of the model")
    head = hub.head(f"/{repository}/resolve/{revision}/tokenizer.json")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["x-repo-commit"] == answer.headers["x-repo-commit"]


def test_a_changed_file_is_another_commit(hub: TestClient, directory: Path):
    path = "/org/tiny/resolve/main/tokenizer.json"
    before = hub.get(path).headers["x-repo-commit"]
    assert len(before) == 40
    (directory / "tokenizer.json").write_text("another, longer one")
    assert hub.get(path).headers["x-repo-commit"] != before


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.json", "..", "%2e%2e%2fconfig.json"])
def test_nothing_but_tokenizer_files_that_are_there_can_be_had(hub: TestClient, name: str):
    assert name not in TOKENIZER_FILES or name == "vocab.json"
    answer = hub.get(f"/org/tiny/resolve/main/{name}")
    assert answer.status_code in (400, 404)
    if answer.status_code == 404 and "x-error-code" in answer.headers:
        assert answer.headers["x-error-code"] == "EntryNotFound"


def test_what_is_not_served_is_told_in_the_hubs_words(hub: TestClient):
    answer = hub.get("/org/other/resolve/main/tokenizer.json")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RepoNotFound")
    assert "'org/other' is not served here" in answer.json()["detail"]
    assert hub.get("/api/models/org/tiny").headers["x-error-code"] == "EntryNotFound"
