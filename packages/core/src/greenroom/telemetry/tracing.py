"""Spans by OpenTelemetry, where the application has set it up: nothing here imports it first.

Names and attributes are few and fixed; content is in them only if a pool was opened with `trace_content=True`. A
framework's own span of a tool call, `execute_tool`, is the parent of those here: there is never a second one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextvars import Context
from functools import wraps
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from greenroom.errors import GreenroomError
from greenroom.models import Execution
from greenroom.telemetry.error_classes import error_class
from greenroom.untrusted import visible

if TYPE_CHECKING:
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

Kind = Literal["internal", "client", "server"]
Value = str | int | float | bool

EXECUTE_CODE = "execute code"
EXECUTE_COMMAND = "execute command"
REQUEST_CONTAINER = "request container"
UPLOAD_FILE = "upload file"
DOWNLOAD_FILE = "download file"
ALLOCATE_SESSION = "allocate session"
CALL_TOOL = "call tool"
"""Of a tool's call by code in a session, below that of its execution; where a framework runs it, its own is below."""

_MAX_TEXT = 300
_MAX_CONTENT = 8_000
_PROPAGATED = ("traceparent", "tracestate")
_state: dict[str, Any] = {}


class Span:
    """A span, or nothing where there is no OpenTelemetry."""

    __slots__ = ("_span",)

    def __init__(self, span: OtelSpan | None) -> None:
        self._span = span

    def __bool__(self) -> bool:
        """Whether anybody records it."""
        return self._span is not None and self._span.is_recording()

    def active(self) -> contextlib.AbstractContextManager[object]:
        """Make it the parent of the spans within. It must be left in the task that entered it."""
        if self._span is None:
            return contextlib.nullcontext()
        from opentelemetry import trace  # noqa: PLC0415  it is loaded already

        return trace.use_span(self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False)

    def activate_in(self, context: Context) -> None:
        """Make it the parent of the spans in a context from now on."""
        if self._span is not None:
            from opentelemetry import context as current  # noqa: PLC0415  it is loaded already
            from opentelemetry import trace  # noqa: PLC0415

            span = self._span
            context.run(lambda: current.attach(trace.set_span_in_context(span)))

    def set(self, attributes: Mapping[str, Value | None]) -> None:
        """Add attributes, except those that are `None`; texts have escapes for control characters, and are cut."""
        if self._span is not None and self._span.is_recording():
            self._span.set_attributes(_clean(attributes))

    def set_content(self, name: str, text: str) -> None:
        """Add an attribute that holds content, cut where it is too long."""
        if self._span is not None and self._span.is_recording():
            self._span.set_attribute(name, text[:_MAX_CONTENT].encode("utf-8", "replace").decode())

    def rename(self, name: str) -> None:
        """Give it a name that was not known at its start."""
        if self._span is not None:
            self._span.update_name(name)

    def fail(self, error_type: str) -> None:
        """Mark it as failed. There is no description, which could quote the code or its output."""
        if self._span is not None and self._span.is_recording():
            from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

            self._span.set_attribute("error.type", error_type)
            self._span.set_status(Status(StatusCode.ERROR))

    def fail_by(self, error: BaseException) -> None:
        """Mark it as failed with an exception; the caller's own cancellation is none."""
        if isinstance(error, GeneratorExit):
            return
        known = type(error).__name__ if isinstance(error, GreenroomError) else error_class(type(error).__name__)
        self.fail(known)

    def end(self) -> None:
        if self._span is not None:
            self._span.end()


NO_SPAN = Span(None)


def start(
    name: str,
    attributes: Mapping[str, Value | None],
    *,
    kind: Kind = "internal",
    headers: Mapping[str, str] | None = None,
) -> Span:
    """Start a span below the current one, or below the one that `headers` name.

    Args:
        name: one of a few.
        attributes: those that are known at its start, with which it is sampled.
        kind: its place among processes.
        headers: those of a request; a `traceparent` that is not valid is ignored.
    """
    tracer = _tracer()
    if tracer is None:
        return NO_SPAN
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    parent = None
    if headers is not None:
        parent = _propagator().extract({each: headers[each] for each in _PROPAGATED if each in headers})
    kinds = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT, "server": SpanKind.SERVER}
    return Span(tracer.start_span(name, parent, kinds[kind], _clean(attributes)))


