"""Spans with OpenTelemetry, if the application has set it up: this module never imports it first. Names and attributes
are few and fixed; they contain content only if a pool was opened with `trace_content=True`. A framework's own span of a
tool call, `execute_tool`, is the parent of these spans; it is not duplicated.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextvars import Context
from functools import cache, wraps
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
RESUME_EXECUTION = "resume execution"
REQUEST_CONTAINER = "request container"
UPLOAD_FILE = "upload file"
DOWNLOAD_FILE = "download file"
ALLOCATE_SESSION = "allocate session"
CALL_TOOL = "call tool"
"""The span of a tool call by code, a child of its execution's; a framework's own span of the call is its child."""

_MAX_TEXT = 300
_MAX_CONTENT = 8_000
_PROPAGATED = ("traceparent", "tracestate")
_state: dict[str, Any] = {}


class Span:
    """A span, or a no-op without OpenTelemetry."""

    __slots__ = ("_span",)

    def __init__(self, span: OtelSpan | None) -> None:
        self._span = span

    def __bool__(self) -> bool:
        """Whether the span is recorded."""
        return self._span is not None and self._span.is_recording()

    def active(self) -> contextlib.AbstractContextManager[object]:
        """Make it the parent of spans within the block, which must be left in the task that entered it."""
        return _NOTHING if self._span is None else _Active(self._span)

    def activate_in(self, context: Context) -> None:
        """Make it the parent of further spans in a context."""
        if self._span is not None:
            from opentelemetry import context as current  # noqa: PLC0415  already loaded
            from opentelemetry import trace  # noqa: PLC0415

            span = self._span
            context.run(lambda: current.attach(trace.set_span_in_context(span)))

    def set(self, attributes: Mapping[str, Value | None]) -> None:
        """Add attributes that are not `None`; in texts, control characters are escaped and long ones are truncated."""
        if self._span is not None and self._span.is_recording():
            self._span.set_attributes(_clean(attributes))

    def set_content(self, name: str, text: str) -> None:
        """Add an attribute with content, truncated if it is too long."""
        if self._span is not None and self._span.is_recording():
            self._span.set_attribute(name, text[:_MAX_CONTENT].encode("utf-8", "replace").decode())

    def rename(self, name: str) -> None:
        """Set a name that was unknown at its start."""
        if self._span is not None:
            self._span.update_name(name)

    def fail(self, error_type: str) -> None:
        """Mark it as failed. There is no description, which could quote the code or its output."""
        if self._span is not None and self._span.is_recording():
            self._span.set_attribute("error.type", error_type)
            self._span.set_status(_api().error)

    def fail_by(self, error: BaseException) -> None:
        """Mark it as failed with an exception, except for the caller's own cancellation."""
        if isinstance(error, GeneratorExit):
            return
        known = type(error).__name__ if isinstance(error, GreenroomError) else error_class(type(error).__name__)
        self.fail(known)

    def end(self) -> None:
        if self._span is not None:
            self._span.end()


NO_SPAN = Span(None)
_NOTHING = contextlib.nullcontext()


class _Active:
    """As the API's `use_span`, but in a third of the instructions, as each execution uses it."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def __enter__(self) -> None:
        api = _api()
        self._token = api.attach(api.with_span(self._span))

    def __exit__(self, *_: object) -> None:
        _api().detach(self._token)


def start(
    name: str,
    attributes: Mapping[str, Value | None],
    *,
    kind: Kind = "internal",
    headers: Mapping[str, str] | None = None,
) -> Span:
    """Start a span as a child of the current one, or of the one in `headers`.

    Args:
        name: one of a few fixed names.
        attributes: attributes known at its start, which the sampler sees.
        kind: client, server or internal.
        headers: a request's headers; an invalid `traceparent` is ignored.
    """
    tracer = _tracer()
    if tracer is None:
        return NO_SPAN
    parent = None
    if headers is not None:
        parent = _propagator().extract({each: headers[each] for each in _PROPAGATED if each in headers})
    return Span(tracer.start_span(name, parent, _api().kinds[kind], _clean(attributes)))


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
    """Return the headers that pass the current span to a server: W3C's trace context, without baggage."""
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
    """Create a span for each call of a `RemotePool`'s method whose first argument is the session's identifier."""

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
                    # The consumer can be in a different task for each piece, so the span is not current in between.
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


class _Api:
    """The used parts of OpenTelemetry's API, which is already loaded, looked up once."""

    def __init__(self) -> None:
        from opentelemetry import context, trace  # noqa: PLC0415

        self.attach, self.detach, self.with_span = context.attach, context.detach, trace.set_span_in_context
        kinds = trace.SpanKind
        self.kinds: dict[Kind, trace.SpanKind] = {
            "internal": kinds.INTERNAL,
            "client": kinds.CLIENT,
            "server": kinds.SERVER,
        }
        self.error = trace.Status(trace.StatusCode.ERROR)


_api = cache(_Api)


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
