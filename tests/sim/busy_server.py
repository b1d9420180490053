"""A busy, DeepSeek-like server as a discrete-event model: what it holds, what it refuses, what breaks.

Nothing here waits or opens a socket: a heap of events moves a virtual clock, so that a job of
2,000 rows takes a fifth of a second and every client meets the same rows and the same bad luck.

* ``slots``: answers made at once. Piecewise constant, since other tenants come and go.
* ``limit``: requests the account may have in flight (waiting, running or hung); above it 429 at once.
* ``queue``: a waiting room. Who waits there gets keep-alives; when it is full, 503.
* a refusal costs the server a little slot time;
* fates by (row, attempt), drawn once per seed: no byte ever, an empty 200, a reset half-way, a 500;
* outages: everything new is 503, and half of what runs is reset;
* noise: a share of all requests gets 503 or 429 whatever the load.

An answer takes 0.4 s and then 25 ms a token; tokens are lognormal. The numbers are guesses about a
server that nobody outside has seen; ``OVERLOAD.md`` of the design tells where they come from, and that
the ranking of clients survives other guesses.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from deepseek_nb.sandbox.weather import COST_429_S, COST_503_S, Weather, weather_of

FIRST_TOKEN_S = 0.4
TOKEN_S = 0.025
NET_S = 0.05
"""One way, with the gateway's time."""
WAITING_ROOM_S = 600.0
"""Documented: closed when the answer has not begun after ten minutes."""
HANG_S = 900.0
"""A silent connection is reset at last by something in between."""


class Outcome(Enum):
    """How a request ends; the first five can be a request's fate."""

    OK = auto()
    HANG = auto()
    EMPTY = auto()
    RESET = auto()
    E500 = auto()
    E429 = auto()
    E503 = auto()
    SILENT = auto()
    CLOSED = auto()


REFUSALS = (Outcome.E429, Outcome.E503)
FATES = (Outcome.HANG, Outcome.EMPTY, Outcome.RESET, Outcome.E500)
FATE_SHARES = (0.002, 0.005, 0.003, 0.002)


def fate(u: float) -> Outcome:
    """What happens to a request that drew ``u`` from [0, 1)."""
    edge = 0.0
    for outcome, share in zip(FATES, FATE_SHARES, strict=True):
        edge += share
        if u < edge:
            return outcome
    return Outcome.OK


@lru_cache(maxsize=16)
def workload(rows: int, seed: int) -> tuple[list[float], list[list[Outcome]]]:
    """Seconds of service by row, and fates by row and attempt."""
    rng = np.random.default_rng((seed, 11))
    tokens = np.minimum(np.exp(rng.normal(math.log(180), 0.7, rows)), 2000)
    service_s = (FIRST_TOKEN_S + TOKEN_S * tokens).tolist()
    return service_s, [[fate(u) for u in draws] for draws in rng.random((rows, 8)).tolist()]


# ----------------------------------------------------------------------------------- the weather


@dataclass(frozen=True)
class Scenario:
    """A server's weather over time, and the share of requests it refuses whatever the load."""

    weather: Sequence[Weather]
    noise_503: float = 0.0
    noise_429: float = 0.0
    says: int | None = None
    """The limit that random 429s name, whatever the true one."""

    @classmethod
    def of(cls, name: str, seed: int) -> Scenario:
        """The scenario with this name.

        * ``limit``: the account's limit follows the load, 429 is the brake;
        * ``queue``: the limit is generous, a waiting room of 200 and 503 are the brake;
        * ``storm``: as ``limit``, with outages of 30 to 120 s about every five minutes;
        * ``flat:SLOTS:LIMIT:ROOM`` and ``flat:SLOTS:LIMIT:ROOM:FROM:TO``: constant, with one outage;
        * ``noise:P``: ``flat:60:75:40`` and a share P of random 503s;
        * any of them with ``+503:P`` or ``+429:P`` behind it: random refusals on top; with ``+says:N``
          the random 429s name the limit N, and the true ones the true limit.
        """
        base, *noises = name.split("+")
        shares = {"503": 0.0, "429": 0.0, "says": 0.0}
        if base.startswith("noise:"):
            shares["503"] = float(base.removeprefix("noise:"))
            base = "flat:60:75:40"
        for noise in noises:
            status, share = noise.split(":")
            shares[status] = float(share)
        return cls(weather_of(base, seed), shares["503"], shares["429"], int(shares["says"]) or None)


# ---------------------------------------------------------------------------- clock and requests


class Clock:
    """Virtual time: a heap of what happens next."""

    def __init__(self) -> None:
        self.now = 0.0
        self._next: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, wait_s: float, act: Callable[..., object], *args: Any) -> None:
        """Call ``act`` in ``wait_s`` seconds."""
        self.at(self.now + wait_s, act, *args)

    def at(self, when_s: float, act: Callable[..., object], *args: Any) -> None:
        """Call ``act`` at ``when_s``."""
        self._count += 1
        heapq.heappush(self._next, (when_s, self._count, act, args))

    def run(self, until_s: float, done: Callable[[], bool]) -> None:
        """Let time pass until ``done``, or until ``until_s``."""
        while self._next and not done():
            when_s, _, act, args = heapq.heappop(self._next)
            if when_s > until_s:
                return
            self.now = when_s
            act(*args)


class Sender(Protocol):
    """Who hears about a request."""

    def byte(self, request: Request) -> None:
        """The status line came, and keep-alives from now on."""

    def token(self, request: Request) -> None:
        """Its first token came."""

    def done(self, request: Request, outcome: Outcome) -> None:
        """It ended."""


class State(Enum):
    """Where a request is."""

    SENT = auto()
    WAITS = auto()
    RUNS = auto()
    HANGS = auto()
    GONE = auto()


