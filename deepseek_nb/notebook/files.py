"""``%deepseek jobs`` and ``%deepseek cache``: what is kept on disk, and emptying the answer store."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from typing import Any

from deepseek_nb.core.errors import ConfigError
from deepseek_nb.notebook.display import show
from deepseek_nb.notebook.rooms import default_client, room
from deepseek_nb.notebook.tables import line, table, usd

__all__ = ["cache", "jobs"]

REASONS_SHOWN = 5


def jobs(_magics: Any, name: str) -> None:
    """Show the jobs on disk, or one of them with the reasons its rows failed for. Sends nothing.

    Raises ConfigError, with the near names, for a job that is not there.
    """
    file = default_client().settings.data_dir / "jobs.db"
    if not file.exists():
        if name:
            raise _no_job(name, [])
        show(line("No jobs yet."))
        return
    with room("adapters.journal").Journal(file) as journal:
        if name:
            _show_job(journal, name.strip("\"'"))
            return
        rows = [_figures(journal, job) for job in journal.jobs()]
    head = ["job", "state", "done", "failed", "pending", "spent"]
    show(table("Jobs", head, rows, left=2) if rows else line("No jobs yet."))


def _figures(journal: Any, job: Any) -> list[str]:
    counts = journal.counts(job.name)
    rows = (counts["d"], counts["f"], counts["q"] + counts["r"])
    return [job.name, job.state, *(f"{number:,}" for number in rows), usd(job.spent_usd + job.unknown_usd)]


def _show_job(journal: Any, name: str) -> None:
    job = journal.job(name)
    if job is None:
        raise _no_job(name, [other.name for other in journal.jobs()])
    _, state, done, failed, pending, _ = _figures(journal, job)
    rows = [
        ["state", state],
        ["rows done", done],
        ["rows failed", failed],
        ["rows pending", pending],
        ["spent", usd(job.spent_usd)],
        ["perhaps charged", usd(job.unknown_usd)],
    ]
    reasons = Counter(_reason(row.error_json) for row in journal.rows(name) if row.state == "f")
    rows += [[f"failed: {reason}", f"{count:,}"] for reason, count in reasons.most_common(REASONS_SHOWN)]
    show(table(f"Job {name}", ["figure", "value"], rows))


def _reason(error_json: str | None) -> str:
    """The kind of error a row failed for."""
    try:
        told = json.loads(error_json or "")
    except ValueError:
        return "unknown"
    return str(told.get("error") or "unknown") if isinstance(told, dict) else "unknown"


def _no_job(name: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    return ConfigError(
        f"There is no job {name!r}, and nothing was sent.",
        hint=f"Did you mean {near[0]!r}?" if near else "See them with: %deepseek jobs",
    )


def cache(_magics: Any, rest: str) -> None:
    """Show what the answer store holds; ``clear --yes`` empties it, ``clear`` says what that would be."""
    client = default_client()
    store = client.aio.store
    if store is None:
        show(line("No answers are kept: the setting cache is off."))
        return
    stats, redis = store.stats(), client.aio.redis
    if not rest:
        rows = [
            ["answers", f"{stats['items']:,}"],
            ["size on disk", f"{stats['size_bytes'] / 1e6:,.1f} MB"],
            ["found since this kernel started", f"{stats['hits']:,}"],
            ["not found", f"{stats['misses']:,}"],
        ]
        show(table("Answer store", ["figure", "value"], rows if redis is None else rows + _shared(redis)))
    elif "--yes" not in rest:
        show(
            line(
                f"Nothing was deleted. It would delete {_answers(stats['items'])} of all notebooks that "
                "share this store; asked again, they are paid again. To do it: %deepseek cache clear --yes"
            )
        )
    else:
        left = "" if redis is None else " What was shared through Redis is found there until it drops it."
        show(line(f"Deleted {_answers(store.purge())}.{left}"))


def _shared(redis: Any) -> list[list[str]]:
    """How the Redis stands, asked now."""
    up = room("client.portal").background.run(redis.look)
    return [
        ["Redis, shared with other machines", "there" if up else f"gone ({redis.why}), tried again"],
        ["found there", f"{redis.counts['hits']:,}"],
        ["not found there", f"{redis.counts['misses']:,}"],
        ["times it failed or refused", f"{redis.counts['errors']:,}"],
    ]


def _answers(number: int) -> str:
    return f"{number:,} answer" + ("" if number == 1 else "s")
