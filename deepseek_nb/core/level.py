"""What is known about a server: how much may be in flight, whether it is down, how noisy it is.

A :class:`Level` learns from plain facts and holds no requests, so that it can be told the same
facts again on another copy: kernels on one account replay on the shared level what each saw
(:mod:`deepseek_nb.core.fleet`). It goes to a short list of JSON values and back.

The limit moves by what the server shows, not by what it is asked:

* a first token that comes while nearly all places are held says "there was room": the limit grows
  by a step that starts small after a refusal and doubles every 1.3 s without one;
* a 429 says "you hold all you may": the limit becomes what is held, and at most once a second 0.85 of it;
  a 503 the same with 0.8; nothing new is sent for about 0.7 s, and the refused one goes first;
* some servers never refuse: what is too much for them hangs until somebody hangs up. Where most that
  break so are stuck, the limit is halved (:class:`Hangs`);
* the number inside a 429, less one, is a ceiling for five seconds, unless a request that was sent
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

The constants and what each is worth were found by simulation (``tests/sim``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["NEVER_S", "Fact", "Hangs", "Level", "Noise", "Share", "Tuning"]

NEVER_S = float("-inf")
Fact = tuple[str, float, dict[str, Any]]
"""A verb of :class:`Level`, when it happened, and its arguments; ``held`` is that of one member alone."""
NOISE_MOST = 0.6
"""A server that refuses more than this whatever the load is taken for full."""
CLUMPED = 0.5
"""How much of the clumps is taken off the noise."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The constants of the limit and the breaker; the defaults are the measured best.

    ``Tuning(least=8, hold_s=0.25)`` is the stubborn mode: it holds its own against a greedy rival on
    the same account, at many times the requests.
    """

    start: float = 16.0
    least: float = 1.0
    most: float = 2000.0
    """The most of this process; where several share a level, its own places end here, not the level."""
    cut_429: float = 0.85
    cut_503: float = 0.8
    cut_hang: float = 0.5
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
    named_limit_s: float = 5.0
    """How long the number inside a 429 is believed; the next one says it again."""
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
    clumped_most: float = 0.1
    """The most that clumps take off the noise, where other kernels compete unseen."""
    clumped_most_shared: float = 0.05
    """The same where the kernels of this machine share their level."""
    tail_silence_s: float = 10.0
    """At a job's end, a row without a byte for so long is sent again."""
    hedge_s: float = 5.0
    """An interactive call without a byte for so long gets a second copy."""
    recall_s: float = 2.0
    """An interactive call without a token for so long takes the waiting rows back (a switch)."""
    recall_check_s: float = 6.0
    """So long after a recall, the call should have its token."""
    recall_pause_s: float = 20.0
    """No recall for so long after one that did not help."""
    meet_s: float = 0.2
    """How often a kernel with work meets those that share its level."""
    meet_alone_s: float = 0.5
    """The same while no other kernel is there."""
    meet_urgent_s: float = 0.01
    """The least time between two meetings, whatever happens."""


class Share(NamedTuple):
    """How often something is so, the newest cases counting more."""

    value: float = 0.0
    cases: int = 2

    def and_one(self, case: bool, newest: float) -> Share:
        """With one more case."""
        cases = min(self.cases + 1, 1_000_000)
        return Share(self.value + max(newest, 1.0 / cases) * (case - self.value), cases)


