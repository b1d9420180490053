"""A real Redis of the test's own, on a socket in a directory of its own; with TLS on a port as well."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from certificates import self_signed


class RedisServer:
    """``redis-server`` without a file; it can be ended, frozen and started again at the same place.

    ``options`` are more of its command line.
    """

    def __init__(self, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed")
        self._program = program
        self.options = options
        self._folder = Path(tempfile.mkdtemp(prefix="nb-redis-"))  # a socket's path has to be short
        self.socket = self._folder / "s"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        options += self.options
        self._process = subprocess.Popen(
            [self._program, *options, "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until_s = time.monotonic() + 20
        while not self.socket.exists():
            assert self._process.poll() is None, "redis-server did not start"
            assert time.monotonic() < until_s
            time.sleep(0.01)
        return self

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def client(self, **options):
        """To look in, and to change what is there."""
        import redis

        return redis.Redis(unix_socket_path=str(self.socket), **options)

    def names(self, match: str = "*") -> list[str]:
        with self.client(decode_responses=True) as client:
            return client.keys(match)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class TlsRedis:
    """A Redis with a port that speaks TLS; the test looks in by its socket."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        self.folder = folder
        self.server = RedisServer()
        self.trust()

    def trust(self, name: str = "") -> None:
        """Make a new certificate, in a folder of that name, for the next start."""
        (self.folder / f"tls{name}").mkdir()
        self.pem, self.key = self_signed(self.folder / f"tls{name}")
        told = {"port": self.port, "cert-file": self.pem, "key-file": self.key, "ca-cert-file": self.pem}
        words = [word for option, value in told.items() for word in (f"--tls-{option}", str(value))]
        self.server.options = (*words, "--tls-auth-clients", "no")

    def url(self, query: str = "", host: str = "127.0.0.1") -> str:
        return f"rediss://{host}:{self.port}/0{query}"

    @property
    def trusting(self) -> str:
        return self.url(f"?ssl_ca_certs={self.pem}")
