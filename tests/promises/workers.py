"""Real processes for the tests of the promises: forked from a server that has imported everything once."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tqdm import tqdm

from deepseek_nb.adapters.journal import Item, Journal
from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.batch.apply import apply
from deepseek_nb.batch.form import Layout
from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import DeepSeekError

QUESTION = "Return exactly: answer number "
MAX_TOKENS = 30

tqdm.get_lock()  # made once, before the forks: killed processes would leave theirs behind


@cache
def _processes() -> Any:
    """The context whose server has imported this module, and with it all the package."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["workers"])
    with pytest.MonkeyPatch.context() as patch:  # the server looks for modules where this process does
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        forkserver.ensure_running()
    return context


class Worker:
    """A process that runs ``work(*arguments)``, a function of this module; it can be killed."""

    def __init__(self, work: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        handle, name = tempfile.mkstemp(prefix="worker-", suffix=".json")
        os.close(handle)
        self._path = Path(name)
        self._process = _processes().Process(target=_run, args=(work, arguments, self._path), daemon=True)
        self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        self._process.kill()
        self._process.join()
        self._close()

    def wait(self, within_s: float = 100) -> int:
        """Its exit code; -9 where it was killed."""
        self._process.join(within_s)
        code = self._process.exitcode
        assert code is not None, f"not done within {within_s} s"
        self._close()
        return code

    def result(self, within_s: float = 100) -> dict[str, Any]:
        """What it returned; fails with its traceback."""
        self._process.join(within_s)
        code = self._process.exitcode
        assert code is not None, f"not done within {within_s} s"
        told: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8") or "{}")
        self._close()
        assert code == 0, told.get("trace", f"exit code {code}")
        return told

    def _close(self) -> None:
        self._process.close()
        self._path.unlink()


def _run(work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], path: Path) -> None:
    try:
        told = work(*arguments)
    except BaseException:
        path.write_text(json.dumps({"trace": traceback.format_exc()}), encoding="utf-8")
        raise
    path.write_text(json.dumps(told), encoding="utf-8")


def told(base_url: str, api_key: str, folder: Path, in_flight: int = 16) -> dict[str, Any]:
    """The settings of a client of the sandbox."""
    return {
        "base_url": base_url,
        "api_key": api_key,
        "data_dir": folder,
        "thinking": False,
        "concurrency_max": in_flight,
    }


def frame_of(rows: int) -> pd.DataFrame:
    """Row ``n`` asks for "answer number n"; the index is not the default one."""
    return pd.DataFrame({"n": range(rows)}, index=[f"row {n}" for n in range(rows)])


def ask_each(settings: dict[str, Any], count: int, in_flight: int) -> dict[str, Any]:
    """Ask the questions one by one, ``in_flight`` at a time, as single calls."""

    async def main() -> None:
        async with AsyncClient(**settings) as client:
            numbers = iter(range(count))

            async def worker() -> None:
                for n in numbers:
                    answer = await client.ask(f"{QUESTION}{n}", max_tokens=MAX_TOKENS, priority=2)
                    assert answer.text.endswith(f"answer number {n}"), answer.text

            await asyncio.gather(*[worker() for _ in range(in_flight)])

    asyncio.run(main())
    return {"said": "ok"}


def run_job(
    settings: dict[str, Any],
    rows: int,
    job: str,
    budget_usd: float | None = None,
    acknowledged: Path | None = None,
    layout: Layout = "auto",
) -> dict[str, Any]:
    """Ask the same questions as a job. ``acknowledged``: a file with a line for each answer that is safe.

    With ``layout="inline"`` they are the same to the letter, so that calls and jobs share their answers.
    """
    if acknowledged is not None:
        _tell_of_acknowledged(acknowledged)
    with Client(**settings) as client:
        try:
            out = apply(
                frame_of(rows),
                QUESTION + "{{n}}",
                job=job,
                client=client,
                progress=False,
                max_tokens=MAX_TOKENS,
                budget_usd=budget_usd,
                layout=layout,
            )
            said = "ok"
        except DeepSeekError as error:
            said, out = type(error).__name__, error.frame  # type: ignore[attr-defined]
    done = out["status"] == "done"
    for name, text in out.loc[done, "answer"].items():
        assert text.split()[-1] == str(name).split()[-1], (name, text)
    return {"said": said, "done": int(done.sum()), "rows": len(out)}


def _tell_of_acknowledged(path: Path) -> None:
    """Write "store KEY" and "job KEY" after the commit has returned: what a kill must not take back."""
    handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    put_soon, ack_soon = AnswerStore.put_soon, Journal.ack_soon

    def put(self: AnswerStore, key: str, text: str) -> asyncio.Future[None]:
        writing = put_soon(self, key, text)
        writing.add_done_callback(lambda done: tell(f"store {key}") if done.exception() is None else None)
        return writing

    def ack(self: Journal, item: Item, answer_json: str, cost_usd: float | None) -> asyncio.Future[bool]:
        writing = ack_soon(self, item, answer_json, cost_usd)
        writing.add_done_callback(lambda done: tell(f"job {item.key}") if done.result() else None)
        return writing

    def tell(what: str) -> None:
        os.write(handle, f"{what}\n".encode())

    AnswerStore.put_soon, Journal.ack_soon = put, ack  # type: ignore[method-assign]
