"""``df.deepseek.apply``: ask about every row, watch a bar, get a frame."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, cast

from narwhals.typing import IntoDataFrame
from tqdm.auto import tqdm

from deepseek_nb.batch.form import Layout
from deepseek_nb.batch.hours import When
from deepseek_nb.batch.job import Job, JobIncomplete
from deepseek_nb.batch.place import backend_of
from deepseek_nb.batch.plan import Plan, call_of
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.run import DRAIN_S
from deepseek_nb.batch.spec import ROW_PRIORITY
from deepseek_nb.batch.submit import begin
from deepseek_nb.client.schema_columns import Nested
from deepseek_nb.client.sync import Client
from deepseek_nb.core.form import Structured
from deepseek_nb.core.layout.prefix import BLOCK_TOKENS
from deepseek_nb.core.notices import warn

__all__ = ["JobIncomplete", "apply", "watch"]

LOOK_S = 0.1
Frame = TypeVar("Frame", bound=IntoDataFrame)
"""A frame of pandas, polars or another library that narwhals knows: what goes in comes out."""


def apply(
    frame: Frame | Plan,
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
    progress: bool = True,
    backend: Literal["dask"] | None = None,
    client: Client | None = None,
) -> Frame:
    """Ask about every row of ``frame`` and give a frame of answers on the same index.

    ``template`` is the question, with ``{{column}}`` where a row's value goes. With ``schema`` (a
    pydantic model, a JSON Schema or ``{column: type}``) each field becomes a column, checked and typed
    (a model inside it becomes columns named ``outer.inner``, with ``nested="object"`` one of objects); with
    ``into`` the whole answer stands in one column of that name; without both the text is in
    ``answer``. After them come ``status`` ("done", "failed", "pending"), ``error``, ``route``,
    ``attempts``, ``cached``, ``tokens``, ``cost_usd``, ``latency_s``, and with ``raw=True`` the model's
    own words (``raw``) and what was mended in them to read them (``mends``); join the frame to your own
    with ``df.join(...)``, or with ``pd.concat([df, ...], axis=1)`` where labels repeat. A polars frame
    gives a polars frame, row for row; one without rows gives one without rows, and asks nothing.

    Equal rows are asked once, and answers that are stored already are not asked again (not older
    than ``ttl``, such as ``"30min"``; ``cache=False``: neither kept nor looked for). ``job`` names
    the work: after an interrupt, a crash or an empty account the same call goes on where it
    stopped and pays nothing twice; without a name, the same template on the same rows is the same
    job. ``priority`` is 1 to 5 (bulk rides low, so that single questions pass). ``retry_failed``
    asks failed rows once more. A row with an empty value in a named column fails by itself
    (``missing="empty"``: it is asked with nothing in its place).

    ``layout`` says how a row is sent: "keyed" (the template once, in the system message; the row as JSON with
    its fields' names), "compact" (its values only, the names once), "inline" (the template filled for each
    row). "auto" is "keyed", but "inline" for a template without words of its own (``{{prompt}}``) or with
    paths (``{{user.name}}``). ``answers="numbers"`` has the options of a schema named by number. The static
    beginning is filled up to ``cache_block`` tokens (0: it is not). What that saves: docs/cost.md, and
    :func:`deepseek_nb.plan`, whose plan may stand here for frame and template. ``rows_per_request`` (at most
    50) has rows share a request, where requests and not money are what is short: each answer counts for the
    row whose number it bears, and a row without one is asked alone. ``max_tokens`` is 1,024 unless given, and
    down to 256 where a schema of options, numbers and texts with ``max_length`` bounds the answer: one that
    runs on is cut early, and asked again with more room. A text that is cut at a ``max_tokens`` of yours is
    "done", and ``error`` says that it was cut.

    ``patience`` is how long the job goes on while the server gives nothing, in minutes (or text:
    ``"2h"``). ``fallback`` lists where rows are asked once the server has been down for a while: model
    names, or a :class:`~deepseek_nb.client.routes.Route` to another or a local server; the ``route``
    column says who answered, and the answer is kept under that name only. ``when="offpeak"`` sends in
    the cheap hours only (Beijing's clock and holidays) and waits in between; that is no patience.

    ``structured`` is how the shape is asked for: "json" (JSON mode, the schema in the system message),
    "tool" (a strict function on DeepSeek's beta address: the server itself holds the answer to the schema,
    which must be in its documented subset), or "responses" (the address /responses, which takes a schema;
    how strictly it keeps to it is not known). Checks, repairs and promises are the same.

    ``backend="dask"`` shards the rows over the cluster of the current Dask client (extra ``dask``); the key
    has to be in its workers' environment. docs/several_machines.md tells what they share.

    Costs one request for each distinct row (or for ``rows_per_request`` of them), repairs (at most two a
    row) apart; the first goes alone, so that a wrong key, model or schema costs one. ``budget_usd`` is never
    passed: the job stops before the request that could.

    Raises :class:`FrameError`, :class:`TemplateError`, :class:`SchemaError`, :class:`JobMismatch`,
    :class:`RequestInvalid` or :class:`ConfigError` before anything is sent, and what stops all rows alike
    (:class:`AuthError`, :class:`BalanceExhausted`, :class:`BudgetExceeded`, :class:`ModelUnknown`,
    :class:`Busy` once the server gave nothing for ``patience``): everything done is saved, and
    ``error.frame`` holds it. The first interrupt stops sending, waits up to 10 s for what is under
    way and returns what there is, with a :class:`JobIncomplete` warning.

    >>> df.deepseek.apply("Rate the risk of {{purpose}}", schema=Risk, job="risk")   # doctest: +SKIP
    """
    given = locals()  # all arguments, by name
    show, place = given.pop("progress"), backend_of(given.pop("backend"))
    running = begin(call_of(given), alone=False, place=place)
    interrupted = watch(running, show=show)
    if not interrupted or running.error is not None:
        return cast("Frame", running.result())
    figures = running.progress
    warn(
        f"Interrupted: {figures.finished:,} of {figures.total:,} distinct rows are finished and saved. "
        "Run the same call to go on.",
        JobIncomplete,
    )
    return cast("Frame", running.frame())


def watch(job: Job, *, show: bool) -> bool:
    """Wait for the job while a bar is drawn here; whether the user stopped it."""
    if job.done:
        return False
    bar = _Bar(job.progress, job.name, show=show)
    presses = 0
    try:
        while True:
            try:
                while not job.wait(LOOK_S):
                    bar.draw()
                    job.warn_if_needed()
                bar.draw()
                break
            except KeyboardInterrupt:
                presses += 1
                if presses > 2:
                    raise
                job.cancel(drain_s=DRAIN_S if presses == 1 else 0.0)
    finally:
        bar.close()
    return presses > 0


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
