"""What tokens cost and when: a dated table, and the peak hours of Beijing.

Rules of this room: prices, peak hours and holidays are data that is passed in, never code; the
time is an argument. Beijing is UTC+8 all year, whatever zone this machine is in. A year whose
holidays are not known has none: its weekdays count as peak, so that the estimate is never too low.
Whether the start or the end of a request decides its price is not documented.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

from deepseek_nb.core.chat import Usage
from deepseek_nb.core.errors import ConfigError

__all__ = ["Price", "PriceTable"]

BEIJING = timezone(timedelta(hours=8), "Beijing")
DAYS_AHEAD = 60
"""How far ahead a change is looked for: longer than any row of holidays."""
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens at one time. ``peak``: whether this is a peak-hour price."""

    hit_usd_per_million: float
    """Prompt tokens found in the server's prefix cache."""
    miss_usd_per_million: float
    """All other prompt tokens."""
    output_usd_per_million: float
    """Answer tokens, thinking included."""
    peak: bool = False

    def cost_usd(self, *, hit_tokens: int = 0, miss_tokens: int = 0, output_tokens: int = 0) -> float:
        """Tell what these tokens cost, in US dollars.

        >>> Price(0.003, 0.15, 0.60).cost_usd(miss_tokens=30_000_000, output_tokens=5_000_000)
        7.5
        """
        return (
            hit_tokens * self.hit_usd_per_million
            + miss_tokens * self.miss_usd_per_million
            + output_tokens * self.output_usd_per_million
        ) / MILLION

    def cost_of(self, usage: Usage) -> float:
        """Tell what one answer cost by the server's own count, in US dollars.

        >>> Price(0.003, 0.15, 0.60).cost_of(Usage(prompt_tokens=300, completion_tokens=50))
        7.5e-05
        """
        return self.cost_usd(
            hit_tokens=usage.cache_hit_tokens,
            miss_tokens=usage.cache_miss_tokens,
            output_tokens=usage.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class PriceTable:
    """All known prices, by name and date. Make one with :meth:`from_data`."""

    rows: tuple[_Row, ...]
    peak_hours: tuple[tuple[time, time], ...] = ()
    peak_rules: tuple[_PeakRule, ...] = ()
    holidays: frozenset[date] = frozenset()

    @classmethod
    def from_data(cls, prices: Mapping[str, Any], holidays: Mapping[str, Any]) -> PriceTable:
        """Read the table from what ``prices.json`` and ``holidays_cn.json`` hold.

        Raises KeyError or ValueError where a field is missing or a date cannot be read.

        >>> from deepseek_nb import data
        >>> table = PriceTable.from_data(data.read_json("prices.json"), data.read_json("holidays_cn.json"))
        >>> table.price("deepseek-flash", datetime(2026, 11, 23, 1, 0, tzinfo=UTC)).peak
        True
        """
        peak = prices["peak"]
        return cls(
            rows=tuple(sorted(map(_read_row, prices["rows"]), key=lambda row: row.valid_from)),
            peak_hours=tuple((time.fromisoformat(a), time.fromisoformat(b)) for a, b in peak["hours"]),
            peak_rules=tuple(sorted(map(_read_rule, peak["rules"]), key=lambda rule: rule.valid_from)),
            holidays=frozenset(
                date.fromisoformat(day) for year in holidays["years"].values() for day in year
            ),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that ever had a price, sorted."""
        return tuple(sorted({name for row in self.rows for name in row.names}))

    def find(self, model: str, at: datetime) -> Price | None:
        """Look up the price of ``model`` (an id, an alias, a retired name) at that time; None if unknown.

        Raises ValueError if ``at`` has no time zone.
        """
        peak = self.is_peak(at)
        row = next((row for row in reversed(self.rows) if model in row.names and row.valid_from <= at), None)
        if row is None:
            return None
        return row.peak if peak and row.peak else row.off_peak

    def price(self, model: str, at: datetime) -> Price:
        """Look up the price of ``model`` at that time as :meth:`find`, where there has to be one.

        Raises ConfigError, with the near names, if none is known; ValueError if ``at`` has no time zone.
        """
        price = self.find(model, at)
        if price is not None:
            return price
        if model in self.names:
            raise ConfigError(f"The price of {model!r} on {_utc(at):%Y-%m-%d} is not known: it began later.")
        near = difflib.get_close_matches(model, self.names, n=3)
        guess = (
            f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(self.names)}."
        )
        raise ConfigError(f"No price is known for the model {model!r}.", hint=guess, near=tuple(near))

    def is_peak(self, at: datetime) -> bool:
        """Whether peak prices hold at that time, by Beijing's clock and calendar.

        Raises ValueError if ``at`` has no time zone.
        """
        beijing = _utc(at).astimezone(BEIJING)
        rule = next((rule for rule in reversed(self.peak_rules) if rule.valid_from <= at), None)
        return (
            rule is not None
            and beijing.isoweekday() in rule.weekdays
            and not (rule.except_holidays and beijing.date() in self.holidays)
            and any(start <= beijing.time() < end for start, end in self.peak_hours)
        )

    def next_change(self, at: datetime) -> datetime | None:
        """Find the next time, in UTC, at which peak begins or ends; None if it never does.

        Raises ValueError if ``at`` has no time zone.
        """
        now = self.is_peak(at)
        if not self.peak_rules:
            return None
        first_day = max(at, self.peak_rules[0].valid_from).astimezone(BEIJING).date()
        edges = [rule.valid_from for rule in self.peak_rules]
        for ahead in range(DAYS_AHEAD):
            day = first_day + timedelta(days=ahead)
            edges += [datetime.combine(day, hour, BEIJING) for window in self.peak_hours for hour in window]
        change = next((edge for edge in sorted(edges) if edge > at and self.is_peak(edge) != now), None)
        return None if change is None else _utc(change)


@dataclass(frozen=True, slots=True)
class _Row:
    valid_from: datetime
    names: frozenset[str]
    off_peak: Price
    peak: Price | None


@dataclass(frozen=True, slots=True)
class _PeakRule:
    valid_from: datetime
    weekdays: frozenset[int]  # Monday is 1
    except_holidays: bool


def _read_row(row: Mapping[str, Any]) -> _Row:
    def price(usd: Mapping[str, float], *, peak: bool) -> Price:
        return Price(usd["hit"], usd["miss"], usd["output"], peak)

    return _Row(
        valid_from=_utc(datetime.fromisoformat(row["valid_from"])),
        names=frozenset([row["model"], *row["aliases"]]),
        off_peak=price(row["off_peak"], peak=False),
        peak=price(row["peak"], peak=True) if row["peak"] else None,
    )


def _read_rule(rule: Mapping[str, Any]) -> _PeakRule:
    weekdays: Sequence[int] = rule["weekdays"]
    return _PeakRule(
        _utc(datetime.fromisoformat(rule["valid_from"])), frozenset(weekdays), rule["except_holidays"]
    )


def _utc(at: datetime) -> datetime:
    if at.utcoffset() is None:
        raise ValueError(
            f"The time {at.isoformat()} has no time zone, so it says nothing about Beijing: give one, "
            "for example datetime.now(timezone.utc)."
        )
    return at.astimezone(UTC)
