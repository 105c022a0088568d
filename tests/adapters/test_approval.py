"""Which code needs no approval."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.adapters import code_needs_approval

COMPUTES = """
import math, numpy as np
import pandas as pd
from collections import Counter
frame = pd.DataFrame({"a": [1, 2]})
def total(values):
    return sum(math.sqrt(value) for value in values)
print(total(frame.a), Counter("abca").most_common(1), frame.groupby("a").sum())
df = earlier.merge(frame)
search("bread")
"""


def needs(code: str) -> bool:
    return code_needs_approval(code, functions=["send_mail", "search"], free=["search"])


def test_code_that_computes_needs_none() -> None:
    assert not needs(COMPUTES)
    assert not needs("")
    assert not needs("await search('bread')")


@pytest.mark.parametrize(
    "code",
    [
        "send_mail('ann')",
        "f = send_mail",
        "[send_mail][0]('ann')",
        "globals()['send' + '_mail']('ann')",
        "eval('send_' + 'mail')('ann')",
        "getattr(x, 'y')",
        "import os",
        "import os.path as math",
        "from subprocess import run",
        "from . import math",
        "from operator import attrgetter",
        "import operator\noperator.attrgetter('x')(1)",
        "().__class__.__bases__",
        "__builtins__",
        "x._private",
        "frame.query('@x()')",
        "open('/mnt/data/a.txt')",
        "!ls",
        "%timeit 1",
        "x = (",
        "\0",
        "-" * 100_000 + "1",
    ],
)
def test_everything_else_needs_approval(code: str) -> None:
    assert needs(code)


@given(st.text(max_size=200))
def test_any_text_gets_a_decision(code: str) -> None:
    assert needs(code) in {True, False}


@given(st.sampled_from(["send_mail", "eval", "globals", "__import__"]), st.text("abcx_ =+()[]'\n", max_size=30))
def test_surrounding_code_hides_no_name(name: str, around: str) -> None:
    assert needs(f"{COMPUTES}\n{name}\n")
    assert needs(f"x = [{name}]\n{around}")
