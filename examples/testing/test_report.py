"""The application's tests: two that need no sandbox, and three that run code for real, or are skipped."""

from __future__ import annotations

import json
import os
import urllib.request

import pytest
from report import CODE, totals

import greenroom
from greenroom.testing import ScriptedBackend

CSV = b"region,amount\nnorth,1\nsouth,2\nnorth,3\n"


def test_the_result_is_returned(
    greenroom_script: ScriptedBackend, greenroom_scripted_pool: greenroom.SessionPool
) -> None:
    greenroom_script.answers[CODE] = greenroom.Execution("1", "succeeded", result="{'north': 4}")
    assert totals(greenroom_scripted_pool, CSV) == "{'north': 4}"


def test_an_error_of_the_code_is_reported(
    greenroom_script: ScriptedBackend, greenroom_scripted_pool: greenroom.SessionPool
) -> None:
    error = greenroom.ExecutionError("KeyError", "'region'")
    greenroom_script.answers[CODE] = greenroom.Execution("1", "failed", error=error)
    with pytest.raises(ValueError, match="not understood: 'region'"):
        totals(greenroom_scripted_pool, CSV)


def test_the_code_returns_the_right_totals(greenroom_pool: greenroom.SessionPool) -> None:
    assert totals(greenroom_pool, CSV) == "{'north': 4, 'south': 2}"


def test_a_session_keeps_its_variables(greenroom_session: greenroom.Session) -> None:
    greenroom_session.execute("x = 20")
    assert greenroom_session.execute("x + 1").result == "21"


def test_a_client_of_azure_runs_offline(azure_sessions_endpoint: str) -> None:
    """Any client does: here, the one that Python brings."""
    assert os.environ["ACA_POOL_MANAGEMENT_ENDPOINT"] == azure_sessions_endpoint
    request = urllib.request.Request(
        f"{azure_sessions_endpoint}/executions?api-version=2025-10-02-preview&identifier=test-1234",
        json.dumps({"codeInputType": "Inline", "executionType": "Synchronous", "code": "6 * 7"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response)["result"]["executionResult"] == 42
