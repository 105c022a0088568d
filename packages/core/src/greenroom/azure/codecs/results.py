"""An execution's outcome in both contracts: a status, two streams and one value.

Azure writes a traceback into `stderr`, and has one value, for the last expression or a figure. The types of values are
documented only by examples: `2+2` is `4`, the string `'nan'` is `"nan"`, the float NaN is `"nan"`, no value is `""`;
with `returnJupyterFormatExecutionResult` the string is `"'nan'"` and no value is `null`.
"""

from __future__ import annotations

import ast
import math
import re
import uuid
from collections.abc import Mapping
from typing import Literal, TypeAlias

from greenroom.azure.codecs.shared import ExecuteRequest, Json, Malformed, Pending, fields_of, mapping, number, text
from greenroom.models import Execution, ExecutionError, Output, Status

TIMED_OUT = "Request timed out waiting for code execution to complete"
ABORTED = "Execution aborted"
"""Azure's text in `stderr` when memory runs out."""
STATE_LOST = "The Python process was killed, and all variables are lost."
"""Greenroom's addition to `stderr` after `TIMED_OUT`, if the variables are lost."""

State: TypeAlias = Status | Literal["pending", "running"]

_STATES: Mapping[str, State] = {
    "notstarted": "pending",
    "running": "running",
    "succeeded": "succeeded",
    "success": "succeeded",
    "failed": "failed",
    "failure": "failed",
    "canceled": "cancelled",
    "cancelled": "cancelled",
}
_FORMATS = {"jpg": "image/jpeg", "svg": "image/svg+xml"}

_INTEGER = re.compile(r"-?\d{1,4000}")
_FLOAT = re.compile(r"-?\d+\.\d+(e[+-]\d+)?|-?\d+e[+-]\d+")
_STRING = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HEADER = re.compile(r"^-{20,}\n([\w.]+) +Traceback \(most recent call last\)", re.MULTILINE)
_PLAIN = re.compile(r"^Traceback \(most recent call last\):", re.MULTILINE)
_SYNTAX = re.compile(r"^ +(?:Cell In|Input In|File) ?.*, line \d+|^ +File <.*>:\d+", re.MULTILINE)
_LAST_LINE = re.compile(
    r"^(?:\w+\.)*(\w*(?:Error|Exception|Group|Interrupt|Exit|Iteration|Warning|Crashed|Cancelled))(?:: ?|$)",
    re.MULTILINE,
)


def encode_result(execution: Execution, request: ExecuteRequest, *, value_name: str) -> dict[str, Json]:
    """Write the streams, the value under the contract's name for it, and the duration."""
    return {
        "stdout": execution.stdout[: request.output_limit],
        "stderr": _encode_stderr(execution)[: request.output_limit],
        value_name: _encode_value(execution, jupyter_format=request.jupyter_format),
        "executionTimeInMilliseconds": int(execution.duration * 1000),
    }


def decode_result(
    id: str,  # noqa: A002  the model's name
    state: Json,
    result: Json,
    *,
    value_name: str,
    timeout: float | None,
    error: Json = None,
) -> Execution | Pending:
    """Read an execution, ended or not.

    Args:
        id: the execution's id; if it is empty and the execution has ended, a random id is used.
        state: the status, in either contract's words.
        result: the object with the streams and the value.
        value_name: the contract's name for the value.
        timeout: the requested time limit, for the message of an execution that timed out.
        error: the contract's error object, whose content is not documented.

    Raises:
        Malformed: the status is unknown, the result is not an object, or a running execution has no id.
    """
    known = _STATES.get(text(state).lower())
    if known is None:
        raise Malformed(f"{state!r:.100} is not an execution status")
    if known in {"pending", "running"}:
        if not id:
            raise Malformed("an execution that is running must have an id")
        return Pending(id, running=known == "running")
    fields = mapping(result) if result is not None else {}
    stderr = text(fields.get("stderr"))
    reason: ExecutionError | None = None
    state_lost = False
    if known != "succeeded":
        known, stderr, reason, state_lost = _decode_failure(known, stderr, timeout, error)
    value, outputs = _decode_value(fields.get(value_name))
    return Execution(
        id=id or uuid.uuid4().hex,
        status=known,
        stdout=text(fields.get("stdout")),
        stderr=stderr,
        result=value,
        outputs=outputs,
        error=reason,
        duration=number(fields.get("executionTimeInMilliseconds")) / 1000,
        state_lost=state_lost,
    )


# The value


def _encode_value(execution: Execution, *, jupyter_format: bool) -> Json:
    if (image := _last_image(execution)) is not None:
        return image
    result = execution.result
    if result is None:
        return None if jupyter_format else ""
    return result if jupyter_format else _primitive(result)


