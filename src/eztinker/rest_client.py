"""Runs, listings and deletions over a server's REST API: what local tools ask without training or sampling.

Plain HTTP, because the official SDK takes seconds to import and knows nothing of runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


class RestClient:
    """Reads and deletes what a server keeps. Answers are the JSON objects of the Tinker API."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def models(self) -> list[dict[str, Any]]:
        return self._call("GET", "get_server_capabilities")["supported_models"]

    def runs(self) -> list[dict[str, Any]]:
        """Every run, begun last first; one that several Tinker models have carried stands once."""
        return self._pages("runs")

    def run(self, reference: str) -> dict[str, Any]:
        """The run with this id or name, or with a Tinker model of this id.

        Raises:
            NotFound: there is none.
        """
        try:
            return self._call("GET", _path_of_run(reference))
        except NotFound as error:
            raise NotFound(f"No run {reference} on this server; 'eztinker runs' lists those it has") from error

    def label_run(self, reference: str, changes: Mapping[str, str | None]) -> dict[str, Any]:
        """Give a run another `name` or `note`; None takes it away."""
        return self._call("PATCH", _path_of_run(self.run(reference)["run_id"]), json=changes)

    def checkpoints(self, reference: str | None = None) -> list[dict[str, Any]]:
        """All checkpoints, or those of one run, newest first, each with its run's id and with a `path` that has it.

        A `path` leads to the newest of its name; an older one that another model of the run has saved under the same
        name keeps the path of that model.

        Raises:
            NotFound: there is no such run.
        """
        runs = self.runs() if reference is None else [self.run(reference)]
        run_ids = {model_id: run["run_id"] for run in runs for model_id in run["model_ids"]}
        taken: set[str] = set()
        found = []
        for checkpoint in self._pages("checkpoints"):
            model_id, checkpoint_id = split_path(checkpoint["tinker_path"])
            if model_id in run_ids:
                path = f"{SCHEME}{run_ids[model_id]}/{checkpoint_id}"
                shown = checkpoint["tinker_path"] if path in taken else path
                taken.add(path)
                found.append({"path": shown, "run_id": run_ids[model_id], **checkpoint})
        return found

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


def _path_of(model_id: str) -> str:
    return f"training_runs/{quote(model_id, safe='')}"


def _path_of_run(reference: str) -> str:
    return f"runs/{quote(reference, safe='')}"


def _refusal(response: httpx.Response) -> EZTinkerError:
    """The server's own sentence where it gave one."""
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"The server answered {response.status_code} to {response.request.url.path}"
    if response.status_code == 401:
        message = f"The server refused the key ({message}); set EZTINKER_API_KEY to its key"
    if response.status_code == 404:
        return NotFound(message)
    return InvalidInput(message) if response.status_code in (400, 409, 413, 422) else ServerError(message)
