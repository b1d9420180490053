"""What is in the file of a notebook that ran: the answer in two plain forms, a few facts, nothing else."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from kernels import CANARY_KEY
from nbconvert import HTMLExporter, MarkdownExporter

from notebooks import execute

OVER_BYTES = 1024
FACTS = {
    "model",
    "prompt_tokens",
    "completion_tokens",
    "cache_hit_tokens",
    "cost_usd",
    "finish_reason",
    "cached",
}
SERVED = "deepseek-flash"
TABLE = "# The result\n\n| colour | nm |\n|---|---|\n| blue | 450 |\n\nAnd **so** on: $x^2$."
CELLS = {
    "hello": "%%deepseek --into hello\nsay hello",
    "rich": f"%%deepseek\n{TABLE}",
    "long": "%%deepseek --thinking\nlong 500",
    "line": "%deepseek --as text say it in plain text",
    "code": "%%deepseek --as code\n\n```python\nx = 1\n```",
    "object": "shape = {'level': int, 'why': str}\nrisk = %deepseek --schema shape rate it",
    "again": "%%deepseek\nsay hello",
}
ANSWERS = {
    "hello": "You said: say hello",
    "rich": f"You said: {TABLE}",
    "long": " ".join(f"word{number}" for number in range(500)),
    "line": "You said: say it in plain text",
    "code": "You said: \n```python\nx = 1\n```",
    "object": '{"level":3,"why":"because"}',
    "again": "You said: say hello",
}
REMOTE = re.compile(r"https?:|//[a-z]|data:|src=|href=", re.IGNORECASE)
LIVE = re.compile(r"<\s*(?:style|script|link|iframe|img|div|span)|class=|style=", re.IGNORECASE)


WAYS = {"streamed": {}, "whole": {"DEEPSEEK_NB_STREAM": "0"}}


@pytest.fixture(scope="module")
def runs(server, tmp_path_factory):
    """The folders of two runs in kernels that share nothing: streamed, and shown at the end only."""
    server.faults = None
    folders = {way: tmp_path_factory.mktemp(way) for way in WAYS}
    for way, variables in WAYS.items():
        execute(server, folders[way], *CELLS.values(), **variables)
    return folders


def read(folder: Path) -> nbformat.NotebookNode:
    return nbformat.read(folder / "saved.ipynb", as_version=4)


@pytest.fixture(params=WAYS)
def saved(request, runs):
    """The notebook as it was saved, and its folder."""
    return read(runs[request.param]), runs[request.param]


def outputs(notebook: nbformat.NotebookNode) -> dict[str, dict]:
    """The one output of each cell that asked."""
    found = {}
    for name, cell in zip(CELLS, notebook.cells[1:], strict=True):
        (found[name],) = cell.outputs
    return found


def test_an_output_is_the_answer_in_two_forms_and_a_few_facts(saved):
    """Over those forms at most 1 KB; display_data only, text/markdown and text/plain only."""
    notebook, _ = saved
    nbformat.validate(notebook)
    for name, output in outputs(notebook).items():
        forms = output["data"]
        assert output["output_type"] == "display_data"
        assert set(forms) == ({"text/plain"} if name == "line" else {"text/markdown", "text/plain"})
        over = len(json.dumps(output).encode()) - sum(
            len(json.dumps(text).encode()) for text in forms.values()
        )
        assert over <= OVER_BYTES / 2
    assert "widgets" not in notebook.metadata


def test_a_short_answer_takes_a_kilobyte_at_most(saved):
    """Over its own size, the second form of it included."""
    for name, output in outputs(saved[0]).items():
        if name != "long":
            assert len(json.dumps(output).encode()) - len(ANSWERS[name].encode()) <= OVER_BYTES


def test_plain_text_is_the_real_answer(saved):
    """For terminals, screen readers, diffs: no object's repr, no progress line."""
    shown = {name: output["data"]["text/plain"] for name, output in outputs(saved[0]).items()}
    assert shown == ANSWERS


def test_the_facts_are_all_there_and_no_others(saved):
    """Model served, tokens, cache hit tokens, cost, finish reason, from the store or not."""
    facts = {name: output["metadata"]["deepseek_nb"] for name, output in outputs(saved[0]).items()}
    assert all(set(told) == FACTS for told in facts.values())
    assert all(output["metadata"].keys() == {"deepseek_nb"} for output in outputs(saved[0]).values())
    assert all(told["model"] == SERVED for told in facts.values())
    assert all(told["finish_reason"] == "stop" for told in facts.values())
    assert all(told["cost_usd"] > 0 and told["completion_tokens"] > 0 for told in facts.values())
    assert [name for name, told in facts.items() if told["cached"]] == ["again"]


def test_nothing_of_this_machine_and_nothing_live_is_saved(saved):
    """No CSS, script, absolute path, remote asset or key in any output, nor in the notebook's metadata."""
    notebook, folder = saved
    for cell in notebook.cells:
        cell.source = ""
    text = json.dumps(notebook)
    assert not LIVE.search(text)
    assert not REMOTE.search(text)
    for place in (folder, Path.home(), Path(sys.prefix), Path(__file__).parents[2]):
        assert str(place) not in text
    assert CANARY_KEY not in text


def test_every_run_saves_the_same(runs):
    """Another kernel with an empty store, without streaming: the same data in every output."""
    first, again = (outputs(read(folder)) for folder in runs.values())
    assert [output["data"] for output in again.values()] == [output["data"] for output in first.values()]


def test_it_reads_well_as_markdown_and_as_html(saved):
    """nbconvert: the answer's own Markdown, and its headings, tables and code, without a kernel."""
    markdown = MarkdownExporter().from_notebook_node(saved[0])[0]
    assert TABLE in markdown
    assert "```python\nx = 1\n```" in markdown
    assert not re.search(r"display_id|object at 0x|<IPython", markdown)
    page = HTMLExporter().from_notebook_node(saved[0])[0]
    shown = page[page.index("<body") :]
    assert re.search(r"<td[^>]*>blue</td>", shown)
    assert "<strong>so</strong>" in shown
    assert re.search(r"<h1[^>]*>The result", shown) or "# The result" in shown
    assert "word499" in shown
