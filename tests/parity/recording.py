"""Real traffic of Azure's command line, on 2024-10-02-preview.

Recorded by Microsoft on 11 November 2024 against a pool in northcentralusstage, published in
Azure/azure-cli-extensions, src/containerapp/azext_containerapp/tests/latest/recordings/
test_containerapp_session_code_interpreter_e2e.yaml. Of the requests' headers only the content type is known; the
endpoint, `EP` there, stands before each target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ENDPOINT = "/subscriptions/sub/resourceGroups/rg/sessionPools/pool"

_BOUNDARY = "a3530a9b2b2e38af60ace02f28ded2ef"
_JSON = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer."""

    method: str
    target: str
    status: int
    content_type: str
    """Of the answer."""
    answer: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the request."""
    body: bytes = b""
    answer_headers: frozenset[str] = frozenset()
    """The names of those that belong to the service, not to its web server."""


EXCHANGES = [
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
        answer_headers=frozenset(
            {
                "api-supported-versions",
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
        ),
    ),
    Exchange(
        "POST",
        "/files?identifier=testidentifier000003&api-version=2024-10-02-preview",
        headers={"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"},
        body=(
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="cert.txt"\r\n\r\n'
            f"testing\r\n--{_BOUNDARY}--\r\n"
        ).encode(),
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
