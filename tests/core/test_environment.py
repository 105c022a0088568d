"""Environment variables: their rules, their sources, and that no value is shown anywhere."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import greenroom
from greenroom.backend import Overrides, ShellCommand
from greenroom.config.environment import MAX_SIZE, Environment
from greenroom.local import PoolSettings
from greenroom.runner.protocol import MAX_BODY, MAX_HEADER, HostOrder, encode
from greenroom.testing import memory_pool

from .plugins import IN_MEMORY, only_engines

SECRET = "hunter2-\N{SNOWMAN}"

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True).filter(lambda name: not name.startswith("LD_"))
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)


@given(st.dictionaries(names, values, max_size=10))
def test_variables_that_keep_the_rules_are_taken_as_they_are(variables: dict[str, str]) -> None:
    environment = Environment.parse(variables)
    assert dict(environment) == variables
    assert environment == Environment.parse(copy.deepcopy(environment)) == pickle.loads(pickle.dumps(environment))
    assert len({environment, Environment.parse(variables)}) == 1
    for order in (
        HostOrder.environment(environment),
        HostOrder.execute(1, "x", text_limit=1, output_limit=1, env=environment),
        HostOrder.shell(1, "x", stdin=b"y", text_limit=1, env=environment),
    ):
        encode(*order)


@given(st.dictionaries(st.text(max_size=20) | st.integers() | st.none(), st.text() | st.binary() | st.integers()))
@example({"A=B": SECRET})
@example({"": SECRET})
@example({"a\0b": SECRET})
@example({"1A": SECRET})
@example({"A B": SECRET})
@example({"\ud800": SECRET})
@example({"A\n": SECRET})
@example({"Ä": SECRET})
@example({"A" * 201: SECRET})
@example({"A": SECRET + "\0"})
@example({"A": SECRET + "\ud800"})
@example({"A": 5})
@example({"A": SECRET * MAX_SIZE})
@example({f"A{number}": SECRET for number in range(MAX_SIZE)})
@example({"LD_PRELOAD": SECRET})
@example({"LD_LIBRARY_PATH": SECRET})
def test_all_other_variables_are_refused_without_showing_a_value(variables: dict[Any, Any]) -> None:
    refused: list[ValueError] = []
    try:
        kept = Environment.parse(variables)
    except ValueError as error:
        refused.append(error)
    else:
        assert dict(kept) == variables
        assert all("\0" not in name + value and "=" not in name for name, value in kept.items())
    for error in refused:
        assert str(error).startswith("must ")
        assert SECRET not in str(error)
        assert error.__cause__ is None


def test_the_largest_variables_fit_into_a_frame() -> None:
    largest = Environment.parse({"A": "\1" * (MAX_SIZE - 3)})
    for header, body in (
        HostOrder.environment(largest),
        HostOrder.shell(1, "x" * (16 << 20), stdin=bytes(16 << 20), text_limit=1, env=largest),
    ):
        assert len(encode(header)) < MAX_HEADER
        assert len(body) < MAX_BODY
    with pytest.raises(ValueError, match="at most 65,536 bytes"):
        Environment.parse({"A": "\1" * (MAX_SIZE - 2)})


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("TZ=UTC", {"TZ": "UTC"}),
        ("TZ=UTC,LANG=C,EMPTY=", {"TZ": "UTC", "LANG": "C", "EMPTY": ""}),
        ("A=b=c d", {"A": "b=c d"}),
        ('{"A": "x,y", "B": "1"}', {"A": "x,y", "B": "1"}),
        ("", {}),
    ],
)
def test_variables_can_be_written_as_text(text: str, variables: dict[str, str]) -> None:
    assert dict(PoolSettings.parse({"env": text}).env) == variables


def test_every_source_of_options_has_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_engines(monkeypatch, memory=IN_MEMORY)
    config = tmp_path / "greenroom.toml"
    config.write_text('[pool]\nurl = "memory:"\nenv = { A = "file", B = "x,y" }\n')

    def seen(**options: Any) -> str:
        with greenroom.connect(preload=(), ready_session_instances=0, **options) as pool:
            return pool.session().shell('echo "$A $B"').stdout

    assert seen(config=config) == "file x,y\n"
    assert seen(url="memory:?env=A=url") == "url \n"
    assert seen(url="memory:", env={"A": "argument"}) == "argument \n"
    monkeypatch.setenv("GREENROOM_ENV", "A=environment,B=2")
    assert seen(url="memory:") == "environment 2\n"


@pytest.mark.parametrize(
    "url",
    [
        "memory:?env=A%00={0}", "memory:?env={0}", "memory:?env=%7B{0}", "memory:?env=LD_X={0}", "memory:?evn=A={0}",
        "memory:x?env=A={0}", "memory://x?env=A={0}", "memory:?env=A={0}&env=A={0}", "memory:?env=A={0}&timeout=0",
        "http://[?env=A={0}", "https://x.example/?env=A={0}", "nothing:?env=A={0}", "?env=A={0}",
    ],
)  # fmt: skip
def test_no_error_about_a_url_shows_a_value(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only_engines(monkeypatch, memory=IN_MEMORY)
    with pytest.raises((greenroom.InvalidRequest, greenroom.EngineUnavailable)) as caught:
        greenroom.connect(url.format(SECRET))
    shown = "".join(traceback.format_exception_only(caught.value))
    assert SECRET not in shown


def test_no_value_is_shown_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    env = {"PASSWORD": SECRET}
    parsed = Environment.parse(env)
    shown: list[Any] = [parsed, Overrides(env=parsed), ShellCommand("true", env=parsed)]
    shown.append(PoolSettings.parse({"env": env}))
    with memory_pool(env=env) as pool, pool.session(env=env) as session:
        shown += [pool, session, session.execute("1", env=env), session.shell("true", env=env), session.info()]
        shown += [session.shell("exit 1", env=env).text_for_model(), session.submit("1", env=env).result()]
        shown += [pool.sessions(), pool.status()]
        assert session.shell("printf %s $PASSWORD", env={"OTHER": SECRET}).stdout == SECRET, "it was set"
        for bad in ({"A": SECRET + "\0"}, {"LD_A": SECRET}, {SECRET: SECRET}, [SECRET], SECRET, {"A": [SECRET]}):
            untyped: Any = bad
            with pytest.raises(greenroom.InvalidRequest) as caught:
                session.execute("1", env=untyped)
            shown.append("".join(traceback.format_exception(caught.value)))
            with pytest.raises(greenroom.InvalidRequest) as caught:
                pool.session(env=untyped)
            shown.append(caught.value)
        with pytest.raises(greenroom.InvalidRequest, match="together must have at most") as caught:
            pool.session(env={"A": "x" * (MAX_SIZE - 10)})
        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(session.ashell("sleep 60", env=env), 0.2))
    everything = "\n".join([*map(repr, shown), *map(str, shown), caplog.text])
    assert SECRET not in everything
    assert repr(SECRET)[1:-1] not in everything
