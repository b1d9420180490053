"""One simulated job: kernels with rows and interactive calls against a scenario, and what came of it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from busy_client import Call, Kernel, Row, Table
from busy_server import (
    FIRST_TOKEN_S,
    REFUSALS,
    TOKEN_S,
    BusyServer,
    Clock,
    Outcome,
    Request,
    Scenario,
    fate,
    workload,
)

from deepseek_nb.core.admission import Tuning
from deepseek_nb.sandbox.weather import ideal_s

PATIENCE_S = 40_000.0


@dataclass(frozen=True)
class Trial:
    """What a job came to."""

    eff: float
    """Ideal time by time taken: 1 is every slot full all the time."""
    lost: int
    """Rows given up or not done."""
    requests_per_row: float
    """Sent bulk requests by row, without recalled ones and without refusals that the noise injected."""
    recalled_per_row: float
    unfair: float
    """Time of the slowest kernel by the fastest's."""
    latencies_s: list[float]
    """Of the first kernel's interactive calls."""
    empty_kept: int = 0
    """Rows that ended with an empty answer."""
    empties_met: int = 0
    twice: int = 0
    """Rows that were answered more than once."""
    meetings_per_s: float = 0.0
    """At the shared table, by kernel."""


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of all stay below.

    >>> percentile([3, 1, 2, 4], 0.5)
    3
    """
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else math.nan


class _Caller:
    """Makes an interactive call now and then (exponential gaps), median 1.9 s of work."""

    def __init__(self, clock: Clock, kernel: Kernel, seed: int, calls_per_s: float) -> None:
        self.clock, self.kernel, self.calls_per_s = clock, kernel, calls_per_s
        self.rng, self.fates = random.Random(seed + 99), random.Random(seed + 98)
        self.stopped = False

    def later(self) -> None:
        self.clock.after(self.rng.expovariate(self.calls_per_s), self.call)

    def call(self) -> None:
        if self.stopped:
            return
        tokens = min(600.0, math.exp(self.rng.gauss(math.log(60), 0.5)))
        fates: list[Outcome] = [fate(self.fates.random()) for _ in range(8)]
        self.kernel.call(Call(self.clock.now, FIRST_TOKEN_S + TOKEN_S * tokens, fates))
        self.later()


def job(
    scenario: str,
    seed: int,
    *,
    rows: int = 2000,
    copies: int = 1,
    recall: bool = False,
    shared: bool = False,
    calls_per_s: float = 0.1,
    tuning: Tuning | None = None,
) -> Trial:
    """``copies`` kernels on one account, each with ``rows`` rows; with ``shared`` they share their level."""
    count = rows * copies
    service_s, fates = workload(count, seed)
    plan = Scenario.of(scenario, seed)
    clock = Clock()
    server = BusyServer(clock, plan, seed)
    kernels, table = [], Table() if shared else None
    for i in range(copies):
        mine = [Row(service_s[k], fates[k][::-1]) for k in range(i, count, copies)]
        kernels.append(
            Kernel(clock, server, mine, seed * 1000 + i, recall=recall, tuning=tuning, table=table)
        )
    starts = random.Random(seed + 98)
    for kernel in kernels:
        clock.after(starts.random() * 0.5, kernel.start)
    _Caller(clock, kernels[0], seed, calls_per_s).later()
    clock.run(PATIENCE_S, lambda: not any(kernel.left for kernel in kernels))
    recalled = sum(kernel.recalled for kernel in kernels)
    ends_s = [PATIENCE_S if kernel.left else kernel.ended_s for kernel in kernels]
    return Trial(
        eff=ideal_s(service_s, plan.weather) / max(ends_s),
        lost=sum(kernel.lost + kernel.left for kernel in kernels),
        requests_per_row=(server.bulk.sent - server.bulk.injected - recalled) / count,
        recalled_per_row=recalled / count,
        unfair=max(ends_s) / min(ends_s),
        latencies_s=kernels[0].latencies_s,
        empty_kept=sum(row.empty_kept for kernel in kernels for row in kernel.rows),
        empties_met=server.bulk.ended[Outcome.EMPTY],
        twice=sum(row.answers > 1 for kernel in kernels for row in kernel.rows),
        meetings_per_s=table.meetings / clock.now / copies if table else 0.0,
    )


class Rival:
    """Somebody else on the account, who hammers: workers that never give up and never slow down for long."""

    def __init__(self, clock: Clock, server: BusyServer, workers: int, seed: int) -> None:
        self.clock, self.server, self.rng = clock, server, random.Random(seed + 97)
        for _ in range(workers):
            clock.after(self.rng.random(), self.send, 0)

    def send(self, refusals: int) -> None:
        """One request of one worker."""
        service_s = FIRST_TOKEN_S + TOKEN_S * min(2000.0, math.exp(self.rng.gauss(math.log(180), 0.7)))
        self.server.send(Request(self, refusals, service_s, Outcome.OK, self.clock.now))

    def byte(self, request: Request) -> None:
        """Of no interest."""

    def token(self, request: Request) -> None:
        """Of no interest."""

    def done(self, request: Request, outcome: Outcome) -> None:
        """The next one at once, or the same after full jitter."""
        refusals = request.row + 1 if outcome in REFUSALS else 0
        wait_s = self.rng.random() * min(30.0, 0.5 * 2.0 ** min(refusals, 8)) if refusals else 0.0
        self.clock.after(wait_s, self.send, refusals)


def beside_a_rival(tuning: Tuning, seed: int, *, rows: int = 500, workers: int = 256) -> tuple[float, float]:
    """Seconds by the ideal of a server of our own, and requests per row, beside a greedy rival."""
    service_s, fates = workload(rows, seed)
    plan = Scenario.of("limit", seed)
    clock = Clock()
    server = BusyServer(clock, plan, seed)
    mine = [Row(service_s[k], fates[k][::-1]) for k in range(rows)]
    kernel = Kernel(clock, server, mine, seed, tuning=tuning)
    Rival(clock, server, workers, seed)
    sent = [0]
    send = server.send

    def counted(request: Request) -> None:
        sent[0] += request.sender is kernel
        send(request)

    server.send = counted  # type: ignore[method-assign]
    clock.after(0.1, kernel.start)
    clock.run(4_000.0, lambda: not kernel.left)
    done = rows - kernel.left
    return clock.now / ideal_s(service_s, plan.weather), sent[0] / max(1, done)


def unloaded_latencies_s(scenario: str, seed: int, *, lasts_s: float = 1500.0) -> list[float]:
    """Interactive calls with no bulk job beside them."""
    clock = Clock()
    server = BusyServer(clock, Scenario.of(scenario, seed), seed)
    kernel = Kernel(clock, server, [], seed)
    caller = _Caller(clock, kernel, seed, 0.5)
    caller.later()
    clock.run(lasts_s, lambda: False)
    caller.stopped = True
    clock.run(lasts_s + 300, lambda: False)
    return kernel.latencies_s