@contextlib.contextmanager
def spanning(
    name: str, attributes: Mapping[str, Value | None], *, kind: Kind = "internal"
) -> Generator[Span, None, None]:
    """Start a span, make it the current one, and end it; an exception marks it as failed."""
    span = start(name, attributes, kind=kind)
    try:
        with span.active():
            yield span
    except BaseException as error:
        span.fail_by(error)
        raise
    finally:
        span.end()


def headers() -> dict[str, str]:
    """Return the headers that tell the current span to a server: W3C's trace context, and no baggage."""
    found: dict[str, str] = {}
    if _tracer() is not None:
        _propagator().inject(found)
    return found


def session_attributes(identifier: str, pool: str | None = None) -> dict[str, Value | None]:
    """Return the attributes of every span of a session's work."""
    return {"greenroom.session.id": identifier, "greenroom.pool.name": pool}


def describe_execution(span: Span, execution: Execution, *, content: bool = False) -> None:
    """Add the outcome of an execution to its span."""
    if not span:
        return
    span.set({
        "greenroom.execution.status": execution.status,
        "greenroom.execution.duration": execution.duration,
        "greenroom.execution.exit_code": execution.exit_code,
    })  # fmt: skip
    if execution.error is not None:
        span.fail(error_class(execution.error.name))
    if content:
        span.set_content("greenroom.execution.output", execution.text_for_model(_MAX_CONTENT))


class RemotePool(Protocol):
    """A pool whose calls go to a server."""

    @property
    def endpoint(self) -> str:
        """The server's URL."""
        ...

    @property
    def trace_content(self) -> bool:
        """Whether spans have the code and its output."""
        ...


MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def remote_call(name: str) -> Callable[[MethodT], MethodT]:
    """Make a span of each call of a `RemotePool`'s method, whose first argument is the session's identifier."""

    def decorate(method: MethodT) -> MethodT:
        @wraps(method)
        async def call(self: RemotePool, identifier: str, *args: Any, **kwargs: Any) -> Any:
            if _tracer() is None:
                return await method(self, identifier, *args, **kwargs)
            with spanning(name, _remote_attributes(self.endpoint, identifier), kind="client") as span:
                if self.trace_content and name == EXECUTE_CODE and args:
                    span.set_content("greenroom.execution.code", str(args[0]))
                result = await method(self, identifier, *args, **kwargs)
                if isinstance(result, Execution):
                    describe_execution(span, result, content=self.trace_content)
                return result

        return cast("MethodT", call)

    return decorate


def remote_download(method: MethodT) -> MethodT:
    """As `remote_call`, for the method that yields the content of a file."""

    @wraps(method)
    async def call(self: RemotePool, identifier: str, *args: Any, **kwargs: Any) -> AsyncGenerator[bytes, None]:
        span, size = start(DOWNLOAD_FILE, _remote_attributes(self.endpoint, identifier), kind="client"), 0
        try:
            async with contextlib.aclosing(method(self, identifier, *args, **kwargs)) as chunks:
                while True:
                    # The consumer can be in another task with each piece, so the span is not the current one between.
                    with span.active():
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        break
                    size += len(chunk)
                    yield chunk
        except BaseException as error:
            span.fail_by(error)
            raise
        finally:
            span.set({"greenroom.transfer.size": size})
            span.end()

    return cast("MethodT", call)


def _remote_attributes(endpoint: str, identifier: str) -> dict[str, Value | None]:
    address = urlsplit(endpoint)
    return {**session_attributes(identifier), "server.address": address.hostname, "server.port": address.port}


def _tracer() -> Tracer | None:
    """The tracer, if the application has loaded OpenTelemetry, as it must to record spans."""
    tracer = _state.get("tracer")
    if tracer is None and "opentelemetry.trace" in sys.modules:
        from opentelemetry import trace  # noqa: PLC0415

        tracer = _state["tracer"] = trace.get_tracer("greenroom", version("greenroom"))
    return tracer


def _propagator() -> Any:
    propagator = _state.get("propagator")
    if propagator is None:
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        propagator = _state["propagator"] = TraceContextTextMapPropagator()
    return propagator


def _clean(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    return {
        name: _text(value) if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None
    }


def _text(value: str) -> str:
    return (value if value.isprintable() else visible(value))[:_MAX_TEXT]
