"""Operations on executions of code and shell commands."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from greenroom.azure.codecs import current
from greenroom.azure.codecs.contract import CURRENT, LEGACY
from greenroom.azure.codecs.problems import EXECUTION_NOT_FOUND, NOT_SUPPORTED, BadRequest
from greenroom.azure.codecs.requests import check_declared
from greenroom.azure.codecs.shared import (
    DEFAULT_OUTPUT_LIMIT,
    LATEST,
    MAX_SYNCHRONOUS,
    RESTARTED_HEADER,
    SHELL_SINCE,
    ExecuteRequest,
    Json,
    Pending,
    mapping,
    timings,
)
from greenroom.config.values import MAX_TIMEOUT
from greenroom.errors import InvalidRequest
from greenroom.server.outcomes import Outcome
from greenroom.server.records import Record
from greenroom.server.responses import RequestRefused, json_response, no_room
from greenroom.server.routes.bodies import read_json
from greenroom.server.routes.target import Target
from greenroom.server.state.file import StateNotWritten
from greenroom.sessions.rules import check_code, check_command, check_timeout

_OPERATION_ID = re.compile(r"[ -~]{1,128}")
_SHELL_TIMEOUT = float(MAX_SYNCHRONOUS)
_LARGE = 256 << 10
"""Bytes from which JSON is written in a thread."""


async def execute(request: Request, target: Target) -> Response:
    """`POST code/execute` and `POST executions`."""
    began = time.perf_counter()
    identifier = target.identifier
    order = _decode(await read_json(request, target.held, target.settings.max_body), target)
    code = target.held.handed_over()  # reserved until the execution ends, which can be after the request
    try:
        record = target.pool.records.begin(
            identifier,
            order,
            lambda: _run(target, identifier, order),
            _operation_id(request),
            outlives=_in_background(order, target),
        )
    except BaseException:
        code.close()
        raise
    record.task.add_done_callback(lambda _: code.close())
    headers = {
        "operation-id": record.id,
        "Operation-Location": current.operation_location(record.id, identifier, target.version),
    }
    if _in_background(order, target):
        await acknowledge(record, target)
        return json_response(_encode(record, record.outcome(), target), 202, headers)
    try:
        outcome = await _while_connected(request, record)
    except BaseException:
        target.pool.records.forget(record)  # the client knows the outcome or has disconnected
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
    target.pool.records.forget(record)  # this contract cannot poll it
    del response.headers["Operation-Location"]
    return response


async def acknowledge(record: Record, target: Target) -> None:
    """Wait until an execution is stored, before confirming to the client that it was accepted.

    Raises:
        RequestRefused: the state cannot be written; the execution was cancelled.
    """
    try:
        await record.durable()
    except StateNotWritten as error:
        target.pool.records.forget(record)
        raise RequestRefused(507, "StateNotWritten", f"{error} The execution was cancelled.") from error


async def get_execution(request: Request, target: Target) -> Response:
    """`GET executions/{id}`."""
    record = target.pool.records.find(target.identifier, request.path_params["id"])
    if record is None:
        raise RequestRefused(404, EXECUTION_NOT_FOUND, "The session has no such execution, or it ended too long ago.")
    return await _response(record, target, 200, {"operation-id": record.id})


async def _response(record: Record, target: Target, status: int, headers: Mapping[str, str]) -> Response:
    """Return an execution as a response.

    Raises:
        RequestRefused: the server's memory for requests is full at the moment; the execution can be polled later.
    """
    outcome = record.outcome()
    if outcome is not None and outcome.execution.session_restarted is not None:
        headers = {**headers, RESTARTED_HEADER: outcome.execution.session_restarted}

    def encode() -> Response:
        return json_response(_encode(record, outcome, target), status, headers)

    if target.held.hold(record.size):
        response = await asyncio.to_thread(encode) if record.size > _LARGE else encode()
        if target.held.hold(len(response.body)):  # it can be larger than the execution
            return response
    message = "The server's memory for requests is too full to send the outcome of the execution."
    if record.task.done():
        message += f" The execution has ended. Get its outcome later with GET executions/{record.id}."
    raise no_room(message, headers)


def _encode(record: Record, outcome: Outcome | None, target: Target) -> Json:
    if outcome is None:
        return current.encode_pending(Pending(record.id), record.identifier, record.request, target.version)
    if outcome.exit_code is not None:
        limit = record.request.output_limit
        limit = DEFAULT_OUTPUT_LIMIT if limit is None else limit
        return current.encode_shell_execution(outcome.execution, record.identifier, outcome.exit_code, limit=limit)
    return target.codec.encode_execution(outcome.execution, record.identifier, record.request, target.version)


async def _run(target: Target, identifier: str, order: ExecuteRequest) -> Outcome:
    unlimited = _in_background(order, target)
    if order.shell:
        command = check_command(order.arguments or order.code, order.stdin)
        timeout = order.timeout or (math.inf if unlimited else _SHELL_TIMEOUT)
        execution = await target.pool.backend.shell(identifier, command, timeout=timeout, on_event=None)
        return Outcome(execution, -1 if execution.exit_code is None else execution.exit_code)
    timeout = order.timeout or (math.inf if unlimited else None)
    return Outcome(await target.pool.backend.execute(identifier, order.code, timeout=timeout, on_event=None))


async def _while_connected(request: Request, record: Record) -> Outcome:
    """Wait for an execution, and cancel it if the client disconnects first.

    Raises:
        ClientDisconnect: the client has disconnected.
        GreenroomError: the execution's error.
    """
    task = record.task
    try:
        async with while_connected(request):
            await asyncio.wait([task])
    finally:
        task.cancel()
    if task.cancelled() and (cancelled := record.outcome()) is not None:  # its session was deleted meanwhile
        return cancelled
    return task.result()


@contextlib.asynccontextmanager
async def while_connected(request: Request) -> AsyncGenerator[None, None]:
    """Cancel the block if the client disconnects; the request's body has been read.

    Raises:
        ClientDisconnect: the client has disconnected.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine runs in one
    cancellations = task.cancelling()
    inside, disconnected = True, False

    def leave(watching: asyncio.Task[None]) -> None:
        nonlocal disconnected
        if inside and not watching.cancelled():
            disconnected = True
            task.cancel()

    watching = asyncio.create_task(gone(request))
    watching.add_done_callback(leave)
    try:
        yield
    except BaseException as error:
        if disconnected and task.uncancel() <= cancellations and isinstance(error, asyncio.CancelledError):
            raise ClientDisconnect from None
        raise
    finally:
        inside = False
        watching.cancel()


