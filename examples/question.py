"""The question to every agent of the examples, and the file that it is about."""

from pathlib import Path

DATA = Path(__file__).parent / "data" / "gapminder.csv"

QUESTION = (
    "Which five countries gained the most years of life expectancy between 1952 and 2007? "
    "Name the top five with their gain, and draw a chart of their trend."
)

INSTRUCTIONS = (
    f"You answer questions about /mnt/data/{DATA.name} by writing and running Python. "
    "Look at the file's columns first, compute with pandas, draw with matplotlib, "
    "and correct your code when it fails. Answer with what the code printed, as a numbered list."
)