class Noise:
    """The refusals that have nothing to do with the load: how many there are, and which are pardoned.

    Two shares are measured below a level that got in during the last seconds: of refusals right
    after a success, and right after a refusal. Noise refuses both alike. When the second is larger,
    refusals come in clumps, as they do when several kernels compete for the same places.
    """

    __slots__ = (
        "after_refusal",
        "after_success",
        "before_run",
        "got_in_last",
        "pardons",
        "proven",
        "proven_s",
        "run_s",
        "tuning",
    )

    def __init__(self, tuning: Tuning) -> None:
        self.tuning = tuning
        self.pardons = tuning.pardons
        self.after_success = self.after_refusal = Share()
        self.run_s: float | None = None
        """When the refusals began that no success sent later has ended; both shares as they were then:"""
        self.before_run = (self.after_success, self.after_refusal)
        self.got_in_last = True
        self.proven, self.proven_s = 0, NEVER_S

    @property
    def share(self) -> float:
        """The share of requests that are refused whatever the load, as far as is known."""
        clumps = self.after_refusal.value - self.after_success.value
        clumped = min(self.tuning.clumped_most, max(0.0, CLUMPED * clumps))
        return min(NOISE_MOST, max(0.0, self.after_success.value - clumped))

    def explains(self, in_flight: int, now: float) -> bool:
        """Whether a refusal of a request sent now, as one of ``in_flight``, could not be fullness."""
        fresh = now - self.proven_s <= self.tuning.below_s
        return fresh and in_flight <= self.tuning.below * self.proven

    def got_in(self, in_flight: int, below: bool, sent_s: float, now: float) -> None:
        """A request sent at ``sent_s`` as one of ``in_flight`` was let in."""
        if self.run_s is not None and sent_s >= self.run_s:
            self.run_s = None
        if in_flight >= self.proven or now - self.proven_s > self.tuning.below_s:
            self.proven, self.proven_s = in_flight, now
        self._measure(below, refused=False)
        if self.pardons < self.tuning.pardons:
            share = self.share
            earned = self.tuning.pardons_per_noise * share / (1.0 - share)
            self.pardons = min(self.tuning.pardons, self.pardons + earned)

    def refused(self, below: bool, now: float) -> bool:
        """A request was refused; gives whether that is pardoned."""
        if self.run_s is None:
            self.run_s, self.before_run = now, (self.after_success, self.after_refusal)
        self._measure(below, refused=True)
        if self.pardons < 1.0:
            return False
        self.pardons -= 1.0
        return True

    def forget_run(self) -> None:
        """The run of refusals was an outage: it says nothing about the noise."""
        if self.run_s is not None:
            self.after_success, self.after_refusal = self.before_run
            self.run_s = None

    def _measure(self, below: bool, *, refused: bool) -> None:
        if below and self.got_in_last:
            self.after_success = self.after_success.and_one(refused, self.tuning.newest)
        elif below:
            self.after_refusal = self.after_refusal.and_one(refused, self.tuning.newest)
        self.got_in_last = not refused

    def to_list(self) -> list[Any]:
        """All of it as JSON values."""
        shares = (*self.after_success, *self.after_refusal, *self.before_run[0], *self.before_run[1])
        return [self.pardons, self.run_s, self.got_in_last, self.proven, self.proven_s, *shares]

    @classmethod
    def from_list(cls, values: Sequence[Any], tuning: Tuning) -> Noise:
        """What :meth:`to_list` gave."""
        noise = cls(tuning)
        pardons, run_s, got_in_last, proven, proven_s, *shares = values
        noise.pardons = min(float(pardons), tuning.pardons)
        noise.run_s = None if run_s is None else float(run_s)
        noise.got_in_last = bool(got_in_last)
        noise.proven, noise.proven_s = int(proven), float(proven_s)
        found = [Share(float(shares[i]), int(shares[i + 1])) for i in (0, 2, 4, 6)]
        noise.after_success, noise.after_refusal = found[:2]
        noise.before_run = (found[2], found[3])
        return noise


