"""``df.deepseek`` is there whichever way pandas comes in, and the hook that waits for it leaves no trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import deepseek_nb

WAYS = {
    "pandas first": "import pandas\nimport deepseek_nb",
    "pandas after": "import deepseek_nb\nimport pandas",
    "a part of pandas after": "import deepseek_nb\nfrom pandas.api.types import is_list_like",
    "by another library": "import deepseek_nb\nimport narwhals_or_so",
    "twice": "import deepseek_nb, importlib\nimportlib.reload(deepseek_nb)\nimport pandas",
    "in a thread": "import deepseek_nb, threading, importlib\n"
    "t = threading.Thread(target=importlib.import_module, args=('pandas',)); t.start(); t.join()",
    "somebody looks first whether it is installed": "import deepseek_nb, importlib.util\n"
    "assert importlib.util.find_spec('pandas')\nimport pandas",
}


def _run(code: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments, "-c", code], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("way", WAYS)
def test_the_accessor_is_there(way, tmp_path):
    (tmp_path / "narwhals_or_so.py").write_text("import pandas as pd\n")
    check = """
import sys
import pandas as pd
assert repr(pd.DataFrame({"a": [1]}).deepseek).startswith("<df.deepseek")
ours = [finder for finder in sys.meta_path if type(finder).__module__.startswith("deepseek_nb")]
assert [finder.library for finder in ours] == ["polars"], ours
assert "polars" not in sys.modules
import polars
assert repr(polars.DataFrame({"a": [1]}).deepseek).startswith("<df.deepseek")
ours = [finder for finder in sys.meta_path if type(finder).__module__.startswith("deepseek_nb")]
assert not ours, ours
assert not type(polars.__spec__.loader).__module__.startswith("deepseek_nb"), polars.__spec__.loader
assert not type(pd.__spec__.loader).__module__.startswith("deepseek_nb"), pd.__spec__.loader
"""
    done = _run(f"{WAYS[way]}\n{check}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("first", ["polars", "deepseek_nb"])
def test_polars_gets_it_too_and_pandas_is_not_imported_for_it(first):
    done = _run(
        f"import {first}\nimport deepseek_nb, polars, sys\n"
        "assert repr(polars.DataFrame({'a': [1]}).deepseek).startswith('<df.deepseek')\n"
        "assert not {'pandas', 'narwhals', 'httpx'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_without_pandas_its_own_error_comes():
    """The hook never turns a missing pandas into something else."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(deepseek_nb.__file__).parents[1])!r})\n"
        "import deepseek_nb\nimport pandas"
    )
    done = _run(code, "-I", "-S")
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'pandas'"


def test_it_is_not_put_over_an_accessor_that_is_there():
    """Importing again does not warn of an accessor that is registered already."""
    done = _run(
        "import warnings; warnings.simplefilter('error')\n"
        "import pandas, deepseek_nb, importlib\nfirst = pandas.DataFrame.deepseek\n"
        "importlib.reload(deepseek_nb)\nassert pandas.DataFrame.deepseek is first"
    )
    assert done.returncode == 0, done.stderr


def test_it_loads_nothing_until_it_is_used():
    """Reaching for ``df.deepseek``, as tab completion does, starts no client."""
    done = _run(
        "import sys, pandas, deepseek_nb\nframe = pandas.DataFrame({'a': [1]})\n"
        "frame.deepseek\ndir(frame.deepseek)\nassert not {'httpx', 'aiohttp', 'joblib'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr
