"""Notebooks as files: a directory for each user, an `.ipynb` for each notebook. Its methods block."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from pathlib import Path
from typing import Any

import nbformat

from code_service.problems import Problem

_ID = re.compile(r"[0-9a-f]{32}")
_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
_nbformat: Any = nbformat  # its types are partly unknown


class Store:
    """The notebooks of all users."""

    def __init__(self, directory: Path, *, most_notebooks: int, most_bytes: int) -> None:
        """
        Args:
            directory: the directory for the notebooks, created if missing.
            most_notebooks: the maximum number of notebooks per user.
            most_bytes: the maximum size of a notebook with its outputs.
        """
        self._directory, self._most_notebooks, self._most_bytes = directory, most_notebooks, most_bytes

    def ids(self, user: str) -> list[str]:
        """The notebooks of a user, the oldest first."""
        found = sorted(self._of(user).glob("*.ipynb"), key=lambda path: (path.stat().st_ctime_ns, path.name))
        return [path.stem for path in found]

    def create(self, user: str) -> str:
        """Make an empty notebook, and return its id.

        Raises:
            Problem: the user has too many.
        """
        if len(self.ids(user)) >= self._most_notebooks:
            raise Problem(409, "too_many_notebooks", f"You have {self._most_notebooks} notebooks. Delete one first.")
        id_ = uuid.uuid4().hex
        self._of(user).mkdir(parents=True, exist_ok=True)
        self._write(self._of(user) / f"{id_}.ipynb", _nbformat.v4.new_notebook(metadata={"kernelspec": _KERNEL}))
        return id_

    def load(self, user: str, id_: str) -> dict[str, Any]:
        """Return a notebook.

        Raises:
            Problem: the user has no such notebook.
        """
        try:
            return json.loads(self._path(user, id_).read_bytes())
        except FileNotFoundError:
            raise _missing() from None

    def save(self, user: str, id_: str, notebook: dict[str, Any]) -> None:
        """Write a notebook atomically.

        Raises:
            Problem: it is too large, or was deleted.
        """
        path = self._path(user, id_)
        if not path.exists():
            raise _missing()
        self._write(path, notebook)

    def delete(self, user: str, id_: str) -> None:
        """Delete a notebook.

        Raises:
            Problem: the user has no such notebook.
        """
        try:
            self._path(user, id_).unlink()
        except FileNotFoundError:
            raise _missing() from None

    def _write(self, path: Path, notebook: dict[str, Any]) -> None:
        _nbformat.validate(notebook)
        content = json.dumps(notebook, indent=1).encode()
        if len(content) > self._most_bytes:
            message = f"The notebook must have at most {self._most_bytes:,} bytes with its outputs. Begin another one."
            raise Problem(413, "too_large", message)
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        part.write_bytes(content)
        part.replace(path)

    def _of(self, user: str) -> Path:
        # A user's name can be any text, a directory's name cannot.
        return self._directory / hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()

    def _path(self, user: str, id_: str) -> Path:
        if not _ID.fullmatch(id_):
            raise _missing()
        return self._of(user) / f"{id_}.ipynb"


def _missing() -> Problem:
    return Problem(404, "no_such_notebook", "You have no such notebook.")
