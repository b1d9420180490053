"""May this start now? Priority lanes under a limit that adapts; one pure object for each process.

What the server allows is its :class:`~deepseek_nb.core.level.Level`; this file holds the line of
those who wait, and what is in flight.

Lanes 4 and 5 are interactive: they do not wait for the limit, and while one of them has been
refused, lanes 1 to 3 send nothing, so that the next place that comes free is theirs. While the
server seems to be down, one of them at a time is the probe, and the others wait for what it shows,
five seconds at most. Lanes 1 to 3 share the limit; a higher lane is served as if it had come
``AGEING_S`` earlier per step, so that no lane waits for ever.

Three kinds of silence have a cure here. At a job's end, when nobody waits any more, a row without a
byte is sent again early. An interactive call without a byte gets a second copy. Both only where it
has been silent for far longer than others were: whether the service sends a status line before the
first token is not known. An interactive call that waits in the server's queue may have our own rows
before it taken back, which never started.

Several kernels on one account share one level: :meth:`Admission.report` gives what happened here,
:mod:`deepseek_nb.core.fleet` replays it on the shared level, :meth:`Admission.adopt` takes that over.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from deepseek_nb.core.level import NEVER_S, Fact, Level, Noise, Tuning

__all__ = ["AGEING_S", "INTERACTIVE_LANE", "Admission", "Noise", "Report", "Ticket", "Tuning", "View"]

INTERACTIVE_LANE = 4
AGEING_S = 60.0
STRAGGLER = 4.0
"""So many times as long as others a request has to be silent, to be called so."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request's place in the line; to be given back with a verb of :class:`Admission`."""

    lane: int
    asked_s: float
    refusals: int = 0
    held: bool = False
    yielding: bool = False
    """Interactive, refused, and bulk waits for it."""
    away: bool = False
    """Bulk, between a refusal or a fault and its return to the line."""
    order: tuple[float, int] = field(default=(0.0, 0))
    queued_s: float = 0.0
    """When it joined the line, the last time."""
    sent_s: float = 0.0
    level: int = 0
    """Requests in flight when it was sent, itself included, those of other kernels too."""
    below: bool = False
    """Sent at a level where fullness cannot refuse it."""
    on_the_wire: bool = False
    """Whether :meth:`Admission.sent` was told of it."""
    spoken: bool = False
    """A byte of any kind came."""
    got_in: bool = False
    called_back: bool = False
    """Its sender has been asked to hang up."""
    made_room: bool = False
    """Interactive, and waiting rows were taken back for it."""

    @property
    def interactive(self) -> bool:
        """Whether it passes first."""
        return self.lane >= INTERACTIVE_LANE


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in this process since the last report, and what it has and wants."""

    facts: tuple[Fact, ...]
    level: list[Any]
    """The level as it is here, facts included: where there is no shared one yet, it begins so."""
    held: int
    passing: int
    want: int
    """Places for bulk it could use: held and waiting."""
    waits: bool
    """Whether bulk rows wait in its line."""
    yielding: bool
    probing: bool
    tuning: Tuning


@dataclass(frozen=True, slots=True)
class View:
    """What the shared table says to one member."""

    level: Level
    room: int
    """Bulk requests it may have in flight."""
    others: int = 0
    """Members beside it."""
    others_in_flight: int = 0
    others_held: int = 0
    others_yield: bool = False
    others_probe: bool = False


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
        self.level = Level(self.tuning)
        self.held = 0
        """Bulk requests in flight; interactive ones are not counted."""
        self.passing = 0
        """Interactive requests in flight."""
        self.urgent = False
        """Something happened that the other kernels should know at once."""
        self.recalls = 0
        """Rows that were taken back."""
        self.closings = 0
        """How often the breaker closed: the server was down, and came back."""
        self._line: list[tuple[tuple[float, int], Ticket]] = []
        self._interactive: list[Ticket] = []
        self._in_flight: dict[Ticket, None] = {}
        self._count = 0
        self._yielding = 0
        self._away = 0
        self._shared: View | None = None
        self._facts: list[Fact] | None = None
        self._met_s = NEVER_S
        self._met_busy = False  # whether the last report told of work here
        self._met_held = 0  # what it told that we hold
        self._known = False  # whether the others know of it
        self._first_byte_s = 0.0  # how long the slower ones of late took to their first byte
        self._recalled_s = NEVER_S  # the newest recall that was heeded: its calls' time of sending

    # ------------------------------------------------------------------------------------- the line

    def ask(self, lane: int, now: float, since_s: float | None = None) -> Ticket:
        """Join the line of ``lane`` (1 to 5), at the place of one who asked at ``since_s`` (None: now)."""
        if not 1 <= lane <= 5:
            raise ValueError(f"priority is 1 to 5, not {lane}")
        ticket = Ticket(lane, now if since_s is None else since_s)
        if self.level.heard_s is None:
            self._learn("asked", now)
        self._count += 1
        ticket.order = (ticket.asked_s - AGEING_S * lane, self._count)
        self._queue(ticket, now)
        return ticket

    def again(self, ticket: Ticket, now: float) -> None:
        """Join the line again after a refusal or a fault: at the front of its lane, as it asked long ago."""
        self._back(ticket)
        self._queue(ticket, now)

    def _queue(self, ticket: Ticket, now: float) -> None:
        ticket.queued_s = now
        if ticket.interactive:
            self._interactive.append(ticket)
        else:
            heapq.heappush(self._line, (ticket.order, ticket))

    def admit(self, now: float) -> list[Ticket]:
        """The tickets that may start now, in order. Call it after every other verb and at :meth:`wake_at`."""
        started = self._passing_now(now) if self._interactive else []
        for ticket in started:
            self._interactive.remove(ticket)
            self.passing += 1
            self._start(ticket, now)
        if now < self.level.hold_until_s or not self._line or self._stands_aside:
            return started
        room = self._room(now)
        while self._line and (self.held < room if not self.open else room and not self._probing):
            ticket = heapq.heappop(self._line)[1]
            self.held += 1
            self._start(ticket, now)
            started.append(ticket)
        if self.held > 2 * self._met_held + 2:
            self.urgent = True  # a refusal in another kernel is measured by what all hold
        return started

    def _passing_now(self, now: float) -> list[Ticket]:
        """The interactive tickets that may start: all, but while the server seems down one as the probe."""
        waiting = sorted(self._interactive, key=lambda t: (-t.lane, t.order))
        if not self.open:
            return waiting
        due = [t for t in waiting if now >= t.queued_s + self.tuning.probe_gap_s]
        return due or waiting[: self.may_probe(now)]

    def _start(self, ticket: Ticket, now: float) -> None:
        others = self._shared.others_in_flight if self._shared else 0
        unseen = self._facts is not None and not self._known  # nobody knows what the others hold now
        ticket.held = True
        ticket.sent_s = now
        ticket.level = self.held + self.passing + others
        ticket.below = not unseen and self.level.noise.explains(ticket.level, now)
        ticket.on_the_wire = ticket.spoken = ticket.got_in = ticket.called_back = ticket.made_room = False
        self._in_flight[ticket] = None

    def wake_at(self, now: float) -> float | None:
        """When to call :meth:`admit` if nothing else happens; None: only an event can change the answer."""
        hold_until_s = self.level.hold_until_s
        if now >= hold_until_s and not self._interactive:
            return None
        held_back = now < hold_until_s and (self._line or (self.open and self._interactive))
        times = [hold_until_s] if held_back else []
        if self.open and self._interactive:
            times.append(min(t.queued_s for t in self._interactive) + self.tuning.probe_gap_s)
        return min(times, default=None)

    def leave(self, ticket: Ticket, now: float) -> None:  # noqa: ARG002 (every verb is told the time)
        """Give a ticket up, waiting or held, without having learnt anything about the server."""
        self._back(ticket)
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

    def ahead(self, lane: int) -> int:
        """Tickets in the line that a new one of ``lane`` would let pass. Looks at each."""
        return len(self._interactive) + sum(ticket.lane >= lane for _, ticket in self._line)

    @property
    def limit(self) -> float:
        """How many bulk requests the server seems to bear, those of all kernels on the account together."""
        return self.level.limit

    @property
    def noise(self) -> Noise:
        """What is known of refusals that have nothing to do with the load."""
        return self.level.noise

    @property
    def open(self) -> bool:
        """Whether the breaker is open: the server seems to be down."""
        return self.level.open_since_s is not None

    @property
    def open_since_s(self) -> float | None:
        """Since when the breaker is open."""
        return self.level.open_since_s

    @property
    def kernels(self) -> int:
        """How many share the level, this one included."""
        return 1 + (self._shared.others if self._shared else 0)

    @property
    def _stands_aside(self) -> bool:
        """A refused interactive call, here or in another kernel, has the next place."""
        others_yield = self._shared is not None and self._shared.others_yield
        return (self._yielding > 0 or others_yield) and not self.open

    def _room(self, now: float) -> int:
        most = max(1, int(self.tuning.most))
        places = min(most, self.level.places(now))
        if self._facts is not None and not self._known:
            return 1  # the first meeting is milliseconds away
        view = self._shared
        if view is None or (not view.others and view.room):
            return places
        return min(places, view.room if self.open else max(1, view.room))

    @property
    def _probing(self) -> bool:
        """Whether something sent since the breaker opened is in flight."""
        since_s = self.level.open_since_s
        return since_s is not None and any(t.sent_s >= since_s for t in self._in_flight)

    def _give_back(self, ticket: Ticket) -> None:
        if not ticket.held:
            return
        ticket.held = False
        self._in_flight.pop(ticket, None)
        if ticket.interactive:
            self.passing -= 1
        else:
            self.held -= 1

    def _go_away(self, ticket: Ticket) -> None:
        if not ticket.interactive and not ticket.away:
            ticket.away = True
            self._away += 1

    def _back(self, ticket: Ticket) -> None:
        if ticket.yielding:
            ticket.yielding = False
            self._yielding -= 1
        if ticket.away:
            ticket.away = False
            self._away -= 1

    # ----------------------------------------------------------------------- what the server showed

    def _learn(self, verb: str, now: float, **facts: Any) -> None:
        level, fact = self.level, (verb, now, facts)
        was_open = level.open
        level.take(fact, self._held_by_others())
        if level.open is not was_open:
            self.urgent = True
            self.closings += was_open
        if self._facts is not None:
            self._facts.append(fact)

    def _held_by_others(self) -> int:
        return self._shared.others_held if self._shared else 0

    def first_token(self, now: float, ticket: Ticket | None = None) -> None:
        """A first token came: there was room.

        ``ticket`` is whose; without it only the answer tells that this request got in.
        """
        if ticket is not None:
            self.byte(ticket, now)
            self._got_in(ticket, now)
        self._learn("first_token", now, held=self.held, sent_s=now if ticket is None else ticket.sent_s)

    def answered(self, ticket: Ticket, now: float) -> None:
        """A complete answer came, usable or not, or an error that a living server gives (400, 401, 402)."""
        self._give_back(ticket)
        self._back(ticket)
        if not ticket.got_in:
            self._got_in(ticket, now)
        self._learn(
            "answered",
            now,
            lasted_s=None if ticket.interactive else now - ticket.sent_s,
            sent_s=ticket.sent_s,
        )

    def _got_in(self, ticket: Ticket, now: float) -> None:
        ticket.got_in = True
        self._learn("got_in", now, in_flight=ticket.level, below=ticket.below, sent_s=ticket.sent_s)

    def refused(
        self, ticket: Ticket, now: float, *, overloaded: bool, named_limit: int | None = None
    ) -> float:
        """A 429, or a 503 (``overloaded``). Gives the seconds this ticket waits before it asks :meth:`again`.

        ``named_limit`` is the number inside a 429's text.
        """
        self._give_back(ticket)
        self._go_away(ticket)
        self._learn(
            "refused",
            now,
            held=self.held,
            below=ticket.below,
            sent_s=ticket.sent_s,
            overloaded=overloaded,
            named=named_limit,
            u=self.rng(),
        )
        ticket.refusals += 1
        return self._refusal_wait_s(ticket, now, overloaded=overloaded)

    def _refusal_wait_s(self, ticket: Ticket, now: float, *, overloaded: bool) -> float:
        if ticket.interactive:
            if self.open:
                return max(0.0, self.level.hold_until_s - now)
            if not ticket.yielding:
                ticket.yielding = self.urgent = True
                self._yielding += 1
            return 0.2 + 0.3 * self.rng()
        if self.open or not overloaded:
            return 0.0
        return self.rng() * min(10.0, 0.5 * 2.0 ** min(ticket.refusals - 1, 6))

    def faulted(self, ticket: Ticket, now: float) -> None:
        """A 500, a reset, silence, a broken stream."""
        self._give_back(ticket)
        self._go_away(ticket)
        self._learn("faulted", now, sent_s=ticket.sent_s, in_flight=ticket.level, u=self.rng())

    def may_probe(self, now: float) -> bool:
        """Whether a caller with another way should try this one now, though the breaker is open.

        One at a time, at most ``probe_gap_s`` apart. Always true while it is closed.
        """
        if not self.open:
            return True
        heard = now - self._met_s < self.tuning.probe_gap_s  # who is idle meets nobody: it may be long ago
        others_probe = heard and self._shared is not None and self._shared.others_probe
        return now >= self.level.hold_until_s and not self._probing and not others_probe

    # -------------------------------------------------------------------------------------- silence

    def sent(self, ticket: Ticket, now: float) -> None:
        """The holder's request goes on the wire."""
        ticket.on_the_wire, ticket.sent_s = True, now

    def byte(self, ticket: Ticket, now: float) -> None:
        """A byte of any kind came, the status line included."""
        if not ticket.spoken:
            ticket.spoken = True
            after_s = now - ticket.sent_s
            slower = after_s > self._first_byte_s
            self._first_byte_s = (
                after_s if slower else self._first_byte_s + 0.05 * (after_s - self._first_byte_s)
            )

    @property
    def at_the_end(self) -> bool:
        """No bulk row waits in the line, and none is away waiting out a jitter."""
        return not self._line and not self._away

    @property
    def hedge_after_s(self) -> float:
        """How long an interactive call may be without a byte before a second copy pays."""
        return max(self.tuning.hedge_s, STRAGGLER * self._first_byte_s)

    @property
    def repeat_after_s(self) -> float:
        """How long a row may be without a byte at a job's end."""
        return max(self.tuning.tail_silence_s, STRAGGLER * self._first_byte_s)

    def repeat_due(self, ticket: Ticket, now: float) -> bool:
        """Whether a bulk request at the job's end has been without a byte for too long."""
        return self.at_the_end and self._silent(ticket, now, self.repeat_after_s)

    def hedge_due(self, ticket: Ticket, now: float) -> bool:
        """Whether an interactive call has been without a byte for so long that a second copy pays.

        A request without a byte cannot have been answered, so the second copy is not paid twice.
        """
        return ticket.interactive and self._silent(ticket, now, self.hedge_after_s)

    @staticmethod
    def _silent(ticket: Ticket, now: float, seconds: float) -> bool:
        return ticket.held and ticket.on_the_wire and not ticket.spoken and now - ticket.sent_s >= seconds

    # --------------------------------------------------------------------------------------- recall

    def recall(self, call: Ticket, now: float) -> list[Ticket]:
        """The waiting rows to hang up for an interactive call that still has no token.

        Those of ours that were sent before it and have no token either: they wait in the server's
        queue and never started. Other kernels hear of it by :meth:`to_give_back`. The sender of each
        hangs up and says :meth:`recalled`. Empty for a call that got its token or ended, and for a
        while after a recall that did not help.
        """
        if not call.held or call.got_in or now < self.level.no_recall_until_s:
            return []
        rows = self._waiting_rows(call.sent_s)
        self._recalled_s = max(self._recalled_s, call.sent_s)
        if rows or self._held_by_others():
            self.urgent = call.made_room = True
            self._take_back(rows, now, call.sent_s)
        return rows

    def recall_helped(self, call: Ticket, now: float) -> None:
        """To be called some seconds after :meth:`recall`: if the call still waits, the queue is not ours.

        A call without a byte shows nothing: its connection may hang.
        """
        if call.made_room and call.held and call.spoken and not call.got_in:
            self._learn("recall_failed", now)

    def to_give_back(self, now: float) -> list[Ticket]:
        """The rows to hang up because another kernel's interactive call waits; after each :meth:`adopt`."""
        level = self.level
        if level.recall_sent_s <= self._recalled_s:
            return []
        self._recalled_s = level.recall_sent_s
        rows = self._waiting_rows(level.recall_sent_s)
        if rows:
            self._take_back(rows, now, level.recall_sent_s)
        return rows

    def recalled(self, ticket: Ticket, now: float) -> None:  # noqa: ARG002
        """The sender of a row hung it up: no attempt is counted, and it may ask :meth:`again`."""
        self.recalls += 1
        self._give_back(ticket)
        self._go_away(ticket)

    def _waiting_rows(self, sent_before_s: float) -> list[Ticket]:
        return [
            t
            for t in self._in_flight
            if not (t.interactive or t.got_in or t.called_back) and t.on_the_wire and t.sent_s < sent_before_s
        ]

    def _take_back(self, rows: list[Ticket], now: float, sent_s: float) -> None:
        for row in rows:
            row.called_back = True
        left = self.held - len(rows)
        if self._shared is not None:  # or they would be sent again at once into the room they leave
            self._shared = replace(self._shared, room=max(1, min(left, self._shared.room)))
        self._learn("recalled", now, held=left, sent_s=sent_s)

    # -------------------------------------------------------------------------------------- sharing

    def share(self) -> None:
        """From now on, keep what happens for :meth:`report`."""
        if self._facts is None:
            self._facts = []
            self._tune(replace(self.tuning, clumped_most=self.tuning.clumped_most_shared))

    def unshare(self) -> None:
        """Go on alone with the level as it is."""
        self._facts = self._shared = None
        self._tune(self.tuning)

    def _tune(self, tuning: Tuning) -> None:
        self.level.tuning = self.level.noise.tuning = tuning

    def meet_at(self) -> float | None:
        """When to :meth:`report` next; None: not before something happens."""
        if self._facts is None:
            return None
        busy = self._busy
        no_room = self._line and not self.open and self._shared is not None and not self._shared.room
        if self.urgent or no_room or busy is not self._met_busy:
            return self._met_s + self.tuning.meet_urgent_s
        if not busy:
            return None
        return self._met_s + (self.tuning.meet_s if self.kernels > 1 else self.tuning.meet_alone_s)

    @property
    def _busy(self) -> bool:
        return bool(self.held or self.passing or self.waiting)

    def report(self, now: float) -> Report:
        """What happened since the last report; :meth:`adopt` follows with what the others made of it."""
        facts, self._facts = self._facts or [], []
        self.urgent = False
        self._met_s, self._met_busy, self._met_held = now, self._busy, self.held
        return Report(
            facts=tuple(facts),
            level=self.level.to_list(),
            held=self.held,
            passing=self.passing,
            want=min(self.held + len(self._line), max(1, int(self.tuning.most))),
            waits=bool(self._line),
            yielding=self._yielding > 0,
            probing=self._probing,
            tuning=self.level.tuning,
        )

    def adopt(self, view: View) -> None:
        """Take the shared level over; what happened since the report happened on it, too."""
        was_open = self.open
        self._shared = view
        self._known = self._met_busy
        self.level = view.level
        self.level.learn(self._facts or (), view.others_held)
        self.closings += was_open and not self.open

    def not_reported(self, report: Report) -> None:
        """The report reached nobody: its facts go into the next one."""
        self._facts = [*report.facts, *(self._facts or ())][-10_000:]
