"""One call from a cell: the work in the background loop, what is shown in the main thread.

The cell waits on a queue that carries the answer's pieces and the call's events. An interrupt
cancels the request, which ends its bill. :func:`follow` does the same for a question that goes on in
the background while other cells run.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from deepseek_nb.core.chat import Answer
from deepseek_nb.notebook.display import Screen

__all__ = ["Interrupted", "carry", "follow"]

LOOK_S = 0.25
"""How long the main thread waits at most without looking up: on Windows a wait cannot be interrupted."""
FOLLOW_S = 0.1


class Interrupted(KeyboardInterrupt):
    """The user stopped a cell. In a notebook it takes one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def carry(
    client: Any, start: Callable[..., Any], prompt: Any, options: Mapping[str, Any], screen: Screen
) -> Answer:
    """Ask ``prompt`` and show on ``screen`` what happens until the answer is there.

    ``start`` runs a coroutine function in the background loop. Raises what ended the call.
    """
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()
    errand = client.aio.prepare(prompt, **options, on_delta=news.put, on_event=news.put)
    work = start(client.atake, errand)
    try:
        work.add_done_callback(lambda _: news.put(None))
        while not _take_all(news, screen):
            screen.refresh()
        answer: Answer = work.result()
    finally:
        work.cancel()
    return answer


def _take_all(news: queue.SimpleQueue[Any], screen: Screen) -> bool:
    """Give the screen all there is, waiting for it while nothing is due; True at the end of the call."""
    due_s = screen.wait_s()
    try:
        item = news.get(timeout=LOOK_S if due_s is None else min(due_s, LOOK_S))
        while item is not None:
            screen.take(item)
            item = news.get_nowait()
    except queue.Empty:
        return False
    return True


async def follow(client: Any, prompt: Any, options: Mapping[str, Any], screen: Screen) -> Answer:
    """Ask ``prompt`` in this event loop, and keep ``screen`` up to date meanwhile. Raises what ended it."""
    # everything happens in this one thread: what comes is shown at the next look
    errand = client.aio.prepare(prompt, **options, on_delta=screen.take, on_event=screen.take)
    work = asyncio.ensure_future(client.atake(errand))
    try:
        while not work.done():
            await asyncio.wait([work], timeout=FOLLOW_S)
            screen.refresh()
        answer: Answer = work.result()
        return answer
    finally:
        if not work.done():
            work.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
