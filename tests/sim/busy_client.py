"""A kernel with a bulk job and a few interactive calls, driving the real :class:`Admission` on virtual time.

It says to admission what ``client/gate.py`` says and asks it what that asks, no more; what the rest
of the client does around it (full jitter after faults, silence timeout) is here as simple as it can
be. Kernels with one :class:`Table` share their level, as through the SQLite file.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

from busy_server import REFUSALS, BusyServer, Clock, Outcome, Request, State

from deepseek_nb.core import fleet
from deepseek_nb.core.admission import Admission, Ticket, Tuning

IDLE_S = 30.0
MAX_FAULTS = 8
BULK_LANE, INTERACTIVE_LANE = 2, 5
MEETING_S = 0.002
"""How long a meeting at the shared table takes."""


@dataclass(eq=False)
class Table:
    """What kernels on one account share."""

    text: str | None = None
    meetings: int = 0


@dataclass(eq=False)
class Row:
    """One row of the bulk job."""

    service_s: float
    fates: list[Outcome]
    ticket: Ticket | None = None
    faults: int = 0
    in_flight: Request | None = None
    answers: int = 0
    empty_kept: int = 0


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
        table: Table | None = None,
    ) -> None:
        self.clock, self.server, self.rows, self.recall = clock, server, rows, recall
        self.rng = random.Random(seed)
        self.admission = Admission(rng=self.rng.random, tuning=tuning)
        self.name, self.table = f"kernel-{seed}", table
        if table is not None:
            self.admission.share()
        self.left = len(rows)
        self.lost = self.recalled = 0
        self.ended_s = 0.0
        self.latencies_s: list[float] = []
        self._sending: dict[Ticket, Row | tuple[Call, Request | None]] = {}
        self._in_flight: dict[Ticket, Row] = {}
        self._wakes_at: float | None = None
        self._meets_at: float | None = None
        self._meeting = False

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
        if self.admission.at_the_end:
            for ticket, row in list(self._in_flight.items()):
                if row.in_flight and self.admission.repeat_due(ticket, self.now):
                    self._hang_up_silent(row.in_flight)
        wake_at = self.admission.wake_at(self.now)
        if wake_at is not None and wake_at != self._wakes_at:
            self._wakes_at = wake_at
            self.clock.at(wake_at, self._wake, wake_at)
        if self.table is not None:
            self._plan_meeting()

    def _wake(self, wake_at: float) -> None:
        if self._wakes_at == wake_at:
            self._wakes_at = None
        self._pump()

    def _again(self, ticket: Ticket, item: Row | tuple[Call, Request | None]) -> None:
        self._sending[ticket] = item
        self.admission.again(ticket, self.now)
        self._pump()

    def _plan_meeting(self) -> None:
        meet_at = None if self._meeting else self.admission.meet_at()
        if meet_at is not None and (self._meets_at is None or meet_at < self._meets_at):
            self._meets_at = max(self.now, meet_at)
            self.clock.at(self._meets_at, self._meet, self._meets_at)

    def _meet(self, meets_at: float) -> None:
        if self._meets_at != meets_at or self.table is None:
            return  # an earlier one was planned since
        self._meets_at, self._meeting = None, True
        report = self.admission.report(self.now)
        self.table.text, view = fleet.sync(self.table.text, report, self.name, self.now)
        self.table.meetings += 1
        self.clock.after(MEETING_S, self._met, view)

    def _met(self, view: fleet.View) -> None:
        self._meeting = False
        self.admission.adopt(view)
        if self.recall:
            self._take_back(self.admission.to_give_back(self.now))
        self._pump()

    # --------------------------------------------------------------------------------------- rows

    def _send(self, ticket: Ticket) -> None:
        item = self._sending.pop(ticket)
        self.admission.sent(ticket, self.now)
        if isinstance(item, tuple):
            self._send_call(ticket, *item)
            return
        request = Request(self, item, item.service_s, self._next_fate(item.fates), self.now, ticket=ticket)
        item.in_flight = request
        self._in_flight[ticket] = item
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

    def byte(self, request: Request) -> None:
        """A status line came."""
        self.admission.byte(request.ticket, self.now)

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
        if outcome is Outcome.OK:
            self.admission.answered(ticket, self.now)
        else:
            self.admission.faulted(ticket, self.now)
        return 0.0

    def _row_done(self, request: Request, outcome: Outcome) -> None:
        row: Row = request.row
        row.in_flight = None
        del self._in_flight[request.ticket]
        wait_s = self._learn(request, outcome)
        if outcome is Outcome.OK:
            row.answers += 1
            row.empty_kept += request.fate is Outcome.EMPTY
            self._row_over()
            return
        if outcome in REFUSALS:
            row.fates.append(request.fate)  # it never came to its fate
        else:
            row.faults += 1
            if row.faults > MAX_FAULTS:
                self.lost += 1
                self.admission.leave(request.ticket, self.now)
                self._row_over()
                return
            wait_s = self._fault_wait_s(row.faults)
        if wait_s:
            self.clock.after(wait_s, self._again, request.ticket, row)
        else:
            self._again(request.ticket, row)

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
            self.clock.after(self.admission.tuning.hedge_s, self._hedge, request)
        if self.recall:
            self.clock.after(self.admission.tuning.recall_s, self._recall, request)

    def _hedge(self, request: Request) -> None:
        """No byte at all: a second copy; the first token wins."""
        if request.twin is None and self.admission.hedge_due(request.ticket, self.now):
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
        if request.state is State.GONE:
            return
        self._take_back(self.admission.recall(request.ticket, self.now))
        self.clock.after(self.admission.tuning.recall_check_s, self._recall_check, request)
        self._pump()

    def _recall_check(self, request: Request) -> None:
        if request.state is not State.GONE:
            self.admission.recall_helped(request.ticket, self.now)

    def _take_back(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            row = self._in_flight.pop(ticket)
            request, row.in_flight = row.in_flight, None
            assert request is not None
            self.server.hang_up(request)
            row.fates.append(request.fate)
            self.recalled += 1
            self.admission.recalled(ticket, self.now)
            self._again(ticket, row)
