"""What using this package in a notebook is like, in figures: the rows of the peers' table, measured here.

    python benchmarks/notebook_experience.py                        # all rows, about seven minutes
    python benchmarks/notebook_experience.py --only load,interrupt --json figures.json

A real ipykernel is driven over the Jupyter protocol and every message time-stamped, against the sandbox on
loopback, which streams, refuses, hangs and breaks off as a row asks for. It prints a table beside what was
measured of the peers on 2026-11-23 (``notebook_peers.json``), and exits with 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import notebook_failures  # noqa: F401 (its rows)
import notebook_install  # noqa: F401
import notebook_prompts  # noqa: F401
import notebook_rows  # noqa: F401
import notebook_websocket  # noqa: F401
from notebook_bench import ROWS, Bench, Result
from notebook_server import serving

PEERS = Path(__file__).with_name("notebook_peers.json")
VERSIONS = ("ipykernel", "ipython", "jupyter_client", "jupyter_server", "nbclient", "httpx", "aiohttp")


def measure(names: list[str], bench: Bench) -> dict[str, Result]:
    """Each row by itself; one that raises tells so and the others go on."""
    results = {}
    for name in names:
        started_s = time.monotonic()
        try:
            results[name] = ROWS[name][2](bench)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is a row that failed)
            results[name] = Result(f"not measured: {type(error).__name__}: {error}", met=False)
        print(f"  {name}: {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
    return results


def cell(text: str) -> str:
    """A text inside a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def tables(results: dict[str, Result]) -> str:
    """The results beside the peers' figures, as Markdown."""
    lines = []
    for part in json.loads(PEERS.read_text(encoding="utf-8")):
        names = [name for name in part["rows"] if name in results]
        if not names:
            continue
        lines += ["", f"### {part['title']}", ""]
        lines += ["| | deepseek_nb | bar | " + " | ".join(part["peers"]) + " |"]
        lines += ["|---" * (3 + len(part["peers"])) + "|"]
        for name in names:
            title, bar, _ = ROWS[name]
            result = results[name]
            met = "" if result.met is None or not bar else ": met" if result.met else ": **MISSED**"
            columns = [title, result.text, bar + met, *part["rows"][name]]
            lines.append("| " + " | ".join(map(cell, columns)) + " |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    packages = {name: importlib.metadata.version(name) for name in VERSIONS}
    package = importlib.metadata.version("deepseek_nb")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {cores()} cores",
        "versions": {"deepseek_nb": package, "python": platform.python_version(), **packages},
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> int:
    """Print the tables; 0 if every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", metavar="ROW,...", help=f"some of: {', '.join(ROWS)}")
    parser.add_argument("--install", action="store_true", help="also the row on installing (needs an index)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [name for name in ROWS if name != "install"]
    names += ["install"] if options.install else []
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [
            stack.enter_context(serving()),
            stack.enter_context(serving(first_token_s=0.1, token_s=0.1)),
            stack.enter_context(serving(token_s=1 / 120, tokens_per_event=2)),
        ]
        results = measure(names, Bench(*servers, folder=folder))
    where = machine()
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    print(f"{where['date']}, {where['machine']}; {versions}")
    print(tables(results))
    missed = [name for name, result in results.items() if result.met is False]
    print(f"\nbars missed: {', '.join(missed) or 'none'}")
    if options.json:
        rows = {name: {"text": r.text, "met": r.met, **r.figures} for name, r in results.items()}
        options.json.write_text(json.dumps({**where, "rows": rows}, indent=1, ensure_ascii=False))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
