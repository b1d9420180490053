"""A job in the background: its handle looks, waits, pauses, cancels, and the frame is that of ``apply``."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest

from deepseek_nb import session
from deepseek_nb.batch.apply import apply
from deepseek_nb.batch.job import JobIncomplete, StillRunning, live_jobs
from deepseek_nb.batch.submit import submit
from deepseek_nb.client.sync import Client
from deepseek_nb.core import errors
from deepseek_nb.sandbox import FaultScript, Sandbox

ASK = "Sort this ticket: {{text}}"


@pytest.fixture
def slow(tmp_path):
    """A server that takes a fifth of a second, four at a time, and its client."""
    with (
        Sandbox(first_token_s=0.2, count="estimate") as server,
        Client(
            base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path, concurrency_max=4
        ) as client,
    ):
        yield server, client
        for job in live_jobs():
            job.cancel(drain_s=0)
            assert job.wait(10)


def eventually(condition, within_s: float = 10.0) -> bool:
    end_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True


def test_the_frame_is_that_of_apply(frame, client, ticket, sandbox):
    """Index, columns, values, bill; and nothing is asked twice for it."""
    job = submit(frame, ASK, schema=ticket, job="one", client=client)
    out = job.result(30)
    assert (job.status, job.done, job.error) == ("done", True, None)
    assert job.progress.states["waiting"] == 0
    assert job.cost_usd == pytest.approx(sandbox.log.cost_usd)
    again = apply(frame, ASK, schema=ticket, job="one", client=client, progress=False)
    pd.testing.assert_frame_equal(out, again)
    assert len(sandbox.log) == 30
    assert out.attrs["deepseek_nb"]["requests"] == 30
    out["label"] = "changed"
    assert "changed" not in set(job.result()["label"]), "each caller has a frame of its own"
    assert frame.deepseek.submit(ASK, schema=ticket, job="one", client=client).result().equals(again)


def test_submit_returns_at_once_and_the_job_is_listed_while_it_lives(frame, slow):
    """The caller has the handle before the first answer; an ended job is listed no more."""
    server, client = slow
    job = submit(frame, ASK, client=client, job="listed")
    assert (job.status, job.done, len(server.log.complete)) == ("running", False, 0)
    assert live_jobs() == [job]
    with pytest.raises(errors.NotReady, match="of 30 rows") as caught:
        job.result(timeout_s=0.1)
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(errors.NotReady):
        job.frame(partial=False)
    assert len(job.result()) == 40
    assert live_jobs() == []


def test_pause_stops_requests_and_resume_pays_nothing_twice(frame, slow):
    """What was on the wire comes in; then the server hears nothing until the job goes on."""
    server, client = slow
    job = submit(frame, ASK, client=client, job="pause")
    assert eventually(lambda: job.progress.done >= 6)
    job.pause()
    assert job.status == "paused"
    assert eventually(lambda: server.in_flight == 0)
    time.sleep(0.3)  # what has come in is written into the log, and into the ledger
    sent, done = len(server.log), job.progress.done
    time.sleep(0.6)
    assert (len(server.log), server.in_flight) == (sent, 0), "something was sent while paused"
    assert len(server.log.complete) == job.progress.done, "what was on the wire did not come in"
    assert 6 <= done < 30
    assert (job.progress.paused, job.progress.eta_s, job.done) == (True, None, False)
    partial = job.frame()
    assert partial["status"].value_counts()["pending"] > 0
    assert partial.index.equals(frame.index)
    job.resume()
    assert job.status == "running"
    assert (job.result(30)["status"] == "done").all()
    assert len(server.log) == 30
    assert server.log.answered_twice() == {}
    assert job.progress.paused_s > 0.5
    assert job.progress.worked_s == pytest.approx(job.progress.elapsed_s - job.progress.paused_s)


def test_rows_that_wait_for_their_next_try_are_not_sent_while_paused(frame, slow):
    """A busy server: what it refuses after the pause, and what waited before it, stays here."""
    server, client = slow
    server.faults = FaultScript.of(*[None] * 4, *["busy_503"] * 500)
    job = submit(frame, ASK, client=client, job="busy")
    assert eventually(lambda: job.progress.refusals >= 3)
    job.pause()
    assert eventually(lambda: job.progress.on_the_wire == 0)
    sent = len(server.log) + server.in_flight
    time.sleep(2.5)  # many a next try would be due
    assert len(server.log) + server.in_flight == sent, "something was sent while paused"
    server.faults = None
    job.resume()
    assert (job.result(30)["status"] == "done").all()
    assert server.log.answered_twice() == {}


def test_a_storm_of_pauses_loses_no_row(frame, slow):
    """Clicks from two threads, far quicker than an answer: every row is asked once."""
    server, client = slow
    server.faults = FaultScript.weights({"busy_503": 0.3}, seed=1, max_per_prompt=2)
    job = submit(frame, ASK, client=client, job="storm")

    def click() -> None:
        for _ in range(100):
            job.pause()
            time.sleep(0.005)
            job.resume()
            time.sleep(0.01)

    threads = [threading.Thread(target=click) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    job.resume()
    assert (job.result(60)["status"] == "done").all()
    assert server.log.answered_twice() == {}
    assert job.progress.states == {"done": 30, "from store": 0, "failed": 0, "in flight": 0, "waiting": 0}


def test_a_job_is_paused_before_its_first_row(frame, slow):
    """Paused at once, nothing is sent at all."""
    server, client = slow
    job = submit(frame, ASK, client=client)
    job.pause()
    time.sleep(0.5)
    assert len(server.log) + server.in_flight <= 1  # the first row may have been quicker
    job.resume()
    assert (job.result(30)["status"] == "done").all()


def test_a_pause_is_no_patience(frame, client, sandbox):
    """Trouble of half a second, a pause of two, patience of 1.5 s: the job goes on and ends well."""
    sandbox.faults = FaultScript.of(None, *["busy_503"] * 500)
    job = submit(frame, ASK, client=client, patience="1.5s", job="patient")
    assert eventually(lambda: job.progress.trouble_s is not None)
    job.pause()
    time.sleep(2.0)
    assert job.status == "paused", "the pause was counted as waiting"
    sandbox.faults = None
    job.resume()
    assert (job.result(30)["status"] == "done").all()
    sandbox.faults = FaultScript.always("busy_503")
    with pytest.raises(errors.Busy, match=r"for 1.5 s"):
        submit(frame, "Other: {{text}}", client=client, patience="1.5s").result(30)


def test_cancel_keeps_what_is_done_and_the_same_call_goes_on(frame, slow):
    """At once back, what is on the wire comes in, nothing else is sent; twice is as good as once."""
    server, client = slow
    job = submit(frame, ASK, client=client, job="cancel")
    assert eventually(lambda: job.progress.done >= 6)
    asked = time.monotonic()
    job.cancel()
    job.cancel()
    assert time.monotonic() - asked < 0.1
    assert job.wait(5)
    assert job.status == "cancelled"
    with pytest.warns(JobIncomplete, match="Run the same call to go on"):
        out = job.result()
    done = int((out["status"] == "done").sum())
    assert len(server.log.complete) == len(server.log) == job.progress.done < 30
    assert done >= 6
    job.pause()  # nothing to pause any more
    assert job.status == "cancelled"
    assert (submit(frame, ASK, client=client, job="cancel").result(30)["status"] == "done").all()
    assert len(server.log) == 30
    assert server.log.answered_twice() == {}


def test_a_paused_job_is_cancelled_too(frame, slow):
    """Its rows go back: the same call takes them at once."""
    server, client = slow
    job = submit(frame, ASK, client=client, job="cancel")
    assert eventually(lambda: job.progress.done >= 2)
    job.pause()
    assert eventually(lambda: server.in_flight == 0)
    job.cancel()
    assert job.wait(2)
    assert job.status == "cancelled"
    started = time.monotonic()
    assert (submit(frame, ASK, client=client, job="cancel").result(30)["status"] == "done").all()
    assert time.monotonic() - started < 8
    assert server.log.answered_twice() == {}


def test_cancel_without_a_drain_hangs_up(frame, tmp_path):
    """A request that would take a minute is cut; the rows are pending, what it may cost is booked."""
    with (
        Sandbox(first_token_s=60, count="estimate") as server,
        Client(base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path) as client,
    ):
        job = submit(frame, ASK, client=client)
        assert eventually(lambda: server.in_flight == 1)
        job.cancel()
        assert not job.wait(0.5), "it waits for what is on the wire"
        assert job.status == "cancelling"
        job.cancel(drain_s=0)
        assert job.wait(5)
        assert eventually(lambda: server.in_flight == 0)
        with pytest.warns(JobIncomplete):
            assert (job.result()["status"] == "pending").all()
        assert job.cost_usd > 0


def test_what_stops_a_job_is_raised_by_its_result_each_time(frame, client, ticket, sandbox):
    """With the frame, as ``apply`` does; the status says stopped, and the words do not grow."""
    sandbox.faults = FaultScript.of(*[None] * 8, *["balance_402"] * 100)
    job = submit(frame, ASK, schema=ticket, client=client, job="402")
    assert job.wait(30)
    assert job.status == "stopped"
    assert isinstance(job.error, errors.BalanceExhausted)
    told = []
    for _ in range(2):
        with pytest.raises(errors.BalanceExhausted, match=r"finished and saved \(error.frame\)") as caught:
            job.result()
        told.append(str(caught.value))
        assert (caught.value.frame["status"] == "done").sum() >= 8
    assert told[0] == told[1]
    assert "by BalanceExhausted" in repr(job)


def test_the_failed_rows_are_there_with_their_reasons(frame, client, sandbox):
    """``errors``: on the caller's index, while nothing of it is in the answers."""
    sandbox.faults = FaultScript.by_prompt({"number 4 ": "content_risk"})
    job = submit(frame, ASK, client=client)
    job.wait(30)
    assert list(job.errors.index) == ["t4", "t34"]
    assert job.errors["error"].str.contains("Content Exists Risk").all()
    assert job.progress.error_rate == pytest.approx(1 / 30)
    assert job.status == "done"


