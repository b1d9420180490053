"""The panel of a job in a real kernel: figures that move, buttons that act, and what is saved."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from front_end import WIDGET_VIEW, FrontEnd
from kernels import Kernel, kernel_environment, running_kernel

from deepseek_nb.sandbox import FaultScript, Sandbox

ROWS = 60
SETUP = f"""
import time
import pandas as pd
import deepseek_nb as ds
df = pd.DataFrame({{"n": range({ROWS})}})
def submit(name, **options):
    ask = name + ": return exactly: answer number {{{{n}}}}"
    return ds.submit(df, ask, job=name, max_tokens=50, **options)
"""


@pytest.fixture(scope="module")
def slow() -> Iterator[Sandbox]:
    """A server that takes a fifth of a second."""
    with Sandbox(first_token_s=0.2, count="estimate") as running:
        yield running


@pytest.fixture(scope="module")
def busy_kernel(slow, tmp_path_factory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("jobs")
    environment = kernel_environment(slow, folder, DEEPSEEK_NB_CONCURRENCY_MAX="4")
    with running_kernel(environment, folder) as kernel:
        assert kernel.run(SETUP).status == "ok"
        yield kernel


@pytest.fixture
def page(busy_kernel, slow) -> Iterator[FrontEnd]:
    """A page without outputs; jobs that a test leaves behind are ended."""
    slow.faults = None
    slow.log.clear()
    page = FrontEnd(busy_kernel)
    yield page
    page.run(
        "from deepseek_nb.batch.job import live_jobs\n"
        "for one in live_jobs(): one.cancel(drain_s=0); one.wait(10)"
    )
    page.wait(lambda: not page.find_all(_model_name="IntProgressModel"))


def rows_finished(page: FrontEnd) -> int:
    (bar,) = page.find_all(_model_name="IntProgressModel")
    return int(page.widgets[bar]["value"])


def quiet(page: FrontEnd, server: Sandbox) -> int:
    """Wait until nothing is on the wire; how many requests the server has seen."""
    page.wait(lambda: server.in_flight == 0)
    return len(server.log)


def test_a_job_as_a_cells_value_is_a_panel_and_at_its_end_its_text(page, slow):
    """The bar moves after the cell has returned; then no widget is left, in the output or in the kernel."""
    page.run("job = submit('shown', budget_usd=1)\njob")
    (bundle,) = page.outputs.values()
    assert WIDGET_VIEW in bundle
    assert "job.cancel()" in bundle["text/markdown"], "what to do where widgets do not show"
    page.wait(lambda: 0 < rows_finished(page) < ROWS)
    page.wait(lambda: "<svg" in page.html())
    shown = page.html()
    for figure in (
        "rows/s",
        "latency P50",
        "latency P99",
        "error rate",
        "cache hit rate",
        " of 1.00",
        "left",
    ):
        assert figure in shown
    page.wait(lambda: 'aria-live="polite">Job shown: done, 60 of 60 rows (100%).' in page.html(), 30)
    page.wait(lambda: not page.find_all(_model_name="IntProgressModel"))
    (bundle,) = page.outputs.values()
    assert set(bundle) == {"text/markdown", "text/plain"}, "a widget would be saved"
    assert "**Job** `shown`: done, 60 of 60 rows (100%)" in bundle["text/markdown"]
    assert "done, 60 of 60 rows (100%)" in bundle["text/plain"]
    assert len(json.dumps(bundle)) < 2500
    assert page.errors() == []
    page.listen(0.2)
    assert page.widgets == {}
    page.run("job")
    assert set(list(page.outputs.values())[-1]) == {"text/markdown", "text/plain"}, "ended: text at once"


def test_pause_resume_and_cancel_act_between_cells(page, slow):
    """The buttons are called what they do; a paused job sends nothing; a cancelled one says so, as text."""
    page.run("job = submit('between'); job")
    page.wait(lambda: rows_finished(page) >= 4)
    page.click(description="Pause")
    page.wait(lambda: page.find_all(description="Resume", disabled=False))
    sent = quiet(page, slow)
    page.listen(1.0)
    assert (len(slow.log), slow.in_flight) == (sent, 0), "something was sent while paused"
    assert "paused, " in page.html()
    page.click(description="Resume")
    page.wait(lambda: len(slow.log) > sent + 4)
    assert page.find_all(description="Pause", disabled=False)
    page.click(description="Cancel")
    page.wait(lambda: page.find_all(description="Cancel", disabled=True))
    page.wait(lambda: not page.find_all(description="Cancel"))
    assert "**Job** `between`: cancelled" in page.texts()[0]
    assert quiet(page, slow) < ROWS
    assert page.kernel.value("job.status") == "cancelled"
    assert page.errors() == []
    page.run("submit('between').result()")
    assert len(slow.log) == ROWS
    assert slow.log.answered_twice() == {}


@pytest.mark.parametrize("shell", ["main shell", "subshell"])
def test_clicks_act_while_a_cell_awaits_the_job(page, slow, shell):
    """On the kernel's one loop, and in a thread of their own as JupyterLab sends them."""
    if shell == "subshell":
        page.click_in_a_subshell()
    page.run(f"job = submit('await {shell}'); display(job)")
    cell = page.start("out = await job")
    page.wait(lambda: rows_finished(page) >= 4)
    page.click(description="Pause")
    page.wait(lambda: page.find_all(description="Resume"), 2)
    sent = quiet(page, slow)
    page.listen(0.7)
    assert len(slow.log) == sent
    assert cell not in page.idle, "the cell did not run any more"
    page.click(description="Resume")
    page.wait(lambda: len(slow.log) > sent)
    page.click(description="Cancel")
    page.wait(lambda: cell in page.idle, 5)
    assert 0 < page.kernel.value("int((out['status'] == 'done').sum())") < ROWS


