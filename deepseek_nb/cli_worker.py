"""``deepseek-nb worker``: work off jobs that were put in a queue."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any

from deepseek_nb.cli_common import add_server, given, room
from deepseek_nb.core.errors import ConfigError

__all__ = ["add_worker"]


def add_worker(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "worker",
        help="work off jobs that were put in a queue (submit(..., queue=...))",
        description="Work off the jobs that were put in a queue with submit(..., queue=...): the highest "
        "priority first. Run as many as you like. A worker that is killed loses nothing: what it had at the "
        "server is asked again, and nothing else. SIGTERM or Ctrl-C finishes what is at the server, up to "
        "10 s, and gives the rest back.",
        epilog="docs/several_machines.md tells which queue is for what. A password does better in "
        "DEEPSEEK_AMQP_URL, with --queue amqp, than on the command line.",
    )
    command.add_argument(
        "--queue",
        default="ledger",
        metavar="QUEUE",
        help="'ledger' (the default): jobs of this data folder; amqp://host[:port][/vhost]: those on a "
        "RabbitMQ; 'amqp': the address is in DEEPSEEK_AMQP_URL",
    )
    command.add_argument(
        "--concurrency", type=int, metavar="N", help="requests in flight at most (default: 256)"
    )
    command.add_argument("--drain", action="store_true", help="end when the queue is empty")
    command.add_argument(
        "--deliveries",
        type=int,
        default=5,
        metavar="N",
        help="give up a row that was begun N times without an end (default: 5)",
    )
    command.add_argument("--dead", action="store_true", help="list the rows that were given up, and stop")
    command.add_argument(
        "--take-back", metavar="JOB", help="take the job's rows out of the queue for good, and stop"
    )
    add_server(command)
    command.set_defaults(run=_worker)


def _worker(options: argparse.Namespace) -> int:
    for name in ("concurrency", "deliveries"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ConfigError(f"--{name} is at least 1, not {value}.")
    work = room("batch.work")
    told = given(options, "base_url", "api_key", "data_dir")
    if options.concurrency is not None:
        told["concurrency_max"] = options.concurrency
    with room("client.sync").Client(**told) as client:
        if options.dead:
            return _dead(work.dead_rows(options.queue, client))
        if options.take_back is not None:
            print(work.take_back(options.queue, client, options.take_back))
            return 0
        worker = work.worker_of(
            options.queue, client, tell=_tell, drain=options.drain, deliveries=options.deliveries
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        _tell(f"works for {client.settings.base_url}; Ctrl-C ends it")
        emptied = worker.run()
    _tell(f"ended: {worker.done:,} rows finished here")
    return 0 if emptied else 1


def _tell(line: str) -> None:
    print(f"worker: {line}", file=sys.stderr, flush=True)


def _dead(rows: list[tuple[str, str, str]]) -> int:
    for job, row, reason in rows:
        print(f"{_plain(job):30} {_plain(row):40} {_plain(reason)}")
    print(f"{len(rows):,} rows were given up")
    return 0


def _plain(text: str, most: int = 200) -> str:
    """Text that others wrote, in one line without what a terminal would obey."""
    shown = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 4 * most]).split())
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