def test_the_same_call_while_it_runs_gives_the_same_handle(frame, slow, ticket):
    """A cell that is run again begins nothing twice; another call under that name is an error."""
    server, client = slow
    job = submit(frame, ASK, schema=ticket, client=client, job="once")
    assert submit(frame.copy(), ASK, schema=ticket, client=client, job="once") is job
    for other in ({"budget_usd": 5}, {"retry_failed": True}):
        with pytest.raises(errors.JobRunning, match="'once' is running") as caught:
            submit(frame, ASK, schema=ticket, client=client, job="once", **other)
        assert len(caught.value._render_traceback_()) <= 5
    with pytest.raises(errors.JobRunning):
        submit(frame.head(3), ASK, schema=ticket, client=client, job="once")
    with pytest.raises(errors.JobRunning):
        submit(frame.set_axis(range(40)), ASK, schema=ticket, client=client, job="once")
    with pytest.raises(errors.JobRunning):
        submit(frame, "Other: {{text}}", schema=ticket, client=client, job="once")
    job.result(30)
    assert len(server.log) == 30
    after = submit(frame, ASK, schema=ticket, client=client, job="once")
    assert after is not job
    assert after.done, "there is nothing left to do"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"template": "{{tekst}}"}, errors.TemplateError),
        ({"frame": pd.DataFrame({"text": [None]})}, errors.FrameError),
        ({"frame": {"text": ["a"]}}, errors.FrameError),
        ({"schema": {"a": 5}}, errors.SchemaError),
        ({"job": "bad\nname"}, errors.ConfigError),
        ({"budget_usd": 0}, errors.ConfigError),
        ({"priority": 6}, errors.RequestInvalid),
        ({"patience": "soon"}, errors.ConfigError),
    ],
    ids=lambda v: str(v)[:30],
)
def test_bad_input_raises_at_submit(frame, client, sandbox, change, error):
    """Before anything is sent, and nothing is left running."""
    call = {"frame": frame, "template": ASK} | change
    with pytest.raises(error):
        submit(call.pop("frame"), call.pop("template"), client=client, **call)
    assert len(sandbox.log) == 0
    assert live_jobs() == []


