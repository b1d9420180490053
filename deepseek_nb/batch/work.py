"""What ``deepseek-nb worker`` does, on whichever queue it is told."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.queued import LEDGER, Queued
from deepseek_nb.adapters.rabbitmq import Broker, BrokerLost, Delivery, broker_url, shown_url
from deepseek_nb.batch.broker_worker import BrokerWorker
from deepseek_nb.batch.given_up import GIVEN_UP
from deepseek_nb.batch.parcels import Row
from deepseek_nb.batch.worker import LedgerWorker
from deepseek_nb.client.portal import background
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret

T = TypeVar("T")

__all__ = ["Worker", "dead_rows", "take_back", "worker_of"]


class Worker(Protocol):
    """Works off a queue."""

    done: int
    """Rows that it finished."""

    def run(self) -> bool:
        """Work until the queue is empty, if that was asked for, or :meth:`stop`; False: work is left."""

    def stop(self) -> None:
        """Finish what is at the server and give the rest back."""


def worker_of(
    queue: str, client: Client, *, tell: Callable[[str], None], drain: bool, deliveries: int
) -> Worker:
    """A worker on that queue. Raises ConfigError for what is none."""
    if queue == LEDGER:
        return LedgerWorker(client, tell, drain=drain, deliveries=deliveries)
    return BrokerWorker(client, broker_url(queue), tell, drain=drain, deliveries=deliveries)


def dead_rows(queue: str, client: Client) -> list[tuple[str, str, str]]:
    """Rows that were given up: the job, the row as it is kept, and the reason."""
    if queue == LEDGER:
        file = client.settings.data_dir / "jobs.db"
        if not file.exists():
            return []
        with Journal(file) as journal:
            return [row for job in journal.jobs() for row in _dead_in(journal, job.name)]
    url, route = broker_url(queue), client.settings.route_name
    return _reached(_dead_letters, url, route)


def take_back(queue: str, client: Client, name: str) -> str:
    """Take a job out of its queue for good; what to say of it."""
    with Journal(client.settings.data_dir / "jobs.db") as journal:
        there = journal.queued.get(name)
        if there is None:
            raise ConfigError(f"The job {name!r} is in no queue.", hint="See jobs with: deepseek-nb jobs")
        if queue != LEDGER:
            url = broker_url(queue)
            if there.queue != shown_url(url.reveal()):
                raise ConfigError(f"The job {name!r} is in the queue {there.queue}.")
            _reached(_taken_back, url, there)
        journal.queued.remove(name)
    return f"{name} is out of the queue. Go on with: deepseek-nb jobs resume {name!r}"


def _dead_in(journal: Journal, name: str) -> list[tuple[str, str, str]]:
    if not journal.counts(name)["f"]:
        return []
    reasons: dict[str, str] = {}
    for row in journal.rows(name):
        told: Any = json.loads(row.error_json or "null")
        if isinstance(told, dict) and told.get("error") == GIVEN_UP:
            reasons[row.key] = str(told.get("message"))
    if not reasons:
        return []
    return [(name, each.body, reasons[each.key]) for each in journal.prompts(name) if each.key in reasons]


async def _dead_letters(url: Secret, route: str) -> list[tuple[str, str, str]]:
    async with Broker.open(url) as broker:
        queue = await broker.declare_rows(route)
        return [_dead_letter(delivery) for delivery in await broker.look(f"{queue}.dead")]


def _dead_letter(delivery: Delivery) -> tuple[str, str, str]:
    reason = str(delivery.headers.get("reason") or delivery.headers.get("x-first-death-reason") or "")
    try:
        row = Row.of(delivery.told())
    except ValueError:
        return "", delivery.body[:200].decode("utf-8", "replace"), reason
    return row.job, row.body, reason


async def _taken_back(url: Secret, there: Queued) -> None:
    async with Broker.open(url) as broker:
        await broker.unmark(there.put)
        await broker.delete_queue(await broker.declare_answers(there.answers))


def _reached(work: Callable[..., Awaitable[T]], *given: Any) -> T:
    try:
        return background.run(work, *given)
    except BrokerLost as why:
        raise ConfigError(str(why), hint="Start it, or correct the address.") from None
