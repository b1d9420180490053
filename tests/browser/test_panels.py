"""The panels in a real JupyterLab: what is typed and clicked is heard, and what is saved reads well."""

from __future__ import annotations

import re
from typing import Any

from .lab import Notebook, until

LOAD = "import deepseek_nb as ds"


def test_a_chat_is_typed_into(open_notebook, sandbox):
    """Type, Send: the question and a rendered answer stand in the panel; the next question knows them."""
    notebook = open_notebook("chat", LOAD, "ds.chat('sky')")
    notebook.run_all()
    panel = notebook.output(1).first
    question = panel.locator("textarea")
    question.wait_for()
    send = panel.get_by_role("button", name="Send")
    question.fill("Why is the sky blue?")
    question.press("Tab")
    send.click()
    panel.locator("table td").first.wait_for()
    until(lambda: send.is_enabled())
    question.fill("And at night?")
    question.press("Tab")
    send.click()
    until(lambda: "You said: And at night?" in panel.inner_text())
    until(lambda: send.is_enabled())
    assert len(sandbox.log) == 2
    assert sandbox.log[1].prompt_tokens > sandbox.log[0].prompt_tokens, "what was said before goes along"
    assert panel.locator("script, img").count() == 0
    notebook.screenshot("asked")
    again = open_notebook("chat_saved", saved=notebook.save())
    again.output(1).last.locator("summary").click()
    for said in ("Why is the sky blue?", "450 nm", "You said: And at night?"):
        assert said in again.output(1).last.inner_text()
    again.screenshot("without_kernel")


FRAME = """\
import pandas as pd
ds.configure(concurrency_max=8)
df = pd.DataFrame({"text": [f"long {20 + n % 7}, for row {n}" for n in range(400)]})"""
RETURNED = "job = df.deepseek.submit('{{text}}', job='returned')\njob"
AWAITED = "job = df.deepseek.submit('{{text}}, please', job='awaited')\ndisplay(job)\nscored = await job"


def test_jobs_are_paused_resumed_and_cancelled(open_notebook, sandbox):
    """The buttons work after the cell has returned, and in a cell that awaits; a pause sends nothing."""
    notebook = open_notebook("jobs", LOAD, FRAME, RETURNED, AWAITED, "print(job.status)")
    notebook.run(0)
    notebook.run(1)
    for number in (2, 3):
        sandbox.log.clear()
        notebook.run(number)
        click_through(notebook, number, sandbox)
    notebook.run(4)
    until(lambda: notebook.texts(4) == ["cancelled"])
    for cell in notebook.save().cells[2:4]:
        assert "cancelled" in str(cell.outputs)
        assert "widget-view" not in str(cell.outputs)
        assert "ipykernel" not in str(cell.outputs), "a warning names no file of this machine"


def click_through(notebook: Notebook, number: int, sandbox: Any) -> None:
    """Pause, Resume and Cancel on the job of that cell."""
    panel = notebook.output(number).first
    panel.get_by_role("button", name="Pause").wait_for()
    until(lambda: len(sandbox.log) >= 8)
    assert notebook.idle == (number == 2), "one has returned, the other still awaits"
    notebook.screenshot(f"{number}_running")
    panel.get_by_role("button", name="Pause").click()
    resume = panel.get_by_role("button", name="Resume")
    resume.wait_for()
    until(lambda: sandbox.in_flight == 0)
    answered = len(sandbox.log)
    until(lambda: ": paused, " in panel.inner_text())
    notebook.page.wait_for_timeout(800)
    assert len(sandbox.log) == answered, "nothing is sent while it is paused"
    notebook.screenshot(f"{number}_paused")
    resume.click()
    until(lambda: len(sandbox.log) > answered)
    panel.get_by_role("button", name="Cancel").click()
    until(lambda: ": cancelled, " in panel.inner_text())
    notebook.wait_idle()
    until(lambda: panel.locator("button").count() == 0)
    assert len(sandbox.log) < 400
    notebook.screenshot(f"{number}_cancelled")


def test_a_dashboard_shows_figures_and_alarms(open_notebook):
    """The figures move by themselves, a threshold is set in the panel, and Close leaves the figures."""
    notebook = open_notebook(
        "dashboard",
        LOAD,
        "ds.configure()\nsaid = [ds.ask(f'say {n}', cache=False).text for n in range(6)]",
        "ds.dashboard(p99_ms=1, cache_hit_rate=None, least_calls=5)",
        "more = [ds.ask(f'say {n} more', cache=False).text for n in range(7)]",
    )
    for number in range(3):
        notebook.run(number)
    panel = notebook.output(2).first
    panel.get_by_role("button", name="Close").wait_for()
    assert panel.locator("td", has_text=re.compile("^6")).count() >= 1
    assert panel.locator("svg").count() >= 1
    until(lambda: "Alarm: P99 latency" in panel.inner_text())
    notebook.screenshot("alarm")
    notebook.run(3)
    until(lambda: panel.locator("td", has_text=re.compile("^13")).count() >= 1)
    panel.get_by_text("Alarm thresholds").click()
    field = panel.get_by_label("P99 above, ms")
    field.fill("60000")
    field.press("Enter")
    until(lambda: "Alarm: " not in panel.inner_text())
    notebook.screenshot("calm")
    panel.get_by_role("button", name="Close").click()
    until(lambda: panel.locator("button").count() == 0)
    outputs = notebook.save().cells[2].outputs
    assert "13" in outputs[0].data["text/plain"]
    assert "widget-view" not in str(outputs)
    notebook.screenshot("closed")
