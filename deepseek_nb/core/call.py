"""One request's life, as a pure story: this room decides, the client obeys.

The driver (``client``) carries out one command at a time and answers each with one event::

    LookUp ──hit──────────────────────────────────────────────► Finish
       │miss
       ▼
    Reserve ──denied─────────────────────────────────────────► Fail
       ▼
    Admit ─► Send ──complete──► Store ─► Settle ─► Finish
       ▲       │
       │       ├─ refused, broke, unusable and patience left: Settle what may have been
       └─ Wait ┤  charged (or keep the reservation where nothing was), then once more
               ├─ this route kept us waiting for too long and there is another: Settle or
               │  Release, FallBack, and from the top on that leg, under its own key
               └─ otherwise: Settle or Release ─► Fail

Rules of this room, each a property test over event sequences:

* no Send after a hit, and none without an open reservation;
* each Reserve ends in exactly one Settle or Release, also when the caller interrupts;
* an answer is stored before it is settled and before it is finished: whoever is killed in
  between has the answer and an overstated bill, never a paid answer lost;
* a charged answer that cannot be used is stored too (under ``key~1``, ``key~2``): paid is kept;
* the sum of the waits stays within the patience;
* refusals are not tries: only sends the server began to work on are counted; and a fault while
  the server is known to be down does not use up the request's own;
* another leg is taken only where the trouble is the server's (busy, down, broken): a wrong key, an
  empty account or a refused text is not mended by asking elsewhere; after the last leg comes the
  first again, as long as the patience lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from deepseek_nb.core.chat import Answer, ChatRequest, Usage
from deepseek_nb.core.copies import changed
from deepseek_nb.core.errors import AnswerInvalid, DeepSeekError, Disposition
from deepseek_nb.core.retry import RetryPolicy, repaired

__all__ = [
    "Admit",
    "Admitted",
    "Answered",
    "Call",
    "Command",
    "Denied",
    "Done",
    "Event",
    "Fail",
    "Failed",
    "FallBack",
    "Finish",
    "Hit",
    "Interrupted",
    "Leg",
    "LookUp",
    "Missed",
    "Release",
    "Reserve",
    "Returned",
    "Send",
    "Settle",
    "Store",
    "Wait",
]


@dataclass(frozen=True, slots=True)
class Leg:
    """One of the routes a question may take: what is asked there, under which key."""

    request: ChatRequest
    key: str
    failover_s: float | None = None
    """How long it may keep the call without an answer before the next leg is tried; None: no end."""
    upstream: str = ""
    """The driver's name for the server that is asked; empty: the client's own."""


# ------------------------------------------------------------------- what the driver is told to do


@dataclass(frozen=True, slots=True)
class LookUp:
    """Look the key up in the store. Answer: Hit or Missed."""

    key: str


@dataclass(frozen=True, slots=True)
class Reserve:
    """Set money aside for the dearest outcome of this request. Answer: Done or Denied."""

    request: ChatRequest


@dataclass(frozen=True, slots=True)
class Admit:
    """Wait for a place. ``again``: it had one and was refused, so it goes to the front.

    Answer: Admitted, or Returned, with one of the ``earlier`` legs.
    """

    again: bool
    earlier: tuple[int, ...] = ()
    """The legs before this one where it may be asked as well, should their servers be up again first."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send it and read the answer to its end. Answer: Answered or Failed."""

    request: ChatRequest
    tries: int


@dataclass(frozen=True, slots=True)
class Store:
    """Commit the answer to disk. Answer: Done, after the commit."""

    key: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Settle:
    """Book a cost and end its reservation; not ``certain``: assume it was billed. Answer: Done."""

    usage: Usage
    certain: bool


@dataclass(frozen=True, slots=True)
class Release:
    """End a reservation that cost nothing. Answer: Done."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait, and say why. Answer: Done."""

    wait_s: float
    error: DeepSeekError
    tries: int
    refusals: int
    left_s: float | None
    """Seconds of patience that remain after this wait; None: no end."""


