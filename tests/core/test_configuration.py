"""The sources of options, their precedence, and refusals."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import greenroom
from greenroom.azure.settings import AzureSettings
from greenroom.config.options import PoolOptions
from greenroom.engines import registry
from greenroom.engines.base import Engine, EngineOptions, EnginePlugin
from greenroom.engines.bubblewrap import BubblewrapOptions
from greenroom.engines.docker import DockerOptions
from greenroom.errors import InvalidRequest
from greenroom.local import AzureRangeWarning, PoolSettings
from greenroom.local.demand import ReadyGoal

from .plugins import IN_MEMORY, only_engines


@pytest.fixture(autouse=True)
def _only_an_engine_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    only_engines(monkeypatch, memory=IN_MEMORY)
    monkeypatch.delenv("GREENROOM_TIMEOUT", raising=False)


def settings_of(*arguments: Any, **options: Any) -> PoolSettings:
    with greenroom.connect(*arguments, preload=(), **options) as pool:
        subject: Any = pool
        return subject._pool.backend._settings


def test_arguments_go_before_the_url_before_the_file_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "greenroom.toml"
    file.write_text('[pool]\nurl = "memory:"\ntimeout = 30\nmax_concurrent_sessions = 30\n')
    monkeypatch.setenv("GREENROOM_TIMEOUT", "40")
    assert settings_of("memory:").timeout == 40
    assert settings_of("memory:", config=file).timeout == 30
    assert settings_of("memory:?timeout=20", config=file).timeout == 20
    assert settings_of("memory:?timeout=20", config=file, timeout=10).timeout == 10
    monkeypatch.setenv("GREENROOM_CONFIG", str(file))
    assert settings_of().max_concurrent_sessions == 30


def test_ready_instances_that_follow_demand_are_described_by_any_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings_of("memory:?ready_session_instances=auto").ready == ReadyGoal(0.1, 10, 20)
    url = "memory:?ready_session_instances=auto&ready_wait_target=0.5&min_ready_session_instances=0"
    assert settings_of(url, max_ready_session_instances=7).ready == ReadyGoal(0.5, 0, 7)
    file = tmp_path / "greenroom.toml"
    file.write_text('[pool]\nready_session_instances = "auto"\nmin_ready_session_instances = 30\n')
    monkeypatch.setenv("GREENROOM_READY_WAIT_TARGET", "1.5")
    assert settings_of("memory:", config=file).ready == ReadyGoal(1.5, 30, 30)
    assert settings_of("memory:", config=file, ready_session_instances=2).ready == 2


@pytest.mark.parametrize(
    ("maximum", "options", "floor", "ceiling"),
    [
        (1, {}, 1, 1),
        (10, {}, 1, 2),
        (15, {}, 2, 3),
        (600, {}, 60, 120),
        (100, {"max_ready_session_instances": 4}, 4, 4),
        (100, {"min_ready_session_instances": 40}, 40, 40),
        (100, {"max_ready_session_instances": 0}, 0, 0),
    ],
)
def test_ten_to_twenty_percent_of_the_maximum_are_ready_by_default(
    maximum: int, options: dict[str, Any], floor: int, ceiling: int
) -> None:
    settings = PoolSettings.parse({"max_concurrent_sessions": maximum, "ready_session_instances": "auto", **options})
    assert settings.ready == ReadyGoal(0.1, floor, ceiling)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ready_session_instances": "automatic"}, 'must be a whole number from 0 to 1,000, or "auto", not'),
        ({"ready_wait_target": -1}, "ready_wait_target must be greater than or equal to 0"),
        ({"ready_wait_target": float("nan")}, "ready_wait_target must be"),
        ({"min_ready_session_instances": "few"}, "min_ready_session_instances must be a whole number"),
        ({"min_ready_session_instances": 101}, r"min_ready_session_instances \(101\) must not exceed max_concurrent"),
        ({"max_ready_session_instances": 101}, r"max_ready_session_instances \(101\) must not exceed max_concurrent"),
        (
            {"min_ready_session_instances": 5, "max_ready_session_instances": 4},
            r"min_ready_session_instances \(5\) must not exceed max_ready_session_instances \(4\)",
        ),
    ],
)
def test_a_wrong_description_of_ready_instances_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        PoolSettings.parse({"ready_session_instances": "auto", **options})


def test_the_pool_is_named_by_the_file_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_POOL", "memory:?memory=1Gi")
    assert settings_of().memory == 1 << 30


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("podman:", "The scheme of a pool must be one of memory: or https: .*, not 'podman'"),
        ("memry:", "not 'memry'. Did you mean 'memory'?"),
        ("memory", "The pool must be a URL such as \"docker:\" or .*, not 'memory'"),
        ("memory://host", 'must be a URL such as "memory:" or "memory:\\?option=value", not'),
        ("memory:?timeout=1&timeout=2", "must name each option once, not timeout twice"),
        ("memory:?colour=red", "Unknown option 'colour'. Options: .*image.*timeout"),
        ("memory:?memry=1Gi", "Unknown option 'memry'. Did you mean 'memory'?"),
        ("memory:?timeout=0", "The option timeout must be greater than 0, not '0'"),
        ("memory:?timeout=soon", "The option timeout must be a valid number, not 'soon'"),
        ("memory:?timeout=1801", "must be less than or equal to 1800, not '1801'"),
        ("memory:?memory=lots", "The option memory must be a number of bytes or .*, not 'lots'"),
        ("memory:?ready_session_instances=few", "must be a whole number from 0 to 1,000, or \"auto\", not 'few'"),
        (
            "memory:?max_concurrent_sessions=1&ready_session_instances=2",
            r"ready_session_instances \(2\) must not exceed max_concurrent_sessions \(1\)",
        ),
        ("memory:?network=maybe", "The option network must be 'enabled' or 'disabled', not 'maybe'"),
        ("memory:?container_type=python-lts", "not 'python-lts'. Did you mean 'PythonLTS'?"),
        (
            "memory:?container_type=NodeLTS",
            "The container type of a pool on memory must be PythonLTS, Shell, not NodeLTS",
        ),
    ],
)
def test_a_bad_pool_is_refused_with_the_rule_it_breaks(url: str, message: str) -> None:
    with pytest.raises((greenroom.InvalidRequest, greenroom.EngineUnavailable), match=message):
        greenroom.connect(url)


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[pool")
    for path in (tmp_path / "absent.toml", broken):
        with pytest.raises(greenroom.InvalidRequest, match=path.name):
            greenroom.connect(config=path)


@pytest.mark.parametrize(
    "option", [{"cooldown_period": 5}, {"max_concurrent_sessions": 601}, {"timeout": 221}, {"memory": "8Gi"}]
)
def test_values_that_azure_would_refuse_work_with_a_warning(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.warns(AzureRangeWarning, match=rf"{name}=.* works here, but Azure accepts"):
        settings_of("memory:", **option)


@pytest.mark.parametrize(
    ("text", "size"), [("512Mi", 512 << 20), ("1Gi", 1 << 30), ("1GB", 10**9), ("200000000", 200000000)]
)
def test_sizes_are_read_as_kubernetes_and_azure_write_them(text: str, size: int) -> None:
    assert settings_of("memory:", disk=text).disk == size


@pytest.mark.parametrize(
    ("value", "enabled"), [("EgressEnabled", True), ("enabled", True), (False, False), ("EgressDisabled", False)]
)
def test_egress_is_accepted_in_azures_words_or_ours(value: object, enabled: bool) -> None:
    assert settings_of("memory:", network=value).spec.limits.network is enabled


def test_without_any_engine_the_error_lists_the_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_options: object) -> Engine:
        raise greenroom.EngineUnavailable("It is not installed. Install it.")

    plugin = EnginePlugin(EngineOptions, missing)
    only_engines(monkeypatch, one=plugin, other=plugin)
    with pytest.raises(greenroom.EngineUnavailable, match=r"No engine .*\n- one: It is not .*\n- other: It is not"):
        greenroom.connect()


def test_a_pool_and_its_sessions_have_a_container_type() -> None:
    for url, container_type in (
        ("memory:", greenroom.ContainerType.PYTHON_LTS),
        ("http://localhost:1", greenroom.ContainerType.PYTHON_LTS),
        ("http://localhost:1?container_type=Shell", greenroom.ContainerType.SHELL),
    ):
        with greenroom.connect(url) as pool:
            assert pool.container_type is pool.session("same").container_type is container_type


def test_the_types_of_connect_are_those_of_the_settings() -> None:
    fields = {
        *PoolSettings.model_fields,
        *AzureSettings.model_fields,
        *BubblewrapOptions.model_fields,
        *DockerOptions.model_fields,
        "template",
        "secrets",
    }
    assert set(PoolOptions.__annotations__) == fields


def offer(monkeypatch: pytest.MonkeyPatch, entry: EntryPoint) -> None:
    """Have another package offer an engine."""

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [entry] if group == registry.ENTRY_POINTS else []

    monkeypatch.setattr(registry, "entry_points", entry_points)


def test_an_engine_of_another_package_is_opened_by_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("other", "a_package:PLUGIN", registry.ENTRY_POINTS)

    def load(_entry: EntryPoint) -> object:
        return IN_MEMORY

    monkeypatch.setattr(EntryPoint, "load", load)
    offer(monkeypatch, entry)
    assert registry.schemes() == ["memory", "other"]
    with greenroom.connect("other:?image=any", preload=()) as pool:
        assert pool.session().execute("1 + 1").result == "2"


def test_a_plug_in_that_cannot_be_imported_is_reported_and_the_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("broken", "no_such_package:PLUGIN", registry.ENTRY_POINTS)
    offer(monkeypatch, entry)
    with pytest.raises(
        greenroom.EngineUnavailable, match=r"'broken' \(no_such_package:PLUGIN\) cannot be imported: .*no_such"
    ):
        greenroom.connect("broken:")
    with greenroom.connect("memory:", preload=()) as pool:
        assert pool.session().execute("1 + 1").result == "2"


def test_a_plug_in_must_be_an_engine_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("broken", "json:loads", registry.ENTRY_POINTS)
    offer(monkeypatch, entry)
    with pytest.raises(greenroom.EngineUnavailable, match="must be an EnginePlugin, not <function loads"):
        greenroom.connect("broken:")