async def gone(request: Request) -> None:
    """Wait until the client has disconnected; the request's body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _decode(body: Json, target: Target) -> ExecuteRequest:
    order = _decode_either(body, target)
    if order.code.strip():  # AutoGen's executor starts with an empty cell after a restart
        check_code(order.code)
    if order.shell:
        _check_shell(order, target)
    # The specification's own examples of shell commands use 600 seconds.
    limit = (
        None if _in_background(order, target) else MAX_SYNCHRONOUS if target.strict and not order.shell else MAX_TIMEOUT
    )
    try:
        check_timeout(order.timeout, most=limit, name="timeoutInSeconds")
    except InvalidRequest as error:
        raise BadRequest(str(error), target="timeoutInSeconds") from None
    if not target.strict:
        return order
    if target.version != LATEST:
        return replace(order, output_limit=None, jupyter_format=False)
    return order if order.output_limit is not None else replace(order, output_limit=DEFAULT_OUTPUT_LIMIT)


def _check_shell(order: ExecuteRequest, target: Target) -> None:
    """Check that a command can be run in this version.

    Raises:
        BadRequest: it cannot.
    """
    if target.legacy:
        raise BadRequest(
            f"The api-version must be 2025-02-02-preview or later for 'shellCommand', not {target.version}.",
            code=NOT_SUPPORTED,
            target="shellCommand",
        )
    target.require(since=LATEST if order.arguments or order.stdin else SHELL_SINCE)
    try:
        check_command(order.arguments or order.code, order.stdin)
    except InvalidRequest as error:
        raise BadRequest(str(error), target="execCommandAndArgs" if order.arguments else "shellCommand") from None


def _decode_either(body: Json, target: Target) -> ExecuteRequest:
    """Read the request in its contract's form or, unless strict, in the other contract's form."""
    codec = target.codec
    if not target.strict and isinstance(body, dict):
        codec = LEGACY if isinstance(mapping(body).get("properties"), dict) else CURRENT
    order = codec.decode_execute_request(body)
    if target.strict:
        check_declared(mapping(body) if codec is CURRENT else mapping(mapping(body)["properties"]), target.version)
    return order


def _in_background(order: ExecuteRequest, target: Target) -> bool:
    """Whether to respond before the execution ends; the legacy contract cannot poll it later."""
    return order.asynchronous and not target.legacy


def _operation_id(request: Request) -> str | None:
    operation_id = request.headers.get("operation-id") or None
    if operation_id is not None and not _OPERATION_ID.fullmatch(operation_id):
        raise BadRequest(
            f"The header 'operation-id' must have at most 128 printable characters of ASCII, not {operation_id!r:.50}.",
            target="operation-id",
        )
    return operation_id
