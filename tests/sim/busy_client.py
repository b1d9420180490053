"""A kernel with a bulk job and a few interactive calls, driving the real :class:`Admission` on virtual time.

It says to admission what ``client/gate.py`` says, no more; what the rest of the client does around
it (full jitter after faults, silence timeout, the early repeat at a job's end, the hedge) is here as
simple as it can be. ``recall`` is the switch that takes our own waiting rows back for an interactive call.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

from busy_server import REFUSALS, BusyServer, Clock, Outcome, Request, State

from deepseek_nb.core.admission import Admission, Ticket, Tuning

IDLE_S = 30.0
TAIL_S = 10.0
HEDGE_S = 5.0
RECALL_S = 2.0
RECALL_CHECK_S = 6.0
RECALL_PAUSE_S = 60.0
MAX_FAULTS = 8
BULK_LANE, INTERACTIVE_LANE = 2, 5


@dataclass(eq=False)
class Row:
    """One row of the bulk job."""

    service_s: float
    fates: list[Outcome]
    ticket: Ticket | None = None
    faults: int = 0
    in_flight: Request | None = None


@dataclass(eq=False)
class Call:
    """One interactive call."""

    asked_s: float
    service_s: float
    fates: list[Outcome]
    faults: int = 0
    over: bool = False


class Kernel:
    """Sends its rows as its :class:`Admission` lets it."""

    def __init__(
        self,
        clock: Clock,
        server: BusyServer,
        rows: list[Row],
        seed: int,
        *,
        recall: bool = False,
        tuning: Tuning | None = None,
    ) -> None:
        self.clock, self.server, self.rows, self.recall = clock, server, rows, recall
        self.rng = random.Random(seed)
        self.admission = Admission(rng=self.rng.random, tuning=tuning)
        self.left = len(rows)
        self.lost = self.recalled = 0
        self.ended_s = 0.0
        self.latencies_s: list[float] = []
        self._sending: dict[Ticket, Row | tuple[Call, Request | None]] = {}
        self._away = 0  # rows that wait out a jitter
        self._in_flight: dict[Row, None] = {}
        self._no_recall_until_s = -1.0
        self._wakes_at: float | None = None

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.clock.now

    def start(self) -> None:
        """Ask for all rows."""
        for row in self.rows:
            row.ticket = self.admission.ask(BULK_LANE, self.now)
            self._sending[row.ticket] = row
        self._pump()

    # ---------------------------------------------------------------------- as client/gate.py does

    def _pump(self) -> None:
        for ticket in self.admission.admit(self.now):
            self._send(ticket)
        if self.left and not self._away and not self.admission.waiting:
            for row in list(self._in_flight):
                request = row.in_flight
                if request and request.state is State.HANGS and self.now - request.sent_s > TAIL_S:
                    self._hang_up_silent(request)
        wake_at = self.admission.wake_at(self.now)
        if wake_at is not None and wake_at != self._wakes_at:
            self._wakes_at = wake_at
            self.clock.at(wake_at, self._wake)

    def _wake(self) -> None:
        self._wakes_at = None
        self._pump()

    def _again(self, ticket: Ticket, item: Row | tuple[Call, Request | None]) -> None:
        self._sending[ticket] = item
        self.admission.again(ticket)
        self._pump()

    # --------------------------------------------------------------------------------------- rows

    def _send(self, ticket: Ticket) -> None:
        item = self._sending.pop(ticket)
        if isinstance(item, tuple):
            self._send_call(ticket, *item)
            return
        request = Request(self, item, item.service_s, self._next_fate(item.fates), self.now, ticket=ticket)
        item.in_flight = request
        self._in_flight[item] = None
        self.server.send(request)
        self.clock.after(IDLE_S, self._silent, request)

    @staticmethod
    def _next_fate(fates: list[Outcome]) -> Outcome:
        return fates.pop() if fates else Outcome.OK

    def _silent(self, request: Request) -> None:
        if request.state is State.HANGS:
            self._hang_up_silent(request)

    def _hang_up_silent(self, request: Request) -> None:
        self.server.hang_up(request)
        self.done(request, Outcome.SILENT)

    def token(self, request: Request) -> None:
        """A first token came."""
        self.admission.first_token(self.now, request.ticket)
        twin = request.twin
        if twin is not None and twin.state is not State.GONE:
            self.server.hang_up(twin)
            self.admission.leave(twin.ticket, self.now)
        self._pump()

    def done(self, request: Request, outcome: Outcome) -> None:
        """A request ended."""
        if request.interactive:
            self._call_done(request, outcome)
        else:
            self._row_done(request, outcome)
        self._pump()

    def _learn(self, request: Request, outcome: Outcome) -> float:
        """Tell admission; gives the seconds to wait after a refusal."""
        ticket: Ticket = request.ticket
        if outcome in REFUSALS:
            overloaded, named_limit = outcome is Outcome.E503, request.named_limit
            return self.admission.refused(ticket, self.now, overloaded=overloaded, named_limit=named_limit)
        if outcome in (Outcome.OK, Outcome.EMPTY):
            self.admission.answered(ticket, self.now)
        else:
            self.admission.faulted(ticket, self.now)
        return 0.0

    def _row_done(self, request: Request, outcome: Outcome) -> None:
        row: Row = request.row
        row.in_flight = None
        del self._in_flight[row]
        wait_s = self._learn(request, outcome)
        if outcome is Outcome.OK:
            self._row_over()
            return
        if outcome in REFUSALS:
            row.fates.append(request.fate)  # it never came to its fate
        else:
            row.faults += 1
            if row.faults > MAX_FAULTS:
                self.lost += 1
                self._row_over()
                return
            wait_s = self._fault_wait_s(row.faults)
        if wait_s:
            self._away += 1
            self.clock.after(wait_s, self._row_back, request.ticket, row)
        else:
            self._again(request.ticket, row)

    def _row_back(self, ticket: Ticket, row: Row) -> None:
        self._away -= 1
        self._again(ticket, row)

    def _row_over(self) -> None:
        self.left -= 1
        self.ended_s = self.now

    def _fault_wait_s(self, faults: int) -> float:
        return self.rng.random() * min(8.0, 0.5 * 2.0**faults)

    # -------------------------------------------------------------------------- interactive calls

    def call(self, call: Call) -> None:
        """Make an interactive call."""
        self._sending[self.admission.ask(INTERACTIVE_LANE, self.now)] = (call, None)
        self._pump()

    def _send_call(self, ticket: Ticket, call: Call, first: Request | None) -> None:
        fate = self._next_fate(call.fates)
        request = Request(self, call, call.service_s, fate, self.now, interactive=True, ticket=ticket)
        if first is not None:
            request.twin, first.twin = first, request
        self.server.send(request)
        self.clock.after(IDLE_S, self._silent, request)
        if first is None:
            self.clock.after(HEDGE_S, self._hedge, request)
        if self.recall:
            self.clock.after(RECALL_S if first is None else 0.5, self._recall, request)

    def _hedge(self, request: Request) -> None:
        """No byte at all: a second copy; the first token wins."""
        if request.state is State.HANGS and request.twin is None:
            self._sending[self.admission.ask(INTERACTIVE_LANE, self.now)] = (request.row, request)
            self._pump()

    def _call_done(self, request: Request, outcome: Outcome) -> None:
        call: Call = request.row
        wait_s = self._learn(request, outcome)
        if outcome is Outcome.OK:
            call.over = True
            self.latencies_s.append(self.now - call.asked_s)
            return
        twin = request.twin
        if call.over or (twin is not None and twin.state is not State.GONE):
            if twin is not None:
                twin.twin = None
            self.admission.leave(request.ticket, self.now)
            return
        if outcome not in REFUSALS:
            call.faults += 1
            wait_s = self._fault_wait_s(call.faults)
        self.clock.after(wait_s, partial(self._again, request.ticket, (call, None)))

    # -- the switch

    def _recall(self, request: Request) -> None:
        """An interactive call has no token yet: take back our own rows that wait before it."""
        if request.state is not State.WAITS or self.now < self._no_recall_until_s:
            return
        self.clock.after(RECALL_CHECK_S, self._recall_check, request)
        for row in list(self._in_flight):
            waiting = row.in_flight
            if waiting is not None and waiting.state is State.WAITS:
                self.server.hang_up(waiting)
                row.in_flight = None
                del self._in_flight[row]
                row.fates.append(waiting.fate)
                self.recalled += 1
                self.admission.leave(waiting.ticket, self.now)
                self._sending[waiting.ticket] = row
                self.admission.again(waiting.ticket)
        self.admission.limit = max(1.0, float(self.admission.held))
        self.admission._quiet_s = self.now

    def _recall_check(self, request: Request) -> None:
        if request.state is State.WAITS:  # it did not help: the queue is not ours
            self._no_recall_until_s = self.now + RECALL_PAUSE_S
