"""Tokenizers for clients without a model hub: set HF_ENDPOINT to this server, and `from_pretrained` finds them here.

The routes follow the hub's protocol as far as loading a tokenizer goes. They need no key, which the hub's client would
not send, and serve nothing but the tokenizer files of served models.
"""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, JSONResponse

from eztinker.api.auth import ServiceDep
from eztinker.errors import ModelNotServed
from eztinker.redaction import without_secrets
from eztinker.service.service import Catalog

router = APIRouter()

TOKENIZER_FILES = frozenset(
    {
        "config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "generation_config.json",
    }
)
LLAMA_3, LLAMA_3_TOKENIZER = "meta-llama/Llama-3", "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"
"""Prefix of model names, and the repository from which clients load the tokenizer of each such model."""


@router.get("/{repository:path}/resolve/{revision}/{file_name}")
@router.head("/{repository:path}/resolve/{revision}/{file_name}")
async def tokenizer_file(repository: str, revision: str, file_name: str, service: ServiceDep) -> Response:
    """A tokenizer file of a served model, whatever revision is asked for."""
    directory = _directory_of(service.catalog, repository)
    if directory is None:
        return _absent("RepoNotFound", f"The base model {repository!r} is not served here")
    path = directory / file_name
    if file_name not in TOKENIZER_FILES or not path.is_file():
        return _absent("EntryNotFound", f"{file_name!r} is no tokenizer file of {repository!r}")
    return FileResponse(path, headers={"X-Repo-Commit": _commit(directory)})


@router.get("/api/models/{rest:path}")
async def repository_listing(rest: str) -> Response:
    """Answer 404, after which clients ask for the files they know: this server lists no repositories."""
    return _absent("EntryNotFound", "This server lists no repositories; it has the tokenizer files of its base models")


def _directory_of(catalog: Catalog, repository: str) -> Path | None:
    for model in catalog:
        if repository == LLAMA_3_TOKENIZER and model.name.startswith(LLAMA_3):
            return model.directory
    try:
        return catalog.get(repository).directory
    except ModelNotServed:
        return None


def _commit(directory: Path) -> str:
    """A commit hash for the repository, which changes as soon as a file does, so that the client's cache notices."""
    stats = {name: (directory / name).stat() for name in sorted(TOKENIZER_FILES) if (directory / name).is_file()}
    state = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()]
    return hashlib.sha256(repr(state).encode()).hexdigest()[:40]


def _absent(code: str, sentence: str) -> JSONResponse:
    """A 404 in the form of a model hub, with the sentence also where our other routes have it."""
    headers = {"X-Error-Code": code, "X-Error-Message": code}
    sentence = without_secrets(sentence)
    return JSONResponse({"error": sentence, "detail": sentence}, status_code=HTTPStatus.NOT_FOUND, headers=headers)
