"""A small HTTP server with state, and with every behaviour that a test needs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

STATE: dict[str, object] = {}
BEGAN = time.monotonic()
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    healthy = True

    def answer(self) -> None:
        path = urlsplit(self.path).path
        handler = getattr(self, f"on_{path.strip('/').split('/')[0] or 'root'}", None)
        if path.startswith("/status/"):
            self.reply(int(path.split("/")[2]), b"as you asked")
        elif handler is None:
            self.reply(404, b"no such path")
        else:
            handler()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = answer  # noqa: N815

    def body(self) -> bytes:
        if "chunked" in self.headers.get("transfer-encoding", ""):
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def reply(self, status: int, content: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value: object) -> None:
        self.reply(200, json.dumps(value).encode(), "application/json")

    def on_root(self) -> None:
        self.reply(200, b"hello")

    def on_state(self) -> None:
        """Store what is posted, and return everything so far."""
        if self.command == "POST":
            STATE.update(json.loads(self.body()))
        self.json(STATE)

    def on_echo(self) -> None:
        """Return the request as it arrived."""
        content = self.body()
        self.json(
            {
                "method": self.command,
                "target": self.path,
                "headers": list(self.headers.items()),
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "text": content[:1000].decode("utf-8", "replace"),
            }
        )

    def on_cookies(self) -> None:
        self.send_response(200)
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.send_header("Connection", "close, X-Private")
        self.send_header("X-Private", "of this connection")
        self.send_header("X-Mixed-CASE", "kept")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def on_events(self) -> None:
        """Send server-sent events, each once the previous one was certainly seen or after a while."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(1000):
            event = f"data: {number}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            time.sleep(0.1)

    def on_large(self) -> None:
        """Send as many bytes as the path says."""
        size = int(self.path.split("/")[2])
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        while size:
            piece = bytes(min(size, 1 << 16))
            self.wfile.write(piece)
            size -= len(piece)

    def on_socket(self) -> None:
        """Echo a WebSocket's short text messages in upper case."""
        accept = base64.b64encode(hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + GUID).digest())
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept.decode())
        self.end_headers()
        while head := self.rfile.read(2):
            size = head[1] & 127
            mask = self.rfile.read(4)
            text = bytes(byte ^ mask[place % 4] for place, byte in enumerate(self.rfile.read(size)))
            if head[0] & 15 == 8:
                break
            self.wfile.write(bytes([0x81, size]) + text.upper())
            self.wfile.flush()
        self.close_connection = True

    def on_run(self) -> None:
        """Run Python code, and return its output."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(self.body().decode(), {"__name__": "code"})
        self.reply(200, output.getvalue().encode())

    def on_garbage(self) -> None:
        self.wfile.write(b"this is not HTTP\r\n\r\n")
        self.close_connection = True

    def on_short(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
        self.close_connection = True

    def on_slow(self) -> None:
        time.sleep(600)

    def on_health(self) -> None:
        self.reply(200 if Handler.healthy else 503, b"")

    def on_sicken(self) -> None:
        Handler.healthy = False
        self.reply(200, b"")

    def on_exit(self) -> None:
        print("leaving as asked", flush=True)
        self.reply(200, b"")
        threading.Timer(0.05, os._exit, [7]).start()

    def log_request(self, code: object = None, size: object = None) -> None:
        print("request", self.path, flush=True)


if __name__ == "__main__":
    print("serving, with arguments", sys.argv[1:], flush=True)
    time.sleep(float(os.environ.get("START_DELAY", "0")))
    ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
