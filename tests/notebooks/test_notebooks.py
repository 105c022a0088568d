"""The notebooks run, and their committed outputs are up to date."""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from PIL import Image

from greenroom import InvalidRequest, SessionPool

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
AGENTS = [name for name in NAMES if name.endswith("_agent")]
WITH_CHARTS = [*AGENTS, "laptop_to_azure", "quick_start", "run_a_notebook"]

_nbformat: Any = nbformat  # its types are unknown in part


def committed(name: str) -> Any:
    return _nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def shown_text(notebook: Any) -> str:
    return "\n".join(output.get("text") or output.data.get("text/plain", "") for output in outputs(notebook))


def picture(output: Any) -> Image.Image | None:
    content = output.get("data", {}).get("image/png")
    return Image.open(io.BytesIO(base64.b64decode(content))) if content else None


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_gives_its_committed_output(build: Any, bubblewrap: SessionPool, name: str) -> None:
    if name == "untrusted_code":
        try:
            bubblewrap.session(memory="512Mi").execute("1")
        except InvalidRequest as error:  # no control groups
            pytest.skip(str(error))
    executed = build.execute(FOLDER / f"{name}.ipynb", GREENROOM_POOL="bubblewrap:")
    before = committed(name)
    assert executed.metadata == before.metadata
    for cell, expected in zip(executed.cells, before.cells, strict=True):
        assert _comparable(cell) == _comparable(expected), cell.source


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_first_cell_states_what_to_install(path: Path) -> None:
    assert "`pip install " in committed(path.stem).cells[0].source


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "untrusted_code"])  # its pool has local options
def test_a_notebook_gives_the_same_through_a_server(build: Any, served: str, name: str) -> None:
    executed = build.execute(FOLDER / f"{name}.ipynb", GREENROOM_POOL=served)
    for cell, expected in zip(executed.cells, committed(name).cells, strict=True):
        assert _comparable(cell) == _comparable(expected), cell.source


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_states_that_its_model_is_scripted(name: str) -> None:
    first = next(cell for cell in committed(name).cells if cell.cell_type == "code")
    assert "a scripted model" in first.outputs[0].text
    assert "GREENROOM_DEMO_MODEL" in first.outputs[0].text


@pytest.mark.parametrize("name", WITH_CHARTS)
def test_a_notebook_contains_a_chart_that_is_not_empty(name: str) -> None:
    (chart,) = filter(None, map(picture, outputs(committed(name))))
    assert chart.format == "PNG"
    assert chart.width >= 500
    colours = chart.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None
    assert len(colours) > 100, "lines, their labels and their smooth edges"


def test_no_response_to_one_user_contains_the_secret_of_another() -> None:
    notebook = committed("untrusted_code")
    answers = [line for line in shown_text(notebook).splitlines() if "swordfish" in line]
    assert answers == ["""(200, {'stdout': '', 'result': "'swordfish'", 'images': []})"""], "hers alone"
    asked = next(cell.source for cell in notebook.cells if "swordfish" in str(cell.get("outputs", "")))
    assert asked.splitlines()[-2] == 'print(await run("user-alice", "secret"))'


def test_an_analysis_prints_the_same_on_a_laptop_and_over_the_api_of_azure() -> None:
    runs = [cell for cell in committed("laptop_to_azure").cells if "chart = analyse(pool)" in cell.source]
    laptop, azure = [[output.text for output in cell.outputs if output.output_type == "stream"] for cell in runs]
    assert laptop == azure
    assert "Oceania" in laptop[0]
    (first, *same), (changed, *rest) = [cell.source.splitlines() for cell in runs]
    assert rest[: len(same)] == same
    assert first.replace("connect()", "connect(endpoint)") == changed, "one line"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_valid_and_contains_nothing_of_the_run_but_its_outputs(name: str) -> None:
    notebook = committed(name)
    _nbformat.validate(notebook)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert not any(cell.metadata for cell in notebook.cells)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run from top to bottom"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_reveals_nothing_of_the_machine_that_built_it(name: str) -> None:
    notebook = committed(name)
    for output in outputs(notebook):
        output.get("data", {}).pop("image/png", None)
    text = _nbformat.writes(notebook)
    for trace in (FOLDER.parent, sys.prefix):
        assert str(trace) not in text
    assert not re.search(r"/(home|root|tmp|work|Users|var)/|\b0x[0-9a-f]{6}|\b[0-9a-f]{32}\b", text)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_no_error_and_no_warning(name: str) -> None:
    assert [output for output in outputs(committed(name)) if "stderr" in output.values()] == []
    assert [output for output in outputs(committed(name)) if output.output_type == "error"] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_links_of_a_notebook_lead_somewhere(name: str) -> None:
    texts = "\n".join(cell.source for cell in committed(name).cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)#]+)", texts)
    assert [target for target in targets if "://" not in target and not (FOLDER / target).exists()] == []


def _comparable(cell: Any) -> Any:
    """A cell with its pictures by size, as their bytes may depend on the machine."""
    for output in cell.get("outputs", []):
        if (image := picture(output)) is not None:
            output.data["image/png"] = (image.format, image.size)
    return cell
