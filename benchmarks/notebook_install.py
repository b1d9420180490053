"""The row on installing: a fresh virtual environment, what ``pip install`` puts there, does it load."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from notebook_bench import Bench, Result, row

REPOSITORY = Path(__file__).parents[1]
LOADING = "from IPython.core.interactiveshell import InteractiveShell as S; S.instance().run_line_magic"


@row("install", "Fresh `pip install` then load: distributions / installed MB / install s")
def install(bench: Bench) -> Result:
    """With whatever package index pip is set up with; the shell and the kernel are among what is counted."""
    home = bench.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    python = str(home / "bin" / "python")
    before = _distributions(python)
    started_s = time.monotonic()
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(REPOSITORY)], check=True)
    took_s = time.monotonic() - started_s
    added = _distributions(python) - before
    size_mb = sum(file.stat().st_size for file in home.rglob("*") if file.is_file()) / 1e6
    loading = f"{LOADING}('load_ext', 'deepseek_nb')"
    loads = subprocess.run([python, "-c", loading], check=False, cwd=home, capture_output=True)
    return Result(
        f"{'loads' if loads.returncode == 0 else 'does NOT load'}; {added} / {size_mb:.0f} / {took_s:.0f}",
        {"distributions": added, "size_mb": size_mb, "took_s": took_s},
        loads.returncode == 0,
    )


def _distributions(python: str) -> int:
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
    )
    return len(listed.stdout.splitlines())
