"""Bulk rows through a busy server, over sockets: deepseek_nb beside the loops and libraries people use.

Every client gets a sandbox of its own with the same weather, rows, answers and faults, in a process of
its own, and works off the same rows while somebody makes an interactive call every ten seconds. What a
client loses is run again by its user ten seconds later, until nothing is left; all of it counts. Times
are server seconds: the sandbox and the clients' event loops run ``--scale`` times faster. Computing and
the disk do not, so a client whose loop wakes late is run again at half the scale.

The peers are needed only here: pip install openai litellm tenacity

    python benchmarks/busy.py                                        # all clients, three scenarios
    python benchmarks/busy.py --clients deepseek_nb,guide --rows 500 --seeds 1 --scenarios limit
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from busy_clients import NAMES, NEEDS
from busy_load import Load

from deepseek_nb.sandbox import SCENARIOS, ideal_s, weather_of

HERE = Path(__file__).parent
UNLOADED = "unloaded"
"""Not a client: the interactive calls of deepseek_nb with no bulk job beside them."""
START_S = 90.0
"""Real seconds for a client to import what it needs, and for one to be stopped."""
BUSY_SHARE = 0.5
LATE_S = 1.0
"""Above this share of a core, or above this lateness of its loop, a client may be slowed by the machine."""


def main() -> int:
    """Run all that was asked for and print a table for each scenario; 0, or 1 where a client told nothing."""
    options = _parse()
    results: list[dict[str, Any]] = []
    started_s = time.monotonic()
    work = [
        (client, scenario, seed)
        for scenario in options.scenarios
        for seed in options.seeds
        for client in [UNLOADED, *options.clients]
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda each: measure(*each, options), work):
            results.append(result)
            print(_progress(result, time.monotonic() - started_s), file=sys.stderr, flush=True)
            if options.json:
                told = {**about(options), "results": results}
                Path(options.json).write_text(json.dumps(told, indent=1))
    facts = about(options)
    print(f"{facts['rows']:,} rows, seeds {facts['seeds']}, scale {facts['scale']:g}, {facts['machine']}")
    for scenario in options.scenarios:
        print(f"\n{scenario}: {SCENARIOS.get(scenario, 'constant')}\n")
        print(table([r for r in results if r["scenario"] == scenario]))
    print(f"\n{LEGEND}")
    print(_verdict(results))
    return int(any(result["told"] is None for result in results))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--scenarios", type=_listed, default=list(SCENARIOS), metavar="NAME,...")
    parser.add_argument("--seeds", type=_numbers, default=[2, 3], metavar="N,...")
    parser.add_argument(
        "--clients", type=_listed, default=list(NAMES), metavar="NAME,...", help=", ".join(NAMES)
    )
    parser.add_argument("--scale", type=float, default=5.0, help="server seconds in a real second")
    parser.add_argument(
        "--halvings",
        type=int,
        default=2,
        metavar="N",
        help="run a client that the machine slowed again at half the scale, so often at most",
    )
    parser.add_argument("--calls-per-s", type=float, default=0.1, help="interactive calls in a server second")
    parser.add_argument(
        "--stop-after",
        type=float,
        default=3.0,
        metavar="X",
        help="stop a client after X times the ideal time",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="measure N clients at a time (mind the CPU shares)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures here as well")
    parser.add_argument("--records", metavar="DIR", help="write every request that a server saw here")
    options = parser.parse_args()
    for client in options.clients:
        if client not in NAMES:
            parser.error(f"no client is called {client!r}; there are {', '.join(NAMES)}")
        if client in NEEDS and importlib.util.find_spec(NEEDS[client]) is None:
            parser.error(
                f"{client} needs a package: pip install {NEEDS[client]}, or leave it out of --clients"
            )
    return options


def _listed(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What was run, and where."""
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    names = ("rows", "scenarios", "seeds", "clients", "scale", "calls_per_s", "stop_after", "jobs")
    return {name: getattr(options, name) for name in names} | {"machine": machine}


# ------------------------------------------------------------------------------------------ one run


