"""The classes of errors that signals name. The code chooses its exceptions' names, so only known ones are told."""

from __future__ import annotations

import builtins

OTHER = "_OTHER"
"""Any other class; the name that OpenTelemetry has for it."""

# Those of executions that were ended from outside, of shell commands, and of JavaScript.
_OURS = {"CancelledError", "ExitCode", "TimeoutError", "WorkerCrashed"}
_JAVASCRIPT = {"AggregateError", "Error", "EvalError", "RangeError", "ReferenceError", "TypeError", "URIError"}
_PYTHON = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}  # fmt: skip

_KNOWN = frozenset({*_OURS, *_JAVASCRIPT, *_PYTHON})


def error_class(name: str) -> str:
    """Return the name of an error if it is one of Python, JavaScript or Greenroom itself, else `_OTHER`."""
    return name if name in _KNOWN else OTHER
