"""Where a job's rows are worked on, if not in this process: the ledger's queue, or a RabbitMQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from deepseek_nb.adapters.queued import DASK, LEDGER
from deepseek_nb.adapters.rabbitmq import Broker, BrokerLost, broker_url, shown_url
from deepseek_nb.batch.broker_run import BrokerRun
from deepseek_nb.batch.call import JobCall
from deepseek_nb.batch.dask_run import DaskRun, cluster_cores
from deepseek_nb.batch.parcels import Row
from deepseek_nb.batch.queue_run import LedgerRun, QueueRun
from deepseek_nb.batch.ready import Ready
from deepseek_nb.client.errand import Errand
from deepseek_nb.client.portal import background
from deepseek_nb.client.sync import Client
from deepseek_nb.core.budget import worst_case_usd
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret
from deepseek_nb.core.tokens import estimate_request_tokens

__all__ = ["BrokerPlace", "DaskPlace", "LedgerPlace", "Place", "backend_of", "options_of", "queue_of"]

CARRIED = ("budget_usd", "patience", "when", "ttl", "cache", "fallback")
"""What a worker has to know of a call, beside what the ledger holds of the job."""


class Place(Protocol):
    """A queue that a job can be handed to."""

    @property
    def name(self) -> str:
        """As the ledger keeps it: without a password."""

    def check(self, call: JobCall) -> None:
        """Raise ConfigError where this call cannot be done there."""

    def run(self, call: JobCall, ready: Ready) -> QueueRun:
        """Hand over the rows that are left; gives what looks on."""


def queue_of(queue: str | None) -> Place | None:
    """The queue of that name or address; None for none. Raises ConfigError for what is neither."""
    if queue is None:
        return None
    if queue == LEDGER:
        return LedgerPlace()
    if isinstance(queue, str) and queue.partition(":")[0] in ("amqp", "amqps"):
        return BrokerPlace(broker_url(queue))
    raise ConfigError(
        f"queue is {LEDGER!r} or the address of a RabbitMQ (amqp://host), not {queue!r}.",
        hint="Nothing was sent.",
    )


def backend_of(backend: str | None) -> Place | None:
    """The cluster of that name; None for none. Raises ConfigError for an unknown one."""
    if backend is None:
        return None
    if backend == DASK:
        return DaskPlace()
    raise ConfigError(f"backend is {DASK!r}, not {backend!r}.", hint="Nothing was sent.")


def options_of(call: JobCall) -> dict[str, Any]:
    """The options of the call that travel with the job, as plain JSON. Raises ConfigError for a route.

    A route may carry a key, and a key goes into no queue.
    """
    names = call.fallback
    if names is not None:
        names = [names] if isinstance(names, str) else list(names)
        if not all(isinstance(name, str) for name in names):
            raise ConfigError(
                "A queue carries no Route: it may have a key in it.",
                hint="Name models in fallback=, or leave it out and give the workers' client its routes.",
            )
    told = {name: getattr(call, name) for name in CARRIED} | {"fallback": names}
    return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True, slots=True)
class LedgerPlace:
    """The ledger's own queue: for workers with the same data folder."""

    @property
    def name(self) -> str:
        """As the ledger keeps it."""
        return LEDGER

    def check(self, call: JobCall) -> None:
        """Raise ConfigError for a fallback that no ledger may keep."""
        options_of(call)

    def run(self, call: JobCall, ready: Ready) -> QueueRun:
        """Hand over the rows that are left; gives what looks on."""
        return LedgerRun(
            *(ready.journal, ready.name, ready.pending, ready.progress),
            options=options_of(call),
            priority=call.priority,
        )


@dataclass(frozen=True, slots=True)
class BrokerPlace:
    """A RabbitMQ: for workers anywhere."""

    url: Secret

    @property
    def name(self) -> str:
        """Its address, without user and password."""
        return shown_url(self.url.reveal())

    def check(self, call: JobCall) -> None:
        """Raise ConfigError where it is not there, or for what workers elsewhere cannot keep."""
        options_of(call)
        refused = {
            "rows_per_request": call.rows_per_request > 1,
            "when": call.when == "offpeak",
        }
        for option, given in refused.items():
            if given:
                raise ConfigError(
                    f"{option}= cannot be kept by workers on a RabbitMQ.",
                    hint="Leave it out, or use queue='ledger'. Nothing was sent.",
                )
        try:
            background.run(self._reach)
        except BrokerLost as why:
            raise ConfigError(str(why), hint="Start it, or correct the address. Nothing was sent.") from None

    async def _reach(self) -> None:
        async with Broker.open(self.url):
            pass

    def run(self, call: JobCall, ready: Ready) -> QueueRun:
        """Hand over the rows that are left; gives what looks on."""
        client, asking, bodies = ready.client, ready.asking, ready.bodies()
        found, sent = ready.arranged()
        sent_as = None
        if asking.prefix is not None:
            sent_as = {"order": list(found.fields), "reach": found.reach}
        options, meta = options_of(call), ready.spec.meta(client.aio)

        def row_of(key: str, put: str, limit_usd: float | None) -> Row:
            return Row(ready.name, put, key, bodies[key], meta, options, sent_as, limit_usd)

        def worst_usd(key: str) -> float:
            return _worst_usd(asking(bodies[key]), client)

        if call.budget_usd is not None and sent:
            worst_usd(sent[0])  # raises where no price is known
        return BrokerRun(
            *(ready.journal, ready.name, sent, ready.progress),
            url=self.url,
            route=client.settings.route_name,
            row_of=row_of,
            options=options,
            priority=call.priority,
            worst_usd=None if call.budget_usd is None else worst_usd,
        )


def _worst_usd(errand: Errand, client: Client) -> float:
    """What a worker may spend on that row: at the dearest price to come, repairs included.

    Raises ConfigError where no price is known.
    """
    request, table, now = errand.request, client.aio.prices, client.aio.now_utc()
    price = client.aio.price_now(request.model)
    if price is None:
        raise ConfigError(
            f"No price is known for the model {request.model!r}, so a budget cannot be kept.",
            hint="Leave budget_usd out, or use a model of the price table.",
        )
    later = table.next_change(now)
    next_price = None if later is None else table.find(request.model, later)
    tokens, longest = estimate_request_tokens(request), request.max_tokens or errand.output_tokens
    worst = max(worst_case_usd(tokens, longest, each) for each in (price, next_price or price))
    return worst * (1 + client.settings.max_repairs)


@dataclass(frozen=True, slots=True)
class DaskPlace:
    """The cluster of the current Dask client."""

    @property
    def name(self) -> str:
        """What it is called."""
        return DASK

    def check(self, call: JobCall) -> None:
        """Raise ConfigError where there is no cluster, or for a fallback that must not travel."""
        options_of(call)
        cluster_cores()

    def run(self, call: JobCall, ready: Ready) -> QueueRun:
        """Shard the rows that are left over the cluster; gives what looks on."""
        _, sent = ready.arranged()
        return DaskRun(
            *(ready.journal, ready.name, sent, ready.progress),
            bodies=ready.bodies(),
            ask=ready.spec.meta(ready.client.aio),
            options=options_of(call),
            priority=call.priority,
            client=ready.client,
        )
