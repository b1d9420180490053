"""What every drive shares: the adapters, the gate, the prices, the listeners."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from datetime import UTC, datetime

from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.adapters.transport import Transport
from deepseek_nb.client.gate import Gate
from deepseek_nb.core.errors import DeepSeekError, StoreFailed
from deepseek_nb.core.metrics import CallEvent
from deepseek_nb.core.prices import Price, PriceTable
from deepseek_nb.core.secret import Secret

__all__ = ["Means"]


class Means:
    """The means of one client, in one event loop. ``listeners`` are told what happens to each call."""

    def __init__(
        self,
        *,
        transport: Transport,
        store: AnswerStore | None,
        gate: Gate,
        prices: PriceTable,
        route: str,
        secrets: tuple[Secret, ...] = (),
        rng: Callable[[], float] = random.random,
        now_utc: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.transport = transport
        self.store = store
        self.gate = gate
        self.prices = prices
        self.route = route
        self.secrets = secrets
        self.rng = rng
        self.now_utc = now_utc
        self.listeners: list[Callable[[CallEvent], None]] = []
        self.reached = False
        """Whether this server ever answered: from then on a failing connection is an outage, not a typo."""
        self.not_saved: StoreFailed | None = None
        """Why answers that were paid for could not be written to disk; None while all is well."""
        self._settled = asyncio.Event()
        self._numbers = itertools.count(1)

    def price(self, model: str) -> Price | None:
        """The price of ``model`` now; None where no price is known."""
        return self.prices.find(model, self.now_utc())

    def new_reservation(self) -> int:
        """A name for one reservation."""
        return next(self._numbers)

    def announce_settled(self) -> None:
        """Wake those who wait for budget."""
        self._settled.set()
        self._settled = asyncio.Event()

    async def settled(self) -> None:
        """Wait until some reservation has ended."""
        await self._settled.wait()

    def scrub(self, error: DeepSeekError) -> DeepSeekError:
        """``error`` without any of our secrets in its words."""
        for secret in self.secrets:
            for name, value in vars(error).items():
                if isinstance(value, str):
                    setattr(error, name, secret.scrub(value))
        error.args = (error.message,)
        return error
