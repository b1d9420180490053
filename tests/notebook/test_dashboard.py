"""The dashboard in a real kernel: it follows the default client, raises alarms, and keeps its figures."""

from __future__ import annotations

import re
from collections.abc import Iterator

import nbformat
import pytest
from front_end import WIDGET_VIEW, FrontEnd
from jupyter_client.manager import KernelManager
from kernels import CANARY_KEY, Kernel, ThisPython, kernel_environment
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from test_s05_answers_are_hostile import Outputs, ThisKernelManager

from deepseek_nb.sandbox import FaultScript

RESET = "import deepseek_nb as ds\nds.configure(); None"
"""A new default client: its figures begin anew."""


@pytest.fixture
def page(kernel) -> Iterator[FrontEnd]:
    """A page whose kernel has a fresh client; a dashboard that is left open is closed."""
    page = FrontEnd(kernel)
    assert page.run(RESET)["status"] == "ok"
    yield page
    page.run("if 'board' in globals(): board.close()")


def opened(page: FrontEnd, arguments: str = "") -> FrontEnd:
    assert page.run(f"board = ds.dashboard({arguments})\nboard")["status"] == "ok"
    return page


def cell_of(page: FrontEnd, title: str) -> str:
    """The text under that title in the table of figures."""
    (table,) = [w["value"] for w in page.widgets.values() if "<table>" in str(w.get("value"))]
    heads = [re.sub("<[^>]+>", "", head) for head in re.findall(r"<th .*?</th>", table)]
    values = [re.sub("<[^>]+>", " ", value) for value in re.findall(r"<td .*?</td>", table)]
    return " ".join(values[heads.index(title)].split())


def test_it_shows_what_the_client_does_and_refreshes_by_itself(page, sandbox):
    """Also while a cell runs, and without one."""
    opened(page, "cache_hit_rate=None")
    assert cell_of(page, "Calls") == "0 0 refusals"
    assert cell_of(page, "P99 latency") == "none P50 none"
    assert "No alarm." in page.html()
    cell = page.start(
        "import time\nfor number in range(4): ds.ask(f'dash {number % 3}', thinking=False)\ntime.sleep(4)"
    )
    page.wait(lambda: cell_of(page, "Calls").startswith("4 "), within_s=6)
    assert cell not in page.idle
    assert cell_of(page, "Cache hits") == "25 % 1 of 4"
    assert cell_of(page, "Errors") == "0 % 0 of 4"
    assert re.fullmatch(r"\d+ ms P50 \d+ ms", cell_of(page, "P99 latency"))
    spent = sum(record.cost_usd for record in sandbox.log)
    assert cell_of(page, "Spent") == f"${spent:,.4f} no budget"
    assert page.html().count("<svg ") == 3
    page.wait(lambda: "| 4 (0 refusals) |" in page.texts()[-1], within_s=8)
    assert page.errors() == []


def test_it_is_quiet_while_nothing_happens(page):
    """At most one look a second, and nothing is sent that did not change."""
    opened(page)
    page.listen(1.0)
    before = len([m for m in page.messages if m["msg_type"] in ("comm_msg", "update_display_data")])
    page.listen(3.5)
    after = len([m for m in page.messages if m["msg_type"] in ("comm_msg", "update_display_data")])
    assert after == before


def test_an_alarm_is_said_in_words_and_announced_once(page, sandbox):
    """In the table, with what to do below it; the screen reader hears of the change only."""
    opened(page, "least_calls=5, cache_hit_rate=0.5, p99_ms=None")
    region = page.find(value='<div role="status" aria-live="polite"></div>')
    page.run("for number in range(6): ds.ask(f'alarm {number}', thinking=False)")
    page.wait(lambda: "Alarm: Cache hits" in page.widgets[region]["value"])
    assert cell_of(page, "Cache hits") == "0 % (alarm) 0 of 6"
    assert re.search(r"Alarm: Cache hits 0 %, below 50 %, for \d s\.</strong> Most questions", page.html())
    assert page.value("[alarm.name for alarm in board.alarms]") == ["cache_hit_rate"]
    page.run("for number in range(24): ds.ask(f'alarm {number % 6}', thinking=False)")
    page.wait(lambda: "No alarm any more" in page.widgets[region]["value"])
    told = [
        message
        for message in page.messages
        if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == region
    ]
    assert len(told) == 2


