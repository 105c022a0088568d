"""The common style of the documentation's figures: SVG without a background, readable on light and dark pages."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl

INK = "#808590"  # a contrast of more than 3.5 on white and on black
_STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "greenroom",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def in_style() -> AbstractContextManager[None]:
    """Apply the common style to the figures that are created in this context."""
    untyped: Any = mpl
    return untyped.rc_context(_STYLE)


def svg(figure: Any) -> str:
    """Return a figure as SVG; the same figure gives the same text."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"
