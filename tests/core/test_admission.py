"""Admission on virtual time: who may start, and what the limit and the breaker learn."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deepseek_nb.core.admission import AGEING_S, Admission, Ticket, Tuning
from deepseek_nb.core.level import Share

BULK, INTERACTIVE = 2, 5
STRICT = Tuning(pardons=0.0)
"""Every refusal counts."""


def make(rng: Callable[[], float] = lambda: 0.5, **tuning: float) -> Admission:
    return Admission(rng=rng, tuning=Tuning(**{"pardons": 0.0, **tuning}))  # type: ignore[arg-type]


def fill(gate: Admission, count: int, now: float = 0.0) -> list[Ticket]:
    """Ask ``count`` times and give what may start."""
    for _ in range(count):
        gate.ask(BULK, now)
    return gate.admit(now)


# ------------------------------------------------------------------------------------------- lanes


@pytest.mark.parametrize("lane", [0, 6, -1])
def test_there_are_five_lanes(lane: int) -> None:
    with pytest.raises(ValueError, match="priority is 1 to 5"):
        make().ask(lane, 0.0)


def test_first_come_first_served_within_a_lane() -> None:
    gate = make(start=2)
    tickets = [gate.ask(BULK, 0.0) for _ in range(4)]
    assert gate.admit(0.0) == tickets[:2]
    assert gate.admit(0.0) == []
    gate.answered(tickets[0], 1.0)
    assert gate.admit(1.0) == [tickets[2]]
    assert gate.waiting == 1


def test_who_has_waited_elsewhere_stands_where_it_would_have_stood() -> None:
    gate = make(start=1)
    [ahead] = fill(gate, 1)
    second, first = gate.ask(BULK, 8.0), gate.ask(BULK, 9.0, since_s=3.0)
    assert first.asked_s == 3.0
    gate.answered(ahead, 10.0)
    assert gate.admit(10.0) == [first]
    gate.answered(first, 11.0)
    assert gate.admit(11.0)[0] is second


def test_a_higher_lane_goes_first() -> None:
    gate = make(start=1)
    low, middle, high = gate.ask(1, 0.0), gate.ask(2, 0.0), gate.ask(3, 0.0)
    order = []
    for now in (1.0, 2.0, 3.0):
        [ticket] = gate.admit(now)
        order.append(ticket)
        gate.answered(ticket, now)
    assert order == [high, middle, low]


@pytest.mark.parametrize(("later_s", "low_goes_first"), [(AGEING_S - 1, False), (AGEING_S + 1, True)])
def test_who_waits_long_rises_a_lane(later_s: float, low_goes_first: bool) -> None:
    """A lane is worth a minute, so nobody waits for ever."""
    gate = make(start=1)
    low, high = gate.ask(1, 0.0), gate.ask(2, later_s)
    assert gate.admit(later_s) == [low if low_goes_first else high]


def test_interactive_calls_do_not_wait_for_the_limit() -> None:
    gate = make(start=1)
    bulk = fill(gate, 3)
    calls = [gate.ask(4, 1.0), gate.ask(5, 1.0)]
    assert gate.admit(1.0) == calls[::-1]
    assert len(bulk) == gate.held == 1
    gate.answered(calls[0], 2.0)
    assert gate.held == 1


def test_bulk_yields_while_an_interactive_call_is_refused() -> None:
    gate = make(start=8)
    call = gate.ask(INTERACTIVE, 0.0)
    gate.admit(0.0)
    wait_s = gate.refused(call, 0.1, overloaded=False)
    assert 0.2 <= wait_s <= 0.5
    gate.ask(BULK, 0.1)
    assert gate.admit(9.0) == []
    gate.again(call, 9.0)
    assert gate.admit(9.0)[0] is call


@pytest.mark.parametrize("end", ["again", "leave"])
def test_bulk_goes_on_when_the_interactive_call_is_in_or_gone(end: str) -> None:
    gate = make()
    call = gate.ask(INTERACTIVE, 0.0)
    gate.admit(0.0)
    gate.refused(call, 0.1, overloaded=True)
    bulk = gate.ask(BULK, 0.1)
    if end == "again":
        gate.again(call, 2.0)
    else:
        gate.leave(call, 2.0)
    assert bulk in gate.admit(2.0)


# --------------------------------------------------------------------------------------- the limit


def test_a_first_token_with_all_places_held_raises_the_limit() -> None:
    gate = make(start=10)
    tickets = fill(gate, 20)
    gate.first_token(0.5, tickets[0])
    assert gate.limit == 11.0
    gate.first_token(0.6)  # without its ticket, as well
    assert gate.limit == 12.0


def test_a_first_token_with_places_to_spare_shows_nothing() -> None:
    gate = make(start=10)
    [ticket, *_] = fill(gate, 7)
    gate.first_token(0.5, ticket)
    assert gate.limit == 10.0


def test_the_step_starts_small_after_a_refusal_and_doubles() -> None:
    gate = make(start=10, doubling_s=1.0)
    tickets = fill(gate, 20)
    gate.refused(tickets[0], 1.0, overloaded=False)
    steps = []
    for seconds in (0.0, 1.0, 2.0, 5.0, 6.0, 60.0):
        gate.level.limit = gate.held = 9
        gate.first_token(1.0 + seconds)
        steps.append(gate.limit - 9)
    assert steps == pytest.approx([0.02, 0.04, 0.08, 0.64, 1.0, 1.0])


def test_the_limit_stops_at_its_ceiling() -> None:
    gate = make(start=10, most=10.5)
    [ticket, *_] = fill(gate, 20)
    gate.first_token(0.5, ticket)
    assert gate.limit == 10.5


@pytest.mark.parametrize(("overloaded", "cut"), [(False, 0.85), (True, 0.8)])
def test_a_refusal_sets_the_limit_below_what_is_held(overloaded: bool, cut: float) -> None:
    gate = make(start=100)
    tickets = fill(gate, 41)
    gate.refused(tickets[0], 5.0, overloaded=overloaded)
    assert gate.held == 40
    assert gate.limit == pytest.approx(40 * cut)


def test_at_most_one_cut_a_second() -> None:
    """A further 429 still says how many may be held; a further 503 says nothing."""
    gate = make(start=100)
    tickets = fill(gate, 41)
    gate.refused(tickets[0], 5.0, overloaded=False)
    gate.refused(tickets[1], 5.5, overloaded=True)
    assert gate.limit == pytest.approx(34.0)
    for ticket in tickets[2:20]:
        gate.leave(ticket, 5.6)
    gate.refused(tickets[20], 5.7, overloaded=False)
    assert gate.limit == gate.held == 20
    gate.refused(tickets[21], 6.1, overloaded=False)
    assert gate.limit == pytest.approx(19 * 0.85)


def test_the_limit_never_falls_below_one_place() -> None:
    gate = make(start=1)
    for second in range(20):
        now = float(second * 3)
        [ticket] = fill(gate, 1, now)
        gate.refused(ticket, now + 0.1, overloaded=False)
    assert gate.limit == 1.0
    assert len(fill(gate, 3, 100.0)) == 1


def test_nothing_new_is_sent_for_a_moment_after_a_refusal_and_the_refused_goes_first() -> None:
    gate = make(start=4, hold_s=0.7)
    tickets = fill(gate, 6)
    assert gate.wake_at(0.0) is None  # only an event can change the answer
    wait_s = gate.refused(tickets[0], 1.0, overloaded=False)
    assert wait_s == 0.0
    gate.again(tickets[0], 1.0)
    for ticket in tickets[1:]:
        gate.answered(ticket, 1.1)
    assert gate.admit(1.1) == []
    assert gate.wake_at(1.1) == pytest.approx(1.7)
    assert gate.admit(1.69) == []
    assert gate.admit(1.7)[0] is tickets[0]
    assert gate.wake_at(1.7) is None


def test_nobody_is_woken_for_an_empty_line() -> None:
    gate = make()
    [ticket] = fill(gate, 1)
    gate.refused(ticket, 1.0, overloaded=False)
    assert gate.wake_at(1.0) is None


def test_a_row_that_met_a_503_waits_longer_each_time() -> None:
    gate = make(rng=lambda: 1.0)
    [ticket] = fill(gate, 1)
    waits_s = []
    for second in range(8):
        now = second * 10.0
        waits_s.append(gate.refused(ticket, now, overloaded=True))
        gate.again(ticket, now)
        assert gate.admit(now + 5.0) == [ticket]
        gate.first_token(now + 5.5, ticket)
    assert waits_s == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


# ------------------------------------------------------------------------------- the number in a 429


def test_the_number_inside_a_429_is_a_ceiling_for_a_while() -> None:
    gate = make(start=20)
    tickets = fill(gate, 40)
    gate.refused(tickets[0], 1.0, overloaded=False, named_limit=6)
    for ticket in tickets[1:]:
        gate.answered(ticket, 2.0)
    assert len(gate.admit(3.0)) == 5  # one is left for an interactive call
    assert gate.admit(5.9) == []
    assert len(gate.admit(6.0)) == int(gate.limit) - 5


def test_a_named_limit_leaves_a_place() -> None:
    gate = make()
    [ticket] = fill(gate, 1)
    gate.refused(ticket, 1.0, overloaded=False, named_limit=0)
    assert len(fill(gate, 3, 3.0)) == 1


def test_a_later_request_above_the_number_that_gets_in_ends_it() -> None:
    gate = make(start=20)
    tickets = fill(gate, 10)
    later = gate.ask(BULK, 0.5)
    gate.admit(0.5)
    gate.refused(tickets[0], 0.6, overloaded=False, named_limit=5)
    for ticket in tickets[1:]:
        gate.answered(ticket, 1.0)  # sent with it: the server may have counted in another order
    assert len(fill(gate, 20, 2.0)) == 3
    gate.first_token(2.1, later)
    assert len(gate.admit(2.1)) == int(gate.limit) - 4


def test_the_number_is_not_believed_where_refusals_are_noise() -> None:
    gate = make(start=20)
    gate.noise.after_success = Share(0.1)
    tickets = fill(gate, 10)
    gate.refused(tickets[0], 1.0, overloaded=False, named_limit=2)
    for ticket in tickets[1:]:
        gate.answered(ticket, 2.0)
    assert len(fill(gate, 20, 3.0)) == int(gate.limit) == 7


# -------------------------------------------------------------------------------------- the breaker


def tripped(gate: Admission, now: float = 100.0) -> list[Ticket]:
    """Open the breaker; gives the tickets that were refused."""
    tickets = fill(gate, 10, now - 50.0)
    for ticket in tickets:
        gate.refused(ticket, now, overloaded=True)
    return tickets


@pytest.mark.parametrize("how", ["503", "fault", "both"])
def test_ten_failures_and_silence_open_the_breaker(how: str) -> None:
    gate = make()
    tickets = fill(gate, 12)
    for i, ticket in enumerate(tickets[:10]):
        assert not gate.open
        if how == "503" or (how == "both" and i % 2):
            gate.refused(ticket, 4.0, overloaded=True)
        else:
            gate.faulted(ticket, 4.0)
    assert gate.open
    assert gate.open_since_s == 4.0
    assert gate.limit == 1.0


def test_a_429_never_opens_the_breaker() -> None:
    gate = make()
    for ticket in fill(gate, 16):
        gate.refused(ticket, 50.0, overloaded=False)
    assert not gate.open


@pytest.mark.parametrize("sign", ["first_token", "answered"])
def test_a_living_server_does_not_open_the_breaker(sign: str) -> None:
    """A token counts as much as an answer: long answers leave seconds without one."""
    gate = make()
    tickets = fill(gate, 16)
    for ticket in tickets[:9]:
        gate.refused(ticket, 10.0, overloaded=True)
    if sign == "answered":
        gate.answered(tickets[15], 11.0)
    else:
        gate.first_token(11.0, tickets[15])
    for ticket in tickets[9:14]:
        gate.refused(ticket, 20.0, overloaded=True)
    assert not gate.open


def test_ten_failures_at_once_after_an_answer_do_not_open_it() -> None:
    gate = make()
    tickets = fill(gate, 12)
    gate.answered(tickets[0], 1.0)
    for ticket in tickets[1:]:
        gate.refused(ticket, 3.9, overloaded=True)
    assert not gate.open


@pytest.mark.parametrize("failure", ["refused", "faulted"])
def test_probes_go_one_at_a_time_at_most_five_seconds_apart(failure: str) -> None:
    gate = make(rng=lambda: 0.999)
    for ticket in tripped(gate):
        gate.again(ticket, 100.0)
    now, gaps_s = 100.0, []
    for _ in range(6):
        assert gate.admit(now) == []
        due = gate.wake_at(now)
        assert due is not None
        gaps_s.append(due - now)
        now = due
        [probe] = gate.admit(now)
        assert gate.admit(now + 1.0) == []  # one at a time
        if failure == "refused":
            assert gate.refused(probe, now, overloaded=True) == 0.0
        else:
            gate.faulted(probe, now)
        gate.again(probe, now)
    assert gaps_s == pytest.approx([1.0, 2.0, 4.0, 5.0, 5.0, 5.0], abs=0.06)


@pytest.mark.parametrize("sign", ["first_token", "answered"])
def test_a_probe_that_gets_through_closes_the_breaker(sign: str) -> None:
    gate = make()
    gate.level.good = 30.0
    for ticket in tripped(gate):
        gate.again(ticket, 100.0)
    [probe] = gate.admit(102.0)
    assert gate.closings == 0
    if sign == "first_token":
        gate.first_token(102.5, probe)
    else:
        gate.answered(probe, 102.5)
    assert not gate.open
    assert gate.closings == 1
    assert gate.open_since_s is None
    assert 14.0 <= gate.limit <= 16.0  # half of what was good
    assert len(gate.admit(102.5)) >= 9  # at once


def test_interactive_calls_wait_longer_while_the_server_is_down() -> None:
    """They keep trying, and the probe does not wait for them."""
    gate = make()
    call = gate.ask(INTERACTIVE, 0.0)
    tickets = tripped(gate)
    assert gate.refused(call, 100.0, overloaded=True) == pytest.approx(gate.level.hold_until_s - 100.0)
    gate.again(tickets[0], 100.0)
    assert gate.admit(105.0) == [tickets[0]]


# ------------------------------------------------------------------------------------- going away


@pytest.mark.parametrize("lane", [BULK, INTERACTIVE])
def test_leaving_while_waiting_frees_the_line(lane: int) -> None:
    gate = make(start=1)
    fill(gate, 1)
    ticket = gate.ask(lane, 0.0)
    gate.leave(ticket, 1.0)
    assert gate.waiting == 0
    assert gate.admit(1.0) == []


def test_a_cancelled_waiter_makes_room_for_the_next() -> None:
    gate = make(start=1)
    first, second, third = (gate.ask(BULK, 0.0) for _ in range(3))
    assert gate.admit(0.0) == [first]
    gate.leave(second, 1.0)
    gate.leave(first, 1.0)
    assert gate.admit(1.0) == [third]


@pytest.mark.parametrize("lane", [BULK, INTERACTIVE])
@pytest.mark.parametrize("state", ["held", "refused", "answered", "faulted", "left"])
def test_leaving_twice_or_late_gives_nothing_back_twice(lane: int, state: str) -> None:
    gate = make(start=4)
    fill(gate, 2)
    ticket = gate.ask(lane, 0.0)
    gate.admit(0.0)
    if state == "refused":
        gate.refused(ticket, 1.0, overloaded=True)
    elif state == "answered":
        gate.answered(ticket, 1.0)
    elif state == "faulted":
        gate.faulted(ticket, 1.0)
    elif state == "left":
        gate.leave(ticket, 1.0)
    gate.leave(ticket, 2.0)
    assert gate.held == 2
    assert gate.passing == gate._yielding == 0


# ------------------------------------------------------------------------------------------- noise


def play(gate: Admission, refuses: Callable[[int], bool], *, rounds: int, service_s: float = 5.0) -> float:
    """A server that answers in ``service_s`` and refuses by how many it has; gives the mean limit."""
    now, running, limits = 0.0, list[tuple[float, Ticket]](), []
    for _ in range(5000):
        gate.ask(BULK, 0.0)
    for _ in range(rounds):
        now += 0.1
        for due, ticket in [pair for pair in running if pair[0] <= now]:
            running.remove((due, ticket))
            gate.answered(ticket, now)
        for ticket in gate.admit(now):
            if refuses(len(running)):
                gate.refused(ticket, now, overloaded=True)
                gate.again(ticket, now)
            else:
                running.append((now + service_s, ticket))
                gate.first_token(now, ticket)
        limits.append(gate.limit)
    return sum(limits) / len(limits)


def test_random_refusals_do_not_collapse_the_limit() -> None:
    """A fifth of all requests refused, 40 places: most of them stay in use."""
    chance = random.Random(1)
    gate = Admission(rng=chance.random)
    mean = play(gate, lambda n: n >= 40 or chance.random() < 0.2, rounds=1500)
    assert mean > 30
    assert gate.noise.share == pytest.approx(0.2, abs=0.12)


def test_without_pardons_they_would() -> None:
    chance = random.Random(1)
    gate = Admission(rng=chance.random, tuning=STRICT)
    assert play(gate, lambda n: n >= 40 or chance.random() < 0.2, rounds=1500) < 8


def test_a_server_that_refuses_only_when_full_shows_no_noise() -> None:
    gate = Admission(rng=random.Random(1).random)
    mean = play(gate, lambda n: n >= 40, rounds=1500)
    assert 30 < mean < 45
    assert gate.noise.share < 0.02


def test_the_first_refusals_are_pardoned_and_change_nothing() -> None:
    gate = Admission(rng=lambda: 0.5)
    tickets = fill(gate, 16)
    for ticket in tickets[:8]:
        gate.refused(ticket, 0.2, overloaded=False, named_limit=3)
    assert gate.limit == 16.0
    assert len(fill(gate, 8, 0.2)) == 8
    gate.refused(tickets[8], 0.3, overloaded=False)
    assert gate.limit == pytest.approx(15 * 0.85)


def test_pardoned_503s_open_the_breaker_all_the_same() -> None:
    gate = Admission(rng=lambda: 0.5, tuning=Tuning(pardons=100.0))
    for ticket in fill(gate, 12):
        gate.refused(ticket, 4.0, overloaded=True)
    assert gate.open


def test_clumps_of_refusals_are_less_of_a_noise() -> None:
    """Other kernels' competition refuses several in a row; noise does not."""
    even, clumped = (Admission(rng=lambda: 0.5).noise for _ in range(2))
    for noise, in_a_row in ((even, 0.1), (clumped, 0.5)):
        noise.after_success, noise.after_refusal = Share(0.1), Share(in_a_row)
    assert even.share == pytest.approx(0.1)
    assert clumped.share == 0.0


