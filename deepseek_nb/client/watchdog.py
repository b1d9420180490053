"""Hang up on a request that says nothing, gets nowhere, or takes for ever."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from weakref import WeakKeyDictionary

from deepseek_nb.core.errors import DeepSeekError, WentSilent

__all__ = ["Limits", "Watchdog"]

LOOKS = 30
"""How often within ``silence_s`` to look whether a silent request should be repeated."""

TURNS, TURN_S = 16, 0.002
"""Turns of the event loop that a limit which has passed gives it to read what may lie there.

Connecting, sending and reading take some turns each; where a hundred answers come at once, or the
kernel's cell keeps the processor, a turn can take longer than a short limit.
"""


WORDS = {
    "silence_s": "the server was silent for {:g} s",
    "first_byte_s": "the server said nothing for {:g} s",
    "first_token_s": "no answer began for {:g} s",
    "token_s": "the answer stood still for {:g} s",
    "total_s": "the answer was not complete after {:g} s",
    "alone": "it was silent for far longer than others, and nothing else is left to send",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each kind of nothing may last, in seconds.

    A read timeout would be no use: every keep-alive byte resets it.
    """

    silence_s: float = 30.0
    """Without a byte of any kind, keep-alives included."""
    first_byte_s: float = 1800.0
    """From sending to the first byte of any kind, where that is less than ``silence_s``."""
    first_token_s: float = 660.0
    """From sending to the first piece of the answer: the server may hold a request for ten minutes."""
    token_s: float = 120.0
    """Between two pieces of the answer."""
    total_s: float = 1800.0
    """For the whole request."""


class _Rounds:
    """Looks after all watchdogs of one event loop with one timer: a request costs none of its own."""

    def __init__(self) -> None:
        self._on_duty: dict[Watchdog, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_s = math.inf

    def begin(self, dog: Watchdog, look_s: float) -> None:
        self._on_duty[dog] = None
        if look_s < self._next_s:
            self._look_at(look_s)

    def end(self, dog: Watchdog) -> None:
        self._on_duty.pop(dog, None)
        if not self._on_duty:
            self._rest()

    def _look_at(self, look_s: float) -> None:
        self._rest()
        self._timer, self._next_s = asyncio.get_running_loop().call_at(look_s, self._round), look_s

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._next_s = None, math.inf  # it would keep its loop alive

    def _round(self) -> None:
        self._rest()
        now = asyncio.get_running_loop().time()
        look_s = min([dog.look(now) for dog in list(self._on_duty)], default=math.inf)
        if look_s < math.inf:
            self._look_at(look_s)


_rounds: WeakKeyDictionary[asyncio.AbstractEventLoop, _Rounds] = WeakKeyDictionary()


class Watchdog:
    """Ends the block it guards with :class:`WentSilent` when a limit passes. One timer for all of a loop.

    Tell it ``byte()`` for each read and ``token()`` for each piece of the answer. ``repeat_due``
    tells whether a request without any byte should be given up before its time, as a job's last one.
    """

    def __init__(self, limits: Limits, repeat_due: Callable[[], bool] | None = None) -> None:
        self.limits = limits
        self._repeat_due = repeat_due
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._started_s = self._loop.time()
        self._byte_s: float | None = None
        self._token_s: float | None = None
        self._why: DeepSeekError | None = None
        self._turns = TURNS
        rounds = _rounds.get(self._loop)
        self._rounds = rounds or _rounds.setdefault(self._loop, _Rounds())

    def byte(self) -> None:
        """Something came."""
        self._byte_s = self._loop.time()

    def token(self) -> None:
        """The answer moved on."""
        self._token_s = self._loop.time()

    def hang_up(self, why: DeepSeekError) -> None:
        """End the guarded block with ``why``, now."""
        if self._why is None:
            self._why = why
            self._timeout.reschedule(self._loop.time())

    def _due(self) -> tuple[float, str]:
        """When which limit passes, the next one: its name in :class:`Limits`."""
        limits, started_s = self.limits, self._started_s
        if self._token_s is None:
            progress = (started_s + limits.first_token_s, "first_token_s")
        else:
            progress = (self._token_s + limits.token_s, "token_s")
        if self._byte_s is not None:
            silence = (self._byte_s + limits.silence_s, "silence_s")
        else:
            silence = min(
                (started_s + limits.silence_s, "silence_s"), (started_s + limits.first_byte_s, "first_byte_s")
            )
        return min(silence, progress, (started_s + limits.total_s, "total_s"))

    def look(self, now: float) -> float:
        """Hang up if it is time to; gives when to look again, infinity for never."""
        due_s, why = self._due()
        if self._repeat_due is not None and self._byte_s is None:
            if self._repeat_due():
                due_s, why = now, "alone"
            else:
                due_s = min(due_s, now + self.limits.silence_s / LOOKS)
        if due_s > now:
            self._turns = TURNS
            # a first token may come right now, and its limit be shorter than those that run
            return due_s if self._token_s is not None else min(due_s, now + self.limits.token_s)
        if self._turns:  # the loop may be held up, and what came lie unread: let it read first
            self._turns -= 1
            return now + TURN_S
        said = WORDS[why].format(getattr(self.limits, why, 0.0))
        self.hang_up(WentSilent(f"We hung up: {said}.", hint="Running it again usually works."))
        return math.inf

    async def __aenter__(self) -> Watchdog:
        await self._timeout.__aenter__()
        limits, first_s = self.limits, self._started_s
        if self._repeat_due is not None:
            first_s = self.look(first_s)
        else:
            first_s += min(
                *(limits.silence_s, limits.first_byte_s, limits.first_token_s, limits.token_s, limits.total_s)
            )
        self._rounds.begin(self, first_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rounds.end(self)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            assert self._why is not None  # noqa: S101 (nothing else ends it)
            raise self._why from None
