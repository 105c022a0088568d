"""Freezes and thaws instances as the plan and their callers require, one step after another for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Generic

from greenroom.local.instance import InstanceT
from greenroom.local.plan import Slot

_RETRY_AFTER = 5.0


class Freezing(Generic[InstanceT]):
    """Brings instances to the state in their slots. Used on the event loop of the pool.

    Args:
        instances: by slot number.
        clock: returns the time in seconds.
        on_refused: called when an instance was not frozen.
    """

    def __init__(
        self, instances: Mapping[int, InstanceT], clock: Callable[[], float], on_refused: Callable[[], None]
    ) -> None:
        self._instances = instances
        self._clock = clock
        self._on_refused = on_refused
        self._steps: dict[int, asyncio.Lock] = {}
        """By slot, for instances that were ever frozen: held while the instance is frozen or thawed."""
        self._frozen: set[int] = set()

    async def freeze(self, slot: Slot) -> None:
        """Freeze the instance of a slot, unless it is in use by then."""
        async with self._steps.setdefault(slot.number, asyncio.Lock()):
            instance = self._instances.get(slot.number)
            if not slot.frozen or slot.number in self._frozen or instance is None:
                return
            if await instance.freeze():
                self._frozen.add(slot.number)
                return
            slot.frozen = False
            slot.awake_until = self._clock() + _RETRY_AFTER
        self._on_refused()

    async def thaw(self, slot: Slot) -> None:
        """Thaw the instance of a slot.

        Raises:
            EngineUnavailable: the engine does not respond.
        """
        async with self._steps.setdefault(slot.number, asyncio.Lock()):
            if slot.number in self._frozen and (instance := self._instances.get(slot.number)) is not None:
                await instance.thaw()
                self._frozen.discard(slot.number)

    def involves(self, slot: Slot) -> bool:
        """Return whether the instance of a slot is frozen, or may be soon."""
        step = self._steps.get(slot.number)
        return slot.number in self._frozen or (step is not None and step.locked())

    def forget(self, slot: Slot) -> None:
        """Forget an instance that has ended."""
        self._steps.pop(slot.number, None)
        self._frozen.discard(slot.number)
