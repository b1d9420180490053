"""What ``deepseek-nb worker`` does, on whichever queue it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.queued import LEDGER
from deepseek_nb.batch.worker import GIVEN_UP, LedgerWorker
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import ConfigError

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
    raise _unknown(queue)


def dead_rows(queue: str, client: Client) -> list[tuple[str, str, str]]:
    """Rows that were given up: the job, the row as it is kept, and the reason."""
    if queue == LEDGER:
        file = client.settings.data_dir / "jobs.db"
        if not file.exists():
            return []
        with Journal(file) as journal:
            return [row for job in journal.jobs() for row in _dead_in(journal, job.name)]
    raise _unknown(queue)


def take_back(queue: str, client: Client, name: str) -> str:
    """Take a job out of its queue for good; what to say of it."""
    with Journal(client.settings.data_dir / "jobs.db") as journal:
        there = journal.queued.get(name)
        if there is None:
            raise ConfigError(f"The job {name!r} is in no queue.", hint="See jobs with: deepseek-nb jobs")
        if queue != LEDGER:
            raise _unknown(queue)
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


def _unknown(queue: str) -> ConfigError:
    return ConfigError(f"{queue!r} is no queue: give 'ledger' or the address of a RabbitMQ, amqp://host.")
