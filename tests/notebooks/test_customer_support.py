"""The notebook of the support desk: a nasty server changes nothing, and a key takes it to another server."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from deepseek_nb.sandbox import FaultScript, Replay, Sandbox

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
NOTEBOOK = NOTEBOOKS / "02_customer_support.ipynb"
DATA = ("banking77_test.csv", "consumer_complaints.csv")
MISBEHAVES = 'FAULTS, FAULT_SEED = {"busy_503": 0.03, "cut_rst": 0.01}, 1'
NASTY = {"busy_503": 0.12, "rate_429": 0.08, "empty_200": 0.04, "cut_rst": 0.04}
KEY = "a-key-of-the-users"


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """A home of its own, and nothing set but what the notebooks are tested with."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    folders = {
        "HOME": "home",
        "IPYTHONDIR": "ipython",
        "DEEPSEEK_NB_DATA_DIR": "data",
        "MPLCONFIGDIR": "fonts",
    }
    own = {name: str(tmp_path / folder) for name, folder in folders.items()} | {"DEEPSEEK_NB_STREAM": "0"}
    command = [sys.executable, "-c", "import matplotlib.font_manager"]  # it says when it lists the fonts
    subprocess.run(command, env=kept | own, check=True, capture_output=True, timeout=100)
    return kept | own


def _nbval(environment: dict[str, str], notebook: Path, *flags: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(notebook.parent), *flags, str(notebook)]
    done = subprocess.run(
        command,
        env=environment,
        cwd=notebook.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_nasty_server_changes_no_output(environment, tmp_path):
    """More than a quarter of the tries meet a fault, of more kinds and by another seed: all the same."""
    copy = tmp_path / "notebooks" / NOTEBOOK.name
    copy.parent.mkdir()
    text = NOTEBOOK.read_text(encoding="utf-8")
    told = json.dumps(MISBEHAVES)[1:-1]
    assert text.count(told) == 1
    nasty = json.dumps(f"FAULTS, FAULT_SEED = {json.dumps(NASTY)}, 3")[1:-1]
    copy.write_text(text.replace(told, nasty), encoding="utf-8")
    (copy.parent / "data").symlink_to(NOTEBOOKS / "data")
    _nbval(environment, copy, "--nbval", "--nbval-sanitize-with", str(NOTEBOOKS / "sanitize.cfg"))


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_key_takes_it_to_the_server_of_the_user(environment):
    """Every cell runs there, nothing is taken down, no other server is started, and nothing is paid twice."""
    with (NOTEBOOKS / "data" / "consumer_complaints.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["narrative"], row["deepseek-chat__prediction"], 0.0) for row in csv.DictReader(file)]
    engine = Replay(rows, unknown="simulate")
    faults = FaultScript.weights(NASTY, seed=5)
    with Sandbox(api_key=KEY, engine=engine, faults=faults, count="estimate") as server:
        there = {"DEEPSEEK_API_KEY": KEY, "DEEPSEEK_NB_BASE_URL": server.base_url}
        _nbval(environment | there, NOTEBOOK, "--nbval-lax")
        assert server.log.faults().total() > 100
        assert not server.log.answered_twice("question_hash")
        replayed = sum(record.replayed is not None for record in server.log if record.usable)
    assert replayed == len({text for text, *_ in rows})


def test_its_data_say_where_they_are_from():
    """A section for each file, with its source and its licence."""
    told = (NOTEBOOKS / "data" / "README.md").read_text(encoding="utf-8")
    for name in DATA:
        (section,) = (part for part in told.split("\n## ") if part.startswith(f"`{name}`"))
        assert "**Source:**" in section
        assert "**Licence:**" in section


def test_no_accuracy_rests_on_a_simulated_answer():
    """What is judged are complaints, which are replayed; the intents of the chat are held against nothing."""
    code = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    judging = [source for source in code if '["right"]' in source]
    assert judging
    assert not [source for source in judging if "chats" in source or "known" in source]
    assert '["intent"]' not in "\n".join(code)
