"""A job made ready: what ``submit`` and ``resume`` share between the journal's rows and the run of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from deepseek_nb.adapters.journal import JobRow, Journal
from deepseek_nb.adapters.settings import parse_patience_s
from deepseek_nb.batch.call import arranged
from deepseek_nb.batch.hours import Hours, When
from deepseek_nb.batch.kept_spec import damage
from deepseek_nb.batch.packed_run import PackedRun
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.rows import Rows
from deepseek_nb.batch.run import JobRun
from deepseek_nb.batch.spec import Asking, JobSpec
from deepseek_nb.batch.waves import waves_of
from deepseek_nb.client.arguments import amount_usd
from deepseek_nb.client.sync import Client
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.errors import JobMismatch
from deepseek_nb.core.layout.arrange import Arrangement

__all__ = ["Ready", "hours_of", "job_budget", "job_run", "standing", "written_down"]


def hours_of(client: Client, when: When | None, model: str | None) -> Hours | None:
    """The hours that a job keeps; None for any hour."""
    settings = client.settings
    return Hours.of(
        when or settings.when, client.aio.prices, model or settings.model, lambda: client.aio.now_utc()
    )


def job_budget(
    client: Client, budget_usd: float | None, journal: Journal, name: str, before: JobRow | None
) -> Budget:
    """The job's budget; all processes at work on the job spend from one limit, kept in the journal."""
    budget_usd = amount_usd("budget_usd", budget_usd)
    return Budget(
        budget_usd,
        parent=client.budget,
        name="budget of the job",
        spent_usd=before.spent_usd if before else 0.0,
        unknown_usd=before.unknown_usd if before else 0.0,
        draw=None if budget_usd is None else partial(journal.draw, name, budget_usd),
    )


def written_down(
    journal: Journal, name: str, spec: JobSpec, client: Client, items: Iterable[tuple[str, str, int]]
) -> None:
    """Have the journal hold the job with these rows.

    Raises JobMismatch where the name is other work's, or what is kept of the job is damaged.
    """
    meta = spec.meta(client.aio)
    try:
        journal.open_job(name, spec.digest(client.aio), meta, items)
    except JobMismatch as error:
        there, differs = journal.job(name), set(getattr(error, "differs", ()))
        if there is not None and (damaged := damage(there)) is not None:
            raise damaged from None
        if there is not None and differs and differs <= {"layout", "block"}:
            error.hint = f"To go on with it, pass {_as_begun(there)}. Other work needs another job name."
        raise


def _as_begun(there: JobRow) -> str:
    """The options that send rows as this job did. One without a layout is older than layouts are."""
    layout = there.meta.get("layout", "inline")
    block = f", cache_block={there.meta['block']}" if "block" in there.meta else ""
    return f"layout={layout!r}{block}"


def standing(
    journal: Journal, name: str, keys: Sequence[str], budget: Budget, *, retry_failed: bool
) -> tuple[Progress, list[str]]:
    """Where a job stands when a run begins: its figures, and the keys that are left."""
    if retry_failed:
        journal.retry_failed(name)
    states = {item.key: item.state for item in journal.rows(name)}
    done = sum(states.get(key) == "d" for key in keys)
    failed = sum(states.get(key) == "f" for key in keys)
    progress = Progress(total=len(keys), done=done, failed=failed, already=done + failed)
    progress.money = budget
    return progress, [key for key in keys if states.get(key) not in ("d", "f")]


@dataclass(frozen=True, slots=True)
class Ready:
    """A job whose rows are written down: what a run of it needs.

    ``keys`` are those of ``rows.prompts``, ``pending`` those that are left of them.
    """

    client: Client
    journal: Journal
    name: str
    spec: JobSpec
    asking: Asking
    rows: Rows
    keys: Sequence[str]
    pending: Sequence[str]
    progress: Progress

    def bodies(self) -> dict[str, str]:
        """Each row as it is written down, by its key."""
        return dict(zip(self.keys, self.rows.prompts, strict=True))

    def arranged(self) -> tuple[Arrangement, list[str]]:
        """How the server's cache likes the rows that are left, and their keys in that order.

        ``asking`` sends them that way from then on.
        """
        place_of = {key: place for place, key in enumerate(self.keys)}
        found = arranged(self.rows, [place_of[key] for key in self.pending], self.asking, self.spec.block)
        return found, [self.pending[place] for place in found.sent]


def job_run(ready: Ready, *, patience: float | str | None, hours: Hours | None) -> JobRun:
    """The run of the rows that are left, in the order that the server's cache likes."""
    client, spec, asking = ready.client, ready.spec, ready.asking
    found, sent = ready.arranged()
    options: dict[str, Any] = {
        "patience_s": client.settings.patience_s if patience is None else parse_patience_s(patience),
        "check": spec.schema.parse if spec.schema else None,
        "hours": hours,
    }
    given = (client.aio, ready.journal, ready.name, sent, asking, ready.progress)
    if asking.together is not None:
        many = spec.rows_per_request
        return PackedRun(*given, rows_per_request=many, make_pack=asking.together.pack, **options)
    return JobRun(*given, waves=waves_of(sent, [len(wave) for wave in found.waves], asking), **options)
