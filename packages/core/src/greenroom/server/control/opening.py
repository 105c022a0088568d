"""Open the pool of a resource, or change a pool that is serving."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from greenroom.arm.resources import Resource
from greenroom.connecting import LocalChoice, no_engine
from greenroom.errors import EngineUnavailable
from greenroom.local.settings import AzureRangeWarning
from greenroom.server.control.choices import Engines
from greenroom.telemetry import Observer

if TYPE_CHECKING:
    from greenroom.local.container_pool import ContainerPool
    from greenroom.local.pool import LocalPool

ManagedBackend: TypeAlias = "LocalPool | ContainerPool"


@dataclass(frozen=True, slots=True)
class Opened:
    """An open pool, with the choice that it was opened with."""

    backend: ManagedBackend
    choice: LocalChoice


async def open_pool(engines: Engines, resource: Resource, observer: Observer, name: str) -> Opened:
    """Open a pool, and wait for the first of the sandboxes that it keeps ready.

    Args:
        engines: the possible engines.
        resource: the pool.
        observer: called with its events.
        name: the pool's name in metrics and traces.

    Raises:
        GreenroomError: it cannot be opened; nothing is left behind.
    """
    choices = _choices(engines, resource, None)
    tried: list[str] = []
    for choice in choices:
        try:
            return Opened(await _open(choice, observer, name), choice)
        except EngineUnavailable as error:
            if len(choices) == 1:
                raise
            tried.append(f"- {choice.scheme}: {error}")
    raise no_engine(tried)


async def change_pool(engines: Engines, opened: Opened, resource: Resource) -> Opened:
    """Change a pool to what a resource asks for.

    Raises:
        GreenroomError: this change is not possible; the pool serves as before.
    """
    before = opened.choice
    choice = _choices(engines, resource, before.scheme)[0]
    same = (choice.scheme, choice.of_engine) == (before.scheme, before.of_engine)
    await opened.backend.change(choice.settings, choice.engine, outdated=not same)
    return Opened(opened.backend, choice)


def _choices(engines: Engines, resource: Resource, preferred: str | None) -> list[LocalChoice]:
    with warnings.catch_warnings():  # they are in the response to the request
        warnings.simplefilter("ignore", AzureRangeWarning)
        return list(engines.choices(resource, preferred))


async def _open(choice: LocalChoice, observer: Observer, name: str) -> ManagedBackend:
    backend = await choice.open(observer, name)
    try:
        await backend.wait_until_ready()
    except BaseException:
        await backend.close()
        raise
    return backend
