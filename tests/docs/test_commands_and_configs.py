"""Commands and configuration files stand in the documentation as the program takes them."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepseek_nb import cli
from deepseek_nb.cli_jobs import by_name
from deepseek_nb.gateway.config import parse_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROMPTED = re.compile(r"^\$ deepseek-nb (?P<words>[^#\n]*)", re.MULTILINE)
INLINE = re.compile(r"`deepseek-nb (?P<words>[^`\n]*)`")
OPTIONAL = re.compile(r"\[[^\]]*\]")
TOML = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in [*PROMPTED.finditer(text), *INLINE.finditer(text)]:
            words = OPTIONAL.sub("", found["words"]).strip()
            if "..." not in words and "--help" not in words:
                yield page.name, words


@pytest.mark.parametrize(("page", "words"), sorted(set(_commands())))
def test_a_command_is_one(page, words):
    """It is read and not run; an option or a command that there is not ends the reading."""
    options = cli._parser().parse_args(by_name(shlex.split(words)))
    assert callable(options.run)


def test_there_are_commands_to_look_at():
    assert len(set(_commands())) > 10


def _gateway_files() -> list[tuple[str, dict[str, Any]]]:
    read = [(page, tomllib.loads(text)) for page in PAGES for text in TOML.findall(page.read_text("utf-8"))]
    return [(str(page.relative_to(ROOT)), file) for page, file in read if "upstream" in file]


@pytest.mark.parametrize(
    ("page", "file"), _gateway_files(), ids=lambda told: told if isinstance(told, str) else ""
)
def test_a_gateway_file_is_one(page, file):
    """With secrets where it says that they are."""
    names = [upstream.get("key_env") for upstream in file["upstream"]]
    for tenant in file["tenant"].values():
        named = tenant["secret_env"]
        names += named if isinstance(named, list) else [named]
    environ = {name: f"{number:048}" for number, name in enumerate(filter(None, names))}
    config = parse_config(file, environ)
    assert len(config.tenants) == len(file["tenant"])


def test_both_pages_of_the_gateway_have_one():
    assert {"docs/gateway.md", "docs/how_to/gateway.md"} <= {page for page, _ in _gateway_files()}
