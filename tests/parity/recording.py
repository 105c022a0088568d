"""Real traffic of Azure's command line.

Recorded by Microsoft against pools in northcentralusstage, published in Azure/azure-cli-extensions,
src/containerapp/azext_containerapp/tests/latest/recordings/test_containerapp_session_code_interpreter_e2e.yaml:
of 2024-02-02-preview on 16 May 2024 (commit bfca9eeb96d52aa2975af6c0d2369dc5c85bbb96), of 2024-10-02-preview on
11 November 2024 (commit 0f0d987314ec023ebe1783b0461c7ebac8c16241). Credentials, user agents and the endpoint before
each target are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

ENDPOINT = "/subscriptions/sub/resourceGroups/rg/sessionPools/pool"

_JSON = "application/json; charset=utf-8"
_TIMES = frozenset(
    {
        "x-ms-allocation-retries",
        "x-ms-allocation-time",
        "x-ms-container-execution-duration",
        "x-ms-execution-read-response-time",
        "x-ms-execution-request-time",
        "x-ms-overall-execution-time",
        "x-ms-preparation-time",
        "x-ms-session-guid",
        "x-ms-total-execution-service-time",
    }
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer."""

    method: str
    target: str
    status: int
    content_type: str | None = None
    """Of the answer."""
    answer: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the request."""
    body: bytes = b""
    answer_headers: frozenset[str] = frozenset()
    """The names of those that belong to the service, not to its web server."""


class _Upload(TypedDict):
    headers: Mapping[str, str]
    body: bytes


def _upload_of_cert(boundary: str) -> _Upload:
    """An upload as Python's requests writes it: the part has no content type."""
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="cert.txt"\r\n\r\n'
        f"testing\r\n--{boundary}--\r\n"
    )
    return {"headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"}, "body": body.encode()}


_LEGACY = "identifier=testidentifier000005&api-version=2024-02-02-preview"
_LEGACY_FILE = (
    '"properties":{"$id":"%s","filename":"cert.txt","size":7,"lastModifiedTime":"2024-05-16T01:25:49.3717303Z"}'
)
_LEGACY_FILES = '{"$id":"1","value":[{"$id":"2",' + _LEGACY_FILE % "3" + "}]}"

LEGACY = [
    Exchange(
        "POST",
        f"/code/execute?{_LEGACY}",
        headers={"Content-Type": "application/json"},
        body=b'{"properties": {"identifier": "testidentifier000005", "codeInputType": "inline", '
        b'"executionType": "synchronous", "code": "print(\\"Hello world\\")", "timeoutInSeconds": 60}}',
        status=200,
        content_type=_JSON,
        answer='{"$id":"1","properties":{"$id":"2","status":"Success","stdout":"Hello world\\n","stderr":"",'
        '"result":"","executionTimeInMilliseconds":35}}',
        answer_headers=_TIMES,
    ),
    Exchange(
        "POST",
        f"/files/upload?{_LEGACY}",
        **_upload_of_cert("47598ac8e3c34248e59da176140da65e"),
        status=200,
        content_type=_JSON,
        answer=_LEGACY_FILES,
    ),
    Exchange("GET", f"/files?{_LEGACY.replace('&', '&path=&')}", status=200, content_type=_JSON, answer=_LEGACY_FILES),
    Exchange(
        "GET",
        f"/files/content/cert.txt?{_LEGACY}",
        status=200,
        content_type="application/octet-stream",
        answer="testing",
    ),
    Exchange(
        "GET",
        f"/files/cert.txt?{_LEGACY}",
        status=200,
        content_type=_JSON,
        answer='{"$id":"1",' + _LEGACY_FILE % "2" + "}",
    ),
    Exchange("DELETE", f"/files/cert.txt?{_LEGACY}", headers={"Content-Length": "0"}, status=204),
]

CURRENT = [
    Exchange(
        "POST",
        "/executions?identifier=testidentifier000003&api-version=2024-10-02-preview",
        headers={"Content-Type": "application/json"},
        body=b'{"codeInputType": "inline", "executionType": "synchronous", "code": "print(\\"Hello world\\")", '
        b'"timeoutInSeconds": 60}',
        status=202,
        content_type=_JSON,
        answer='{"$id":"1","id":"8148371f-18fe-4cfd-8ca8-20246d469817","identifier":"testidentifier000003",'
        '"executionType":"synchronous","status":"Succeeded","result":{"$id":"2","stdout":"Hello world\\n",'
        '"stderr":"","executionResult":"","executionTimeInMilliseconds":7}}',
        answer_headers=_TIMES | {"api-supported-versions"},
    ),
    Exchange(
        "POST",
        "/files?identifier=testidentifier000003&api-version=2024-10-02-preview",
        **_upload_of_cert("a3530a9b2b2e38af60ace02f28ded2ef"),
        status=200,
        content_type=_JSON,
        answer='{"$id":"1","name":"cert.txt","type":"","contentType":"","sizeInBytes":7,'
        '"lastModifiedAt":"2024-11-11T09:05:02.4865293Z"}',
    ),
    Exchange(
        "GET",
        "/files?identifier=testidentifier000003&path=&api-version=2024-10-02-preview",
        status=200,
        content_type=_JSON,
        answer='{"$id":"1","value":[{"$id":"2","name":"cert.txt","type":"file",'
        '"contentType":"text/plain; charset=utf-8","sizeInBytes":7,"lastModifiedAt":"2024-11-11T09:05:02.4865293Z"}]}',
    ),
    Exchange(
        "GET",
        "/files/cert.txt/content?identifier=testidentifier000003&api-version=2024-10-02-preview",
        status=200,
        content_type="application/octet-stream",
        answer="testing",
    ),
]
