"""R11: killed after every k-th row and run again, a job gives the frame of a run that nobody disturbed."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from workers import MAX_TOKENS, QUESTION, Worker, frame_of, run_job, told

from deepseek_nb.adapters.journal import Item, Journal
from deepseek_nb.batch.apply import apply
from deepseek_nb.client.sync import Client
from deepseek_nb.sandbox import Sandbox

ROWS = 90
IN_FLIGHT = 4


def die_after(rows: int, *job: Any) -> dict[str, Any]:
    """Run the job, and kill -9 this process as soon as so many rows have been acknowledged in it."""
    ack_soon, count = Journal.ack_soon, [0]

    def ack(self: Journal, item: Item, answer_json: str, cost_usd: float | None) -> asyncio.Future[bool]:
        writing = ack_soon(self, item, answer_json, cost_usd)
        writing.add_done_callback(acknowledged)
        return writing

    def acknowledged(_: asyncio.Future[bool]) -> None:
        count[0] += 1
        if count[0] == rows:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.ack_soon = ack  # type: ignore[method-assign]
    return run_job(*job)


def frame_from(server: Sandbox, folder: Path) -> pd.DataFrame:
    with Client(**told(server.base_url, server.api_key, folder, IN_FLIGHT)) as client:
        return apply(
            frame_of(ROWS), QUESTION + "{{n}}", job="j", client=client, progress=False, max_tokens=MAX_TOKENS
        )


@pytest.mark.parametrize("every", [1, 7, 40])
def test_killed_after_every_kth_row_the_frame_is_the_same(tmp_path, every):
    """Same index, same columns, same answers, no error; each life finished what it had acknowledged."""
    most = 6  # lives that end early; the last one may finish
    with Sandbox(first_token_s=0.02, count="estimate") as server:
        undisturbed = frame_from(server, tmp_path / "other")
        job = (told(server.base_url, server.api_key, tmp_path / "data", IN_FLIGHT), ROWS, "j")
        done = 0
        for _ in range(most):
            life = Worker(die_after, every, *job)
            code = life.wait()
            with Journal(tmp_path / "data") as journal:
                before, done = done, journal.counts("j")["d"]
            assert done >= min(before + every, ROWS), "an acknowledged row is not done"
            if code == 0:
                break
            assert code == -signal.SIGKILL
        out = frame_from(server, tmp_path / "data")
    pd.testing.assert_index_equal(out.index, undisturbed.index)
    columns = ["answer", "status", "error"]
    pd.testing.assert_frame_equal(out[columns], undisturbed[columns])
    assert list(out.columns) == list(undisturbed.columns)
    assert (out["status"] == "done").all()