@dataclass(frozen=True, slots=True)
class FallBack:
    """Go on with this leg: what follows is asked there. Answer: Done."""

    leg: int
    error: DeepSeekError
    """Why the leg before was given up."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The end: here is the answer."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Fail:
    """The end: raise this."""

    error: DeepSeekError | None
    """None where the caller interrupted: the driver's own exception goes on."""


Command = LookUp | Reserve | Admit | Send | Store | Settle | Release | Wait | FallBack | Finish | Fail

# --------------------------------------------------------------------------- what the driver answers


@dataclass(frozen=True, slots=True)
class Hit:
    """The store has it."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Missed:
    """The store does not have it."""


@dataclass(frozen=True, slots=True)
class Denied:
    """The budget has no room."""

    error: DeepSeekError


@dataclass(frozen=True, slots=True)
class Admitted:
    """A place is ours."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A complete, usable answer."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Returned:
    """A place at this earlier leg came first, and what was reserved is reserved for that leg now."""

    leg: int


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable answer. ``wait_s``: what admission asks to wait before the next try (refusals).

    ``counted`` is False for a fault that is not this request's: the server was known to be down.
    Also the answer to Admit where this leg's server seems to be down and another leg's does not.
    """

    error: DeepSeekError
    usage: Usage | None = None
    wait_s: float = 0.0
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Done:
    """It is done."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The caller went away. ``usage``: tokens that may have been charged if a request was under way."""

    usage: Usage | None = None


Event = Hit | Missed | Denied | Admitted | Returned | Answered | Failed | Done | Interrupted

Story = Generator[Command, tuple[Event, float], None]


