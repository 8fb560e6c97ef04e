"""A client for a server's REST API, for tools that list, delete, label and sample without the official SDK.

The SDK takes seconds to import and has no notion of runs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from eztinker.errors import EZTinkerError, InvalidInput, NotFound, ServerError, ServerUnreachable, SessionEnded
from eztinker.settings.addresses import is_loopback
from eztinker.settings.client_settings import ClientSettings, client_settings, require_server

if TYPE_CHECKING:
    import httpx

SCHEME = "tinker://"
_PAGE_SIZE = 100
_TIMEOUT_SECONDS = 60.0
"""Timeout of a request, longer than the server holds a poll."""
_TOKENIZER_FILES = (
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


class RestClient:
    """A client for one server. Answers are the JSON objects of the Tinker API."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def models(self) -> list[dict[str, Any]]:
        return self._call("GET", "get_server_capabilities")["supported_models"]

    def runs(self) -> list[dict[str, Any]]:
        """All runs, newest first; a run of several Tinker models is listed once."""
        return self._pages("runs")

    def run(self, reference: str) -> dict[str, Any]:
        """The run with this id or name, or with a Tinker model of this id.

        Raises:
            NotFound: there is no such run.
        """
        unknown = f"No run {reference} on this server; 'eztinker runs' lists those it has"
        if "/" in reference:  # as in the names of base models
            raise NotFound(unknown)
        try:
            return self._call("GET", _path_of_run(reference))
        except NotFound as error:
            raise NotFound(unknown) from error

    def label_run(self, reference: str, changes: Mapping[str, str | None]) -> dict[str, Any]:
        """Set a run's `name` or `note`; None clears it."""
        return self._call("PATCH", _path_of_run(self.run(reference)["run_id"]), json=changes)

    def checkpoints(self, reference: str | None = None) -> list[dict[str, Any]]:
        """Checkpoints of all runs or of one, newest first, each with its `run_id` and a `path` that begins with it.

        Such a `path` leads to the newest checkpoint of its name; an older one that another model of the run has saved
        under the same name is listed with the path of that model.

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

    def base_model_of(self, path: str) -> str:
        """The base model under the checkpoint at a tinker:// path."""
        return self._call("POST", "weights_info", json={"tinker_path": path})["base_model"]

    def fetch_tokenizer(self, base_model: str, directory: Path) -> None:
        """Download the tokenizer files of a served model into `directory`."""
        for name in _TOKENIZER_FILES:
            response = self._answer("GET", f"/{quote(base_model)}/resolve/main/{name}")
            if response.is_success:
                (directory / name).write_bytes(response.content)

    def new_session(self, purpose: str) -> str:
        body = {"tags": [purpose], "sdk_version": "eztinker"}
        return self._call("POST", "create_session", json=body)["session_id"]

    def end_session(self, session_id: str) -> None:
        self._call("POST", f"sessions/{session_id}/finish", json={"reason": {"type": "success"}})

    def new_sampler(self, session_id: str, *, base_model: str | None = None, model_path: str | None = None) -> str:
        """Create a sampling session on a base model or a sampler checkpoint; returns its id."""
        source = {"base_model": base_model, "model_path": model_path}
        body = {"session_id": session_id, "sampling_session_seq_id": 0, **source}
        return self._call("POST", "create_sampling_session", json=body)["sampling_session_id"]

    def new_sampler_of_training(self, session_id: str, path: str, run: str) -> str:
        """Create a sampling session on a training checkpoint, through a new model of the same run; returns its id."""
        new = {"session_id": session_id, "model_seq_id": 0, "user_metadata": {"eztinker_run": run}}
        model_id = self._run_operation("load_weights", {**new, "path": path, "optimizer": False})["model_id"]
        save = {"model_id": model_id, "seq_id": 1, "sampling_session_seq_id": 0}
        return self._run_operation("save_weights_for_sampler", save)["sampling_session_id"]

    def stream_sample(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Lines of a streamed sample; closing the iterator cancels the sample.

        Raises:
            SessionEnded: the session of the sampler has expired.
        """
        import httpx

        try:
            with self._http.stream("POST", "/api/v1/stream_sample", json=body, timeout=None) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                for line in response.iter_lines():
                    piece = json.loads(line)
                    if "error" in piece:
                        raise ServerError(piece["error"]["message"])
                    yield piece
        except httpx.HTTPError as error:
            raise ServerUnreachable(f"The server at {self._http.base_url} stopped answering: {error}") from error

    def status(self) -> dict[str, Any]:
        """The server's present activity and resources."""
        return self._call("GET", "status")

    def _run_operation(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Submit an operation and wait for its result."""
        future = self._call("POST", path, json=body)["request_id"]
        while True:
            response = self._send("POST", "retrieve_future", json={"request_id": future}, accepts=(408,))
            if response.status_code != 408:
                break
        outcome = response.json()
        if "error" in outcome:
            raise ServerError(outcome["error"])
        return outcome

    def tokenizer_directory(self, model_id: str) -> str:
        """Folder or hub name of a Tinker model's tokenizer; sampling clients of the SDK only ask the hub."""
        return self._call("POST", "get_info", json={"model_id": model_id})["model_data"]["tokenizer_id"]

    def delete_checkpoint(self, run_id: str, checkpoint_id: str) -> None:
        """Delete one checkpoint; `checkpoint_id` is `<kind>/<name>`, as listings give it."""
        self._call("DELETE", f"{_path_of(run_id)}/checkpoints/{quote(checkpoint_id)}")

    def archive(self, path: str) -> bytes:
        """The adapter of a checkpoint as a PEFT folder in a tar file."""
        run_id, checkpoint_id = split_path(path)
        return self._send("GET", f"{_path_of(run_id)}/checkpoints/{quote(checkpoint_id)}/archive").content

    def import_adapter(self, archive: bytes, *, base_model: str, name: str) -> dict[str, Any]:
        """Create a checkpoint from an archive as `archive` returns it; the answer has `tinker_path` and `warning`."""
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

    def _send(self, method: str, path: str, *, accepts: Collection[int] = (), **request: Any) -> httpx.Response:
        response = self._answer(method, f"/api/v1/{path}", follow_redirects=True, **request)
        if response.is_error and response.status_code not in accepts:
            raise _refusal(response)
        return response

    def _answer(self, method: str, url: str, **request: Any) -> httpx.Response:
        import httpx

        try:
            return self._http.request(method, url, **request)
        except httpx.HTTPError as error:
            raise ServerUnreachable(f"The server at {self._http.base_url} stopped answering: {error}") from error


@contextmanager
def rest_client() -> Iterator[RestClient]:
    """A client for the server that `client_settings` names.

    Raises:
        ServerUnreachable: the server does not answer.
    """
    with _http(require_server(), _TIMEOUT_SECONDS) as http:
        yield RestClient(http)


@contextmanager
def client_with_timeout(timeout_seconds: float) -> Iterator[RestClient]:
    """A client with a short timeout that does not check first whether a server answers."""
    with _http(client_settings(), timeout_seconds) as http:
        yield RestClient(http)


def _http(settings: ClientSettings, timeout_seconds: float) -> httpx.Client:
    import httpx

    return httpx.Client(
        base_url=settings.base_url,
        headers={"X-API-Key": settings.api_key},
        timeout=timeout_seconds,
        trust_env=not is_loopback(urlsplit(settings.base_url).hostname or ""),  # no proxy stands before this machine
    )


def split_path(path: str) -> tuple[str, str]:
    """Split a tinker:// path into the run id and `<kind>/<name>`."""
    run_id, _, checkpoint_id = path.removeprefix(SCHEME).partition("/")
    if checkpoint_id.count("/") != 1:
        raise InvalidInput(f"A checkpoint looks like tinker://RUN/weights/NAME, got {path!r}")
    return run_id, checkpoint_id


def _path_of(model_id: str) -> str:
    return f"training_runs/{quote(model_id, safe='')}"


def _path_of_run(reference: str) -> str:
    return f"runs/{quote(reference, safe='')}"


def _refusal(response: httpx.Response) -> EZTinkerError:
    """An error with the server's own sentence where there is one."""
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"The server answered {response.status_code} to {response.request.url.path}"
    if response.status_code == 401:
        message = f"The server refused the key ({message}); set EZTINKER_API_KEY to its key"
    if response.status_code == 404:
        return NotFound(message)
    if response.status_code == 410:
        return SessionEnded(message)
    return InvalidInput(message) if response.status_code in (400, 409, 413, 422) else ServerError(message)
