"""Listings and deletions over a server's REST API.

Plain HTTP, because the official SDK takes seconds to import; commands that train or sample go through `eztinker.rl`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from eztinker.addresses import is_loopback
from eztinker.client_settings import require_server
from eztinker.errors import EZTinkerError, InvalidInput, NotFound, ServerError, ServerUnreachable

if TYPE_CHECKING:
    import httpx

SCHEME = "tinker://"
_PAGE_SIZE = 100
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One training run."""

    run_id: str
    newest: dict[str, Any]
    """The Tinker model that carries it now."""
    model_ids: list[str] = field(default_factory=list)
    """All that carried it, newest first."""


class RestClient:
    """Reads and deletes what a server keeps. Answers are the JSON objects of the Tinker API."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def models(self) -> list[dict[str, Any]]:
        return self._call("GET", "get_server_capabilities")["supported_models"]

    def runs(self) -> list[Run]:
        """Newest first; one that several Tinker models carried on stands once."""
        runs: dict[str, Run] = {}
        for model in self._pages("training_runs"):
            run = runs.setdefault(_run_id(model), Run(run_id=_run_id(model), newest=model))
            run.model_ids.append(model["training_run_id"])
        return list(runs.values())

    def checkpoints(self, run_id: str | None = None) -> list[dict[str, Any]]:
        """All checkpoints, or those of one run.

        Raises:
            NotFound: no run has this id.
        """
        if run_id is None:
            return self._pages("checkpoints")
        model_ids = [id_ for run in self.runs() if run_id in (run.run_id, *run.model_ids) for id_ in run.model_ids]
        if not model_ids:
            raise NotFound(f"No training run {run_id!r} on this server; see: eztinker runs")
        return [each for id_ in model_ids for each in self._call("GET", f"{_path_of(id_)}/checkpoints")["checkpoints"]]

    def tokenizer_directory(self, model_id: str) -> str:
        """Where the tokenizer of a Tinker model lies; the sampling clients of the SDK only ask the hub."""
        return self._call("POST", "get_info", json={"model_id": model_id})["model_data"]["tokenizer_id"]

    def delete_checkpoint(self, run_id: str, checkpoint_id: str) -> None:
        """Delete one checkpoint; `checkpoint_id` is `<kind>/<name>`, as listings give it."""
        self._call("DELETE", f"{_path_of(run_id)}/checkpoints/{quote(checkpoint_id)}")

    def archive(self, path: str) -> bytes:
        """The adapter of a checkpoint as a PEFT folder in a tar file."""
        run_id, checkpoint_id = split_path(path)
        return self._send("GET", f"{_path_of(run_id)}/checkpoints/{quote(checkpoint_id)}/archive").content

    def import_adapter(self, archive: bytes, *, base_model: str, name: str) -> dict[str, Any]:
        """Make a checkpoint of such an archive: its `tinker_path`, and a `warning` or None."""
        params = {"base_model": base_model, "name": name}
        return self._send("POST", "import_adapter", params=params, content=archive).json()

    def _pages(self, what: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._call("GET", what, params={"limit": _PAGE_SIZE, "offset": len(found)})[what]
            found += page
            if len(page) < _PAGE_SIZE:
                return found

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        response = self._send(method, path, **request)
        return response.json() if response.content else {}

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        import httpx

        try:
            response = self._http.request(method, f"/api/v1/{path}", follow_redirects=True, **request)
        except httpx.HTTPError as error:
            raise ServerUnreachable(f"The server at {self._http.base_url} stopped answering: {error}") from error
        if response.is_error:
            raise _refusal(response)
        return response


@contextmanager
def rest_client() -> Iterator[RestClient]:
    """A client for the server that `client_settings` names.

    Raises:
        ServerUnreachable: it does not answer.
    """
    import httpx

    settings = require_server()
    with httpx.Client(
        base_url=settings.base_url,
        headers={"X-API-Key": settings.api_key},
        timeout=_TIMEOUT_SECONDS,
        trust_env=not is_loopback(urlsplit(settings.base_url).hostname or ""),  # no proxy stands before this machine
    ) as http:
        yield RestClient(http)


def split_path(path: str) -> tuple[str, str]:
    """The run and the `<kind>/<name>` of a tinker:// path."""
    run_id, _, checkpoint_id = path.removeprefix(SCHEME).partition("/")
    if checkpoint_id.count("/") != 1:
        raise InvalidInput(f"A checkpoint looks like tinker://RUN/weights/NAME, got {path!r}")
    return run_id, checkpoint_id


def _run_id(model: dict[str, Any]) -> str:
    """The id `eztinker.rl` gave the run this Tinker model belongs to; the model's own where another program made it."""
    from eztinker.rl.runs import RUN_KEY

    for holder in (model, model.get("last_checkpoint") or {}):
        named = (holder.get("user_metadata") or {}).get(RUN_KEY)
        if named:
            return named
    return model["training_run_id"]


def _path_of(model_id: str) -> str:
    return f"training_runs/{quote(model_id, safe='')}"


def _refusal(response: httpx.Response) -> EZTinkerError:
    """The server's own sentence where it gave one."""
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"The server answered {response.status_code} to {response.request.url.path}"
    if response.status_code == 401:
        message = f"The server refused the key ({message}); set EZTINKER_API_KEY to its key"
    return NotFound(message) if response.status_code == 404 else ServerError(message)
