"""May this start now? Priority lanes, a concurrency that adapts, a breaker; one pure object.

The limit moves by what the server shows, not by what it is asked:

* a first token that comes while nearly all places are held says "there was room": the limit grows
  by a step that starts small after a refusal and doubles every 1.3 s without one;
* a 429 says "you hold all you may": the limit becomes what is held, and at most once a second 0.85 of it;
  a 503 the same with 0.8; nothing new is sent for about 0.7 s, and the refused one goes first;
* some servers never refuse: what is too much for them hangs until somebody hangs up. A request that
  breaks after far longer than an answer takes, while nothing that was sent after it got in either,
  is stuck; where most that break so are stuck, the limit is halved, once for all that were sent
  before the last cut, and grows the slower, the longer it took to see. Where later requests got in,
  it was bad luck, which changes nothing;
* the number inside a 429, less one, is a ceiling for twenty seconds, unless a request that was sent
  later and above it gets in;
* refusals that have nothing to do with the load are pardoned and change nothing (:class:`Noise`);
* ten 503s or faults in a row without a token or an answer for three seconds open the breaker: one
  probe at a time, at most five seconds apart, until one gets through. A 429 never opens it, since
  it shows a living server.

Some servers refuse a share of all requests whatever the load, and the next try works. Taking that
for fullness ends at one request at a time. What tells the two apart is the level, that is how many
are in flight: fullness never refuses below a level that got in moments ago, noise does. So the
noise is measured there, and only there, each success earns the right to be refused as often as the
noise explains, and what exceeds it is fullness. Refusals that come in clumps are other kernels'
competition rather than noise and count less. On a server without noise no pardon is earned; a few
to begin with spare the first seconds.

The constants of time are made for answers that take seconds. Where they take less, a hold, a cut's
gap and a doubling are shorter in proportion; otherwise one refusal would empty a quick server.

Lanes 4 and 5 are interactive: they do not wait for the limit, and while one of them has been
refused, lanes 1 to 3 send nothing, so that the next place that comes free is theirs. Lanes 1 to 3
share the limit; a higher lane is served as if it had come ``AGEING_S`` earlier per step, so that
no lane waits for ever.

The constants and what each is worth were found by simulation (``tests/sim``).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["AGEING_S", "INTERACTIVE_LANE", "Admission", "Noise", "Ticket", "Tuning"]

INTERACTIVE_LANE = 4
AGEING_S = 60.0
NOISE_MOST = 0.6
"""A server that refuses more than this whatever the load is taken for full."""
STUCK_NEWEST = 0.1
"""The weight of the newest break in the share of those that are stuck."""
CLUMPED = 0.5
CLUMPED_MOST = 0.1


@dataclass(frozen=True, slots=True)
class Tuning:
    """The constants of the limit and the breaker; the defaults are the measured best."""

    start: float = 16.0
    least: float = 1.0
    most: float = 2000.0
    cut_429: float = 0.85
    cut_503: float = 0.8
    cut_fault: float = 0.5
    cut_gap_s: float = 1.0
    step: float = 0.02
    doubling_s: float = 1.3
    hold_s: float = 0.7
    usual_s: float = 2.0
    """How long answers take where the constants of time hold as they are; quicker servers: in proportion."""
    trip: int = 10
    trip_silence_s: float = 3.0
    probe_gap_s: float = 5.0
    resume: float = 0.5
    named_limit_s: float = 20.0
    """How long the number inside a 429 is believed."""
    below: float = 0.9
    """The share of a level that got in, below which a refusal is not fullness."""
    below_s: float = 20.0
    """How long a level that got in counts."""
    newest: float = 0.02
    """The weight of the newest outcome in the measured noise."""
    pardons: float = 8.0
    """The most that are kept, and how many there are to begin with."""
    pardons_per_noise: float = 2.5
    """Pardons earned for each refusal that the noise explains: room for bad luck and a late measurement."""
    noise_for_numbers: float = 0.02
    """From this noise on, the number inside a 429 is not believed."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request's place in the line; to be given back with a verb of :class:`Admission`."""

    lane: int
    asked_s: float
    refusals: int = 0
    held: bool = False
    yielding: bool = False
    """Interactive, refused, and bulk waits for it."""
    order: tuple[float, int] = field(default=(0.0, 0))
    sent_s: float = 0.0
    level: int = 0
    """Requests in flight when it was sent, itself included."""
    below: bool = False
    """Sent at a level where fullness cannot refuse it."""
    got_in: bool = False

    @property
    def interactive(self) -> bool:
        """Whether it passes first."""
        return self.lane >= INTERACTIVE_LANE


