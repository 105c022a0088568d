"""Every rule is stated as a rule: `<subject> must …`, with the value that breaks it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import greenroom
from greenroom import EngineUnavailable, InvalidRequest, PoolSettings
from greenroom.azure.settings import AzureSettings, parse_endpoint
from greenroom.config import sources
from greenroom.config.values import parse_size
from greenroom.engines import registry
from greenroom.local_files import local_path, open_to_read
from greenroom.notebook import run_notebook
from greenroom.sessions import rules
from greenroom.testing import memory_pool


def _pool(**options: Any) -> PoolSettings:
    return PoolSettings.parse(options)


def _in_session(call: Callable[[greenroom.Session], object]) -> object:
    with memory_pool(ready_session_instances=0) as pool, pool.session() as session:
        return call(session)


BROKEN: dict[str, tuple[Callable[[], object], str]] = {
    "identifier": (lambda: rules.check_identifier("a b"), "'a b'"),
    "path, outside": (lambda: rules.check_path("../x"), "'../x'"),
    "path, too long": (lambda: rules.check_path("x" * 5000), "'xxx"),
    "path, type": (lambda: rules.check_path(3), "int"),  # pyright: ignore[reportArgumentType]
    "path, of a file": (lambda: rules.check_file_path("."), "'.'"),
    "code, type": (lambda: rules.check_code(3), "int"),  # pyright: ignore[reportArgumentType]
    "code, empty": (lambda: rules.check_code(" "), "' '"),
    "code, encoding": (lambda: rules.check_code("\ud800"), "surrogates"),
    "code, size": (lambda: rules.check_code("x" * (17 << 20)), "16 MiB"),
    "timeout, sign": (lambda: rules.check_timeout(-1), "-1"),
    "timeout, type": (lambda: rules.check_timeout("soon"), "'soon'"),  # pyright: ignore[reportArgumentType]
    "timeout, most": (lambda: rules.check_timeout(5000), "5000"),
    "limit": (lambda: rules.check_limit(-1), "-1"),
    "size": (lambda: parse_size("lots", "memory"), "'lots'"),
    "size, sign": (lambda: parse_size(0, "memory"), "0"),
    "option, size": (lambda: _pool(memory="lots"), "'lots'"),
    "option, least": (lambda: _pool(timeout=0), "0"),
    "option, most": (lambda: _pool(timeout=5000), "5000"),
    "option, number": (lambda: _pool(cpu="many"), "'many'"),
    "option, whole number": (lambda: _pool(pids=16.5), "16.5"),
    "option, choice": (lambda: _pool(lifecycle="endless"), "'endless'"),
    "option, network": (lambda: _pool(network="maybe"), "'maybe'"),
    "option, count": (lambda: _pool(ready_session_instances="few"), "'few'"),
    "option, container type": (lambda: _pool(container_type="Pascal"), "'Pascal'"),
    "options together": (lambda: _pool(max_concurrent_sessions=3, ready_session_instances=5), "(5)"),
    "engine's option": (lambda: registry.plugin("docker").engine({"docker_host": 3}), "3"),
    "Docker host": (lambda: greenroom.connect("docker:?docker_host=localhost:2375"), "'localhost:2375'"),
    "scheme": (lambda: greenroom.connect("podman:"), "'podman'"),
    "URL": (lambda: greenroom.connect("docker"), "'docker'"),
    "URL, type": (lambda: greenroom.connect(3), "int"),  # pyright: ignore[reportArgumentType]
    "URL, repeated": (lambda: greenroom.connect("docker:?image=a&image=b"), "image"),
    "configuration": (lambda: sources.from_file(__file__), "test_error_form.py"),
    "Azure, version": (lambda: AzureSettings.parse({"api_version": "1999"}), "'1999'"),
    "Azure, user": (lambda: parse_endpoint("https://user:secret@example.com"), "user"),
    "Azure, fragment": (lambda: parse_endpoint("https://example.com/#part"), "'https://example.com/#part'"),
    "Azure, plain": (lambda: parse_endpoint("http://example.com"), "'http://example.com'"),
    "Azure, not a pool": (lambda: parse_endpoint("https://x.dynamicsessions.io/"), "'https://x.dynamicsessions.io/'"),
    "local path": (lambda: local_path("\0"), "'\\x00'"),
    "local file": (lambda: open_to_read(Path("/dev/null")), "'/dev/null'"),
    "upload, path": (lambda: _in_session(lambda session: session.upload(b"x")), "path"),
    "upload, source": (lambda: _in_session(lambda session: session.upload(3)), "int"),  # pyright: ignore[reportArgumentType]
    "upload, text": (lambda: _in_session(lambda session: session.upload(io.StringIO("x"), "x")), "str"),  # pyright: ignore[reportArgumentType]
    "recursive": (lambda: _in_session(lambda session: session.files(recursive=3)), "3"),  # pyright: ignore[reportArgumentType]
    "notebook": (lambda: _in_session(lambda session: run_notebook({"cells": 3}, session)), "notebook"),
    "budget": (lambda: greenroom.Execution("1", "succeeded").text_for_model(3), "3"),
}  # fmt: skip


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_stated_with_the_value(rule: str) -> None:
    call, value = BROKEN[rule]
    with pytest.raises((InvalidRequest, EngineUnavailable)) as caught:
        call()
    message = str(caught.value)
    assert " must " in message or " cannot " in message, message
    assert value in message
    assert " is not valid" not in message
    assert "secret" not in message
