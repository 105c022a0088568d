"""Estimates what usage costs, from a price list."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Protocol

from greenroom.models import PoolUsage, SessionUsage, UsageSource
from greenroom.pricing.prices import Prices

_HOUR, _GIB = 3600, 1 << 30

NO_PRICE = "no price set"
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount of money, or the reason why there is none."""

    amount: float | None
    reason: str = ""
    """`no price set`, or `not measured`; empty if there is an amount."""

    def __str__(self) -> str:
        """The amount without its currency, or why there is none."""
        return self.reason if self.amount is None else in_digits(self.amount)

    def __add__(self, other: Cost) -> Cost:
        if self.amount is None or other.amount is None:
            return self if self.amount is None else other
        return Cost(self.amount + other.amount)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What usage costs on this machine, and what the same sessions would cost in Azure."""

    currency: str
    here: float | None
    """From processor time and memory over time; `None` if these or their prices are not known."""
    in_azure: float | None
    """By Azure's rules; `None` if its prices are not known."""
    here_reason: str = ""
    """Why `here` is `None`: `no price set`, or `not measured`."""
    azure_reason: str = ""
    """Why `in_azure` is `None`."""

    def __str__(self) -> str:
        here = self.here_reason if self.here is None else f"{in_digits(self.here)} {self.currency}"
        azure = self.azure_reason if self.in_azure is None else f"{in_digits(self.in_azure)} {self.currency}"
        return f"{here} here, {azure} in Azure"


def in_digits(amount: float) -> str:
    """Return an amount of money without its currency, with at least two significant digits."""
    if amount >= 10 or amount == 0:
        return f"{amount:,.2f}"
    return f"{amount:.{max(4, 1 - math.floor(math.log10(amount)))}f}"


class Figures(Protocol):
    """The values from which an estimate is made."""

    @property
    def cpu(self) -> float | None: ...
    @property
    def memory_time(self) -> float | None: ...
    @property
    def session_hours(self) -> int: ...
    @property
    def node_hours(self) -> float: ...


class Sum(Figures, Protocol):
    """The usage of several sessions."""

    @property
    def sessions(self) -> int: ...
    @property
    def unmeasured(self) -> int: ...


def estimate(usage: SessionUsage | PoolUsage, prices: Prices | str | os.PathLike[str] | None = None) -> Estimate:
    """Return an estimate of what usage costs; actual bills include more.

    On this machine, that is processor time and memory over time, including a pool's spare sandboxes, each multiplied by
    its price. In Azure, a session that runs code is billed per started hour; a custom container by its part of the
    pool's nodes, so the actual cost is at least that. Azure's ready sessions, plan management and network are not
    included.

    Args:
        usage: the result of `session.usage()` or `pool.usage()`.
        prices: a TOML file; by default that in GREENROOM_PRICES, otherwise the list included in Greenroom, whose prices
            are not set.

    Raises:
        InvalidRequest: the list cannot be read, or breaks a rule.
    """
    prices = prices if isinstance(prices, Prices) else Prices.load(prices)
    if isinstance(usage, PoolUsage):
        here, azure = pool_costs(prices, usage)
    else:
        here = cost_here(prices, usage, measured=usage.source is not UsageSource.NONE)
        azure = cost_in_azure(prices, usage)
    return Estimate(prices.currency, here.amount, azure.amount, here.reason, azure.reason)


def pool_costs(prices: Prices, usage: PoolUsage | None) -> tuple[Cost, Cost]:
    """Return what a pool costs, here and in Azure; the cost here includes its spare sandboxes.

    Args:
        prices: the price list.
        usage: `None` for a pool that does not report usage.
    """
    if usage is None:
        return Cost(None, NOT_MEASURED), Cost(None, NOT_MEASURED)
    here = cost_here(prices, usage, measured=not usage.sessions or usage.source is not UsageSource.NONE)
    if here.amount is not None:
        here += cost_of_machine(prices, usage.spare_cpu, usage.spare_memory_time)
    return here, cost_in_azure(prices, usage)


def sum_costs(prices: Prices, added: Sum) -> tuple[Cost, Cost]:
    """Return what sessions cost in total, here and in Azure."""
    measured = not added.sessions or added.unmeasured < added.sessions
    return cost_here(prices, added, measured=measured), cost_in_azure(prices, added)


def cost_here(prices: Prices, usage: Figures, *, measured: bool = True) -> Cost:
    """Return the cost of sessions on this machine."""
    if prices.here.cpu_hour is None:
        return Cost(None, NO_PRICE)
    if not measured:
        return Cost(None, NOT_MEASURED)
    return cost_of_machine(prices, usage.cpu or 0.0, usage.memory_time or 0.0)


def cost_of_machine(prices: Prices, cpu: float, memory_time: float) -> Cost:
    """Return the cost of seconds of processor time and byte-seconds of memory."""
    if prices.here.cpu_hour is None or prices.here.gib_hour is None:
        return Cost(None, NO_PRICE)
    return Cost((cpu * prices.here.cpu_hour + memory_time / _GIB * prices.here.gib_hour) / _HOUR)


def cost_in_azure(prices: Prices, usage: Figures) -> Cost:
    """Return the cost of the same sessions in Azure."""
    cost = Cost(0.0)
    for quantity, price in (
        (usage.session_hours, prices.code_interpreter.session_hour),
        (usage.node_hours, prices.custom_container.node_hour),
    ):
        if quantity:
            cost += Cost(None, NO_PRICE) if price is None else Cost(quantity * price)
    if not usage.session_hours and not usage.node_hours and not _has_azure_price(prices):
        return Cost(None, NO_PRICE)
    return cost


def _has_azure_price(prices: Prices) -> bool:
    return prices.code_interpreter.session_hour is not None or prices.custom_container.node_hour is not None
