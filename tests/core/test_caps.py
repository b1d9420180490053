"""Days and months: no order of events on any number of kernels takes an account past its limit."""

from __future__ import annotations

import uuid
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_nb.adapters.spending import Spending
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.caps import Caps, starts_anew
from deepseek_nb.core.errors import BudgetExceeded

DAY = date(2026, 11, 30)


class Calendar:
    """A date that a test moves."""

    def __init__(self) -> None:
        self.today = DAY

    def __call__(self) -> date:
        return self.today


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


def kernel(folder, calendar, day_usd=1.0, month_usd=None, account="a") -> Budget:
    """The budget of a client whose account may spend so much."""
    ledger = Spending(folder / "spending.db", account)
    return Budget(None, parent=Caps(ledger, day_usd=day_usd, month_usd=month_usd, today=calendar))


def spend(budget: Budget, name: str, usd: float, worst_usd: float | None = None, **how: bool) -> None:
    budget.reserve(name, usd if worst_usd is None else worst_usd)
    budget.settle(name, usd, **how)


def test_kernels_of_one_account_spend_from_one_day(tmp_path, calendar):
    """The second one finds what the first one has spent; another account has a day of its own."""
    spend(kernel(tmp_path, calendar), "a", 0.7, 0.9)
    second = kernel(tmp_path, calendar)
    with pytest.raises(BudgetExceeded):
        second.reserve("b", 0.31)
    spend(second, "b", 0.3)
    kernel(tmp_path, calendar, account="other").reserve("c", 1.0)


def test_the_error_names_the_cap_and_when_it_starts_anew(tmp_path, calendar):
    budget = kernel(tmp_path, calendar, day_usd=5.0, month_usd=1.0)
    spend(budget, "a", 0.9)
    with pytest.raises(BudgetExceeded, match=r"budget of the month of \$1\.00 has no room") as caught:
        budget.reserve("b", 0.2)
    error = caught.value
    assert "starts anew at 2026-12-01 00:00 local time" in error.hint
    assert "budget_month_usd" in error.hint
    assert (error.cap, error.starts_anew) == ("budget of the month", "2026-12-01 00:00 local time")
    assert len(error._render_traceback_()) <= 5
    assert budget.left_usd == pytest.approx(0.1)


def test_a_new_day_has_its_money_and_the_month_goes_on(tmp_path, calendar):
    calendar.today = date(2026, 11, 28)
    budget = kernel(tmp_path, calendar, day_usd=1.0, month_usd=1.5)
    spend(budget, "a", 1.0)
    with pytest.raises(BudgetExceeded, match="budget of the day"):
        budget.reserve("b", 0.1)
    calendar.today += timedelta(days=1)
    spend(budget, "b", 0.5)
    with pytest.raises(BudgetExceeded, match="budget of the month"):
        budget.reserve("c", 0.1)
    calendar.today = date(2026, 12, 1)
    spend(budget, "c", 1.0)


def test_a_request_that_ends_after_midnight_belongs_to_the_day_it_was_sent_in(tmp_path, calendar):
    calendar.today = date(2026, 11, 28)
    budget = kernel(tmp_path, calendar)
    budget.reserve("late", 0.8)
    calendar.today = date(2026, 11, 29)
    budget.reserve("early", 1.0)
    budget.settle("late", 0.6)
    budget.settle("early", 0.3)
    ledger = Spending(tmp_path / "spending.db", "a")
    assert ledger.spent("2026-11-28") == (0.6, 0.0)
    assert ledger.spent("2026-11-29") == (0.3, 0.0)


def test_what_is_not_in_flight_is_not_kept_from_others(tmp_path, calendar):
    """An idle kernel has nothing set aside, whether its requests ended, failed or were refused."""
    first, second = kernel(tmp_path, calendar, month_usd=0.5), kernel(tmp_path, calendar)
    first.reserve("a", 0.1)
    with pytest.raises(BudgetExceeded, match="set aside by other processes"):
        second.reserve("b", 1.0)
    first.release("a")
    with pytest.raises(BudgetExceeded):
        first.reserve("too much for the month", 0.6)
    spend(second, "b", 1.0)


def test_what_was_cut_off_counts(tmp_path, calendar):
    spend(kernel(tmp_path, calendar), "a", 0.6, 0.9, certain=False)
    assert Spending(tmp_path / "spending.db", "a").spent(DAY.isoformat()) == (0.0, 0.6)
    with pytest.raises(BudgetExceeded, match=r"\$0\.60 perhaps charged"):
        kernel(tmp_path, calendar).reserve("b", 0.5)


