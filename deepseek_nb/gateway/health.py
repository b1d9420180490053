"""How each upstream does: by what happens to the calls that reach it, and by probes of one that is down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from deepseek_nb.core.errors import AuthError, BalanceExhausted, Busy, DeepSeekError, NeverConnected
from deepseek_nb.core.events import CallEvent, cause
from deepseek_nb.gateway.logs import log_event

__all__ = ["Health", "Prober", "UpstreamHealth", "Watch"]

FAILING_AFTER = 3
"""So many failures in a row, and an upstream is called failing; as many faults, and it is down."""

PROBE_WITHIN_S = 2.0
"""A probe that takes longer has failed."""

REST_MOST = 16
"""An upstream that passes its probes and fails again is probed so many times less often at most."""

STEADY_S = 60.0
"""One that went down again within this time of its return is taken for one that only passes probes."""


@dataclass(slots=True)
class UpstreamHealth:
    """One upstream. Times are the loop's seconds; None: never."""

    name: str
    answers: int = 0
    failures: int = 0
    """Faults: errors, broken answers, silence. Refusals are not among them."""
    refusals: int = 0
    """Times it had no room (429, 503)."""
    in_a_row: int = 0
    """Faults and refusals since it last began an answer."""
    faults_in_a_row: int = 0
    """The faults among them, since a probe succeeded."""
    down_since_s: float | None = None
    """Since when it is asked last of all; None while it is in use."""
    probes: int = 0
    rest: int = 1
    """How many rounds of probing pass between two probes of it."""
    last_answer_s: float | None = None
    last_trouble_s: float | None = None
    last_trouble: str = ""
    """In a few words of our own."""
    back_s: float | None = None
    """When a probe last brought it back."""

    @property
    def down(self) -> bool:
        """Whether it is asked only when no other can."""
        return self.down_since_s is not None

    @property
    def state(self) -> str:
        """One of "unused", "up", "shaky" (trouble since its last answer), "failing", "down"."""
        if self.down:
            return "down"
        if not self.in_a_row:
            return "up" if self.answers else "unused"
        return "failing" if self.in_a_row >= FAILING_AFTER else "shaky"


class Health:
    """All upstreams, the first one first."""

    def __init__(self, names: Sequence[str]) -> None:
        self.upstreams = {name: UpstreamHealth(name) for name in names}
        self.went_down: Callable[[], None] = lambda: None
        """Called when one goes down."""

    def well(self, name: str, at_s: float) -> None:
        """It began an answer."""
        if (one := self.upstreams.get(name)) is not None:
            one.answers += 1
            one.in_a_row = one.faults_in_a_row = 0
            one.last_answer_s = at_s
            self._is_up(one)

    def trouble(self, name: str, error: DeepSeekError, at_s: float) -> None:
        """It refused, or failed. What is the caller's own fault is no trouble."""
        one = self.upstreams.get(name)
        if one is None or not error.retryable or error.charged == "yes":
            return
        one.in_a_row += 1
        one.last_trouble_s, one.last_trouble = at_s, cause(error)
        if isinstance(error, Busy):
            one.refusals += 1
            return
        one.failures += 1
        one.faults_in_a_row += 1
        if one.faults_in_a_row >= FAILING_AFTER or isinstance(error, NeverConnected):
            self._goes_down(one, at_s)

    def barred(self, name: str, error: DeepSeekError, at_s: float) -> None:
        """Its account is closed to us: the key is refused, or the balance is empty."""
        one = self.upstreams[name]
        one.in_a_row += 1
        one.failures += 1
        one.last_trouble_s = at_s
        one.last_trouble = "empty balance" if isinstance(error, BalanceExhausted) else "key refused"
        self._goes_down(one, at_s)

    def _goes_down(self, one: UpstreamHealth, at_s: float) -> None:
        if one.down:
            return
        again = one.back_s is not None and at_s - one.back_s < STEADY_S
        one.rest = min(2 * one.rest, REST_MOST) if again else 1
        one.down_since_s = at_s
        log_event("upstream", trouble=True, upstream=one.name, state="down", why=one.last_trouble)
        self.went_down()

    @staticmethod
    def _is_up(one: UpstreamHealth) -> None:
        if one.down:
            one.down_since_s = None
            log_event("upstream", upstream=one.name, state="back")

    def back(self, name: str, at_s: float) -> None:
        """A probe of it succeeded: it is in use again."""
        one = self.upstreams[name]
        one.faults_in_a_row, one.back_s = 0, at_s
        self._is_up(one)


class Prober:
    """Asks each upstream that is down for its list of models, every ``every_s`` seconds, until it answers.

    ``ask(name)`` asks; an error that a living server gives is an answer, too, but for a refused key.
    What only passes probes is probed less and less often.
    """

    def __init__(self, health: Health, ask: Callable[[str], Awaitable[object]], every_s: float) -> None:
        self._health = health
        self._ask = ask
        self._every_s = every_s
        self._wake = asyncio.Event()
        health.went_down = self._wake.set
        self._work = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Stop."""
        self._work.cancel()
        await asyncio.wait([self._work])

    async def _run(self) -> None:
        rounds = 0
        while True:
            down = [one for one in self._health.upstreams.values() if one.down]
            if not down:
                self._wake.clear()
                await self._wake.wait()
                continue
            rounds += 1
            due = [one for one in down if rounds % one.rest == 0]
            await asyncio.gather(*(self._probe(one) for one in due))
            await asyncio.sleep(self._every_s)

    async def _probe(self, one: UpstreamHealth) -> None:
        one.probes += 1
        try:
            async with asyncio.timeout(PROBE_WITHIN_S):
                await self._ask(one.name)
        except TimeoutError:
            return
        except DeepSeekError as error:
            if isinstance(error, AuthError) or (error.retryable and not isinstance(error, Busy)):
                return
        self._health.back(one.name, asyncio.get_running_loop().time())


class Watch:
    """Follows one call from upstream to upstream: a listener for its events."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self.upstream = next(iter(health.upstreams))
        """Where it is asked, or was asked last."""
        self.asked = False
        """Whether it was sent to an upstream for this call, and not only for an equal one."""
        self.sent_s = 0.0
        """When it was last sent, by the loop's clock."""
        self.began = False
        """Whether an upstream began an answer: what comes without is from the store."""

    def __call__(self, event: CallEvent) -> None:
        """Take one event."""
        if event.error is not None:  # of a fallback too, which names the upstream after it
            self._health.trouble(self.upstream, event.error, event.at_s)
        if event.route:
            self.upstream = event.route
        if event.kind == "sent":
            self.asked, self.sent_s = True, event.at_s
        if event.kind == "first_token":
            self.began = True
            self._health.well(event.route, event.at_s)
