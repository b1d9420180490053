"""Arrows run down only, and an import that hides is an arrow too."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "deepseek_nb"
FILES = sorted(PACKAGE.rglob("*.py"))

LAZY_DOORS = {"__init__.py", "cli_common.py", "batch/accessor.py", "notebook/rooms.py"}
"""Files that may enter a room of the package by its name, when it is used."""


def _contracts() -> list[dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def _rooms(folder: Path) -> set[str]:
    """The modules and packages right inside ``folder``."""
    return {
        path.stem
        for path in folder.iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }


def _in_layers(contract: dict, parent: str) -> set[str]:
    names = [name.strip() for layer in contract["layers"] for name in layer.split("|")]
    return {name.removeprefix(parent + ".") for name in names}


def test_the_contracts_are_kept():
    """Floors, rooms of core, adapters that do not know one another, a pure core, pandas in its place."""
    command = "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(_contracts())} kept, 0 broken." in done.stdout


def test_every_room_stands_on_a_floor():
    """A new room is named in the contract of the floors, or it would be under no law."""
    layers = [contract for contract in _contracts() if contract["type"] == "layers"]
    assert _rooms(PACKAGE) <= _in_layers(layers[0], "deepseek_nb")
    assert _rooms(PACKAGE / "core") == _in_layers(layers[1], "deepseek_nb.core")


def _imports_of_ours(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            if any(alias.name.partition(".")[0] == "deepseek_nb" for alias in node.names):
                yield node
        elif isinstance(node, ast.ImportFrom) and (
            node.level or (node.module or "").partition(".")[0] == "deepseek_nb"
        ):
            yield node


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_of_ours_stand_at_the_top(file: Path):
    """None inside a function, none under TYPE_CHECKING or in a try, and none by way of the front door."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    hidden = [node.lineno for node in _imports_of_ours(tree) if node not in tree.body]
    assert not hidden, f"imports of our own that do not stand at the top, in lines {hidden}"
    through_the_door = [
        node.lineno
        for node in _imports_of_ours(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.level or node.module == "deepseek_nb")
        and [alias.name for alias in node.names] != ["__version__"]
    ]
    assert not through_the_door, f"not from the defining module, in lines {through_the_door}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_doors_enter_a_room_by_name(file: Path):
    """``import_module`` of our own would get past the contracts: only the lazy doors may."""
    if file.relative_to(PACKAGE).as_posix() in LAZY_DOORS:
        return
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            named = node.args[0] if node.args else None
            outside = isinstance(named, ast.Constant) and not str(named.value).startswith(
                ("deepseek_nb", ".")
            )
            assert outside, f"line {node.lineno} imports by a name that may be ours"


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
