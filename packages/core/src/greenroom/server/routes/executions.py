"""Executions: of code, and of shell commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from greenroom.azure.codecs import current
from greenroom.azure.codecs.contract import CURRENT, LEGACY
from greenroom.azure.codecs.problems import EXECUTION_NOT_FOUND, NOT_SUPPORTED, BadRequest
from greenroom.azure.codecs.shared import (
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
from greenroom.config.values import MAX_TIMEOUT
from greenroom.errors import InvalidRequest
from greenroom.models import Execution
from greenroom.runner.json_weight import TooDeep, weigh_json
from greenroom.server.in_sandbox import functions
from greenroom.server.in_sandbox.call import answer_of, program
from greenroom.server.records import Outcome, Record
from greenroom.server.responses import CLOSE, RequestRefused, json_response, no_room, too_large
from greenroom.server.routes.target import Target
from greenroom.sessions.rules import check_code, check_timeout

_OPERATION_ID = re.compile(r"[\w-]{1,128}", re.ASCII)
_SHELL_TIMEOUT = float(MAX_SYNCHRONOUS)
_FOREVER = 1e9
_SHELL_MARGIN = 10.0
_MAX_EXIT_CODE = 255
_MAX_VALUES = 10_000
_VALUE = 48  # bytes, as `weigh_json` counts them
_LARGE = 256 << 10
"""Bytes from which JSON is parsed and written in a thread."""


async def execute(request: Request, target: Target) -> Response:
    """`POST code/execute` and `POST executions`."""
    began = time.perf_counter()
    identifier = target.identifier
    asked = _decode(await _read_json(request, target), target)
    code = target.held.handed_over()  # it is held until the execution ends, which may be after the request
    try:
        record = target.pool.records.begin(
            identifier, asked, lambda: _run(target, identifier, asked), _operation_id(request)
        )
    except BaseException:
        code.close()
        raise
    record.task.add_done_callback(lambda _: code.close())
    headers = {
        "operation-id": record.id,
        "Operation-Location": current.operation_location(record.id, identifier, target.version),
    }
    if _in_background(asked, target):
        return json_response(_encode(record, target), 202, headers)
    try:
        outcome = await _while_connected(request, record)
    except BaseException:
        target.pool.records.forget(record)  # who asked knows what came of it, or has gone
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
    if not target.legacy:
        return await _response(record, target, current.EXECUTED[target.version], headers)
    response = await _response(record, target, 200, headers)
    target.pool.records.forget(record)  # this contract has no way to ask for it again
    del response.headers["Operation-Location"]
    return response


async def get_execution(request: Request, target: Target) -> Response:
    """`GET executions/{id}`."""
    record = target.pool.records.find(target.identifier, request.path_params["id"])
    if record is None:
        raise RequestRefused(404, EXECUTION_NOT_FOUND, "The session has no such execution, or it ended too long ago.")
    return await _response(record, target, 200, {"operation-id": record.id})


async def _response(record: Record, target: Target, status: int, headers: Mapping[str, str]) -> Response:
    """An execution as a response.

    Raises:
        RequestRefused: the server holds too much for others at the moment; the execution can be asked for later.
    """

    def encode() -> Response:
        return json_response(_encode(record, target), status, headers)

    if target.held.hold(record.size):
        response = await asyncio.to_thread(encode) if record.size > _LARGE else encode()
        if target.held.hold(len(response.body)):  # which may be more
            return response
    message = "The server holds too much for other requests to send what came of the execution."
    if record.task.done():
        message += f" It has run. Ask for it later with GET executions/{record.id}."
    raise no_room(message, headers)


def _encode(record: Record, target: Target) -> Json:
    outcome = record.outcome()
    if outcome is None:
        return current.encode_pending(Pending(record.id), record.identifier, record.request, target.version)
    if outcome.exit_code is not None:
        return current.encode_shell_execution(outcome.execution, record.identifier, outcome.exit_code)
    return target.codec.encode_execution(outcome.execution, record.identifier, record.request, target.version)


async def _run(target: Target, identifier: str, asked: ExecuteRequest) -> Outcome:
    unlimited = _in_background(asked, target)
    if asked.shell:
        default = _FOREVER if unlimited else _SHELL_TIMEOUT
        return await _run_shell(target, identifier, asked.code, asked.timeout or default)
    timeout = asked.timeout or (math.inf if unlimited else None)
    return Outcome(await target.pool.backend.execute(identifier, asked.code, timeout=timeout, on_event=None))


async def _run_shell(target: Target, identifier: str, command: str, timeout: float) -> Outcome:
    code = program(functions.run_shell_command, command, timeout, DEFAULT_OUTPUT_LIMIT)
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
        codec = LEGACY if isinstance(mapping(body).get("properties"), dict) else CURRENT
    return codec.decode_execute_request(body)


def _in_background(asked: ExecuteRequest, target: Target) -> bool:
    """Whether the answer comes before the end; the legacy contract has no way to ask for it later."""
    return asked.asynchronous and not target.legacy


def _operation_id(request: Request) -> str | None:
    operation_id = request.headers.get("operation-id")
    if operation_id is not None and not _OPERATION_ID.fullmatch(operation_id):
        raise BadRequest("The header 'operation-id' takes letters, digits, - and _, at most 128.")
    return operation_id


async def _read_json(request: Request, target: Target) -> Json:
    """The body of a request.

    Raises:
        RequestRefused: it is larger than it may be, or than there is room for.
        BadRequest: it is not JSON, or too much of it.
    """
    limit = target.settings.max_body
    content = bytearray()
    async for chunk in request.stream():
        if len(content) + len(chunk) > limit:
            raise too_large(f"The request's body is over the limit of {limit} bytes.")
        if not target.held.add(len(chunk)):
            raise no_room("The server holds too much for other requests to take this one's body. Try again.", CLOSE)
        content += chunk
    body = bytes(content)
    return await asyncio.to_thread(_parse, body) if len(body) > _LARGE else _parse(body)


def _parse(body: bytes) -> Json:
    """JSON, weighed before it is parsed: a few bytes may become many values.

    Raises:
        BadRequest: it is not JSON, or has more values than any request needs.
    """
    most = len(body) + _VALUE * _MAX_VALUES
    try:
        if weigh_json(body, most) > most:
            raise BadRequest(f"The request's body must have at most {_MAX_VALUES} values.")
        return json.loads(body)
    except TooDeep as error:
        raise BadRequest(f"The request's body must not be nested so deep: {error}.") from None
    except BadRequest:
        raise
    except (ValueError, RecursionError):
        raise BadRequest("The request's body is no JSON.") from None
