"""The effort of the tests, which depends on Hypothesis's profile."""

from __future__ import annotations

from hypothesis import settings


def examples(number: int) -> int:
    """Return the number of examples for a property: all of them, or the share that a quick profile has of 100."""
    return max(1, number * settings().max_examples // 100)
