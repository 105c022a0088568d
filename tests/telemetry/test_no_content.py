"""No code, output, contents or name of a file is in any signal, whatever they are."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import examples

from greenroom import FileMissing, PoolStatus, SessionPool
from greenroom.local import PoolSettings
from greenroom.local.pool import LocalPool
from greenroom.server.state.queries import record_row, usage_row
from greenroom.sessions import OpenPool
from greenroom.telemetry import ExecutionEnded, SandboxRemoved, TelemetryEvent, TransferEnded, both, python_logging
from greenroom.telemetry.aggregate import Aggregate
from greenroom.telemetry.columns import columns_of
from greenroom.telemetry.prometheus import PoolReading, exposition
from greenroom.telemetry.records import Item, LogRecord, recorder
from greenroom.testing.memory_engine import MemoryEngine
from greenroom.testing.spans import recorded_spans, texts_of


class Keeping(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, kept: list[logging.LogRecord]) -> None:
        super().__init__()
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record)


class Watched:
    """A pool in memory with all that it tells."""

    def __init__(self) -> None:
        self.events: list[TelemetryEvent] = []
        self.metrics = Aggregate()
        self.recorded: list[Item] = []
        self.logged: list[logging.LogRecord] = []
        settings = PoolSettings.parse({"preload": (), "ready_session_instances": 0})

        async def backend() -> LocalPool:
            logs = both(recorder(self.recorded.append, "p"), python_logging.observer_of("p"))
            signals = both(self.events.append, self.metrics.observe)
            return await LocalPool.open(MemoryEngine(), settings, both(signals, logs))

        self.pool = SessionPool(OpenPool.open(backend))

    def text(self) -> str:
        """All of its events and metrics, and its logs: rows, columns and messages."""
        reading = PoolReading("p", self.metrics, PoolStatus(limit=1), self.pool.usage())
        rows = [record_row(each) if isinstance(each, LogRecord) else usage_row(each) for each in self.recorded]
        columns = [columns_of(each) for each in self.recorded]
        messages = [(record.getMessage(), record.__dict__["greenroom"]) for record in self.logged]
        assert len(rows) > 5
        assert messages
        return repr([self.events, rows, columns, messages]) + exposition(Aggregate(), [reading])[1].decode()


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    found = Watched()
    handler = Keeping(found.logged)
    level = python_logging.logger.level
    python_logging.logger.addHandler(handler)
    python_logging.logger.setLevel(logging.INFO)
    try:
        with contextlib.closing(found.pool):
            yield found
    finally:
        python_logging.logger.removeHandler(handler)
        python_logging.logger.setLevel(level)


@given(text=st.text(st.characters(codec="utf-8"), min_size=8, max_size=60), fails=st.booleans())
@settings(max_examples=examples(40))
def test_no_content_is_in_any_signal(watched: Watched, text: str, fails: bool) -> None:
    # A text that is its own name, that nothing else contains, and that is a valid identifier of Python.
    marked = f"mark{text.encode().hex()}mark"
    watched.events.clear()
    watched.recorded.clear()
    watched.logged.clear()
    with recorded_spans() as spans:
        session = watched.pool.session()
        ending = f"raise type({marked!r}, (Exception,), {{}})({text!r})" if fails else repr(text)
        session.execute(f"{marked} = {marked!r}\nprint({marked}, {text!r})\n{ending}")
        session.shell(["echo", marked, "text"])
        session.upload(marked.encode(), f"{marked}.txt")
        session.download(f"{marked}.txt")
        with pytest.raises(FileMissing):
            session.download(f"{marked}.csv")
        session.files()
        session.delete_file(f"{marked}.txt")
        session.delete()
        assert {ExecutionEnded, TransferEnded, SandboxRemoved} <= {type(event) for event in watched.events}
        assert len(spans.ours) == 6
        signals = texts_of(spans.ours) + watched.text()
    assert marked not in signals
    assert marked[4:-4] not in signals