def test_a_cell_that_blocks_is_told_what_to_do_and_a_subshells_click_ends_it(page, slow):
    """The sentence stands while ``job.result()`` waits; where clicks have a thread of their own, they act."""
    page.click_in_a_subshell()
    page.run("job = submit('blocked'); display(job)")
    assert "stop button" not in page.html()
    cell = page.start("out = job.result()")
    page.wait(lambda: "use the kernel's stop button" in page.html())
    assert "await job" in page.html()
    page.click(description="Cancel")
    page.wait(lambda: cell in page.idle, 5)
    page.wait(lambda: not page.find_all(description="Cancel"))
    assert "cancelled" in page.texts()[0]


def test_without_subshells_a_blocking_cell_holds_the_click_back_and_the_stop_button_helps(page, slow):
    """As the sentence says: the interrupt ends the waiting, then the click is heard."""
    page.run("job = submit('held'); display(job)")
    cell = page.start("job.result()")
    page.wait(lambda: rows_finished(page) >= 4)
    page.click(description="Pause")
    page.listen(0.7)
    assert not page.find_all(description="Resume"), "it was heard: then the sentence is not needed"
    page.kernel.manager.interrupt_kernel()
    page.wait(lambda: cell in page.idle)
    page.wait(lambda: page.find_all(description="Resume"), 2)
    assert "stop button" not in page.html()


def test_the_traffic_is_bounded_and_only_changes_are_sent(page, slow):
    """At most four messages a second, all widgets together; of a paused job only the clock moves."""
    page.run("job = submit('traffic'); job")
    page.wait(lambda: rows_finished(page) >= 1)
    first, began = len(page.messages), time.monotonic()
    page.listen(2.0)
    took_s = time.monotonic() - began
    sent = [message for message in page.messages[first:] if message["msg_type"] == "comm_msg"]
    written = Counter(message["content"]["comm_id"] for message in sent)
    print(f"{len(sent)} messages in {took_s:.1f} s, the busiest widget {max(written.values())}")
    assert len(sent) <= 4 * took_s + 1
    assert sum(len(json.dumps(message["content"])) for message in sent) < 10_000 * took_s
    bar = page.find(_model_name="IntProgressModel")
    states = [m["content"]["data"]["state"] for m in sent if m["content"]["comm_id"] == bar]
    assert all(set(state) == {"value"} for state in states)
    page.click(description="Pause")
    page.wait(lambda: page.find_all(description="Resume"))
    quiet(page, slow)
    page.listen(1.0)
    first = len(page.messages)
    page.listen(2.0)
    written = Counter(m["content"]["comm_id"] for m in page.messages[first:] if m["msg_type"] == "comm_msg")
    assert len(written) <= 1, "more than the figures was written"
    assert sum(written.values()) <= 3


def test_a_job_that_is_stopped_says_by_what_and_its_result_raises(page, slow):
    """The panel's text names the error; the server's words are in the error alone."""
    slow.faults = FaultScript.of(*[None] * 6, *["balance_402"] * 100)
    page.run("job = submit('stopped'); job")
    page.wait(lambda: page.texts() and "stopped, " in page.texts()[0], 20)
    assert "by BalanceExhausted" in page.texts()[0]
    assert "Insufficient" not in json.dumps(page.outputs)
    reply = page.run("job.result()")
    assert (reply["status"], reply["ename"]) == ("error", "BalanceExhausted")


def test_shown_twice_it_is_one_panel(page, slow):
    """The one before becomes text where it stands."""
    page.run("job = submit('twice'); job")
    page.run("job")
    assert len(page.find_all(description="Pause")) == 1
    first, second = page.outputs.values()
    assert WIDGET_VIEW not in first
    assert WIDGET_VIEW in second


def test_every_control_has_a_name_and_a_reason(page, slow):
    """For those who do not see where it stands."""
    page.run("job = submit('named'); job")
    controls = [
        state
        for state in page.widgets.values()
        if state["_model_name"] in ("ButtonModel", "IntProgressModel")
    ]
    assert len(controls) == 3
    assert all(state["description"] and state["tooltip"] for state in controls)
    assert page.html().count("aria-live") == 1


def test_without_live_display_a_job_is_text_at_once(slow, tmp_path):
    """``DEEPSEEK_NB_STREAM=0``: one output and no update, for tests of notebooks; no thread prints."""
    environment = kernel_environment(slow, tmp_path, DEEPSEEK_NB_STREAM="0")
    with running_kernel(environment, tmp_path) as kernel:
        kernel.run(SETUP)
        cell = kernel.run("job = submit('quiet')\njob")
        assert [message["msg_type"] for message in cell.shown] == ["display_data"]
        assert set(cell.shown[0]["content"]["data"]) == {"text/markdown", "text/plain"}
        assert kernel.run("job.result(); time.sleep(1)").kinds == ["execute_input"]
