"""The code of the tutorial and the how-to pages runs as it stands there, and shows what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNNER = Path(__file__).with_name("run_page.py")
PAGES = [ROOT / "docs" / "start" / "tutorial.md", *sorted((ROOT / "docs" / "how_to").glob("*.md"))]


def _run(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, with nothing on the disk and nobody's settings."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = kept | {
        "HOME": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": str(ROOT),
        "DEEPSEEK_NB_DATA_DIR": str(folder / "data"),
        "DEEPSEEK_NB_STREAM": "0",
        "DEEPSEEK_NB_FAILOVER_S": "0.3",  # a reader waits longer
    }
    command = [sys.executable, str(RUNNER), str(page)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page, tmp_path):
    done = _run(page, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]


def test_what_is_not_run_says_why():
    """Four blocks need what a test has not: a model, its file, a gateway, somebody who types a key."""
    whys = [why for page in PAGES for why in re.findall(r"<!-- not run: (.+) -->", page.read_text("utf-8"))]
    assert sorted(whys) == [
        "asks for a key",
        "needs a model at that address",
        "needs a model file of some gigabytes",
        "needs the gateway above",
    ]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("```python\nprint(1)\n```\n```text\n2\n```\n", "is to show"),
        ("```python\nprint(1)\n```\n\nText between.\n\n```python\n1 / 0\n```\n", "ZeroDivisionError"),
    ],
)
def test_a_page_that_is_wrong_is_found_out(tmp_path, body, complaint):
    page = tmp_path / "page.md"
    page.write_text(body, encoding="utf-8")
    done = _run(page, tmp_path)
    assert done.returncode == 1
    assert complaint in done.stderr
