"""Each error of the Azure client's rules states the rule and the value that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from greenroom import InvalidRequest
from greenroom.azure.codecs import current, legacy
from greenroom.azure.codecs.requests import decode_fields
from greenroom.azure.codecs.shared import Malformed, multipart_frame, quote_segment, session_path, upload_path
from greenroom.azure.credentials import FixedToken
from greenroom.azure.settings import AzureSettings, check_proxy, parse_endpoint

from .scripted import ENDPOINT, Azure, answered, pool_of

FILE = {"name": "a", "sizeInBytes": 1, "lastModifiedAt": "2024-11-11T09:05:02Z"}


def option(name: str, value: object) -> Callable[[], object]:
    return lambda: AzureSettings.parse({name: value})


def field(name: str, value: object) -> Callable[[], object]:
    return lambda: decode_fields({"code": "1", name: value})


def execute(**options: Any) -> Callable[[], object]:
    def call() -> object:
        with pool_of(Azure(), **options) as pool:
            return pool.session("abcd").execute("1", timeout=221)

    return call


RULES: dict[str, tuple[Callable[[], object], str]] = {
    "endpoint: user": (lambda: parse_endpoint("https://user:secret@example.com/p"), "example.com/p"),
    "endpoint: host": (lambda: parse_endpoint("https:///p"), "'https:///p'"),
    "endpoint: label": (lambda: parse_endpoint("https://xn--.example/"), "'https://xn--.example/'"),
    "endpoint: fragment": (lambda: parse_endpoint("https://example.com/#x"), "'https://example.com/#x'"),
    "endpoint: port": (lambda: parse_endpoint("https://example.com:port/"), "'https://example.com:port/'"),
    "endpoint: plain http": (lambda: parse_endpoint("http://example.com/"), "'http://example.com/'"),
    "endpoint: Azure": (lambda: parse_endpoint("https://e.dynamicsessions.io"), "'https://e.dynamicsessions.io'"),
    "proxy: scheme": (lambda: check_proxy("socks5://user:secret@h:1"), "'socks5://h'"),
    "proxy: port": (lambda: check_proxy("http://user:secret@h:port"), "'h:port'"),
    "ssl_context": (option("ssl_context", "x"), "'x'"),
    "api_version": (option("api_version", "2020-01-01"), "'2020-01-01'"),
    "timeout": (option("timeout", 0), "0"),
    "acquire_timeout": (option("acquire_timeout", -1), "-1"),
    "output_limit": (option("output_limit", "much"), "'much'"),
    "file_limit": (option("file_limit", 0), "0"),
    "api_key": (lambda: FixedToken("the-secret\n"), "api_key"),  # a secret is not repeated
    "a long execution": (execute(api_version="2024-02-02-preview"), "221"),
    "a directory": (lambda: legacy.list_files("/mnt/data/sub"), "'/mnt/data/sub'"),
    "a path": (lambda: session_path("../x"), "'../x/'"),
    "a file name": (lambda: upload_path("/"), "'/'"),
    "a segment": (lambda: quote_segment("\udcff"), "'\\udcff'"),
    "a header": (lambda: multipart_frame("a\nb", "x"), "'a\\nb'"),
    "code": (field("code", 5), "5"),
    "base64": (lambda: decode_fields({"code": "%", "codeInputType": "InlineBase64"}), "'%'"),
    "timeoutInSeconds": (field("timeoutInSeconds", "soon"), "'soon'"),
    "outputStreamsMaxLength": (field("outputStreamsMaxLength", -1), "-1"),
    "executionType": (field("executionType", "later"), "'later'"),
    "returnJupyterFormat": (field("returnJupyterFormat", "yes"), "'yes'"),
    "a body": (lambda: current.decode_execute_request([]), "list"),
    "properties": (lambda: current.decode_execute_request({"properties": {}}), "'properties'"),
    "no properties": (lambda: legacy.decode_execute_request({}), "'properties'"),
}


@pytest.mark.parametrize(("broken", "value"), RULES.values(), ids=RULES)
def test_error_states_rule(broken: Callable[[], object], value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"\b(must|cannot)\b") as caught:
        broken()
    assert value in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "is not valid" not in str(caught.value)


@pytest.mark.parametrize(("body", "rule"), [([1], "an object, not list"), ({"value": 1}, "an array, not int")])
def test_malformed_files_are_refused_with_the_expected_type(body: Any, rule: str) -> None:
    with pytest.raises(Malformed, match=f"must have {rule}"):
        legacy.decode_files(body, "")


def test_a_response_that_breaks_a_rule_is_an_error_that_states_it() -> None:
    azure = Azure(answered({"value": [{**FILE, "name": ".."}]}))
    with pool_of(azure) as pool, pytest.raises(Exception, match=r"cannot be read: '\.\.' is not a valid file name"):
        pool.session("abcd").files()
    assert azure.requests[0].url.startswith(ENDPOINT)