# ------------------------------------------------------------------------------- whatever happens


class AnyOrder(RuleBasedStateMachine):
    """Events in any order: nobody is admitted twice, lost, or counted wrongly."""

    @initialize(seed=st.integers(0, 2**16), pardons=st.sampled_from([0.0, 8.0]))
    def begin(self, seed: int, pardons: float) -> None:
        self.gate = Admission(rng=random.Random(seed).random, tuning=Tuning(pardons=pardons, most=20.0))
        self.now = 0.0
        self.waiting: list[Ticket] = []
        self.held: list[Ticket] = []
        self.away: list[Ticket] = []

    def pump(self) -> None:
        for ticket in self.gate.admit(self.now):
            assert ticket.held
            self.waiting.remove(ticket)  # fails when it was admitted before
            self.held.append(ticket)

    def take(self, tickets: list[Ticket], data: st.DataObject) -> Ticket:
        return tickets.pop(data.draw(st.integers(0, len(tickets) - 1)))

    @rule(lane=st.integers(1, 5), count=st.integers(1, 8))
    def ask(self, lane: int, count: int) -> None:
        self.waiting += [self.gate.ask(lane, self.now) for _ in range(count)]
        self.pump()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 1.0, 7.0, 100.0]))
    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.pump()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["token", "token without ticket"]))
    def first_token(self, data: st.DataObject, how: str) -> None:
        ticket = self.held[data.draw(st.integers(0, len(self.held) - 1))]
        self.gate.first_token(self.now, ticket if how == "token" else None)
        self.pump()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def answered(self, data: st.DataObject) -> None:
        self.gate.answered(self.take(self.held, data), self.now)
        self.pump()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), overloaded=st.booleans(), number=st.none() | st.integers(0, 30))
    def refused(self, data: st.DataObject, overloaded: bool, number: int | None) -> None:
        ticket = self.take(self.held, data)
        named_limit = None if overloaded else number
        wait_s = self.gate.refused(ticket, self.now, overloaded=overloaded, named_limit=named_limit)
        assert 0.0 <= wait_s <= 10.0
        self.away.append(ticket)
        self.pump()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), all_of_them=st.booleans())
    def faulted(self, data: st.DataObject, all_of_them: bool) -> None:
        for _ in range(len(self.held) if all_of_them else 1):
            ticket = self.take(self.held, data)
            self.gate.faulted(ticket, self.now)
            self.away.append(ticket)
        self.pump()

    @precondition(lambda self: self.away)
    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        ticket = self.take(self.away, data)
        self.waiting.append(ticket)
        self.gate.again(ticket, self.now)
        self.pump()

    @precondition(lambda self: self.held or self.waiting or self.away)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        state = data.draw(st.sampled_from([s for s in (self.held, self.waiting, self.away) if s]))
        self.gate.leave(self.take(state, data), self.now)
        self.pump()

    @invariant()
    def the_counts_are_right(self) -> None:
        bulk = [t for t in self.held if not t.interactive]
        assert self.gate.held == len(bulk)
        assert self.gate.passing == len(self.held) - len(bulk)
        assert self.gate._yielding == sum(t.yielding for t in self.away)
        assert self.gate.waiting == len(self.waiting)
        assert not any(t.held for t in self.waiting + self.away)
        if not self.gate.open:
            assert not any(t.interactive for t in self.waiting)

    @invariant()
    def the_limit_stays_in_bounds(self) -> None:
        assert 1.0 <= self.gate.limit <= 20.0
        assert 0 <= self.gate.held <= 20
        assert 0.0 <= self.gate.noise.share <= 0.6
        assert (self.gate.open_since_s is None) is (not self.gate.open)

    @invariant()
    def a_row_may_always_be_in_flight(self) -> None:
        """Unless it waits for a moment that :meth:`wake_at` knows, or for an interactive call."""
        yields = any(t.yielding for t in self.away) and not self.gate.open
        probed = self.gate.open and self.gate.passing
        if self.waiting and not self.gate.held and not yields and not probed:
            wake_at = self.gate.wake_at(self.now)
            assert wake_at is not None
            assert self.now < wake_at <= self.now + 5.0

    def teardown(self) -> None:
        """The server recovers: everybody is served."""
        for ticket in self.away:
            self.gate.again(ticket, self.now)
        self.waiting += self.away
        self.away = []
        for _ in range(5000):
            self.now += 1.0
            self.pump()
            for ticket in self.held:
                self.gate.answered(ticket, self.now)
            self.held.clear()
            if not self.waiting:
                break
        assert not self.waiting
        assert self.gate.held == 0


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_calls_do_not_storm_a_server_that_is_down() -> None:
    """One interactive call at a time is the probe; the others wait for what it shows, 5 s at most."""
    gate = make(rng=lambda: 0.999)
    tripped(gate)
    calls = [gate.ask(INTERACTIVE, 100.0) for _ in range(5)]
    assert gate.admit(100.0) == []
    assert gate.wake_at(100.0) == gate.level.hold_until_s
    [probe] = gate.admit(102.0)
    assert gate.admit(103.0) == []
    gate.first_token(103.5, probe)
    assert set(gate.admit(103.5)) == set(calls) - {probe}, "it lives: everybody goes"


