"""``ds.submit``: a job over the rows of a frame, in the background."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import pandas as pd
from narwhals.typing import IntoDataFrame

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.batch.call import OPTIONS, JobCall, fitting, work_of
from deepseek_nb.batch.form import Layout
from deepseek_nb.batch.frame import build_frame, frame_columns
from deepseek_nb.batch.frames_io import FrameForm
from deepseek_nb.batch.garbage import collected_less
from deepseek_nb.batch.hours import When
from deepseek_nb.batch.job import Job, Prepared, live_jobs
from deepseek_nb.batch.place import Place, queue_of
from deepseek_nb.batch.plan import Plan, call_of
from deepseek_nb.batch.queue_run import QueueRun, refuse_elsewhere
from deepseek_nb.batch.ready import Ready, hours_of, job_budget, job_run, standing, written_down
from deepseek_nb.batch.rows import Rows
from deepseek_nb.batch.run import JobRun
from deepseek_nb.batch.spec import ROW_PRIORITY
from deepseek_nb.client.schema_columns import Nested
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import JobRunning
from deepseek_nb.core.form import Structured
from deepseek_nb.core.layout.prefix import BLOCK_TOKENS
from deepseek_nb.session import default_client

__all__ = ["begin", "submit"]

_one_at_a_time = threading.Lock()


def submit(
    frame: IntoDataFrame | Plan,
    template: str | Plan | None = None,
    *,
    schema: Any = None,
    into: str | None = None,
    nested: Nested = "flatten",
    structured: Structured = "json",
    raw: bool = False,
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
    rows_per_request: int = 1,
    when: When | None = None,
    queue: str | None = None,
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

    With ``queue`` this process asks nothing: workers do (``deepseek-nb worker``), and once this returns
    the job goes on without it. ``queue="ledger"`` is for workers with the same data folder,
    ``"amqp://host"`` for workers anywhere, by way of RabbitMQ (extra ``rabbitmq``; about 0.3 ms a row);
    ``"amqp"`` takes the address from DEEPSEEK_AMQP_URL. The handle looks on; the same call later, in
    another process too, looks on again. ``cancel`` and ``pause`` take back what no worker has begun. What
    a kill costs: docs/several_machines.md.

    >>> job = ds.submit(df, "Rate the risk of {{purpose}}", schema=Risk, job="risk")   # doctest: +SKIP
    >>> job.result()                                                                   # doctest: +SKIP
    """
    given = locals()  # all arguments, by name
    place = queue_of(given.pop("queue"))
    with _one_at_a_time:
        begun = begin(call_of(given), place=place)
    begun.wait_until_put()
    return begun


@collected_less()
def begin(call: JobCall, *, alone: bool = True, place: Place | None = None) -> Job:
    """Check everything, write the rows down, start the work; raises what is wrong before anything is sent.

    ``alone``: where the same call runs already, its handle comes back, and another one under its name
    raises; otherwise the two share the rows, as two processes do, unless that one is paused. ``place``: who
    works on them, if not we.
    """
    client = call.client or default_client()
    work = work_of(call, client)
    if place is None:
        client.settings.require_credentials()
    else:
        place.check(call)
    hours = hours_of(client, call.when, call.model)
    name, spec, schema = work.name, work.spec, work.spec.schema
    options = tuple(getattr(call, name) for name in OPTIONS)
    asked = _Asked(work.digest, work.rows, (*options, None if place is None else place.name), work.index)
    running = _running(client, name, asked, alone=alone)
    if running is not None:
        return running
    with ExitStack() as undo:
        journal = undo.enter_context(Journal(client.settings.data_dir / "jobs.db"))
        refuse_elsewhere(journal, name, None if place is None else place.name)
        before = journal.job(name)
        resumed = before is not None and before.digest == work.digest
        budget = job_budget(client, call.budget_usd, journal, name, before if resumed else None)
        asking = work.asking(call, client, budget)
        rows, keys = fitting(work.rows, asking)
        items = zip(keys, rows.prompts, [call.priority] * len(keys), strict=True)
        written_down(journal, name, spec, client, items)
        progress, pending = standing(journal, name, keys, budget, retry_failed=call.retry_failed)
        ready = Ready(client, journal, name, spec, asking, rows, keys, pending, progress)
        run: JobRun | QueueRun = (
            job_run(ready, patience=call.patience, hours=hours) if place is None else place.run(call, ready)
        )
        frame_of = partial(
            build_frame,
            work.index,
            replace(rows, values=()),
            keys,
            schema=schema,
            into=call.into,
            raw=call.raw,
        )
        form = FrameForm(call.frame, frame_columns(schema, call.into, raw=call.raw))
        again = partial(_retried, replace(call, client=client), place)
        job = Job(Prepared(name, client, journal, run, budget, bool(pending), frame_of, form, asked, again))
        undo.pop_all()
    return job


def _retried(call: JobCall, place: Place | None) -> Job:
    with _one_at_a_time:
        return begin(replace(call, retry_failed=True), place=place)


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


def _running(client: Client, name: str, asked: _Asked, *, alone: bool) -> Job | None:
    """The handle of that very job, if it is to have its rows ``alone``; None where no job of that name runs.

    Raises JobRunning for another one, and for a paused one where rows are shared (with another client, they
    always are): it keeps those it began.
    """
    folder = client.settings.data_dir
    for job in live_jobs():
        if job.name != name or job.client.settings.data_dir != folder or job.status == "cancelling":
            continue
        alone_there = alone and job.client is client
        if job.status == "paused" and not alone_there:
            raise JobRunning(
                f"The job {name!r} is paused in this process.",
                hint="Let it go on with job.resume(), or end it with job.cancel().",
            )
        if alone_there and job.asked == asked:
            return job
        if alone_there:
            raise JobRunning(f"The job {name!r} is {job.status} in this process, with other rows or options.")
    return None
