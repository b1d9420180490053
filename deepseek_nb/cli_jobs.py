"""``deepseek-nb jobs``: list, look at, resume, retry, export and delete jobs, without the notebook."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from deepseek_nb.cli_common import add_data_dir, add_server, data_dir, given, room
from deepseek_nb.core.errors import ConfigError

__all__ = ["add_jobs", "by_name"]

ACTIONS = ("show", "resume", "retry", "export", "delete")
LONG = 78
"""Texts are shown up to so many letters."""
REASONS = 5
"""So many different errors are shown."""


def by_name(words: Sequence[str]) -> list[str]:
    """``jobs NAME`` is short for ``jobs show NAME``; a job that is called like a command needs the word."""
    words = list(words)
    if words[:1] != ["jobs"]:
        return words
    place = 1
    while place < len(words) and words[place].startswith("-"):
        place += 2 if words[place] in ("--data-dir", "--delete") else 1
    if place < len(words) and words[place] not in ACTIONS:
        words.insert(place, "show")
    return words


def add_jobs(commands: Any) -> None:
    """Add the command and its own commands."""
    jobs = commands.add_parser(
        "jobs",
        help="list jobs; look at, resume, retry, export or delete one",
        description="Without more words: list all jobs, the newest first. 'deepseek-nb jobs NAME' shows one.",
        epilog="A job is resumed from its own files: no notebook and no frame is needed. What is done is "
        "never paid again.",
    )
    add_data_dir(jobs)
    jobs.add_argument("--delete", metavar="NAME", help="the same as 'delete NAME'")
    jobs.set_defaults(run=_list)
    actions = jobs.add_subparsers(title="commands", metavar="COMMAND")
    for name, run, told in (
        ("show", _show, "show one job: what it asks, how it stands, what failed"),
        ("resume", _resume, "go on with a job where it stopped; Ctrl-C stops it again"),
        ("retry", _retry, "ask its failed rows once more, and go on"),
        ("export", _export, "write prompts and answers to FILE (.csv, .parquet or .jsonl)"),
        ("delete", _delete, "delete a job and its rows; its answers stay in the answer store"),
    ):
        words = "NAME FILE" if name == "export" else "NAME"
        command = actions.add_parser(
            name,
            help=told,
            description=f"{told[0].upper()}{told[1:]}.",
            usage=f"deepseek-nb jobs {name} {words} [options]",
        )
        command.add_argument("name", metavar="NAME", help="the job's name")
        if name in ("resume", "retry"):
            add_server(command, default=argparse.SUPPRESS)
            _add_work(command)
        else:
            add_data_dir(command, default=argparse.SUPPRESS)
        if name == "export":
            command.add_argument("file", metavar="FILE", help="replaced if it is there")
        command.set_defaults(run=run)


def _add_work(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--budget", type=float, metavar="USD", dest="budget_usd", help="what the job may cost, all in all"
    )
    command.add_argument("--patience", metavar="TIME", help="how long to go on without answers, such as 2h")
    command.add_argument("--when", choices=("now", "offpeak"), help="offpeak waits for the cheap hours")
    command.add_argument("--quiet", dest="progress", action="store_false", help="show no progress bar")


def _journal(options: argparse.Namespace) -> Any:
    """The journal; None where there is none yet."""
    file = data_dir(options) / "jobs.db"
    return room("adapters.journal").Journal(file) if file.exists() else None


def _none(options: argparse.Namespace) -> int:
    print(f"No jobs in {data_dir(options)}")
    return 0


def _unknown(name: str) -> ConfigError:
    return ConfigError(f"There is no job {name!r}.", hint="See them with: deepseek-nb jobs")


def _list(options: argparse.Namespace) -> int:
    if options.delete is not None:
        options.name = options.delete
        return _delete(options)
    journal = _journal(options)
    if journal is None:
        return _none(options)
    with journal:
        print(f"{'job':40} {'state':8} {'done':>8} {'failed':>8} {'pending':>8} {'spent':>10}")
        for job in journal.jobs():
            counts = journal.counts(job.name)
            pending = counts["q"] + counts["r"]
            spent_usd = job.spent_usd + job.unknown_usd
            figures = f"{counts['d']:8,} {counts['f']:8,} {pending:8,} {spent_usd:10.4f}"
            print(f"{job.name:40} {job.state:8} {figures}")
    return 0


def _delete(options: argparse.Namespace) -> int:
    journal = _journal(options)
    if journal is None:
        return _none(options)
    with journal:
        if not journal.delete(options.name):
            raise _unknown(options.name)
    print(f"Deleted {options.name}")
    return 0


def _show(options: argparse.Namespace) -> int:
    journal = _journal(options)
    if journal is None:
        raise _unknown(options.name)
    with journal:
        job = journal.job(options.name)
        if job is None:
            raise _unknown(options.name)
        counts = journal.counts(job.name)
        reasons: Counter[str] = Counter()
        if counts["f"]:
            reasons.update(_reason(row.error_json) for row in journal.rows(job.name) if row.state == "f")
    damaged = room("batch.kept_spec").damage(job) is not None
    meta = {} if damaged else job.meta
    schema = meta.get("schema") or {}
    pending = counts["q"] + counts["r"]
    told = {
        "job": f"{job.name} ({job.state})",
        "begun": time.strftime("%Y-%m-%d %H:%M", time.localtime(job.created)),
        "asks": "damaged in the ledger" if damaged else f"{meta.get('model')} at {meta.get('route')}",
        "system": meta.get("system") or "",
        "template": meta.get("template") or "",
        "columns": ", ".join(schema.get("properties", {})),
        "rows": f"{counts['d']:,} done, {counts['f']:,} failed, {pending:,} pending",
        "spent": f"${job.spent_usd:.4f}"
        + (f" and ${job.unknown_usd:.4f} perhaps" if job.unknown_usd else ""),
    }
    for name, text in told.items():
        if text:
            print(f"{name:9} {_plain(text)}")
    for reason, count in reasons.most_common(REASONS):
        print(f"{'failed':9} {count:,} x {_plain(reason)}")
    if damaged:
        print("Go on with: the call that began it")
    elif pending or counts["f"]:
        print(f"Go on with: deepseek-nb jobs {'resume' if pending else 'retry'} {job.name!r}")
    return 0


def _reason(error_json: str | None) -> str:
    try:
        told = json.loads(error_json or "")
        return f"{told['error']}: {told['message']}"
    except (ValueError, TypeError, KeyError):
        return "unknown"


def _plain(text: str) -> str:
    """Text that others wrote, in one line without what a terminal would obey."""
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text)[: 4 * LONG])
    shown = " ".join(shown.split())
    return shown if len(shown) <= LONG else f"{shown[: LONG - 1]}…"


def _resume(options: argparse.Namespace, *, retry_failed: bool = False) -> int:
    if _journal_missing(options):
        raise _unknown(options.name)
    with room("client.sync").Client(**given(options, "base_url", "api_key", "data_dir")) as client:
        figures, interrupted = room("batch.resume").work_off(
            options.name,
            client=client,
            retry_failed=retry_failed,
            progress=options.progress,
            **given(options, "budget_usd", "patience", "when"),
        )
    print(
        f"{options.name}: {figures.done:,} done, {figures.failed:,} failed, {figures.pending:,} pending; "
        f"${figures.spent_usd:.4f} this time, ${figures.cost_usd:.4f} for the job"
    )
    if interrupted:
        raise KeyboardInterrupt
    return 0 if figures.done == figures.total else 1


def _journal_missing(options: argparse.Namespace) -> bool:
    return not (data_dir(options) / "jobs.db").exists()


def _retry(options: argparse.Namespace) -> int:
    return _resume(options, retry_failed=True)


def _export(options: argparse.Namespace) -> int:
    if _journal_missing(options):
        raise _unknown(options.name)
    with _journal(options) as journal:
        resume = room("batch.resume")
        frame, form = resume.job_frame(journal, options.name), resume.job_form(journal, options.name)
    room("batch.export").to_file(frame, form, options.file)
    done = int((frame["status"] == "done").sum())
    print(f"{len(frame):,} rows, {done:,} of them done, in {options.file}")
    return 0
