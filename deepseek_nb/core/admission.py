"""May this start now? Priority lanes, a concurrency that adapts, a breaker; one pure object.

The limit moves by what the server shows, not by what it is asked:

* a first token that comes while nearly all places are held says "there was room": the limit grows
  by a step that starts small after a refusal and doubles every second without one;
* a 429 says "you hold all you may": the limit becomes what is held, and at most once a second 0.85 of it;
  a 503 the same with 0.7; nothing new is sent for about half a second, and the refused one goes first;
* ten 503s or faults in a row without an answer for three seconds open the breaker: one probe at a
  time, at most five seconds apart, until one gets through. A 429 never opens it: it shows a living server.

Lanes 4 and 5 are interactive: they do not wait for the limit, and while one of them has been
refused, lanes 1 to 3 send nothing, so that the next place that comes free is theirs. Lanes 1 to 3
share the limit; a higher lane is served as if it had come ``AGEING_S`` earlier per step, so that
no lane waits for ever.

The constants and what each is worth were found by simulating four kinds of server.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["AGEING_S", "INTERACTIVE_LANE", "Admission", "Ticket", "Tuning"]

INTERACTIVE_LANE = 4
AGEING_S = 60.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """The constants of the limit and the breaker; the defaults are the measured best."""

    start: float = 16.0
    least: float = 1.0
    most: float = 2000.0
    cut_429: float = 0.85
    cut_503: float = 0.7
    cut_gap_s: float = 1.0
    step: float = 0.02
    doubling_s: float = 1.0
    hold_s: float = 0.5
    trip: int = 10
    trip_silence_s: float = 3.0
    probe_gap_s: float = 5.0
    resume: float = 0.5
    named_limit_s: float = 60.0
    """How long the number inside a 429 is believed."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request's place in the line; its holder gives it back with one of the verbs of :class:`Admission`."""

    lane: int
    asked_s: float
    refusals: int = 0
    held: bool = False
    yielding: bool = False
    """Interactive, refused, and bulk waits for it."""
    order: tuple[float, int] = field(default=(0.0, 0))

    @property
    def interactive(self) -> bool:
        """Whether it passes first."""
        return self.lane >= INTERACTIVE_LANE


