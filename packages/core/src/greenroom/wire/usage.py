"""A server's reports for its operators: the total usage of its sessions, and the state of its pools."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from greenroom.models import ContainerType, PoolStatus, PoolUsage, SessionUsage, UsageSource
from greenroom.wire import VERSION

USAGE_PATH = f"/{VERSION}/usage-report"
POOLS_PATH = f"/{VERSION}/pools"
"""Both are below the server, not below a pool."""


class GroupBy(StrEnum):
    """What usage is grouped by."""

    IDENTIFIER = "identifier"
    POOL = "pool"
    DAY = "day"
    """The day on which a session ended, in UTC; running sessions count for today."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The total usage of sessions; units as in `greenroom.SessionUsage`."""

    name: str = ""
    """An identifier, a pool or a day."""
    sessions: int = 0
    present: int = 0
    """The number of those that have not ended."""
    wall: float = 0.0
    executions: int = 0
    uploaded: int = 0
    downloaded: int = 0
    cpu: float = 0.0
    memory_time: float = 0.0
    peak_memory: int = 0
    """The highest peak of a session."""
    sources: tuple[UsageSource, ...] = ()
    """The source of `cpu` and memory."""
    unmeasured: int = 0
    """The number of sessions for which these are unknown."""
    session_hours: int = 0
    node_hours: float = 0.0


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The usage of ended and of running sessions, each counted once."""

    rows: tuple[UsageRow, ...]
    total: UsageRow
    omitted: int = 0
    """How many more rows there are; the total includes them."""
    spare_cpu: float = 0.0
    """The usage of sandboxes that served no session; no other figure includes it."""
    spare_memory_time: float = 0.0
    dropped: int = 0
    """Records that could not be written since the server started: ended sessions may be missing."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool at one moment."""

    name: str
    """As in metrics and logs."""
    container_type: ContainerType
    status: PoolStatus | None = None
    """`None` if the pool does not respond."""
    usage: PoolUsage | None = None


@dataclass(frozen=True, slots=True)
class PresentSession:
    """A session at one moment."""

    pool: str
    identifier: str
    usage: SessionUsage
    memory: int | None = None
    """Bytes, as last sampled."""
    running: int = 0
    """The number of running executions."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The pools of a server, and the sessions that use the most."""

    pools: tuple[PoolState, ...]
    sessions: tuple[PresentSession, ...] = ()
