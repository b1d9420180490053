"""What every drive shares: the upstreams, the store, the prices, the listeners."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.client.upstreams import Upstream
from deepseek_nb.core.errors import DeepSeekError, StoreFailed
from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.prices import Price, PriceTable
from deepseek_nb.core.secret import Secret

__all__ = ["Means", "price_at"]

FREE = Price(0.0, 0.0, 0.0)


def price_at(upstream: Upstream, prices: PriceTable, model: str, now_utc: datetime) -> Price | None:
    """What ``model`` costs at ``upstream`` at that time; None where no price is known."""
    known = upstream.price or prices.find(model, now_utc)
    return FREE if known is None and upstream.free else known


class Means:
    """The means of one client, in one event loop. ``listeners`` are told what happens to each call.

    ``upstream`` gives a server by its name; ``""`` is the client's own.
    """

    def __init__(
        self,
        *,
        upstream: Callable[[str], Upstream],
        store: AnswerStore | None,
        prices: PriceTable,
        require_credentials: Callable[[], None] = lambda: None,
        secrets: Collection[Secret] = (),
        rng: Callable[[], float] = random.random,
        now_utc: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.upstream = upstream
        self.store = store
        self.prices = prices
        self.require_credentials = require_credentials
        """Raises ConfigError where the client's own server could not be asked. The store needs no key."""
        self.secrets = secrets
        self.rng = rng
        self.now_utc = now_utc
        self.listeners: list[Callable[[CallEvent], None]] = []
        self.not_saved: StoreFailed | None = None
        """Why answers that were paid for could not be written to disk; None while all is well."""
        self._priced: tuple[object, Price | None] = (None, None)
        self._settled: asyncio.Event | None = None  # while somebody waits for budget
        self._numbers = itertools.count(1)

    def price(self, upstream: Upstream, model: str) -> Price | None:
        """What ``model`` costs there now; None where no price is known."""
        now = self.now_utc()
        asked = (upstream, model, now.replace(second=0, microsecond=0))  # prices change on the minute
        if asked != self._priced[0]:
            self._priced = (asked, price_at(upstream, self.prices, model, now))
        return self._priced[1]

    def new_reservation(self) -> int:
        """A name for one reservation."""
        return next(self._numbers)

    def announce_settled(self) -> None:
        """Wake those who wait for budget."""
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    async def settled(self) -> None:
        """Wait until some reservation has ended."""
        if self._settled is None:
            self._settled = asyncio.Event()
        await self._settled.wait()

    def scrub(self, error: DeepSeekError) -> DeepSeekError:
        """``error`` without any of our secrets in its words."""
        for secret in self.secrets:
            for name, value in vars(error).items():
                if isinstance(value, str):
                    setattr(error, name, secret.scrub(value))
        error.args = (error.message,)
        return error
