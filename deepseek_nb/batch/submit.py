"""``ds.submit``: a job over the rows of a frame, in the background."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import pandas as pd

from deepseek_nb.adapters.journal import JobRow, Journal
from deepseek_nb.adapters.settings import parse_patience_s
from deepseek_nb.batch.call import OPTIONS, JobCall, arranged, fitting, work_of
from deepseek_nb.batch.form import Layout
from deepseek_nb.batch.frame import build_frame
from deepseek_nb.batch.job import Job, Prepared, live_jobs
from deepseek_nb.batch.plan import Plan, call_of
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.rows import Rows
from deepseek_nb.batch.run import JobRun
from deepseek_nb.batch.spec import ROW_PRIORITY
from deepseek_nb.batch.waves import waves_of
from deepseek_nb.client.sync import Client
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.errors import ConfigError, JobRunning
from deepseek_nb.core.layout.prefix import BLOCK_TOKENS
from deepseek_nb.session import default_client

__all__ = ["JobCall", "begin", "submit"]

_one_at_a_time = threading.Lock()


def submit(
    frame: pd.DataFrame | Plan,
    template: str | Plan | None = None,
    *,
    schema: Any = None,
    into: str | None = None,
    job: str | None = None,
    system: str | None = None,
    model: str | None = None,
    thinking: bool = False,
    temperature: float | None = None,
    max_tokens: int | None = None,
    priority: int = ROW_PRIORITY,
    ttl: str | float | None = None,
    cache: bool | None = None,
    budget_usd: float | None = None,
    patience: float | str | None = None,
    fallback: Any = None,
    missing: Literal["fail", "empty"] = "fail",
    retry_failed: bool = False,
    layout: Layout = "auto",
    answers: Literal["json", "numbers"] = "json",
    cache_block: int = BLOCK_TOKENS,
    client: Client | None = None,
) -> Job:
    """Ask about every row of ``frame`` in the background; gives a handle at once.

    Options, costs and the frame that comes of it are those of :func:`deepseek_nb.apply`. The rows are
    read, checked and written down before this returns (about 1 s for 100,000), so bad input raises
    here and nothing is sent; what stops the job later is raised by ``job.result()`` and ``await job``.
    The cell is free meanwhile: look at ``job``, ``job.pause()``, ``job.cancel()``.

    The same call while that job runs gives the handle that there is, paused or not: running a cell again
    begins nothing twice. Another call under its name raises :class:`JobRunning`.

    A job ends with the process: a script waits with ``job.result()``. What was done is kept.

    >>> job = ds.submit(df, "Rate the risk of {{purpose}}", schema=Risk, job="risk")   # doctest: +SKIP
    >>> job.result()                                                                   # doctest: +SKIP
    """
    given = locals()  # all arguments, by name
    with _one_at_a_time:
        return begin(call_of(given))


def begin(call: JobCall, *, alone: bool = True) -> Job:
    """Check everything, write the rows down, start the work; raises what is wrong before anything is sent.

    ``alone``: where the same call runs already, its handle comes back, and another one under its name
    raises; otherwise the two share the rows, as two processes do.
    """
    client = call.client or default_client()
    work = work_of(call, client)
    client.settings.require_credentials()
    name, digest, rows, shape = work.name, work.digest, work.rows, work.schema
    asked = _Asked(digest, rows, tuple(getattr(call, name) for name in OPTIONS), call.frame.index)
    if alone and (running := _running(client, name, asked)) is not None:
        return running
    with ExitStack() as undo:
        journal = undo.enter_context(Journal(client.settings.data_dir / "jobs.db"))
        before = journal.job(name)
        resumed = before is not None and before.digest == digest
        budget = _budget(client, call.budget_usd, journal, name, before if resumed else None)
        make_errand = work.asking(call, client, budget)
        rows, keys = fitting(rows, make_errand)
        settings = client.settings
        patience_s = settings.patience_s if call.patience is None else parse_patience_s(call.patience)
        journal.open_job(
            name,
            digest,
            work.spec.meta(client.aio),
            zip(keys, rows.prompts, [call.priority] * len(keys), strict=True),
        )
        if call.retry_failed:
            journal.retry_failed(name)
        progress, pending = _standing(journal, name, keys)
        progress.money = budget
        place_of = {key: place for place, key in enumerate(keys)}
        places = [place_of[key] for key in pending]
        found = arranged(rows, places, make_errand, call.cache_block)
        pending = [pending[place] for place in found.sent]
        rows = replace(rows, values=())
        run = JobRun(
            client.aio,
            journal,
            name,
            pending,
            make_errand,
            progress,
            patience_s=patience_s,
            check=shape.parse if shape else None,
            waves=waves_of(pending, [len(wave) for wave in found.waves], make_errand),
        )
        frame_of = partial(build_frame, call.frame.index, rows, keys, schema=shape, into=call.into)
        job = Job(Prepared(name, client, journal, run, budget, bool(pending), frame_of, asked))
        undo.pop_all()
    return job


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """What two calls must agree in to be the same job with the same frame."""

    digest: str
    rows: Rows
    options: tuple[Any, ...]
    index: pd.Index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Asked):
            return NotImplemented
        mine, theirs = (self.digest, self.rows, self.options), (other.digest, other.rows, other.options)
        return mine == theirs and self.index.equals(other.index)

    __hash__ = None  # type: ignore[assignment]


def _running(client: Client, name: str, asked: _Asked) -> Job | None:
    """The handle of that very job; None where no job of that name runs. Raises JobRunning for another one."""
    for job in live_jobs():
        if job.name == name and job.client is client and job.status != "cancelling":
            if job.asked == asked:
                return job
            raise JobRunning(
                f"The job {name!r} is {job.status} in this process, with other rows or options.",
            )
    return None


def _standing(journal: Journal, name: str, keys: list[str]) -> tuple[Progress, list[str]]:
    """Where a job stands when a run begins: its figures, and the keys that are left."""
    states = {item.key: item.state for item in journal.rows(name)}
    done = sum(states.get(key) == "d" for key in keys)
    failed = sum(states.get(key) == "f" for key in keys)
    progress = Progress(total=len(keys), done=done, failed=failed, already=done + failed)
    return progress, [key for key in keys if states.get(key) not in ("d", "f")]


def _budget(
    client: Client, budget_usd: float | None, journal: Journal, name: str, before: JobRow | None
) -> Budget:
    """The job's budget; all processes at work on the job spend from one limit, kept in the journal."""
    if budget_usd is not None and not (isinstance(budget_usd, int | float) and budget_usd > 0):
        raise ConfigError(
            f"budget_usd is an amount above 0, not {budget_usd!r}.", hint="Give US dollars, such as 0.50."
        )
    return Budget(
        budget_usd,
        parent=client.budget,
        name="budget of the job",
        spent_usd=before.spent_usd if before else 0.0,
        unknown_usd=before.unknown_usd if before else 0.0,
        draw=None if budget_usd is None else partial(journal.draw, name, budget_usd),
    )
