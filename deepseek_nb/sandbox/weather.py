"""The sandbox's weather: how much room a busy server has, from one moment to the next.

Other tenants come and go, so the slots, the account's limit and the waiting room change in steps.
A weather is a sequence of :class:`Weather`; the named ones are drawn from a seed, the same for
whoever asks, so that every client meets the same server. Nothing here waits or looks at a clock.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

__all__ = ["COST_429_S", "COST_503_S", "SCENARIOS", "Weather", "checked", "ideal_s", "weather_of"]

HORIZON_S = 60_000.0
"""How far the named weathers reach; their last step lasts for ever."""
COST_429_S = 0.01
COST_503_S = 0.10
"""Slot seconds a refusal costs the server: what begins next takes that much longer."""

SCENARIOS = {
    "limit": "the account's limit follows the load: 429 is the brake",
    "queue": "a generous limit: a waiting room of 200 and 503 are the brake",
    "storm": "as limit, with outages of 30 to 120 s about every five minutes",
}
"""The named weathers. Others are constant: ``flat:SLOTS:LIMIT:QUEUE``, with an outage ``...:FROM:TO``."""


@dataclass(frozen=True, slots=True)
class Weather:
    """The server's room from ``since_s`` on, in server seconds since the first request for an answer."""

    since_s: float
    slots: int
    """Answers made at once."""
    limit: int
    """Requests the account may have in flight; above it 429."""
    queue: int
    """Requests that may wait for a slot; beyond it 503."""
    up: bool = True
    """In an outage everything new gets a 503, and half of what runs is reset as it begins."""


def weather_of(name: str, seed: int) -> tuple[Weather, ...]:
    """The weather of that name (see ``SCENARIOS``), drawn from ``seed``. Raises ValueError for another name.

    The draws need numpy, which pandas brings along; ``flat:`` does not.

    >>> weather_of("flat:60:75:40:100:130", 0)[1]
    Weather(since_s=100.0, slots=60, limit=75, queue=40, up=False)
    """
    if name.startswith("flat:"):
        return tuple(_flat(name))
    if name not in SCENARIOS:
        known = ", ".join([*SCENARIOS, "flat:SLOTS:LIMIT:QUEUE", "flat:SLOTS:LIMIT:QUEUE:FROM:TO"])
        raise ValueError(f"No weather is called {name!r}. Known: {known}.")
    import numpy as np  # half of the time it takes to import the sandbox, and few ask for weather

    rng = np.random.default_rng((seed, 22))
    steps, now = [], 0.0
    while now < HORIZON_S:
        slots = round(math.exp(rng.uniform(math.log(20), math.log(160))))
        limit, queue = (500, 200) if name == "queue" else (math.ceil(1.25 * slots), 40)
        steps.append(Weather(now, slots, limit, queue))
        now += float(rng.exponential(60.0)) + 10
    return tuple(_with_outages(steps, rng) if name == "storm" else steps)


def _flat(name: str) -> list[Weather]:
    try:
        slots, limit, queue, *outage = (int(part) for part in name.split(":")[1:])
        calm = Weather(0.0, slots, limit, queue)
        if not outage:
            return [calm]
        begins_s, ends_s = outage
    except ValueError:
        raise ValueError(
            f"{name!r} is not flat:SLOTS:LIMIT:QUEUE or flat:SLOTS:LIMIT:QUEUE:FROM:TO in whole numbers."
        ) from None
    return [calm, replace(calm, since_s=float(begins_s), up=False), replace(calm, since_s=float(ends_s))]


def _with_outages(steps: list[Weather], rng: Any) -> Iterator[Weather]:
    outages, now = [], float(rng.uniform(20, 60))
    while now < HORIZON_S:
        length_s = float(rng.uniform(30, 120))
        outages.append((now, now + length_s))
        now += length_s + float(rng.exponential(300)) + 60
    for cut_s in sorted({s.since_s for s in steps} | {edge for outage in outages for edge in outage}):
        step = max((s for s in steps if s.since_s <= cut_s), key=lambda s: s.since_s)
        down = any(begin <= cut_s < end for begin, end in outages)
        yield replace(step, since_s=cut_s, up=not down)


def checked(weather: Sequence[Weather]) -> tuple[Weather, ...]:
    """The same steps. Raises ValueError unless they begin at 0 and each comes after the one before."""
    times_s = [step.since_s for step in weather]
    if times_s[:1] != [0.0] or any(b <= a for a, b in pairwise(times_s)):
        raise ValueError(f"The steps of a weather begin at 0 s and go up, unlike {times_s}.")
    return tuple(weather)


def ideal_s(service_s: Sequence[float], weather: Sequence[Weather]) -> float:
    """How long these services take, in order, on slots that are always full: no fault, no refusal, no pause.

    >>> ideal_s([1.0, 1.0, 1.0], [Weather(0.0, slots=2, limit=9, queue=0)])
    2.0
    """
    running: list[float] = []
    now, at, row = 0.0, 0, 0
    changes = [b.since_s for _, b in pairwise(weather)] + [math.inf]
    while row < len(service_s) or running:
        step = weather[at]
        while row < len(service_s) and len(running) < (min(step.slots, step.limit) if step.up else 0):
            heapq.heappush(running, now + service_s[row])
            row += 1
        if running and running[0] <= changes[at]:
            now = heapq.heappop(running)
        else:
            now, at = changes[at], at + 1
    return now
