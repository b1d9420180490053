"""Money is reserved before a request is sent and booked when it has ended, so a limit is never passed.

Rules of this room: what a request could cost at most is reserved first; what was spent, what may
have been charged and what is reserved never add up to more than the limit, as long as no answer costs
more than was reserved for it. Every reservation ends exactly once, in :meth:`Budget.settle` or in
:meth:`Budget.release`. A request that was cut off may have been charged: it is booked apart, as
unknown, and counts against the limit. A limit that several processes share is kept in a ledger of
theirs: a budget then draws shares of it, and reserves only within what it has drawn. Nothing here is
locked: a budget belongs to one event loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from deepseek_nb.core.errors import BudgetExceeded
from deepseek_nb.core.prices import Price

__all__ = ["Budget", "Drawn", "worst_case_usd"]

NEAR_LIMIT_SHARE = 0.8
UNITS_PER_USD = 10**12
"""Sums are kept in whole units of a millionth of a millionth of a dollar: they never drift."""


DRAW_REQUESTS = 16
"""A share is drawn for so many requests at once: few looks into the ledger, little idle money."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the shared ledger gave, and how it stands. US dollars."""

    usd: float
    """Set aside for whoever drew it; 0 where the least that was asked for is not there."""
    spent_usd: float
    unknown_usd: float
    elsewhere_usd: float
    """Set aside for others."""


Draw = Callable[[float, float], Drawn]
"""``draw(want_usd, least_usd)``: sets aside ``want_usd`` or what is left, but not less than ``least_usd``."""


def worst_case_usd(request_tokens: int, max_tokens: int, price: Price) -> float:
    """Tell what a request could cost at most, in US dollars: nothing cached, the answer at full length.

    Give the peak price where the request could run into peak hours.

    >>> worst_case_usd(300, 50, Price(0.003, 0.15, 0.60))
    7.5e-05
    """
    return price.cost_usd(miss_tokens=request_tokens, output_tokens=max_tokens)


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
        parent: Budget | None = None,
        name: str = "budget",
        spent_usd: float = 0.0,
        unknown_usd: float = 0.0,
        draw: Draw | None = None,
    ) -> None:
        self._own = _Account(
            name,
            None if limit_usd is None else _units(limit_usd, "limit_usd"),
            _units(spent_usd, "spent_usd"),
            _units(unknown_usd, "unknown_usd"),
        )
        if draw is not None and limit_usd is not None:
            self._own.share = _Share(draw, self._own.used)
        self.accounts: tuple[_Account, ...] = (self._own, *(parent.accounts if parent else ()))
        """The sums of this budget, then those of the budgets around it."""
        self._held: dict[Hashable, int] = {}

    def reserve(self, reservation: Hashable, worst_usd: float) -> None:
        """Set ``worst_usd`` aside, before sending, under a name of your own.

        Raises BudgetExceeded, changing nothing, if it does not fit. The error's ``fits_later`` says
        whether it would fit once what is in flight has ended for nothing. Raises ValueError if that
        reservation is already open.
        """
        if reservation in self._held:
            raise ValueError(f"The reservation {reservation!r} is already open.")
        worst = _units(worst_usd, "worst_usd")
        if self._own.share is not None:
            self._own.share.fill(self._own.used, worst)
        for account in self.accounts:
            account.refuse_beyond(worst)
        self._held[reservation] = worst
        for account in self.accounts:
            account.reserved += worst

    def settle(self, reservation: Hashable, cost_usd: float, *, certain: bool = True) -> None:
        """End a reservation with what the request cost; with ``certain=False``, with what it may have cost.

        The cost may be above the reservation: it was charged, so it is booked, and the difference
        shows in ``overrun_usd``. Raises ValueError if there is no such open reservation.
        """
        cost = _units(cost_usd, "cost_usd")
        worst = self._end(reservation)
        for account in self.accounts:
            account.overrun += max(0, cost - worst)
            if certain:
                account.spent += cost
            else:
                account.unknown += cost

    def release(self, reservation: Hashable) -> None:
        """End a reservation of which nothing was charged.

        Raises ValueError if there is no such open reservation.
        """
        self._end(reservation)

    @property
    def limit_usd(self) -> float | None:
        """The limit of this budget; None where there is none."""
        return self._own.limit_usd

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
        """By how much answers cost more than was reserved for them, all together."""
        return self._own.overrun / UNITS_PER_USD

    @property
    def left_usd(self) -> float | None:
        """What could still be reserved, here and in the budgets around; None without any limit."""
        left = [account.limit - account.used for account in self.accounts if account.limit is not None]
        return max(0, min(left)) / UNITS_PER_USD if left else None

    @property
    def near_limit(self) -> bool:
        """Whether 80% of this budget's limit is spent, unknown charges included."""
        own = self._own
        return own.limit is not None and own.spent + own.unknown >= NEAR_LIMIT_SHARE * own.limit

    def __repr__(self) -> str:
        limit = "no limit" if self._own.limit is None else f"limit {_money(self._own.limit)}"
        return f"<Budget {self._own.name!r}: {limit}, {self._own.state}>"

    def _end(self, reservation: Hashable) -> int:
        if reservation not in self._held:
            raise ValueError(f"There is no open reservation {reservation!r}: each one ends exactly once.")
        worst = self._held.pop(reservation)
        for account in self.accounts:
            account.reserved -= worst
        return worst