def test_the_alarm_at_80_percent_is_given_once_for_each_cap_and_period(tmp_path, calendar):
    """By whichever kernel comes first; again for the next day, and for a limit that was raised."""
    first, second = kernel(tmp_path, calendar), kernel(tmp_path, calendar)
    spend(first, "a", 0.79)
    assert first.take_notices() == []
    spend(second, "b", 0.02)
    assert second.take_notices() == [
        "81% of the budget of the day is spent: $0.81 of $1.00. "
        "It starts anew at 2026-12-01 00:00 local time."
    ]
    spend(first, "c", 0.01)
    spend(second, "d", 0.01)
    assert first.take_notices() == second.take_notices() == []
    raised = kernel(tmp_path, calendar, day_usd=1.02)
    spend(raised, "e", 0.01)
    assert len(raised.take_notices()) == 1
    calendar.today += timedelta(days=1)
    spend(first, "f", 0.9)
    assert len(first.take_notices()) == 1


def test_how_it_stands_is_read_from_what_all_have_spent(tmp_path, calendar):
    ledger = Spending(tmp_path / "spending.db", "a")
    caps = Caps(ledger, day_usd=1.0, month_usd=None, today=calendar)
    mine = Budget(None, parent=caps)
    mine.reserve("in flight", 0.1)
    spend(mine, "a", 0.2)
    spend(kernel(tmp_path, calendar, day_usd=None, month_usd=9.0), "b", 0.3)
    assert caps.standing() == {"day": (pytest.approx(0.5), 1.0)}
    calendar.today += timedelta(days=1)
    assert caps.standing() == {"day": (0.0, 1.0)}


@pytest.mark.parametrize(
    ("today", "next_month"), [(DAY, date(2026, 12, 1)), (date(2026, 12, 31), date(2027, 1, 1))]
)
def test_the_next_period(today, next_month):
    assert starts_anew("day", today) == today + timedelta(days=1)
    assert starts_anew("month", today) == next_month


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # which kernel
        st.sampled_from(["reserve", "settle", "cut off", "release", "midnight"]),
        st.floats(0.001, 0.4),
        st.floats(0, 1),
    ),
    max_size=80,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("money") / "spending.db"


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_no_order_of_events_passes_a_day_or_a_month(file, steps):
    """Spent, perhaps charged and in flight, of all kernels together, whatever they do and when."""
    calendar, account = Calendar(), uuid.uuid4().hex
    ledgers = [Spending(file, account) for _ in range(3)]
    calendar.today = date(2026, 11, 28)
    kernels = [
        Budget(None, parent=Caps(ledger, day_usd=1.0, month_usd=1.7, today=calendar)) for ledger in ledgers
    ]
    flights: list[list[tuple[int, float, date]]] = [[], [], []]
    charged: dict[str, float] = {}
    for number, (who, what, worst_usd, share) in enumerate(steps):
        budget, mine = kernels[who], flights[who]
        if what == "midnight":
            calendar.today += timedelta(days=1)
        elif what == "reserve":
            try:
                budget.reserve(number, worst_usd)
            except BudgetExceeded:
                continue
            mine.append((number, worst_usd, calendar.today))
        elif mine:
            reservation, worst_usd, day = mine.pop(0)
            if what == "release":
                budget.release(reservation)
            else:
                budget.settle(reservation, worst_usd * share, certain=what == "settle")
                for period in (day.isoformat(), f"{day:%Y-%m}"):
                    charged[period] = charged.get(period, 0.0) + worst_usd * share
        in_flight = dict.fromkeys(charged, 0.0)
        for _, worst, day in (flight for flights_of_one in flights for flight in flights_of_one):
            for period in (day.isoformat(), f"{day:%Y-%m}"):
                in_flight[period] = in_flight.get(period, 0.0) + worst
        for period, usd in in_flight.items():
            assert usd + charged.get(period, 0.0) <= (1.0 if len(period) > 7 else 1.7) + 1e-9
    for who, mine in enumerate(flights):
        for reservation, _, _ in mine:
            kernels[who].release(reservation)
    ledger = Spending(file, account)
    for period in {*charged, DAY.isoformat(), f"{DAY:%Y-%m}"}:
        left_usd = 10.0 - charged.get(period, 0.0)
        assert ledger.draw(period, 10.0, 10.0, 0.0).usd == pytest.approx(left_usd), "nothing stays set aside"
