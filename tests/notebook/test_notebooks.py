"""Whole notebooks run by nbclient, as CI does it: what fails, what is saved."""

from __future__ import annotations

import nbformat
import pytest
from kernels import CANARY_KEY
from nbclient.exceptions import CellExecutionError

from deepseek_nb.sandbox import FaultScript
from notebooks import execute


def test_a_run_notebook_is_small_whole_and_without_the_key(sandbox, folder):
    """The final state only: Markdown, plain text and a few facts; no path, no key."""
    notebook = execute(
        sandbox, folder, "%%deepseek --into a\nlong 200", "assert a.startswith('word0 ')\na[:5]"
    )
    (output,) = notebook.cells[1].outputs
    text = output.data["text/plain"]
    assert output.output_type == "display_data"
    assert set(output.data) == {"text/markdown", "text/plain"}
    assert output.data["text/markdown"] == text == " ".join(f"word{number}" for number in range(200))
    assert len(nbformat.writes(nbformat.v4.new_notebook(cells=[notebook.cells[1]]))) < 2 * len(text) + 2000
    saved = (folder / "saved.ipynb").read_text()
    assert CANARY_KEY not in saved
    assert str(folder) not in saved


def test_streamed_and_not_streamed_save_the_same(sandbox, folder):
    """What nbval compares is equal; the second run is answered from the store."""
    streamed = execute(sandbox, folder, "%%deepseek\nlong 300")
    plain = execute(sandbox, folder, "%%deepseek\nlong 300", DEEPSEEK_NB_STREAM="0")
    assert streamed.cells[1].outputs[0].data == plain.cells[1].outputs[0].data
    assert len(plain.cells[1].outputs) == 1


def test_a_failing_cell_stops_the_notebook(sandbox, folder):
    """CellExecutionError; the error's own name and words saved; the next cells did not run."""
    sandbox.faults = FaultScript.of("content_risk")
    with pytest.raises(CellExecutionError) as caught:
        execute(sandbox, folder, "%%deepseek --into x\nsay it", "print('went on')")
    assert caught.value.ename == "ContentRefused"
    saved = nbformat.read(folder / "saved.ipynb", as_version=4)
    error = saved.cells[1].outputs[-1]
    assert error.output_type == "error"
    assert "Content Exists Risk" in error.evalue
    assert len(error.traceback) <= 5
    assert saved.cells[2].execution_count is None
    assert saved.cells[2].outputs == []


def test_a_hostile_answer_is_saved_harmless(sandbox, folder):
    """Nothing live in the file: neither in the Markdown nor in the plain text."""
    execute(sandbox, folder, "%%deepseek\nhostile")
    markdown = "".join(
        nbformat.read(folder / "saved.ipynb", as_version=4).cells[1].outputs[0].data["text/markdown"]
    )
    harmless = "Hi &lt;script>alert(1)&lt;/script> [pixel](https://evil.example/p.png) [go] (javascript:"
    assert markdown == harmless + "alert(1)) red"
