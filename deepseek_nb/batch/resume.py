"""A job from its own files: gone on with, or made a frame of, without the frame that it was begun with.

The journal holds the template, the schema, the model and the prompt of every row. What it does not hold
are checks of the caller's own in a pydantic model: here an answer is checked by the model's JSON Schema,
and by the model itself when the call that began the job reads it.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from deepseek_nb.adapters.journal import JobRow, Journal
from deepseek_nb.adapters.settings import parse_duration_s
from deepseek_nb.batch.apply import watch
from deepseek_nb.batch.call import user_of
from deepseek_nb.batch.frame import answer_columns, build_frame, frame_columns
from deepseek_nb.batch.frames_io import FrameForm
from deepseek_nb.batch.hours import When
from deepseek_nb.batch.job import Job, Prepared
from deepseek_nb.batch.kept_spec import damage, spec_of
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.queue_run import refuse_elsewhere
from deepseek_nb.batch.ready import Ready, hours_of, job_budget, job_run, standing, written_down
from deepseek_nb.batch.rows import Rows, kept_rows
from deepseek_nb.client.schema_columns import Column
from deepseek_nb.client.structured import Schema
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import ConfigError, JobMismatch

__all__ = ["job_form", "job_frame", "resume", "work_off"]


def resume(
    name: str,
    *,
    client: Client,
    budget_usd: float | None = None,
    patience: float | str | None = None,
    when: When | None = None,
    retry_failed: bool = False,
    ttl: str | float | None = None,
    cache: bool | None = None,
    fallback: Any = None,
) -> Job:
    """Go on with the job of that name; gives a handle at once. Its frame is that of :func:`job_frame`.

    Options as in :func:`deepseek_nb.apply`. Costs one request for each row that is not done, and nothing for
    the others. Raises ConfigError where there is no such job, and JobMismatch where this client would ask
    otherwise than the job began: another server or route, or another release, or where what is kept of the
    job is damaged; nothing is sent then.
    """
    settings = client.settings
    settings.require_credentials()
    with ExitStack() as undo:
        journal = undo.enter_context(Journal(settings.data_dir / "jobs.db"))
        there = _job(journal, name)
        refuse_elsewhere(journal, name, None)
        spec = spec_of(there.meta)
        if spec.digest(client.aio) != there.digest:
            raise _other(there, spec.meta(client.aio))
        hours = hours_of(client, when, spec.model)
        budget = job_budget(client, budget_usd, journal, name, there)
        prompts = list(journal.prompts(name))
        asking = spec.errands(
            client.aio,
            user_id=user_of(name),
            priority=min((each.priority for each in prompts), default=2),
            ttl_s=None if ttl is None else parse_duration_s(ttl),
            cache=cache,
            budget=budget,
            fallback=fallback,
        )
        keys = [each.key for each in prompts]
        rows = kept_rows([each.body for each in prompts], spec.form)
        written_down(journal, name, spec, client, ())
        progress, pending = standing(journal, name, keys, budget, retry_failed=retry_failed)
        ready = Ready(client, journal, name, spec, asking, rows, keys, pending, progress)
        bodies = ready.bodies()
        if any(asking(bodies[key], None).key != key for key in pending):
            raise _other(there, spec.meta(client.aio))
        run = job_run(ready, patience=patience, hours=hours)
        frame_of = partial(_frame, replace(rows, values=()), keys, spec.schema)
        form = _form(spec.schema)
        again = partial(
            resume,
            name,
            client=client,
            budget_usd=budget_usd,
            patience=patience,
            when=when,
            retry_failed=True,
            ttl=ttl,
            cache=cache,
            fallback=fallback,
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

    The prompt is the filled template, in whatever form the row was sent.

    Sends nothing. Raises ConfigError where there is no job of that name, and JobMismatch where what is kept
    of it is damaged.
    """
    spec = spec_of(_job(journal, name).meta)
    prompts = list(journal.prompts(name))
    rows = Rows([each.body for each in prompts], range(len(prompts)), {}, spec.form)
    return _frame(rows, [each.key for each in prompts], spec.schema, journal.rows(name))


def _frame(rows: Rows, keys: list[str], schema: Schema | None, ledger: Any) -> pd.DataFrame:
    frame = build_frame(pd.RangeIndex(len(keys)), rows, keys, ledger, schema, None)
    prompts = pd.Series(rows.form.filled(rows.prompts), index=frame.index, dtype="str")
    frame.insert(0, _prompt_name(schema), prompts)
    return frame


def job_form(journal: Journal, name: str) -> FrameForm:
    """What the columns of :func:`job_frame` hold; raises what it does."""
    return _form(spec_of(_job(journal, name).meta).schema)


def _form(schema: Schema | None) -> FrameForm:
    prompt = Column(_prompt_name(schema), (), "string")
    return FrameForm(pd.DataFrame(), (prompt, *frame_columns(schema, None)))


def _prompt_name(schema: Schema | None) -> str:
    return "prompt" if "prompt" not in answer_columns(schema, None) else "row_prompt"


def _job(journal: Journal, name: str) -> JobRow:
    """The job, whose description is as it was written down; raises what :func:`job_frame` does."""
    there = journal.job(name)
    if there is None:
        raise ConfigError(f"There is no job {name!r}.", hint="See them with: deepseek-nb jobs")
    if (damaged := damage(there)) is not None:
        damaged.hint = (
            f"Run the call that began it once more, with job={name!r}: it says what is asked, so it goes on "
            "there and mends the ledger. Until then the name alone does not do. If it says the same, take "
            f"another job name, and: deepseek-nb jobs delete {name!r}"
        )
        raise damaged
    return there


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
