"""How much memory a job of many rows takes: bytes a row to plan it, and to make the frame of a finished one.

Each step runs in a process of its own; what is told is its peak beyond what it held with the caller's frame
in it. The first process writes the job down (``submit``) and lets the server of the bulk benchmark answer
one row; that answer, made each row's own, is then put into the ledger for all of them. The second makes the
call again: it plans, reads every answer, checks it and builds the frame, and sends nothing. What a run over
the wire takes beside that does not grow with its rows: ``bulk.py`` measures it.

    python benchmarks/memory.py                            # 100,000 and 1,000,000 rows: a few minutes
    python benchmarks/memory.py --rows 20000,200000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
JOB = "memory"
PAGE = 10_000
"""Answers are put into the ledger so many at a time."""


def main() -> int:
    """Measure each size and print a table; 1 where a step failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=lambda t: [int(n) for n in t.split(",")], default=[100_000, 1_000_000])
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options.url, options.rows[0], options.folder)))
        return 0
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    print(f"{now}, Python {platform.python_version()}, {platform.machine()}, load {os.getloadavg()[0]:.1f}\n")
    try:
        told = [each for rows in options.rows for each in measure(rows)]
    except subprocess.CalledProcessError as failed:
        print(failed.stderr, file=sys.stderr)
        return 1
    print(table(told))
    return 0


def measure(rows: int) -> list[dict[str, Any]]:
    """Every step at that size, in order, over one ledger."""
    with _server() as url, tempfile.TemporaryDirectory(prefix="memory-") as folder:
        told = []
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--rows", str(rows)]
            done = subprocess.run(
                [*command, "--url", url, "--folder", folder],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "DEEPSEEK_NB_PYPROJECT": "off"},
            )
            told.append({"step": step, "rows": rows, **json.loads(done.stdout.splitlines()[-1])})
            print(f"{step}, {rows:,} rows: {told[-1]['wall_s']:.0f} s", file=sys.stderr, flush=True)
        return told


@contextlib.contextmanager
def _server() -> Any:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "bulk_server.py"), "--latency", "0.01"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def table(told: list[dict[str, Any]]) -> str:
    """The results as Markdown, and what each further row takes between the smallest size and the largest."""
    columns = ("step", "rows", "seconds", "peak MB", "bytes/row", "of which the result", "each further row")
    lines = ["| " + " | ".join(columns) + " |", "|" + "-|" * len(columns)]
    for each in told:
        first = next(one for one in told if one["step"] == each["step"])
        further = each["rows"] - first["rows"]
        slope = f"{(each['peak_bytes'] - first['peak_bytes']) / further:,.0f}" if further else ""
        result = f"{each['result_bytes'] / each['rows']:,.0f}" if each["result_bytes"] else ""
        cells = [
            each["step"],
            f"{each['rows']:,}",
            f"{each['wall_s']:.1f}",
            f"{each['peak_bytes'] / 1e6:,.0f}",
            f"{each['peak_bytes'] / each['rows']:,.0f}",
            result,
            slope,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ------------------------------------------------------------------------- the steps, each in its process


def plan(url: str, rows: int, folder: str) -> dict[str, Any]:
    """Write the job down; then fill its ledger, which is not measured."""
    from bulk_clients import rows_of

    from deepseek_nb.adapters.journal import Journal
    from deepseek_nb.batch.submit import submit

    frame = rows_of(rows)
    with _client(url, folder) as client:
        told, job = _measured(lambda: submit(frame, **_call(client)))
        while not job.done and not job.progress.done:
            time.sleep(0.005)
        job.cancel()
        job.wait()
    with Journal(folder) as journal:
        answer = next(row.answer_json for row in journal.rows(JOB) if row.answer_json)
        while items := journal.lease(JOB, PAGE, 3600.0):
            journal.ack_many((item, _answer_to(item.body, answer), 0.0) for item in items)
    return told | {"result_bytes": 0}


def again(url: str, rows: int, folder: str) -> dict[str, Any]:
    """Make the same call: every row is done, nothing is sent."""
    from bulk_clients import rows_of
    from bulk_server import answer_of

    from deepseek_nb.batch.apply import apply

    frame = rows_of(rows)
    with _client(url, folder) as client:
        told, result = _measured(lambda: apply(frame, **_call(client), progress=False))
    if (result["score"] != [answer_of(number)["score"] for number in range(rows)]).any():
        raise SystemExit("a row has another row's answer")
    if result.attrs["deepseek_nb"]["requests"]:
        raise SystemExit("something was sent")
    return told | {"result_bytes": int(result.memory_usage(deep=True).sum())}


STEPS: dict[str, Callable[[str, int, str], dict[str, Any]]] = {"plan": plan, "again": again}


def _client(url: str, folder: str) -> Any:
    from bulk_clients import KEY, MODEL

    from deepseek_nb.client.sync import Client

    return Client(base_url=url, api_key=KEY, data_dir=folder, model=MODEL)


def _call(client: Any) -> dict[str, Any]:
    from bulk_clients import QUESTION, Ticket

    return {
        "template": QUESTION.replace("{text}", "{{text}}"),
        "schema": Ticket,
        "client": client,
        "job": JOB,
    }


def _answer_to(body: str, answer_json: str) -> str:
    """The one answer that came, with this row's own words."""
    from bulk_server import ROW, answer_of

    number = int(ROW.findall(body.encode())[-1])
    text = json.dumps(answer_of(number), separators=(",", ":"))
    return json.dumps({**json.loads(answer_json), "text": text}, ensure_ascii=False)


def _measured(work: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """What ``work`` gives; how long it took and how far the peak went beyond what was held before."""
    from bulk_clients import now_mb, peak_mb

    before_mb, began = now_mb(), time.perf_counter()
    done = work()
    wall_s = time.perf_counter() - began
    return {"wall_s": wall_s, "peak_bytes": (peak_mb() - before_mb) * 1e6}, done


if __name__ == "__main__":
    raise SystemExit(main())
