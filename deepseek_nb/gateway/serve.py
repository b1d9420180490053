"""Runs the gateway: in front, or in a thread of its own."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

import uvicorn
from prometheus_client import disable_created_metrics

from deepseek_nb.core.errors import ConfigError, DeepSeekError
from deepseek_nb.gateway.app import create_app
from deepseek_nb.gateway.config import GatewayConfig, UpstreamEntry
from deepseek_nb.gateway.front import GRACE_S
from deepseek_nb.gateway.guard import GuardedProtocol
from deepseek_nb.gateway.local import local_models
from deepseek_nb.gateway.logs import log_to

__all__ = ["GatewayServer", "serve_forever", "summary"]

BACKLOG = 4096
IDLE_S = 75
"""A connection without a request is kept for so long: longer than clients and proxies keep theirs, or a
request could meet the end of its connection, and be lost."""


def summary(config: GatewayConfig) -> str:
    """What the file means, in a few lines; no secret is among them."""
    lines = [f"upstream {one.name}: {one.gguf or one.base_url}, {_role(one)}" for one in config.upstreams]
    if config.redis_url is not None:
        lines.append("answers are shared through Redis")
    if config.webhook is not None:
        lines.append("alarms are told by webhook")
    for tenant in config.tenants.values():
        day = "no daily budget" if tenant.budget_day_usd is None else f"${tenant.budget_day_usd:g} a day"
        models = ", ".join(tenant.models) or "all models"
        lines.append(
            f"tenant {tenant.name}: priority {tenant.priority} (at most {tenant.priority_max}), "
            f"{tenant.requests_per_second:g} requests/s, {tenant.concurrent} at once, {day}, {models}, "
            f"scopes {' '.join(tenant.scopes)}"
        )
    return "\n".join(lines)


def _role(upstream: UpstreamEntry) -> str:
    return f"weight {upstream.weight:g}" if upstream.model is None else f"stands in with {upstream.model}"


class _Server(uvicorn.Server):
    """Uvicorn's, with a word to others when it serves and when it begins to end."""

    def __init__(self, config: GatewayConfig, ready: Callable[[], object] = lambda: None) -> None:
        self._front = create_app(config)
        self._ready = ready
        super().__init__(
            uvicorn.Config(
                self._front,
                http=GuardedProtocol,
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=IDLE_S,
                timeout_graceful_shutdown=GRACE_S,
            )
        )

    def serve_on(self, listener: socket.socket) -> None:
        """Serve until told to end. Raises what it could not start for: ConfigError, if that is known."""
        try:
            self.run([listener])
        except SystemExit:
            if self.refused is None:
                raise
            raise self.refused from None

    @property
    def refused(self) -> DeepSeekError | None:
        """Why it did not start, where that can be said in a sentence."""
        return self._front.refused

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the files and listen."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, and end what is under way."""
        self._front.rest()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return _listener(host, port)
    except OSError as error:
        raise ConfigError(
            f"The gateway cannot listen on {host}, port {port}: {error.strerror or error}.",
            hint="Give another one with --port, or end what listens there.",
        ) from None


def _listener(host: str, port: int) -> socket.socket:
    told = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = told[0]
    # asyncio switches Nagle's wait off (40 ms an answer) only where the socket says that it is TCP
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family, kind, protocol))
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        stack.pop_all()
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_forever(
    config: GatewayConfig,
    *,
    host: str | None = None,
    port: int | None = None,
    announce: Callable[[str], object] = lambda _: None,
) -> None:
    """Serve in the foreground until SIGINT or SIGTERM; what is under way then is ended first.

    Logs go to standard error as lines of JSON. Raises ConfigError where the port is taken, or a file cannot
    be used; ``announce`` is called once it serves.
    """
    config = replace(config, host=host or config.host, port=config.port if port is None else port)
    with _listen(config.host, config.port) as listener, local_models(config) as found:
        log_to()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series of times beside every count
        told = f"The gateway listens on {_address(listener)} (Ctrl-C ends it)\n{summary(config)}"

        def ready() -> None:
            announce(told)
            sys.stdout.flush()

        server = _Server(found, ready)
        gc.collect()
        gc.freeze()  # a full collection of all that is loaded for good would stop every answer for 0.1 s
        server.serve_on(listener)


class GatewayServer:
    """A gateway in a thread of its own, as a context manager: for tests, demos and notebooks.

    >>> with GatewayServer(read_config("gateway.toml")) as gateway:       # doctest: +SKIP
    ...     print(gateway.base_url)
    """

    def __init__(self, config: GatewayConfig) -> None:
        self.config = self.running_config = config
        """As given; and with the addresses of its local models, once it runs."""
        self._server: _Server | None = None
        self._local = ExitStack()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        """Where it listens."""
        if self._listener is None:
            raise ConfigError("This gateway does not run.")
        return _address(self._listener)

    def start(self) -> Self:
        """Listen. Raises ConfigError where it cannot."""
        listener = _listen(self.config.host, self.config.port)
        try:
            self.running_config = self._local.enter_context(local_models(self.config))
            server = self._server = _Server(self.running_config)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self._thread = threading.Thread(
            target=server.run, args=([listener],), name="deepseek-gateway", daemon=True
        )
        self._thread.start()
        while not server.started:
            if not self._thread.is_alive():
                self._local.close()
                listener.close()
                raise server.refused or ConfigError("The gateway did not start; its log says why.")
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        """Stop listening, and end what is under way."""
        if self._thread is None or self._server is None:
            return
        self._server.should_exit = True
        self._thread.join()
        self._thread = None
        self._local.close()
        if self._listener is not None:
            self._listener.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
