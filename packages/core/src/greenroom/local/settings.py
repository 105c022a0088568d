"""Pool settings, named as in Azure where Azure has a name, validated on construction."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from greenroom.config.containers import CustomContainer
from greenroom.config.environment import Environment
from greenroom.config.values import MAX_TIMEOUT, Size, validate
from greenroom.engines.base import Limits, SandboxSpec
from greenroom.errors import InvalidRequest, in_units
from greenroom.local.demand import ReadyGoal
from greenroom.local.plan import Rules
from greenroom.local_files import local_path
from greenroom.models import ContainerType

AUTO: Final = "auto"
"""The value of `ready_session_instances` that follows demand."""


def _count_or_auto(value: object) -> object:
    if value == AUTO:
        return value
    try:
        return _count(value)
    except ValueError as error:
        raise ValueError(f'{error}, or "auto"') from None


def _count(value: object) -> object:
    if value is None:
        return value
    try:
        count = int(str(value))
    except (ValueError, RecursionError):
        count = -1
    if not 0 <= count <= 1000:
        raise ValueError("must be a whole number from 0 to 1,000")
    return count


def _words(value: object) -> object:
    """Return a list from `numpy,pandas`, the form in URLs and environment variables."""
    if isinstance(value, str):
        return tuple(word for word in re.split(r"[,\s]+", value) if word)
    return value


def _egress(value: object) -> object:
    """Return `enabled` or `disabled`, also for Azure's values and for a boolean."""
    words = {"EgressEnabled": "enabled", "EgressDisabled": "disabled", "true": "enabled", "false": "disabled"}
    if isinstance(value, bool):
        return "enabled" if value else "disabled"
    return words.get(value, value) if isinstance(value, str) else value


def _file(value: object) -> object:
    if value is None or not isinstance(value, str | os.PathLike):
        return value
    try:
        return local_path(cast("str | os.PathLike[str]", value)).expanduser()
    except (InvalidRequest, TypeError, RuntimeError):
        raise ValueError("must be the name of a file") from None


class AzureRangeWarning(UserWarning):
    """A setting works on this machine but is outside the range that Azure accepts."""


_30_YEARS = 1e9  # in seconds; expiry times must be within the calendar
_MIB = 1 << 20
_AZURE_RANGES = {
    "max_concurrent_sessions": (1, 600),
    "cooldown_period": (300, 3600),
    "timeout": (1, 220),
    "cpu": (0.25, 2),
    "memory": (512 * _MIB, 4096 * _MIB),
}


