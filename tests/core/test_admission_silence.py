"""Silence and what helps: the early repeat at a job's end, the second copy, the recall, the probe."""

from __future__ import annotations

import pytest

from deepseek_nb.core.admission import Admission, Ticket, Tuning

BULK, INTERACTIVE = 2, 5


def make(**tuning: float) -> Admission:
    return Admission(rng=lambda: 0.5, tuning=Tuning(**{"pardons": 0.0, **tuning}))  # type: ignore[arg-type]


def send(gate: Admission, count: int, now: float, lane: int = BULK) -> list[Ticket]:
    """Ask, start and put on the wire."""
    for _ in range(count):
        gate.ask(lane, now)
    started = gate.admit(now)
    for ticket in started:
        gate.sent(ticket, now)
    return started


# ------------------------------------------------------------------------------------ the job's end


def test_a_silent_row_is_repeated_early_only_when_nobody_waits() -> None:
    gate = make(start=2)
    first, second = send(gate, 3, 0.0)
    assert not gate.at_the_end
    assert not gate.repeat_due(first, 60.0)
    gate.answered(second, 60.0)
    [third] = gate.admit(60.0)
    gate.sent(third, 60.0)
    assert gate.at_the_end
    assert gate.repeat_due(first, 60.0)
    assert not gate.repeat_due(third, 69.9)
    assert gate.repeat_due(third, 70.0)


@pytest.mark.parametrize("sign", ["byte", "first_token"])
def test_a_row_that_spoke_is_not_repeated(sign: str) -> None:
    gate = make()
    [row] = send(gate, 1, 0.0)
    if sign == "byte":
        gate.byte(row, 0.5)
    else:
        gate.first_token(1.0, row)
    assert not gate.repeat_due(row, 60.0)


@pytest.mark.parametrize("how", ["503", "fault", "recall"])
@pytest.mark.parametrize("end", ["again", "leave"])
def test_a_row_that_is_away_comes_back_before_the_end(how: str, end: str) -> None:
    gate = make(pardons=8.0)
    row, silent = send(gate, 2, 0.0)
    if how == "503":
        gate.refused(row, 1.0, overloaded=True)
    elif how == "fault":
        gate.faulted(row, 1.0)
    else:
        gate.recalled(row, 1.0)
    assert not gate.at_the_end
    assert not gate.repeat_due(silent, 30.0)
    if end == "again":
        gate.again(row, 0.0)
        gate.admit(30.0)
    else:
        gate.leave(row, 30.0)
    assert gate.at_the_end
    assert gate.repeat_due(silent, 30.0)


def test_an_interactive_call_that_is_away_is_no_row() -> None:
    gate = make()
    [call] = send(gate, 1, 0.0, INTERACTIVE)
    gate.faulted(call, 1.0)
    assert gate.at_the_end


def test_a_repeated_row_starts_its_clock_anew() -> None:
    gate = make()
    [row] = send(gate, 1, 0.0)
    gate.faulted(row, 12.0)
    assert not gate.repeat_due(row, 13.0)  # it is not in flight
    gate.again(row, 0.0)
    gate.admit(14.0)
    assert not gate.repeat_due(row, 30.0)  # admitted, but not on the wire yet
    gate.sent(row, 15.0)
    assert not gate.repeat_due(row, 24.9)
    assert gate.repeat_due(row, 25.0)


# --------------------------------------------------------------------------------- the second copy


def test_only_interactive_calls_without_a_byte_get_a_second_copy() -> None:
    gate = make()
    [call] = send(gate, 1, 0.0, INTERACTIVE)
    [row] = send(gate, 1, 0.0)
    assert not gate.hedge_due(call, 4.9)
    assert gate.hedge_due(call, 5.0)
    assert not gate.hedge_due(row, 60.0)
    gate.byte(call, 5.0)
    assert not gate.hedge_due(call, 60.0)


# -------------------------------------------------------------------------------------- the recall


def test_rows_that_wait_before_an_interactive_call_are_taken_back() -> None:
    gate = make(start=6)
    rows = send(gate, 8, 0.0)
    for row in rows:
        gate.byte(row, 0.1)
    runs = rows[:2]
    for row in runs:
        gate.first_token(0.5, row)
    limit_before = gate.limit
    [call] = send(gate, 1, 1.0, INTERACTIVE)[:1]
    later = [t for t in gate.admit(1.0) if not t.interactive]
    recalled = gate.recall(call, 3.0)
    assert recalled == rows[2:]
    assert all(row not in recalled for row in later)
    for row in recalled:
        gate.recalled(row, 3.0)
        gate.again(row, 0.0)
    assert gate.recalls == 4
    assert gate.limit < limit_before
    assert gate.admit(3.1) == []  # they do not go back into the queue at once
    assert [row.refusals for row in recalled] == [0, 0, 0, 0]
    gate.answered(runs[0], 4.0)
    assert gate.held <= gate.limit


def test_taken_back_rows_are_first_in_their_lane() -> None:
    gate = make(start=1)
    [row] = send(gate, 3, 0.0)
    [call] = send(gate, 1, 1.0, INTERACTIVE)
    assert gate.recall(call, 3.0) == [row]
    assert gate.recall(call, 3.1) == []  # asked once
    gate.recalled(row, 3.1)
    gate.again(row, 0.0)
    assert gate.admit(3.2) == [row]


