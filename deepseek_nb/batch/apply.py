"""``df.deepseek.apply``: ask about every row, watch a bar, get a frame."""

from __future__ import annotations

import re
import time
import warnings
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from hashlib import blake2b
from typing import Any, Literal

import pandas as pd
from tqdm.auto import tqdm

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.settings import parse_duration_s, parse_patience_s
from deepseek_nb.batch.frame import answer_columns, build_frame
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.rows import Rows, read_rows
from deepseek_nb.batch.run import JobRun, MakeErrand
from deepseek_nb.batch.spec import ROW_PRIORITY, JobSpec
from deepseek_nb.client.portal import background
from deepseek_nb.client.structured import Schema
from deepseek_nb.client.sync import Client
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.errors import ConfigError, ContextTooLong, DeepSeekError, StoreFailed
from deepseek_nb.session import default_client

__all__ = ["JobIncomplete", "apply"]

LOOK_S = 0.1
_JOB_NAME = re.compile(r"[\w][\w .:/-]{0,99}")


class JobIncomplete(UserWarning):
    """A job was interrupted: the frame has what is done, the same call goes on with the rest."""


def apply(
    frame: pd.DataFrame,
    template: str,
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
    progress: bool = True,
    client: Client | None = None,
) -> pd.DataFrame:
    """Ask about every row of ``frame`` and give a frame of answers on the same index.

    ``template`` is the question, with ``{{column}}`` where a row's value goes. With ``schema`` (a
    pydantic model, a JSON Schema or ``{column: type}``) each field becomes a column, checked; with
    ``into`` the whole answer stands in one column of that name; without both the text is in
    ``answer``. After them come ``status`` ("done", "failed", "pending"), ``error``, ``route``,
    ``attempts``, ``cached``, ``tokens``, ``cost_usd``, ``latency_s``; join the frame to your own with
    ``df.join(...)``.

    Equal rows are asked once, and answers that are stored already are not asked again (not older
    than ``ttl``, such as ``"30min"``; ``cache=False``: neither kept nor looked for). ``job`` names
    the work: after an interrupt, a crash or an empty account the same call goes on where it
    stopped and pays nothing twice; without a name, the same template on the same rows is the same
    job. ``priority`` is 1 to 5 (bulk rides low, so that single questions pass). ``retry_failed``
    asks failed rows once more. A row with an empty value in a named column fails by itself
    (``missing="empty"``: it is asked with nothing in its place).

    ``patience`` is how long the job goes on while the server gives nothing, in minutes (or text:
    ``"2h"``). ``fallback`` lists where rows are asked once the server has been down for a while: model
    names, or a :class:`~deepseek_nb.client.routes.Route` to another or a local server; the ``route``
    column says who answered, and the answer is kept under that name only.

    Costs one request for each distinct row, repairs (at most two a row) apart; the first row goes
    alone, so that a wrong key, model or schema costs one. ``budget_usd`` is never passed: the job
    stops before the request that could.

    Raises :class:`FrameError`, :class:`TemplateError`, :class:`SchemaError`, :class:`JobMismatch`
    or :class:`ConfigError` before anything is sent, and what stops all rows alike
    (:class:`AuthError`, :class:`BalanceExhausted`, :class:`BudgetExceeded`, :class:`ModelUnknown`,
    :class:`Busy` once the server gave nothing for ``patience``): everything done is saved, and
    ``error.frame`` holds it. The first interrupt stops sending, waits up to 10 s for what is under
    way and returns what there is, with a :class:`JobIncomplete` warning.

    >>> df.deepseek.apply("Rate the risk of {{purpose}}", schema=Risk, job="risk")   # doctest: +SKIP
    """
    shape = None if schema is None else Schema.of(schema)
    answer_columns(shape, into)
    rows = read_rows(frame, template, missing=missing)
    client = client or default_client()
    client.settings.require_credentials()
    spec = JobSpec(template, shape, system, model, thinking, temperature, max_tokens)
    digest = spec.digest(client.aio)
    name = _job_name(job, digest, rows.prompts)
    with Journal(client.settings.data_dir / "jobs.db") as journal:
        before = journal.job(name)
        if before is not None and before.digest == digest:
            budget = _budget(client, budget_usd, before.spent_usd, before.unknown_usd)
        else:
            budget = _budget(client, budget_usd, 0.0, 0.0)
        make_errand = spec.errands(
            client.aio,
            user_id=f"job-{blake2b(name.encode(), digest_size=8).hexdigest()}",
            priority=priority,
            ttl_s=None if ttl is None else parse_duration_s(ttl),
            cache=cache,
            budget=budget,
            fallback=fallback,
        )
        rows, keys = _fitting(rows, make_errand)
        journal.open_job(
            name,
            digest,
            spec.meta(client.aio),
            zip(keys, rows.prompts, [priority] * len(keys), strict=True),
        )
        if retry_failed:
            journal.retry_failed(name)
        standing = _Standing(journal, name, keys)
        run = JobRun(
            client.aio,
            journal,
            name,
            standing.pending,
            make_errand,
            standing.progress,
            patience_s=client.settings.patience_s if patience is None else parse_patience_s(patience),
            check=shape.parse if shape else None,
        )
        booked_usd = budget.spent_usd + budget.unknown_usd
        interrupted = False
        if standing.pending:
            interrupted = _work(run, standing.progress, name, show=progress)
            lost_usd = budget.spent_usd + budget.unknown_usd - booked_usd - standing.progress.spent_usd
            if lost_usd > 1e-12:  # requests that were cut off: perhaps charged
                with _unless_stopped_by(run.stopped_by):
                    journal.add_spend(name, 0.0, unknown_usd=lost_usd)
                standing.progress.spent_usd += lost_usd
        figures = standing.progress
        with _unless_stopped_by(run.stopped_by):
            journal.set_state(name, "paused" if figures.pending else "done")
        result = build_frame(frame.index, rows, keys, run.ledger(), shape, into)
        result.attrs["deepseek_nb"] = _about(name, figures, journal)
    if run.stopped_by is not None:
        raise _with_frame(run.stopped_by, result, figures, len(run.unsaved))
    if interrupted:
        warnings.warn(
            f"Interrupted: {figures.finished:,} of {figures.total:,} distinct rows are finished and saved. "
            "Run the same call to go on.",
            JobIncomplete,
            stacklevel=3,
        )
    return result


