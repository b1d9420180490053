"""The pass rule as a property: any script of faults, an interrupt at any moment, then the same job again.

A few scripts, always the same. ``BUSY_EXAMPLES=20 pytest tests/busy/test_pass_rule.py`` plays twenty times as
many, and others each time.
"""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from deepseek_nb.core.retry import RetryPolicy
from deepseek_nb.sandbox import FAULTS, Fault, FaultScript

TIMES = int(os.environ.get("BUSY_EXAMPLES", "1"))
ROWS = st.integers(5, 12)
SLOW = {
    "blank_200": Fault("blank_200", wait_s=10),
    "keepalive_then_close": Fault("keepalive_then_close", every_s=10, close_s=30),
    "slow_after": Fault("slow_after", fine=2, calm=2, wait_s=20),
    "limit_falls": Fault("limit_falls", limits=(4, 2), every=4),
    "bimodal_hang": Fault("bimodal_hang", wait_s=100_000),
}
HANGING = frozenset({"hang", "stall", "stall_with_comments", "bimodal_hang"})
"""Faults that only a limit of ours ends: a second each, so they come seldom."""
FAULT = st.one_of(
    st.sampled_from(sorted(set(FAULTS) - HANGING)),
    st.sampled_from(sorted(set(FAULTS) - HANGING)),
    st.sampled_from(sorted(FAULTS)),
).map(lambda name: SLOW.get(name, Fault(name)))
SCRIPT = st.dictionaries(st.integers(0, 11), st.lists(st.none() | FAULT, min_size=1, max_size=4), max_size=10)
"""For some rows, what the first tries meet."""
PROPERTY = settings(
    deadline=None,
    derandomize=TIMES == 1,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # shrinking would take minutes over sockets
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def play(job, script) -> None:
    """Set the faults of each row's first tries."""
    job.misbehave(FaultScript.by_prompt({f"ticket {row}:": faults for row, faults in script.items()}))


async def to_the_end(job) -> None:
    """Run again after every stop, as a user would, until nothing stops it."""
    for _ in range(60):
        _, stopped_by = await job.go()
        if stopped_by is None:
            return
    raise AssertionError(f"stopped sixty times, at last by {stopped_by!r}")


def check(job, *, twice: int = 0) -> None:
    """The pass rule on the server's log and the ledger; ``twice`` answers may have been paid twice."""
    assert set(job.states.values()) <= {"done", "failed"}
    again = 0
    for row, records in job.by_row().items():
        usable = [place for place, record in enumerate(records) if record.usable]
        again += bool(usable) and usable[0] < len(records) - 1
        assert not usable or job.states[row] == "done"
    assert again <= twice
    with job.client() as client:
        sent = len(job.sandbox.log)
        if not twice:
            out = job.run(client)  # and as a frame
            assert out["status"].tolist() == list(job.states.values())
        assert len(job.sandbox.log) == sent


@settings(PROPERTY, max_examples=8 * TIMES)
@given(rows=ROWS, script=SCRIPT)
def test_any_script_of_faults_ends_each_row_once(make_async, rows, script):
    """Every row done or failed, nothing sent after its answer, nothing partial, tries within the bounds."""
    job = make_async(rows=rows, time_scale=200)
    play(job, script)
    asyncio.run(to_the_end(job))
    check(job)
    assert job.most_tries <= 1 + 8 + 2


@settings(PROPERTY, max_examples=6 * TIMES)
@given(rows=ROWS, script=SCRIPT, after_s=st.floats(0, 0.5))
def test_a_job_cancelled_at_any_moment_ends_within_a_second_and_goes_on(make_async, rows, script, after_s):
    """The second interrupt: everything is dropped at once; at most what was in flight then is paid twice."""
    job = make_async(rows=rows, time_scale=200, first_token_s=10)
    play(job, script)

    async def work() -> int:
        took_s, _ = await job.go(cancel_after_s=after_s, concurrency_max=4)
        note(f"took {took_s:.3f} s, {job.states}")
        assert took_s < 1
        assert set(job.states.values()) <= {"done", "failed", "pending"}
        done = {row for row, state in job.states.items() if state == "done"}
        sent = {row: len(records) for row, records in job.by_row().items()}
        await to_the_end(job)
        by_row = job.by_row()
        assert all(len(by_row[row]) == sent[row] for row in done), "a finished row was asked again"
        return 4

    check(job, twice=asyncio.run(work()))


@settings(PROPERTY, max_examples=5 * TIMES)
@given(rows=ROWS, script=SCRIPT, after_s=st.floats(0, 0.5))
def test_a_job_stopped_at_any_moment_sends_nothing_more_and_pays_nothing_twice(
    make_async, rows, script, after_s
):
    """The first interrupt: what is on the wire comes in or meets its limit; nothing new is sent."""
    job = make_async(rows=rows, time_scale=200, first_token_s=10)
    play(job, script)

    async def work() -> None:
        took_s, _ = await job.go(stop_after_s=after_s, concurrency_max=4)
        held = any(record.fault in HANGING for record in job.sandbox.log)
        assert took_s < (4 if held else 1)
        await to_the_end(job)

    asyncio.run(work())
    check(job)


@pytest.mark.parametrize("how", ["stop_after_s", "cancel_after_s"])
@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.003, 0.01])
def test_a_job_interrupted_as_it_starts_leaves_no_row_leased(how, after_s, make_async):
    """Rows are leased in a thread: those that come after the interrupt are given back, too."""
    job = make_async(rows=300)
    asyncio.run(job.go(**{how: after_s}))
    assert set(job.states.values()) <= {"done", "pending"}


@pytest.mark.parametrize(
    "fault", ["hang", "busy_503", "keepalive_then_json", "stall_with_comments", "html_502"]
)
@pytest.mark.parametrize("after_s", [0.0, 0.15])
def test_a_question_cancelled_in_any_state_ends_within_a_second(fault, after_s, talk):
    """While it waits for headers, between tries, while comments come, in the middle of an answer."""
    endless = RetryPolicy(
        wait_initial_s=0.01, wait_max_s=0.05, max_faults=10_000
    )  # or a quick machine has used up its tries before
    got = talk.ask(always=fault, cancel_after_s=after_s, policy=endless)
    assert isinstance(got.error, asyncio.CancelledError)
    assert got.took_s < 1
    assert got.kept == {}


def test_a_job_stopped_while_requests_hang_ends_at_their_limit_and_when_pressed_again_at_once(make_async):
    """A hanging request is not worth ten seconds of waiting to who interrupts twice."""
    job = make_async(rows=8, time_scale=200)
    play(job, {n: [Fault("hang")] for n in range(1, 8)})
    took_s, _ = asyncio.run(job.go(cancel_after_s=0.4))
    assert took_s < 1
    assert job.count("done") >= 1
    assert job.count("failed") == 0
    asyncio.run(to_the_end(job))
    assert job.count("done") == 8
    check(job)


def test_the_sandbox_would_show_a_client_that_pays_twice(make_async):
    """The rule is no empty one: a log in which an answered row is asked again does not pass."""
    job = make_async(rows=5)
    asyncio.run(job.go())
    index = max(job.watch.row_of)
    job.watch.row_of[index] = (job.watch.row_of[index] + 1) % 5  # two answers for one row
    with pytest.raises(AssertionError):
        check(job)
