"""The changelog is in the form of Keep a Changelog and knows the version."""

from __future__ import annotations

import re
from pathlib import Path

import deepseek_nb

TEXT = Path(__file__).parents[2] / "CHANGELOG.md"
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def _headings(level: int) -> list[str]:
    return re.findall(rf"^{'#' * level} (.+)$", TEXT.read_text(encoding="utf-8"), re.MULTILINE)


def test_it_begins_as_a_changelog():
    assert _headings(1) == ["Changelog"]


def test_it_has_this_version():
    """A development version stands under Unreleased, a released one under its number and day."""
    release = re.sub(r"\.dev\d+$", "", deepseek_nb.__version__)
    wanted = "[Unreleased]" if release != deepseek_nb.__version__ else f"[{release}]"
    assert any(heading.startswith(wanted) for heading in _headings(2))


def test_versions_are_dated_and_changes_have_a_kind():
    for heading in _headings(2):
        assert re.fullmatch(r"\[Unreleased\]|\[\d+\.\d+\.\d+\w*\] - \d{4}-\d\d-\d\d", heading), heading
    assert set(_headings(3)) <= KINDS
