"""Hang up on a request that says nothing, gets nowhere, or takes for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

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


class Watchdog:
    """Ends the block it guards with :class:`WentSilent` when a limit passes. One timer, whatever the traffic.

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
        self._timer: asyncio.TimerHandle | None = None

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

    def _look(self, turns: int = TURNS) -> None:
        now = self._loop.time()
        due_s, why = self._due()
        if self._repeat_due is not None and self._byte_s is None:
            if self._repeat_due():
                due_s, why = now, "alone"
            else:
                due_s = min(due_s, now + self.limits.silence_s / LOOKS)
        if due_s > now:
            self._timer = self._loop.call_at(due_s, self._look)
        elif turns:  # the loop may be held up, and what came lie unread: let it read first
            self._timer = self._loop.call_later(TURN_S, self._look, turns - 1)
        else:
            said = WORDS[why].format(getattr(self.limits, why, 0.0))
            self.hang_up(WentSilent(f"We hung up: {said}.", hint="Running it again usually works."))

    async def __aenter__(self) -> Watchdog:
        await self._timeout.__aenter__()
        self._look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            assert self._why is not None  # noqa: S101 (nothing else ends it)
            raise self._why from None
