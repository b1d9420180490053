"""S7: nothing that was found on a disk is ever run: no pickle on any read path, planted ones stay shut."""

from __future__ import annotations

import ast
import json
import os
import pickle
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import deepseek_nb
from deepseek_nb.sandbox import Sandbox

SOURCES = sorted(Path(deepseek_nb.__file__).parent.rglob("*.py"))
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "jsonpickle",
    "yaml",
    "runpy",
}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
METHODS = {
    *("joblib.load", "pandas.read_pickle", "pd.read_pickle", "np.load", "numpy.load", "torch.load"),
    *("pa.deserialize", "pickle.load", "pickle.loads", "marshal.loads", "os.system", "os.popen"),
}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def suspicious(source: str) -> list[str]:
    """What in a source could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in CALLS | METHODS or name.rpartition(".")[2] in ("read_pickle", "enable_load_extension"):
                found.append(name)
            found += [f"{name}({k.arg})" for k in node.keywords if k.arg in ("allow_pickle", "shell")]
        elif isinstance(node, ast.Constant) and node.value in MODULES - {"yaml"}:
            found.append(f"the name {node.value!r}")
    return found


def test_no_source_of_ours_can_load_a_pickle_or_run_text():
    """Not one import, call or name of it in the whole package."""
    assert len(SOURCES) > 60
    assert {
        str(file): found for file in SOURCES if (found := suspicious(file.read_text(encoding="utf-8")))
    } == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "eval(text)",
        "joblib.load(path)",
        "np.load(path, allow_pickle=True)",
        "import_module('marshal')",
        "frame.read_pickle(x)",
    ],
)
def test_the_check_finds_what_it_looks_for(source):
    """A check that never finds anything would pass too."""
    assert suspicious(source)


USE_EVERYTHING = """
import sys, warnings
opened, loaded = [], []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        name = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()
        opened.append(name)
    elif event == "pickle.find_class" and armed:
        loaded.append((event, str(arguments)[:80]))
armed = False
import pandas as pd, joblib
import deepseek_nb as ds, deepseek_nb.batch.apply, deepseek_nb.adapters.joblib_backend
import deepseek_nb.client.structured, IPython
sys.addaudithook(watch)
folder = sys.argv[1]
client = ds.Client(data_dir=folder)
rows = pd.DataFrame({"text": ["a", "b"]})
armed = True
warnings.simplefilter("ignore")
client.ask("What?")
client.ask("What?")
rows.deepseek.apply("About {{text}}?", client=client, job="planted", progress=False)
rows.deepseek.apply("About {{text}}?", client=client, job="planted", progress=False)
memory = ds.memory(folder)
def double(x):
    return {"twice": 2 * x}
cached = memory.cache(double)
print(cached(21), cached(21), cached.check_call_in_cache(21))
memory.reduce_size(items_limit=1)
armed = False
planted = [name for name in opened if name.endswith((".pkl", ".pickle", ".joblib", ".gz", ".z"))]
print("LOADED", loaded)
print("OPENED", [name for name in planted if folder in name])
"""


class Trap:
    """Leaves a file behind when it is loaded."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[object, ...]:
        return os.open, (str(self.trap), os.O_CREAT | os.O_WRONLY)


def test_planted_pickles_stay_shut(tmp_path):
    """In the data directory under every name joblib uses, and as values in both databases."""
    folder, trap = tmp_path / "data", tmp_path / "sprung"
    planted = pickle.dumps(Trap(trap))
    with Sandbox() as sandbox:
        environment = os.environ | {
            "DEEPSEEK_API_KEY": sandbox.api_key,
            "DEEPSEEK_NB_BASE_URL": sandbox.base_url,
            "IPYTHONDIR": str(tmp_path / "ipython"),
        }

        def use() -> str:
            command = [sys.executable, "-c", USE_EVERYTHING, str(folder)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
            assert done.returncode == 0, done.stderr[-1500:]
            return done.stdout

        first = use()
        places = ["output.pkl", "answers.pkl", "answers.db.pkl", "jobs.pickle", "metadata.json.pkl"]
        places += ["joblib/__main__--/double/output.pkl", "joblib/double/0123456789abcdef/output.pkl"]
        with sqlite3.connect(folder / "answers.db") as store:
            for func, args in store.execute("SELECT func, args FROM joblib_items"):
                for place in (f"joblib/{func}", func):
                    places += [f"{place}/{args}/output.pkl", f"{place}/func_code.py"]
            assert store.execute("UPDATE joblib_items SET value=?", (planted,)).rowcount == 1
            assert store.execute("UPDATE answers SET value=?", (planted,)).rowcount >= 3
        with sqlite3.connect(folder / "jobs.db") as jobs:
            assert jobs.execute("UPDATE items SET answer=?, body=?", (planted, planted)).rowcount == 2
            jobs.execute("UPDATE jobs SET meta=?", (json.dumps({"template": "x"}),))
        for place in places:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(planted)
        second = use()
    for told in (first, second):
        assert "{'twice': 42} {'twice': 42} True" in told
        assert "LOADED []" in told
        assert "OPENED []" in told
    assert not trap.exists()
    os.close(pickle.loads(planted))
    assert trap.exists(), "the trap works"
