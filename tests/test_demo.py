"""The demo: four agents, one question, real sandboxes."""

import csv
import importlib.util
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.timeout(300)  # a first test waits for a whole run: four frameworks, four sandboxes

AGENTS = ["LangChain", "LlamaIndex", "Semantic Kernel", "Agent Framework"]


@dataclass(frozen=True)
class Run:
    """What a person sees of one run of the demo."""

    exit_code: int
    text: str
    charts: Path

    def of(self, agent: str) -> str:
        """The part of the text that is about one agent."""
        return self.text.split(f"\n{agent} · ", 1)[1].split("\nLoading ", 1)[0]


def run_demo(charts: Path, *python: str, **environment: str) -> Run:
    unset = {"GREENROOM_DEMO_MODEL", "FORCE_COLOR"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, *(python or (str(EXAMPLES / "demo.py"),)), "--output", str(charts)],
        env={**inherited, "GREENROOM_POOL": "bubblewrap:", "PYTHONPATH": str(EXAMPLES), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    return Run(done.returncode, done.stdout, charts)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of all agents with the scripted model."""
    return run_demo(tmp_path_factory.mktemp("demo") / "charts")


def five_largest_gains() -> list[tuple[str, str]]:
    """Country and years gained, by the data set itself."""
    years: dict[str, dict[str, float]] = defaultdict(dict)
    with (EXAMPLES / "data" / "gapminder.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            years[row["country"]][row["year"]] = float(row["lifeExp"])
    gains = {country: life["2007"] - life["1952"] for country, life in years.items()}
    largest = sorted(gains, key=lambda country: gains[country], reverse=True)[:5]
    return [(country, f"{gains[country]:.1f}") for country in largest]


def test_the_demo_succeeds(demo: Run) -> None:
    assert demo.exit_code == 0, demo.text


def test_the_demo_states_that_its_model_is_a_script(demo: Run) -> None:
    introduction = demo.text.split("Loading", 1)[0]
    assert "scripted model" in introduction
    assert "GREENROOM_DEMO_MODEL" in introduction
    for agent in AGENTS:
        assert f"\n{agent} · scripted model ──" in demo.text


@pytest.mark.parametrize("agent", AGENTS)
def test_each_agent_names_the_five_countries_that_the_data_names(demo: Run, agent: str) -> None:
    answer = demo.of(agent).split("\nAnswer\n", 1)[1]
    assert re.findall(r"^ *\d\. (.+): \+([\d.]+) years", answer, re.MULTILINE) == five_largest_gains()


def test_the_script_contains_no_answers() -> None:
    script = (EXAMPLES / "models" / "script.py").read_text(encoding="utf-8")
    for country, gain in five_largest_gains():
        assert country not in script
        assert gain not in script


@pytest.mark.parametrize("agent", AGENTS)
def test_each_agent_reads_an_error_and_corrects_its_code(demo: Run, agent: str) -> None:
    turns = demo.of(agent)
    assert 0 < turns.index("TypeError: ") < turns.index("\nAnswer\n")


@pytest.mark.parametrize("agent", AGENTS)
def test_each_agent_produces_a_chart_that_is_not_empty(demo: Run, agent: str) -> None:
    chart = demo.charts / f"{agent.lower().replace(' ', '-')}-trend.png"
    assert f"Chart: {chart}" in demo.of(agent)
    with Image.open(chart) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 800
        assert picture.height >= 400
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None
    assert len(colours) > 100, "one line a country, their labels and their smooth edges"


def test_the_demo_shows_nothing_but_its_own_text(demo: Run) -> None:
    assert "Warning" not in demo.text
    assert "Traceback (most recent call last):" not in demo.text


def test_the_data_is_real_and_large_enough_and_names_its_licence() -> None:
    with (EXAMPLES / "data" / "gapminder.csv").open(newline="", encoding="utf-8") as file:
        assert sum(1 for _ in csv.DictReader(file)) >= 1_000
    description = (EXAMPLES / "data" / "README.md").read_text(encoding="utf-8")
    assert "Source" in description
    assert "Licence" in description


BROKEN_AGENTS = {
    "Raising": ("raise RuntimeError('the model is asleep')", "RuntimeError: the model is asleep"),
    "Silent": ("return ''", "It gave no answer."),
    "Artless": ("return 'Oman.'", "It drew no chart."),
}


@pytest.fixture(scope="module")
def broken_demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of agents that all fail, each in its own way."""
    folder = tmp_path_factory.mktemp("broken")
    for name, (behaviour, _) in BROKEN_AGENTS.items():
        module = folder / f"{name.lower()}_agent.py"
        module.write_text(f"async def ask(question, session, transcript): {behaviour}")
    agents = {name: f"{name.lower()}_agent" for name in BROKEN_AGENTS}
    program = f"import demo, sys; demo.AGENTS = {agents}; sys.exit(demo.main())"
    return run_demo(folder, "-c", program, PYTHONPATH=os.pathsep.join((str(EXAMPLES), str(folder))))


def test_agents_that_fail_fail_the_demo(broken_demo: Run) -> None:
    assert broken_demo.exit_code == 1
    assert broken_demo.text.endswith("Failed: Raising, Silent, Artless.\n")


@pytest.mark.parametrize("agent", BROKEN_AGENTS)
def test_a_failed_agent_states_the_reason(broken_demo: Run, agent: str) -> None:
    _, message = BROKEN_AGENTS[agent]
    assert f"The {agent} agent failed." in broken_demo.of(agent)
    assert message in broken_demo.of(agent)


@pytest.mark.parametrize("value", ["gpt-5-mini", "openai:", ":gpt-5-mini", "closedai:gpt-5-mini"])
def test_a_model_setting_that_is_not_valid_ends_the_demo_with_the_rule(tmp_path: Path, value: str) -> None:
    run = run_demo(tmp_path, GREENROOM_DEMO_MODEL=value)
    assert run.exit_code == 1
    text = " ".join(run.text.split())
    assert f"GREENROOM_DEMO_MODEL='{value}' is not valid" in text
    assert "openai, azure_openai, ollama" in text


def test_a_pool_that_is_not_valid_ends_the_demo(tmp_path: Path) -> None:
    run = run_demo(tmp_path, GREENROOM_POOL="nowhere:")
    assert run.exit_code == 1
    assert "The demo cannot run." in run.text
    assert "nowhere" in run.text


@pytest.fixture(scope="module")
def setting() -> ModuleType:
    """The examples' own module for GREENROOM_DEMO_MODEL."""
    spec = importlib.util.spec_from_file_location("demo_model_setting", EXAMPLES / "models" / "setting.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_model_is_a_provider_and_its_name(setting: ModuleType) -> None:
    model = setting.configured_model({"GREENROOM_DEMO_MODEL": " ollama:llama3.2:3b "})
    assert (model.provider, model.name) == ("ollama", "llama3.2:3b")
    assert str(model) == "ollama:llama3.2:3b"


@pytest.mark.parametrize("environment", [{}, {"GREENROOM_DEMO_MODEL": ""}])
def test_without_a_setting_no_model_is_used(setting: ModuleType, environment: dict[str, str]) -> None:
    assert setting.configured_model(environment) is None


def test_a_missing_integration_names_the_package_to_install(setting: ModuleType) -> None:
    with pytest.raises(setting.ModelUnavailableError, match="pip install 'llama-index-llms-nowhere'"):
        setting.load("llama_index.llms.nowhere", "Nowhere", install="llama-index-llms-nowhere")
