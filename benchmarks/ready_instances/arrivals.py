"""When sessions arrive, and how long they stay: recorded, steady, in bursts, and over a day."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ready_instances.simulation import Start, Visit

RECORDED = Path(__file__).with_name("recorded.csv")

_STAY = 60.0  # the mean in seconds
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """The sessions of a period."""

    name: str
    description: str
    visits: Callable[[], list[Visit]]
    start: Start
    """How long sandboxes take to start."""


def recorded() -> list[Visit]:
    """The sessions of a load test, as `python -m benchmarks.ready_instances record` has written them."""
    lines = [line for line in RECORDED.read_text().splitlines() if not line.startswith("#")]
    return [Visit(float(row["at"]), float(row["stays"])) for row in csv.DictReader(lines)]


def steady() -> list[Visit]:
    """Sessions that arrive independently of each other: one every two seconds on average, for an hour."""
    chance = random.Random(11)
    return _visits(chance, _poisson(chance, lambda _: 0.5, 0.5, _HOUR))


def bursty() -> list[Visit]:
    """A class of 8 to 24 that starts within three seconds, every six minutes on average, plus a session a minute."""
    chance = random.Random(12)
    times = list(_poisson(chance, lambda _: 1 / 60, 1 / 60, 3 * _HOUR))
    for began in _poisson(chance, lambda _: 1 / 360, 1 / 360, 3 * _HOUR):
        times += [began + chance.uniform(0, 3) for _ in range(chance.randint(8, 24))]
    return _visits(chance, sorted(times))


def daily() -> list[Visit]:
    """A day and a night: almost nothing at four in the morning, a session every two seconds twelve hours later."""
    chance = random.Random(13)

    def rate(time: float) -> float:
        return 0.001 + 0.5 * (0.5 - 0.5 * math.cos(2 * math.pi * (time / _HOUR - 4) / 24)) ** 3

    return _visits(chance, _poisson(chance, rate, 0.501, 24 * _HOUR))


SCENARIOS = (
    Scenario("recorded", "a load test: 400 sessions from 20 clients, in a minute and a half", recorded, Start(0.3)),
    Scenario("steady", "one session every two seconds, for an hour", steady, Start(0.6)),
    Scenario("bursty", "a class of 8 to 24 people every six minutes, for three hours", bursty, Start(0.6)),
    Scenario("daily", "from 4 to 1,800 sessions per hour, for a day", daily, Start(0.6)),
)


def _poisson(chance: random.Random, rate: Callable[[float], float], most: float, end: float) -> Iterator[float]:
    """Times of independent events, by thinning events of the highest rate."""
    time = 0.0
    while (time := time + chance.expovariate(most)) < end:
        if chance.random() * most < rate(time):
            yield time


def _visits(chance: random.Random, times: Iterator[float] | list[float]) -> list[Visit]:
    return [Visit(time, chance.expovariate(1 / _STAY)) for time in times]
