"""A notebook that fails fails its strict run, whatever the cause: red, short, by its own name."""

from __future__ import annotations

from dataclasses import dataclass, field

import nbformat
import pytest
from kernels import CANARY_KEY
from nbclient.exceptions import CellExecutionError

from deepseek_nb.sandbox import Fault, FaultScript
from notebooks import execute

LINES = 5
SHAPE = "shape = {'level': int, 'why': str}"


@dataclass(frozen=True)
class Cause:
    """Why a cell fails, and what is to be seen of it."""

    cell: str
    error: str
    requests: range
    """How many reach the server; 0 where it is caught before."""
    says: str
    faults: FaultScript | None = None
    environment: dict[str, str] = field(default_factory=dict)


def exactly(number: int) -> range:
    return range(number, number + 1)


IMPATIENT = {"DEEPSEEK_NB_SILENCE_TIMEOUT_S": "1", "DEEPSEEK_NB_MAX_FAULTS": "1"}
CAUSES = {
    "busy": Cause(
        "%%deepseek --into x --patience 2s\nsay it",
        "Overloaded",
        range(2, 30),
        "nothing was charged",
        FaultScript.always("busy_503"),
    ),
    "limited": Cause(
        "%deepseek --patience 2s say it", "RateLimited", range(2, 30), "429", FaultScript.always("rate_429")
    ),
    "wrong key": Cause(
        "%deepseek say it",
        "AuthError",
        exactly(1),
        "DEEPSEEK_API_KEY",
        environment={"DEEPSEEK_API_KEY": "sk-wrong-0000000000000000"},
    ),
    "no money": Cause(
        "%deepseek say it", "BalanceExhausted", exactly(1), "402", FaultScript.always("balance_402")
    ),
    "moderation": Cause(
        "%deepseek say it",
        "ContentRefused",
        exactly(1),
        "Content Exists Risk",
        FaultScript.always("content_risk"),
    ),
    "bad JSON": Cause(
        f"{SHAPE}\n%deepseek --schema shape say it",
        "SchemaMismatch",
        exactly(3),
        "JSON",
        FaultScript.always("bad_json_answer"),
    ),
    "undefined name": Cause(
        "customer = 'Ann'\n%deepseek greet {{custmer}}", "TemplateError", exactly(0), "'customer'"
    ),
    "unknown option": Cause("%deepseek --modle x say it", "ConfigError", exactly(0), "--model"),
    "unknown schema": Cause("%deepseek --schema Risk say it", "ConfigError", exactly(0), "'Risk'"),
    "budget": Cause("%deepseek --budget 0.00000001 say it", "BudgetExceeded", exactly(0), "budget"),
    "hung": Cause(
        "%deepseek say it", "WentSilent", range(1, 5), "silent", FaultScript.always("hang"), IMPATIENT
    ),
    "broken stream": Cause(
        "%deepseek long 100",
        "StreamBroken",
        exactly(2),
        "",
        FaultScript.always(Fault("cut_eof", after_tokens=3)),
        IMPATIENT,
    ),
    "no key": Cause(
        "%deepseek say it",
        "ConfigError",
        exactly(0),
        "DEEPSEEK_API_KEY",
        environment={"DEEPSEEK_API_KEY": ""},
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_run_fails_where_the_cell_failed(name, sandbox, folder):
    """CellExecutionError by its own name, at most five lines, no cell after it, no request too many."""
    cause = CAUSES[name]
    sandbox.faults = cause.faults
    with pytest.raises(CellExecutionError) as caught:
        execute(sandbox, folder, cause.cell, "print('went on')", **cause.environment)
    sandbox.faults = None
    assert caught.value.ename == cause.error
    saved = nbformat.read(folder / "saved.ipynb", as_version=4)
    error = saved.cells[1].outputs[-1]
    lines = "\n".join(error.traceback).splitlines()
    assert error.output_type == "error"
    assert len(lines) <= LINES
    assert lines[0].startswith(f"{cause.error}: ")
    assert cause.says in " ".join(lines)
    assert saved.cells[2].execution_count is None
    assert saved.cells[2].outputs == []
    assert len(sandbox.log) in cause.requests
    text = (folder / "saved.ipynb").read_text()
    assert CANARY_KEY not in text
    assert str(folder) not in text
    if len(saved.cells[1].outputs) > 1:
        (told,) = saved.cells[1].outputs[:-1]
        assert told.data == {"text/plain": "no answer"}, "nothing stays that looks like an answer"


def test_a_cell_that_catches_the_error_passes(sandbox, folder):
    """The class is importable, so a notebook may expect a failure and go on."""
    sandbox.faults = FaultScript.of("content_risk")
    notebook = execute(
        sandbox,
        folder,
        "from deepseek_nb import errors\n"
        "try:\n    get_ipython().run_line_magic('deepseek', 'say it')\n"
        "except errors.ContentRefused as error:\n    print(type(error).__name__, error.status)",
    )
    assert notebook.cells[1].outputs[-1].text == "ContentRefused 400\n"
