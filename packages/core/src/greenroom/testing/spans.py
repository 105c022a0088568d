"""Record OpenTelemetry spans in memory, for tests. Needs its SDK."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

SCOPE = "greenroom"
"""The instrumentation scope of our own spans; those of a framework have another."""


class RecordedSpans(SpanProcessor):
    """The spans that ended during the recording."""

    def __init__(self) -> None:
        self.all: list[ReadableSpan] = []
        self.active = False
        self.added = False
        """Whether the provider of this process knows it."""

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span."""
        if self.active:
            self.all.append(span)

    @property
    def ours(self) -> list[ReadableSpan]:
        """Greenroom's own spans, in the order in which they ended."""
        return [span for span in self.all if _scope(span) == SCOPE]

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans with a name, from any library."""
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """Return the only span with a name."""
        (span,) = self.named(name)
        return span

    def ancestors(self, span: ReadableSpan) -> list[str]:
        """Return the names of the spans above one, the nearest first."""
        by_id = {each.context.span_id: each for each in self.all if each.context is not None}
        names: list[str] = []
        while span.parent is not None and (parent := by_id.get(span.parent.span_id)) is not None:
            names.append(parent.name)
            span = parent
        return names


_recorded = RecordedSpans()


@contextlib.contextmanager
def recorded_spans() -> Generator[RecordedSpans, None, None]:
    """Record the spans of this process. A process can have one tracer provider, so it is set up only once."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider) and not _recorded.added:
        provider.add_span_processor(_recorded)
        _recorded.added = True
    _recorded.all, _recorded.active = [], True
    try:
        yield _recorded
    finally:
        _recorded.active = False


@contextlib.contextmanager
def caller(name: str = "caller") -> Generator[None, None, None]:
    """Create the span of an application that calls Greenroom."""
    with trace.get_tracer("tests").start_as_current_span(name):
        yield


def texts_of(spans: Sequence[ReadableSpan]) -> str:
    """Return everything in the spans as text, to test that something is not in it."""
    return "\n".join(span.to_json() for span in spans)


def _scope(span: ReadableSpan) -> str:
    return "" if span.instrumentation_scope is None else span.instrumentation_scope.name
