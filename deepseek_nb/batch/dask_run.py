"""A job whose rows are sharded over a Dask cluster, through joblib: each shard is a run of its own.

A shard is a stretch of the job's rows in the order that the server's cache likes. It travels as JSON, with
all that a worker needs and no key, and is worked off there by the usual engine in one event loop. A worker on
the submitter's machine works on the submitter's own ledger and store; one elsewhere has its own, and sends
back what became of its rows. A worker that is killed has its shard given to another one by Dask.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from deepseek_nb.adapters.journal import ItemRow, Journal
from deepseek_nb.adapters.owners import boot_name
from deepseek_nb.adapters.queued import DASK
from deepseek_nb.adapters.settings import LOOPBACK_HOSTS, Settings, parse_duration_s
from deepseek_nb.batch.call import user_of
from deepseek_nb.batch.frames_io import FrameForm
from deepseek_nb.batch.job import Job, Prepared
from deepseek_nb.batch.kept_spec import spec_of
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.queue_run import QueueRun, error_of
from deepseek_nb.batch.ready import Ready, hours_of, job_budget, job_run, standing, written_down
from deepseek_nb.batch.rows import kept_rows
from deepseek_nb.batch.run import error_record
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import ConfigError, DeepSeekError, JobMismatch

__all__ = ["DaskRun", "Shard", "cluster_cores", "work_shard"]

FEWEST_ROWS = 16
"""A shard of fewer rows costs more to begin than to work off."""
SHARDS_A_CORE = 4
"""So many, so that a fast worker takes more of them, and a killed one loses less."""
LEASE_S = 60.0
LOOK_S = 0.5
STOPPING_S = 3.0
"""How much longer than the draining a shard may take to come back."""
INSTALL = 'Install it with: pip install "deepseek_nb[dask]"'


def cluster_cores() -> int:
    """How many shards the current Dask client's cluster works on at a time.

    Raises ConfigError where Dask is not installed or there is no client.
    """
    try:
        client = _distributed().get_client()
    except ValueError:
        raise ConfigError(
            "There is no Dask cluster to work on.",
            hint="Make a client first: from dask.distributed import Client; Client() for this machine, "
            "Client('scheduler:8786') for a cluster.",
        ) from None
    return max(1, int(sum(client.ncores().values())))


def _distributed() -> Any:
    try:
        import distributed
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"backend='dask' needs the package {missing.name}, which is not installed.", hint=INSTALL
        ) from None
    return distributed


@dataclass(frozen=True, slots=True)
class Shard:
    """A stretch of a job's rows, for a Dask worker anywhere. Plain JSON; no key is in it."""

    job: str
    number: int
    ask: Mapping[str, Any]
    """What the job asks: its ``meta``."""
    options: Mapping[str, Any]
    """Of its call."""
    rows: Sequence[tuple[str, str]]
    """Key and body of each row."""
    priority: int
    base_url: str
    route: str | None
    data_dir: str
    """The submitter's."""
    boot: str
    """The submitter's machine, since it was started."""
    concurrency_max: int
    budget_share: float
    """Of the job's budget, for a worker with another ledger: its part of what is left."""
    orders: str
    """The Dask variable in which the submitter says "go", "pause" or "stop"."""
    shares: bool
    """Whether the submitter shares its answers through Redis."""
    redis_url: str | None
    """Where that is, if nothing but the address stands in it; else the workers have to know."""
    redis_keep_s: float

    def at_home(self) -> bool:
        """Whether this process reaches the submitter's own ledger, and not one of the same name."""
        file = Path(self.data_dir) / "jobs.db"
        if self.boot != boot_name() or not file.exists():
            return False
        with Journal(file) as journal:
            there = journal.queued.get(self.job)
        return there is not None and there.put == self.orders

    def redis(self) -> dict[str, Any]:
        """The submitter's Redis as settings; none where its address leads elsewhere from this machine."""
        if self.redis_url is None or (self.boot != boot_name() and _is_near(self.redis_url)):
            return {}
        return {"redis_url": self.redis_url, "redis_keep_s": self.redis_keep_s}


def _is_near(redis_url: str) -> bool:
    """Whether that address is one of the machine that says it."""
    url = urlsplit(redis_url)
    return url.scheme == "unix" or url.hostname in LOOPBACK_HOSTS


def _bare_url(settings: Settings) -> str | None:
    """The address of Redis, if no user, password or option is in it: those are never sent to a worker."""
    url = "" if settings.redis_url is None else settings.redis_url.reveal()
    return None if not url or "@" in url or "?" in url else url


