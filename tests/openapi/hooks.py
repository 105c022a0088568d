"""What Schemathesis loads: how requests are made useful, and which failures are accepted."""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import schemathesis

sys.path.insert(0, str(Path(__file__).parent))

from differences import load
from documents import IDENTIFIER

ACCEPTED, VERSION = Path(os.environ["GREENROOM_OPENAPI_ACCEPTED"]), os.environ["GREENROOM_OPENAPI_VERSION"]
SESSIONS = ["openapi", "openapi-2", """a|}{[]:";'<>?/.,@#$%^&*()-+=!~`_Z9"""]
DIFFERENCES = load()
MOST = 220  # seconds, by Microsoft's documentation
PYTHON = re.compile(r"\b(Session|SessionPool|ExecutionHandle|greenroom)\.\w|\w\(\)")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Use few sessions; and keep half of the bodies to the rules that the documents have in words alone."""
    identifier = (case.query or {}).get("identifier")
    if isinstance(identifier, str) and re.fullmatch(IDENTIFIER, identifier):
        # A story is about one session: a file that was deleted there can be in another one.
        story = case.meta is not None and case.meta.phase.name.value == "stateful"
        case.query["identifier"] = SESSIONS[0 if story else _number(identifier) % len(SESSIONS)]
    if case.operation.label == "POST /executions" and _is_positive(case) and _number(case.body) % 2:
        case.body.pop("execCommandAndArgs", None)
        case.body["timeoutInSeconds"] = 1 + abs(case.body["timeoutInSeconds"]) % MOST
        if case.body.get("codeInputType") == "InlineBase64":
            case.body["codeInputType"] = "InlineText"
        if not case.body.get("shellCommand", "true").strip():
            case.body["shellCommand"] = "exit 3"
        if not {"code", "shellCommand"} & case.body.keys():
            case.body["code"] = "1 + 1"


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Leave out a failure that is accepted, and note by what."""
    error = _error(response)
    found = {
        "kind": type(failure).__name__,
        "operation": str(case.operation.label),
        "version": VERSION,
        "status": str(response.status_code),
        "target": str(error.get("target", "")),
        "message": f"{failure.message}\n{error.get('message', '')}",
    }
    names = [name for name, difference in DIFFERENCES.items() if difference.accepts(found)]
    with ACCEPTED.open("a") as file:
        file.writelines(f"{name}\n" for name in names)
    return not names


@schemathesis.check
def error_is_for_clients_of_the_http_api(context: Any, response: Any, case: Any) -> None:
    """An error has its code in the header too, and names nothing of the Python API."""
    if response.status_code < 400:
        return
    error = _error(response)
    code = (response.headers.get("x-ms-error-code") or [""])[0]
    assert code == error["code"], f"The header has {code!r}, the body {error['code']!r}."
    rule = re.split(", (?:not|as) ", error["message"])[0]  # then follows what the client sent
    assert not PYTHON.search(rule), f"The message names what clients do not know: {error['message']}"


def _error(response: Any) -> dict[str, Any]:
    try:
        body = json.loads(response.content)
    except ValueError:
        return {}
    return body.get("error", body) if response.status_code >= 400 and isinstance(body, dict) else {}


def _is_positive(case: Any) -> bool:
    return case.meta is not None and case.meta.generation.mode.value == "positive" and isinstance(case.body, dict)


def _number(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode())
