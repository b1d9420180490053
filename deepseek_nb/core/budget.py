"""Money is reserved before a request is sent and booked when it has ended, so a limit is never passed.

Rules of this room: what a request could cost at most is reserved first; what was spent, what may
have been charged and what is reserved never add up to more than the limit, as long as no answer costs
more than was reserved for it. Every reservation ends exactly once, in :meth:`Budget.settle` or in
:meth:`Budget.release`. A request that was cut off may have been charged: it is booked apart, as
unknown, and counts against the limit. A limit that several processes share is kept in a ledger of
theirs: a budget then draws shares of it, and reserves only within what it has drawn. Nothing here is
locked: a budget belongs to one event loop. Limits by the calendar stand in ``core.caps``.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from deepseek_nb.core.accounts import UNITS_PER_USD, Account, Draw, Share, units_of, usd_text
from deepseek_nb.core.errors import BudgetExceeded
from deepseek_nb.core.prices import Price

__all__ = ["Around", "Budget", "NearBudget", "worst_case_usd"]


class NearBudget(UserWarning):
    """80% of a budget is spent, what was perhaps charged included. Shown once for each budget and period."""


def worst_case_usd(request_tokens: int, max_tokens: int, price: Price) -> float:
    """Tell what a request could cost at most, in US dollars: nothing cached, the answer at full length.

    Give the peak price where the request could run into peak hours.

    >>> worst_case_usd(300, 50, Price(0.003, 0.15, 0.60))
    7.5e-05
    """
    return price.cost_usd(miss_tokens=request_tokens, output_tokens=max_tokens)


class Around(Protocol):
    """What a budget can stand in: another budget, or the limits of the calendar."""

    @property
    def accounts(self) -> tuple[Account, ...]:
        """The sums that a reservation is booked in now."""

    def roll(self) -> None:
        """Begin a new period, where one has begun."""


class Budget:
    """At most ``limit_usd`` US dollars (None: no limit), inside ``parent`` where there is one.

    A reservation has to fit in the budget itself and in every budget around it, and is booked in
    all of them. ``spent_usd`` and ``unknown_usd`` are what was booked before, as by a job that is
    resumed; they are taken as booked in ``parent`` already. ``name`` appears in messages.

    ``draw`` makes it a share of a limit that other processes spend from too: ``limit_usd`` is then the
    limit of all, and nothing is reserved beyond what was drawn.

    Raises ValueError for amounts that are negative or not finite.

    >>> session = Budget(1.00)
    >>> job = Budget(0.50, parent=session, name="budget of the job")
    >>> job.reserve("row 1", worst_usd=0.30)
    >>> job.settle("row 1", cost_usd=0.10)
    >>> job.left_usd, session.spent_usd
    (0.4, 0.1)
    """

    def __init__(
        self,
        limit_usd: float | None,
        *,
        parent: Around | None = None,
        name: str = "budget",
        spent_usd: float = 0.0,
        unknown_usd: float = 0.0,
        draw: Draw | None = None,
    ) -> None:
        self._own = Account(
            name,
            None if limit_usd is None else units_of(limit_usd, "limit_usd"),
            units_of(spent_usd, "spent_usd"),
            units_of(unknown_usd, "unknown_usd"),
        )
        if draw is not None and limit_usd is not None:
            self._own.share = Share(draw, self._own.used)
        self._parent = parent
        self._held: dict[Hashable, tuple[int, tuple[Account, ...]]] = {}

    @property
    def accounts(self) -> tuple[Account, ...]:
        """The sums of this budget, then those of what is around it."""
        return (self._own,) if self._parent is None else (self._own, *self._parent.accounts)

    def roll(self) -> None:
        """Begin a new period around it, where one has begun."""
        if self._parent is not None:
            self._parent.roll()

    def reserve(self, reservation: Hashable, worst_usd: float) -> None:
        """Set ``worst_usd`` aside, before sending, under a name of your own.

        Raises BudgetExceeded, changing nothing, if it does not fit. The error's ``fits_later`` says
        whether it would fit once what is in flight has ended for nothing. Raises ValueError if that
        reservation is already open.
        """
        if reservation in self._held:
            raise ValueError(f"The reservation {reservation!r} is already open.")
        worst = units_of(worst_usd, "worst_usd")
        self.roll()
        accounts = self.accounts
        for account in accounts:
            if account.share is not None:
                account.share.fill(account.used, worst, again=not account.reserved)
        try:
            for account in accounts:
                account.refuse_beyond(worst)
        except BudgetExceeded:
            for account in accounts:
                account.rest()
            raise
        self._held[reservation] = worst, accounts
        for account in accounts:
            account.reserved += worst

    def settle(self, reservation: Hashable, cost_usd: float, *, certain: bool = True) -> None:
        """End a reservation with what the request cost; with ``certain=False``, with what it may have cost.

        The cost may be above the reservation: it was charged, so it is booked, and the difference
        shows in ``overrun_usd``. Raises ValueError if there is no such open reservation.
        """
        cost = units_of(cost_usd, "cost_usd")
        worst, accounts = self._end(reservation)
        for account in accounts:
            account.end(worst, cost, certain=certain)

    def release(self, reservation: Hashable) -> None:
        """End a reservation of which nothing was charged.

        Raises ValueError if there is no such open reservation.
        """
        worst, accounts = self._end(reservation)
        for account in accounts:
            account.end(worst, 0)

    @property
    def limit_usd(self) -> float | None:
        """The limit of this budget; None where there is none."""
        return self._own.limit_usd

    @property
    def limited(self) -> bool:
        """Whether there is a limit, here or around: without one nothing need be set aside."""
        return any(account.limit is not None for account in self.accounts)

    @property
    def spent_usd(self) -> float:
        """What was charged, by the server's count."""
        return self._own.spent / UNITS_PER_USD

    @property
    def unknown_usd(self) -> float:
        """What may have been charged for requests that were cut off: assumed billed."""
        return self._own.unknown / UNITS_PER_USD

    @property
    def reserved_usd(self) -> float:
        """What is set aside for requests in flight."""
        return self._own.reserved / UNITS_PER_USD

    @property
    def overrun_usd(self) -> float:
        """By how much answers cost more than was reserved for them, all together; 0 without a limit."""
        return self._own.overrun / UNITS_PER_USD

    @property
    def left_usd(self) -> float | None:
        """What could still be reserved, here and in the budgets around; None without any limit."""
        left = [left for account in self.accounts if (left := account.left) is not None]
        return min(left) / UNITS_PER_USD if left else None

    @property
    def near_limit(self) -> bool:
        """Whether 80% of this budget's limit is spent, unknown charges included."""
        return self._own.near_limit

    @property
    def used_share(self) -> float | None:
        """The largest share of a limit that is spent, here and around, unknown charges included."""
        return max(
            (share for account in self.accounts if (share := account.used_share) is not None), default=None
        )

    def take_notices(self) -> list[str]:
        """What is to be said about budgets of which 80% is spent, here and around: each once."""
        return [notice for account in self.accounts for notice in account.take_notices()]

    def __repr__(self) -> str:
        limit = "no limit" if self._own.limit is None else f"limit {usd_text(self._own.limit)}"
        return f"<Budget {self._own.name!r}: {limit}, {self._own.state}>"

    def _end(self, reservation: Hashable) -> tuple[int, tuple[Account, ...]]:
        if reservation not in self._held:
            raise ValueError(f"There is no open reservation {reservation!r}: each one ends exactly once.")
        return self._held.pop(reservation)