@pytest.mark.parametrize("end", ["token", "answer", "leave"])
def test_a_call_that_was_served_takes_nothing_back(end: str) -> None:
    gate = make()
    send(gate, 3, 0.0)
    [call] = send(gate, 1, 1.0, INTERACTIVE)
    if end == "token":
        gate.first_token(1.5, call)
    elif end == "answer":
        gate.answered(call, 1.5)
    else:
        gate.leave(call, 1.5)
    assert gate.recall(call, 3.0) == []


def test_a_recall_that_did_not_help_is_not_repeated_for_a_while() -> None:
    gate = make()
    send(gate, 3, 0.0)
    [call] = send(gate, 1, 1.0, INTERACTIVE)
    gate.byte(call, 1.1)
    rows = gate.recall(call, 3.0)
    assert len(rows) == 3
    for row in rows:
        gate.leave(row, 3.0)
    gate.recall_helped(call, 9.0)
    [second] = send(gate, 1, 10.0, INTERACTIVE)
    gate.byte(second, 10.1)
    assert gate.recall(second, 12.0) == []
    gate.recall_helped(second, 18.0)  # nothing was tried, so nothing failed
    send(gate, 3, 20.0)
    [third] = send(gate, 1, 27.0, INTERACTIVE)
    assert gate.recall(third, 28.9) == []
    assert len(gate.recall(third, 29.0)) > 0


def test_a_call_whose_connection_hangs_does_not_end_the_recalls() -> None:
    gate = make()
    send(gate, 3, 0.0)
    [call] = send(gate, 1, 1.0, INTERACTIVE)
    gate.recall(call, 3.0)
    gate.recall_helped(call, 9.0)  # no byte ever: it does not wait in a queue
    [second] = send(gate, 1, 10.0, INTERACTIVE)
    send(gate, 0, 10.0)
    assert second.held
    assert gate.level.no_recall_until_s < 10.0


# --------------------------------------------------------------------------------------- the probe


def tripped(gate: Admission, *, waits: bool = True) -> list[Ticket]:
    """Open the breaker; ten rows wait for it to close, and two are in flight from before."""
    tickets = send(gate, 12, 50.0)
    for ticket in tickets[:10]:
        gate.refused(ticket, 100.0, overloaded=True)
        if waits:
            gate.again(ticket, 0.0)
    assert gate.open
    return tickets


def test_a_caller_with_another_way_may_always_try_while_the_server_is_up() -> None:
    assert make().may_probe(0.0)


def test_one_probe_at_a_time_while_it_is_down() -> None:
    gate = make()
    tripped(gate, waits=False)
    assert not gate.may_probe(100.1)  # the gap
    assert gate.may_probe(101.0)
    [call, *_] = send(gate, 1, 101.0, INTERACTIVE)
    assert not gate.may_probe(101.1)
    gate.refused(call, 101.2, overloaded=True)
    assert not gate.may_probe(101.3)
    assert gate.may_probe(106.3)  # five seconds at most


def test_a_rows_probe_is_the_one() -> None:
    gate = make()
    tripped(gate)
    [probe] = gate.admit(101.0)
    assert not gate.may_probe(106.0)
    gate.first_token(106.0, probe)
    assert gate.may_probe(106.0)


@pytest.mark.parametrize("sign", ["first_token", "answered"])
def test_what_began_before_the_outage_does_not_close_the_breaker(sign: str) -> None:
    """Half of what ran may run on behind a door that refuses everybody new."""
    gate = make()
    survivor = tripped(gate)[-1]
    if sign == "first_token":
        gate.first_token(100.5, survivor)
    else:
        gate.answered(survivor, 100.5)
    assert gate.open


def test_what_began_before_the_outage_and_hangs_does_not_stop_the_probes() -> None:
    gate = make()
    tripped(gate)
    assert gate.held == 2
    assert len(gate.admit(101.0)) == 1


def test_an_outage_is_no_noise() -> None:
    """The refusals that opened the breaker are forgotten, those from before stay."""
    gate = make()
    for i in range(40):
        [ticket] = send(gate, 1, float(i))
        if i % 4 == 3:
            gate.refused(ticket, i + 0.1, overloaded=False)
            gate.again(ticket, 0.0)
            gate.leave(ticket, i + 0.1)
        else:
            gate.first_token(i + 0.1, ticket)
            gate.answered(ticket, i + 0.2)
    before = gate.noise.after_success, gate.noise.after_refusal
    for i in range(12):
        for ticket in send(gate, 3, 50.0 + i * 2):
            gate.refused(ticket, 50.5 + i * 2, overloaded=True)
            gate.leave(ticket, 50.5 + i * 2)
    assert gate.open
    assert (gate.noise.after_success, gate.noise.after_refusal) == before


def test_the_stubborn_mode_keeps_its_places() -> None:
    gate = make(least=8, hold_s=0.25)
    for second in range(30):
        for ticket in send(gate, 10, float(second)):
            gate.refused(ticket, second + 0.5, overloaded=False)
            gate.leave(ticket, second + 0.5)
    assert gate.limit == 8
