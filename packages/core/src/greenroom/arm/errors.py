"""The error of a request that breaks a rule of ARM."""

from __future__ import annotations

from greenroom.errors import InvalidRequest


class ArmError(InvalidRequest):
    """A request breaks a rule of ARM; nothing was done.

    Attributes:
        code: ARM's code for the rule, such as `InvalidResourceName`.
        target: the property or parameter that breaks it, if it is a single one.
    """

    def __init__(self, code: str, message: str, target: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.target = target
