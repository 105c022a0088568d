"""A local managed identity, so that `DefaultAzureCredential` finds one without Azure."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@contextmanager
def managed_identity() -> Generator[dict[str, str], None, None]:
    """Give tokens to Azure clients, by the protocol of an App Service; yield the variables that point clients here.

    Only a server without authentication accepts the tokens.
    """
    secret = secrets.token_hex()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            resource = parse_qs(urlsplit(self.path).query).get("resource", [""])[0]
            known = secrets.compare_digest(self.headers.get("X-IDENTITY-HEADER", "").encode(), secret.encode())
            token = {
                "access_token": "a-token-of-a-test",
                "expires_on": str(int(time.time()) + 3600),
                "resource": resource,
                "token_type": "Bearer",
            }
            content = json.dumps(token if known else {"message": "The secret is another."}).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="managed identity")
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/msi/token"
            yield {"IDENTITY_ENDPOINT": url, "IDENTITY_HEADER": secret}
        finally:
            server.shutdown()
            thread.join()