def test_a_probe_that_hears_nothing_holds_nobody_for_long() -> None:
    """After five seconds in line a call goes whatever the probe does."""
    gate = make(rng=lambda: 0.999)
    tripped(gate)
    first, second = gate.ask(INTERACTIVE, 100.0), gate.ask(INTERACTIVE, 101.5)
    assert gate.admit(102.0) == [first]
    assert gate.admit(106.4) == []
    assert gate.wake_at(106.4) == 106.5
    assert gate.admit(106.5) == [second]


def test_a_server_that_hangs_what_is_too_much_is_asked_for_less() -> None:
    """Rows break after far longer than an answer takes, and nothing sent later gets in: half as many."""
    gate = make(start=32)
    now, held = 0.0, fill(gate, 200)
    for _ in range(60):  # the server answers 4 at a time and hangs the others
        for ticket in held[:4]:
            gate.first_token(now + 0.5, ticket)
            gate.answered(ticket, now + 1.0)
        for ticket in held[4:]:
            gate.faulted(ticket, now + 30.0)
            gate.again(ticket, now + 30.0)
        now += 31.0
        held = gate.admit(now)
    assert gate.limit <= 10


def test_hangs_that_have_nothing_to_do_with_the_load_change_nothing() -> None:
    """One request in ten hangs, others that were sent later get in: bad luck."""
    gate = make(start=32)
    now, held = 0.0, fill(gate, 400)
    for _ in range(20):
        for number, ticket in enumerate(held):
            if number % 10 == 3:
                gate.faulted(ticket, now + 30.0)
                gate.again(ticket, now + 30.0)
            else:
                gate.first_token(now + 0.5, ticket)
                gate.answered(ticket, now + 1.0)
        now += 5.0
        held = gate.admit(now) or held[:0]
    assert gate.limit >= 32
