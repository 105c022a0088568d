"""An index of packages that a test makes: tiny wheels and sources, served on the loopback; and a registry of npm's."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PURE = "py3-none-any"


def wheel(
    name: str,
    version: str = "1.0",
    *,
    code: str = "",
    requires: Sequence[str] = (),
    command: bool = False,
    files: Mapping[str, str] | None = None,
    tag: str = PURE,
) -> tuple[str, bytes]:
    """A wheel's name and content: a module, further files, and perhaps a command that calls the module's `main`."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content = {
        f"{name}.py": code,
        **(files or {}),
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {each}\n" for each in requires),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        **({f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n"} if command else {}),
    }
    record = "".join(
        f"{path},sha256={_urlsafe(hashlib.sha256(text.encode()).digest())},{len(text.encode())}\n"
        for path, text in content.items()
    )
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in {**content, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return f"{name}-{version}-{tag}.whl", made.getvalue()


def source(name: str, version: str = "1.0", *, setup: str = "") -> tuple[str, bytes]:
    """A source distribution's name and content; `setup` is its setup.py, which a build would run."""
    return f"{name}-{version}.tar.gz", _tarball(
        {
            f"{name}-{version}/setup.py": setup or f"from setuptools import setup; setup(name={name!r})",
            f"{name}-{version}/PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        }
    )


def node_package(name: str, files: Mapping[str, str], **about: Any) -> tuple[str, bytes]:
    """The name and content of a package of npm's."""
    described = {"name": name, "version": "1.0.0", "main": "index.js", **about}
    content = {"package.json": json.dumps(described), **files}
    return f"{name}-1.0.0.tgz", _tarball({f"package/{path}": text for path, text in content.items()})


def node_lock(registry: str, packages: Mapping[str, bytes], **about: Mapping[str, Any]) -> str:
    """A package-lock.json; `about` has further properties of its packages, or others in place of ours."""
    entries: dict[str, Any] = {"": {"name": "a", "version": "1.0.0", "dependencies": dict.fromkeys(packages, "1.0.0")}}
    for name, content in packages.items():
        entries[f"node_modules/{name}"] = {
            "version": "1.0.0",
            "resolved": f"{registry}/{name}-1.0.0.tgz",
            "integrity": _integrity(content),
            **about.get(name, {}),
        }
    return json.dumps({"name": "a", "version": "1.0.0", "lockfileVersion": 3, "requires": True, "packages": entries})


@dataclass
class Index:
    """What is served, by the names of the files."""

    directory: Path
    url: str = ""
    requested: list[str] = field(default_factory=list[str])

    def page(self, name: str) -> str:
        """The files of a package with their hashes, as an index has them."""
        return "".join(
            f'<a href="/{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{path.name}</a>\n'
            for path in sorted(self.directory.glob(f"{name}-*"))
        )

    def packument(self, name: str) -> str:
        """What a registry of npm's says of a package: nothing if there is none."""
        path = self.directory / f"{name}-1.0.0.tgz"
        if not path.is_file():
            return ""
        dist = {"tarball": f"{self.url}/{path.name}", "integrity": _integrity(path.read_bytes())}
        versions = {"1.0.0": {"name": name, "version": "1.0.0", "dist": dist}}
        return json.dumps({"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": versions})

    @property
    def simple(self) -> str:
        """The URL of the index."""
        return f"{self.url}/simple"

    def add(self, file: tuple[str, bytes]) -> bytes:
        """Add a file, or replace it; return its content."""
        name, content = file
        (self.directory / name).write_bytes(content)
        return content


@contextlib.contextmanager
def served(directory: Path) -> Generator[Index, None, None]:
    """Serve a directory on the loopback; below `/simple`, it is an index of packages."""
    index = Index(directory)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            index.requested.append(self.path)
            parts = self.path.strip("/").split("/")
            if parts[0] == "simple":
                kind, page = "text/html", index.page(parts[1] if len(parts) > 1 else "").encode()
            elif (directory / parts[0]).exists():
                super().do_GET()
                return
            else:
                kind, page = "application/json", index.packument(parts[0]).encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(directory)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    index.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield index
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _tarball(files: Mapping[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


def _integrity(content: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"


def _urlsafe(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
