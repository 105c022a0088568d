"""What a server tells those who manage it: the usage of its sessions added up, and the state of its pools."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from greenroom.models import ContainerType, PoolStatus, PoolUsage, SessionUsage, UsageSource
from greenroom.wire import VERSION

USAGE_PATH = f"/{VERSION}/usage-report"
POOLS_PATH = f"/{VERSION}/pools"
"""Both are below the server, not below a pool."""


class GroupBy(StrEnum):
    """What usage is added up by."""

    IDENTIFIER = "identifier"
    POOL = "pool"
    DAY = "day"
    """That on which a session ended, in UTC; present sessions count for today."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What sessions used together; units as in `greenroom.SessionUsage`."""

    name: str = ""
    """An identifier, a pool or a day."""
    sessions: int = 0
    present: int = 0
    """Those of them that have not ended."""
    wall: float = 0.0
    executions: int = 0
    uploaded: int = 0
    downloaded: int = 0
    cpu: float = 0.0
    memory_time: float = 0.0
    peak_memory: int = 0
    """The highest of one session."""
    sources: tuple[UsageSource, ...] = ()
    """Where `cpu` and memory come from."""
    unmeasured: int = 0
    """Sessions of which nobody knows these."""
    session_hours: int = 0
    node_hours: float = 0.0


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The usage of ended and of present sessions, each once."""

    rows: tuple[UsageRow, ...]
    total: UsageRow
    omitted: int = 0
    """How many rows there are beside these; the total has what is in them."""
    spare_cpu: float = 0.0
    """What sandboxes used that served no session: it is part of no other figure."""
    spare_memory_time: float = 0.0
    dropped: int = 0
    """Records that could not be written since the server began: ended sessions can be among them."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool at one moment."""

    name: str
    """As in metrics and logs."""
    container_type: ContainerType
    status: PoolStatus | None = None
    """`None` if the pool does not answer."""
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
    """Executions that have begun and not ended."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The pools of a server, and those sessions that use the most."""

    pools: tuple[PoolState, ...]
    sessions: tuple[PresentSession, ...] = ()
