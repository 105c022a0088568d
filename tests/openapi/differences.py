"""The accepted differences from Microsoft's OpenAPI documents: `differences.toml`. It runs in Schemathesis, too."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("differences.toml")


@dataclass(frozen=True)
class Difference:
    """Something in which a strict server differs from the documents, and why."""

    request: str
    document: str
    """What the documents declare."""
    server: str
    """What the server does."""
    reason: str
    kind: str
    """Schemathesis's name for the failure. The fields below narrow it, each by an expression for the whole text."""
    operation: str = ".*"
    """Of the document, such as `GET /files`."""
    version: str = ".*"
    status: str = ".*"
    target: str = ".*"
    """The field of the request that the server's error names."""
    message: str = ".*"
    """Of Schemathesis or of the server's error; a part of it is enough."""
    by_chance: bool = False
    """Whether some runs do not meet it."""

    def accepts(self, failure: dict[str, str]) -> bool:
        """Whether it covers a failure, which has this class's fields from `kind` to `message`."""
        exact = ("kind", "operation", "version", "status", "target")
        return all(re.fullmatch(getattr(self, name), failure[name]) for name in exact) and bool(
            re.search(self.message, failure["message"], re.DOTALL)
        )


def load() -> dict[str, Difference]:
    """Return the list, by names."""
    table: dict[str, Any] = tomllib.loads(PATH.read_text())
    return {name: Difference(**fields) for name, fields in table.items()}
