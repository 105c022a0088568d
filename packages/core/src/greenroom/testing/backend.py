"""A common base for backends that are test doubles."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from greenroom.backend import HttpRequest, Overrides
from greenroom.errors import InvalidRequest
from greenroom.models import ContainerType, PoolStatus, PoolUsage, SessionInfo, SessionUsage


class BareBackend:
    """A backend without content: the base of test doubles, which override the methods that they need."""

    container_type = ContainerType.PYTHON_LTS
    """The kind of program in its sandboxes."""
    file_limit = sys.maxsize
    """The maximum size of one file, in bytes."""

    def request(self, identifier: str, request: HttpRequest, *, timeout: float | None) -> NoReturn:
        """Refuse, as there are no custom containers."""
        raise InvalidRequest(f"The session {identifier!r} does not accept requests: {request.method} {request.target}.")

    async def resume(self, identifier: str, execution_id: str, **options: Any) -> NoReturn:
        """Refuse, as nothing is stored."""
        raise InvalidRequest(f"The session {identifier!r} has no execution {execution_id!r}: {sorted(options)}.")

    async def fork(self, identifier: str, forks: Mapping[str, Overrides | None], *, timeout: float | None) -> NoReturn:
        """Refuse, as there is nothing to copy."""
        raise InvalidRequest(f"The session {identifier!r} cannot be forked to {list(forks)} in {timeout} seconds.")

    async def sessions(self) -> list[SessionInfo]:
        """No sessions."""
        return []

    async def session(self, identifier: str) -> SessionInfo | None:
        """Return `None`, unless `sessions` contains it."""
        return next((each for each in await self.sessions() if each.identifier == identifier), None)

    async def status(self) -> PoolStatus:
        """Return the status of an empty pool."""
        return PoolStatus(limit=0)

    async def usage(self, identifier: str) -> SessionUsage | None:
        """Return `None`, as nothing is measured."""
        return None

    async def pool_usage(self) -> PoolUsage:
        """Return empty usage."""
        return PoolUsage()

    def configure(self, identifier: str, overrides: Overrides) -> None:
        """Refuse, as there is nothing to configure."""
        raise InvalidRequest(f"The session {identifier!r} cannot differ from its pool: {overrides}.")

    def mark_owned(self, identifier: str) -> None:
        """Do nothing: it holds no sessions that could outlive it."""

    async def close(self) -> None:
        """Do nothing."""
