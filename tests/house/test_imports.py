"""``import deepseek_nb`` costs nothing: no heavy library, no thread, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = [
    "IPython",
    "aiohttp",
    "anyio",
    "asyncio",
    "httpx",
    "ipywidgets",
    "joblib",
    "jwt",
    "narwhals",
    "numpy",
    "pandas",
    "polars",
    "pydantic",
    "sqlite3",
    "tqdm",
]


def _loaded_after(code: str) -> set[str]:
    """The modules a fresh interpreter has loaded after ``code``."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_import_loads_nothing_heavy():
    assert not _loaded_after("import deepseek_nb") & set(HEAVY)


def test_looking_at_the_names_loads_nothing_heavy():
    """Tab completion in a notebook asks for ``dir``, and must not pay for it."""
    loaded = _loaded_after("import deepseek_nb as ds\ndir(ds), ds.__all__, repr(ds), ds.__version__")
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("name", ["DeepSeekError", "Secret", "Template", "errors", "Answer"])
def test_names_of_the_core_load_the_core_alone(name):
    loaded = _loaded_after(f"import deepseek_nb as ds\nds.{name}")
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("name", ["Client", "AsyncClient", "ask", "default_client", "use_sandbox", "Sandbox"])
def test_asking_needs_no_pandas_and_no_notebook(name):
    loaded = _loaded_after(f"import deepseek_nb as ds\nds.{name}")
    assert not loaded & {"IPython", "ipywidgets", "numpy", "pandas"}


def test_the_import_starts_no_thread_and_writes_no_file():
    """It may be imported anywhere: in a worker, in a fork, without a home."""
    script = """
import sys
written = []

def watch(event, args):
    if event == "open" and "w" in str(args[1]) and ".pyc" not in str(args[0]):
        written.append(args[0])

sys.addaudithook(watch)
import deepseek_nb, threading
assert threading.active_count() == 1, threading.enumerate()
assert not written, written
assert not {name for name in sys.modules if name in ("socket", "ssl", "platformdirs")}
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={})
