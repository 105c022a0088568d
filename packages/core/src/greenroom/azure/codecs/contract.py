"""The common interface of the two contracts, which the modules `legacy` and `current` implement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from greenroom.azure.codecs import current, legacy
from greenroom.azure.codecs.shared import Call, ExecuteRequest, Json, Pending, is_legacy
from greenroom.models import Execution, RemoteFile


class Contract(Protocol):
    """One contract: clients encode requests and decode responses; servers decode requests and encode responses.

    Decoders of requests raise `BadRequest`, decoders of responses `Malformed`.
    """

    # Executions

    def encode_execute_request(self, request: ExecuteRequest, version: str) -> Call: ...

    def decode_execute_request(self, body: Json) -> ExecuteRequest: ...

    def encode_execution(
        self, execution: Execution, identifier: str, request: ExecuteRequest, version: str
    ) -> Json: ...

    def decode_execution(self, body: Json, *, timeout: float | None) -> Execution | Pending: ...

    # Files: the requests, then the bodies of responses

    def list_files(self, directory: str, *, recursive: bool = False) -> Call: ...

    def upload_file(self, path: str) -> tuple[Call, str]: ...

    def get_file(self, path: str) -> Call: ...

    def download_file(self, path: str) -> Call: ...

    def delete_file(self, path: str) -> Call: ...

    def encode_files(self, files: Sequence[RemoteFile], directory: str, version: str) -> Json: ...

    def decode_files(self, body: Json, directory: str) -> list[RemoteFile]: ...

    def encode_uploaded(self, file: RemoteFile, version: str) -> Json: ...

    def decode_uploaded(self, body: Json, path: str) -> RemoteFile: ...

    def encode_file(self, file: RemoteFile, version: str) -> Json: ...

    def decode_file(self, body: Json, path: str) -> RemoteFile: ...


LEGACY: Contract = legacy
CURRENT: Contract = current


def contract_of(version: str) -> Contract:
    """The contract of an API version."""
    return LEGACY if is_legacy(version) else CURRENT