def test_failures_and_refusals_are_counted(page, sandbox):
    """A failed call is an error; a refusal that was waited out is none."""
    opened(page, "least_calls=1, error_rate=0.4, cache_hit_rate=None, p99_ms=None")
    sandbox.faults = FaultScript.of("busy_503")
    page.run("ds.ask('dash refused once', thinking=False)")
    sandbox.faults = FaultScript.of("content_risk")
    assert page.run("ds.ask('dash refused for good', thinking=False)")["ename"] == "ContentRefused"
    page.wait(lambda: cell_of(page, "Errors") == "50 % (alarm) 1 of 2")
    assert cell_of(page, "Calls") == "2 1 refusals"


def test_thresholds_are_changed_by_their_controls(page):
    """And 0 switches one off."""
    opened(page, "p99_ms=1200, error_rate=None")
    fields = {
        page.widgets[one]["description"]: one for one in page.find_all(_model_name="BoundedFloatTextModel")
    }
    shown = {label: page.widgets[one]["value"] for label, one in fields.items()}
    assert shown == {
        "P99 above, ms": 1200.0,
        "Errors above, %": 0.0,
        "Cache hits below, %": 60.0,
        "Quota from, %": 80.0,
    }
    page.set(fields["Errors above, %"], value=7.0)
    page.set(fields["Quota from, %"], value=0.0)
    names = ("p99_ms", "error_rate", "cache_hit_rate", "quota")
    now = page.value(f"[getattr(board.thresholds, name) for name in {names!r}]")
    assert now == [1200.0, 0.07, 0.6, None]
    assert page.run("ds.dashboard(error_rate=2)")["ename"] == "ConfigError"


def test_the_budget_is_watched(page):
    """Spent against the limit of the client."""
    page.run("ds.configure(budget_usd=0.02)\nds.ask('what is it worth', thinking=False)")
    opened(page, "quota=0.0001")
    assert re.fullmatch(r"\$0\.\d{4} \(alarm\) of \$0\.02", cell_of(page, "Spent"))


def test_it_follows_the_default_client(page):
    """Replaced or closed: the figures are those of the client there is, without an error."""
    opened(page)
    page.run("ds.ask('dash before', thinking=False)")
    page.wait(lambda: cell_of(page, "Calls").startswith("1 "))
    page.run("ds.configure(model='deepseek-v4-pro'); None")
    page.wait(lambda: cell_of(page, "Calls").startswith("0 "))
    assert "/deepseek-v4-pro, last 5 min" in page.html()
    page.run("ds.ask('dash after', thinking=False)\nds.default_client().close()")
    page.wait(lambda: cell_of(page, "Calls").startswith("1 "))
    page.listen(2.5)
    assert "stopped" not in page.html()
    assert page.value("board._ticker._thread.is_alive()")
    assert page.errors() == []


def test_what_stops_it_is_said_there(page):
    """Settings that cannot be used: nothing is printed, and the figures stay."""
    opened(page)
    page.run(
        "import os\nclient, ds.session._client = ds.session._client, None\n"
        "address = os.environ['DEEPSEEK_NB_BASE_URL']\nos.environ['DEEPSEEK_NB_BASE_URL'] = 'nowhere'"
    )
    page.wait(lambda: "The dashboard stopped. ConfigError" in page.html())
    page.run("os.environ['DEEPSEEK_NB_BASE_URL'] = address\nds.session._client = client\nboard.close()")
    assert page.errors() == []
    assert any("| 0 (0 refusals) |" in text for text in page.texts())


