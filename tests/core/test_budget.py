"""No order of events takes a budget past its limit, and every reservation ends once."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from deepseek_nb.core.budget import Budget, worst_case_usd
from deepseek_nb.core.errors import BudgetExceeded, Disposition
from deepseek_nb.core.prices import Price

LIMIT_USD = 1.0
JOB_LIMIT_USD = 0.7
AMOUNTS = st.floats(0, 0.4, allow_nan=False)


def test_the_worst_case_has_nothing_cached_and_a_full_answer() -> None:
    """A request cannot cost more than every prompt token missed and every answer token used."""
    assert worst_case_usd(1_000_000, 500_000, Price(0.003, 0.15, 0.60)) == pytest.approx(0.45)


def test_a_request_is_refused_before_the_limit_is_passed() -> None:
    """The error says limit, spent, reserved, the worst case and what to do; nothing is booked."""
    budget = Budget(1.00, name="budget of the job")
    budget.reserve("a", 0.50)
    budget.settle("a", 0.40)
    budget.reserve("b", 0.30)
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve("c", 0.31)
    text = str(caught.value)
    assert "The budget of the job of $1.00 has no room" in text
    assert "$0.31 at most (spent $0.40, reserved $0.30)" in text
    assert "Raise budget_usd" in text
    assert caught.value.disposition is Disposition.PAUSE
    assert (budget.spent_usd, budget.reserved_usd, budget.left_usd) == (0.40, 0.30, 0.30)
    budget.reserve("c", 0.30)
    assert budget.left_usd == 0.0


@pytest.mark.parametrize(("worst_usd", "fits_later"), [(0.6, True), (0.61, False)])
def test_a_refusal_tells_whether_waiting_could_help(worst_usd: float, fits_later: bool) -> None:
    """With requests in flight, their reservations may still come back."""
    budget = Budget(1.00, spent_usd=0.4)
    budget.reserve("in flight", 0.5)
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve("next", worst_usd)
    assert caught.value.fits_later is fits_later  # type: ignore[attr-defined]


def test_a_request_that_was_cut_off_is_booked_apart_and_counts() -> None:
    """What may have been charged is not called spent, and is not spent again."""
    budget = Budget(1.00)
    budget.reserve("a", 0.6)
    budget.settle("a", 0.5, certain=False)
    assert (budget.spent_usd, budget.unknown_usd, budget.left_usd) == (0.0, 0.5, 0.5)
    with pytest.raises(BudgetExceeded, match=r"\$0\.50 perhaps charged"):
        budget.reserve("b", 0.51)


def test_without_any_limit_nothing_need_be_set_aside() -> None:
    """A limit around it counts as one of its own."""
    session = Budget(None)
    assert not session.limited
    assert not Budget(None, parent=session).limited
    assert Budget(1.0, parent=session).limited
    assert Budget(None, parent=Budget(1.0)).limited
    session.reserve("a", 0.0)
    session.settle("a", 0.12)
    assert (session.spent_usd, session.overrun_usd) == (0.12, 0.0)


def test_a_cost_above_its_reservation_is_booked_and_shown() -> None:
    """It was charged, so it counts, even past the limit; then nothing more is sent."""
    budget = Budget(0.10)
    budget.reserve("a", 0.08)
    budget.settle("a", 0.12)
    assert budget.spent_usd == 0.12
    assert budget.overrun_usd == 0.04
    assert budget.left_usd == 0.0
    with pytest.raises(BudgetExceeded):
        budget.reserve("b", 0.000001)


def test_nothing_is_lost_when_a_reservation_is_released() -> None:
    """A refused request leaves no trace, not even a rounding one."""
    budget = Budget(1.00)
    for number in range(1000):
        budget.reserve(number, 0.1 / 3)
        budget.release(number)
    assert (budget.left_usd, budget.reserved_usd, budget.spent_usd) == (1.00, 0.0, 0.0)


def test_ten_dimes_fit_in_a_dollar() -> None:
    """Sums do not drift, as adding floats would."""
    budget = Budget(1.00)
    for number in range(10):
        budget.reserve(number, 0.1)
        budget.settle(number, 0.1)
    assert budget.spent_usd == 1.00
    assert budget.left_usd == 0.0


def test_a_reservation_ends_once() -> None:
    """Ending twice, ending what never began and opening twice are errors of the program."""
    budget = Budget(1.00)
    budget.reserve("a", 0.1)
    with pytest.raises(ValueError, match="already open"):
        budget.reserve("a", 0.1)
    budget.settle("a", 0.1)
    for end in (lambda: budget.settle("a", 0.1), lambda: budget.release("a"), lambda: budget.release("b")):
        with pytest.raises(ValueError, match="no open reservation"):
            end()
    budget.reserve("a", 0.2)
    budget.release("a")
    assert budget.spent_usd == 0.1


def test_without_a_limit_nothing_is_refused_and_all_is_counted() -> None:
    """None means no limit, not no bookkeeping."""
    budget = Budget(None)
    budget.reserve("a", 1e6)
    budget.settle("a", 1e6)
    assert (budget.limit_usd, budget.left_usd, budget.near_limit) == (None, None, False)
    assert budget.spent_usd == 1e6
    assert repr(budget) == "<Budget 'budget': no limit, spent $1,000,000.00, reserved $0.00>"


def test_a_limit_of_zero_sends_nothing_that_costs() -> None:
    """What is free, as a cached answer or a local model, still goes."""
    budget = Budget(0)
    budget.reserve("free", 0)
    with pytest.raises(BudgetExceeded):
        budget.reserve("paid", 0.000001)


@pytest.mark.parametrize(("spent_usd", "unknown_usd", "near"), [(7.9, 0, False), (8, 0, True), (7, 1, True)])
def test_the_alarm_is_at_80_percent(spent_usd: float, unknown_usd: float, near: bool) -> None:
    """Spent and perhaps charged count; what is only reserved does not."""
    budget = Budget(10, spent_usd=spent_usd, unknown_usd=unknown_usd)
    budget.reserve("in flight", 0.5)
    assert budget.near_limit is near


@pytest.mark.parametrize("amount", [-0.01, float("nan"), float("inf")])
def test_amounts_are_zero_or_more(amount: float) -> None:
    """Negative, infinite and undefined amounts are refused wherever they come in, changing nothing."""
    budget = Budget(1.00)
    budget.reserve("a", 0.1)
    for call in (
        lambda: Budget(amount),
        lambda: Budget(1, spent_usd=amount),
        lambda: budget.reserve("b", amount),
        lambda: budget.settle("a", amount),
    ):
        with pytest.raises(ValueError, match="amount in US dollars"):
            call()
    budget.release("a")
    assert budget.left_usd == 1.00


def test_a_request_has_to_fit_in_every_budget_around_it() -> None:
    """A call inside a job inside a session: each refuses for itself, and none books alone."""
    session = Budget(1.00, name="budget of the session")
    job = Budget(0.60, parent=session, name="budget of the job")
    call = Budget(None, parent=job)
    other = Budget(None, parent=session)
    other.reserve("same name", 0.5)
    call.reserve("same name", 0.5)
    with pytest.raises(BudgetExceeded, match=r"budget of the job of \$0\.60"):
        call.reserve("too much for the job", 0.11)
    with pytest.raises(BudgetExceeded, match=r"budget of the session of \$1\.00"):
        call.reserve("too much for the session", 0.01)
    assert (call.reserved_usd, job.reserved_usd, session.reserved_usd) == (0.5, 0.5, 1.0)
    call.settle("same name", 0.2)
    other.release("same name")
    assert (call.spent_usd, job.spent_usd, session.spent_usd) == (0.2, 0.2, 0.2)
    assert call.left_usd == pytest.approx(0.4)


def test_a_resumed_job_goes_on_from_what_was_booked() -> None:
    """Yesterday's money counts against the job's limit, not again against today's session."""
    session = Budget(1.00)
    job = Budget(1.00, parent=session, spent_usd=0.5, unknown_usd=0.1)
    assert job.left_usd == 0.4
    assert session.left_usd == 1.00
    assert repr(job).endswith("limit $1.00, spent $0.50, $0.10 perhaps charged, reserved $0.00>")