class Hangs:
    """Whether what breaks is stuck, that is, whether the server hangs what is too much for it.

    A request that breaks after far longer than an answer takes, while nothing that was sent after it
    got in either, is stuck. Where later requests got in, it was bad luck, which says nothing.
    """

    __slots__ = ("broke_at", "broke_s", "got_in_s", "newest_in_s", "share")

    NEWEST = 0.1
    """The weight of the newest break in the share of those that are stuck."""

    def __init__(self) -> None:
        self.share = Share()
        self.newest_in_s = NEVER_S
        """When the newest request was sent that got in."""
        self.got_in_s = 0.0
        """How long the last one took to get in."""
        self.broke_at = 0.0
        """The level at which most broke."""
        self.broke_s = 0.0
        """How long that took to show; 0 once the limit is well above."""

    def got_in(self, sent_s: float, now: float) -> None:
        """A request sent at ``sent_s`` was let in."""
        self.newest_in_s = max(self.newest_in_s, sent_s)
        self.got_in_s = now - sent_s

    def broke(self, sent_s: float, now: float) -> bool:
        """A request sent at ``sent_s`` broke; gives whether it was stuck, as most are."""
        if now - sent_s < 2.0 * self.got_in_s:
            return False  # it broke at once: that says nothing about the load
        stuck = sent_s > self.newest_in_s
        self.share = self.share.and_one(stuck, self.NEWEST)
        return stuck and self.share.value > 0.5

    def to_list(self) -> list[Any]:
        """All of it as JSON values."""
        return [*self.share, self.newest_in_s, self.got_in_s, self.broke_at, self.broke_s]

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Hangs:
        """What :meth:`to_list` gave."""
        hangs = cls()
        share, cases, *times = values
        hangs.share = Share(float(share), int(cases))
        hangs.newest_in_s, hangs.got_in_s, hangs.broke_at, hangs.broke_s = map(float, times)
        return hangs


