"""The metrics, in Prometheus' text and through OpenTelemetry: read with their own parsers, hostile names included."""

from __future__ import annotations

import asyncio
from typing import Any
from unicodedata import category

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open_metrics,  # pyright: ignore[reportUnknownVariableType]
)
from prometheus_client.parser import text_string_to_metric_families
from tests.effort import examples
from tests.server.served import LATEST, current, query

from greenroom.models import PoolStatus, PoolUsage, SessionUsage, UsageSource
from greenroom.server.access.keys import ApiKeys, digest
from greenroom.telemetry import (
    AllocationRefusal,
    AllocationRefused,
    EndCause,
    ExecutionEnded,
    RequestEnded,
    RequestRefusal,
    RequestRefused,
    SandboxEnded,
    SandboxRemoved,
    SessionAllocated,
    StartFailed,
    StartFailure,
    TelemetryEvent,
)
from greenroom.telemetry.aggregate import Aggregate
from greenroom.telemetry.meters import Meters
from greenroom.telemetry.prometheus import PoolReading, exposition

from .watched import pool_with_events, served_with_metrics

STATUS = PoolStatus(
    limit=10, ready=2, starting=1, executing=3, idle=4, waiting=5, wait_max=1.5, wait_p95=0.5, ready_target=3
)
USAGE = PoolUsage(sessions=9, cpu=2.5, spare_cpu=0.5, memory=1 << 20, source=UsageSource.CONTROL_GROUPS)


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return read(text)[name, frozenset(labels.items())]


def shown(server: Aggregate, *pools: PoolReading, accept: str = "") -> str:
    return exposition(server, pools, accept)[1].decode()


def test_the_whole_status_of_a_pool_is_shown_with_azures_names() -> None:
    text = shown(Aggregate(), PoolReading("ci", Aggregate(), STATUS, USAGE))
    assert value(text, "PoolReadyPodCount", poolName="ci") == 2
    assert value(text, "PoolExecutingPodCount", poolName="ci") == 7
    assert value(text, "PoolPendingPodCount", poolName="ci") == 1
    for state, count in (("ready", 2), ("starting", 1), ("executing", 3), ("idle", 4)):
        assert value(text, "greenroom_pool_sandboxes", pool="ci", state=state) == count
    assert value(text, "greenroom_pool_limit", pool="ci") == 10
    assert value(text, "greenroom_pool_waiting", pool="ci") == 5
    assert value(text, "greenroom_pool_saturation_ratio", pool="ci") == 1.2
    assert value(text, "greenroom_pool_recent_duration_seconds", pool="ci", of="wait", statistic="max") == 1.5
    assert value(text, "greenroom_pool_recent_duration_seconds", pool="ci", of="wait", statistic="p95") == 0.5
    assert value(text, "greenroom_pool_ready_target", pool="ci") == 3
    assert value(text, "greenroom_pool_memory_bytes", pool="ci") == 1 << 20
    assert value(text, "greenroom_pool_cpu_time_seconds_total", pool="ci", purpose="sessions") == 2.5
    assert value(text, "greenroom_pool_cpu_time_seconds_total", pool="ci", purpose="spare") == 0.5


def test_events_are_counted_and_their_times_are_histograms() -> None:
    aggregate = Aggregate()
    usage = SessionUsage(wall=20, source=UsageSource.CONTROL_GROUPS, cpu=1, memory_time=1, peak_memory=1 << 25)
    for event in (
        SessionAllocated("a", 0.002, warm=True),
        SessionAllocated("b", 0.7, warm=False),
        AllocationRefused("c", AllocationRefusal.POOL_FULL, 30),
        ExecutionEnded("a", "failed", 0.3, error="KeyError", output=7),
        StartFailed(StartFailure.TOO_SLOW),
        SandboxEnded(EndCause.COOLED_DOWN, "a", 20),
        SandboxRemoved(EndCause.COOLED_DOWN, "a", usage),
        SandboxRemoved(EndCause.SURPLUS, None, usage),
    ):
        aggregate.observe(event)
    text = shown(Aggregate(), PoolReading("ci", aggregate))
    wait = "greenroom_session_wait_duration_seconds"
    assert value(text, f"{wait}_count", pool="ci") == 2
    assert value(text, f"{wait}_sum", pool="ci") == 0.702
    assert value(text, f"{wait}_bucket", pool="ci", le="0.0025") == 1
    assert value(text, f"{wait}_bucket", pool="ci", le="+Inf") == 2
    assert value(text, "greenroom_session_allocations_total", pool="ci", start="warm") == 1
    assert value(text, "greenroom_session_refusals_total", pool="ci", reason="pool_full") == 1
    assert value(text, "greenroom_execution_errors_total", pool="ci", error_type="KeyError") == 1
    assert value(text, "greenroom_execution_output_total", pool="ci") == 7
    labels = {"pool": "ci", "work": "code", "status": "failed"}
    assert value(text, "greenroom_execution_duration_seconds_sum", **labels) == 0.3
    assert value(text, "greenroom_sandbox_start_failures_total", pool="ci", reason="too_slow") == 1
    assert value(text, "greenroom_sandbox_ends_total", pool="ci", cause="cooled_down") == 1
    assert value(text, "greenroom_session_duration_seconds_count", pool="ci", cause="cooled_down") == 1
    assert value(text, "greenroom_session_memory_peak_bytes_sum", pool="ci") == 1 << 25


