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
       └─ Wait ┘  charged (or keep the reservation where nothing was), then once more
               └─ otherwise: Settle or Release ─► Fail

Rules of this room, each a property test over event sequences:

* no Send after a hit, and none without an open reservation;
* each Reserve ends in exactly one Settle or Release, also when the caller interrupts;
* an answer is stored before it is settled and before it is finished: whoever is killed in
  between has the answer and an overstated bill, never a paid answer lost;
* a charged answer that cannot be used is stored too (under ``key~1``, ``key~2``): paid is kept;
* the sum of the waits stays within the patience;
* refusals are not tries: only sends the server began to work on are counted; and a fault while
  the server is known to be down does not use up the request's own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from deepseek_nb.core.chat import Answer, ChatRequest, Usage
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
    "Finish",
    "Hit",
    "Interrupted",
    "LookUp",
    "Missed",
    "Release",
    "Reserve",
    "Send",
    "Settle",
    "Store",
    "Wait",
]

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
    """Wait for a place. ``again``: it had one and was refused, so it goes to the front. Answer: Admitted."""

    again: bool


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
class Finish:
    """The end: here is the answer."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Fail:
    """The end: raise this."""

    error: DeepSeekError | None
    """None where the caller interrupted: the driver's own exception goes on."""


Command = LookUp | Reserve | Admit | Send | Store | Settle | Release | Wait | Finish | Fail

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
class Failed:
    """No usable answer. ``wait_s``: what admission asks to wait before the next try (refusals).

    ``counted`` is False for a fault that is not this request's: the server was known to be down.
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


Event = Hit | Missed | Denied | Admitted | Answered | Failed | Done | Interrupted

Story = Generator[Command, tuple[Event, float], None]


class Call:
    """The life of one request: feed it events with the time in seconds, it says what to do next.

    ``look_up=False`` skips the look-up (somebody has looked), ``keep=False`` the store. ``rng`` gives
    numbers in [0, 1).

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
        keep: bool = True,
    ) -> None:
        self.request = request
        self.key = key
        self.policy = policy
        self.rng = rng
        self.look_up = look_up
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
        self._story = self._tell()

    def start(self, now: float) -> Command:
        """The first command."""
        self._started_s = now
        return next(self._story)

    def next(self, event: Event, now: float) -> Command:
        """What to do after ``event``."""
        return self._story.send((event, now))

    # ------------------------------------------------------------------------------------- the story

    def _tell(self) -> Story:
        if self.look_up:
            event, _ = yield LookUp(self.key)
            if isinstance(event, Hit):
                yield Finish(event.answer)
                return
            if isinstance(event, Interrupted):
                yield Fail(None)
                return
        request, again = self.request, False
        while True:
            if not self._reserved:
                event, _ = yield Reserve(request)
                if isinstance(event, Denied):
                    yield Fail(event.error)
                    return
                if isinstance(event, Interrupted):  # while it waited for room: nothing was set aside
                    yield Fail(None)
                    return
                self._reserved = True
            event, _ = yield Admit(again)
            if isinstance(event, Interrupted):
                yield from self._end(Fail(None), None)
                return
            event, now = yield Send(request, self.tries + 1)
            if isinstance(event, Answered):
                yield from self._keep(event.answer, now)
                return
            if isinstance(event, Interrupted):
                yield from self._end(Fail(None), event.usage)
                return
            assert isinstance(event, Failed)  # noqa: S101 (the driver's contract)
            wait = yield from self._account(event, now)
            if wait is None:
                return
            event, _ = yield wait
            if isinstance(event, Interrupted):
                yield from self._end(Fail(None), None)
                return
            if wait.error.disposition is Disposition.REPAIR and isinstance(wait.error, AnswerInvalid):
                request = repaired(self.request, wait.error, self.repairs)
            again = True

    def _keep(self, answer: Answer, now: float) -> Story:
        """A good answer: commit it, book it, hand it over."""
        self.tries += 1
        answer = replace(
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

    def _account(self, failed: Failed, now: float) -> Generator[Command, tuple[Event, float], Wait | None]:
        """A failed try: book it, keep what was paid, and decide between waiting and giving up."""
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
        if isinstance(error, AnswerInvalid) and isinstance(error.answer, Answer):
            self.unusable.append(error.answer)
            if self.keep:
                yield Store(f"{self.key}~{len(self.unusable)}", error.answer)
        if error.charged != "no":
            usage = failed.usage or Usage(estimated=True)
            self.spent += usage
            self._reserved = False
            yield Settle(usage, certain=error.charged == "yes")
        waited_s = now - self._started_s
        if self.policy.gives_up(
            error, faults=self.faults, repairs=self.repairs, waited_s=waited_s, wait_s=wait_s
        ):
            yield from self._end(Fail(self._last_word(error, waited_s)), None)
            return None
        self.waited_s += wait_s
        left_s = None if self.policy.patience_s is None else self.policy.patience_s - waited_s - wait_s
        return Wait(wait_s, error, self.tries, self.refusals, left_s)

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
