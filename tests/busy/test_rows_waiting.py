"""Rows 3 to 6b, 24, 25: the server takes the request and lets it wait."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from deepseek_nb.client.watchdog import Limits
from deepseek_nb.core import errors
from deepseek_nb.core.errors import Disposition
from deepseek_nb.core.retry import RetryPolicy
from deepseek_nb.sandbox import Fault, FaultScript, Sandbox

WHOLE = "one two three four five six seven eight nine ten"
ONE_TRY = RetryPolicy(max_faults=0, wait_initial_s=0.01)
SHAPE = {"label": str}
FORMS = pytest.mark.parametrize("whole", [False, True], ids=["stream", "one body"])

# ------------------------------------------------------------------------------------------- row 3


@pytest.mark.parametrize("fault", ["empty_200", "blank_200"])
def test_row_03_a_blank_200_is_busy_and_not_a_json_error(fault, talk):
    """Also where JSON was asked for: the class of a broken answer, to be retried, and it is."""
    got = talk.ask(fault)
    assert isinstance(got.waits[0].error, errors.StreamBroken)
    assert got.waits[0].error.disposition is Disposition.RETRY
    got = talk.ask(fault, schema=SHAPE, policy=ONE_TRY)
    assert isinstance(got.error, errors.StreamBroken)
    assert got.error.charged == "unknown"
    assert got.budget.unknown_usd > 0


# ------------------------------------------------------------------------------------------ row 4a


@FORMS
def test_row_04a_blank_lines_before_an_answer_are_stripped_and_the_wait_is_shown(whole, talk):
    """Three blank lines (comments), then the answer: one request; events and answer tell the wait."""
    got = talk.ask(Fault("keepalive_then_json", lines=3, whole=whole))
    assert got.text == WHOLE
    assert len(got.log) == 1
    sent, began = (next(e.at_s for e in got.events if e.kind == kind) for kind in ("sent", "first_token"))
    assert began - sent >= 3 * 15 / 100 * 0.9
    assert got.answer.first_token_s >= 3 * 15 / 100 * 0.9
    assert not got.waits


# ------------------------------------------------------------------------------------------ row 4b


@FORMS
def test_row_04b_blank_lines_and_then_the_end_are_busy(whole, talk):
    """Closed after 300 s without JSON: no answer, asked again."""
    got = talk.ask(Fault("keepalive_then_close", every_s=20, close_s=60, whole=whole))
    assert got.text == WHOLE
    assert isinstance(got.waits[0].error, errors.StreamBroken)
    assert len(got.log) == 2


@FORMS
def test_row_04b_blank_lines_for_ever_meet_the_total_deadline(whole, talk):
    """Every byte re-arms a read timeout; the deadline of the whole request ends it all the same."""
    for_ever = Fault("keepalive_then_close", every_s=5, close_s=100_000, whole=whole)
    got = talk.ask(for_ever, limits=Limits(silence_s=1.0, total_s=0.5))
    assert isinstance(got.waits[0].error, errors.WentSilent)
    assert "not complete after 0.5 s" in got.waits[0].error.message
    assert got.log[0].aborted
    assert got.text == WHOLE


@FORMS
def test_row_04b_an_interrupt_ends_it_at_once(whole, talk):
    """While blank lines come: back within a second, hung up on, booked as unknown, nothing kept."""
    for_ever = Fault("keepalive_then_close", every_s=5, close_s=100_000, whole=whole)
    got = talk.ask(for_ever, cancel_after_s=0.3)
    assert isinstance(got.error, asyncio.CancelledError)
    assert got.took_s < 1
    assert [record.aborted for record in got.log] == [True]
    assert got.budget.unknown_usd > 0


# ------------------------------------------------------------------------------------------- row 5


def test_row_05_comments_between_events_are_passed_over(talk):
    """Comments before and between all events of an answer that takes longer than the silence allowed."""
    with Sandbox(first_token_s=60, token_s=10, keep_alive_s=10, time_scale=100, engine=talk.heard) as server:
        got = talk.ask("comments", sandbox=server, limits=Limits(silence_s=0.45, token_s=0.8))
    assert got.text == WHOLE
    assert len(got.log) == 1


def test_row_05_comments_are_life_and_not_progress(talk):
    """Comments every 50 ms keep the silence watchdog quiet, and the one for the first token not."""
    waits = Fault("keepalive_then_json", lines=10_000, every_s=5)
    got = talk.ask(waits, limits=Limits(silence_s=1.0, first_token_s=0.5))
    assert "no answer began for 0.5 s" in got.waits[0].error.message
    assert got.text == WHOLE


# ------------------------------------------------------------------------------------------- row 6


@pytest.mark.parametrize("fault", [Fault("hang"), Fault("stall", after_tokens=3)], ids=str)
def test_row_06_a_stall_is_hung_up_on_and_booked_as_unknown(fault, talk):
    """No byte, or none after the third token: aborted, asked again, the first try booked as unknown."""
    got = talk.ask(fault, limits=Limits(silence_s=0.3))
    assert isinstance(got.waits[0].error, errors.WentSilent)
    assert got.log[0].aborted
    assert (got.text, got.answer.attempts) == (WHOLE, 2)
    assert got.budget.unknown_usd >= got.log[0].cost_usd
    assert got.answer.cost_usd == pytest.approx(got.budget.unknown_usd + got.budget.spent_usd)


def test_row_06_the_text_before_a_stall_is_kept_as_partial(talk):
    """Where no try is left, the error holds the text so far, and the store nothing."""
    got = talk.ask(Fault("stall", after_tokens=3), limits=Limits(silence_s=0.3), policy=ONE_TRY)
    assert isinstance(got.error, errors.WentSilent)
    assert got.error.partial
    assert WHOLE.startswith(got.error.partial)


def test_row_06_a_loop_that_was_held_up_reads_before_it_hangs_up(talk):
    """A busy kernel holds the loop up past the limit: an answer that lies there is read, not paid twice."""

    def hold_up(event) -> None:
        if event.kind == "sent":
            loop = asyncio.get_running_loop()
            loop.call_later(0.45, time.sleep, 0.1)  # so that the limit is due in the turn of the next one,
            loop.call_later(0.46, time.sleep, 0.5)  # during which the answer comes

    with Sandbox(first_token_s=80, keep_alive_s=1000, time_scale=100, engine=talk.heard) as server:
        got = talk.ask(sandbox=server, limits=Limits(silence_s=0.5), on_event=hold_up)
    assert (got.text, len(got.log)) == (WHOLE, 1)


# ------------------------------------------------------------------------------------------ row 6b


@pytest.mark.parametrize("after_tokens", [0, 3])
def test_row_06b_comments_for_ever_are_no_progress(after_tokens, talk):
    """The socket lives, the answer does not: ended before the first token or after the third."""
    fault = Fault("stall_with_comments", after_tokens=after_tokens, every_s=5)
    got = talk.ask(fault, limits=Limits(silence_s=30, first_token_s=0.4, token_s=0.4))
    assert isinstance(got.waits[0].error, errors.WentSilent)
    assert "0.4 s" in got.waits[0].error.message
    assert got.log[0].aborted
    assert got.text == WHOLE
    assert got.budget.unknown_usd > 0


# ------------------------------------------------------------------------------------------ row 24


def test_row_24_fewer_at_once_where_more_than_some_time_out(work):
    """Eight are fine, then all above four at once hang and are closed: the job comes down and ends."""
    job = work(rows=80, first_token_s=5)
    job.misbehave(Fault("slow_after", fine=8, calm=4, wait_s=60))
    with job.client() as client:
        out = job.run(client)
    assert (out["status"] == "done").all()
    hung = job.sandbox.log.faults()["slow_after"]
    assert hung < 100, "with a limit that only refusals move it is above 300"
    assert job.most_tries <= 6


# ------------------------------------------------------------------------------------------ row 25


def test_row_25_a_cap_for_each_try_beats_one_long_wait_and_nothing_is_asked_twice_at_once(work):
    """Eight in a hundred hang for ten minutes: given up soon, asked again, never beside a living copy."""
    job = work(rows=100, first_token_s=2)
    job.misbehave(FaultScript.weights({"bimodal_hang": 0.08}, seed=5, max_per_prompt=2))
    with job.client(silence_timeout_s=0.4) as client:
        out = job.run(client)
    assert (out["status"] == "done").all()
    hung = job.sandbox.log.faults()["bimodal_hang"]
    assert hung >= 3
    assert len(job.sandbox.log) == 100 + hung
    assert out["latency_s"].max() < 600 / 100
    for records in job.by_row().values():
        assert all(a.ended_s <= b.arrived_s for a, b in pairwise(records))
