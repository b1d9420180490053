"""``ds.submit``: a job over the rows of a frame, in the background."""

from __future__ import annotations

import re
import threading
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from hashlib import blake2b
from typing import Any, Literal

import pandas as pd
from narwhals.typing import IntoDataFrame

from deepseek_nb.adapters.journal import JobRow, Journal
from deepseek_nb.adapters.settings import parse_duration_s, parse_patience_s
from deepseek_nb.batch.frame import answer_columns, build_frame, frame_columns
from deepseek_nb.batch.frames_io import FrameForm, as_pandas
from deepseek_nb.batch.hours import Hours, When
from deepseek_nb.batch.job import Job, Prepared, live_jobs
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.rows import Rows, read_rows
from deepseek_nb.batch.run import JobRun, MakeErrand
from deepseek_nb.batch.spec import ROW_PRIORITY, JobSpec
from deepseek_nb.client.schema_columns import Nested
from deepseek_nb.client.structured import Schema
from deepseek_nb.client.sync import Client
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.errors import ConfigError, ContextTooLong, JobRunning
from deepseek_nb.core.form import Structured
from deepseek_nb.session import default_client

__all__ = ["JobCall", "begin", "job_budget", "standing", "submit"]

_JOB_NAME = re.compile(r"[\w][\w .:/-]{0,99}")
_one_at_a_time = threading.Lock()


def submit(
    frame: IntoDataFrame,
    template: str,
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
    when: When | None = None,
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
        return begin(JobCall(**given))


@dataclass(frozen=True, slots=True)
class JobCall:
    """The arguments of a call of ``submit`` or ``apply``."""

    frame: Any
    template: str
    schema: Any
    into: str | None
    nested: Nested
    structured: Structured
    raw: bool
    job: str | None
    system: str | None
    model: str | None
    thinking: bool
    temperature: float | None
    max_tokens: int | None
    priority: int
    ttl: str | float | None
    cache: bool | None
    budget_usd: float | None
    patience: float | str | None
    fallback: Any
    missing: Literal["fail", "empty"]
    retry_failed: bool
    when: When | None
    client: Client | None


def begin(call: JobCall, *, alone: bool = True) -> Job:
    """Check everything, write the rows down, start the work; raises what is wrong before anything is sent.

    ``alone``: where the same call runs already, its handle comes back, and another one under its name
    raises; otherwise the two share the rows, as two processes do.
    """
    shape = None if call.schema is None else Schema.of(call.schema, nested=call.nested)
    answer_columns(shape, call.into, raw=call.raw)
    frame = as_pandas(call.frame, call.template)
    rows = read_rows(frame, call.template, missing=call.missing)
    client = call.client or default_client()
    client.settings.require_credentials()
    spec = JobSpec(
        call.template,
        shape,
        call.system,
        call.model,
        call.thinking,
        call.temperature,
        call.max_tokens,
        call.structured,
    )
    digest = spec.digest(client.aio)
    hours = Hours.of(
        call.when or client.settings.when,
        client.aio.prices,
        call.model or client.settings.model,
        lambda: client.aio.now_utc(),
    )
    name = _job_name(call.job, digest, rows.prompts)
    asked = _Asked(digest, rows, tuple(getattr(call, name) for name in _OPTIONS), frame.index)
    if alone and (running := _running(client, name, asked)) is not None:
        return running
    with ExitStack() as undo:
        journal = undo.enter_context(Journal(client.settings.data_dir / "jobs.db"))
        before = journal.job(name)
        resumed = before is not None and before.digest == digest
        budget = job_budget(client, call.budget_usd, journal, name, before if resumed else None)
        make_errand = spec.errands(
            client.aio,
            user_id=f"job-{blake2b(name.encode(), digest_size=8).hexdigest()}",
            priority=call.priority,
            ttl_s=None if call.ttl is None else parse_duration_s(call.ttl),
            cache=call.cache,
            budget=budget,
            fallback=call.fallback,
        )
        rows, keys = _fitting(rows, make_errand)
        settings = client.settings
        patience_s = settings.patience_s if call.patience is None else parse_patience_s(call.patience)
        journal.open_job(
            name,
            digest,
            spec.meta(client.aio),
            zip(keys, rows.prompts, [call.priority] * len(keys), strict=True),
        )
        if call.retry_failed:
            journal.retry_failed(name)
        progress, pending = standing(journal, name, keys)
        progress.money = budget
        run = JobRun(
            client.aio,
            journal,
            name,
            pending,
            make_errand,
            progress,
            patience_s=patience_s,
            check=shape.parse if shape else None,
            hours=hours,
        )
        frame_of = partial(build_frame, frame.index, rows, keys, schema=shape, into=call.into, raw=call.raw)
        form = FrameForm(call.frame, frame_columns(shape, call.into, raw=call.raw))
        again = partial(_retried, replace(call, client=client))
        job = Job(Prepared(name, client, journal, run, budget, bool(pending), frame_of, form, asked, again))
        undo.pop_all()
    return job


def _retried(call: JobCall) -> Job:
    with _one_at_a_time:
        return begin(replace(call, retry_failed=True))


_OPTIONS = tuple(
    option.name for option in fields(JobCall) if option.name not in ("frame", "template", "schema", "client")
)


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


def standing(journal: Journal, name: str, keys: list[str]) -> tuple[Progress, list[str]]:
    """Where a job stands when a run begins: its figures, and the keys that are left."""
    states = {item.key: item.state for item in journal.rows(name)}
    done = sum(states.get(key) == "d" for key in keys)
    failed = sum(states.get(key) == "f" for key in keys)
    progress = Progress(total=len(keys), done=done, failed=failed, already=done + failed)
    return progress, [key for key in keys if states.get(key) not in ("d", "f")]


def _fitting(rows: Rows, make_errand: MakeErrand) -> tuple[Rows, list[str]]:
    """The rows that fit the model's context, and their keys; raises where none does."""
    keys: list[str] = []
    unfit: dict[int, str] = {}
    for place, prompt in enumerate(rows.prompts):
        try:
            keys.append(make_errand(prompt, None).key)
        except ContextTooLong as error:
            if len(unfit) + 1 == len(rows.prompts):
                raise
            unfit[place] = f"{type(error).__name__}: {error.message}"
    return rows.without(unfit), keys


def _job_name(job: str | None, digest: str, prompts: Any) -> str:
    if job is None:
        content = blake2b(digest.encode(), digest_size=6)
        for prompt in prompts:
            content.update(prompt.encode("utf-8", "surrogatepass") + b"\0")
        return f"apply-{content.hexdigest()}"
    if not isinstance(job, str) or not _JOB_NAME.fullmatch(job):
        raise ConfigError(
            f"{job!r} is not a job name.",
            hint="Use letters, digits, spaces and . : / - _, at most 100 of them.",
        )
    return job


def job_budget(
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