@dataclass(slots=True)
class _Account:
    """The sums of one budget, in units."""

    name: str
    limit: int | None
    spent: int = 0
    unknown: int = 0
    reserved: int = 0
    overrun: int = 0
    share: _Share | None = None

    @property
    def limit_usd(self) -> float | None:
        return None if self.limit is None else self.limit / UNITS_PER_USD

    @property
    def used(self) -> int:
        return self.spent + self.unknown + self.reserved

    @property
    def state(self) -> str:
        spent, unknown, elsewhere = self.spent, self.unknown, 0
        if self.share is not None and (told := self.share.told) is not None:
            spent = max(spent, _units(told.spent_usd, "spent_usd"))
            unknown = max(unknown, _units(told.unknown_usd, "unknown_usd"))
            elsewhere = _units(told.elsewhere_usd, "elsewhere_usd")
        said = f"spent {_money(spent)}"
        if unknown:
            said += f", {_money(unknown)} perhaps charged"
        said += f", reserved {_money(self.reserved)}"
        return f"{said}, {_money(elsewhere)} set aside by other processes" if elsewhere else said

    def room(self, used: int) -> int | None:
        """What could be reserved if ``used`` were all that is used; None without a limit."""
        if self.limit is None:
            return None
        room = self.limit - used
        return room if self.share is None else min(room, self.share.room(used))

    def refuse_beyond(self, worst: int) -> None:
        """Raise BudgetExceeded if that much does not fit any more."""
        room, at_best = self.room(self.used), self.room(self.spent + self.unknown)
        if room is None or at_best is None or worst <= room:
            return
        raise BudgetExceeded(
            f"The {self.name} of {_money(self.limit or 0)} has no room for the next request, "
            f"which could cost {_money(worst)} at most ({self.state}).",
            hint=f"{BudgetExceeded.default_hint} A lower max_tokens reserves less.",
            limit_usd=self.limit_usd,
            spent_usd=self.spent / UNITS_PER_USD,
            unknown_usd=self.unknown / UNITS_PER_USD,
            reserved_usd=self.reserved / UNITS_PER_USD,
            worst_usd=worst / UNITS_PER_USD,
            fits_later=worst <= at_best,
        )


class _Share:
    """What one process has drawn of a limit that several spend from. In units."""

    def __init__(self, draw: Draw, used_before: int) -> None:
        self._draw = draw
        self._used_before = used_before
        self._drawn = 0
        self._dry_at: int | None = None
        self.told: Drawn | None = None

    def room(self, used: int) -> int:
        """What is left of what was drawn."""
        return self._drawn - (used - self._used_before)

    def fill(self, used: int, worst: int) -> None:
        """Draw more, if ``worst`` does not fit and there may be more: once while nothing changes here."""
        least = worst - self.room(used)
        if least <= 0 or self._dry_at == used:
            return
        want = max(least, DRAW_REQUESTS * worst)
        self.told = told = self._draw(want / UNITS_PER_USD, least / UNITS_PER_USD)
        self._drawn += _units(told.usd, "drawn")
        self._dry_at = used if told.usd == 0 else None


def _units(usd: float, name: str) -> int:
    if not (math.isfinite(usd) and usd >= 0):
        raise ValueError(f"{name} is an amount in US dollars, zero or more, not {usd!r}.")
    return round(usd * UNITS_PER_USD)


def _money(units: int) -> str:
    text = f"{units / UNITS_PER_USD:,.6f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"${whole}.{cents:0<2}"
