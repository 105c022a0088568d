"""The settings, from the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MOST_CODE = 100_000
"""Characters of one program."""
MOST_BODY = 10 << 20
"""Bytes of a request's body, and so of a file."""


@dataclass(frozen=True)
class Settings:
    """What an operator chooses. Where the code runs is Greenroom's own setting, `GREENROOM_POOL`."""

    secret: str
    """Signs the users' tokens; at least 32 characters."""
    rates: Path = Path("rates.sqlite")
    """The file by which the workers share the users' rates."""
    rate: float = 1.0
    """Requests per second that a user can go on sending."""
    burst: int = 20
    """Requests that a user can send at once, after a pause."""
    at_a_time: int = 4
    """Requests of one user that a worker holds at the same time; the session runs one after the other."""
    timeout: float = 30.0
    """Seconds of each execution."""
    memory: str = "512Mi"
    """Of each user's session."""

    def __post_init__(self) -> None:
        if len(self.secret) < 32:
            raise ValueError("CODE_SERVICE_SECRET must have at least 32 characters.")

    @classmethod
    def from_environment(cls) -> Self:
        """Read the variables that begin with `CODE_SERVICE_`.

        Raises:
            ValueError: one of them breaks a rule.
        """

        def given(name: str, default: object) -> str:
            return os.environ.get(f"CODE_SERVICE_{name}") or str(default)

        return cls(
            given("SECRET", ""),
            Path(given("RATES", cls.rates)),
            rate=float(given("RATE", cls.rate)),
            burst=int(given("BURST", cls.burst)),
            at_a_time=int(given("AT_A_TIME", cls.at_a_time)),
        )