class PoolSettings(BaseModel):
    """The settings of a local pool. Times are in seconds, sizes in bytes or as `512Mi`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    container_type: ContainerType = ContainerType.PYTHON_LTS
    """The kind of program that runs in the sandboxes, named as in Azure."""
    max_concurrent_sessions: int = Field(100, ge=1, le=1000)
    """The maximum number of sandboxes at the same time, warm ones included."""
    ready_session_instances: Annotated[int | Literal["auto"], BeforeValidator(_count_or_auto)] = 1
    """How many warm sandboxes are kept ready for new sessions; `"auto"` follows demand. Unless it is set, none are kept
    ready where sandboxes start quickly."""
    ready_wait_target: float = Field(0.1, ge=0, le=600)
    """With `"auto"`: the wait for a sandbox that 95 % of sessions should not exceed."""
    min_ready_session_instances: Annotated[int | None, BeforeValidator(_count)] = None
    """With `"auto"`: the minimum number kept ready; by default 10 % of `max_concurrent_sessions`, rounded up."""
    max_ready_session_instances: Annotated[int | None, BeforeValidator(_count)] = None
    """With `"auto"`: the maximum number kept ready; by default 20 % of `max_concurrent_sessions`, rounded up, or the
    minimum if that is higher."""
    idle_after: float | None = Field(None, gt=0, le=_30_YEARS)
    """How long after its last use a session's processes are frozen, including threads that run between executions. The
    next use resumes them. By default never."""
    memory_reserve: Size | None = Field(None, ge=0)
    """How much of the machine's memory to keep free: no sandbox starts if less would remain. By default 5 % of the
    memory, at most 1 GiB."""
    lifecycle: Literal["timed", "on_container_exit"] = "timed"
    """`timed`: a session ends after `cooldown_period` without use; `on_container_exit`: it ends when its sandbox ends,
    or after `max_alive_period`."""
    cooldown_period: float = Field(300, gt=0, le=_30_YEARS)
    """How long after its last use a `timed` session ends."""
    max_alive_period: float = Field(3600, gt=0, le=_30_YEARS)
    """The maximum lifetime of an `on_container_exit` session."""
    acquire_timeout: float = Field(30, ge=0)
    """How long a call waits for a sandbox when the pool is full."""
    timeout: float = Field(60, gt=0, le=MAX_TIMEOUT)
    """The default time limit of an execution."""
    interrupt_grace: float = Field(2, ge=0, le=60)
    """How long interrupted code can keep running before it is killed."""
    network: Annotated[Literal["enabled", "disabled"], BeforeValidator(_egress)] = "disabled"
    """Whether code can reach the network."""
    cpu: float = Field(1.0, gt=0, le=64)
    """How many processors a sandbox can use."""
    memory: Size = Field(2048 * _MIB, ge=64 * _MIB)
    """The maximum memory of a sandbox."""
    disk: Size = Field(1024 * _MIB, ge=_MIB)
    """The maximum size of a session's files."""
    pids: int = Field(256, ge=16, le=32768)
    """The maximum number of processes and threads of a sandbox."""
    output_limit: Size = Field(_MIB, ge=1024, le=64 * _MIB)
    """The maximum size of the text that one execution prints, in bytes."""
    display_limit: Size = Field(16 * _MIB, ge=1024, le=32 * _MIB)
    """The maximum size of the rich outputs that one execution shows, in bytes."""
    file_limit: Size = Field(128 * _MIB, ge=1)
    """The maximum size of one uploaded or downloaded file, in bytes; Azure's limit by default."""
    preload: Annotated[tuple[str, ...], BeforeValidator(_words)] = ("numpy", "pandas", "matplotlib.pyplot")
    """Modules that warm sandboxes import while they wait."""
    env: Annotated[Environment, BeforeValidator(Environment.parse)] = Environment()
    """Environment variables of every session: a mapping, or `TZ=UTC,LANG=C`. Values are never shown or logged."""
    trace_content: bool = False
    """Whether OpenTelemetry spans include the code and its output."""
    log: Annotated[Path | None, BeforeValidator(_file)] = None
    """The file to which the pool logs its events, as one JSON object per line. Together with the older events in
    `NAME.1`, it takes at most 20 MiB."""
    console_log: bool = False
    """Whether logs include the output of custom containers. No other output is ever logged."""
    container: CustomContainer | None = None
    """The image and settings of the containers, for a pool of type `CustomContainer`."""
    forward_authorization: bool = False
    """Whether `greenroom serve` forwards the `Authorization` header, with its callers' credentials, to custom
    containers."""

    @model_validator(mode="after")
    def _ready_within_maximum(self) -> Self:
        most = self.max_concurrent_sessions
        for name in ("ready_session_instances", "min_ready_session_instances", "max_ready_session_instances"):
            ready = getattr(self, name)
            if isinstance(ready, int) and ready > most:
                raise ValueError(f"{name} ({ready}) must not exceed max_concurrent_sessions ({most})")
        least, ceiling = self.min_ready_session_instances, self.max_ready_session_instances
        if least is not None and ceiling is not None and least > ceiling:
            raise ValueError(
                f"min_ready_session_instances ({least}) must not exceed max_ready_session_instances ({ceiling})"
            )
        return self

    @property
    def ready(self) -> int | ReadyGoal:
        """How many sandboxes are kept ready, or the goal that determines their number."""
        if self.ready_session_instances != AUTO:
            return self.ready_session_instances
        floor, ceiling = self.min_ready_session_instances, self.max_ready_session_instances
        if floor is None:
            tenth = math.ceil(self.max_concurrent_sessions / 10)
            floor = tenth if ceiling is None else min(tenth, ceiling)
        if ceiling is None:
            ceiling = max(floor, math.ceil(self.max_concurrent_sessions / 5))
        return ReadyGoal(self.ready_wait_target, floor, ceiling)

    @model_validator(mode="after")
    def _container_as_its_type(self) -> Self:
        if self.container is None and self.container_type is ContainerType.CUSTOM_CONTAINER:
            raise ValueError("container or template must be given for the container type CustomContainer")
        if self.container is not None and self.container_type is not ContainerType.CUSTOM_CONTAINER:
            raise ValueError(
                f"container must be used with the container type CustomContainer, not {self.container_type}"
            )
        if self.idle_after is not None and self.container is not None:
            raise ValueError("idle_after cannot be combined with the container type CustomContainer")
        if self.console_log and self.container is None:
            raise ValueError("console_log must be used with the container type CustomContainer")
        if self.container is not None and self.env:
            raise ValueError("env must be set in the container for the container type CustomContainer")
        return self

    @classmethod
    def parse(cls, options: Mapping[str, Any], *, also_known: Iterable[str] = ()) -> Self:
        """Return settings from options of any source.

        Args:
            also_known: options of the engine, which the message for an unknown option lists too.

        Raises:
            InvalidRequest: an option is unknown or its value breaks a rule; the message names both.
        """
        if options.get("container") is not None:
            options = {"container_type": ContainerType.CUSTOM_CONTAINER, **options}
        settings = validate(cls, options, also_known=also_known)
        for name in settings.model_fields_set & _AZURE_RANGES.keys():
            least, most = _AZURE_RANGES[name]
            if not least <= getattr(settings, name) <= most:
                message = f"{name}={options[name]!r} works here, but Azure accepts {least:,} to {most:,}."
                warnings.warn(message, AzureRangeWarning, stacklevel=2)
        for message in settings.container.outside_azure() if settings.container is not None else ():
            warnings.warn(f"container.{message}", AzureRangeWarning, stacklevel=2)
        return settings

    def rules(self, *, starts_give_way: bool, freezes: bool = False) -> Rules:
        """Return the rules for how many sandboxes the pool has, and when each ends.

        Args:
            starts_give_way: whether starting sandboxes yield busy processors to sandboxes that run code.
            freezes: whether sandboxes can be frozen.
        """
        return Rules(
            maximum=self.max_concurrent_sessions,
            ready=self.ready,
            cooldown=self.cooldown_period if self.lifecycle == "timed" else None,
            maximum_age=self.max_alive_period if self.lifecycle == "on_container_exit" else None,
            acquire_timeout=self.acquire_timeout,
            max_concurrent_starts=max(2, os.cpu_count() or 2),
            max_starts_beside_work=None if starts_give_way else 1,
            none_if_quick="ready_session_instances" not in self.model_fields_set,
            idle_after=self.idle_after if freezes else None,
            memory_reserve=self.memory_reserve,
        )

    def check_limits(self, memory: int | None, idle_timeout: float | None) -> None:
        """Check the limits of one session: its memory in bytes, and after how many seconds without use it ends.

        Raises:
            InvalidRequest: a limit is not positive or exceeds the pool's, or the pool's sessions have no idle timeout.
        """
        if memory is not None and memory < 1:
            raise InvalidRequest(f"The memory of a session must be positive, not {memory} bytes.")
        if memory is not None and memory > self.memory:
            raise InvalidRequest(
                f"The memory of a session must be at most its pool's {in_units(self.memory)}, not {in_units(memory)}."
            )
        if idle_timeout is None:
            return
        if not 0 < idle_timeout < math.inf:
            raise InvalidRequest(f"The idle_timeout of a session must be positive and finite, not {idle_timeout:g}.")
        if self.lifecycle != "timed":
            raise InvalidRequest(
                f"The idle_timeout of a session requires a pool with the lifecycle timed, not {self.lifecycle}."
            )
        if idle_timeout > self.cooldown_period:
            raise InvalidRequest(
                f"The idle_timeout of a session must be at most its pool's cooldown_period of "
                f"{self.cooldown_period:g} seconds, not {idle_timeout:g}."
            )

    @property
    def spec(self) -> SandboxSpec:
        """The sandboxes that the pool's engine starts."""
        limits = Limits(
            memory=self.memory,
            cpus=self.cpu,
            pids=self.pids,
            disk=self.disk,
            network=self.network == "enabled",
        )
        preload = () if self.container_type is ContainerType.SHELL else self.preload
        return SandboxSpec(self.container_type, limits, preload, frozenset(self.env), self.container)
