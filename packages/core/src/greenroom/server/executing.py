"""Executions: of code, and of shell commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import time
import uuid
from dataclasses import replace

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from greenroom.azure import flat, legacy
from greenroom.azure.problems import EXECUTION_NOT_FOUND, NOT_SUPPORTED, BadRequest
from greenroom.azure.wire import (
    DEFAULT_OUTPUT_LIMIT,
    LATEST,
    MAX_SYNCHRONOUS,
    ExecuteRequest,
    Json,
    Pending,
    mapping,
    number,
    text,
    timings,
)
from greenroom.errors import InvalidRequest
from greenroom.models import Execution
from greenroom.options import MAX_TIMEOUT
from greenroom.server import inside
from greenroom.server.executions import Outcome, Record
from greenroom.server.replies import Refused, json_response, too_large
from greenroom.server.routing import Target
from greenroom.server.sandboxcode import answer_of, program
from greenroom.session import check_code, check_timeout

_OPERATION_ID = re.compile(r"[\w-]{1,128}", re.ASCII)
_SHELL_TIMEOUT = float(MAX_SYNCHRONOUS)
_FOREVER = 1e9
_SHELL_MARGIN = 10.0
_MAX_EXIT_CODE = 255


async def execute(request: Request, target: Target) -> Response:
    """`POST code/execute` and `POST executions`."""
    began = time.perf_counter()
    identifier = target.identifier
    asked = _decode(await _read_json(request, target.settings.max_body), target)
    record = target.pool.executions.begin(
        identifier, asked, lambda: _run(target, identifier, asked), _operation_id(request)
    )
    headers = {
        "operation-id": record.id,
        "Operation-Location": flat.operation_location(record.id, identifier, target.version),
    }
    if _in_background(asked, target):
        return json_response(_encode(record, target), 202, headers)
    try:
        outcome = await _while_connected(request, record)
    except BaseException:
        target.pool.executions.forget(record)  # who asked knows what came of it, or has gone
        raise
    duration = outcome.execution.duration
    overall = time.perf_counter() - began
    session_guid = uuid.uuid5(uuid.NAMESPACE_URL, f"{target.pool.name}/{identifier}")
    headers |= timings(
        duration=duration,
        overall=overall,
        allocation=max(overall - duration, 0.0),
        session_guid=str(session_guid),
    )
    if target.legacy:
        target.pool.executions.forget(record)  # this contract has no way to ask for it again
        del headers["Operation-Location"]
        return json_response(_encode(record, target), 200, headers)
    return json_response(_encode(record, target), flat.EXECUTED[target.version], headers)


async def get_execution(request: Request, target: Target) -> Response:
    """`GET executions/{id}`."""
    record = target.pool.executions.find(target.identifier, request.path_params["id"])
    if record is None:
        raise Refused(404, EXECUTION_NOT_FOUND, "The session has no such execution, or it ended too long ago.")
    return json_response(_encode(record, target), 200, {"operation-id": record.id})


def _encode(record: Record, target: Target) -> Json:
    outcome = record.outcome()
    if outcome is None:
        return flat.encode_pending(Pending(record.id), record.identifier, record.request, target.version)
    if outcome.exit_code is not None:
        return flat.encode_shell_execution(outcome.execution, record.identifier, outcome.exit_code)
    return target.codec.encode_execution(outcome.execution, record.identifier, record.request, target.version)


async def _run(target: Target, identifier: str, asked: ExecuteRequest) -> Outcome:
    unlimited = _in_background(asked, target)
    if asked.shell:
        default = _FOREVER if unlimited else _SHELL_TIMEOUT
        return await _run_shell(target, identifier, asked.code, asked.timeout or default)
    timeout = asked.timeout or (math.inf if unlimited else None)
    return Outcome(await target.pool.backend.execute(identifier, asked.code, timeout=timeout, on_event=None))


async def _run_shell(target: Target, identifier: str, command: str, timeout: float) -> Outcome:
    code = program(inside.run_shell_command, command, timeout, DEFAULT_OUTPUT_LIMIT)
    execution = await target.pool.backend.execute(identifier, code, timeout=timeout + _SHELL_MARGIN, on_event=None)
    answer = answer_of(execution)
    if answer is None:  # the Python process is in no state to run it, or was killed
        return Outcome(execution, -1)
    exit_code = answer.get("exit_code")
    return Outcome(
        Execution(
            id=execution.id,
            status="succeeded" if exit_code == 0 else "failed",
            stdout=text(answer.get("stdout")),
            stderr=text(answer.get("stderr")),
            duration=number(answer.get("duration")),
        ),
        exit_code if isinstance(exit_code, int) and -_MAX_EXIT_CODE <= exit_code <= _MAX_EXIT_CODE else -1,
    )


async def _while_connected(request: Request, record: Record) -> Outcome:
    """Wait for an execution; when the client goes away before it is done, cancel it.

    Raises:
        ClientDisconnect: it has gone.
        GreenroomError: the execution's.
    """
    task = record.task
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        if task.cancelled() and (cancelled := record.outcome()) is not None:  # its session was deleted meanwhile
            return cancelled
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _decode(body: Json, target: Target) -> ExecuteRequest:
    asked = _decode_either(body, target)
    if asked.code.strip():  # AutoGen's executor begins with an empty cell when it has been restarted
        check_code(asked.code)
    if asked.shell and target.legacy:
        raise BadRequest("This API version has no 'shellCommand'.", code=NOT_SUPPORTED, target="shellCommand")
    if asked.shell:
        target.require(since="2025-02-02-preview")
    limit = None if _in_background(asked, target) else MAX_SYNCHRONOUS if target.strict else MAX_TIMEOUT
    try:
        check_timeout(asked.timeout, most=limit)
    except InvalidRequest as error:
        raise BadRequest(str(error), target="timeoutInSeconds") from None
    if not target.strict:
        return asked
    if target.version != LATEST:
        return replace(asked, output_limit=None, jupyter_format=False)
    return asked if asked.output_limit is not None else replace(asked, output_limit=DEFAULT_OUTPUT_LIMIT)


def _decode_either(body: Json, target: Target) -> ExecuteRequest:
    """The request in the contract's form, or leniently in that of the other one."""
    codec = target.codec
    if not target.strict and isinstance(body, dict):
        codec = legacy if isinstance(mapping(body).get("properties"), dict) else flat
    return codec.decode_execute_request(body)


def _in_background(asked: ExecuteRequest, target: Target) -> bool:
    """Whether the answer comes before the end; the legacy contract has no way to ask for it later."""
    return asked.asynchronous and not target.legacy


def _operation_id(request: Request) -> str | None:
    operation_id = request.headers.get("operation-id")
    if operation_id is not None and not _OPERATION_ID.fullmatch(operation_id):
        raise BadRequest("The header 'operation-id' takes letters, digits, - and _, at most 128.")
    return operation_id


async def _read_json(request: Request, limit: int) -> Json:
    """The body of a request.

    Raises:
        Refused: it is larger than `limit` bytes.
        BadRequest: it is no JSON.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise too_large(f"The request's body is over the limit of {limit} bytes.")
    try:
        return json.loads(bytes(content))
    except (ValueError, RecursionError):
        raise BadRequest("The request's body is no JSON.") from None
