"""The metrics of pools that are created while the server runs."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from greenroom.telemetry import ExecutionEnded, Observer, TelemetryEvent

from .plane import OTHER, Control, control, path_of, resource


async def sums(server: Control, name: str) -> Mapping[str, float]:
    """The values of a metric by pool; no series may be there twice."""
    page = await server.client.get("/metrics")
    assert page.status_code == 200, page.text
    samples = [each for family in text_string_to_metric_families(page.text) for each in family.samples]
    series = [(each.name, tuple(sorted(each.labels.items()))) for each in samples]
    assert len(series) == len(set(series))
    found: dict[str, float] = {}
    for each in samples:
        if each.name == name:
            pool = each.labels.get("pool") or each.labels["poolName"]
            found[pool] = found.get(pool, 0) + each.value
    return found


EXECUTIONS = "greenroom_execution_duration_seconds_count"


async def test_pools_of_one_name_in_other_groups_have_separate_series() -> None:
    async with control() as server:
        places: list[dict[str, str]] = [{}, {"group": "team"}, {"group": "team", "subscription": OTHER}]
        pools = [await server.done("PUT", path_of("ci", **place), resource()) for place in places]
        for number, pool in enumerate(pools, start=1):
            for _ in range(number):
                assert (await server.run("1", pool)).is_success
        assert await sums(server, EXECUTIONS) == {"ci": 1, "team/ci": 2, f"{OTHER}/team/ci": 3}
        assert (await sums(server, "greenroom_pool_limit")).keys() == {"default", "ci", "team/ci", f"{OTHER}/team/ci"}


async def test_a_change_keeps_the_sums_of_a_pool_and_a_deletion_ends_them() -> None:
    path = path_of("ci")
    async with control() as server:
        pool = await server.done("PUT", path, resource())
        assert (await server.run("1", pool)).is_success
        changed = resource(sessionNetworkConfiguration={"status": "EgressEnabled"})  # other sandboxes
        changed["properties"]["scaleConfiguration"]["maxConcurrentSessions"] = 3
        await server.done("PUT", path, changed)
        assert (await server.run("1", pool, "another")).is_success
        assert await sums(server, EXECUTIONS) == {"ci": 2}
        assert (await sums(server, "greenroom_pool_limit"))["ci"] == 3
        await server.done("DELETE", path)
        assert (await sums(server, "greenroom_pool_limit")).keys() == {"default"}
        assert await sums(server, EXECUTIONS) == {}
        pool = await server.done("PUT", path, resource())
        assert (await server.run("1", pool)).is_success
        assert await sums(server, EXECUTIONS) == {"ci": 1}


async def test_a_created_pool_has_its_own_observer() -> None:
    events: dict[str | None, list[TelemetryEvent]] = {}

    def observers(pool: str | None) -> Observer:
        return events.setdefault(pool, []).append

    async with control(observers=observers) as server:
        one = await server.done("PUT", path_of("ci"), resource())
        await server.done("PUT", path_of("ci", group="team"), resource())
        assert (await server.run("1", one)).is_success
        executed = {name: [each for each in of if isinstance(each, ExecutionEnded)] for name, of in events.items()}
    assert {name: len(each) for name, each in executed.items()} == {"ci": 1, "team/ci": 0}