def test_an_interrupt_ends_the_waiting_and_not_the_job(frame, tmp_path):
    """One line, and the job goes on to its end."""
    with (
        Sandbox(first_token_s=0.6, count="estimate") as server,
        Client(
            base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path, concurrency_max=4
        ) as client,
    ):
        job = submit(frame, ASK, client=client)
        threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(StillRunning, match="goes on") as caught:
            job.result()
        assert isinstance(caught.value, KeyboardInterrupt)
        assert len(caught.value._render_traceback_()) == 1
        assert job.status == "running"
        assert (job.result(60)["status"] == "done").all()
        assert len(server.log) == 30


def test_awaiting_leaves_the_loop_to_others_and_can_be_given_up(frame, slow):
    """A timeout ends the wait and not the job; a ticking task keeps its time meanwhile."""
    _, client = slow

    async def cell() -> tuple[int, pd.DataFrame]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        job = submit(frame, ASK, client=client)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await job
        assert job.status == "running"
        out = await job
        ticking.cancel()
        return ticks, out

    ticks, out = asyncio.run(cell())
    assert (out["status"] == "done").all()
    assert ticks > 50


def test_a_job_shows_itself_as_text_and_markdown(frame, client, sandbox):
    """Every figure with its unit, no markup but a table; a server's words are in the error only."""
    sandbox.faults = FaultScript.by_prompt({"number 4 ": "content_risk"})
    job = submit(frame, ASK, client=client, job="shown", budget_usd=2)
    job.wait(30)
    bundle = job._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/markdown"}
    for text in bundle.values():
        assert "done, 30 of 30 rows (100%)" in text
        assert " of 2.00" in text
        assert "$" not in text, "dollars would begin mathematics"
        assert "left" not in text, "it has ended"
        assert "3.3%" in text
        assert "Content" not in text
        assert "<" not in text
    assert repr(job) == "<Job 'shown': done, 30 of 30 rows (100%)>"


