"""Error classes in telemetry. The code chooses the names of its exceptions, so only known ones are used."""

from __future__ import annotations

import builtins

OTHER = "_OTHER"
"""Any other class, under OpenTelemetry's name for it."""

# Executions that were ended from outside, shell commands, and JavaScript.
_OURS = {"CancelledError", "ExitCode", "TimeoutError", "WorkerCrashed"}
_JAVASCRIPT = {"AggregateError", "Error", "EvalError", "RangeError", "ReferenceError", "TypeError", "URIError"}
_PYTHON = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}  # fmt: skip

_KNOWN = frozenset({*_OURS, *_JAVASCRIPT, *_PYTHON})


def error_class(name: str) -> str:
    """Return the name of an error if it is Python's, JavaScript's or Greenroom's own, otherwise `_OTHER`."""
    return name if name in _KNOWN else OTHER
