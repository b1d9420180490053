"""How much a tenant may ask: so many requests in a second, and so many questions at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from deepseek_nb.gateway.config import Tenant
from deepseek_nb.gateway.refusals import ApiError

__all__ = ["Quota", "TokenBucket"]

BURST_S = 1.0
"""A tenant that was quiet may ask as much at once as in this time."""


class TokenBucket:
    """``rate_per_s`` tokens come each second, up to ``most`` (one second's worth, at least one).

    Times are a monotonic clock's.

    >>> bucket = TokenBucket(2.0)
    >>> [bucket.take(0.0) for _ in range(3)]       # two at once, then one each half second
    [0.0, 0.0, 0.5]
    >>> bucket.take(0.5)
    0.0
    """

    def __init__(self, rate_per_s: float) -> None:
        self.rate_per_s = rate_per_s
        self.most = max(1.0, rate_per_s * BURST_S)
        self._left = self.most
        self._at_s = float("-inf")

    def take(self, now: float) -> float:
        """Take a token and give 0, or take nothing and give the seconds until one is there."""
        self._left = min(self.most, self._left + (now - self._at_s) * self.rate_per_s)
        self._at_s = now
        if self._left >= 1.0 - 1e-9:
            self._left -= 1.0
            return 0.0
        return (1.0 - self._left) / self.rate_per_s

    def owe(self, count: int) -> None:
        """Take so many tokens more, there or not: whoever comes next waits for them."""
        self._left -= count


class Quota:
    """What one tenant may ask now. In one event loop."""

    def __init__(self, tenant: Tenant, clock: Callable[[], float]) -> None:
        self.tenant = tenant
        self._clock = clock
        self._bucket = TokenBucket(tenant.requests_per_second)
        self._places = asyncio.Semaphore(tenant.concurrent)
        self.in_flight = 0

    def count(self) -> None:
        """Count a request; raises a 429 that says when the next one fits."""
        wait_s = self._bucket.take(self._clock())
        if wait_s:
            raise ApiError(
                429,
                f"More than {self.tenant.requests_per_second:g} requests per second.",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                retry_after_s=wait_s,
            )

    async def turn(self) -> None:
        """Wait until one more request fits into the second, and count it."""
        while wait_s := self._bucket.take(self._clock()):  # noqa: ASYNC110 (time alone fills it)
            await asyncio.sleep(wait_s)

    def charge(self, questions: int) -> None:
        """Count the further questions of a batch that was let in."""
        self._bucket.owe(questions)

    @asynccontextmanager
    async def place(self, *, wait: bool = False) -> AsyncIterator[None]:
        """A place for one question in flight. Raises a 429 where all are taken, or with ``wait`` waits.

        That 429 names no time: nobody knows when a question ends.
        """
        if self._places.locked() and not wait:
            raise ApiError(
                429,
                f"More than {self.tenant.concurrent} questions at once.",
                kind="rate_limit_error",
                code="concurrency_limit_exceeded",
            )
        async with self._places:
            self.in_flight += 1
            try:
                yield
            finally:
                self.in_flight -= 1
