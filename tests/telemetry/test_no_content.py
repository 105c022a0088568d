"""No code, output, contents or name of a file is in any signal, whatever they are."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from tests.effort import examples
from tests.server.served import listening

import greenroom
from greenroom import FileMissing, PoolStatus, SessionPool, Tool
from greenroom.local import PoolSettings
from greenroom.local.pool import LocalPool
from greenroom.server.state.queries import record_row, usage_row
from greenroom.sessions import OpenPool
from greenroom.telemetry import (
    ExecutionEnded,
    RequestEnded,
    SandboxRemoved,
    TelemetryEvent,
    TransferEnded,
    both,
    python_logging,
)
from greenroom.telemetry.aggregate import Aggregate
from greenroom.telemetry.columns import columns_of
from greenroom.telemetry.meters import Meters
from greenroom.telemetry.prometheus import PoolReading, exposition
from greenroom.telemetry.records import Item, LogRecord, recorder
from greenroom.testing.memory_engine import MemoryEngine
from greenroom.testing.spans import recorded_spans, texts_of

SETTINGS = PoolSettings.parse({"preload": (), "ready_session_instances": 0})
TEXTS = st.text(st.characters(codec="utf-8"), min_size=8, max_size=28)  # as a name, at most 232 bytes


def marked(text: str) -> str:
    """Return a text that is its own name, that nothing else contains, and that is a valid identifier of Python."""
    return f"mark{text.encode().hex()}mark"


class Signals:
    """All that tells: events, metrics for Prometheus and by OpenTelemetry, and Python's logs."""

    def __init__(self) -> None:
        self.events: list[TelemetryEvent] = []
        self.metrics = Aggregate()
        self._reader = InMemoryMetricReader()
        self._meters = Meters(MeterProvider([self._reader], shutdown_on_exit=False))
        self.recorded: list[Item] = []
        logs = both(recorder(self.recorded.append, "p"), python_logging.observer_of("p"))
        counted = both(self.metrics.observe, self._meters.observer("p"))
        self.observer = both(self.events.append, both(counted, logs))

    def text(self) -> str:
        """Return the events and metrics, and the logs: rows and columns."""
        data = self._reader.get_metrics_data()
        assert data is not None
        told = data.to_json()
        assert "greenroom.execution.duration" in told
        rows = [record_row(each) if isinstance(each, LogRecord) else usage_row(each) for each in self.recorded]
        assert len(rows) > 5
        return repr([self.events, rows, [columns_of(each) for each in self.recorded]]) + told


@contextlib.contextmanager
def logged() -> Generator[list[str], None, None]:
    """What Greenroom and the event loop log meanwhile, at any level; the server's access log is another."""
    found: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != "greenroom.server.access":
                found.append(f"{self.format(record)} {record.__dict__}")

    handler, loggers = Kept(), [logging.getLogger(name) for name in ("greenroom", "asyncio", "uvicorn.error")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.addHandler(handler)
            each.setLevel(logging.DEBUG)
        yield found
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.removeHandler(handler)
            each.setLevel(level)


def code_of(text: str, *, fails: bool) -> str:
    """Return code that has the text in its source, output, result or error."""
    mark = marked(text)
    ending = f"raise type({mark!r}, (Exception,), {{}})({text!r})" if fails else repr(text)
    return f"{mark} = {mark!r}\nprint({mark}, {text!r})\nf(value={mark})\n{ending}"


def check_absent(text: str, signals: str) -> None:
    """Check that the text is nowhere, and neither is its middle, in case that its ends are cut."""
    assert marked(text) not in signals
    assert marked(text)[4:-4] not in signals


class Watched(Signals):
    """A pool in memory with all that it tells."""

    def __init__(self) -> None:
        super().__init__()

        async def backend() -> LocalPool:
            return await LocalPool.open(MemoryEngine(), SETTINGS, self.observer)

        self.pool = SessionPool(OpenPool.open(backend))

    def text(self) -> str:
        reading = PoolReading("p", self.metrics, PoolStatus(limit=1), self.pool.usage())
        return super().text() + exposition(Aggregate(), [reading])[1].decode()


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    found = Watched()
    with contextlib.closing(found.pool):
        yield found


@given(text=TEXTS, fails=st.booleans())
@settings(max_examples=examples(40))
def test_no_content_is_in_any_signal(watched: Watched, text: str, fails: bool) -> None:
    mark = marked(text)
    watched.events.clear()
    watched.recorded.clear()
    with recorded_spans() as spans, logged() as logs:
        session = watched.pool.session(env={mark: mark})
        tool = Tool("f", mark, {}, lambda arguments: [mark, arguments])
        session.execute(code_of(text, fails=fails), tools=[tool])
        session.shell(["echo", mark, "text"])
        session.upload(mark.encode(), f"{mark}.txt")
        session.download(f"{mark}.txt")
        with pytest.raises(FileMissing):
            session.download(f"{mark}.csv")
        session.files()
        session.delete_file(f"{mark}.txt")
        session.delete()
        assert {ExecutionEnded, TransferEnded, SandboxRemoved} <= {type(event) for event in watched.events}
        assert len(spans.ours) == 7
        signals = texts_of(spans.ours) + watched.text() + "".join(logs)
    check_absent(text, signals)


@given(text=TEXTS, fails=st.booleans())
@settings(max_examples=examples(6))
async def test_no_content_is_in_any_signal_of_client_and_server(text: str, fails: bool) -> None:
    mark, of_pool, of_server = marked(text), Signals(), Signals()
    with recorded_spans() as spans, logged() as logs:
        backend = await LocalPool.open(MemoryEngine(), SETTINGS, of_pool.observer)
        async with listening(backend, observer=of_server.events.append) as server:
            for version in ("greenroom/1", "2025-10-02-preview"):
                async with greenroom.aconnect(server.url, api_version=version) as pool:
                    session = pool.session()
                    await session.aexecute(f"f = dict\n{code_of(text, fails=fails)}")
                    await session.aupload(mark.encode(), f"{mark}.txt")
                    await session.adownload(f"{mark}.txt")
                    with pytest.raises(FileMissing):
                        await session.adownload(f"{mark}.csv")
                    await session.adelete_file(f"{mark}.txt")
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                await client.get(f"{server.url}/{mark}?{mark}={mark}")
                metrics = (await client.get(f"{server.url}/metrics")).text
        assert {ExecutionEnded, TransferEnded} <= {type(event) for event in of_pool.events}
        assert RequestEnded in {type(event) for event in of_server.events}
        assert "http_server_request_duration_seconds" in metrics
        assert any(span.name.startswith("POST ") for span in spans.ours)
        signals = texts_of(spans.ours) + of_pool.text() + repr(of_server.events) + metrics + "".join(logs)
    check_absent(text, signals)