class DaskRun(QueueRun):
    """Works off the rows ``keys`` of one job on the cluster of the current Dask client."""

    def __init__(
        self,
        journal: Journal,
        job: str,
        pending: Sequence[str],
        progress: Progress,
        *,
        bodies: Mapping[str, str],
        ask: Mapping[str, Any],
        options: Mapping[str, Any],
        priority: int,
        client: Client,
    ) -> None:
        super().__init__(journal, job, pending, progress, budget_usd=options.get("budget_usd"))
        self.put.set()
        self._bodies = bodies
        self._ask = ask
        self._options = options
        self._priority = priority
        self._client = client
        self._orders = f"deepseek_nb-{uuid.uuid4().hex}"

    async def run(self) -> None:
        """Until every row is done or failed, or the job is stopped."""
        working = asyncio.create_task(asyncio.to_thread(self._work))
        told = "go"
        try:
            while not working.done() and not self._given_up:
                wanted = "stop" if self._left or self._ending is not None else "go"
                wanted = "pause" if wanted == "go" and not self._wanted else wanted
                if wanted != told:
                    told = wanted
                    await asyncio.to_thread(self._order, wanted)
                    self.note_pause(queued=wanted != "pause")
                await self.look()
                await asyncio.wait({working, asyncio.create_task(self.rest())}, return_when="FIRST_COMPLETED")
            if working.done():
                working.result()
            await self.look()
        finally:
            if not working.done():
                await asyncio.to_thread(self._order, "stop")

    @property
    def _given_up(self) -> bool:
        """Whether the workers had their time to stop."""
        return self._ending is not None and time.monotonic() > self._ending + STOPPING_S

    def _order(self, order: str) -> None:
        _distributed().Variable(self._orders).set(order)

    def _work(self) -> None:
        """In a thread: hand out the shards, and take what comes back."""
        self.journal.reap(self.job)
        self.journal.queued.remove(self.job)
        self.journal.queued.put(self.job, DASK, put=self._orders, priority=self._priority, options={})
        orders = _distributed().Variable(self._orders)
        orders.set("go")
        shards = [json.dumps(asdict(shard)) for shard in self._shards(cluster_cores())]
        try:
            import joblib  # 0.1 s and more

            with joblib.parallel_config(backend="dask"):
                parallel = joblib.Parallel(n_jobs=-1, batch_size=1, return_as="generator_unordered")
                # text, and no object: joblib would scatter it, and a killed worker take its copy with it
                for told in parallel(joblib.delayed(work_shard)(shard) for shard in shards):
                    self._take(json.loads(told), orders)
        finally:
            self.journal.queued.remove(self.job)
            orders.delete()

    def _shards(self, cores: int) -> Iterator[Shard]:
        settings = self._client.settings
        keys = list(self.pending)
        size = max(FEWEST_ROWS, math.ceil(len(keys) / (cores * SHARDS_A_CORE)))
        count = math.ceil(len(keys) / size)
        at_once = min(cores, count)
        unspent = 1.0
        if self._budget_usd is not None:  # a budget of nothing is none: with the least of it nothing is sent
            unspent = max(1e-9, 1 - self._began_usd / self._budget_usd)
        for number in range(count):
            chosen = keys[number * size : (number + 1) * size]
            yield Shard(
                job=self.job,
                number=number,
                ask=self._ask,
                options=self._options,
                rows=[(key, self._bodies[key]) for key in chosen],
                priority=self._priority,
                base_url=settings.base_url,
                route=settings.route,
                data_dir=str(settings.data_dir),
                boot=boot_name(),
                concurrency_max=max(1, settings.concurrency_max // at_once),
                budget_share=unspent / count,
                orders=self._orders,
                shares=self._client.aio.redis is not None and self._options.get("cache") is not False,
                redis_url=_bare_url(settings),
                redis_keep_s=settings.redis_keep_s,
            )

    def _take(self, told: dict[str, Any], orders: Any) -> None:
        """Write down what became of a shard's rows, where the worker could not; stop for what stopped it."""
        if told["rows"]:
            rows = {row["key"]: row for row in told["rows"]}
            items = self.journal.lease_among(self.job, list(rows), LEASE_S)
            self.journal.add_spend(self.job, told["spent_usd"], told["unknown_usd"])
            done = [item for item in items if rows[item.key]["state"] == "d"]
            failed = [item for item in items if rows[item.key]["state"] == "f"]
            self.journal.ack_many([(item, rows[item.key]["answer_json"], 0.0) for item in done])
            self.journal.fail_many([(item, rows[item.key]["error_json"]) for item in failed])
        if told["error"] is not None and self.stopped_by is None:
            self.stopped_by = error_of(told["error"])
            orders.set("stop")


def work_shard(shard_json: str) -> str:
    """In a Dask worker: work off one shard; gives, as JSON, what its submitter does not see in the ledger."""
    told = json.loads(shard_json)
    shard = Shard(**told)
    given: dict[str, Any] = {
        "base_url": shard.base_url,
        "route": shard.route,
        "concurrency_max": shard.concurrency_max,
        **shard.redis(),
    }
    at_home = shard.at_home()
    if at_home:
        given["data_dir"] = shard.data_dir
    answer: dict[str, Any] = {"rows": [], "spent_usd": 0.0, "unknown_usd": 0.0, "error": None}
    try:
        with Client(**{name: value for name, value in given.items() if value is not None}) as client:
            _work(shard, client, answer, at_home=at_home)
    except DeepSeekError as error:
        answer["error"] = error_record(error)
    return json.dumps(answer)


def _work(shard: Shard, client: Client, answer: dict[str, Any], *, at_home: bool) -> None:
    try:
        client.settings.require_credentials()
    except ConfigError as error:
        error.hint = (
            "A key is never sent to a worker: set DEEPSEEK_API_KEY in the environment in which the Dask "
            "workers are started. Nothing was sent."
        )
        raise
    if shard.shares and client.aio.redis is None:
        raise ConfigError(
            "The submitter shares its answers through Redis, and this Dask worker does not.",
            hint="An address with a password, or of the submitter's own machine, is not sent to a worker: "
            "set DEEPSEEK_NB_REDIS_URL in the environment in which the Dask workers are started. Nothing was "
            "sent.",
        )
    job = _job(shard, client, at_home=at_home)
    last = "go"
    while not job.wait(LOOK_S):
        order = _ordered(shard.orders)
        if order != last and order is not None:
            last = order
            {"go": job.resume, "pause": job.pause, "stop": job.cancel}[order]()
    job.warn_if_needed()
    if not at_home:
        job.frame()  # closes its books
        with Journal(client.settings.data_dir / "jobs.db") as journal:
            kept = journal.job(job.name)
            if kept is not None:
                answer |= {"spent_usd": kept.spent_usd, "unknown_usd": kept.unknown_usd}
            answer["rows"] = [row._asdict() for row in journal.rows(job.name) if row.state in ("d", "f")]
            # its answers are in the store; a worker beside this one may be at work on the same ledger
            journal.delete(job.name, wipe=False)
    if job.error is not None:
        raise job.error


def _ordered(orders: str) -> str | None:
    """What the submitter wants; None where that cannot be told now."""
    try:
        return str(_distributed().Variable(orders).get(timeout=LOOK_S))
    except (TimeoutError, OSError):
        return None


def _job(shard: Shard, client: Client, *, at_home: bool) -> Job:
    """The shard made ready and begun, as ``resume`` does it for all rows of a job."""
    spec, options, settings = spec_of(shard.ask), shard.options, client.settings
    name = shard.job if at_home else f"{shard.orders} {shard.number}"
    if json.loads(json.dumps(spec.meta(client.aio))) != shard.ask:
        raise JobMismatch(
            f"The Dask worker would ask {shard.job!r} in another way than its submitter.",
            hint="Install the same release of deepseek_nb on all machines. Nothing was sent.",
        )
    with ExitStack() as undo:
        journal = undo.enter_context(Journal(settings.data_dir / "jobs.db"))
        before = journal.job(name)
        budget_usd = options.get("budget_usd")
        if budget_usd is not None and not at_home:
            budget_usd *= shard.budget_share
        budget = job_budget(client, budget_usd, journal, name, before)
        ttl = options.get("ttl")
        asking = spec.errands(
            client.aio,
            user_id=user_of(shard.job),
            priority=shard.priority,
            ttl_s=None if ttl is None else parse_duration_s(ttl),
            cache=options.get("cache"),
            budget=budget,
            fallback=options.get("fallback"),
        )
        keys = [key for key, _ in shard.rows]
        rows = kept_rows([body for _, body in shard.rows], spec.form)
        items = () if at_home else [(key, body, shard.priority) for key, body in shard.rows]
        written_down(journal, name, spec, client, items)
        progress, pending = standing(journal, name, keys, budget, retry_failed=False)
        ready = Ready(client, journal, name, spec, asking, rows, keys, pending, progress)
        run = job_run(
            ready, patience=options.get("patience"), hours=hours_of(client, options.get("when"), spec.model)
        )
        form = FrameForm(pd.DataFrame(), ())
        made = Prepared(
            *(name, client, journal, run, budget, bool(pending)),
            *(_no_frame, form, ("shard", name), partial(_job, shard, client, at_home=at_home)),
        )
        job = Job(made)
        undo.pop_all()
    return job


def _no_frame(_: Iterable[ItemRow]) -> pd.DataFrame:
    """A shard has no frame: its rows go back to the submitter's."""
    return pd.DataFrame()
