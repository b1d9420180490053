"""Limits by the calendar: at most so much in a day and in a month, from all kernels of one account.

Rules of this room: what is spent is kept in a ledger outside, by period; here only a share of what is
left is drawn from it, as for any limit that several spend from. A reservation belongs to the period in
which it was made, also where it ends in the next one. What was spent is written down whenever more is
drawn, and all of it as soon as nothing is in flight: until then it counts as set aside, so that a
kernel that dies never gives money back. Days and months are those of the dates that are passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Literal, Protocol

from deepseek_nb.core.accounts import UNITS_PER_USD, Account, Drawn, Share, units_of

__all__ = ["Caps", "Ledger", "Period", "starts_anew"]

Span = Literal["day", "month"]


def period_of(span: Span, today: date) -> str:
    """The name of a period.

    >>> period_of("month", date(2026, 11, 25))
    '2026-11'
    """
    return today.isoformat() if span == "day" else f"{today:%Y-%m}"


def starts_anew(span: Span, today: date) -> date:
    """The first day of the next period.

    >>> starts_anew("month", date(2026, 12, 25))
    datetime.date(2027, 1, 1)
    """
    if span == "day":
        return today + timedelta(days=1)
    return date(today.year + today.month // 12, today.month % 12 + 1, 1)


class Ledger(Protocol):
    """Where the spending of an account is kept, by period. Every method may raise StoreFailed."""

    def draw(self, period: str, limit_usd: float, want_usd: float, least_usd: float) -> Drawn:
        """Set aside ``want_usd`` or what is left for this process, but not below ``least_usd``."""

    def book(self, period: str, spent_usd: float, unknown_usd: float, *, rest: bool) -> bool:
        """Write down what was spent of what is set aside; with ``rest``, set nothing aside any more.

        False where it could not be written: it stays set aside, and is to be booked again.
        """

    def spent(self, period: str) -> tuple[float, float]:
        """What was spent in that period by all, and what was perhaps charged, in US dollars."""

    def first_to_warn(self, period: str, limit_usd: float) -> bool:
        """Whether nobody has warned yet that this limit is nearly used up in that period."""


@dataclass(slots=True)
class Period(Account):
    """The sums of this process in one period of a limit that others spend from, too."""

    span: Span = "day"
    period: str = ""
    ledger: Ledger | None = field(default=None, repr=False)
    booked: tuple[int, int] = (0, 0)
    """Of what was spent and perhaps charged here, what stands in the ledger."""

    @property
    def known(self) -> tuple[int, int, int]:
        """What all have spent, by the ledger and what is not in it yet."""
        spent, unknown, elsewhere = self.spent - self.booked[0], self.unknown - self.booked[1], 0
        told = None if self.share is None else self.share.told
        if told is not None:
            spent += units_of(told.spent_usd, "spent_usd")
            unknown += units_of(told.unknown_usd, "unknown_usd")
            elsewhere = units_of(told.elsewhere_usd, "elsewhere_usd")
        return spent, unknown, elsewhere

    @property
    def unbooked(self) -> int:
        """What was spent or perhaps charged here and does not stand in the ledger yet."""
        return self.spent + self.unknown - sum(self.booked)

    def draw(self, want_usd: float, least_usd: float) -> Drawn:
        """Write down what was spent, and draw more."""
        assert self.ledger is not None  # noqa: S101 (made with one)
        self.book(rest=False)
        return self.ledger.draw(self.period, self.limit_usd or 0.0, want_usd, least_usd)

    def end(self, worst: int, cost: int, *, certain: bool = True) -> None:
        """A reservation has ended; where it was the last one in flight, nothing stays set aside."""
        Account.end(self, worst, cost, certain=certain)
        self.rest()

    def rest(self) -> None:
        """Write down what was spent and set nothing aside, once nothing is in flight."""
        if not self.reserved:
            self.book(rest=True)

    def book(self, *, rest: bool) -> None:
        """Write down what was spent since the last time; what cannot be written stays set aside."""
        assert self.ledger is not None  # noqa: S101
        spent, unknown = self.spent - self.booked[0], self.unknown - self.booked[1]
        if not (spent or unknown or (rest and self.share is not None and self.share.drawn)):
            return
        if not self.ledger.book(self.period, spent / UNITS_PER_USD, unknown / UNITS_PER_USD, rest=rest):
            return
        self.booked = self.spent, self.unknown
        if self.share is not None:
            self.share.note_booked(spent / UNITS_PER_USD, unknown / UNITS_PER_USD)
            if rest:
                self.share.let_go(self.used)

    def take_notices(self) -> list[str]:
        """What was not said yet, by any kernel of the account."""
        told = Account.take_notices(self)
        if (
            told
            and self.ledger is not None
            and not self.ledger.first_to_warn(self.period, self.limit_usd or 0.0)
        ):
            return []
        return told


class Caps:
    """At most ``day_usd`` a day and ``month_usd`` a month (None: no limit), of what ``ledger`` keeps.

    It is the ``parent`` of a budget. ``today`` gives the date by the calendar that counts. With one of
    the two limits what is spent is written down for both, so that the other one can be set later.

    Raises ValueError for amounts that are negative or not finite.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        day_usd: float | None = None,
        month_usd: float | None = None,
        today: Callable[[], date],
    ) -> None:
        self._ledger = ledger
        self._today = today
        self._limits: dict[Span, int | None] = {
            "day": None if day_usd is None else units_of(day_usd, "day_usd"),
            "month": None if month_usd is None else units_of(month_usd, "month_usd"),
        }
        self._date = today()
        self._accounts = self._begin(self._date, ())

    @property
    def accounts(self) -> tuple[Account, ...]:
        """The sums of the day and of the month of the last reservation."""
        return self._accounts

    def standing(self) -> dict[str, tuple[float, float]]:
        """By "day" and "month", where there is a limit: what all have spent in it now, and the limit.

        What was perhaps charged is included, what others have in flight is not. Looks into the ledger.
        Raises StoreFailed.
        """
        today, mine = self._today(), {account.period: account for account in self._accounts}
        told: dict[str, tuple[float, float]] = {}
        for span, limit in self._limits.items():
            if limit is not None:
                period = period_of(span, today)
                used_usd = sum(self._ledger.spent(period))
                if (here := mine.get(period)) is not None:
                    used_usd += here.unbooked / UNITS_PER_USD
                told[span] = (used_usd, limit / UNITS_PER_USD)
        return told

    def roll(self) -> None:
        """Begin a new day, or month, where one has begun."""
        today = self._today()
        if today != self._date:
            self._date, self._accounts = today, self._begin(today, self._accounts)

    def _begin(self, today: date, before: tuple[Period, ...]) -> tuple[Period, ...]:
        kept = {account.period: account for account in before}
        return tuple(
            kept.get(period_of(span, today)) or self._new(span, limit, today)
            for span, limit in self._limits.items()
        )

    def _new(self, span: Span, limit: int | None, today: date) -> Period:
        when = f"{starts_anew(span, today)} 00:00 local time"
        account = Period(
            f"budget of the {span}",
            limit,
            anew=when,
            way_out=f"It starts anew at {when}. Or raise budget_{span}_usd and run the same call again: what "
            "is done is kept and not paid again.",
            span=span,
            period=period_of(span, today),
            ledger=self._ledger,
        )
        if limit is not None:
            account.share = Share(account.draw, 0)
        return account
