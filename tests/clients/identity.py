"""The managed identity of an App Service, on this machine: its protocol of 2019-08-01."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Identity:
    """Gives its token to callers that know its secret."""

    token: str
    url: str = ""
    secret: str = field(default_factory=secrets.token_hex)
    resources: list[str] = field(default_factory=list[str])
    """The resources for which tokens were requested."""

    def answer(self, path: str, secret: str | None) -> tuple[int, dict[str, str]]:
        query = parse_qs(urlsplit(path).query)
        if secret != self.secret or query.get("api-version") != ["2019-08-01"]:
            return 401, {"message": "The secret or the version is another."}
        (resource,) = query["resource"]
        self.resources.append(resource)
        expires_on = str(int(time.time()) + 3600)
        return 200, {"access_token": self.token, "expires_on": expires_on, "resource": resource, "token_type": "Bearer"}


@contextmanager
def identity_endpoint(token: str) -> Generator[Identity]:
    """An identity that answers until the end of the block."""
    identity = Identity(token)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, answer = identity.answer(self.path, self.headers["X-IDENTITY-HEADER"])
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        identity.url = f"http://127.0.0.1:{server.server_port}/msi/token"
        yield identity
        server.shutdown()
        thread.join()
