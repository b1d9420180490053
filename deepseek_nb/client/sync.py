"""Client: the same, blocking. It reaches the one async road through the background loop."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import anyio

from deepseek_nb.adapters.database import NotSaved
from deepseek_nb.adapters.settings import Settings, hidden
from deepseek_nb.client.aio import AsyncClient, Prompt
from deepseek_nb.client.errand import Errand
from deepseek_nb.client.portal import CANCELLED, Interrupt, background
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.metrics import Metrics
from deepseek_nb.core.notices import warn
from deepseek_nb.core.wire import Delta

__all__ = ["Client", "Stream"]


class Client:
    """The blocking client: for scripts and notebook cells, from any thread, also inside a running loop.

    Arguments as in :class:`~deepseek_nb.client.aio.AsyncClient`. An interrupt cancels the request. A forked
    child may use it, too, over connections of its own.

    >>> client = Client()                                     # doctest: +SKIP
    >>> client.ask("Why is the sky blue?").text               # doctest: +SKIP
    """

    def __init__(self, settings: Settings | None = None, *, fallback: Any = None, **arguments: Any) -> None:
        settings, arguments, fallback = hidden(settings), hidden(arguments), hidden(fallback, secret=False)
        self._aio = AsyncClient(settings, fallback=fallback, **arguments)
        self._warned = self._retired = False
        self._begin()
        background.close_at_end(self._aio)

    def _begin(self) -> None:
        """In this process: after a fork, who held the lock is not there, nor are those it was held for."""
        self._pid = os.getpid()
        self._guard = threading.Lock()
        self._holds = 0

    @property
    def aio(self) -> AsyncClient:
        """The async client behind this one; it belongs to the background loop."""
        if self._pid != os.getpid():
            self._begin()
            self._aio.begin_in_child()
            background.close_at_end(self._aio)
        return self._aio

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.aio.settings

    @property
    def budget(self) -> Budget:
        """What this client has spent, and may spend."""
        return self.aio.budget

    @property
    def metrics(self) -> Metrics:
        """Running figures: calls, hits, latencies, refusals."""
        return self.aio.metrics

    def ask(self, prompt: Prompt, **options: Any) -> Answer:
        """Ask one question and wait for the whole answer: see :meth:`AsyncClient.ask`."""
        return self.take(self.aio.prepare(prompt, **options))

    def take(self, errand: Errand) -> Answer:
        """Do a prepared errand; warns where it could not be kept (``NotSaved``), and at 80% of a budget."""
        answer = background.run(self.atake, errand)
        self.warn_if_needed()
        return answer

    async def atake(self, errand: Errand) -> Answer:
        """Do a prepared errand, in the background loop. Until it ends, :meth:`retire` closes nothing."""
        self.hold()
        try:
            return await self.aio.take(errand)
        finally:
            if self.let_go():
                with anyio.CancelScope(shield=True):
                    await self.aio.aclose()

    def warn_if_needed(self) -> None:
        """Say once that answers are in memory only, and why; and what :class:`AsyncClient` has to say."""
        self.aio.warn_if_needed()
        failed = self.aio.not_saved
        if failed is not None and not self._warned:
            self._warned = True
            warn(f"Answers could not be kept: {failed}", NotSaved)

    def stream(self, prompt: Prompt, **options: Any) -> Stream:
        """Ask one question and read the answer as it is written: see :meth:`AsyncClient.stream`."""
        return Stream(self, prompt, options)

    def models(self) -> list[dict[str, Any]]:
        """The models the server offers. Costs nothing."""
        return background.run(self.aio.models)

    def balance(self) -> dict[str, Any]:
        """The account's balance. Costs nothing."""
        return background.run(self.aio.balance)

    def kept(self, keys: Sequence[str], ttl_s: float | None = None) -> set[str]:
        """Those of ``keys`` that have an answer in the store, or in Redis; then it is in the store, too."""
        store = self.aio.store
        if store is None:
            return set()
        if self.aio.redis is None:
            return set(store.get_many(keys, ttl_s))
        return set(background.run(store.aget_many, keys, ttl_s))

    def hold(self) -> None:
        """Keep it open through :meth:`retire`, until :meth:`let_go`: a job or a question runs with it."""
        with self._guard:
            self._holds += 1

    def let_go(self) -> bool:
        """End a :meth:`hold`; True where it was the last one of a retired client: then close it."""
        with self._guard:
            self._holds -= 1
            return self._retired and not self._holds

    def retire(self) -> None:
        """Close it, as soon as nothing holds it."""
        with self._guard:
            self._retired = True
            held = self._holds > 0
        if not held:
            self.close()

    def close(self) -> None:
        """Close the connections and the store."""
        background.run(self.aio.aclose)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        made = vars(self).get("_aio")  # an error on the way there may show this object
        return "<Client>" if made is None else repr(made).replace("AsyncClient", "Client")


class Stream:
    """An answer being written: iterate for its pieces; ``answer`` is there after the last one."""

    def __init__(self, client: Client, prompt: Prompt, options: dict[str, Any]) -> None:
        self.answer: Answer | None = None
        self._client = client
        self._errand = client.aio.prepare(prompt, **options)

    def __iter__(self) -> Iterator[Delta]:
        pieces: queue.SimpleQueue[Delta | None] = queue.SimpleQueue()
        wanted = self._errand.on_delta

        def take(piece: Delta) -> None:
            pieces.put(piece)
            if wanted is not None:
                wanted(piece)

        work = background.start(self._client.atake, replace(self._errand, on_delta=take))
        work.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := _next(pieces)) is not None:
                yield piece
            self.answer = work.result()
            self._client.warn_if_needed()
        finally:
            work.cancel()


def _next(pieces: queue.SimpleQueue[Delta | None]) -> Delta | None:
    try:
        return pieces.get()
    except KeyboardInterrupt:
        raise Interrupt(CANCELLED) from None
