"""Only a complete fenced block is taken off a model's code."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.adapters.code import strip_fence
from greenroom.models import ContainerType


@pytest.mark.parametrize(
    "fenced",
    [
        "```python\nx = 1\n```",
        "```py\nx = 1\n```",
        "```\nx = 1\n```",
        "```Python\nx = 1\n```",
        "```python3\nx = 1\n```",
        "```ipython\nx = 1\n```",
        "``` python \nx = 1\n```",
        "````python\nx = 1\n````",
        "\n\n```python\nx = 1\n```\n  \n",
        "```python\r\nx = 1\r\n```\r\n",
    ],
)
def test_a_complete_fenced_block_is_taken_off(fenced: str) -> None:
    assert strip_fence(fenced) == "x = 1"


@pytest.mark.parametrize(
    "code",
    [
        "python_version = 3",  # the clean-up of others made `_version = 3` of it
        "py = 3",
        "python",
        "`x`",
        "x = 1\n",
        "  x = 1  ",
        "",
        "print('''\n```\nx\n```\n''')",
        "```python\nx = 1",
        "x = 1\n```",
        "```bash\nls\n```",
        "```python x = 1```",
        "````python\nx = 1\n```",
        "Here it is:\n```python\nx = 1\n```",
        "```python\nx = 1\n```\nThat was it.",
    ],
)
def test_anything_else_is_unchanged(code: str) -> None:
    assert strip_fence(code) == code


@pytest.mark.parametrize(
    ("container_type", "own"),
    [
        (ContainerType.PYTHON_LTS, {"", "python", "py", "PY3", "ipython"}),
        (ContainerType.NODE_LTS, {"", "javascript", "js", "JS", "node"}),
        (ContainerType.SHELL, {"", "bash", "sh", "shell"}),
    ],
)
def test_a_fence_names_the_language_of_the_container_type(container_type: ContainerType, own: set[str]) -> None:
    names = {
        "",
        "python",
        "py",
        "PY3",
        "ipython",
        "javascript",
        "js",
        "JS",
        "node",
        "bash",
        "sh",
        "shell",
        "json",
        "ts",
    }
    blocks = {name: f"```{name}\nx=1\n```\n" for name in names}
    assert {name for name, block in blocks.items() if strip_fence(block, container_type) == "x=1"} == own
    assert all(strip_fence(blocks[name], container_type) == blocks[name] for name in names - own)


def test_the_code_keeps_its_lines_and_its_indentation() -> None:
    assert strip_fence("```python\n\n    if x:\n        y\n\n\n```") == "\n    if x:\n        y\n\n"


def test_fences_inside_the_code_are_kept() -> None:
    code = 'readme = """\n```bash\npip install it\n```\n"""'
    assert strip_fence(f"```python\n{code}\n```") == code


@pytest.mark.parametrize("nothing", ["```python\n```", "```\n\n```"])
def test_an_empty_block_holds_nothing(nothing: str) -> None:
    assert strip_fence(nothing) == ""


@given(st.text())
def test_any_fenced_code_is_extracted(code: str) -> None:
    assert strip_fence(f"```python\n{code}\n```") == code.removesuffix("\r")


# As it was when it took a second for 5,000 blanks.
SLOW = re.compile(
    r"\s*(?P<fence>`{3,})[ \t]*(?:python3?|py3?|ipython3?)?[ \t]*\r?\n"
    r"(?:(?P<code>.*?)\r?\n)?[ \t]*(?P=fence)`*\s*",
    re.DOTALL | re.IGNORECASE,
)
PIECES = [
    "`",
    "```",
    "````",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\x0b",
    "python",
    "Py3",
    "ipython3",
    "bash",
    "x",
    "```python\n",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_the_linear_search_finds_the_same_fences(pieces: list[str]) -> None:
    code = "".join(pieces)
    fenced = SLOW.fullmatch(code)
    assert strip_fence(code) == ((fenced["code"] or "") if fenced else code)


@pytest.mark.parametrize(
    "hostile",
    ["```\n" * 100_000 + "x", "```\n" + " " * 400_000 + "x", "```\n" + "\n" * 400_000 + "x", "`" * 400_000],
)
def test_a_hostile_text_takes_no_longer_than_a_harmless_one(hostile: str) -> None:
    began = time.process_time()
    assert strip_fence(hostile) == hostile
    assert time.process_time() - began < 5
