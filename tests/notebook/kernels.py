"""Real kernels of this very Python, and what they say, message by message."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager

DISPLAYS = ("display_data", "update_display_data")
CELL_S = 60.0
CANARY_KEY = "sk-canary-5f1d7c0a9b3e"
"""The key in use: it must show nowhere."""


class ThisPython(KernelSpecManager):
    """Knows one kernel: the Python that runs the tests, whatever is installed beside it."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="this Python",
            language="python",
        )


def kernel_environment(sandbox: Any, folder: Path, **more: str) -> dict[str, str]:
    """The environment of a kernel that talks to the sandbox and keeps its files in ``folder``."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DEEPSEEK", "IPYTHON", "JPY_", "PYTEST", "COV_"))
    }
    return inherited | {
        "DEEPSEEK_API_KEY": sandbox.api_key,
        "DEEPSEEK_NB_BASE_URL": sandbox.base_url,
        "DEEPSEEK_NB_DATA_DIR": str(folder / "data"),
        "DEEPSEEK_NB_PYPROJECT": "off",
        "IPYTHONDIR": str(folder / "ipython"),
        **more,
    }


@dataclass
class Cell:
    """What came of one cell."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    reply: dict[str, Any] = field(default_factory=dict)
    interrupt_to_idle_s: float = 0.0
    asked: dict[str, Any] = field(default_factory=dict)
    """What it wanted typed in: the prompt, and whether it is a password."""

    @property
    def status(self) -> str:
        return str(self.reply["content"]["status"])

    @property
    def shown(self) -> list[dict[str, Any]]:
        """Displays and their updates, in order."""
        return [message for message in self.messages if message["msg_type"] in DISPLAYS]

    @property
    def kinds(self) -> list[str]:
        return [message["msg_type"] for message in self.messages]

    def texts(self, kind: str = "text/markdown") -> list[str]:
        return [m["content"]["data"][kind] for m in self.shown if kind in m["content"]["data"]]

    @property
    def facts(self) -> dict[str, Any]:
        """The metadata of the final state."""
        return dict(self.shown[-1]["content"]["metadata"].get("deepseek_nb", {}))

    @property
    def error(self) -> dict[str, Any]:
        (message,) = [m for m in self.messages if m["msg_type"] == "error"]
        return dict(message["content"])

    @property
    def streamed(self) -> str:
        """What was written to standard output and standard error."""
        return "".join(m["content"]["text"] for m in self.messages if m["msg_type"] == "stream")

    @property
    def next_cell(self) -> str | None:
        """What was put into the next cell."""
        texts = [p["text"] for p in self.reply["content"]["payload"] if p["source"] == "set_next_input"]
        return texts[-1] if texts else None

    @property
    def display_bytes(self) -> int:
        """What the displays weighed on the wire, envelopes included."""
        parts = ("header", "parent_header", "metadata", "content")
        return sum(
            len(json.dumps(message[part], default=str, ensure_ascii=False).encode())
            for message in self.shown
            for part in parts
        )


class Kernel:
    """A running kernel: run cells in it."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def run(
        self,
        code: str,
        *,
        interrupt_when: Callable[[Cell], bool] | None = None,
        typed: str | None = None,
    ) -> Cell:
        """Run a cell to its end; interrupt it once, as soon as ``interrupt_when`` holds.

        ``typed`` is what the user types in when the cell asks for it; None: nobody can be asked.
        """
        cell = Cell()
        message_id = self.client.execute(code, allow_stdin=typed is not None)
        if typed is not None:
            cell.asked = self.client.get_stdin_msg(timeout=CELL_S)["content"]
            self.client.input(typed)
        interrupted_s = 0.0
        while True:
            message = self.client.get_iopub_msg(timeout=CELL_S)
            if message["parent_header"].get("msg_id") != message_id:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
            if message["msg_type"] != "status":
                cell.messages.append(message)
            if interrupt_when is not None and not interrupted_s and interrupt_when(cell):
                self.manager.interrupt_kernel()
                interrupted_s = time.monotonic()
        cell.interrupt_to_idle_s = time.monotonic() - interrupted_s
        while cell.reply.get("parent_header", {}).get("msg_id") != message_id:
            cell.reply = self.client.get_shell_msg(timeout=CELL_S)
        return cell

    def value(self, expression: str) -> Any:
        """What an expression is in there; it must be plain JSON."""
        cell = self.run(f"import json as _json\nprint(_json.dumps({expression}))")
        assert cell.status == "ok", cell.error["evalue"]
        return json.loads("".join(m["content"]["text"] for m in cell.messages if m["msg_type"] == "stream"))


@contextmanager
def running_kernel(environment: dict[str, str], folder: Path) -> Iterator[Kernel]:
    """A fresh kernel in ``folder``, shut down at the end."""
    manager = KernelManager(kernel_name="this", kernel_spec_manager=ThisPython())
    manager.start_kernel(env=environment, cwd=str(folder))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=CELL_S)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def eventually(condition: Callable[[], bool], within_s: float = 5.0) -> bool:
    """Whether it comes true in time."""
    end_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True
