"""Listings and deletions over a server's REST API.

Plain HTTP, because the official SDK takes seconds to import; commands that train or sample go through `eztinker.rl`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from eztinker.client_settings import require_server
from eztinker.errors import EZTinkerError, NotFound, ServerError, ServerUnreachable

if TYPE_CHECKING:
    import httpx

_PAGE_SIZE = 100
_TIMEOUT_SECONDS = 30.0


class RestClient:
    """Reads and deletes what a server keeps. Answers are the JSON objects of the Tinker API."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def models(self) -> list[dict[str, Any]]:
        return self._call("GET", "get_server_capabilities")["supported_models"]

    def runs(self) -> list[dict[str, Any]]:
        return self._pages("training_runs")

    def checkpoints(self, run_id: str | None = None) -> list[dict[str, Any]]:
        """All checkpoints, or those of one run, newest first."""
        if run_id is None:
            return self._pages("checkpoints")
        return self._call("GET", f"training_runs/{quote(run_id, safe='')}/checkpoints")["checkpoints"]

    def delete_checkpoint(self, run_id: str, checkpoint_id: str) -> None:
        """Delete one checkpoint; `checkpoint_id` is `<kind>/<name>`, as listings give it."""
        self._call("DELETE", f"training_runs/{quote(run_id, safe='')}/checkpoints/{quote(checkpoint_id)}")

    def _pages(self, what: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._call("GET", what, limit=_PAGE_SIZE, offset=len(found))[what]
            found += page
            if len(page) < _PAGE_SIZE:
                return found

    def _call(self, method: str, path: str, **params: int) -> dict[str, Any]:
        import httpx

        try:
            response = self._http.request(method, f"/api/v1/{path}", params=params)
        except httpx.HTTPError as error:
            raise ServerUnreachable(f"The server at {self._http.base_url} stopped answering: {error}") from error
        if response.is_error:
            raise _refusal(response)
        return response.json() if response.content else {}


@contextmanager
def rest_client() -> Iterator[RestClient]:
    """A client for the server that `client_settings` names.

    Raises:
        ServerUnreachable: it does not answer.
    """
    import httpx

    settings = require_server()
    headers = {"X-API-Key": settings.api_key}
    with httpx.Client(base_url=settings.base_url, headers=headers, timeout=_TIMEOUT_SECONDS) as http:
        yield RestClient(http)


def _refusal(response: httpx.Response) -> EZTinkerError:
    """The server's own sentence where it gave one."""
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"The server answered {response.status_code} to {response.request.url.path}"
    if response.status_code == 401:
        message = f"The server refused the key ({message}); set EZTINKER_API_KEY to its key"
    return NotFound(message) if response.status_code == 404 else ServerError(message)
