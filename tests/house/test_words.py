"""No file names a place on somebody's machine, promises work in a comment, or carries a key."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = {".cfg", ".csv", ".ipynb", ".json", ".md", ".py", ".pyi", ".sh", ".toml", ".txt", ".yml", ""}
OWN_FOLDERS = ("benchmarks", "binder", "deepseek_nb", "docs", "notebooks", "tests")

# written in pieces, so that this file is not its own first finding
FORBIDDEN = {
    "a path of one machine": "/(?:wo" "rk|ro" "ot|Us" "ers)/",
    "a promise": r"\b(?:TO" "DO|FIX" r"ME|XX" r"X)\b",
    "a conflict": "^(?:<{7}|>{7}) ",
    "a key": r"sk-[0-9a-f]{32}\b",
}  # fmt: skip


def _files() -> list[Path]:
    """What git tracks or would track; without git (a source archive), what lies in the project's folders."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        found = [path for folder in OWN_FOLDERS for path in (ROOT / folder).rglob("*")]
        listed = [str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts]
    return [ROOT / name for name in listed if (ROOT / name).is_file() and Path(name).suffix in TEXT]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_has(what):
    pattern = re.compile(FORBIDDEN[what], re.MULTILINE)
    found = [
        f"{file.relative_to(ROOT)}: {match.group()}"
        for file in _files()
        for match in [pattern.search(file.read_text(encoding="utf-8"))]
        if match
    ]
    assert not found, "\n".join(found)


def test_the_search_finds_what_it_looks_for():
    """A pattern that never matches would pass too."""
    found = ["/wo" "rk/main", "# TO" "DO: later", "<<<<<<< ours", "sk-" + "0123456789abcdef" * 2]  # fmt: skip
    for pattern, text in zip(FORBIDDEN.values(), found, strict=True):
        assert re.search(pattern, text, re.MULTILINE), pattern
    assert any(file.name == "__init__.py" for file in _files())
