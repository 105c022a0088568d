"""Four agents answer one question about a CSV file, by writing pandas and running it in a sandbox.

The charts land in demo-output/. Set GREENROOM_DEMO_MODEL, such as openai:gpt-5-mini, to ask a model; with
none, a scripted model plays the model's turns. GREENROOM_POOL names the pool of sandboxes.
"""

import argparse
import asyncio
import importlib
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from models.setting import VARIABLE, ModelUnavailableError, configured_model
from question import DATA, QUESTION
from rich.console import Console
from rich.text import Text
from transcript import OUTPUT, Transcript, open_console

import greenroom
from greenroom import EngineUnavailable, GreenroomError, Session, SessionPool

AGENTS = {
    "LangChain": "langchain_agent",
    "LlamaIndex": "llamaindex_agent",
    "Semantic Kernel": "semantic_kernel_agent",
    "Agent Framework": "agent_framework_agent",
}

Ask = Callable[[str, Session, Transcript], Coroutine[Any, Any, str]]
"""The function of each agent's module: answers a question and writes the turns to the transcript."""


class AgentError(Exception):
    """An agent ended without the requested result."""


def main() -> int:
    """Run the agents; returns the exit code: 0 if every agent answered and drew its chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the charts (%(default)s)")
    output: Path = parser.parse_args().output
    console = open_console()
    began = time.monotonic()
    try:
        introduce(console)
        with greenroom.connect() as pool:
            failed = [framework for framework in AGENTS if not perform(framework, pool, output, console)]
    except (ModelUnavailableError, GreenroomError) as error:
        console.print(Text(f"The demo cannot run. {error}", style="bold red"))
        return 1
    if failed:
        console.print(Text(f"Failed: {', '.join(failed)}.", style="bold red"))
        return 1
    console.print(f"All agents answered, in {time.monotonic() - began:.0f} seconds; their charts: {output}/")
    return 0


def introduce(console: Console) -> None:
    """Print the question, the data and the model.

    Raises:
        ModelUnavailableError: GREENROOM_DEMO_MODEL names no model.
    """
    model = configured_model()
    console.print(Text.assemble(("Question  ", "bold"), QUESTION))
    console.print(Text.assemble(("Data      ", "bold"), f"{DATA.name}: 142 countries, every five years"))
    if model is not None:
        console.print(Text.assemble(("Model     ", "bold"), str(model)))
    else:
        notice = (
            f"none is configured ({VARIABLE}), so a scripted model plays the model's turns. "
            "The script holds code and no answers: the sandboxes, the results and the charts are real."
        )
        console.print(Text.assemble(("Model     ", "bold"), (notice, "yellow")))
    console.print()


def perform(framework: str, pool: SessionPool, output: Path, console: Console) -> bool:
    """Let an agent answer in its own session; returns whether it did everything that was requested.

    Raises:
        EngineUnavailable: no sandbox can be created.
    """
    try:
        with pool.session() as session:
            session.upload(DATA)  # first, so that the sandbox gets ready while the framework loads
            ask = load(framework, console)
            transcript = Transcript(framework, output=output, console=console)
            answer = asyncio.run(ask(QUESTION, session, transcript))
        transcript.answer(answer)
        if not answer.strip():
            raise AgentError("It gave no answer.")
        if not transcript.chart.exists():
            raise AgentError("It drew no chart.")
    except EngineUnavailable:
        raise  # would fail for every agent
    except Exception as error:  # noqa: BLE001  if one agent fails, the others still run
        message = f"The {framework} agent failed. {type(error).__name__}: {error}"
        console.print(Text(message, style="bold red"))
        return False
    return True


def load(framework: str, console: Console) -> Ask:
    """Import the agent's module and with it the framework, which takes seconds."""
    if not console.is_terminal:
        console.print(f"Loading {framework} …")
    with console.status(f"Loading {framework} …"):
        return importlib.import_module(AGENTS[framework]).ask


if __name__ == "__main__":
    sys.exit(main())
