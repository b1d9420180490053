"""A real kernel for ``notebook_experience.py``: runs cells and times every message."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from traitlets import default

CELL_S = 120.0
DISPLAYS = ("display_data", "update_display_data", "execute_result")
PARTS = ("header", "parent_header", "metadata", "content")


class ThisPython(KernelSpecManager):
    """Knows one kernel: the Python that runs this script."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The same for every name."""
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name=kernel_name,
            language="python",
        )


class ThisKernelManager(AsyncKernelManager):
    """Starts that kernel for nbclient."""

    @default("kernel_spec_manager")
    def _this_python(self) -> ThisPython:
        return ThisPython()


def environment(base_url: str, folder: Path, **more: str | None) -> dict[str, str]:
    """What a kernel is started with: this server, and files of its own. None leaves a variable out."""
    left_out = ("DEEPSEEK", "JPY_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    own: dict[str, str | None] = {
        "DEEPSEEK_NB_BASE_URL": base_url,
        "DEEPSEEK_NB_DATA_DIR": str(folder / "data"),
        "DEEPSEEK_NB_PYPROJECT": "off",
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        **more,
    }
    return inherited | {name: value for name, value in own.items() if value is not None}


@dataclass
class Done:
    """One cell that ran: what it said, and when. Times are this process's monotonic clock."""

    sent_s: float
    messages: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    idle_s: float = 0.0
    interrupted_s: float = 0.0
    status: str = ""

    @property
    def took_s(self) -> float:
        """From sending the cell until the kernel was idle."""
        return self.idle_s - self.sent_s

    @property
    def shown(self) -> list[tuple[float, dict[str, str]]]:
        """The MIME bundles of the displays, in order."""
        return [(at_s, m["content"]["data"]) for at_s, m in self.messages if m["msg_type"] in DISPLAYS]

    @property
    def answers(self) -> list[tuple[float, str]]:
        """The states of the answer's text that were shown."""
        return [(at_s, data["text/markdown"]) for at_s, data in self.shown if "text/markdown" in data]

    @property
    def lines(self) -> list[str]:
        """The lines on what is going on, each wording once."""
        told = [data["text/plain"] for _, data in self.shown if "text/markdown" not in data]
        return list(dict.fromkeys(told))

    @property
    def printed(self) -> str:
        """What was written to stdout and stderr."""
        return "".join(m["content"]["text"] for _, m in self.messages if m["msg_type"] == "stream")

    @property
    def error(self) -> dict[str, Any]:
        """The error's message; empty without one."""
        return next((m["content"] for _, m in self.messages if m["msg_type"] == "error"), {})

    @property
    def traceback(self) -> str:
        """The error as the notebook saves it."""
        return "\n".join(self.error.get("traceback", []))

    @property
    def failure(self) -> str:
        """Class, lines and status in a few words."""
        if not self.error:
            return f"no error / **{self.status}**"
        lines = len(self.traceback.splitlines())
        return f"{self.error['ename']}, {lines} line{'s' if lines > 1 else ''}, {self.status}"

    @property
    def display_bytes(self) -> int:
        """What the displays weighed on the wire."""
        return sum(wire_bytes(m) for _, m in self.messages if m["msg_type"] in DISPLAYS)


def wire_bytes(message: dict[str, Any]) -> int:
    """One message with its envelope."""
    return sum(len(json.dumps(message[part], default=str, ensure_ascii=False).encode()) for part in PARTS)


class Kernel:
    """A running kernel."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def run(self, code: str, *, interrupt_after_s: float | None = None) -> Done:
        """Run a cell to its end, and interrupt it then."""
        done = Done(time.monotonic())
        message_id = self.client.execute(code)
        while True:
            wait_s = CELL_S
            if interrupt_after_s is not None and not done.interrupted_s:
                wait_s = done.sent_s + interrupt_after_s - time.monotonic()
                if wait_s <= 0:
                    done.interrupted_s = time.monotonic()
                    self.manager.interrupt_kernel()
                    continue
            try:
                message = self.client.get_iopub_msg(timeout=wait_s)
            except queue.Empty:
                if wait_s == CELL_S:
                    raise
                continue
            if message["parent_header"].get("msg_id") != message_id:
                continue
            at_s = time.monotonic()
            if message["msg_type"] != "status":
                done.messages.append((at_s, message))
            elif message["content"]["execution_state"] == "idle":
                done.idle_s = at_s
                break
        reply: dict[str, Any] = {"parent_header": {}}
        while reply["parent_header"].get("msg_id") != message_id:
            reply = self.client.get_shell_msg(timeout=CELL_S)
        done.status = reply["content"]["status"]
        return done

    def value(self, expression: str) -> Any:
        """What an expression is in there; it must be plain JSON."""
        done = self.run(f"import json as _json\nprint(_json.dumps({expression}))")
        if done.error:
            raise RuntimeError(done.traceback)
        return json.loads(done.printed)

    def rss_mb(self) -> float:
        """The memory of the kernel's process."""
        status = "[line for line in open('/proc/self/status') if line.startswith('VmRSS')][0].split()[1]"
        return int(self.value(status)) / 1024


@contextmanager
def kernel(with_environment: dict[str, str], folder: Path, *, load: bool = True) -> Iterator[Kernel]:
    """A fresh kernel, with the extension loaded."""
    manager = KernelManager(kernel_name="this", kernel_spec_manager=ThisPython())
    manager.start_kernel(env=with_environment, cwd=str(folder), stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=CELL_S)
        running = Kernel(manager, client)
        if load:
            running.run("%load_ext deepseek_nb")
        yield running
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
