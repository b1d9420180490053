"""R10: the stop button on a job in a real kernel: once, twice, three times."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from children import wait_for
from kernels import CELL_S, Kernel, kernel_environment, running_kernel

from deepseek_nb.sandbox import Sandbox

IN_FLIGHT = 8
ROWS = 120

SETUP = f"""
import warnings
import pandas as pd
import deepseek_nb as ds
warnings.simplefilter("always")
df = pd.DataFrame({{"n": range({ROWS})}})
"""
JOB = """
out = df.deepseek.apply("Return exactly: answer number {{n}}", job="stopped", max_tokens=50, progress=False)
"""


@contextlib.contextmanager
def kernel_of(server: Sandbox, folder: Path) -> Iterator[Kernel]:
    environment = kernel_environment(server, folder, DEEPSEEK_NB_CONCURRENCY_MAX=str(IN_FLIGHT))
    with running_kernel(environment, folder) as kernel:
        cell = kernel.run(SETUP)
        assert cell.status == "ok", cell.error
        yield kernel


class Started:
    """The cell of the job, started and not waited for."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.id = kernel.client.execute(JOB)

    def press_stop(self) -> None:
        self.kernel.manager.interrupt_kernel()

    @property
    def over(self) -> bool:
        """Whether the cell has ended; its messages are read away."""
        with contextlib.suppress(Empty):
            while True:
                message = self.kernel.client.get_iopub_msg(timeout=0)
                ours = message["parent_header"].get("msg_id") == self.id
                if ours and message["content"].get("execution_state") == "idle":
                    return True
        return False

    def reply(self) -> dict[str, Any]:
        """The reply of the cell that has ended."""
        while True:
            reply = self.kernel.client.get_shell_msg(timeout=CELL_S)
            if reply["parent_header"].get("msg_id") == self.id:
                content: dict[str, Any] = reply["content"]
                return content


def statuses(kernel: Kernel) -> dict[str, int]:
    found: dict[str, int] = kernel.value("{k: int(v) for k, v in out['status'].value_counts().items()}")
    return found


@pytest.mark.slow
def test_once_what_is_in_flight_comes_in_and_the_rest_is_for_the_next_run(tmp_path):
    """A partial frame of everything paid; nothing is sent or paid after it; the same cell does the rest."""
    with Sandbox(first_token_s=0.5, count="estimate") as server, kernel_of(server, tmp_path) as kernel:
        cell = Started(kernel)
        wait_for(lambda: len(server.log.complete) >= IN_FLIGHT, 60)
        cell.press_stop()
        wait_for(lambda: cell.over, 60)
        assert cell.reply()["status"] == "ok"
        counts = statuses(kernel)
        sent = len(server.log)
        assert counts["done"] == len(server.log.complete) == sent, "not all that was paid is in the frame"
        assert counts["pending"] == ROWS - counts["done"] > 0
        time.sleep(1.0)
        assert (len(server.log), server.in_flight) == (sent, 0), "something was sent after the cell had ended"
        again = kernel.run(JOB)
        assert again.status == "ok"
        assert statuses(kernel) == {"done": ROWS}
        assert len(server.log) == ROWS
        assert server.log.answered_twice() == {}


def test_twice_hangs_up_on_what_is_in_flight(tmp_path):
    """Requests that would take a minute end at the second press; the frame comes back, all pending."""
    with Sandbox(first_token_s=60, count="estimate") as server, kernel_of(server, tmp_path) as kernel:
        cell = Started(kernel)
        wait_for(lambda: server.in_flight == 1, 60)  # the first row goes alone
        cell.press_stop()
        time.sleep(0.7)
        assert not cell.over, "the first press hung up"
        pressed = time.monotonic()
        cell.press_stop()
        wait_for(lambda: cell.over, 60)
        assert time.monotonic() - pressed < 8
        assert cell.reply()["status"] == "ok"
        assert statuses(kernel) == {"pending": ROWS}
        wait_for(lambda: server.in_flight == 0)
        assert len(server.log) == 1
        assert server.log[0].aborted


def test_three_times_is_a_keyboard_interrupt(tmp_path):
    """Where even putting its books in order takes too long (another process holds the file)."""
    with Sandbox(first_token_s=60, count="estimate") as server, kernel_of(server, tmp_path) as kernel:
        cell = Started(kernel)
        wait_for(lambda: server.in_flight == 1, 60)
        lock = sqlite3.connect(tmp_path / "data" / "jobs.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        try:
            for _ in range(3):
                assert not cell.over
                cell.press_stop()
                time.sleep(1.0)
        finally:
            lock.close()
        wait_for(lambda: cell.over, 60)
        reply = cell.reply()
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        wait_for(lambda: server.in_flight == 0)
        assert len(server.log) == 1
