"""What the tests of the adapters work with."""

import ast
import contextlib
import inspect
import io
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greenroom import SessionPool
from greenroom.adapters import default
from greenroom.testing import ScriptedBackend, engine_pool, scripted_pool


@pytest.fixture
def backend() -> ScriptedBackend:
    """What the pool says and remembers."""
    return ScriptedBackend()


@pytest.fixture
def pool(backend: ScriptedBackend) -> Iterator[SessionPool]:
    """A pool in which nothing runs."""
    with scripted_pool(backend) as pool:
        yield pool


@pytest.fixture(scope="session")
def sandboxes() -> Iterator[SessionPool]:
    """A pool of real sandboxes."""
    with engine_pool("bubblewrap:", preload=()) as pool:
        yield pool


async def run_page(page: Path, names: dict[str, Any]) -> None:
    """Run the Python blocks of a document in order, as a notebook's cells: in one namespace, with top-level await.

    Where a block of plain text follows one, that is what it prints.
    """
    found = re.findall(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", page.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no examples"  # noqa: S101  a test's
    for number, (code, shown) in enumerate(found, 1):
        cell = compile(code, f"{page.name}, example {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            running = eval(cell, names)  # noqa: S307  our own documents
            if inspect.isawaitable(running):
                await running
        assert output.getvalue() == shown, f"{page.name}, example {number}"  # noqa: S101


@pytest.fixture
def page(sandboxes: SessionPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Awaitable[None]]:
    """Runs a document's examples over the sandboxes, in a directory of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("greenroom.connect", lambda: sandboxes)
    monkeypatch.setattr(default._default, "pool", sandboxes)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return lambda path: run_page(Path(__file__).parents[1] / path, {})
