"""The magics in a real JupyterLab: what somebody sees who loads, asks, stops, fails, waits and comes back."""

from __future__ import annotations

import re

from deepseek_nb.sandbox import FaultScript

from .conftest import RENDERED
from .lab import until

LOAD = "%load_ext deepseek_nb"


def test_an_answer_grows_and_is_rendered(open_notebook):
    """A line while the model thinks, Markdown that grows, then the whole: headings, table, code, formula."""
    notebook = open_notebook("stream", LOAD, "%%deepseek --into sky --thinking\nWhy is the sky blue?")
    notebook.run_all()
    until(lambda: any("Why the sky is blue" in text for text in notebook.texts(1)))
    notebook.screenshot("growing")
    seen = notebook.watch(1)
    lengths = [len(text) for text in seen]
    assert len(seen) >= 5
    assert lengths == sorted(lengths)
    output = notebook.output(1)
    assert output.count() == 1
    assert output.locator("h2").inner_text().startswith("Why the sky is blue")
    assert output.locator("table td").first.inner_text() == "blue"
    assert output.locator("li code").inner_text() == "blue"
    assert "def scattered" in output.locator("pre").inner_text()
    until(lambda: output.locator("mjx-container, .MathJax").count() == 1)
    assert output.locator("script, img").count() == 0
    assert notebook.texts(0) == [], "loading says nothing"
    notebook.screenshot("done")


def test_stop_keeps_the_text_and_ends_the_request(open_notebook, sandbox):
    """The Stop button: the kernel is idle, what was written stays, with one line below it."""
    notebook = open_notebook(
        "stop", LOAD, "%%deepseek --into never\nlong 3000", "print('after')", "print(len(_deepseek.text))"
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


def test_a_failed_cell_stops_run_all(open_notebook, sandbox):
    """A red cell of a few lines with its own name, and the next cell does not run."""
    sandbox.faults = FaultScript.of("content_risk")
    notebook = open_notebook("failure", LOAD, "%%deepseek --into x\nsay it", "print('went on')")
    notebook.run_all()
    until(lambda: notebook.texts(1) != [])
    notebook.wait_idle()
    (error,) = notebook.texts(1)
    assert error.startswith("ContentRefused: ")
    assert len(error.splitlines()) <= 5
    assert notebook.output(1).get_attribute("data-mime-type") == "application/vnd.jupyter.stderr"
    assert notebook.prompt(2) == "[ ]:"
    assert notebook.texts(2) == []
    notebook.screenshot("stopped")


def test_waiting_is_visible(open_notebook, sandbox):
    """While the server is busy a line says why, how often, until when and what it cost."""
    sandbox.faults = FaultScript.of("busy_503", "busy_503", "busy_503")
    notebook = open_notebook("waiting", LOAD, "%%deepseek\nsay it when you can")
    notebook.run_all()
    line = re.compile(r"busy \(503\), try \d, next in \d+ s, \d+ min left of 10 min, nothing charged")
    until(lambda: any(line.fullmatch(text) for text in notebook.texts(1)))
    notebook.screenshot("busy")
    assert notebook.watch(1)[-1] == "You said: say it when you can"


def test_a_saved_notebook_reads_well_without_a_kernel(open_notebook):
    """Saved, and opened again without any kernel: the same text, rendered; an error is still there."""
    notebook = open_notebook(
        "saved", LOAD, "%%deepseek --thinking\nWhy is the sky blue?", "%deepseek --modle x say it"
    )
    notebook.run_all()
    until(lambda: notebook.texts(2) != [])
    notebook.wait_idle()
    shown = notebook.texts(1)
    file = notebook.save()
    (output,) = file.cells[1].outputs
    assert set(output.data) == {"text/markdown", "text/plain"}
    assert output.data["text/plain"] == RENDERED
    assert "widgets" not in file.metadata
    again = open_notebook("saved_again", saved=file)
    until(lambda: again.output(1).locator("h2, table, mjx-container").count() >= 3)
    assert again.texts(1) == shown
    assert "Did you mean --model?" in again.texts(2)[0]
    again.screenshot("without_kernel")