def measure(client: str, scenario: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One client against a fresh server; where the machine slowed it, again at half the scale."""
    scale = options.scale
    while True:
        result = _measure_at(scale, client, scenario, seed, options)
        if not slowed(result) or scale <= options.scale / 2**options.halvings:
            return result
        scale /= 2


def slowed(result: dict[str, Any]) -> bool:
    """Whether the machine may be what was measured."""
    if result["told"] is None:
        return False
    return max(result["client_cpu"], result["server_cpu"]) > BUSY_SHARE or result["late_s"] > LATE_S


def _measure_at(
    scale: float, client: str, scenario: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    calls_per_s = 0.5 if client == UNLOADED else options.calls_per_s
    work = {
        "client": client,
        "scenario": scenario,
        "seed": seed,
        "rows": options.rows,
        "calls_per_s": calls_per_s,
        "scale": scale,
    }
    best_s = ideal_s(Load(options.rows, seed, calls_per_s).service_s(), weather_of(scenario, seed))
    if options.records:
        Path(options.records).mkdir(parents=True, exist_ok=True)
        work["records"] = str(Path(options.records) / f"{client}-{scenario}-{seed}.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "told.jsonl"
        server = subprocess.Popen(
            [sys.executable, str(HERE / "busy_load.py"), json.dumps(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdin is not None and server.stdout is not None  # noqa: PT018
        try:
            place = json.loads(server.stdout.readline())
            given = {
                **work,
                **place,
                "out": str(out),
                "data_dir": folder,
                "limit_s": options.stop_after * best_s + 60.0,
                "lasts_s": min(600.0, 2 * best_s),
            }
            log = Path(folder) / "log.txt"
            with log.open("w") as noise:
                code = _run_client(given, noise, scale)
            server.stdin.close()
            saw = json.loads(server.stdout.readline())
        finally:
            server.kill()
            server.wait()
            server.stdout.close()
        told = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        if code or not told or told[-1]["kind"] != "end":
            print(f"{client} failed ({code}):\n{log.read_text()[-2000:]}", file=sys.stderr)
            return {"client": client, "scenario": scenario, "seed": seed, "told": None}
    return _figures(work, best_s, saw, told)


def _run_client(given: dict[str, Any], noise: Any, scale: float) -> int:
    try:
        return subprocess.run(
            [sys.executable, str(HERE / "busy_clients.py"), json.dumps(given)],
            stdout=noise,
            stderr=noise,
            stdin=subprocess.DEVNULL,
            env=_clean_environment(),
            timeout=given["limit_s"] / scale + START_S,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return -1


def _clean_environment() -> dict[str, str]:
    """Nobody's settings: defaults are what is measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DEEPSEEK_")}
    return kept | {"DEEPSEEK_NB_PYPROJECT": "off"}


def _figures(
    work: dict[str, Any], best_s: float, saw: dict[str, Any], told: list[dict[str, Any]]
) -> dict[str, Any]:
    """The measures of one run, from the server's log and what the client told."""
    rows, bulk, calls = work["rows"], saw["Row"], saw["Call"]
    runs = [line for line in told if line["kind"] == "run"]
    heard = [line for line in told if line["kind"] == "call"]
    end = told[-1]
    begins_s = min((kind["begins_s"] for kind in (bulk, calls) if kind["sent"]), default=0.0)
    spent_s = max(bulk["ends_s"] - begins_s, 1e-9)
    done = sum(run["rows"] - run["lost"] for run in runs)
    stopped = end["stopped"] or (work["client"] != UNLOADED and done < rows)
    share = min(1.0, saw["answered_rows"] / rows)
    wall_s = max(end["wall_s"], 1e-9)
    return {
        **work,
        "told": len(told),
        "ideal_s": best_s,
        "spent_s": spent_s,
        "stopped": stopped,
        "answered_share": share,
        "goodput": (best_s if not stopped else share * best_s) / spent_s,
        "lost_share": (runs[0] if runs else end)["lost"] / rows,
        "empty": sum(run["empty"] for run in runs),
        "wrong": sum(run["wrong"] for run in runs),
        "runs": len(runs),
        "requests_per_row": bulk["sent"] / rows,
        "paid_per_row": bulk["paid"] / rows,
        "aborted": bulk["aborted"],
        "status": bulk["status"],
        "call_requests": calls["sent"],
        "latencies_s": [line["latency_s"] for line in heard if line["latency_s"] is not None],
        "calls_failed": sum(line["latency_s"] is None for line in heard),
        "client_cpu": end["cpu_s"] / wall_s,
        "server_cpu": saw["cpu_s"] / wall_s,
        "client_cpu_ms_per_row": 1000 * end["cpu_s"] / rows,
        "late_s": percentile([line["worst_s"] for line in told if line["kind"] == "late"], 0.9),
        "raised": [line["error"] for line in told if line["kind"] == "raised"],
    }


# ------------------------------------------------------------------------------------------ the table


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of all stay below; nan for none.

    >>> percentile([3.0, 1.0, 2.0, 4.0], 0.5)
    3.0
    """
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else math.nan


COLUMNS = (
    "client",
    "goodput / ideal (worst)",
    "lost in 1st run",
    "empty kept",
    "runs",
    "requests / row",
    "paid / row",
    "VIP P50",
    "VIP P99",
    "VIP failed",
    "CPU client, server",
    "late s",
    "scale",
)
LEGEND = (
    "goodput / ideal: ideal time of the rows on full slots by the time taken: mean over seeds, worst seed;\n"
    "  '<' and '*': stopped before the end, with the share of rows answered by then. More than 1: another\n"
    "  order of the rows ended with shorter ones.\n"
    "lost in 1st run: rows without an answer, to be run again. empty kept: blanks taken for answers.\n"
    "paid / row: answers charged, whole or in part. VIP P50, P99: interactive calls beside the job by\n"
    "  their percentile with no job (in s in the first line); never: more than 1 % of the calls failed.\n"
    "CPU: shares of one core. late s: how late the client's loop woke (server s, 9 of 10 stretches of 10 s)."
)


def table(results: list[dict[str, Any]]) -> str:
    """The table of one scenario, as Markdown."""
    good = [result for result in results if result["told"] is not None]
    unloaded = [s for r in good if r["client"] == UNLOADED for s in _latencies(r)]
    lines = ["|".join(["", *COLUMNS, ""]), "|" + "-|" * len(COLUMNS)]
    base = [percentile(unloaded, 0.5), percentile(unloaded, 0.99)]
    lines.append(f"|(no job)|||||||{base[0]:.1f} s|{base[1]:.1f} s|{_failed(unloaded)}||||")
    clients = dict.fromkeys(r["client"] for r in good if r["client"] != UNLOADED)
    lines.extend(_line(client, [r for r in good if r["client"] == client], base) for client in clients)
    return "\n".join(lines)


def _latencies(result: dict[str, Any]) -> list[float]:
    return [*result["latencies_s"], *[math.inf] * result["calls_failed"]]


def _failed(latencies: list[float]) -> str:
    return f"{sum(map(math.isinf, latencies)) / max(1, len(latencies)):.1%} of {len(latencies)}"


def _line(client: str, runs: list[dict[str, Any]], base: list[float]) -> str:
    def mean(name: str) -> float:
        return sum(run[name] for run in runs) / len(runs)

    stopped = [run for run in runs if run["stopped"]]
    worst = min(run["goodput"] for run in runs)
    goodput = f"{'<' if stopped else ''}{mean('goodput'):.2f} ({worst:.2f})"
    if stopped:
        goodput += f" *{sum(r['answered_share'] for r in runs) / len(runs):.0%}"
    latencies = [s for run in runs for s in _latencies(run)]
    ratios = [percentile(latencies, share) / of for share, of in zip((0.5, 0.99), base, strict=True)]
    cells = (
        client,
        goodput,
        f"{mean('lost_share'):.1%}",
        f"{mean('empty'):.1f}",
        f"{mean('runs'):.1f}",
        f"{mean('requests_per_row'):.2f}",
        f"{mean('paid_per_row'):.3f}",
        f"{ratios[0]:.1f}x",
        "never" if math.isinf(ratios[1]) else f"{ratios[1]:.1f}x",
        _failed(latencies),
        f"{mean('client_cpu'):.0%}, {mean('server_cpu'):.0%}",
        f"{mean('late_s'):.2f}",
        f"{mean('scale'):g}",
    )
    return f"|{'|'.join(cells)}|"


def _progress(result: dict[str, Any], spent_s: float) -> str:
    head = f"{spent_s:6.0f} s  {result['scenario']:6} seed {result['seed']}  {result['client']:16}"
    if result["told"] is None:
        return f"{head} told nothing"
    return (
        f"{head} goodput {min(9.99, result['goodput']):.2f}{'*' if result['stopped'] else ' '} requests/row "
        f"{result['requests_per_row']:.2f} lost {result['lost_share']:.1%} P99 "
        f"{percentile(_latencies(result), 0.99):.1f} s CPU {result['client_cpu']:.0%}, "
        f"{result['server_cpu']:.0%}"
    )


def _verdict(results: list[dict[str, Any]]) -> str:
    """Whether the machine was fast enough for what was measured on it."""
    late = [f"{r['client']} ({r['scenario']}, seed {r['seed']})" for r in results if slowed(r)]
    told = f"more than {BUSY_SHARE:.0%} of a core, or woke more than {LATE_S:g} s late"
    if not late:
        return f"No process used {told}: this machine was not the limit."
    return f"These used {told}; run them with a lower --scale: {', '.join(late)}."


if __name__ == "__main__":
    sys.exit(main())
