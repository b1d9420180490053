"""The base of the panels: the widget and its twin, at the beginning, while it lives and at the end."""

from __future__ import annotations

import subprocess
import sys

import pytest
from front_end import WIDGET_VIEW, FrontEnd
from kernels import Kernel

COUNTER = """
import ipywidgets
from deepseek_nb.notebook.panel import Panel, Ticker, Twin, announce, assign, live_region
bar, region, button = ipywidgets.IntProgress(max=9), live_region(), ipywidgets.Button(description="Add")
def twin():
    return Twin(f"**{bar.value} of 9**", f"{bar.value} of 9")
def counter(**how):
    box = ipywidgets.VBox([bar, region, button])
    return Panel(box, twin, title="Counter", instead="Count yourself.", **how)
"""


@pytest.fixture
def page(kernel: Kernel) -> FrontEnd:
    """A page with a counter's parts."""
    page = FrontEnd(kernel)
    assert page.run(COUNTER)["status"] == "ok"
    return page


def test_the_bundle_holds_the_widget_and_its_twin(page):
    """A front end without widgets shows the twin and what to do."""
    page.run("counter().show()")
    (bundle,) = page.outputs.values()
    assert set(bundle) == {WIDGET_VIEW, "text/markdown", "text/plain"}
    assert page.widgets[bundle[WIDGET_VIEW]["model_id"]]["_model_name"] == "VBoxModel"
    assert bundle["text/markdown"] == "**0 of 9**\n\nCount yourself."
    assert bundle["text/plain"] == "0 of 9\n\nCount yourself."


def test_a_panel_that_ends_is_replaced_by_its_twin_and_its_widgets_are_closed(page):
    """Also from another thread, after the cell."""
    before = set(page.widgets) - {page.find(_model_name="IntProgressModel"), page.find(description="Add")}
    page.run("panel = counter(); panel.show()")
    assert len(page.widgets) > len(before) + 2
    page.run(
        "import threading, time\n"
        "def later():\n    time.sleep(0.2); assign(bar, value=9); panel.end(); panel.end()\n"
        "threading.Thread(target=later).start()"
    )
    page.wait(lambda: page.texts() == ["**9 of 9**"])
    page.wait(lambda: not page.find_all(description="Add"))
    page.listen(0.3)
    assert [set(bundle) for bundle in page.outputs.values()] == [{"text/markdown", "text/plain"}]
    assert not any(state["_model_name"] in ("VBoxModel", "LayoutModel") for state in page.widgets.values())
    assert page.errors() == []


def test_a_panel_that_stays_keeps_its_twin_folded_below(page):
    """It is written again only when it changed."""
    page.run("panel = counter(fold='Count, stays'); panel.show()")
    view, folded = page.outputs.values()
    assert view["text/markdown"] == "**Counter**\n\nCount yourself."
    assert folded["text/markdown"] == ("<details><summary>Count, stays</summary>\n\n**0 of 9**\n\n</details>")
    assert folded["text/plain"] == "Count, stays\n\n0 of 9"
    page.run("panel.refresh_twin(); assign(bar, value=4); panel.refresh_twin(); panel.refresh_twin()")
    updates = [message for message in page.messages if message["msg_type"] == "update_display_data"]
    assert len(updates) == 1
    assert "4 of 9" in page.texts()[1]
    page.run("panel.end()")
    assert page.texts() == ["**4 of 9**", "*Closed.*"]


def test_of_the_panels_with_one_key_the_last_is_alive(page):
    """Running the cell again leaves no widget behind."""
    page.run("first = counter(key='x', fold='Kept'); first.show()")
    page.run(COUNTER + "second = counter(key='x', fold='Kept'); second.show()")
    assert page.texts()[:2] == ["**0 of 9**", "*Closed.*"]
    assert len(page.find_all(_model_name="VBoxModel")) == 1
    page.run("states = [first.live, second.live]; second.end()")
    assert page.value("states") == [False, True]


def test_only_what_changed_is_sent_and_in_one_message(page):
    """Setting the same again costs nothing."""
    bar = page.find(_model_name="IntProgressModel")
    page.run("assign(bar, value=3, bar_style='success', max=9)")
    page.run("assign(bar, value=3, bar_style='success', max=9)")
    sent = [
        message["content"]["data"]["state"]
        for message in page.messages
        if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == bar
    ]
    assert sent == [{"value": 3, "bar_style": "success"}]


def test_a_click_is_heard_while_a_cell_runs(page):
    """Also after the control was written by the cell itself, and by a thread."""
    page.run(
        "import threading, time\nheard = []\nbutton.on_click(lambda _: heard.append(time.monotonic()))\n"
        "panel = counter(); panel.show(); assign(button, disabled=True); assign(button, disabled=False)"
    )
    page.click_in_a_subshell()
    cell = page.start("begun = time.monotonic(); assign(button, icon='x'); time.sleep(1.5)")
    page.wait(lambda: page.find_all(description="Add", icon="x"))
    page.click(description="Add")
    page.listen(0.3)
    page.click(description="Add")
    assert page.end(cell)["status"] == "ok"
    assert page.value("len(heard)") == 2
    assert page.value("max(heard) - begun") < 1.0


def test_what_is_announced_is_text(page):
    """The region for screen readers takes no markup."""
    page.run("announce(region, 'done <b>&</b>')")
    assert '<div role="status" aria-live="polite">done &lt;b&gt;&amp;&lt;/b&gt;</div>' in page.html()


def test_a_ticker_that_fails_stops_and_says_so_nowhere_but_to_its_owner(page):
    """A thread that prints would print into whichever cell runs."""
    page.run(
        "calls, failures = [], []\n"
        "def tick():\n    calls.append(1)\n    if len(calls) == 3: raise ValueError('no')\n"
        "ticker = Ticker(tick, period_s=0.01, failed=failures.append); ticker.start()"
    )
    page.listen(0.3)
    assert page.value("[len(calls), [str(f) for f in failures]]") == [3, ["no"]]
    assert page.errors() == []


def test_without_a_kernel_the_twin_is_printed_with_what_to_do():
    """In a script or a terminal there are no widgets."""
    code = COUNTER + "print(counter(fold='Kept').show())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["0 of 9", "", "Count yourself.", "False"]
    assert done.stderr == ""
