"""Jobs in a real kernel: cells that return, await, block and are interrupted, and kernels that end."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels import Cell, Kernel, eventually, kernel_environment, running_kernel

from deepseek_nb.sandbox import Sandbox

ROWS = 60
SETUP = f"""
import asyncio, time
import pandas as pd
import deepseek_nb as ds
df = pd.DataFrame({{"n": range({ROWS})}})
"""
SUBMIT = 'job = ds.submit(df, "Return exactly: answer number {{n}}", job="cells", max_tokens=50)'


@contextlib.contextmanager
def kernel_of(server: Sandbox, folder: Path) -> Iterator[Kernel]:
    environment = kernel_environment(server, folder, DEEPSEEK_NB_CONCURRENCY_MAX="4")
    with running_kernel(environment, folder) as kernel:
        assert kernel.run(SETUP).status == "ok"
        yield kernel


@pytest.fixture
def server() -> Iterator[Sandbox]:
    with Sandbox(first_token_s=0.2, count="estimate") as running:
        yield running


def test_the_cell_returns_and_the_job_goes_on_in_later_cells(server, tmp_path):
    """Figures move between cells; pause and resume act at once; nothing is printed into other cells."""
    with kernel_of(server, tmp_path) as kernel:
        assert kernel.run(SUBMIT).status == "ok"
        assert eventually(lambda: len(server.log.complete) >= 4)
        assert kernel.value("[job.status, job.done]") == ["running", False]
        assert kernel.value("job.pause()") is None
        assert eventually(lambda: server.in_flight == 0)
        sent = len(server.log)
        cell = kernel.run("time.sleep(0.5)")
        assert cell.kinds == ["execute_input"], "something was printed from the background"
        assert len(server.log) == sent
        kernel.run("job.resume()")
        assert kernel.value("job.result()['status'].value_counts().to_dict()") == {"done": ROWS}
        assert len(server.log) == ROWS


def waits(cell: Cell, server: Sandbox) -> bool:
    """Whether the cell has come to the line that waits, some answers ago."""
    if "stream" not in cell.kinds:
        return False
    before = len(server.log.complete)
    return eventually(lambda: len(server.log.complete) >= before + 4)


@pytest.mark.parametrize("wait", ["await job", "job.result()"])
def test_an_interrupt_of_a_waiting_cell_is_quick_short_and_leaves_the_job(server, tmp_path, wait):
    """Idle within 100 ms or so, one line of our own, the cell fails, the job runs on to its end."""
    with kernel_of(server, tmp_path) as kernel:
        kernel.run(SUBMIT)
        cell = kernel.run(f"print('waits')\n{wait}", interrupt_when=lambda cell: waits(cell, server))
        print(f"{wait}: interrupt to idle {cell.interrupt_to_idle_s * 1000:.0f} ms")
        assert cell.status == "error"
        assert len(cell.error["traceback"]) == 1, cell.error
        assert "StillRunning: the job 'cells' goes on" in cell.error["traceback"][0]
        assert "job.cancel()" in cell.error["traceback"][0]
        assert cell.interrupt_to_idle_s < 0.2
        assert kernel.value("job.status") == "running"
        assert kernel.value("len(await job)") == ROWS
        assert len(server.log) == ROWS


def test_an_awaiting_cell_leaves_the_kernels_loop_to_others(server, tmp_path):
    """A task of another cell keeps ticking while the cell waits for the job."""
    with kernel_of(server, tmp_path) as kernel:
        kernel.run(
            "ticks = []\n"
            "async def tick():\n"
            "    while True:\n"
            "        ticks.append(time.monotonic())\n"
            "        await asyncio.sleep(0.02)\n"
            "ticking = asyncio.create_task(tick())"
        )
        kernel.run(SUBMIT)
        cell = kernel.run("began = time.monotonic(); out = await job; ended = time.monotonic()")
        assert cell.status == "ok"
        meanwhile = kernel.value("[t for t in ticks if began < t < ended]")
        assert len(meanwhile) > 40
        assert max(b - a for a, b in itertools.pairwise(meanwhile)) < 0.3


def test_a_kernel_that_is_shut_down_with_a_job_ends_soon_and_the_next_one_goes_on(server, tmp_path):
    """As the front end does it: asked politely, it is gone before it would be killed."""
    with kernel_of(server, tmp_path) as kernel:
        kernel.run(SUBMIT)
        assert eventually(lambda: len(server.log.complete) >= 8)
        asked = time.monotonic()
        kernel.client.shutdown()
        assert eventually(lambda: not kernel.manager.is_alive(), 10)
        took_s = time.monotonic() - asked
    assert took_s < 2.5, "a front end kills after that"
    assert len(server.log) < ROWS
    assert len(server.log.complete) == len(server.log), "something that is paid was cut off"
    with kernel_of(server, tmp_path) as kernel:
        kernel.run(SUBMIT)
        assert kernel.value("job.result()['status'].value_counts().to_dict()") == {"done": ROWS}
    assert len(server.log) == ROWS
    assert server.log.answered_twice() == {}
