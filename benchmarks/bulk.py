"""Bulk rows against a light loopback server: what each client costs in processor time per row.

The client is pinned to one core and the server to another. Every client answers the same rows of a
pandas frame and gives checked columns back; ours also commits every answer to its ledger and store.
Each runs in a process of its own, by turns; the figures are the median of ``--runs``.

    python benchmarks/bulk.py                                   # those that are installed
    python benchmarks/bulk.py --peers-python /tmp/peers/bin/python --rows 10000 --concurrency 64,1000
    python benchmarks/bulk.py --clients aiohttp,httpx,deepseek_nb --again   # and a second run of the same job

The peers: pip install -r benchmarks/requirements-peers.txt, best into an environment of their own; curator
pins an older LiteLLM and wants another one: pip install bespokelabs-curator, and --curator-python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OURS = "deepseek_nb"
FLOOR = "aiohttp"
OWN = (FLOOR, "httpx", OURS)
"""Clients that run in this very environment; the others in that of the peers."""
NAMES = (*OWN, "openai", "curator", "litellm", "langchain")


def main() -> int:
    """Run all that was asked for and print a table for each concurrency; 1 where a client failed."""
    options = _parse()
    print(_about(options))
    failed = False
    for concurrency in options.concurrency:
        runs: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in options.clients}
        for number in range(options.runs):  # by turns: a machine is quicker at one time than at another
            for name in options.clients:
                runs[name].append(measure(name, concurrency, options))
                for each in runs[name][-1]:
                    print(f"run {number + 1}: {_line(each)}", file=sys.stderr, flush=True)
        told = [_median(list(which)) for client in runs.values() for which in zip(*client, strict=False)]
        failed = failed or any("error" in each for each in told)
        print(f"\n{options.rows:,} rows, {concurrency:,} in flight, answers after {options.latency:g} s\n")
        print(table(told))
    return int(failed)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--concurrency", type=lambda t: [int(n) for n in t.split(",")], default=[64])
    parser.add_argument("--latency", type=float, default=0.05, help="mean seconds an answer takes")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--clients", type=lambda t: t.split(","), default=list(NAMES), metavar="NAME,...")
    parser.add_argument("--peers-python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--curator-python", help="the one that has curator, which wants an older LiteLLM")
    parser.add_argument("--again", action="store_true", help=f"run the finished job of {OURS} once more")
    parser.add_argument("--timeout", type=float, default=600)
    return parser.parse_args()


def measure(name: str, concurrency: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One client against a fresh server: what it and the server tell. Two entries with ``--again``."""
    python = sys.executable if name in OWN else options.peers_python
    if name == "curator":
        python = options.curator_python or python
    told = []
    with _server(options) as url, tempfile.TemporaryDirectory(prefix="bulk-") as folder:
        times = 2 if options.again and name == OURS else 1
        for run in range(times):
            command = [python, str(HERE / "bulk_clients.py"), name, url, str(options.rows), str(concurrency)]
            done = subprocess.run(
                [*command, folder],
                capture_output=True,
                text=True,
                timeout=options.timeout,
                check=False,
                preexec_fn=_on_core(0),
                env={**os.environ, "DEEPSEEK_NB_PYPROJECT": "off"},
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no word"])[-1]
                return [{"client": name, "error": last[:120]}]
            about = json.loads(done.stdout.strip().splitlines()[-1])
            with urllib.request.urlopen(f"{url}/stats") as page:
                seen = json.load(page)
            urllib.request.urlopen(urllib.request.Request(f"{url}/reset", method="POST", data=b"")).close()
            told.append({**about, **seen, "client": f"{name}, again" if run else name})
    return told


@contextlib.contextmanager
def _server(options: argparse.Namespace) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "bulk_server.py"), "--latency", str(options.latency)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_on_core(1),
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def _on_core(number: int) -> Any:
    """What pins a new process to one core, where the system can."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (lambda: os.sched_setaffinity(0, {cores[number % len(cores)]})) if len(cores) > 1 else None


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run in the middle of processor time; a failed one where any failed."""
    for run in runs:
        if "error" in run:
            return run
    middle = statistics.median_low([run["cpu_ms"] for run in runs])
    return next(run for run in runs if run["cpu_ms"] == middle)


COLUMNS = (
    *("client", "CPU ms/row", "to aiohttp", "wall s", "peak MB", "bytes/row", "import s"),
    *("requests", "most in flight", "paid twice", "wrong", "versions"),
)


def table(told: list[dict[str, Any]]) -> str:
    """The results as Markdown, the cheapest first."""
    floor = next((each["cpu_ms"] for each in told if each["client"] == FLOOR and "error" not in each), None)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "-|" * len(COLUMNS)]
    for each in sorted(told, key=lambda each: each.get("cpu_ms", 1e9)):
        if "error" in each:
            lines.append(f"| {each['client']} | not run: {each['error']} |" + " |" * (len(COLUMNS) - 2))
            continue
        ratio = f"{each['cpu_ms'] / floor:.1f}" if floor else ""
        cells = [
            each["client"],
            f"{each['cpu_ms']:.3f}",
            ratio,
            f"{each['wall_s']:.1f}",
            f"{each['peak_mb']:.0f}",
            f"{each['row_bytes']:,.0f}",
            f"{each['import_s']:.2f}",
            f"{each['requests']:,}",
            f"{each['most_in_flight']:,}",
            str(each["paid_twice"]),
            str(each["wrong"]),
            ", ".join(each["versions"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _line(each: dict[str, Any]) -> str:
    return f"{each['client']}: {each.get('error') or format(each['cpu_ms'], '.3f') + ' ms/row'}"


def _about(options: argparse.Namespace) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{now}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, median of {options.runs}. The server is a loop of our own on loopback; "
        "its answers mean nothing."
    )


if __name__ == "__main__":
    raise SystemExit(main())
