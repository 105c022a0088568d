"""The first program of each README, run as it stands in an empty folder, and what must come of it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.packaging.pages import first_program
from tests.packaging.scripted_openai import scripted_openai

# The two turns of the scripted model.
CODE = (
    "import pandas as pd\nsales = pd.read_csv('/mnt/data/sales.csv').iloc[:, 1]\nax = sales.plot.bar()\n"
    "print(sales.sum())"
)
ANSWER = "Their sum is 40."


@dataclass(frozen=True)
class Outcome:
    """What a program printed, and the files that it made."""

    printed: str
    errors: str
    files: Sequence[str]


# What a page does not say itself.
_ANSWERED = Outcome(f"{ANSWER}\n", "", [])
_PAGES: dict[str, Outcome | None] = {
    "README.md": None,
    "packages/core/README.md": None,
    "packages/langchain/README.md": _ANSWERED,
    "packages/llamaindex/README.md": _ANSWERED,
    "packages/semantic_kernel/README.md": None,
    "packages/agent_framework/README.md": Outcome(f"{ANSWER}\n", "", ["figure-1.png"]),
}
PAGES = tuple(_PAGES)


def expected(page: str) -> Outcome:
    if (known := _PAGES[page]) is not None:
        return known
    printed = first_program(page).printed
    assert printed is not None, f"{page} must show what its first program prints."
    return Outcome(printed, "", ["sales.png"] if page == "README.md" else [])


def outcome(page: str, python: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> Outcome:
    """Run the first program of a page.

    Args:
        page: one of `PAGES`.
        python: the command that runs it, without the program.
        folder: where the command runs it: an empty one.
        environment: of the command; the address of the scripted model is added.
    """
    with scripted_openai(CODE, ANSWER) as url:
        model = {"OPENAI_API_KEY": "a-key-of-the-test-alone", "OPENAI_BASE_URL": url, "OPENAI_API_BASE": url}
        ended = subprocess.run(
            [*python, "-c", first_program(page).program],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**environment, **model},
        )
    return Outcome(ended.stdout, ended.stderr, [path.name for path in folder.iterdir()])
