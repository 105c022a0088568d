"""A session at a server, over HTTP, in the words of one API version; and the table of what is checked with it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import httpx

from greenroom.azure.codecs.shared import API_VERSIONS, LEGACY_VERSIONS

Evidence: TypeAlias = Literal["recorded", "documented", "client source", "measured by others", "inferred"]
ServerKind: TypeAlias = Literal["lenient", "strict", "small"]
"""The server as it is, with `--strict`, and with room for one session."""


@dataclass(frozen=True, slots=True)
class Azure:
    """One session, as a client of one API version sees it."""

    client: httpx.Client
    version: str
    identifier: str = field(default_factory=lambda: f"parity-{uuid.uuid4()}")

    @property
    def legacy(self) -> bool:
        return self.version in LEGACY_VERSIONS

    def call(self, method: str, path: str, status: int = 200, **options: Any) -> httpx.Response:
        """Send a request, and check the status of its answer. `query` adds to identifier and version."""
        query = {"identifier": self.identifier, "api-version": self.version, **options.pop("query", {})}
        response = self.client.request(method, path, params=query, **options)
        assert response.status_code == status, f"{response.status_code}: {response.text}"
        return response

    def post_code(self, code: str, **fields: Any) -> httpx.Response:
        """Run code, with further fields of the request's body."""
        if self.legacy:
            body = {"codeInputType": "inline", "executionType": "synchronous", "code": code, **fields}
            return self.call("POST", "code/execute", json={"properties": body})
        body = {"codeInputType": "Inline", "executionType": "Synchronous", "code": code, **fields}
        return self.call("POST", "executions", 202 if self.version == "2024-10-02-preview" else 200, json=body)

    def run(self, code: str, **fields: Any) -> Mapping[str, Any]:
        """Run code: `status`, `stdout`, `stderr` and, under this name in both contracts, `result`."""
        body = self.post_code(code, **fields).json()
        if self.legacy:
            return body["properties"]
        return {"status": body["status"], **body["result"], "result": body["result"]["executionResult"]}

    def upload(self, name: str, content: bytes, **query: str) -> Any:
        """Upload a file: the body of the answer."""
        path = "files/upload" if self.legacy else "files"
        return self.call("POST", path, files={"file": (name, content)}, query=query).json()

    def download(self, name: str, **query: str) -> bytes:
        path = f"files/content/{name}" if self.legacy else f"files/{name}/content"
        return self.call("GET", path, query=query).content

    def names(self, **query: str) -> list[str]:
        """The names of the files."""
        files = self.call("GET", "files", query=query).json()["value"]
        return [file["properties"]["filename"] if self.legacy else file["name"] for file in files]


Check: TypeAlias = Callable[[Azure], None]


@dataclass(frozen=True, slots=True)
class Case:
    """Something that Azure does, what is known about it, and the check whether Greenroom does it too."""

    section: str
    request: str
    evidence: Mapping[str, Evidence]
    """By the versions that have it."""
    server: ServerKind
    state: str
    """What the page says of it: `passes`, or why it is otherwise."""
    differs: bool
    check: Check

    @property
    def text(self) -> str:
        return " ".join((self.check.__doc__ or "").split())


CASES: list[Case] = []


def case(
    section: str,
    request: str,
    evidence: Sequence[Evidence | None],
    *,
    server: ServerKind = "lenient",
    state: str = "passes",
    differs: str | None = None,
) -> Callable[[Check], Check]:
    """Add a check to the table.

    Args:
        section: the heading it comes under.
        request: the operation, as the page has it.
        evidence: for each API version, in their order; `None` where the version does not have it.
        server: which server it runs against.
        state: what there is to say of a check that passes.
        differs: why Greenroom does otherwise; the check then has to fail.
    """

    def add(check: Check) -> Check:
        known: dict[str, Evidence] = {
            version: kind for version, kind in zip(API_VERSIONS, evidence, strict=True) if kind is not None
        }
        CASES.append(Case(section, request, known, server, differs or state, differs is not None, check))
        return check

    return add
