"""A queue with its submitter and real workers, each in a process of its own."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from workers import _processes

from deepseek_nb.batch.job import Job
from deepseek_nb.batch.submit import submit
from deepseek_nb.cli import main
from deepseek_nb.client.sync import Client
from deepseek_nb.sandbox import Sandbox

TEMPLATE = "Return exactly: answer number {{n}}"


class Bench:
    """A queue, who puts jobs into it, and who works on it.

    Workers on the ledger share its folder; those on a RabbitMQ have their own, as on other machines.
    """

    def __init__(
        self, kind: str, queue: str, sandbox: Sandbox, folder: Path, redis_url: str | None = None
    ) -> None:
        self.kind, self.queue, self.sandbox, self.folder = kind, queue, sandbox, folder
        self.redis_url = redis_url
        self.client = self.new_client()
        self.workers: list[Worker] = []

    def new_client(self) -> Client:
        return Client(
            base_url=self.sandbox.base_url,
            api_key=self.sandbox.api_key if self.kind == "ledger" else None,
            data_dir=self.folder / "submitter",
        )

    def submit(self, rows: int, job: str = "j", first: int = 0, **options) -> Job:
        given = {"client": self.client, "queue": self.queue, "max_tokens": 30} | options
        return submit(frame_of(rows, first), given.pop("template", TEMPLATE), job=job, **given)

    def worker(
        self, *words: str, concurrency: int = 4, key: str | None = None, base_url: str | None = None
    ) -> Worker:
        folder = "submitter" if self.kind == "ledger" else f"worker-{len(self.workers)}"
        environment = {
            "DEEPSEEK_NB_BASE_URL": base_url or self.sandbox.base_url,
            "DEEPSEEK_API_KEY": key or self.sandbox.api_key,
            "DEEPSEEK_NB_DATA_DIR": str(self.folder / folder),
            "DEEPSEEK_AMQP_URL": self.queue if self.kind == "rabbitmq" else "",
            "DEEPSEEK_NB_REDIS_URL": self.redis_url or "",
        }
        queue = "amqp" if self.kind == "rabbitmq" else "ledger"
        told = ["--queue", queue, "--concurrency", str(concurrency), *words]
        self.workers.append(Worker(told, environment))
        return self.workers[-1]

    @property
    def asked(self) -> list[str]:
        """The rows that the server answered, as often as it did."""
        return [record.question_hash for record in self.sandbox.log.chats if record.usable]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.client.close()


class Worker:
    """``deepseek-nb worker`` in a process of its own, forked from one that has imported everything."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        handle, name = tempfile.mkstemp(prefix="worker-", suffix=".txt")
        os.close(handle)
        self._said = Path(name)
        self._process = _processes().Process(target=_work, args=(words, environment, name), daemon=True)
        self._process.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def terminate(self) -> str:
        """SIGTERM, and what it said."""
        self._process.terminate()
        return self.end()

    def end(self, code: int = 0) -> str:
        """Wait for its end; what it said."""
        self._process.join(60)
        said = self._said.read_text(encoding="utf-8")
        assert "Traceback" not in said, said
        assert self._process.exitcode == code, said
        return said

    def close(self) -> None:
        if self._process.is_alive():
            self.kill()
        self._process.close()
        self._said.unlink()


def _work(words: list[str], environment: dict[str, str], said: str) -> None:
    os.environ.update(environment)
    handle = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.exit(main(["worker", *words]))


def frame_of(rows: int, first: int = 0) -> pd.DataFrame:
    """Row ``n`` asks for "answer number n"; the index is not the default one."""
    return pd.DataFrame({"n": range(first, first + rows)}, index=[f"row {first + n}" for n in range(rows)])


def check(out: pd.DataFrame, rows: int) -> None:
    """Every row is there, done, with its own answer."""
    assert len(out) == rows
    assert (out["status"] == "done").all(), out["error"].dropna().unique()
    for name, text in out["answer"].items():
        assert text == f"answer number {str(name).split()[-1]}"


def until(true: Callable[[], object], within_s: float = 60) -> None:
    end_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.02)