def test_a_job_goes_on_with_its_client_when_the_default_one_is_made_anew(frame, tmp_path, monkeypatch):
    """New settings in another cell stop no job; the old client closes after it."""
    monkeypatch.setattr(session, "_client", None)
    with Sandbox(first_token_s=0.1, count="estimate") as server:
        told = {"base_url": server.base_url, "api_key": server.api_key, "data_dir": tmp_path}
        old = session.configure(**told, concurrency_max=4)
        job = submit(frame, ASK)
        assert eventually(lambda: job.progress.done >= 4)
        session.configure(**told, patience_s=60).close()
        assert (job.result(30)["status"] == "done").all()
        assert len(server.log) == 30
        assert eventually(lambda: old.aio._road is None), "the old client was left open"


def test_nobody_waits_for_a_job_that_is_paused(frame, slow):
    """Its rows would be waited for, for ever and without a word: by apply, or by a job of another client."""
    server, client = slow
    job = submit(frame, ASK, client=client, job="paused")
    job.pause()
    with pytest.raises(errors.JobRunning, match="is paused in this process"):
        apply(frame, ASK, client=client, job="paused", progress=False)
    with Client(client.settings) as other, pytest.raises(errors.JobRunning, match="is paused"):
        submit(frame, ASK, client=other, job="paused")
    job.resume()
    out = apply(frame, ASK, client=client, job="paused", progress=False)
    assert (out["status"] == "done").all()
    assert len(server.log) == 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_a_forked_child_has_no_jobs_to_end(frame, slow):
    """They are the parent's: the end of a worker of ``multiprocessing`` stops none of them."""
    _, client = slow
    job = submit(frame, ASK, client=client)
    child = os.fork()
    if not child:
        os._exit(len(live_jobs()))
    assert os.waitpid(child, 0)[1] == 0
    assert (job.result(30)["status"] == "done").all()


SCRIPT = """
import sys, time
import pandas as pd
import deepseek_nb as ds
client = ds.Client(base_url=sys.argv[1], api_key=sys.argv[2], data_dir=sys.argv[3], concurrency_max=4)
job = ds.submit(pd.DataFrame({"n": range(40)}), "Is {{n}} even?", job="exit", client=client)
while job.progress.done < 6:
    time.sleep(0.01)
if len(sys.argv) > 4:
    job.pause()
print(job.progress.done, flush=True)
"""


@pytest.mark.parametrize("paused", [[], ["paused"]], ids=["running", "paused"])
def test_a_process_that_ends_takes_its_job_along_and_loses_nothing(tmp_path, paused):
    """No hang, no word on stderr; what was on the wire came in; the next process does the rest."""
    with Sandbox(first_token_s=0.2, count="estimate") as server:
        told = [server.base_url, server.api_key, str(tmp_path / "data")]
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-W", "default", "-c", SCRIPT, *told, *paused],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert time.monotonic() - started < 15
        assert 6 <= len(server.log) < 40
        assert len(server.log.complete) == len(server.log), "something that is paid was cut off"
        with Client(base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path / "data") as client:
            out = apply(
                pd.DataFrame({"n": range(40)}), "Is {{n}} even?", job="exit", client=client, progress=False
            )
        assert (out["status"] == "done").all()
        assert server.log.answered_twice() == {}
        assert len(server.log) == 40