def test_a_kernel_that_ends_says_nothing_of_it(sandbox, tmp_path):
    """The thread that refreshes does not print into the log while everything is taken down."""
    log = tmp_path / "kernel.log"
    manager = KernelManager(kernel_name="this", kernel_spec_manager=ThisPython())
    with log.open("w") as stderr:
        manager.start_kernel(env=kernel_environment(sandbox, tmp_path), cwd=str(tmp_path), stderr=stderr)
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        page = FrontEnd(Kernel(manager, client))
        page.run("import deepseek_nb as ds")
        opened(page).listen(1.5)
        client.stop_channels()
        manager.shutdown_kernel(now=False)
    said = [line for line in log.read_text().splitlines() if "without encryption" not in line]
    assert said == []


def test_close_stops_it_and_leaves_the_figures(page):
    """By the button; a second dashboard closes the first."""
    opened(page)
    page.run("for number in range(3): ds.ask(f'last figures {number}', thinking=False)")
    page.click(description="Close")
    page.wait(lambda: not page.find_all(description="Close"))
    figures, closed = page.outputs.values()
    assert WIDGET_VIEW not in figures
    assert "| 3 (0 refusals) |" in figures["text/markdown"]
    assert closed["text/plain"] == "Closed."
    page.listen(1.2)
    assert page.value("board._ticker._thread.is_alive()") is False
    opened(page)
    page.run("first, first_thread = board, board._ticker._thread")
    opened(page)
    assert len(page.find_all(description="Close")) == 1
    page.listen(1.5)
    assert page.value("[first_thread.is_alive(), board._ticker._thread.is_alive()]") == [False, True]
    page.run("board.close()")
    assert page.errors() == []


def test_two_panels_at_once(page):
    """The dashboard sees what the chat panel asks."""
    opened(page)
    page.run("ds.chat('beside a dashboard', thinking=False)")
    page.set(page.find(_model_name="TextareaModel"), value="say it beside")
    page.click(description="Send")
    page.wait(lambda: "You said: say it beside" in page.html() and cell_of(page, "Calls").startswith("1 "))


def test_an_interrupt_does_not_touch_it(page):
    """The cell ends, the dashboard goes on."""
    opened(page)
    page.run("import time")
    cell = page.start("time.sleep(30)")
    page.listen(1.2)
    page.kernel.manager.interrupt_kernel()
    assert page.end(cell)["ename"] == "KeyboardInterrupt"
    page.run("ds.ask('after the interrupt', thinking=False)")
    page.wait(lambda: cell_of(page, "Calls").startswith("1 "))


def test_the_saved_notebook_reads_well_without_a_kernel(server, sandbox, tmp_path):
    """A table and lines of blocks in Markdown; no styles, scripts, pictures, paths or keys."""
    cells = [
        "import time\nimport deepseek_nb as ds\nds.configure(route='here')\nds.dashboard(least_calls=1)",
        "for number in range(3): ds.ask(f'saved {number}', thinking=False)\ntime.sleep(7)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook,
        timeout=60,
        kernel_name="this",
        kernel_manager_class=ThisKernelManager,
        store_widget_state=False,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute(env=kernel_environment(server, tmp_path))
    panel, twin = (output["data"] for output in notebook.cells[0].outputs)
    assert not notebook.cells[1].outputs
    assert panel["text/markdown"].startswith(
        "**Dashboard of the default client**\n\nWhere widgets do not show"
    )
    assert twin["text/markdown"].startswith(
        "<details><summary>Figures, stay when the notebook is saved</summary>"
    )
    assert "Dashboard of here/deepseek-flash, the last " in twin["text/markdown"]
    assert "| 3 (0 refusals) |" in twin["text/markdown"]
    assert "**Alarm: Cache hits 0 %, below 60 %, for " in twin["text/markdown"]
    assert "Calls: 3 (0 refusals)" in twin["text/plain"]
    assert re.search("`[·▁▂▃▄▅▆▇█]{30}`", twin["text/markdown"])
    saved = nbformat.writes(notebook)
    for nothing in ("style", "<svg", "http", "127.0.0.1", CANARY_KEY, str(tmp_path)):
        assert nothing not in saved
    page = HTMLExporter().from_notebook_node(notebook)[0]
    assert [found for found in Outputs(page).alive if found not in ("<details {}>", "<summary {}>")] == []