class Admission:
    """Holds the line of waiting tickets and says which may start. Times are a monotonic clock's seconds.

    >>> gate = Admission(rng=lambda: 0.5, tuning=Tuning(start=1))
    >>> a, b = gate.ask(2, 0.0), gate.ask(2, 0.0)
    >>> [t is a for t in gate.admit(0.0)]      # one place, first come
    [True]
    >>> gate.answered(a, 1.0); [t is b for t in gate.admit(1.0)]
    [True]
    """

    def __init__(self, *, rng: Callable[[], float], tuning: Tuning | None = None) -> None:
        self.tuning = tuning or Tuning()
        self.rng = rng
        self.limit = self.tuning.start
        self.held = 0
        """Bulk requests in flight; interactive ones are not counted."""
        self.open = False
        """Whether the breaker is open: the server seems to be down."""
        self.open_since_s: float | None = None
        self._line: list[tuple[tuple[float, int], Ticket]] = []
        self._interactive: list[Ticket] = []
        self._count = 0
        self._yielding = 0
        self._hold_until_s = float("-inf")
        self._cut_s = float("-inf")
        self._quiet_s = float("-inf")  # the last sign of fullness
        self._last_answer_s: float | None = None  # counted from the first ticket on
        self._good = self.limit
        self._bad = 0
        self._probe_wait_s = 1.0
        self._named: tuple[int, float] | None = None

    # ------------------------------------------------------------------------------------- the line

    def ask(self, lane: int, now: float) -> Ticket:
        """Join the line of ``lane`` (1 to 5)."""
        if not 1 <= lane <= 5:
            raise ValueError(f"priority is 1 to 5, not {lane}")
        ticket = Ticket(lane, now)
        if self._last_answer_s is None:
            self._last_answer_s = now
        self._count += 1
        ticket.order = (now - AGEING_S * lane, self._count)
        self._queue(ticket)
        return ticket

    def again(self, ticket: Ticket) -> None:
        """Join the line again after a refusal or a fault: at the front of its lane, since it asked long ago."""
        self._stop_yielding(ticket)
        self._queue(ticket)

    def _queue(self, ticket: Ticket) -> None:
        if ticket.interactive:
            self._interactive.append(ticket)
        else:
            heapq.heappush(self._line, (ticket.order, ticket))

    def admit(self, now: float) -> list[Ticket]:
        """The tickets that may start now, in order. Call it after every other verb and at :meth:`wake_at`."""
        started = sorted(self._interactive, key=lambda t: (-t.lane, t.order))
        self._interactive.clear()
        for ticket in started:
            ticket.held = True
        if now < self._hold_until_s or (self._yielding and not self.open):
            return started
        room = self._room(now)
        while self._line and self.held < room:
            ticket = heapq.heappop(self._line)[1]
            ticket.held = True
            self.held += 1
            started.append(ticket)
        return started

    def wake_at(self, now: float) -> float | None:
        """When to call :meth:`admit` if nothing else happens; None: only an event can change the answer."""
        return self._hold_until_s if self._line and now < self._hold_until_s else None

    def leave(self, ticket: Ticket, now: float) -> None:
        """Give a ticket up, waiting or held, without having learnt anything about the server."""
        self._stop_yielding(ticket)
        if ticket.held:
            self._give_back(ticket)
        elif ticket.interactive:
            self._interactive = [t for t in self._interactive if t is not ticket]
        else:
            self._line = [entry for entry in self._line if entry[1] is not ticket]
            heapq.heapify(self._line)

    @property
    def waiting(self) -> int:
        """Tickets in the line."""
        return len(self._line) + len(self._interactive)

    def _room(self, now: float) -> int:
        limit = self.limit
        if self._named is not None:
            number, heard_s = self._named
            if now - heard_s < self.tuning.named_limit_s:
                limit = min(limit, number)
            else:
                self._named = None
        return max(1, int(limit))

    def _give_back(self, ticket: Ticket) -> None:
        ticket.held = False
        if not ticket.interactive:
            self.held -= 1

    def _stop_yielding(self, ticket: Ticket) -> None:
        if ticket.yielding:
            ticket.yielding = False
            self._yielding -= 1

    # ----------------------------------------------------------------------- what the server showed

    def first_token(self, now: float, ticket: Ticket | None = None) -> None:
        """A first token came: there was room."""
        if self.open:
            self._close(now)
        t = self.tuning
        if self.held < self.limit - max(2.0, 0.1 * self.limit):
            return
        step = min(1.0, t.step * 2.0 ** min(40.0, (now - self._quiet_s) / t.doubling_s))
        self.limit = min(t.most, self.limit + step)

    def answered(self, ticket: Ticket, now: float) -> None:
        """A complete answer came, usable or not, or an error that a living server gives (400, 401, 402)."""
        self._give_back(ticket)
        self._stop_yielding(ticket)
        self._bad, self._last_answer_s = 0, now
        if self.open:
            self._close(now)
        better = self.limit > self._good
        self._good = self.limit if better else self._good + 0.02 * (self.limit - self._good)

    def refused(
        self, ticket: Ticket, now: float, *, overloaded: bool, named_limit: int | None = None
    ) -> float:
        """A 429, or a 503 (``overloaded``). Gives the seconds this ticket waits before it asks :meth:`again`.

        ``named_limit`` is the number inside a 429's text: a ceiling for a while, less one.
        """
        t = self.tuning
        self._give_back(ticket)
        if named_limit is not None:
            self._named = (max(1, named_limit - 1), now)
        probing = self.open and not ticket.interactive
        self._quiet_s = now
        if overloaded:
            self._bad += 1
        tripped = self.open or (overloaded and self._trip(now))
        if not tripped:
            cut = t.cut_503 if overloaded else t.cut_429
            if now - self._cut_s > t.cut_gap_s:
                self._cut_s = now
                self.limit = max(t.least, min(self.limit, self.held) * cut)
            elif not overloaded:
                self.limit = max(t.least, min(self.limit, self.held))
            self._hold(now, t.hold_s * (0.5 + self.rng()))
        if probing:
            self._probe_wait_s = min(t.probe_gap_s, self._probe_wait_s * 2)
            self._hold(now, self._probe_wait_s * (0.5 + 0.5 * self.rng()))
        ticket.refusals += 1
        return self._refusal_wait_s(ticket, overloaded=overloaded)

    def _refusal_wait_s(self, ticket: Ticket, *, overloaded: bool) -> float:
        if ticket.interactive:
            if self.open:
                return self.tuning.probe_gap_s * (0.5 + 0.5 * self.rng())
            if not ticket.yielding:
                ticket.yielding = True
                self._yielding += 1
            return 0.2 + 0.3 * self.rng()
        if self.open or not overloaded:
            return 0.0
        return self.rng() * min(10.0, 0.5 * 2.0 ** min(ticket.refusals - 1, 6))

    def faulted(self, ticket: Ticket, now: float) -> None:
        """A 500, a reset, silence, a broken stream."""
        self._give_back(ticket)
        self._bad += 1
        if not self.open:
            self._trip(now)
        elif not ticket.interactive:
            self._probe_wait_s = min(self.tuning.probe_gap_s, self._probe_wait_s * 2)
            self._hold(now, self._probe_wait_s * (0.5 + 0.5 * self.rng()))

    def _hold(self, now: float, wait_s: float) -> None:
        self._hold_until_s = max(self._hold_until_s, now + wait_s)

    def _trip(self, now: float) -> bool:
        t = self.tuning
        if self._bad >= t.trip and now - (self._last_answer_s or 0.0) > t.trip_silence_s:
            self.open, self.open_since_s = True, now
            self.limit, self._probe_wait_s = t.least, 1.0
            self._hold(now, self._probe_wait_s * (0.5 + 0.5 * self.rng()))
        return self.open

    def _close(self, now: float) -> None:
        t = self.tuning
        self.open, self.open_since_s = False, None
        self._bad, self._probe_wait_s = 0, 1.0
        self.limit = max(t.least, self._good * t.resume)
        self._quiet_s = now - 3 * t.doubling_s
        self._hold_until_s = float("-inf")