def _last_image(execution: Execution) -> Json:
    for output in reversed(execution.outputs):
        for mime, data in output.data.items():
            if mime in {"image/png", "image/jpeg", "image/gif", "image/webp"} and isinstance(data, str):
                return {"type": "image", "format": mime.removeprefix("image/"), "base64_data": data.replace("\n", "")}
    return None


def _primitive(result: str) -> Json:
    """Return the primitive value that IPython printed, or the text if it is not a primitive."""
    if result in {"True", "False"}:
        return result == "True"
    if _INTEGER.fullmatch(result):
        return int(result)
    if _FLOAT.fullmatch(result):
        value = float(result)
        return value if math.isfinite(value) else result
    if _STRING.fullmatch(result):
        try:
            return str(ast.literal_eval(result))
        except (SyntaxError, ValueError):  # an escape that Python itself does not produce
            return result
    return result


def _decode_value(value: Json) -> tuple[str | None, tuple[Output, ...]]:
    if value is None or value == "":
        return None, ()
    if (image := _decode_image(fields_of(value))) is not None:
        return None, (image,)
    result = value if isinstance(value, str) else str(value)
    return result, (Output({"text/plain": result}, is_result=True),)


def _decode_image(value: Mapping[str, Json]) -> Output | None:
    data, form = value.get("base64_data"), text(value.get("format")).lower()
    if text(value.get("type")).lower() != "image" or not isinstance(data, str):
        return None
    return Output({_FORMATS.get(form, f"image/{form or 'png'}"): data})


# Errors


def _encode_stderr(execution: Execution) -> str:
    error = execution.error
    if error is None:
        return execution.stderr
    if execution.status == "timed_out":
        last = f"{TIMED_OUT}\n{STATE_LOST}" if execution.state_lost else TIMED_OUT
    elif error.name == "MemoryError" and not error.traceback:  # the process was killed
        last = ABORTED
    else:
        last = error.traceback or f"{error.name}: {error.value}"
    between = "" if not execution.stderr or execution.stderr.endswith("\n") else "\n"
    return f"{execution.stderr}{between}{last}"


def _decode_failure(
    status: State, stderr: str, timeout: float | None, error: Json
) -> tuple[Status, str, ExecutionError, bool]:
    """Return the status, the code's own `stderr`, the error, and whether the variables are lost."""
    stderr = _ANSI.sub("", stderr)
    before, found, after = stderr.rpartition(TIMED_OUT)
    if found:
        limit = "its time limit" if timeout is None else f"{timeout:g} s"
        message = f"The code ran for longer than {limit}."
        return "timed_out", before, ExecutionError("TimeoutError", message), STATE_LOST in after
    final: Status = "cancelled" if status == "cancelled" else "failed"
    if stderr.rstrip(" .\n").endswith(ABORTED):
        message = "The code was aborted: it probably used more memory than the session allows."
        before = stderr.rstrip(" .\n").removesuffix(ABORTED)
        return final, before, ExecutionError("MemoryError", message), True
    if not stderr.strip():
        outer = fields_of(error)
        fields = fields_of(outer.get("error", outer))  # ErrorResponse wraps the error again
        name = "CancelledError" if final == "cancelled" else "ExecutionFailed"
        message = text(fields.get("message")) or "The execution failed, and Azure returned no reason."
        return final, "", ExecutionError(text(fields.get("code")) or name, message), False
    start = _traceback_start(stderr)
    reason = _parse_traceback(stderr[start:])
    return final, stderr[:start], reason, reason.name == "WorkerCrashed"


def _traceback_start(stderr: str) -> int:
    """Return the position where the code's own text ends and the traceback begins; 0 if unknown."""
    for pattern in (_HEADER, _PLAIN, _SYNTAX):
        if (match := pattern.search(stderr)) is not None:
            return match.start()
    return 0


def _parse_traceback(traceback: str) -> ExecutionError:
    traceback = traceback.rstrip("\n")
    *_, header = [None, *_HEADER.finditer(traceback)]
    if header is not None:
        name = header[1]
        last = traceback.rfind(f"\n{name}:", header.end())
        value = traceback[last + len(name) + 2 :].strip() if last >= 0 else ""
        return ExecutionError(name.rpartition(".")[2], value, traceback)
    *_, line = [None, *_LAST_LINE.finditer(traceback)]
    if line is not None:
        return ExecutionError(line[1], traceback[line.end() :].strip(), traceback)
    name, colon, value = traceback.rpartition("\n")[2].partition(": ")
    if colon and name.isidentifier():  # a class that the code defined
        return ExecutionError(name, value, traceback)
    return ExecutionError("ExecutionFailed", traceback.rpartition("\n")[2], traceback)