class _Share:
    """How often something is so, the newest cases counting more."""

    def __init__(self, newest: float) -> None:
        self.value = 0.0
        self._newest, self._cases = newest, 2

    def add(self, case: bool) -> None:
        """One more case."""
        self._cases += 1
        self.value += max(self._newest, 1.0 / self._cases) * (case - self.value)


class Noise:
    """The refusals that have nothing to do with the load: how many there are, and which are pardoned.

    Two shares are measured below a level that got in during the last seconds: of refusals right
    after a success, and right after a refusal. Noise refuses both alike. When the second is larger,
    refusals come in clumps, as they do when several kernels compete for the same places.
    """

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._pardons = tuning.pardons
        self._after_success, self._after_refusal = _Share(tuning.newest), _Share(tuning.newest)
        self._last_got_in = True
        self._proven: tuple[int, float] = (0, float("-inf"))

    @property
    def share(self) -> float:
        """The share of requests that are refused whatever the load, as far as is known."""
        clumps = self._after_refusal.value - self._after_success.value
        clumped = min(CLUMPED_MOST, max(0.0, CLUMPED * clumps))
        return min(NOISE_MOST, max(0.0, self._after_success.value - clumped))

    def sent(self, ticket: Ticket, level: int, now: float) -> None:
        """A request leaves; ``level`` are in flight, itself included."""
        proven, since_s = self._proven
        fresh = now - since_s <= self._tuning.below_s
        ticket.sent_s, ticket.level, ticket.got_in = now, level, False
        ticket.below = fresh and level <= self._tuning.below * proven

    def got_in(self, ticket: Ticket, now: float) -> None:
        """It was let in."""
        ticket.got_in = True
        if ticket.level >= self._proven[0] or now - self._proven[1] > self._tuning.below_s:
            self._proven = (ticket.level, now)
        self._measure(ticket, refused=False)
        per_success = self.share / (1.0 - self.share)
        self._pardons = min(
            self._tuning.pardons, self._pardons + self._tuning.pardons_per_noise * per_success
        )

    def refused(self, ticket: Ticket) -> bool:
        """It was refused; gives whether that is pardoned."""
        self._measure(ticket, refused=True)
        if self._pardons < 1.0:
            return False
        self._pardons -= 1.0
        return True

    def _measure(self, ticket: Ticket, *, refused: bool) -> None:
        if ticket.below:
            (self._after_success if self._last_got_in else self._after_refusal).add(refused)
        self._last_got_in = not refused


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
        self.noise = Noise(self.tuning)
        self._stuck = _Share(STUCK_NEWEST)
        self._newest_in_s = float("-inf")  # when the newest request was sent that got in
        self._got_in_s = 0.0  # how long the last one took to get in
        self._broke_at, self._broke_s = 0.0, 0.0  # the level most broke at, and how long that took to show
        self.open = False
        """Whether the breaker is open: the server seems to be down."""
        self.open_since_s: float | None = None
        self._line: list[tuple[tuple[float, int], Ticket]] = []
        self._interactive: list[Ticket] = []
        self._count = 0
        self._yielding = 0
        self._passing = 0  # interactive requests in flight
        self._hold_until_s = float("-inf")
        self._cut_s = float("-inf")
        self._quiet_s = float("-inf")  # the last sign of fullness
        self._last_answer_s: float | None = None  # counted from the first ticket on
        self._good = self.limit
        self._bad = 0
        self._probe_wait_s = 1.0
        self._named: tuple[int, float, float] | None = None  # number, heard, sent
        self._answer_s = self.tuning.usual_s  # how long an answer takes, from sending to its end

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
        """Join the line again after a refusal or a fault: at the front of its lane, as it asked long ago."""
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
            self._passing += 1
            self.noise.sent(ticket, self.held + self._passing, now)
        if now < self._hold_until_s or (self._yielding and not self.open):
            return started
        room = self._room(now)
        while self._line and self.held < room:
            ticket = heapq.heappop(self._line)[1]
            ticket.held = True
            self.held += 1
            self.noise.sent(ticket, self.held + self._passing, now)
            started.append(ticket)
        return started

    def wake_at(self, now: float) -> float | None:
        """When to call :meth:`admit` if nothing else happens; None: only an event can change the answer."""
        return self._hold_until_s if self._line and now < self._hold_until_s else None

    def leave(self, ticket: Ticket, now: float) -> None:  # noqa: ARG002 (every verb is told the time)
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
            number, heard_s, _ = self._named
            believed = self.noise.share < self.tuning.noise_for_numbers
            if believed and now - heard_s < self.tuning.named_limit_s:
                limit = min(limit, number - 1)
            else:
                self._named = None
        return max(1, int(limit))

    def _give_back(self, ticket: Ticket) -> None:
        if not ticket.held:
            return
        ticket.held = False
        if ticket.interactive:
            self._passing -= 1
        else:
            self.held -= 1

    def _stop_yielding(self, ticket: Ticket) -> None:
        if ticket.yielding:
            ticket.yielding = False
            self._yielding -= 1

    # ----------------------------------------------------------------------- what the server showed

    def first_token(self, now: float, ticket: Ticket | None = None) -> None:
        """A first token came: there was room.

        ``ticket`` is whose; without it only the answer tells that this request got in.
        """
        self._alive(now)
        if ticket is not None:
            self._got_in(ticket, now)
        t = self.tuning
        if self.held < self.limit - max(2.0, 0.1 * self.limit):
            return
        step = min(1.0, t.step * 2.0 ** min(40.0, (now - self._quiet_s) / self._doubling_s))
        self.limit = min(t.most, self.limit + step)
        if self.limit > 1.5 * self._broke_at:
            self._broke_s = 0.0  # that ceiling is gone

    def answered(self, ticket: Ticket, now: float) -> None:
        """A complete answer came, usable or not, or an error that a living server gives (400, 401, 402)."""
        self._give_back(ticket)
        self._stop_yielding(ticket)
        if not ticket.got_in:
            self._got_in(ticket, now)
        self._alive(now)
        if not ticket.interactive:
            self._answer_s += 0.05 * (now - ticket.sent_s - self._answer_s)
        better = self.limit > self._good
        self._good = self.limit if better else self._good + 0.02 * (self.limit - self._good)

    @property
    def _pace(self) -> float:
        """What the constants of time are worth here: 1 where an answer takes ``usual_s`` or more."""
        return min(1.0, max(0.01, self._answer_s / self.tuning.usual_s))

    @property
    def _doubling_s(self) -> float:
        """How long a step takes to double: the longer, the longer it takes to see that it was too much."""
        return self.tuning.doubling_s * max(self._pace, self._broke_s / self.tuning.usual_s)

    def _got_in(self, ticket: Ticket, now: float) -> None:
        self.noise.got_in(ticket, now)
        self._newest_in_s = max(self._newest_in_s, ticket.sent_s)
        self._got_in_s = now - ticket.sent_s
        if self._named and ticket.level > self._named[0] and ticket.sent_s > self._named[2]:
            self._named = None  # more than it allows, sent after it was said

    def refused(
        self, ticket: Ticket, now: float, *, overloaded: bool, named_limit: int | None = None
    ) -> float:
        """A 429, or a 503 (``overloaded``). Gives the seconds this ticket waits before it asks :meth:`again`.

        ``named_limit`` is the number inside a 429's text.
        """
        t = self.tuning
        self._give_back(ticket)
        probing = self.open and not ticket.interactive
        pardoned = not self.open and self.noise.refused(ticket)
        if not pardoned:
            self._quiet_s = now
            if named_limit is not None:
                self._named = (max(2, named_limit), now, ticket.sent_s)
        if overloaded:
            self._bad += 1
        tripped = self.open or (overloaded and self._trip(now))
        if not tripped and not pardoned:
            cut = t.cut_503 if overloaded else t.cut_429
            if now - self._cut_s > t.cut_gap_s * self._pace:
                self._cut_s = now
                self.limit = max(t.least, min(self.limit, self.held) * cut)
            elif not overloaded:
                self.limit = max(t.least, min(self.limit, self.held))
            self._hold(now, t.hold_s * self._pace * (0.5 + self.rng()))
        if probing:
            self._probe_wait_s = min(t.probe_gap_s, self._probe_wait_s * 2)
            self._hold(now, self._probe_wait_s * (0.5 + 0.5 * self.rng()))
        ticket.refusals += 1
        return self._refusal_wait_s(ticket, overloaded=overloaded)

    def _refusal_wait_s(self, ticket: Ticket, *, overloaded: bool) -> float:
        if ticket.interactive:
            if self.open:
                return self.tuning.probe_gap_s * (0.5 + 0.5 * self.rng())
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
            self._cut_for_faults(ticket, now)
            self._trip(now)
        elif not ticket.interactive:
            self._probe_wait_s = min(self.tuning.probe_gap_s, self._probe_wait_s * 2)
            self._hold(now, self._probe_wait_s * (0.5 + 0.5 * self.rng()))

    def _cut_for_faults(self, ticket: Ticket, now: float) -> None:
        """Where what breaks is stuck: fewer at once, one cut for all that were sent before the last one."""
        if now - ticket.sent_s < 2.0 * self._got_in_s:
            return  # it broke at once: that says nothing about the load
        stuck = ticket.sent_s > self._newest_in_s
        self._stuck.add(stuck)
        if stuck and self._stuck.value > 0.5 and ticket.sent_s >= self._cut_s:
            self._broke_at, self._broke_s = min(self.limit, ticket.level), now - ticket.sent_s
            self._cut_s = now
            self._quiet_s = now + self._broke_s  # it takes that long to show whether this was enough
            self.limit = max(self.tuning.least, self._broke_at * self.tuning.cut_fault)
            self._good = min(self._good, self.limit / self.tuning.resume)

    def _hold(self, now: float, wait_s: float) -> None:
        self._hold_until_s = max(self._hold_until_s, now + wait_s)

    def _trip(self, now: float) -> bool:
        t = self.tuning
        if self._bad >= t.trip and now - (self._last_answer_s or 0.0) > t.trip_silence_s:
            self.open, self.open_since_s = True, now
            self.limit, self._probe_wait_s = t.least, 1.0
            self._hold(now, self._probe_wait_s * (0.5 + 0.5 * self.rng()))
        return self.open

    def _alive(self, now: float) -> None:
        self._bad, self._last_answer_s = 0, now
        if self.open:
            self._close(now)

    def _close(self, now: float) -> None:
        t = self.tuning
        self.open, self.open_since_s = False, None
        self._bad, self._probe_wait_s = 0, 1.0
        self.limit = max(t.least, self._good * t.resume)
        self._quiet_s = now - 3 * self._doubling_s
        self._hold_until_s = float("-inf")