class BudgetMachine(RuleBasedStateMachine):
    """Any order of reserving, settling (never above the reservation) and releasing."""

    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.session = Budget(LIMIT_USD)
        self.jobs = [Budget(JOB_LIMIT_USD, parent=self.session), Budget(None, parent=self.session)]
        self.opened = 0
        self.ended = 0

    @rule(target=reservations, job=st.integers(0, 1), worst_usd=AMOUNTS)
    def reserve(self, job: int, worst_usd: float) -> tuple[int, int, float] | None:
        before = [budget.left_usd for budget in (self.session, *self.jobs)]
        try:
            self.jobs[job].reserve(self.opened, worst_usd)
        except BudgetExceeded:
            assert [budget.left_usd for budget in (self.session, *self.jobs)] == before
            return None
        self.opened += 1
        return job, self.opened - 1, worst_usd

    @rule(held=consumes(reservations), share=st.floats(0, 1), certain=st.booleans())
    def settle(self, held: tuple[int, int, float] | None, share: float, certain: bool) -> None:
        if held:
            job, number, worst_usd = held
            self.jobs[job].settle(number, worst_usd * share, certain=certain)
            self.ended += 1
            with pytest.raises(ValueError, match="no open reservation"):
                self.jobs[job].release(number)

    @rule(held=consumes(reservations))
    def release(self, held: tuple[int, int, float] | None) -> None:
        if held:
            self.jobs[held[0]].release(held[1])
            self.ended += 1

    @invariant()
    def the_limit_holds(self) -> None:
        for budget in (self.session, self.jobs[0]):
            used_usd = budget.spent_usd + budget.unknown_usd + budget.reserved_usd
            assert used_usd <= (budget.limit_usd or 0) + 1e-9
            assert budget.overrun_usd == 0

    @invariant()
    def the_session_is_the_sum_of_its_jobs(self) -> None:
        for name in ("spent_usd", "unknown_usd", "reserved_usd"):
            assert getattr(self.session, name) == pytest.approx(sum(getattr(job, name) for job in self.jobs))

    @invariant()
    def nothing_stays_reserved_when_all_has_ended(self) -> None:
        if self.opened == self.ended:
            assert self.session.reserved_usd == 0.0


TestBudgetMachine = BudgetMachine.TestCase