class _Standing:
    """Where a job stands when a run begins."""

    def __init__(self, journal: Journal, name: str, keys: list[str]) -> None:
        self.progress = Progress(total=len(keys))
        states = {item.key: item.state for item in journal.rows(name)}
        self.pending = [key for key in keys if states.get(key) not in ("d", "f")]
        self.progress.done = sum(states.get(key) == "d" for key in keys)
        self.progress.failed = sum(states.get(key) == "f" for key in keys)
        self.progress.already = self.progress.finished


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


def _budget(client: Client, budget_usd: float | None, spent_usd: float, unknown_usd: float) -> Budget:
    if budget_usd is not None and not (isinstance(budget_usd, int | float) and budget_usd > 0):
        raise ConfigError(
            f"budget_usd is an amount above 0, not {budget_usd!r}.", hint="Give US dollars, such as 0.50."
        )
    return Budget(
        budget_usd,
        parent=client.budget,
        name="budget of the job",
        spent_usd=spent_usd,
        unknown_usd=unknown_usd,
    )


def _work(run: JobRun, figures: Progress, name: str, *, show: bool) -> bool:
    """Run in the background loop while a bar is drawn here; whether the user stopped it."""
    work: Future[None] = background.start(run.run)
    bar = _Bar(figures, name, show=show)
    presses = 0
    try:
        while True:
            try:
                if _finished(work, bar):
                    return presses > 0
            except KeyboardInterrupt:
                presses += 1
                if presses == 1:
                    background.call_soon(run.stop)
                elif presses == 2:
                    work.cancel()
                else:
                    raise
    finally:
        bar.close()


def _finished(work: Future[None], bar: _Bar) -> bool:
    """Draw until the work is over, or for ever. Raises what the work raised."""
    while not work.done():
        time.sleep(LOOK_S)
        bar.draw()
    bar.draw()
    if not work.cancelled():
        work.result()
    return True


class _Bar:
    """The figures as a progress bar. tqdm draws when rows are done; a wait is drawn while none are."""

    def __init__(self, figures: Progress, name: str, *, show: bool) -> None:
        self._figures = figures
        self._line = ""
        self._bar = tqdm(
            total=figures.total, initial=figures.finished, desc=name, unit="row", disable=not show, leave=True
        )

    def draw(self) -> None:
        """Bring it up to date."""
        bar, line, more = self._bar, self._figures.line(), self._figures.finished - self._bar.n
        bar.set_postfix_str(line, refresh=False)
        bar.update(more)
        if not more and line != self._line:
            bar.refresh()
        self._line = line

    def close(self) -> None:
        """Leave it as it is."""
        self._bar.close()


def _about(name: str, figures: Progress, journal: Journal) -> dict[str, Any]:
    job = journal.job(name)
    return {
        "job": name,
        "distinct_rows": figures.total,
        "done": figures.done,
        "failed": figures.failed,
        "pending": figures.pending,
        "requests": figures.requests,
        "refusals": figures.refusals,
        "faults": dict(figures.faults),
        "from_store": figures.from_store,
        "already_done": figures.already,
        "run_cost_usd": figures.spent_usd,
        "job_cost_usd": (job.spent_usd + job.unknown_usd) if job else 0.0,
    }


def _unless_stopped_by(error: DeepSeekError | None) -> AbstractContextManager[None]:
    """Where the disk stopped the job, its last notes may fail too: the frame is handed over all the same."""
    return suppress(StoreFailed) if isinstance(error, StoreFailed) else nullcontext()


def _with_frame(error: DeepSeekError, result: pd.DataFrame, figures: Progress, unsaved: int) -> DeepSeekError:
    error.frame = result  # type: ignore[attr-defined]
    finished = (
        f"{figures.finished:,} of {figures.total:,} distinct rows are finished and saved (error.frame)."
    )
    if unsaved:
        finished += f" {unsaved:,} more came in and are in error.frame only: keep it, or they are paid again."
    error.message = f"{error.message} {finished}"
    error.args = (error.message,)
    return error
