"""The settings to compare, for a pool of 100 sandboxes, so that one percent of the maximum is one sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """How many sandboxes are kept ready."""

    name: str
    options: Mapping[str, object]

    @property
    def is_fixed(self) -> bool:
        return self.options["ready_session_instances"] != "auto"


CHOICES = (
    *(Choice(f"{number}", {"ready_session_instances": number}) for number in (0, 1, 5, 10, 20)),
    Choice("auto", {"ready_session_instances": "auto"}),
    Choice(
        "auto, 1 to 50",
        {"ready_session_instances": "auto", "min_ready_session_instances": 1, "max_ready_session_instances": 50},
    ),
)
