"""A real RabbitMQ of the tests' own: free ports, files in one folder, nothing shared with the machine's."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PLACES = "/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/sbin:/opt/homebrew/sbin"


def command() -> str | None:
    """RabbitMQ's start script; Debian's own wrapper would start it as another user."""
    return shutil.which("rabbitmq-server", path=f"{PLACES}:{os.environ.get('PATH', '')}")


class RabbitMQ:
    """``start()``, ``kill()``, and ``start()`` again: what was confirmed is there again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self._distribution, self._names = free_port(), free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._name_server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        script = command()
        assert script is not None
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.file.level = warning\n"
        )
        (self.folder / "plugins").write_text("[].\n")
        own = {
            "HOME": self.folder,
            "RABBITMQ_NODENAME": f"tests{self.port}@localhost",
            "RABBITMQ_DIST_PORT": self._distribution,
            "RABBITMQ_MNESIA_BASE": self.folder / "mnesia",
            "RABBITMQ_LOG_BASE": self.folder / "log",
            "RABBITMQ_CONFIG_FILE": self.folder / "rabbitmq",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "plugins",
            "RABBITMQ_PID_FILE": self.folder / "pid",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": self._names,
        }
        names = shutil.which("epmd")
        if names is not None and self._name_server is None:  # else Erlang starts one, and it stays
            self._name_server = subprocess.Popen([names, "-address", "127.0.0.1", "-port", str(self._names)])
        others = {name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")}
        said = self.folder / "said"
        with said.open("ab") as out:
            self._process = subprocess.Popen(
                [script],
                env=others | {name: str(value) for name, value in own.items()},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until_s = time.monotonic() + 90
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, said.read_text(errors="replace")
                assert time.monotonic() < until_s, said.read_text(errors="replace")
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        """Kill -9 it with all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it, and its name server."""
        self.kill()
        if self._name_server is not None:
            self._name_server.terminate()
            self._name_server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
