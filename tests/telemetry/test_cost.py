"""What usage costs: Azure's rules by worked examples, and lists of prices."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import greenroom
from greenroom import InvalidRequest, PoolUsage, SessionUsage, UsageSource
from greenroom.engines.base import Resources
from greenroom.local.metering import Meter
from greenroom.pricing.prices import Prices
from greenroom.pricing.rules import node_share, session_hours

GROUPS = UsageSource.CONTROL_GROUPS
GIB = 1 << 30
LIST = """
currency = "EUR"

[code_interpreter]
session_hour = 0.5
source = "https://example.com/prices"
date = 2026-01-31

[custom_container]
node_hour = 2.0
source = "https://example.com/prices"
date = 2026-01-31

[here]
cpu_hour = 0.36
gib_hour = 0.036
source = "the contract for the servers in room 2"
date = 2026-01-31
"""


@pytest.fixture(autouse=True)
def _no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PRICES", "CONFIG"):
        monkeypatch.delenv(f"GREENROOM_{name}", raising=False)


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(LIST)
    return path


@pytest.mark.parametrize(
    ("wall", "hours"), [(0, 1), (1, 1), (3599.9, 1), (3600, 1), (3600.1, 2), (7200, 2), (24 * 3600, 24)]
)
def test_each_started_hour_counts_in_full(wall: float, hours: int) -> None:
    assert session_hours(wall) == hours


@pytest.mark.parametrize(
    ("cpus", "memory", "share"), [(16, 128 * GIB, 1), (1, 2 * GIB, 1 / 16), (0.25, 64 * GIB, 0.5), (2, GIB, 1 / 8)]
)
def test_a_container_counts_as_the_larger_of_its_node_shares(cpus: float, memory: int, share: float) -> None:
    assert node_share(cpus, memory) == share


@given(st.lists(st.floats(0, 1e6), max_size=20))
def test_hours_of_sessions_are_rounded_one_by_one(walls: list[float]) -> None:
    hours = sum(map(session_hours, walls))
    assert sum(walls) / 3600 <= hours + 1e-6
    assert hours <= sum(walls) / 3600 + len(walls) + 1e-6


def test_a_meter_counts_like_azure() -> None:
    meter = Meter(began=0, allocated=100)
    assert (meter.usage(101).session_hours, meter.usage(3701).session_hours, meter.usage(101).node_hours) == (1, 2, 0)
    container = Meter(began=0, allocated=100, node_share=1 / 8)
    assert (container.usage(100 + 7200).node_hours, container.usage(7300).session_hours) == (1 / 4, 0)
    spare = Meter(began=0)
    spare.take(Resources(GROUPS, 1, 100), 50)
    assert (spare.usage(5000).session_hours, spare.usage(5000).node_hours) == (0, 0)


def test_a_session_is_estimated_here_and_in_azure(prices: Path) -> None:
    # 100 seconds of a processor are 0.01 of its price, 1,000 GiB-seconds 0.01 of theirs; 61 minutes are two hours.
    usage = SessionUsage(3660, source=GROUPS, cpu=100, memory_time=1000 * GIB, session_hours=2)
    estimate = greenroom.estimate(usage, prices)
    assert (estimate.currency, estimate.in_azure) == ("EUR", 1.0)
    assert estimate.here == pytest.approx(0.01 + 0.01)
    assert str(estimate) == "0.0200 EUR here, 1.0000 EUR in Azure"


def test_a_pool_is_estimated_with_its_spare_sandboxes(prices: Path) -> None:
    usage = PoolUsage(3, source=GROUPS, cpu=100, spare_cpu=200, spare_memory_time=1000 * GIB, session_hours=4)
    estimate = greenroom.estimate(usage, prices)
    assert estimate.here == pytest.approx(0.03 + 0.01)
    assert estimate.in_azure == 2.0
    assert greenroom.estimate(PoolUsage(1, node_hours=0.25), prices).in_azure == 0.5
    assert greenroom.estimate(PoolUsage(2, session_hours=1, node_hours=0.25), prices).in_azure == 1.0
    assert str(greenroom.estimate(PoolUsage(), prices)) == "0.00 EUR here, 0.00 EUR in Azure"


def test_a_missing_price_or_measurement_is_stated(prices: Path, tmp_path: Path) -> None:
    usage = SessionUsage(10, source=GROUPS, cpu=1, memory_time=GIB, session_hours=1)
    assert str(greenroom.estimate(usage)) == "no price set here, no price set in Azure"
    unmeasured = SessionUsage(10, session_hours=1)
    assert str(greenroom.estimate(unmeasured, prices)) == "not measured here, 0.5000 EUR in Azure"
    container = SessionUsage(10, node_hours=1)
    azure_only = tmp_path / "azure.toml"
    azure_only.write_text('[code_interpreter]\nsession_hour = 1\nsource = "x"\ndate = 2026-01-31\n')
    assert greenroom.estimate(container, azure_only).in_azure is None
    assert greenroom.estimate(usage, azure_only).in_azure == 1


def test_the_list_that_comes_with_greenroom_has_no_price_without_a_source() -> None:
    own = Prices.load()
    text = resources.files("greenroom.pricing").joinpath("prices.toml").read_text()
    for name in ("code_interpreter", "custom_container", "here"):
        table = getattr(own, name)
        priced = [value for key, value in table if key not in {"source", "date"} and value is not None]
        assert not priced or (table.source and table.date)
        assert f"[{name}]" in text


def test_the_commented_lines_of_that_list_are_its_form(tmp_path: Path) -> None:
    text = resources.files("greenroom.pricing").joinpath("prices.toml").read_text()
    path = tmp_path / "prices.toml"
    path.write_text("\n".join(line.removeprefix("# ") if " = " in line else line for line in text.splitlines()))
    filled = Prices.load(path)
    assert (filled.code_interpreter.session_hour, filled.custom_container.node_hour, filled.here.gib_hour) == (0, 0, 0)
    assert filled.here.date is not None


def test_a_list_is_named_by_argument_variable_or_configuration(
    prices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SessionUsage(10, session_hours=1)
    configuration = tmp_path / "greenroom.toml"
    configuration.write_text("[pool]\n[prices.code_interpreter]\nsession_hour = 3\nsource = 's'\ndate = 2026-01-31\n")
    monkeypatch.setenv("GREENROOM_CONFIG", str(configuration))
    assert greenroom.estimate(usage).in_azure == 3
    monkeypatch.setenv("GREENROOM_PRICES", str(prices))
    assert greenroom.estimate(usage).in_azure == 0.5
    other = tmp_path / "other.toml"
    other.write_text("[code_interpreter]\nsession_hour = 7\nsource = 's'\ndate = 2026-01-31\n")
    assert greenroom.estimate(usage, other).in_azure == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[code_interpreter]\nsession_hour = 0.5\n", "must be used with source and date"),
        ("[here]\ncpu_hour = 0.5\nsource = 's'\ndate = 2026-01-31\n", "must be used with gib_hour"),
        ("[code_interpreter]\nsession_hour = -1\nsource = 's'\ndate = 2026-01-31\n", "session_hour must be greater"),
        ("[code_interpreter]\nsession_hour = nan\nsource = 's'\ndate = 2026-01-31\n", "session_hour must be"),
        ("[code_interpreter]\nsesion_hour = 1\n", "Did you mean 'session_hour'"),
        ("currency = 'dollars'\n", "currency"),
        ("[azure]\n", "Unknown option 'azure'"),
        ("=", "cannot be read"),
    ],
)
def test_an_invalid_price_list_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(content)
    with pytest.raises(InvalidRequest, match=message):
        greenroom.estimate(PoolUsage(), path)


def test_a_configuration_without_a_price_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "greenroom.toml"
    path.write_text("prices = 3\n")
    monkeypatch.setenv("GREENROOM_CONFIG", str(path))
    with pytest.raises(InvalidRequest, match="must have a table"):
        greenroom.estimate(PoolUsage())
