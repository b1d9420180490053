"""Kernels that share a level: rooms within the limit, one breaker, and a table that may be lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.core import fleet
from deepseek_nb.core.admission import Admission, Report, Ticket, Tuning
from deepseek_nb.core.level import Level

BULK, INTERACTIVE = 2, 5


class Kernel:
    """One member with its admission, meeting the others at ``table``."""

    def __init__(self, table: list[str | None], name: str, **tuning: float) -> None:
        self.table, self.name = table, name
        self.admission = Admission(rng=lambda: 0.5, tuning=Tuning(**{"pardons": 0.0, **tuning}))  # type: ignore[arg-type]
        self.admission.share()
        self.held: list[Ticket] = []

    def meet(self, now: float, lives: object = None) -> None:
        """Report and take over what the table says, then start what may start."""
        report = self.admission.report(now)
        self.table[0], view = fleet.sync(self.table[0], report, self.name, now, lives or (lambda _: True))  # type: ignore[arg-type]
        self.admission.adopt(view)
        self.pump(now)

    def pump(self, now: float) -> list[Ticket]:
        """Start what may start."""
        started = self.admission.admit(now)
        self.held += started
        return started

    def ask(self, count: int, now: float, lane: int = BULK) -> None:
        """Rows that want to be sent."""
        for _ in range(count):
            self.admission.ask(lane, now)
        self.pump(now)


def kernels(count: int, **tuning: float) -> list[Kernel]:
    table: list[str | None] = [None]
    return [Kernel(table, f"k{i}", **tuning) for i in range(count)]


def rooms(table: list[str | None]) -> dict[str, int]:
    """What each member was promised."""
    members = json.loads(table[0] or "")[2]
    return {name: member[1] for name, member in members.items()}


# ------------------------------------------------------------------------------------------- rooms


@given(st.integers(0, 500), st.dictionaries(st.text(max_size=3), st.integers(0, 300), max_size=8))
def test_shares_are_max_min_fair(total: int, wants: dict[str, int]) -> None:
    shares = fleet.fair_shares(total, wants)
    assert shares.keys() == wants.keys()
    assert all(shares[name] <= wants[name] for name in wants)
    assert sum(shares.values()) == min(total, sum(wants.values()))
    short = [shares[name] for name in wants if shares[name] < wants[name]]
    if short:
        assert max(short) - min(short) <= 1
        assert max(shares.values()) <= max(short) + 1


def test_before_the_first_meeting_one_row_is_sent() -> None:
    """Four kernels that start together would send four times the limit."""
    [kernel] = kernels(1)
    kernel.ask(50, 0.0)
    assert len(kernel.held) == 1
    kernel.meet(0.01)
    assert len(kernel.held) == 16


def test_interactive_calls_wait_for_no_meeting() -> None:
    [kernel] = kernels(1)
    kernel.ask(3, 0.0, INTERACTIVE)
    assert len(kernel.held) == 3


def test_four_kernels_that_start_together_share_the_limit() -> None:
    four = kernels(4)
    for kernel in four:
        kernel.ask(50, 0.0)
    for now in (0.1, 0.3, 0.5):
        for kernel in four:
            kernel.meet(now)
    assert [len(k.held) for k in four] == [16, 1, 1, 1]  # the first had it all before the others came
    for ticket in four[0].held[:12]:
        four[0].admission.answered(ticket, 0.6)
        assert four[0].pump(0.6) == []  # its room is four by now
    for now in (0.7, 0.9):
        for kernel in four:
            kernel.meet(now)
    assert rooms(four[0].table) == {"k0": 4, "k1": 4, "k2": 4, "k3": 4}
    assert [k.admission.held for k in four] == [4, 4, 4, 4]


def test_what_one_cannot_use_goes_to_the_others() -> None:
    a, b = kernels(2)
    a.ask(50, 0.0)
    b.ask(3, 0.0)
    for now in (0.1, 0.3):
        b.meet(now)
        a.meet(now)
    assert rooms(a.table) == {"k0": 13, "k1": 3}


def test_a_kernels_own_most_binds_its_places_and_not_the_level() -> None:
    a, b = kernels(2)
    b.admission = Admission(rng=lambda: 0.5, tuning=Tuning(most=2, start=2))
    b.admission.share()
    a.ask(50, 0.0)
    a.meet(0.1)
    b.ask(50, 0.1)
    for now in (0.2, 0.4):
        a.meet(now)
        b.meet(now)
    assert b.admission.limit == 16
    assert b.admission.held <= 2
    assert rooms(a.table)["k0"] == 14


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60), st.integers(0, 30)), max_size=40))
def test_a_room_is_only_made_of_what_the_others_neither_hold_nor_were_promised(
    meetings: list[tuple[int, int, int]],
) -> None:
    text, now = None, 0.0
    promised: dict[str, int] = {}
    for who, want, held in meetings:
        now += 0.05
        name = f"k{who}"
        held = min(held, promised.get(name, 0))  # nobody holds more than was promised
        report = Report(
            (), Level(Tuning()).to_list(), held, 0, max(want, held), want > held, False, False, Tuning()
        )
        text, view = fleet.sync(text, report, name, now)
        promised[name] = view.room
        others = sum(room for other, room in promised.items() if other != name)
        assert min(1, want) <= view.room <= max(1, 16 - others)


# ------------------------------------------------------------------------------ who is there


def test_who_leaves_frees_its_room_and_tells_what_it_saw() -> None:
    a, b = kernels(2)
    for kernel in (a, b):
        kernel.ask(50, 0.0)
        kernel.meet(0.1)
    a.admission.refused(a.held[0], 0.2, overloaded=False)
    a.table[0] = fleet.leave(a.table[0], a.admission.report(0.2), a.name, 0.2)
    b.meet(0.3)
    assert list(rooms(b.table)) == ["k1"]
    assert b.admission.kernels == 1
    assert b.admission.limit == pytest.approx(16 * 0.85)  # what both held


@pytest.mark.parametrize("how", ["not seen for long", "its process ended"])
def test_a_member_that_is_gone_is_dropped(how: str) -> None:
    a, b = kernels(2)
    a.ask(50, 0.0)
    a.meet(0.1)
    b.ask(50, 0.2)
    b.meet(0.2)
    assert rooms(b.table) == {"k0": 16, "k1": 1}
    if how == "its process ended":
        b.meet(0.3, lives=lambda name: name != "k0")
    else:
        b.meet(0.2 + fleet.LOST_S)
    assert rooms(b.table) == {"k1": 16}


# ------------------------------------------------------------------------- one level for all


def test_two_kernels_cut_once_a_second_together() -> None:
    """Both are refused within the same second: what they hold together is cut once."""
    a, b = kernels(2, start=20)
    for kernel in (a, b):
        kernel.ask(50, 0.0)
        kernel.meet(0.1)
    a.meet(0.2)
    b.meet(0.3)
    a.admission.refused(a.held[0], 1.0, overloaded=True)
    b.admission.refused(b.held[0], 1.1, overloaded=True)
    a.meet(1.2)
    b.meet(1.2)
    assert b.admission.limit == pytest.approx(20 * 0.8)
    a.meet(1.3)
    assert a.admission.limit == b.admission.limit
    assert a.admission.wake_at(1.3) == b.admission.wake_at(1.3) == pytest.approx(1.8)  # the later hold


def test_what_happens_during_a_meeting_is_kept() -> None:
    a, b = kernels(2)
    for kernel in (a, b):
        kernel.ask(50, 0.0)
        kernel.meet(0.1)
    report = a.admission.report(0.2)
    a.admission.refused(a.held[0], 0.21, overloaded=False)  # after the report, before its answer
    a.table[0], view = fleet.sync(a.table[0], report, a.name, 0.2)
    a.admission.adopt(view)
    limit = a.admission.limit
    assert limit < 16
    a.meet(0.3)
    b.meet(0.3)
    assert b.admission.limit == limit


def test_a_report_that_reached_nobody_is_told_again() -> None:
    a, b = kernels(2)
    a.ask(50, 0.0)
    a.meet(0.1)
    a.admission.refused(a.held[0], 0.2, overloaded=False)
    a.admission.not_reported(a.admission.report(0.2))
    a.meet(0.3)
    b.ask(1, 0.4)
    b.meet(0.4)
    assert b.admission.limit == a.admission.limit < 16


def test_others_stand_aside_for_a_refused_interactive_call() -> None:
    a, b = kernels(2)
    b.ask(50, 0.0)
    b.meet(0.1)
    assert b.admission.urgent  # it holds much more than it told
    b.meet(0.11)
    a.ask(1, 0.2, INTERACTIVE)
    a.admission.refused(a.held[0], 0.3, overloaded=False)
    assert a.admission.urgent
    a.meet(0.3)
    b.meet(0.4)
    for ticket in b.held[:8]:
        b.admission.answered(ticket, 1.5)
    b.pump(1.5)
    assert b.admission.held == 8
    a.admission.again(a.held[0], 1.5)
    a.meet(1.6)
    b.meet(1.7)
    assert b.admission.held == int(b.admission.limit) == 13


def test_a_refusal_in_an_idle_kernel_does_not_empty_the_others() -> None:
    """What the account held at that moment counts, not what this kernel held or knew of."""
    a, b = kernels(2, start=40)
    b.ask(50, 0.0)
    b.meet(0.1)
    b.meet(0.2)
    a.ask(1, 0.3, INTERACTIVE)
    a.admission.refused(a.held[0], 0.4, overloaded=False)
    a.meet(0.4)
    b.meet(0.5)
    assert a.admission.limit == b.admission.limit == pytest.approx(40 * 0.85)


def trip(kernel: Kernel, now: float) -> None:
    """Ten 503s in a row and nothing else."""
    for ticket in kernel.held[:10]:
        kernel.admission.refused(ticket, now, overloaded=True)
        kernel.admission.again(ticket, now)
    del kernel.held[:10]


def test_all_know_that_the_server_is_down_and_one_probes() -> None:
    a, b, c = kernels(3)
    for kernel in (a, b, c):
        kernel.ask(50, 0.0)
        kernel.meet(0.1)
    trip(a, 10.0)
    assert a.admission.urgent
    for now in (10.1, 10.2, 10.3):
        for kernel in (a, b, c):
            kernel.meet(now)
    assert all(k.admission.open_since_s == 10.0 for k in (a, b, c))
    assert sum(rooms(a.table).values()) == 1
    probes = [len(k.pump(12.0)) for k in (a, b, c)]
    assert sum(probes) == 1
    prober = (a, b, c)[probes.index(1)]
    prober.admission.first_token(12.5, prober.held[-1])
    for kernel in (prober, a, b, c):
        kernel.meet(12.6)
    assert not any(k.admission.open for k in (a, b, c))
    assert [k.admission.closings for k in (a, b, c)] == [1, 1, 1], "who heard of it counts it, too"


def test_the_right_to_probe_passes_on_when_its_holder_has_nothing_to_send() -> None:
    a, b = kernels(2)
    for kernel in (a, b):
        kernel.ask(50, 0.0)
        kernel.meet(0.1)
    trip(a, 10.0)
    for now in (10.1, 10.2, 10.3):
        a.meet(now)
        b.meet(now)
    holder, other = (a, b) if rooms(a.table)["k0"] else (b, a)
    for _, ticket in list(holder.admission._line):
        holder.admission.leave(ticket, 10.4)
    assert holder.admission.held  # sent before, and still in flight: no probe
    holder.meet(10.5)
    other.meet(10.6)
    assert len(other.pump(12.0)) == 1


def test_a_kernel_that_met_nobody_since_does_not_take_a_probe_of_long_ago_for_one_that_is_out() -> None:
    """One whose calls all go elsewhere has nothing to send, and so does not hear how the probe ended."""
    a, b = kernels(2)
    for kernel in (a, b):
        kernel.ask(50, 0.0)
        kernel.meet(0.1)
    trip(a, 10.0)
    for _, ticket in list(b.admission._line):
        b.admission.leave(ticket, 10.0)
    for ticket in b.held:
        b.admission.leave(ticket, 10.0)
    b.meet(10.1)
    a.meet(10.2)
    assert len(a.pump(12.0)) == 1
    a.meet(12.1)
    b.meet(12.2)
    assert b.admission.meet_at() is None, "it is idle"
    assert not b.admission.may_probe(12.3), "the other one is at it"
    assert b.admission.may_probe(30.0)


def test_503s_of_several_kernels_count_together() -> None:
    a, b = kernels(2)
    for kernel in (a, b):
        kernel.ask(50, 0.0)
        kernel.meet(0.1)
    a.admission.answered(a.held.pop(), 0.2)
    for ticket in a.held[:6]:
        a.admission.refused(ticket, 10.0, overloaded=True)
    a.meet(10.1)
    assert not a.admission.open
    b.meet(10.2)
    for _ in range(4):
        b.ask(1, 10.3, INTERACTIVE)
        b.admission.refused(b.held[-1], 10.4, overloaded=True)
    assert b.admission.open


# ------------------------------------------------------------------------------------------ recall


def test_an_interactive_call_gets_the_waiting_rows_of_other_kernels_taken_back() -> None:
    a, b = kernels(2)
    b.ask(50, 0.0)
    b.meet(0.1)
    for ticket in b.held:
        b.admission.sent(ticket, 0.2)
    runs = b.held[:5]
    for ticket in runs:
        b.admission.first_token(1.0, ticket)
    a.ask(1, 2.0, INTERACTIVE)
    [call] = a.held
    a.admission.sent(call, 2.0)
    b.meet(2.1)
    a.meet(2.2)
    assert a.admission.recall(call, 4.0) == []  # none of its own; but others may have some
    assert a.admission.urgent
    a.meet(4.0)
    b.meet(4.1)
    rows = b.admission.to_give_back(4.1)
    assert rows == [t for t in b.held if t not in runs][: len(rows)]
    assert len(rows) == 11
    for row in rows:
        b.admission.recalled(row, 4.1)
        b.admission.again(row, 4.1)
    assert b.pump(4.2) == []  # the limit is what was left
    assert b.admission.limit == b.admission.held == 8
    b.meet(4.3)
    assert b.admission.to_give_back(4.3) == []  # once for each call
    a.admission.byte(call, 4.3)
    a.admission.recall_helped(call, 10.0)
    a.meet(10.1)
    b.meet(10.2)
    assert b.admission.level.no_recall_until_s == 30.0


# -------------------------------------------------------------------------- a table that may be lost


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "rubbish",
        "[]",
        "[1, [], {}]",
        '[0.0, [1, 2, 3], {"k9": 4}]',
        '{"a": 1}',
        "[" * 5000,
        "[NaN, [], {}]",
    ],
)
def test_where_there_is_no_table_the_kernels_own_level_begins_one(text: str | None) -> None:
    [kernel] = kernels(1, start=30)
    kernel.ask(50, 0.0)
    kernel.pump(0.0)
    kernel.admission.refused(kernel.held[0], 0.1, overloaded=False)
    limit = kernel.admission.limit
    kernel.table[0] = text
    kernel.meet(0.2)
    assert kernel.admission.limit == limit
    assert list(rooms(kernel.table)) == ["k0"]


@pytest.mark.parametrize("now", [100.0 + 2 * fleet.FORGOTTEN_S, 3.0], ids=["of long ago", "of another clock"])
def test_a_table_of_another_time_says_nothing(now: float) -> None:
    a, b = kernels(2)
    a.ask(50, 80.0)
    a.meet(80.0)
    trip(a, 100.0)
    a.meet(100.0)
    b.ask(1, now)
    b.meet(now)
    assert not b.admission.open
    assert b.admission.limit == 16


def test_a_level_goes_to_json_and_back() -> None:
    [kernel] = kernels(1, pardons=3)
    kernel.ask(60, 0.0)
    kernel.meet(0.1)
    for i, ticket in enumerate(kernel.held[:12]):
        kernel.admission.refused(ticket, 1.0 + i, overloaded=i % 2 == 0, named_limit=30 - i)
    kernel.admission.first_token(20.0, kernel.held[13])
    level = kernel.admission.level
    values = level.to_list()
    again = Level.from_list(json.loads(json.dumps(values)), level.tuning)
    assert json.dumps(again.to_list()) == json.dumps(values)
    assert (again.places(20.0), again.noise.share) == (level.places(20.0), level.noise.share)


@pytest.mark.parametrize("limit", [0.0, -5.0, float("nan"), float("inf"), "16", None])
def test_a_limit_that_is_none_is_refused(limit: object) -> None:
    values = Level(Tuning()).to_list()
    with pytest.raises((ValueError, TypeError)):
        Level.from_list([limit if limit != "16" else "sixteen", *values[1:]], Tuning())


# ------------------------------------------------------------------------------------- when to meet


def test_meetings_come_often_in_company_rarely_alone_and_never_in_idleness() -> None:
    a, b = kernels(2)
    assert a.admission.meet_at() is None
    a.ask(2, 1.0)
    assert a.admission.meet_at() == float("-inf")  # at once: the others do not know of its work
    a.meet(1.0)
    assert a.admission.meet_at() == pytest.approx(1.0 + a.admission.tuning.meet_alone_s)
    b.ask(2, 1.1)
    b.meet(1.1)
    assert b.admission.meet_at() == pytest.approx(1.1 + b.admission.tuning.meet_s)
    for ticket in a.held:
        a.admission.answered(ticket, 2.0)
    assert a.admission.meet_at() == pytest.approx(1.01)  # at once: it has no work any more
    a.meet(2.0)
    assert a.admission.meet_at() is None


def test_who_goes_on_alone_keeps_its_level_and_meets_nobody() -> None:
    a, b = kernels(2)
    for kernel in (a, b):
        kernel.ask(50, 0.0)
        kernel.meet(0.1)
    b.admission.unshare()
    assert len(b.pump(0.2)) == 15
    assert b.admission.meet_at() is None
    assert b.admission.kernels == 1
