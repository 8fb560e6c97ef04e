"""As much of the Hugging Face hub as an upload of a small folder needs, on this machine and in memory."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class HubStub:
    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    """What has been committed, by `repository/path`."""


@contextmanager
def hub_stub() -> Iterator[HubStub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = hub = HubStub(f"http://127.0.0.1:{server.server_port}")  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/api/whoami-v2":
            self._answer({"name": "me", "type": "user", "orgs": []})
        else:
            self._answer({}, HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        hub: HubStub = self.server.hub  # pyright: ignore[reportAttributeAccessIssue]
        body = self._body()
        repository, _, action = self.path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            self._answer({"url": f"{hub.url}/{wanted['organization']}/{wanted['name']}"})
        elif action == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif action == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[f"{repository}/{line['value']['path']}"] = base64.b64decode(line["value"]["content"])
            self._answer({"commitUrl": f"{hub.url}/{repository}/commit/1", "commitOid": "1" * 40})
        else:
            self._answer({})

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, value: object, status: HTTPStatus = HTTPStatus.OK) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
