"""What a type checker makes of the public names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
API = Path(__file__).with_name("api.py")


def _mypy(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-color-output", str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_mypy_accepts_the_public_api():
    done = _mypy(API)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_sees_what_is_wrong(tmp_path):
    """The names are not all Any: a misspelt one and a wrong type are found."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import deepseek_nb as ds\n"
        "ds.aks('Why?')\n"
        "number: int = ds.ask('Why?').text\n"
        "ds.apply('not a frame', 'template')\n"
        "ds.use_sandbox().base_uri\n"
    )
    done = _mypy(wrong)
    found = [line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line]
    assert found == ["2", "3", "4", "5"], done.stdout
