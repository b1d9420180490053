"""The magics in a real JupyterLab: what somebody sees who loads, asks, stops, fails, waits and comes back."""

from __future__ import annotations

import re

from deepseek_nb.sandbox import FaultScript

from .conftest import RENDERED
from .lab import Notebook, until

LOAD = "%load_ext deepseek_nb"


def test_an_answer_grows_is_rendered_and_saved(open_notebook):
    """A line while the model thinks, Markdown that grows, then the whole; and the same without a kernel."""
    notebook = open_notebook(
        "stream",
        LOAD,
        "%%deepseek --into sky --thinking\nWhy is the sky blue?",
        "%deepseek --modle x say it",
    )
    notebook.watch(1)
    notebook.run_all()
    until(lambda: any("Why the sky is blue" in text for text in notebook.texts(1)))
    notebook.screenshot("growing")
    notebook.wait_idle()
    lengths = [len(text) for text in notebook.watched() if text.startswith("Why the sky is blue")]
    assert len(lengths) >= 5
    # not each is longer than the one before: a formula shrinks when it is set
    assert lengths[0] < lengths[len(lengths) // 2] < lengths[-1]
    assert notebook.texts(0) == [], "loading says nothing"
    assert notebook.output(1).count() == 1
    assert_rendered(notebook)
    notebook.screenshot("done")
    file = notebook.save()
    (output,) = file.cells[1].outputs
    assert set(output.data) == {"text/markdown", "text/plain"}
    assert output.data["text/plain"] == RENDERED
    assert "widgets" not in file.metadata
    again = open_notebook("stream_saved", saved=file)
    assert_rendered(again)
    assert again.texts(1) == notebook.texts(1)
    assert "Did you mean --model?" in again.texts(2)[0]
    again.screenshot("without_kernel")


def assert_rendered(notebook: Notebook) -> None:
    """Heading, table, list, code and formula are what they look like, and nothing in it is alive."""
    output = notebook.output(1)
    until(lambda: output.locator("mjx-container, .MathJax").count() == 1)
    assert output.locator("h2").inner_text().startswith("Why the sky is blue")
    assert output.locator("table td").first.inner_text() == "blue"
    assert output.locator("li code").inner_text() == "blue"
    assert "def scattered" in output.locator("pre").inner_text()
    assert output.locator("script, img").count() == 0


def test_stop_keeps_the_text_and_ends_the_request(open_notebook, sandbox):
    """The Stop button: the kernel is idle, what was written stays, with one line below it."""
    notebook = open_notebook(
        "stop",
        LOAD,
        "%%deepseek --into never\nlong 3000",
        "print('after')",
        "print(len(_deepseek.text.strip()))",
    )
    notebook.run_all()
    until(lambda: any("word9 " in text for text in notebook.texts(1)))
    notebook.stop()
    notebook.wait_idle(2)
    text, error = notebook.texts(1)
    assert text.startswith("word0 word1")
    assert error.startswith("Interrupted: The request was cancelled; ")
    assert len(error.splitlines()) <= 3
    assert notebook.texts(2) == []
    assert notebook.prompt(2) == "[ ]:"
    until(lambda: len(sandbox.log) == 1)
    assert sandbox.log[0].aborted
    notebook.screenshot("stopped")
    notebook.run(3)
    until(lambda: notebook.texts(3) != [])
    assert notebook.texts(3) == [str(len(text))]


def test_waiting_is_visible_and_a_failed_cell_stops_run_all(open_notebook, sandbox):
    """A line on why, how often, until when, at what cost; then a red cell, and the next one does not run."""
    sandbox.faults = FaultScript.of("busy_503", "busy_503", "busy_503", None, "content_risk")
    notebook = open_notebook(
        "failure",
        LOAD,
        "%%deepseek --no-thinking\nsay it when you can",
        "%%deepseek --into x\nsay something risky",
        "print('went on')",
    )
    notebook.run_all()
    line = re.compile(r"busy \(503\), try \d, next in \d+ s, \d+ min left of 10 min, nothing charged")
    until(lambda: any(line.fullmatch(text) for text in notebook.texts(1)))
    notebook.screenshot("waiting")
    until(lambda: notebook.texts(2) != [])
    notebook.wait_idle()
    assert notebook.texts(1) == ["You said: say it when you can"]
    (error,) = notebook.texts(2)
    assert error.startswith("ContentRefused: ")
    assert len(error.splitlines()) <= 5
    assert notebook.output(2).get_attribute("data-mime-type") == "application/vnd.jupyter.stderr"
    assert notebook.prompt(3) == "[ ]:"
    assert notebook.texts(3) == []
    notebook.screenshot("stopped")
