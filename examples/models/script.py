"""The turns of the scripted models: code, and never an answer.

Like a real model, a scripted one knows only its conversation: each turn depends on the tool results so far, and the
answer quotes them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """A thought, and the code to run next."""

    thought: str
    code: str


SCRIPT = (
    Turn(
        "I look at the file before I compute anything.",
        """\
import pandas as pd

df = pd.read_csv("/mnt/data/gapminder.csv")
print(f"{len(df):,} rows, {df.year.min()} to {df.year.max()}")
df.head()""",
    ),
    Turn(
        "One row a country and one column a year: then the gain is a subtraction.",
        """\
life = df.pivot("country", "year", "lifeExp")
gain = life[2007] - life[1952]
gain.nlargest(5)""",
    ),
    Turn(
        "This pandas takes the arguments of pivot by name. I correct that, and print the years, too.",
        """\
life = df.pivot(index="country", columns="year", values="lifeExp")
gain = life[2007] - life[1952]
top = gain.nlargest(5)
for rank, (country, years) in enumerate(top.items(), start=1):
    before, after = life.loc[country, [1952, 2007]]
    print(f"{rank}. {country}: +{years:.1f} years, from {before:.1f} to {after:.1f}")""",
    ),
    Turn(
        "Now their trend, with the median of all countries to compare.",
        """\
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(9, 5), dpi=120, layout="constrained")
for country in top.index:
    axes.plot(life.loc[country], marker=".", linewidth=2, label=f"{country} (+{gain[country]:.1f})")
axes.plot(life.median(), color="0.55", linestyle="--", label="median of all countries")
axes.set_title("The five countries that gained the most years of life", loc="left", fontweight="bold")
axes.set_ylabel("life expectancy at birth, years")
axes.set_xticks(life.columns)
axes.grid(axis="y", alpha=0.3)
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, loc="lower right")
plt.show()""",
    ),
)

_RANKED = re.compile(r"^\d\. .+$", re.MULTILINE)
_FIGURE = re.compile(r"\bfigure-\d+\.png\b")


class OffScriptError(Exception):
    """The tool returned a result with which the script cannot continue."""


def next_turn(results: Sequence[str]) -> Turn | str:
    """Return the model's turn after these tool results: code to run, or the answer.

    Raises:
        OffScriptError: the results do not contain an answer.
    """
    if len(results) < len(SCRIPT):
        return SCRIPT[len(results)]
    conversation = "\n".join(results)
    ranking, figures = _RANKED.findall(conversation), _FIGURE.findall(conversation)
    if not ranking or not figures:
        raise OffScriptError(f"The code returned no ranking or no chart. Its last result was:\n{results[-1]}")
    return (
        "These countries gained the most years of life expectancy between 1952 and 2007:\n\n"
        + "\n".join(ranking)
        + f"\n\nThe chart {figures[-1]} shows their trend."
    )
