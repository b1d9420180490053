"""The notebooks: they run, say the same each time, and can be shown to anybody."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from deepseek_nb.sandbox import FaultScript, Sandbox

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "00_quickstart.ipynb"
SANITIZE = ROOT / "notebooks" / "sanitize.cfg"
SIZES_BYTES = {"00_quickstart": 60_000, "02_customer_support": 300_000}
"""The notebooks, and how large each may be at most."""
FAULTS = {"busy_503": 0.15, "rate_429": 0.1, "empty_200": 0.05, "cut_rst": 0.05}


@pytest.fixture(scope="session")
def fonts(tmp_path_factory) -> Path:
    """Where matplotlib has its list of fonts: in a fresh home it says that it makes one."""
    folder = tmp_path_factory.mktemp("matplotlib")
    command = [sys.executable, "-c", "import matplotlib.font_manager"]
    subprocess.run(command, env={"MPLCONFIGDIR": str(folder)}, check=True, capture_output=True, timeout=100)
    return folder


@pytest.fixture
def environment(tmp_path, fonts) -> dict[str, str]:
    """A home without anybody's IPython profile, and nothing set but what the notebooks are tested with."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    kept["MPLCONFIGDIR"] = str(fonts)
    data = {"DEEPSEEK_NB_DATA_DIR": str(tmp_path / "data"), "DEEPSEEK_NB_STREAM": "0"}
    return kept | {"HOME": str(tmp_path / "home"), "IPYTHONDIR": str(tmp_path / "ipython")} | data


@pytest.fixture(params=SIZES_BYTES)
def notebook(request) -> Path:
    return ROOT / "notebooks" / f"{request.param}.ipynb"


def _nbval(
    environment: dict[str, str], *flags: str, notebook: Path = NOTEBOOK
) -> subprocess.CompletedProcess[str]:
    """Run the notebook in a kernel of its own, cell by cell, and compare with what is saved."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(ROOT), *flags, str(notebook)]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110
    )


def _cells(notebook: Path = NOTEBOOK) -> list:
    return nbformat.read(notebook, as_version=4).cells


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_output_is_the_saved_one_run_after_run(environment, notebook):
    """Strict nbval, and once more where the first run has left what it keeps."""
    for run in ("first", "second"):
        done = _nbval(environment, "--nbval", "--nbval-sanitize-with", str(SANITIZE), notebook=notebook)
        assert done.returncode == 0, f"{run} run:\n{done.stdout[-6000:]}{done.stderr}"


def test_it_gets_through_a_busy_server_of_the_users(environment):
    """A key and an address in the environment are honoured: it starts no server of its own, and pays once."""
    with Sandbox(api_key="a-key-of-the-users", faults=FaultScript.weights(FAULTS, seed=3)) as server:
        environment |= {
            "DEEPSEEK_API_KEY": "a-key-of-the-users",
            "DEEPSEEK_NB_BASE_URL": server.base_url,
        }
        done = _nbval(environment, "--nbval-lax")
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr
        assert server.log.faults().total() > 5
        assert not server.log.answered_twice()
        asked = len(server.log)
        again = _nbval(environment, "--nbval-lax")
        assert again.returncode == 0, again.stdout[-6000:] + again.stderr
        assert len(server.log) == asked, "the answers were kept, and nothing is asked again"


def test_it_is_small(notebook):
    """It opens at once, and shows whole on a code host."""
    assert notebook.stat().st_size < SIZES_BYTES[notebook.stem]


def test_it_was_saved_after_running_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in _cells(notebook) if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_only_the_cell_that_shows_an_error_has_one():
    """It takes at most five lines, and the cell is tagged so that Run All goes on."""
    with_error = [
        (cell, output)
        for cell in _cells()
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
    ]
    assert len(with_error) == 1
    [(cell, output)] = with_error
    assert "raises-exception" in cell.metadata.tags
    assert output["ename"] == "TemplateError"
    assert len("\n".join(output["traceback"]).splitlines()) <= 5


def test_nothing_in_it_belongs_to_one_machine(notebook):
    """No path, address, port, clock, kernel of somebody's, or key."""
    text = notebook.read_text(encoding="utf-8")
    outputs = json.dumps([cell.get("outputs", []) for cell in _cells(notebook)])
    outputs = re.sub(r'"image/png": "[^"]*"', "", outputs)  # letters by chance
    for pattern in (
        r"/tmp/",
        r"/home/",
        r"site-packages",
        r"127\.0\.0\.1",
        r"localhost",
        r"ipykernel_",
    ):
        assert not re.search(pattern, outputs), pattern
    assert not re.search(r"\bsk-[\w-]{8,}", text)
    saved = json.loads(text)
    assert saved["metadata"]["kernelspec"]["name"] == "python3"
    assert not [cell for cell in saved["cells"] if "execution" in cell["metadata"]]


def test_it_says_that_its_answers_are_simulated(notebook):
    """Above the first answer, and in the output of the cell that starts the server."""
    first = next(cell for cell in _cells(notebook) if cell.cell_type == "code")
    assert "SIMULATED" in json.dumps(first.outputs)


def test_protected_attributes_are_in_no_prompt():
    """Sex, origin and age are in the data, and stay out of every question."""
    code = "\n".join(cell.source for cell in _cells() if cell.cell_type == "code")
    for name in ("personal_status_and_sex", "foreign_worker", "age_in_years", "credit_risk"):
        assert f"{{{{{name}}}}}" not in code
