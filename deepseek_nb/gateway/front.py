"""What every request gets, whatever it asks: a number, a line in the log, its place in the counts."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepseek_nb.core.errors import DeepSeekError
from deepseek_nb.gateway.logs import log_request
from deepseek_nb.gateway.monitor import Monitor
from deepseek_nb.gateway.refusals import ApiError

__all__ = ["GRACE_S", "ClientGone", "Front", "Note", "error_reply", "note_of", "while_connected"]

T = TypeVar("T")
NOTE = "deepseek_nb.note"
CLIENT_GONE = 499
"""The status in log and counts of a request whose client went away, as nginx says it."""
ENDED = 503
"""The same of one that was cut because the gateway ended."""
GRACE_S = 10
"""What is under way when the gateway ends has so long to end."""


@dataclass(slots=True)
class Note:
    """What is known of one request, for its line in the log."""

    request_id: str
    began_s: float
    route: str = "other"
    tenant: str = ""
    status: int = 0
    code: str = ""
    """The error's."""
    fields: dict[str, object] = field(default_factory=dict)
    """More for the log: upstream, cache, cost_usd. Nothing of what was asked."""


class ClientGone(Exception):
    """The client hung up before its answer."""


class Front:
    """Around the app: numbers, times, counts and logs each request."""

    def __init__(self, app: ASGIApp, monitor: Monitor, rest: Callable[[], None]) -> None:
        self._app = app
        self._monitor = monitor
        self.rest = rest
        """Called when the server begins to end."""
        self.refused: DeepSeekError | None = None
        """Why the app did not start, where it can be said in a sentence: for whoever runs it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, self._without_trace(send))
            return
        note = scope[NOTE] = Note(uuid.uuid4().hex, time.monotonic())

        async def numbered(message: Message) -> None:
            if message["type"] == "http.response.start":
                note.status = note.status or message["status"]
                headers = message.setdefault("headers", [])
                headers.append((b"x-request-id", note.request_id.encode()))
                headers.append((b"x-content-type-options", b"nosniff"))
                if not any(name.lower() == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
            await send(message)

        try:
            await self._app(scope, receive, numbered)
        except asyncio.CancelledError:  # the gateway ends, and the answer took longer than it waits
            begun, note.status, note.code = note.status, ENDED, "gateway_ended"
            if begun:
                raise
            await error_reply(Request(scope), _ended())(scope, receive, numbered)
        except BaseException:
            note.status = note.status or 500
            raise
        finally:
            seconds = time.monotonic() - note.began_s
            self._monitor.ended(note.tenant, note.route, note.status or CLIENT_GONE, seconds, note.code)
            log_request(
                note.request_id, note.tenant, note.route, note.status, seconds, note.code, note.fields
            )

    def _without_trace(self, send: Send) -> Send:
        """``send`` for the start of the app: an error that is a sentence is kept in place of its trace."""

        async def told(message: Message) -> None:
            error = sys.exc_info()[1]  # Starlette tells of it while it handles it
            if message["type"] == "lifespan.startup.failed" and isinstance(error, DeepSeekError):
                self.refused = error
                message = {"type": message["type"], "message": ""}
            await send(message)

        return told


def _ended() -> ApiError:
    message = "The gateway ended before the answer came. Ask again."
    return ApiError(ENDED, message, kind="server_error", code="gateway_ended", retry_after_s=1.0)


def note_of(request: Request) -> Note:
    """The note of that request."""
    note: Note = request.scope[NOTE]
    return note


def error_reply(request: Request, error: ApiError) -> Response:
    """The answer that says so."""
    note_of(request).code = error.code
    return Response(error.body(), error.status, error.headers, "application/json")


async def while_connected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """Do ``work()``; where the client hangs up, cancel it and raise :class:`ClientGone`.

    The body has to be read before.
    """
    doing = asyncio.ensure_future(work())
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientGone
    finally:
        gone.cancel()
        doing.cancel()
        await asyncio.wait([doing, gone])
        if not doing.cancelled():
            doing.exception()
