"""A job from its own files: gone on with, or made a frame of, without the frame that it was begun with.

The journal holds the template, the schema, the model and the prompt of every row. What it does not hold
are checks of the caller's own in a pydantic model: here an answer is checked by the model's JSON Schema,
and by the model itself when the call that began the job reads it.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from hashlib import blake2b
from typing import Any

import pandas as pd

from deepseek_nb.adapters.journal import JobRow, Journal
from deepseek_nb.adapters.settings import parse_patience_s
from deepseek_nb.batch.apply import watch
from deepseek_nb.batch.frame import answer_columns, build_frame, frame_columns
from deepseek_nb.batch.frames_io import FrameForm
from deepseek_nb.batch.hours import Hours, When
from deepseek_nb.batch.job import Job, Prepared
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.rows import Rows
from deepseek_nb.batch.run import JobRun
from deepseek_nb.batch.spec import JobSpec
from deepseek_nb.batch.submit import job_budget, standing
from deepseek_nb.client.schema_columns import Column
from deepseek_nb.client.structured import Schema
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import ConfigError, JobMismatch

__all__ = ["job_frame", "resume", "work_off"]


def resume(
    name: str,
    *,
    client: Client,
    budget_usd: float | None = None,
    patience: float | str | None = None,
    when: When | None = None,
    retry_failed: bool = False,
) -> Job:
    """Go on with the job of that name; gives a handle at once. Its frame is that of :func:`job_frame`.

    Options as in :func:`deepseek_nb.apply`. Costs one request for each row that is not done, and nothing for
    the others. Raises ConfigError where there is no such job, and JobMismatch where this client would ask
    otherwise than the job began: another server or route, or another release; nothing is sent then.
    """
    settings = client.settings
    settings.require_credentials()
    with ExitStack() as undo:
        journal = undo.enter_context(Journal(settings.data_dir / "jobs.db"))
        there = _job(journal, name)
        spec = _spec(there)
        if spec.digest(client.aio) != there.digest:
            raise _other(there, spec.meta(client.aio))
        hours = Hours.of(
            when or settings.when,
            client.aio.prices,
            spec.model or settings.model,
            lambda: client.aio.now_utc(),
        )
        patience_s = settings.patience_s if patience is None else parse_patience_s(patience)
        budget = job_budget(client, budget_usd, journal, name, there)
        prompts = list(journal.prompts(name))
        make_errand = spec.errands(
            client.aio,
            user_id=f"job-{blake2b(name.encode(), digest_size=8).hexdigest()}",
            priority=min((each.priority for each in prompts), default=2),
            budget=budget,
        )
        keys = [each.key for each in prompts]
        bodies = {each.key: each.body for each in prompts}
        journal.open_job(name, there.digest, there.meta, ())
        if retry_failed:
            journal.retry_failed(name)
        progress, pending = standing(journal, name, keys)
        if any(make_errand(bodies[key], None).key != key for key in pending):
            raise _other(there, spec.meta(client.aio))
        progress.money = budget
        run = JobRun(
            client.aio,
            journal,
            name,
            pending,
            make_errand,
            progress,
            patience_s=patience_s,
            check=spec.schema.parse if spec.schema else None,
            hours=hours,
        )
        frame_of = partial(_frame, [each.body for each in prompts], keys, spec.schema)
        columns = (Column(_prompt_name(spec.schema), (), "string"), *frame_columns(spec.schema, None))
        form = FrameForm(pd.DataFrame(), columns)
        again = partial(
            resume,
            name,
            client=client,
            budget_usd=budget_usd,
            patience=patience,
            when=when,
            retry_failed=True,
        )
        asked = ("resume", name)
        job = Job(Prepared(name, client, journal, run, budget, bool(pending), frame_of, form, asked, again))
        undo.pop_all()
    return job


def work_off(name: str, *, progress: bool = True, **options: Any) -> tuple[Progress, bool]:
    """Resume the job and wait for its end, with a progress bar; its figures, and whether it was interrupted.

    The first interrupt stops sending and waits up to 10 s for what is under way. Raises what stopped the job.
    """
    job = resume(name, **options)
    interrupted = watch(job, show=progress)
    if job.error is not None:
        raise job.error
    return job.progress, interrupted


def job_frame(journal: Journal, name: str) -> pd.DataFrame:
    """A job's rows in their order: ``prompt``, the answer's columns and what is told about each row.

    Sends nothing. Raises ConfigError where there is no job of that name.
    """
    schema = _spec(_job(journal, name)).schema
    prompts = list(journal.prompts(name))
    return _frame([each.body for each in prompts], [each.key for each in prompts], schema, journal.rows(name))


def _frame(bodies: list[str], keys: list[str], schema: Schema | None, ledger: Any) -> pd.DataFrame:
    rows = Rows(bodies, range(len(bodies)), {})
    frame = build_frame(pd.RangeIndex(len(bodies)), rows, keys, ledger, schema, None)
    frame.insert(0, _prompt_name(schema), pd.Series(bodies, index=frame.index, dtype="str"))
    return frame


def _prompt_name(schema: Schema | None) -> str:
    return "prompt" if "prompt" not in answer_columns(schema, None) else "row_prompt"


def _job(journal: Journal, name: str) -> JobRow:
    there = journal.job(name)
    if there is None:
        raise ConfigError(f"There is no job {name!r}.", hint="See them with: deepseek-nb jobs")
    return there


def _spec(there: JobRow) -> JobSpec:
    meta = there.meta
    schema = meta.get("schema")
    return JobSpec(
        str(meta.get("template")),
        None if schema is None else Schema.of(schema),
        meta.get("system"),
        meta.get("model"),
        bool(meta.get("thinking")),
        meta.get("temperature"),
        meta.get("max_tokens"),
        meta.get("structured", "json"),
    )


def _other(there: JobRow, asked: dict[str, Any]) -> JobMismatch:
    differs = tuple(name for name, value in asked.items() if there.meta.get(name) != value)
    if "route" in differs:
        return JobMismatch(
            f"The job {there.name!r} asks {there.meta.get('route')}, and this would ask {asked['route']}.",
            hint="Give --base-url (or DEEPSEEK_NB_BASE_URL, DEEPSEEK_NB_ROUTE) as it was.",
            differs=differs,
        )
    return JobMismatch(
        f"The job {there.name!r} asks in another way than this release does from its files.",
        hint="Run the call that began it once more: it goes on there.",
        differs=differs,
    )
