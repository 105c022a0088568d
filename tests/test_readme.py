"""The README's examples work as shown."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from pathlib import Path
from typing import Any

import pytest

from greenroom.testing import engine_pool

ROOT = Path(__file__).parent.parent


def test_the_first_example_prints_the_output_shown_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GREENROOM_POOL", "bubblewrap:")
    shown = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    code, expected = shown.groups()
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {})  # the README's own code
    assert output.getvalue() == expected
    assert (tmp_path / "sales.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "page",
    [
        "ci.md",
        "executions.md",
        "forking.md",
        "logs.md",
        "node.md",
        "progress.md",
        "ready-instances.md",
        "saas.md",
        "shell.md",
        "telemetry.md",
        "testing.md",
        "tools.md",
        "web-service.md",
    ],
)
def test_the_programs_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GREENROOM_POOL", "bubblewrap:")
    names: dict[str, Any] = {}
    text = (ROOT / "docs" / page).read_text()
    for code, shown in re.findall(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", text, re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(code, names)  # the page's own code
        assert not shown or output.getvalue() == shown
    for name, check in list(names.items()):
        if name.startswith("test_") or name == "check_the_page":
            check(**{fixture: request.getfixturevalue(fixture) for fixture in inspect.signature(check).parameters})


def test_every_local_link_of_the_documents_leads_somewhere() -> None:
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    documents = [ROOT / path for path in found if not any(part.startswith(".") for part in path.parts)]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert not broken
