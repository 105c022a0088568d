"""`greenroom run` in a pool that is called over HTTP, however it is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from greenroom.cli.app import app
from greenroom.testing.engines import skipping_without
from greenroom.testing.server import serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ExitStack() as stack:
        with skipping_without("bubblewrap:"):
            address = stack.enter_context(serving("bubblewrap:", ready_session_instances=0, preload=()))
        yield address


def test_a_program_runs_where_pool_says(url: str) -> None:
    result = CliRunner().invoke(app, ["run", "-c", "print(6 * 7)", "--pool", url])
    assert (result.exit_code, result.stdout) == (0, "42\n"), result.exception


def test_a_program_runs_where_the_environment_says(url: str) -> None:
    result = CliRunner().invoke(app, ["run", "-c", "print(6 * 7)"], env={"GREENROOM_POOL": url})
    assert (result.exit_code, result.stdout) == (0, "42\n"), result.exception


def test_a_program_runs_where_the_configuration_says(url: str, tmp_path: Path) -> None:
    (tmp_path / "greenroom.toml").write_text(f'[pool]\nurl = "{url}"\n')
    settings = {"GREENROOM_CONFIG": str(tmp_path / "greenroom.toml"), "GREENROOM_POOL": ""}
    result = CliRunner().invoke(app, ["run", "-c", "print(6 * 7)"], env=settings)
    assert (result.exit_code, result.stdout) == (0, "42\n"), result.exception


def test_a_failed_command_has_exit_code_1(url: str) -> None:
    result = CliRunner().invoke(app, ["run", "-c", "1 / 0", "--pool", url])
    assert result.exit_code == 1
    assert "ZeroDivisionError: division by zero" in result.stderr
