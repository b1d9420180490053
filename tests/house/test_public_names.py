"""The front door: sorted names, all there, all told about; and every file says what it is."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import deepseek_nb as ds

PACKAGE = Path(ds.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HOOKS = {"load_ipython_extension", "unload_ipython_extension"}
"""Called by ``%load_ext``, not by people."""


def _id(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def test_the_names_are_sorted_and_stand_once():
    """Types first, then functions, as ``sorted`` does it."""
    names = [name for name in ds.__all__ if name not in HOOKS and name != "__version__"]
    assert names == sorted(set(names))
    assert {"__version__", *HOOKS} <= set(ds.__all__)
    assert dir(ds) == sorted(ds.__all__)


@pytest.mark.parametrize("name", ds.__all__)
def test_every_name_is_there_and_told_about(name):
    value = getattr(ds, name)
    if name != "__version__":
        text = inspect.getdoc(value)
        assert text, f"{name} has no docstring"
        assert text.splitlines()[0].rstrip().endswith((".", "::")), text.splitlines()[0]


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"deepseek_nb.*no attribute 'aks'"):
        ds.aks  # noqa: B018


def test_star_import_gives_exactly_the_public_names():
    script = "from deepseek_nb import *\nimport deepseek_nb\nassert set(deepseek_nb.__all__) <= set(dir())"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_type_checkers_see_the_same_names():
    """``__init__.pyi`` tells what the lazy ``__getattr__`` hides from them."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    told: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            told |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            told.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            told.add(node.target.id)
        elif isinstance(node, ast.Assign):
            told |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    assert set(ds.__all__) <= told
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize("file", FILES, ids=_id)
def test_the_first_line_of_a_file_says_what_it_is(file: Path):
    """One sentence on one line; more may follow after a blank one."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")), clean=True)
    assert text, "no docstring"
    first, *rest = text.splitlines()
    assert first.endswith((".", "?", "!", "``")), first
    assert len(first) <= 110
    assert not rest or rest[0] == ""


@pytest.mark.parametrize("file", [f for f in FILES if f.name != "__main__.py"], ids=_id)
def test_what_a_file_offers_is_there(file: Path):
    """Each name in a module's ``__all__`` exists."""
    dotted = ".".join(("deepseek_nb", *file.relative_to(PACKAGE).with_suffix("").parts))
    module = importlib.import_module(dotted.removesuffix(".__init__"))
    missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
    assert not missing