class Call:
    """The life of one request: feed it events with the time in seconds, it says what to do next.

    ``look_up=False`` skips the look-ups, ``looked`` the first one (somebody has looked), ``keep=False`` the
    store. ``rng`` gives
    numbers in [0, 1). ``upstream`` is the driver's name for the server of the first leg; ``fallbacks`` are
    the legs after it, in order.

    >>> call = Call(request, key="...", policy=RetryPolicy(), rng=lambda: 0.5)   # doctest: +SKIP
    >>> call.start(0.0)                                                          # doctest: +SKIP
    LookUp(key='...')
    """

    def __init__(
        self,
        request: ChatRequest,
        *,
        key: str,
        policy: RetryPolicy,
        rng: Callable[[], float],
        look_up: bool = True,
        looked: bool = False,
        keep: bool = True,
        failover_s: float | None = None,
        upstream: str = "",
        fallbacks: Sequence[Leg] = (),
    ) -> None:
        self.legs = (Leg(request, key, failover_s, upstream), *fallbacks)
        self.leg = 0
        self.policy = policy
        self.rng = rng
        self.look_up = look_up
        self.looked = looked
        self.keep = keep
        self.tries = 0  # sends the server began to work on
        self.refusals = 0
        self.faults = 0
        self.repairs = 0
        self.waited_s = 0.0
        self.spent = Usage()  # certain and assumed, without the final answer
        self.unusable: list[Answer] = []
        self._reserved = False
        self._started_s = 0.0
        self._leg_since_s = 0.0
        self._laps = 0  # times the last leg failed too
        self._faults_at: dict[int, int] = {}  # of the legs that were left in the first lap
        self._story = self._tell()

    @property
    def request(self) -> ChatRequest:
        """What is asked on this leg, as it was first asked."""
        return self.legs[self.leg].request

    @property
    def key(self) -> str:
        """Under which its answer is kept."""
        return self.legs[self.leg].key

    def start(self, now: float) -> Command:
        """The first command."""
        self._started_s = self._leg_since_s = now
        return next(self._story)

    def next(self, event: Event, now: float) -> Command:
        """What to do after ``event``; after the last word there is nothing more to ask."""
        command = self._story.send((event, now))
        if isinstance(command, (Finish, Fail)):
            self._story.close()  # else the two hold one another until the garbage collector comes
        return command

    # ------------------------------------------------------------------------------------- the story

    def _tell(self) -> Story:
        while True:
            if self.look_up and not self.looked:
                event, _ = yield LookUp(self.key)
                if isinstance(event, Hit):
                    yield Finish(event.answer)
                    return
                if isinstance(event, Interrupted):
                    yield Fail(None)
                    return
            self.looked = False
            error = yield from self._ask_here()
            if error is None:
                return
            if self.leg + 1 < len(self.legs):
                self._turn_to(self.leg + 1)
            else:
                self.leg = 0
            event, now = yield FallBack(self.leg, error)
            if not isinstance(event, Interrupted) and self.leg == 0:
                event, now = yield from self._rest(error, now)
            if isinstance(event, Interrupted):
                yield Fail(None)
                return
            if isinstance(event, Failed):
                yield Fail(self._last_word(event.error, now - self._started_s))
                return
            self._leg_since_s = now

    def _turn_to(self, leg: int) -> None:
        """Go on with ``leg``. Until the last one has failed too, each has a count of faults of its own."""
        if self._laps == 0:
            self._faults_at[self.leg] = self.faults
            self.faults = self._faults_at.get(leg, 0)
        self.leg = leg

    def _earlier(self, request: ChatRequest) -> tuple[int, ...]:
        """Where ``request`` may go back to: nowhere, where it is the repair of an answer that came here."""
        if request is not self.request:
            return ()
        most = self.policy.max_faults
        return tuple(leg for leg in range(self.leg) if self._faults_at.get(leg, 0) <= most)

    def _rest(
        self, error: DeepSeekError, now: float
    ) -> Generator[Command, tuple[Event, float], tuple[Event, float]]:
        """A pause after the last leg, before the first is tried again; Failed where the patience is over."""
        self._laps += 1
        wait_s = self.policy.fault_wait_s(self._laps, error, self.rng)
        waited_s = now - self._started_s
        if self.policy.patience_s is not None and waited_s + wait_s > self.policy.patience_s:
            return Failed(error), now
        return (yield self._waiting(wait_s, error, waited_s))

    def _ask_here(self) -> Generator[Command, tuple[Event, float], DeepSeekError | None]:
        """Ask on this leg. Gives None when the story has ended, or why to go on with the next leg."""
        request, again = self.request, False
        while True:
            if not self._reserved:
                event, _ = yield Reserve(request)
                if isinstance(event, Denied):
                    yield Fail(event.error)
                    return None
                if isinstance(event, Interrupted):  # while it waited for room: nothing was set aside
                    yield Fail(None)
                    return None
                self._reserved = True
            event, now = yield Admit(again, self._earlier(request) if self.leg else ())
            if isinstance(event, Interrupted):
                yield from self._end(Fail(None), None)
                return None
            if isinstance(event, Failed):  # it seems to be down here, and another leg is not
                yield from self._release()
                return event.error
            if isinstance(event, Returned):
                self._turn_to(event.leg)
                self._leg_since_s, request = now, self.request
            event, now = yield Send(request, self.tries + 1)
            if isinstance(event, Answered):
                yield from self._keep(event.answer, now)
                return None
            if isinstance(event, Interrupted):
                yield from self._end(Fail(None), event.usage)
                return None
            assert isinstance(event, Failed)  # noqa: S101 (the driver's contract)
            wait = yield from self._account(event, now)
            if not isinstance(wait, Wait):
                return wait
            event, _ = yield wait
            if isinstance(event, Interrupted):
                yield from self._end(Fail(None), None)
                return None
            if wait.error.disposition is Disposition.REPAIR and isinstance(wait.error, AnswerInvalid):
                request = repaired(self.request, wait.error, self.repairs, self.policy.most_tokens)
            again = True

    def _keep(self, answer: Answer, now: float) -> Story:
        """A good answer: commit it, book it, hand it over."""
        self.tries += 1
        answer = changed(
            answer,
            attempts=self.tries,
            refusals=self.refusals,
            repairs=self.repairs,
            latency_s=now - self._started_s,
            fingerprint=self.key,
            raw=tuple(bad.text for bad in self.unusable),
        )
        if self.keep:
            yield Store(self.key, answer)
        yield from self._end(Finish(answer), answer.usage, certain=True)

    def _account(
        self, failed: Failed, now: float
    ) -> Generator[Command, tuple[Event, float], Wait | DeepSeekError | None]:
        """A failed try: book it, keep what was paid, and decide: wait, take another leg, or give up.

        Gives the wait, the reason for another leg, or None when the story has ended.
        """
        error = failed.error
        if error.disposition is Disposition.REFUSED:
            self.refusals += 1
            wait_s = failed.wait_s
        else:
            self.tries += error.charged != "no" or error.disposition is Disposition.RETRY
            self.faults += error.disposition is Disposition.RETRY and failed.counted
            self.repairs += error.disposition is Disposition.REPAIR
            wait_s = 0.0
            if error.disposition is Disposition.RETRY:
                wait_s = self.policy.fault_wait_s(max(1, self.faults), error, self.rng)
        stored: Event = Done()
        booked: Event = Done()
        if isinstance(error, AnswerInvalid) and isinstance(error.answer, Answer):
            self.unusable.append(error.answer)
            if self.keep:
                stored, _ = yield Store(f"{self.key}~{len(self.unusable)}", error.answer)
        if error.charged != "no":
            usage = failed.usage or Usage(estimated=True)
            self.spent += usage
            self._reserved = False
            booked, _ = yield Settle(usage, certain=error.charged == "yes")
        if Interrupted in (type(stored), type(booked)):  # while what was paid is kept: nothing more is sent
            yield from self._end(Fail(None), None)
            return None
        waited_s = now - self._started_s
        if self._leaves(error, now, wait_s, waited_s):
            yield from self._release()  # another leg has another price
            return error
        if self.policy.gives_up(
            error, faults=self.faults, repairs=self.repairs, waited_s=waited_s, wait_s=wait_s
        ):
            yield from self._end(Fail(self._last_word(error, waited_s)), None)
            return None
        return self._waiting(wait_s, error, waited_s)

    def _waiting(self, wait_s: float, error: DeepSeekError, waited_s: float) -> Wait:
        self.waited_s += wait_s
        left_s = None if self.policy.patience_s is None else self.policy.patience_s - waited_s - wait_s
        return Wait(wait_s, error, self.tries, self.refusals, left_s)

    def _release(self) -> Generator[Command, tuple[Event, float], None]:
        """End the open reservation, if there is one, as one that cost nothing."""
        if self._reserved:
            self._reserved = False
            yield Release()

    def _leaves(self, error: DeepSeekError, now: float, wait_s: float, waited_s: float) -> bool:
        """Whether the next leg is to be tried, rather than this one again."""
        if len(self.legs) == 1 or error.disposition not in (Disposition.REFUSED, Disposition.RETRY):
            return False
        if self.policy.patience_s is not None and waited_s > self.policy.patience_s:
            return False
        failover_s = self.legs[self.leg].failover_s
        if self.faults > self.policy.max_faults:  # on the last leg that is the end
            return self.leg + 1 < len(self.legs)
        return failover_s is not None and now - self._leg_since_s + wait_s > failover_s

    def _end(self, last: Command, usage: Usage | None, *, certain: bool = False) -> Story:
        """Close the reservation if one is open, then say the last word."""
        if self._reserved:
            self._reserved = False
            yield Release() if usage is None else Settle(usage, certain)
        yield last

    def _last_word(self, error: DeepSeekError, waited_s: float) -> DeepSeekError:
        """The error as the caller sees it: with what was tried, and every text that was paid for."""
        error.tries, error.refusals = self.tries, self.refusals  # type: ignore[attr-defined]
        error.raw = tuple(bad.text for bad in self.unusable)  # type: ignore[attr-defined]
        if error.retryable and self.tries + self.refusals > 1:
            tried = f"{self.tries + self.refusals} times in {waited_s:.0f} s"
            error.message = f"{error.message.rstrip('.')} (asked {tried})."
            error.args = (error.message,)
        return error
