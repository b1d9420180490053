"""The price of a moment is that of Beijing's clock and calendar, whatever zone this machine is in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb import data
from deepseek_nb.core.chat import Usage
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.prices import Price, PriceTable

BEIJING = timezone(timedelta(hours=8))
HONOLULU = timezone(timedelta(hours=-10))
NAIVE = datetime(2026, 11, 23, 10, 0)  # noqa: DTZ001
FLASH = Price(0.003, 0.15, 0.60)
FLASH_PEAK = Price(0.006, 0.30, 1.20, peak=True)


@pytest.fixture(scope="module")
def table() -> PriceTable:
    return PriceTable.from_data(data.read_json("prices.json"), data.read_json("holidays_cn.json"))


def beijing(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BEIJING)


@pytest.mark.parametrize(
    ("tokens", "price", "cost_usd"),
    [
        ({"miss_tokens": 30_000_000, "output_tokens": 5_000_000}, FLASH, 7.50),
        ({"miss_tokens": 30_000_000, "output_tokens": 5_000_000}, FLASH_PEAK, 15.00),
        ({"hit_tokens": 25_600_000, "miss_tokens": 4_400_000, "output_tokens": 5_000_000}, FLASH, 3.7368),
        ({}, FLASH, 0.0),
    ],
)
def test_a_hundred_thousand_rows_cost_what_the_worked_example_says(
    tokens: dict[str, int], price: Price, cost_usd: float
) -> None:
    """300 prompt and 50 answer tokens, 100,000 times: $7.50, double at peak, half with a warm cache."""
    assert price.cost_usd(**tokens) == pytest.approx(cost_usd)


def test_usage_is_billed_by_hits_misses_and_output() -> None:
    """Thinking tokens are inside the completion and are not billed twice."""
    usage = Usage(prompt_tokens=1000, completion_tokens=100, cache_hit_tokens=600, reasoning_tokens=80)
    assert FLASH.cost_of(usage) == pytest.approx((600 * 0.003 + 400 * 0.15 + 100 * 0.60) / 1e6)


@pytest.mark.parametrize(
    ("at", "peak"),
    [
        ("2026-11-23T08:59:59", False),  # a Monday
        ("2026-11-23T09:00:00", True),
        ("2026-11-23T11:59:59", True),
        ("2026-11-23T12:00:00", False),
        ("2026-11-23T13:59:59", False),
        ("2026-11-23T14:00:00", True),
        ("2026-11-23T17:59:59", True),
        ("2026-11-23T18:00:00", False),
        ("2026-11-22T10:00:00", False),  # a Sunday
        ("2026-10-01T10:00:00", False),  # National Day, a Thursday
        ("2026-10-10T10:00:00", False),  # a Saturday worked to make up for it
        ("2026-08-16T10:00:00", False),  # before peak prices began
        ("2026-08-17T10:00:00", True),
        ("2026-08-22T10:00:00", True),  # a Saturday of the first week, when every day had peak hours
        ("2026-08-23T10:00:00", False),  # the Sunday after it
        ("2025-05-06T10:00:00", False),
        ("2027-01-01T10:00:00", True),  # a Friday, and a holiday nobody has told us of
        ("2027-01-02T10:00:00", False),
    ],
)
def test_peak_hours_are_those_of_beijing(table: PriceTable, at: str, peak: bool) -> None:
    """Monday to Friday, 9 to 12 and 14 to 18 o'clock, not on holidays; weekdays of unknown years count."""
    assert table.is_peak(beijing(at)) is peak


def test_the_weekday_is_beijings_not_the_machines(table: PriceTable) -> None:
    """Sunday afternoon in Honolulu is Monday morning in Beijing."""
    at = datetime(2026, 11, 22, 15, 30, tzinfo=HONOLULU)
    assert at.isoweekday() == 7
    assert table.is_peak(at)
    assert table.price("deepseek-flash", at) == FLASH_PEAK


@given(
    at=st.datetimes(NAIVE.replace(year=2025), NAIVE.replace(year=2027), timezones=st.just(UTC)),
    hours=st.integers(-12, 14),
)
def test_a_moment_has_one_price_in_every_zone(table: PriceTable, at: datetime, hours: int) -> None:
    """Naming the same moment in another zone changes nothing."""
    elsewhere = at.astimezone(timezone(timedelta(hours=hours)))
    assert table.is_peak(elsewhere) == table.is_peak(at)
    assert table.next_change(elsewhere) == table.next_change(at)
    assert table.find("deepseek-flash", elsewhere) == table.find("deepseek-flash", at)


@pytest.mark.parametrize("method", ["is_peak", "next_change"])
def test_a_time_without_a_zone_is_refused(table: PriceTable, method: str) -> None:
    """A naive time says nothing about Beijing, and the error says what to give."""
    with pytest.raises(ValueError, match=r"no time zone.*datetime\.now\(timezone\.utc\)"):
        getattr(table, method)(NAIVE)