class Level:
    """What the server showed so far. Every verb is told plain facts and the monotonic time of the event.

    >>> level = Level(Tuning(start=10, pardons=0))
    >>> level.first_token(1.0, held=9, sent_s=0.5); level.limit
    11.0
    >>> level.refused(1.5, held=8, below=False, sent_s=1.0, overloaded=False, named=None, u=0.5)
    >>> level.limit, level.hold_until_s
    (6.8, 2.2)
    >>> Level.from_list(level.to_list(), level.tuning).limit
    6.8
    """

    __slots__ = (
        "answer_s",
        "bad",
        "cut_s",
        "good",
        "hangs",
        "heard_s",
        "hold_until_s",
        "limit",
        "named",
        "no_recall_until_s",
        "noise",
        "open_since_s",
        "probe_wait_s",
        "quiet_s",
        "recall_s",
        "recall_sent_s",
        "tuning",
    )

    def __init__(self, tuning: Tuning) -> None:
        self.tuning = tuning
        self.limit = float(tuning.start)
        self.good = self.limit
        """The slowly decaying best limit."""
        self.quiet_s = NEVER_S
        """The last sign of fullness."""
        self.cut_s = NEVER_S
        self.hold_until_s = NEVER_S
        self.heard_s: float | None = None
        """The last token or answer, counted from the first request on."""
        self.bad = 0
        """503s and faults since."""
        self.open_since_s: float | None = None
        """Since when the breaker is open: the server seems to be down."""
        self.probe_wait_s = 1.0
        self.named: tuple[int, float, float] | None = None
        """The number inside a 429, when it was heard, and when that request had been sent."""
        self.answer_s = tuning.usual_s
        """How long an answer takes, from sending to its end."""
        self.noise = Noise(tuning)
        self.hangs = Hangs()
        self.recall_s = NEVER_S
        """When somebody last asked for the waiting rows back."""
        self.recall_sent_s = NEVER_S
        """Those sent before this are meant."""
        self.no_recall_until_s = NEVER_S

    @property
    def open(self) -> bool:
        """Whether the breaker is open."""
        return self.open_since_s is not None

    @property
    def pace(self) -> float:
        """What the constants of time are worth here: 1 where an answer takes ``usual_s`` or more."""
        return min(1.0, max(0.01, self.answer_s / self.tuning.usual_s))

    @property
    def doubling_s(self) -> float:
        """How long a step takes to double: the longer, the longer it takes to see that it was too much."""
        return self.tuning.doubling_s * max(self.pace, self.hangs.broke_s / self.tuning.usual_s)

    def places(self, now: float) -> int:
        """How many bulk requests may be in flight, 1 at least: the limit under the named number."""
        limit = self.limit
        if self.named is not None:
            number, heard_s, _ = self.named
            believed = self.noise.share < self.tuning.noise_for_numbers
            if believed and now - heard_s < self.tuning.named_limit_s:
                limit = min(limit, number - 1)
        return max(1, int(limit))

    # ----------------------------------------------------------------------- what the server showed

    def asked(self, now: float) -> None:
        """Somebody wants something of this server: from now on its silence counts."""
        if self.heard_s is None:
            self.heard_s = now

    def got_in(self, now: float, *, in_flight: int, below: bool, sent_s: float) -> None:
        """A request sent at ``sent_s`` as one of ``in_flight`` was let in."""
        self.noise.got_in(in_flight, below, sent_s, now)
        self.hangs.got_in(sent_s, now)
        if self.named and in_flight > self.named[0] and sent_s > self.named[2]:
            self.named = None  # more than it allows, sent after it was said

    def first_token(self, now: float, *, held: int, sent_s: float) -> None:
        """A first token came for a request sent at ``sent_s``; ``held`` bulk requests were in flight."""
        self._alive(now, sent_s)
        if held < self.limit - max(2.0, 0.1 * self.limit):
            return
        t = self.tuning
        if self.limit < t.most:
            seconds = max(0.0, now - self.quiet_s)
            step = min(1.0, t.step * 2.0 ** min(40.0, seconds / self.doubling_s))
            self.limit = min(t.most, self.limit + step)
        if self.limit > 1.5 * self.hangs.broke_at:
            self.hangs.broke_s = 0.0  # that ceiling is gone

    def answered(self, now: float, *, lasted_s: float | None, sent_s: float) -> None:
        """A complete answer, or an error that a living server gives; ``lasted_s`` of bulk ones."""
        self._alive(now, sent_s)
        if lasted_s is not None:
            self.answer_s += 0.05 * (lasted_s - self.answer_s)
        better = self.limit > self.good
        self.good = self.limit if better else self.good + 0.02 * (self.limit - self.good)

    def refused(
        self,
        now: float,
        *,
        held: int,
        below: bool,
        sent_s: float,
        overloaded: bool,
        named: int | None,
        u: float,
    ) -> None:
        """A 429, or a 503 (``overloaded``), while ``held`` others were in flight; ``u``: chance, 0 to 1."""
        t = self.tuning
        was_open = self.open
        pardoned = not was_open and self.noise.refused(below, now)
        if not pardoned:
            self.quiet_s = max(self.quiet_s, now)
            if named is not None:
                self.named = (max(2, named), now, sent_s)
        if overloaded:
            self.bad += 1
            if not was_open:
                self._trip(now, u)
        if was_open:
            self._next_probe(now, u)
        elif not self.open and not pardoned:
            cut = t.cut_503 if overloaded else t.cut_429
            if now - self.cut_s > t.cut_gap_s * self.pace:
                self.cut_s = now
                self.limit = max(t.least, min(self.limit, held) * cut)
            elif not overloaded:
                self.limit = max(t.least, min(self.limit, held))
            self._hold(now + t.hold_s * self.pace * (0.5 + u))

    def faulted(self, now: float, *, sent_s: float, in_flight: int, u: float) -> None:
        """A 500, a reset, silence, a broken stream; the request was sent as one of ``in_flight``."""
        self.bad += 1
        if self.open:
            self._next_probe(now, u)
            return
        if self.hangs.broke(sent_s, now) and sent_s >= self.cut_s:  # one cut for all sent before the last one
            self.hangs.broke_at, self.hangs.broke_s = min(self.limit, in_flight), now - sent_s
            self.cut_s = now
            self.quiet_s = now + self.hangs.broke_s  # it takes that long to show whether this was enough
            self.limit = max(self.tuning.least, self.hangs.broke_at * self.tuning.cut_hang)
            self.good = min(self.good, self.limit / self.tuning.resume)
        self._trip(now, u)

    def recalled(self, now: float, *, held: int, sent_s: float) -> None:
        """Waiting rows sent before ``sent_s`` are taken back; ``held`` are left in flight."""
        if sent_s > self.recall_sent_s:
            self.recall_s, self.recall_sent_s = now, sent_s
        self.limit = max(self.tuning.least, min(self.limit, float(held)))
        self.quiet_s = max(self.quiet_s, now)

    def recall_failed(self, now: float) -> None:
        """The call that asked for it still waits: the queue is not ours."""
        self.no_recall_until_s = max(self.no_recall_until_s, now + self.tuning.recall_pause_s)

    def _hold(self, until_s: float) -> None:
        self.hold_until_s = max(self.hold_until_s, until_s)

    def _next_probe(self, now: float, u: float) -> None:
        self.probe_wait_s = min(self.tuning.probe_gap_s, self.probe_wait_s * 2)
        self._hold(now + self.probe_wait_s * (0.5 + 0.5 * u))

    def _trip(self, now: float, u: float) -> None:
        t = self.tuning
        if self.bad >= t.trip and now - (self.heard_s or 0.0) > t.trip_silence_s:
            self.open_since_s = now
            self.noise.forget_run()
            self.limit, self.probe_wait_s = t.least, 1.0
            self._hold(now + self.probe_wait_s * (0.5 + 0.5 * u))

    def _alive(self, now: float, sent_s: float) -> None:
        self.bad = 0
        self.heard_s = now if self.heard_s is None else max(self.heard_s, now)
        if self.open_since_s is not None and sent_s >= self.open_since_s:  # what began before may survive
            self._close(now)

    def _close(self, now: float) -> None:
        t = self.tuning
        self.open_since_s = None
        self.probe_wait_s = 1.0
        self.limit = max(t.least, self.good * t.resume)
        self.quiet_s = now - 3 * self.doubling_s
        self.hold_until_s = NEVER_S

    def learn(self, facts: Iterable[Fact], others_held: int) -> None:
        """Facts of one member in the order of its life, while the others held so many bulk requests."""
        for fact in facts:
            self.take(fact, others_held)

    def take(self, fact: Fact, others_held: int) -> None:
        """One fact, as :meth:`learn`."""
        verb, now, told = fact
        if others_held and "held" in told:
            told = {**told, "held": told["held"] + others_held}
        getattr(self, verb)(now, **told)

    # ----------------------------------------------------------------------------- to JSON and back

    def to_list(self) -> list[Any]:
        """All of it as JSON values (minus infinity among them, as Python's json writes it)."""
        return [
            *(self.limit, self.good, self.quiet_s, self.cut_s, self.hold_until_s, self.heard_s),
            *(self.bad, self.open_since_s, self.probe_wait_s, self.named, self.answer_s),
            *(self.recall_s, self.recall_sent_s, self.no_recall_until_s),
            *(self.noise.to_list(), self.hangs.to_list()),
        ]

    @classmethod
    def from_list(cls, values: Sequence[Any], tuning: Tuning) -> Level:
        """What :meth:`to_list` gave. Raises ValueError or TypeError for anything else."""
        level = cls(tuning)
        limit, good, quiet_s, cut_s, hold_until_s, heard_s, *values = values
        bad, open_since_s, probe_wait_s, named, answer_s, *values = values
        recall_s, recall_sent_s, no_recall_until_s, noise, hangs = values
        level.limit, level.good, level.answer_s = float(limit), float(good), float(answer_s)
        if not all(math.isfinite(v) and v > 0 for v in (level.limit, level.good, level.answer_s)):
            raise ValueError("a limit is a number above zero")
        level.quiet_s, level.cut_s, level.hold_until_s = float(quiet_s), float(cut_s), float(hold_until_s)
        level.heard_s = None if heard_s is None else float(heard_s)
        level.bad, level.probe_wait_s = int(bad), float(probe_wait_s)
        level.open_since_s = None if open_since_s is None else float(open_since_s)
        if named is not None:
            number, heard, sent = named
            level.named = (int(number), float(heard), float(sent))
        level.recall_s, level.recall_sent_s = float(recall_s), float(recall_sent_s)
        level.no_recall_until_s = float(no_recall_until_s)
        level.noise = Noise.from_list(noise, tuning)
        level.hangs = Hangs.from_list(hangs)
        return level
