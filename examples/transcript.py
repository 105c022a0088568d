"""Shows what an agent does as it does it, on a terminal or in a log, and keeps its charts."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.setting import configured_model
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from greenroom import Image

OUTPUT = Path("demo-output")


def open_console() -> Console:
    """The standard output: as wide as its terminal, or 110 columns in a log."""
    return Console(width=None if sys.stdout.isatty() else 110)


class Transcript:
    """The turns of one agent: the code it wrote, what it read of the outcome, its answer."""

    def __init__(self, agent: str, *, output: Path = OUTPUT, console: Console | None = None) -> None:
        """Show under this title, and save the chart in the folder `output`."""
        self.chart = output / f"{agent.lower().replace(' ', '-')}-trend.png"
        self.chart.unlink(missing_ok=True)
        self.turns = 0
        self._console = console or open_console()
        title = Text.assemble((agent, "bold"), f" · {configured_model() or 'scripted model'}")
        self._console.rule(title, align="left")

    def call(self, thought: str, tool: str, arguments: Mapping[str, Any]) -> None:
        """The agent is about to call a tool; code among the arguments is shown as code."""
        self.turns += 1
        self._console.print()
        self._console.print(Text(f"{self.turns}. {thought.strip()}", style="bold"))
        arguments = dict(arguments)
        code = str(arguments["code"]) if "code" in arguments else f"{tool}(**{arguments})"
        self._print_indented(Syntax(code, "python", theme="ansi_dark").highlight(code))

    def result(self, text: str, images: Sequence[Image] = ()) -> None:
        """The code ran, and this is what the agent reads of it; the last picture is the chart."""
        self._print_indented(Text("\n".join(_shortened(text.strip().splitlines())), style="dim"), bar="│ ")
        for image in images:
            if image.mime == "image/png":
                self.chart.parent.mkdir(parents=True, exist_ok=True)
                image.save(self.chart)

    def answer(self, text: str) -> None:
        """The agent is done."""
        self._console.print()
        self._console.print(Text("Answer", style="bold green"))
        self._print_indented(Text(text.strip()))
        if self.chart.exists():
            self._console.print(f"\nChart: {self.chart}", style="green", highlight=False, soft_wrap=True)
        self._console.print()

    def _print_indented(self, text: Text, bar: str = "") -> None:
        for line in text.split():
            self._console.print(Text.assemble(f"    {bar}", line), soft_wrap=True)


def _shortened(lines: list[str], limit: int = 12) -> list[str]:
    """The first and the last lines, where there are more than `limit`."""
    if len(lines) <= limit:
        return lines
    head, tail = lines[: limit // 2], lines[-(limit - limit // 2 - 1) :]
    return [*head, f"… {len(lines) - len(head) - len(tail)} more lines …", *tail]
