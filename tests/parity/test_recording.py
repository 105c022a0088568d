"""The recorded requests of Azure's command line get the recorded answers."""

from __future__ import annotations

import contextlib
import json
import re
from http.client import HTTPConnection
from typing import Any, cast

import httpx
import pytest

from .recording import CURRENT, ENDPOINT, LEGACY, Exchange

GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z")


def shape(body: Any) -> Any:
    """The body, with a word in place of what is another each time: ids, moments, durations."""
    if isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        return [
            (name, "a number" if name == "executionTimeInMilliseconds" and isinstance(value, int) else shape(value))
            for name, value in fields.items()
        ]
    if isinstance(body, list):
        return [shape(item) for item in cast("list[Any]", body)]
    if isinstance(body, str) and GUID.fullmatch(body):
        return "an id"
    return "a moment" if isinstance(body, str) and TIME.fullmatch(body) else body


@pytest.mark.parametrize("exchanges", [LEGACY, CURRENT], ids=["2024-02-02-preview", "2024-10-02-preview"])
def test_the_recorded_requests_get_the_recorded_answers(exchanges: list[Exchange], lenient: httpx.Client) -> None:
    authorization = {"Authorization": lenient.headers["Authorization"]}
    for exchange in exchanges:
        with contextlib.closing(HTTPConnection(lenient.base_url.host, lenient.base_url.port, timeout=30)) as connection:
            headers = {**authorization, **exchange.headers}
            connection.request(exchange.method, ENDPOINT + exchange.target, exchange.body or None, headers)
            response = connection.getresponse()
            answer = response.read().decode()
        assert response.status == exchange.status, answer
        assert response.headers.get("Content-Type") == exchange.content_type
        assert exchange.answer_headers <= {name.lower() for name in response.headers}
        if exchange.content_type and exchange.content_type.startswith("application/json"):
            assert shape(json.loads(answer)) == shape(json.loads(exchange.answer))
        else:
            assert answer == exchange.answer