def test_a_price_at_a_time_without_a_zone_is_refused(table: PriceTable) -> None:
    """The same holds for prices, known model or not."""
    for model in ("deepseek-flash", "nobody"):
        with pytest.raises(ValueError, match="no time zone"):
            table.find(model, NAIVE)


@pytest.mark.parametrize(
    ("model", "at", "price"),
    [
        ("deepseek-flash", "2026-11-23T20:00", FLASH),
        ("deepseek-flash", "2026-11-23T10:00", FLASH_PEAK),
        ("deepseek-v4-flash", "2026-11-23T20:00", FLASH),
        ("deepseek-v4-flash-vision-exp", "2026-11-23T20:00", FLASH),
        ("deepseek-chat", "2026-11-23T20:00", FLASH),
        ("deepseek-reasoner", "2026-11-23T10:00", FLASH_PEAK),
        ("deepseek-v4-pro", "2026-11-23T10:00", Price(0.044, 1.32, 3.96, peak=True)),
        ("deepseek-v4-pro", "2026-07-01T10:00", Price(0.003625, 0.435, 0.87)),
        ("deepseek-v4-flash", "2026-09-10T11:59", Price(0.014, 0.44, 1.32, peak=True)),
        ("deepseek-v4-flash", "2026-09-10T12:00", FLASH),
        ("deepseek-chat", "2025-03-01T10:00", Price(0.07, 0.27, 1.10)),
        ("deepseek-reasoner", "2025-03-01T10:00", Price(0.14, 0.55, 2.19)),
        ("deepseek-reasoner", "2025-10-01T10:00", Price(0.028, 0.28, 0.42)),
        ("deepseek-chat", "2026-08-01T10:00", Price(0.0028, 0.14, 0.28)),
    ],
)
def test_a_name_has_the_price_of_its_day(table: PriceTable, model: str, at: str, price: Price) -> None:
    """Ids, aliases and retired names are billed as what answered to them at that time."""
    assert table.price(model, beijing(at)) == price


def test_an_unknown_model_is_an_error_with_the_near_names(table: PriceTable) -> None:
    """``price`` raises and suggests; ``find`` says None."""
    at = beijing("2026-11-23T10:00")
    assert table.find("deepseek-flsh", at) is None
    with pytest.raises(ConfigError, match=r"'deepseek-flsh'.*Did you mean 'deepseek-flash'") as caught:
        table.price("deepseek-flsh", at)
    assert "deepseek-flash" in caught.value.near  # type: ignore[attr-defined]


def test_a_model_unlike_any_other_lists_the_known_ones(table: PriceTable) -> None:
    """Where nothing is near, the error names what there is."""
    with pytest.raises(ConfigError, match=r"Known: deepseek-chat, .*deepseek-v4-pro"):
        table.price("zzz", beijing("2026-11-23T10:00"))


def test_a_model_before_its_first_price_says_so(table: PriceTable) -> None:
    """A known name at a time before it existed is not called unknown."""
    with pytest.raises(ConfigError, match="on 2026-01-05 is not known: it began later"):
        table.price("deepseek-flash", beijing("2026-01-05T10:00"))


@pytest.mark.parametrize(
    ("at", "change"),
    [
        ("2026-11-23T08:00", "2026-11-23T09:00"),
        ("2026-11-23T09:00", "2026-11-23T12:00"),
        ("2026-11-23T12:00", "2026-11-23T14:00"),
        ("2026-11-27T18:00", "2026-11-30T09:00"),  # over a weekend
        ("2026-09-30T18:00", "2026-10-08T09:00"),  # over the National Day week
        ("2025-01-01T00:00", "2026-08-17T09:00"),  # to the first peak hour ever
    ],
)
def test_the_next_change_is_where_peak_begins_or_ends(table: PriceTable, at: str, change: str) -> None:
    """Weekends, holidays and the time before peak hours are leapt over."""
    assert table.next_change(beijing(at)) == beijing(change)


@given(at=st.datetimes(NAIVE.replace(month=7), NAIVE.replace(year=2027), timezones=st.just(UTC)))
def test_nothing_changes_before_the_next_change(table: PriceTable, at: datetime) -> None:
    """Until just before it peak stays as it is; from it on, it is the other way round."""
    change = table.next_change(at)
    assert change is not None
    assert change > at
    assert table.is_peak(change) != table.is_peak(at)
    assert table.is_peak(change - timedelta(microseconds=1)) == table.is_peak(at)
    assert table.is_peak(at + (change - at) / 2) == table.is_peak(at)


def test_a_table_without_peak_hours_never_changes() -> None:
    """Another provider's table may have no peak hours at all."""
    row: dict[str, Any] = {
        "valid_from": "2026-01-01T00:00:00Z",
        "model": "local",
        "aliases": [],
        "off_peak": {"hit": 0, "miss": 0, "output": 0},
        "peak": None,
    }
    table = PriceTable.from_data({"rows": [row], "peak": {"hours": [], "rules": []}}, {"years": {}})
    at = beijing("2026-11-23T10:00")
    assert table.next_change(at) is None
    assert table.price("local", at).cost_usd(output_tokens=10**9) == 0.0
