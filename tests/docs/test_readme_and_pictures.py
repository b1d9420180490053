"""What is read on a code host: links and pictures that are there, small pictures that say nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PICTURES = sorted((ROOT / "docs" / "pictures").iterdir())
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SIZE_BYTES = 150_000
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/deepseek-nb demo\n",
    "bash tests/run\n",
)
TELLING = (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"/home/", b"sk-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_hold(page):
    links = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    files = [link for link in links if "://" not in link]
    assert [link for link in files if not (page.parent / link).exists()] == []


def test_the_two_commands_stand_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert readme.count(command) == 1


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_a_picture_is_small_and_says_nothing_else(picture):
    kept = picture.read_bytes()
    assert kept.startswith((b"\x89PNG", b"GIF89a", b"<svg "))
    assert len(kept) < SIZE_BYTES
    assert [word for word in TELLING if word in kept] == []


def test_every_picture_is_shown_somewhere():
    shown = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [picture.name for picture in PICTURES if f"pictures/{picture.name})" not in shown] == []
