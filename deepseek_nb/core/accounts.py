"""The sums of one limit, and the share that is drawn of one that several spend from.

Rules of this room: sums are whole units of a millionth of a millionth of a dollar, so they never drift.
Nothing here is locked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from deepseek_nb.core.errors import BudgetExceeded

__all__ = ["UNITS_PER_USD", "Account", "Draw", "Drawn", "Share", "units_of", "usd_text"]

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


@dataclass(slots=True)
class Account:
    """The sums of one budget, in units."""

    name: str
    limit: int | None
    spent: int = 0
    unknown: int = 0
    reserved: int = 0
    overrun: int = 0
    share: Share | None = None
    way_out: str = BudgetExceeded.default_hint
    """What to do when it is used up."""
    anew: str | None = None
    """When it starts anew; None: never."""
    warns: bool = True
    notices: list[str] = field(default_factory=list)

    @property
    def limit_usd(self) -> float | None:
        """The limit in US dollars."""
        return None if self.limit is None else self.limit / UNITS_PER_USD

    @property
    def used(self) -> int:
        """Spent here, perhaps charged and reserved."""
        return self.spent + self.unknown + self.reserved

    @property
    def known(self) -> tuple[int, int, int]:
        """Spent, perhaps charged and set aside by others, as far as is known here."""
        spent, unknown, elsewhere = self.spent, self.unknown, 0
        if self.share is not None and (told := self.share.told) is not None:
            spent = max(spent, units_of(told.spent_usd, "spent_usd"))
            unknown = max(unknown, units_of(told.unknown_usd, "unknown_usd"))
            elsewhere = units_of(told.elsewhere_usd, "elsewhere_usd")
        return spent, unknown, elsewhere

    @property
    def used_share(self) -> float | None:
        """The share of the limit that is spent or perhaps charged; None without a limit."""
        if self.limit is None:
            return None
        spent, unknown, _ = self.known
        return (spent + unknown) / self.limit if self.limit else 1.0

    @property
    def near_limit(self) -> bool:
        """Whether 80% of the limit is spent, unknown charges included."""
        share = self.used_share
        return share is not None and share >= NEAR_LIMIT_SHARE

    @property
    def left(self) -> int | None:
        """What could still be reserved, as far as is known here; None without a limit."""
        if self.limit is None:
            return None
        spent, unknown, elsewhere = self.known
        return max(0, self.limit - spent - unknown - self.reserved - elsewhere)

    @property
    def state(self) -> str:
        """How it stands, in words."""
        spent, unknown, elsewhere = self.known
        said = f"spent {usd_text(spent)}"
        if unknown:
            said += f", {usd_text(unknown)} perhaps charged"
        said += f", reserved {usd_text(self.reserved)}"
        return f"{said}, {usd_text(elsewhere)} set aside by other processes" if elsewhere else said

    def room(self, used: int) -> int | None:
        """What could be reserved if ``used`` were all that is used; None without a limit."""
        if self.limit is None:
            return None
        room = self.limit - used
        return room if self.share is None else min(room, self.share.room(used))

    def end(self, worst: int, cost: int, *, certain: bool = True) -> None:
        """A reservation of ``worst`` has ended with ``cost``."""
        self.reserved -= worst
        if self.limit is not None:  # else nothing need have been set aside
            self.overrun += max(0, cost - worst)
        if certain:
            self.spent += cost
        else:
            self.unknown += cost
        if cost and self.warns and self.near_limit:
            self.warns = False
            self.notices.append(self.near_text)

    def rest(self) -> None:
        """Keep nothing set aside that is not in flight, where that is kept outside."""

    @property
    def near_text(self) -> str:
        """What is said when 80% is spent."""
        spent, unknown, _ = self.known
        until = "" if self.anew is None else f" It starts anew at {self.anew}."
        return (
            f"{(spent + unknown) / (self.limit or 1):.0%} of the {self.name} is spent: "
            f"{usd_text(spent + unknown)} of {usd_text(self.limit or 0)}.{until}"
        )

    def take_notices(self) -> list[str]:
        """What was not said yet."""
        told, self.notices = self.notices, []
        return told

    def refuse_beyond(self, worst: int) -> None:
        """Raise BudgetExceeded if that much does not fit any more."""
        if self.limit is None:
            return
        room, at_best = self.room(self.used), self.room(self.spent + self.unknown)
        if room is None or at_best is None or worst <= room:
            return
        raise BudgetExceeded(
            f"The {self.name} of {usd_text(self.limit or 0)} has no room for the next request, "
            f"which could cost {usd_text(worst)} at most ({self.state}).",
            hint=f"{self.way_out} A lower max_tokens reserves less.",
            cap=self.name,
            starts_anew=self.anew,
            limit_usd=self.limit_usd,
            spent_usd=self.spent / UNITS_PER_USD,
            unknown_usd=self.unknown / UNITS_PER_USD,
            reserved_usd=self.reserved / UNITS_PER_USD,
            worst_usd=worst / UNITS_PER_USD,
            fits_later=worst <= at_best,
        )


class Share:
    """What one process has drawn of a limit that several spend from. In units."""

    def __init__(self, draw: Draw, used_before: int) -> None:
        self._draw = draw
        self._used_before = used_before
        self._drawn = 0
        self._dry_at: int | None = None
        self.drawn = False
        """Whether something was drawn since :meth:`let_go`."""
        self.told: Drawn | None = None

    def room(self, used: int) -> int:
        """What is left of what was drawn."""
        return self._drawn - (used - self._used_before)

    def fill(self, used: int, worst: int, *, again: bool = False) -> None:
        """Draw more, if ``worst`` does not fit and there may be more.

        Only once while nothing changes here, unless ``again``: with nothing in flight others can change it.
        """
        least = worst - self.room(used)
        if least <= 0 or (self._dry_at == used and not again):
            return
        want = max(least, DRAW_REQUESTS * worst)
        self.told = told = self._draw(want / UNITS_PER_USD, least / UNITS_PER_USD)
        self._drawn += units_of(told.usd, "drawn")
        self.drawn = self.drawn or told.usd > 0
        self._dry_at = used if told.usd == 0 else None

    def note_booked(self, spent_usd: float, unknown_usd: float) -> None:
        """So much was written down in the ledger from here, since it last told."""
        if self.told is not None:
            told = self.told
            spent_usd, unknown_usd = told.spent_usd + spent_usd, told.unknown_usd + unknown_usd
            self.told = Drawn(0.0, spent_usd, unknown_usd, told.elsewhere_usd)

    def let_go(self, used: int) -> None:
        """Nothing is drawn any more."""
        self._drawn, self._used_before, self._dry_at, self.drawn = 0, used, None, False


def units_of(usd: float, name: str) -> int:
    """An amount in units; raises ValueError for one that is negative or not finite."""
    if not (math.isfinite(usd) and usd >= 0):
        raise ValueError(f"{name} is an amount in US dollars, zero or more, not {usd!r}.")
    return round(usd * UNITS_PER_USD)


def usd_text(units: int) -> str:
    """An amount in words, to a millionth of a dollar.

    >>> usd_text(75 * UNITS_PER_USD // 1_000_000)
    '$0.000075'
    """
    text = f"{units / UNITS_PER_USD:,.6f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"${whole}.{cents:0<2}"
