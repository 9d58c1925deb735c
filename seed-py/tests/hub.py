"""A model hub on this machine: what of its protocol is asked for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Its repositories, and what went wrong or was asked."""

    # Repository -> file -> content.
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    # Status that every answer has, where it is not a good one.
    status: int = 200
    # Error that a refusal names.
    error_code: str = ""
    # Whether contents arrive changed.
    damages: bool = False
    # Whether it is a hub at all, or a page that greets.
    is_hub: bool = True
    # Paths asked for, and tokens sent.
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    endpoint: str = ""

    def publish(self, name: str, folder: Path) -> None:
        """Makes a repository of a folder."""
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        self.repositories[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub that answers until the end of the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, status: int, body: bytes, headers: dict[str, str], *, size: int | None = None) -> None:
            self.send_response(status)
            for header, value in {"Content-Length": str(len(body) if size is None else size), **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            hub.asked.append(self.path)
            hub.tokens.add(self.headers.get("Authorization"))
            if hub.status != 200:
                return self.answer(hub.status, b"", {"X-Error-Code": hub.error_code} if hub.error_code else {})
            if not hub.is_hub:
                return self.answer(200, b"<html>Welcome</html>", {"Content-Type": "text/html"})
            if self.path.startswith("/api/models/"):
                name = self.path.removeprefix("/api/models/").split("/revision/")[0].split("?")[0]
                if name not in hub.repositories:
                    return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
                listing = {"sha": COMMIT, "siblings": [{"rfilename": file} for file in hub.repositories[name]]}
                return self.answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})
            name, _, rest = self.path.removeprefix("/").partition("/resolve/")
            content = hub.repositories.get(name, {}).get(rest.partition("/")[2])
            if content is None:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            if hub.damages:
                content = content[::-1]
            self.answer(200, content, headers)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