@dataclass(eq=False)
class Request:
    """One request on the wire."""

    sender: Sender
    row: Any
    service_s: float
    fate: Outcome
    sent_s: float
    interactive: bool = False
    state: State = State.SENT
    begun_s: float = math.inf
    named_limit: int | None = None
    """The number inside its 429."""
    ticket: Any = None
    twin: Request | None = None
    recalled: bool = False


@dataclass
class Books:
    """What the server saw of one class of requests."""

    sent: int = 0
    billed: int = 0
    injected: int = 0
    """Refused by noise, not by load."""
    ended: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))


# -------------------------------------------------------------------------------------- the server


class BusyServer:
    """Takes requests at :meth:`send` and tells their senders what became of them."""

    def __init__(self, clock: Clock, scenario: Scenario, seed: int) -> None:
        self.clock, self.scenario = clock, scenario
        self.weather = scenario.weather[0]
        self.bulk, self.interactive = Books(), Books()
        self.in_flight = 0
        self._running: dict[Request, None] = {}
        self._waiting: deque[Request] = deque()
        self._waiting_count = 0  # the deque may hold some that went away
        self._debt_s = 0.0
        self._rng = random.Random(seed * 7 + 5)
        self._noise = random.Random(seed * 7 + 6)
        for step in scenario.weather[1:]:
            clock.at(step.since_s, self._turn, step)

    def books(self, request: Request) -> Books:
        """Where this request is counted."""
        return self.interactive if request.interactive else self.bulk

    def send(self, request: Request) -> None:
        """Put a request on the wire."""
        self.books(request).sent += 1
        self.clock.after(NET_S, self._arrives, request)

    def hang_up(self, request: Request) -> None:
        """The client goes away; an answer that has begun is billed."""
        was, request.state = request.state, State.GONE
        if was is State.RUNS:
            self._running.pop(request)
            if self.clock.now > request.begun_s:
                self.books(request).billed += 1
        elif was is State.WAITS:
            self._waiting_count -= 1
        if was in (State.RUNS, State.WAITS, State.HANGS):
            self.in_flight -= 1
            self._fill()

    def _turn(self, step: Weather) -> None:
        fell = self.weather.up and not step.up
        self.weather = step
        if fell:
            for request in list(self._running):
                if self._rng.random() < 0.5:
                    self._end(request, Outcome.RESET)
        self._fill()

    def _noisy(self, request: Request) -> bool:
        u = self._noise.random() if self.scenario.noise_503 or self.scenario.noise_429 else 1.0
        if u >= self.scenario.noise_503 + self.scenario.noise_429:
            return False
        self.books(request).injected += 1
        if u < self.scenario.noise_503:
            self._refuse(request, Outcome.E503, 0.1)
        else:
            request.named_limit = self.scenario.says
            self._refuse(request, Outcome.E429, NET_S)
        return True

    def _arrives(self, request: Request) -> None:
        if request.state is State.GONE:
            return
        if not self.weather.up:
            self._refuse(request, Outcome.E503, 0.1)
        elif self._noisy(request):
            pass
        elif self.in_flight >= self.weather.limit:
            self._debt_s += COST_429_S
            request.named_limit = self.weather.limit if self.scenario.says else None
            self._refuse(request, Outcome.E429, NET_S)
        elif request.fate is Outcome.E500:
            self._refuse(request, Outcome.E500, 0.2)
        elif request.fate is Outcome.HANG:
            self.in_flight += 1
            request.state = State.HANGS
            self.clock.after(HANG_S, self._close, request)
        elif len(self._running) < self.weather.slots and not self._waiting_count:
            self.in_flight += 1
            request.sender.byte(request)
            self._begin(request)
        elif self._waiting_count < self.weather.queue:
            self.in_flight += 1
            self._waiting_count += 1
            request.state = State.WAITS
            request.sender.byte(request)
            self._waiting.append(request)
            self.clock.after(WAITING_ROOM_S, self._close, request)
        else:
            self._debt_s += COST_503_S
            self._refuse(request, Outcome.E503, 0.3)

    def _refuse(self, request: Request, outcome: Outcome, after_s: float) -> None:
        request.state = State.GONE
        self.books(request).ended[outcome] += 1
        self.clock.after(after_s, request.sender.done, request, outcome)

    def _close(self, request: Request) -> None:
        if request.state is State.WAITS:
            self._waiting_count -= 1
        elif request.state is not State.HANGS:
            return
        self.in_flight -= 1
        self._refuse(request, Outcome.CLOSED, 0.0)

    def _begin(self, request: Request) -> None:
        waste_s = min(self._debt_s, request.service_s)
        self._debt_s -= waste_s
        lasts_s = request.service_s + waste_s
        request.state = State.RUNS
        request.begun_s = self.clock.now + FIRST_TOKEN_S
        self._running[request] = None
        self.clock.after(FIRST_TOKEN_S, self._speaks, request)
        self.clock.after(lasts_s * (0.5 if request.fate is Outcome.RESET else 1.0), self._finish, request)

    def _speaks(self, request: Request) -> None:
        if request.state is State.RUNS:
            request.sender.token(request)

    def _finish(self, request: Request) -> None:
        if request.state is State.RUNS:
            self.books(request).billed += 1
            broken = request.fate in (Outcome.EMPTY, Outcome.RESET)
            self._end(request, request.fate if broken else Outcome.OK)

    def _end(self, request: Request, outcome: Outcome) -> None:
        del self._running[request]
        self.in_flight -= 1
        self._refuse(request, outcome, NET_S)
        self._fill()

    def _fill(self) -> None:
        while self.weather.up and self._waiting_count and len(self._running) < self.weather.slots:
            request = self._waiting.popleft()
            if request.state is State.WAITS:
                self._waiting_count -= 1
                self._begin(request)