def test_the_server_has_its_own_metrics() -> None:
    aggregate = Aggregate()
    aggregate.observe(RequestEnded("POST /executions", 200, 0.1))
    aggregate.observe(RequestEnded(None, None, 0.1))
    aggregate.observe(RequestRefused(RequestRefusal.TOO_MANY))
    text = shown(aggregate)
    name = "http_server_request_duration_seconds_count"
    route = {"http_request_method": "POST", "http_route": "/executions", "http_response_status_code": "200"}
    assert value(text, name, **route) == 1
    unknown = {"http_request_method": "_OTHER", "http_route": "", "http_response_status_code": ""}
    assert value(text, name, **unknown) == 1
    assert value(text, "greenroom_server_refusals_total", reason="too_many") == 1


def test_nothing_makes_an_instrument_grow_without_bounds() -> None:
    aggregate = Aggregate()
    for number in range(2000):
        aggregate.observe(RequestEnded(f"GET /{number}", 200, 0.1))
        aggregate.observe(ExecutionEnded("a", "failed", 0.1, error=f"Error{number}"))
    assert len(shown(aggregate).splitlines()) < 60_000
    assert all(len(series) <= 500 for series in aggregate.histograms.values())
    assert all(len(series) <= 500 for series in aggregate.counters.values())


EVENTS: st.SearchStrategy[TelemetryEvent] = st.one_of(
    st.builds(SessionAllocated, st.text(), st.floats(0, 1e6), st.booleans()),
    st.builds(AllocationRefused, st.text(), st.sampled_from(AllocationRefusal), st.floats(0, 1e6)),
    st.builds(
        ExecutionEnded, st.text(), st.sampled_from(["succeeded", "failed", "timed_out", "cancelled"]), st.floats(0, 1e6)
    ),
    st.builds(SandboxEnded, st.sampled_from(EndCause), st.none() | st.text(), st.floats(0, 1e6)),
    st.builds(RequestEnded, st.sampled_from([None, "GET /files/{name}"]), st.none() | st.just(500), st.floats(0, 1e6)),
)


@given(st.text(), st.lists(EVENTS), st.text(st.characters(codec="latin-1")))
@settings(max_examples=examples(200))
def test_the_text_is_valid_and_has_no_identifier_whatever_names_there_are(
    name: str, events: list[TelemetryEvent], accept: str
) -> None:
    aggregate = Aggregate()
    for event in events:
        aggregate.observe(event)
    text = shown(aggregate, PoolReading(name, aggregate, STATUS, USAGE), accept=accept)
    families = list(text_string_to_metric_families(text))
    names = {label for family in families for sample in family.samples for label in sample.labels}
    assert names <= {
        "pool", "poolName", "state", "of", "statistic", "purpose", "reason", "cause", "start", "work", "status", "le",
        "direction", "outcome", "error_type", "http_request_method", "http_route", "http_response_status_code",
    }  # fmt: skip
    samples = [sample for family in families for sample in family.samples]
    (shown_name,) = {sample.labels["poolName"] for sample in samples if "poolName" in sample.labels}
    assert not any(category(character) in {"Cc", "Cs"} for character in shown_name.replace("\n", "").replace("\t", ""))


def test_open_metrics_is_sent_to_clients_that_prefer_it() -> None:
    kind, text = exposition(
        Aggregate(), [PoolReading("a", Aggregate(), STATUS, USAGE)], "application/openmetrics-text; version=1.0.0"
    )
    assert kind.startswith("application/openmetrics-text")
    assert {family.name for family in parse_open_metrics(text.decode())} >= {
        "PoolReadyPodCount",
        "greenroom_pool_limit",
    }


# The server


async def test_metrics_is_a_page_of_the_server() -> None:
    async with served_with_metrics("ci", "other") as client:
        path = "/subscriptions/s/resourceGroups/g/sessionPools/ci/executions"
        await client.post(path, params=query(LATEST, "the-secret"), json=current("print('secret')\n1/0"))
        await client.post(path, params={"api-version": LATEST, "identifier": "x"}, json=current("1"))
        response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    text = response.text
    assert value(text, "PoolExecutingPodCount", poolName="ci") == 1
    assert value(text, "PoolExecutingPodCount", poolName="other") == 0
    assert value(text, "greenroom_execution_errors_total", pool="ci", error_type="ZeroDivisionError") == 1
    assert value(text, "greenroom_pool_saturation_ratio", pool="ci") == 0.25
    assert value(text, "greenroom_server_refusals_total", reason="invalid") == 1
    labels = {"http_request_method": "POST", "http_route": "/executions", "http_response_status_code": "200"}
    assert value(text, "http_server_request_duration_seconds_count", **labels) == 1
    assert "secret" not in text


