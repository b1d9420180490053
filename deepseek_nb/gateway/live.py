"""A streamed answer: events as the pieces come, comments while nothing comes, an end when the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

__all__ = ["ALIVE", "ALIVE_EVERY_S", "EventStream"]

ALIVE = b": keep-alive\n\n"
ALIVE_EVERY_S = 10.0
STALLED_S = 60.0
"""A client that takes nothing for so long is gone."""


class EventStream(Response):
    """Sends the events of an iterator as they come, and closes ``stack`` at the end, whichever it is."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], stack: AsyncExitStack, headers: dict[str, str]
    ) -> None:
        super().__init__(None, 200, {**headers, "cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, the events, the end."""
        del scope
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            gone.cancel()
            sending.cancel()
            await asyncio.wait([sending, gone])
            if not sending.cancelled():
                sending.exception()
            await self._stack.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for event in events:
                async with asyncio.timeout(STALLED_S):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
