"""The sandbox: a busy DeepSeek on loopback, with its own thread and event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

from deepseek_nb.sandbox.http import Connection
from deepseek_nb.sandbox.log import RequestLog
from deepseek_nb.sandbox.script import FaultRule
from deepseek_nb.sandbox.service import Service
from deepseek_nb.sandbox.setup import Setup

__all__ = ["Sandbox"]

HOST = "127.0.0.1"
BACKLOG = 4096


class Sandbox:
    """A simulation of the DeepSeek API over real sockets, on 127.0.0.1 only.

    Takes the options of :class:`~deepseek_nb.sandbox.setup.Setup` by name; an unknown one raises
    ValueError with the near name. Use it as a context manager (it runs in a thread of its own), as
    an async context manager (it runs in your event loop), or in the foreground with
    :meth:`serve_forever`. Every response carries ``x-deepseek-nb: simulation``.

    >>> with Sandbox(balance_usd="1.00") as sandbox:
    ...     sandbox.balance_usd
    Decimal('1.00')
    """

    def __init__(self, **options: Any) -> None:
        self.setup = Setup.of(options)
        self._service = Service(self.setup)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._port = self.setup.port

    # ----------------------------------------------------------------------------- what it shows

    @property
    def base_url(self) -> str:
        """Where it listens, such as ``http://127.0.0.1:43211``."""
        return f"http://{HOST}:{self._port}"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def api_key(self) -> str:
        """The key it takes."""
        return self.setup.api_key or "any"

    @property
    def balance_usd(self) -> Decimal | None:
        """What is left of the balance; None if it has no end. It can be set (a top-up)."""
        with self._service.lock:
            return self._service.account.balance_usd

    @balance_usd.setter
    def balance_usd(self, balance_usd: str | Decimal | None) -> None:
        with self._service.lock:
            self._service.account.balance_usd = None if balance_usd is None else Decimal(balance_usd)

    @property
    def log(self) -> RequestLog:
        """One record for each request that has ended."""
        return self._service.log

    @property
    def in_flight(self) -> int:
        """Requests that were let in and have no complete answer yet."""
        with self._service.lock:
            return self._service.in_flight

    @property
    def faults(self) -> Any:
        """The fault script; it can be replaced while the sandbox runs."""
        return self._service.faults

    @faults.setter
    def faults(self, faults: FaultRule | None) -> None:
        self._service.faults = faults

    # -------------------------------------------------------------------------- in your own loop

    async def start_here(self) -> None:
        """Listen, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        service = self._service

        def connect() -> Connection:
            return Connection(
                service.accept, service.clock, service.lock, self._connections, service.trace_id
            )

        self._server = await self._loop.create_server(connect, HOST, self._port, backlog=BACKLOG)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop_here(self) -> None:
        """Stop listening, cut all connections, and wait until they are gone."""
        if self._server is None:
            return
        self._server.close()
        self._service.stop()
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        for connection in list(self._connections):
            connection.reset()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._connections:  # noqa: ASYNC110  each goes within a turn of the loop
            await asyncio.sleep(0)
        await self._server.wait_closed()
        self._server = None
        self._service.log.close()

    async def __aenter__(self) -> Self:
        await self.start_here()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_here()

    # ------------------------------------------------------------------------- in its own thread

    def start(self) -> Self:
        """Listen, in a daemon thread of its own. Raises OSError if the port is taken."""
        if self._thread is not None:
            raise RuntimeError("This sandbox runs already.")
        started = threading.Event()
        trouble: list[BaseException] = []

        async def live() -> None:
            try:
                await self.start_here()
                self._stopped = asyncio.Event()
            except BaseException as error:
                trouble.append(error)
                raise
            finally:
                started.set()
            await self._stopped.wait()
            await self.stop_here()

        def run() -> None:
            with contextlib.suppress(OSError):
                asyncio.run(live())

        self._thread = threading.Thread(target=run, name="deepseek-sandbox", daemon=True)
        self._thread.start()
        started.wait()
        if trouble:
            self._thread.join()
            self._thread = None
            raise trouble[0]
        return self

    def stop(self) -> None:
        """Stop listening and cut all connections, hanging ones too; back within a second."""
        if self._thread is None or self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ----------------------------------------------------------------------------- in front

    def serve_forever(self, ready: Callable[[Sandbox], object] | None = None) -> None:
        """Listen in the foreground until SIGINT or SIGTERM; ``ready`` is called once it listens."""

        async def live() -> None:
            stopped = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                try:
                    loop.add_signal_handler(number, stopped.set)
                except (NotImplementedError, RuntimeError):  # Windows, or not the main thread
                    break
            await self.start_here()
            try:
                if ready is not None:
                    ready(self)
                await stopped.wait()
            finally:
                await self.stop_here()

        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(live())