async def test_a_key_for_metrics_opens_nothing_else() -> None:
    all_else, metrics = ApiKeys({"all": digest("the key of all")}), ApiKeys({"only": digest("the key of metrics")})

    class Either:
        async def admit(self, authorization: str | None) -> str:
            guard = metrics if authorization == "Bearer the key of metrics" else all_else
            return await guard.admit(authorization)

    async with served_with_metrics("p", guard=all_else, metrics_guard=Either()) as client:
        key = {"Authorization": "Bearer the key of metrics"}
        assert (await client.get("/metrics", headers=key)).status_code == 200
        assert (await client.get("/metrics", headers={"Authorization": "Bearer the key of all"})).status_code == 200
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={"Authorization": "Bearer another"})).status_code == 401
        for method, path in (
            ("POST", "/metrics"),
            ("GET", "/metrics/"),
            ("GET", "/metrics/../listSessions"),
            ("GET", "//metrics"),
            ("GET", "/listSessions"),
            ("GET", "/greenroom/1/status"),
            ("GET", "/greenroom"),
            ("POST", "/executions"),
        ):
            response = await client.request(method, path, params=query(LATEST), headers=key)
            assert response.status_code == 401, (method, path)


async def test_without_authentication_a_web_page_cannot_read_metrics() -> None:
    async with served_with_metrics("p") as client:
        assert (await client.get("/metrics", headers={"Origin": "https://example.com"})).status_code == 403
        assert (await client.get("/metrics", headers={"Host": "example.com"})).status_code == 403


@pytest.mark.parametrize(
    "accept", ["", "*/*", "\xff", "application/openmetrics-text; version=" + "9" * 500, ";;,,=", "a" * 9000]
)
async def test_no_accept_header_breaks_it(accept: str) -> None:
    async with served_with_metrics("p") as client:
        assert (await client.get("/metrics", headers={b"Accept": accept.encode("latin-1")})).status_code == 200


# Through OpenTelemetry


def points(reader: Any) -> dict[tuple[str, frozenset[tuple[str, Any]]], Any]:
    data = reader.get_metrics_data()
    return {
        (metric.name, frozenset(dict(point.attributes).items())): point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def test_the_same_metrics_go_through_opentelemetry() -> None:
    reader = InMemoryMetricReader()
    instruments = Meters(MeterProvider([reader], shutdown_on_exit=False))

    class Backend:
        def reading(self) -> tuple[PoolStatus, PoolUsage]:
            return STATUS, USAGE

    backend = Backend()
    assert instruments.name("memory") == "memory"
    instruments.watch("memory", backend.reading)
    assert instruments.name("memory") == "memory-2"
    observe = instruments.observer("memory")
    observe(SessionAllocated("the secret", 0.002, warm=True))
    observe(ExecutionEnded("the secret", "failed", 0.3, error="KeyError"))
    instruments.observer(None)(RequestEnded("GET /files/{name}", 200, 0.1))
    found = points(reader)
    # Names of instruments have no case in OpenTelemetry; its SDK makes them small.
    assert found["poolreadypodcount", frozenset({("poolName", "memory")})].value == 2
    cpu = found["greenroom.pool.cpu.time", frozenset({("pool", "memory"), ("purpose", "sessions")})]
    assert cpu.value == 2.5
    wait = found["greenroom.session.wait.duration", frozenset({("pool", "memory")})]
    assert (wait.count, wait.explicit_bounds[0]) == (1, 0.001)
    assert ("greenroom.execution.errors", frozenset({("pool", "memory"), ("error.type", "KeyError")})) in found
    request = {("http.request.method", "GET"), ("http.route", "/files/{name}"), ("http.response.status_code", "200")}
    assert ("http.server.request.duration", frozenset(request)) in found
    assert "secret" not in repr(found)
    del backend
    assert not any(name == "poolreadypodcount" for name, _ in points(reader))
    assert instruments.name("memory") == "memory"


async def test_a_pool_is_read_from_other_threads_while_it_works() -> None:
    async with pool_with_events(max_concurrent_sessions=50, acquire_timeout=60) as (pool, _):
        stop = asyncio.Event()

        async def read_often() -> int:
            count = 0
            while not stop.is_set():
                await asyncio.to_thread(pool.reading)
                count += 1
            return count

        reading = asyncio.create_task(read_often())
        for round_number in range(3):
            names = [f"session-{round_number}-{number}" for number in range(20)]
            await asyncio.gather(*(pool.execute(name, "1", timeout=None, on_event=None) for name in names))
            await asyncio.gather(*map(pool.delete, names))
        stop.set()
        assert await reading > 0
        assert (await pool.pool_usage()).sessions == 60


def test_frozen_sessions_are_counted() -> None:
    status = PoolStatus(10, idle=3, frozen=2)
    text = shown(Aggregate(), PoolReading("ci", Aggregate(), status))
    assert value(text, "greenroom_pool_frozen", pool="ci") == 2
