"""``when="offpeak"``: a job that sends only in the cheap hours, by Beijing's clock and calendar.

What is on the wire when peak begins comes in, and what the answer store holds is given at any hour;
everything else waits. Sending ends a minute early: whether a request pays by its beginning or its end is not
documented.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from typing import Literal, Protocol

from deepseek_nb.batch.progress import Progress
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.prices import PriceTable

__all__ = ["Hours", "When", "check_when", "with_more_holidays"]

When = Literal["now", "offpeak"]

LEAD = timedelta(seconds=60)
"""So long before peak begins nothing is sent any more."""
LOOK_S = 0.5
"""How often the clock is looked at: a machine may have slept."""
PAUSE = "hours"
"""The name of this reason for a pause."""


class _Run(Protocol):
    """What is held up: a run of a job."""

    progress: Progress

    def pause(self, why: str = ...) -> None: ...

    def resume(self, why: str = ...) -> None: ...


def check_when(when: str) -> None:
    """Raises ConfigError for what is neither "now" nor "offpeak"."""
    if when not in ("now", "offpeak"):
        raise ConfigError(f"when= is 'now' or 'offpeak', not {when!r}.")


class Hours:
    """When requests to ``model`` are cheap, by ``prices`` and the clock ``now_utc``.

    A model without peak prices is always cheap; one that the table does not know goes by the hours. A year
    whose holidays are not known has none: its weekdays count as peak.
    """

    def __init__(self, prices: PriceTable, model: str, now_utc: Callable[[], datetime]) -> None:
        self._prices = with_more_holidays(prices, now_utc().year)
        self._model = model
        self._now_utc = now_utc

    @classmethod
    def of(
        cls, when: str, prices: PriceTable, model: str, now_utc: Callable[[], datetime] | None = None
    ) -> Hours | None:
        """The hours that ``when`` means; None for "now". Raises ConfigError for anything else."""
        check_when(when)
        return None if when == "now" else cls(prices, model, now_utc or (lambda: datetime.now(UTC)))

    def wait_s(self) -> float:
        """How long it is until requests may be sent: 0 for now, infinite where no cheap hour is known."""
        now = at = self._now_utc()
        while self._dear(at) or self._dear(at + LEAD):
            change = self._prices.next_change(at if self._dear(at) else at + LEAD)
            if change is None:
                return float("inf")
            at = change
        return (at - now).total_seconds()

    def look(self, run: _Run) -> None:
        """Hold ``run`` up, or let it go on, as the clock says."""
        wait_s = self.wait_s()
        run.progress.offpeak_s = wait_s or None
        if wait_s:
            run.pause(PAUSE)
        else:
            run.resume(PAUSE)

    async def keep(self, run: _Run) -> None:
        """Do so until cancelled."""
        while True:
            self.look(run)
            await asyncio.sleep(LOOK_S)

    def _dear(self, at: datetime) -> bool:
        price = self._prices.find(self._model, at)
        return self._prices.is_peak(at) if price is None else price.peak


def with_more_holidays(prices: PriceTable, year: int) -> PriceTable:
    """``prices`` with the holidays of ``year`` and the next one, where ``chinesecalendar`` knows them.

    Only years that the table has no holidays of, and only where that package is installed.
    """
    missing = {year, year + 1} - {day.year for day in prices.holidays}
    if not missing or importlib.util.find_spec("chinese_calendar") is None:
        return prices
    is_holiday: Callable[[date], bool] = import_module("chinese_calendar").is_holiday
    found: set[date] = set()
    for each in missing:
        first = date(each, 1, 1)
        days = (first + timedelta(days=n) for n in range((date(each + 1, 1, 1) - first).days))
        try:
            found.update(day for day in days if day.isoweekday() <= 5 and is_holiday(day))
        except NotImplementedError:  # a year it does not know, either
            continue
    return replace(prices, holidays=prices.holidays | found)
