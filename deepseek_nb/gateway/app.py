"""The gateway as an ASGI app: which route does what, and how errors are said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deepseek_nb.gateway.account import balance, listing, one_model
from deepseek_nb.gateway.bodies import read_body
from deepseek_nb.gateway.compute import compute, stream
from deepseek_nb.gateway.config import GatewayConfig
from deepseek_nb.gateway.desk import Desk
from deepseek_nb.gateway.front import ClientGone, Front, error_reply, note_of
from deepseek_nb.gateway.jobs import JobRoom
from deepseek_nb.gateway.monitor import Gauge, Monitor
from deepseek_nb.gateway.refusals import ApiError
from deepseek_nb.gateway.replies import compact
from deepseek_nb.gateway.status import StatusRoom, gauges_of
from deepseek_nb.gateway.talk import chat
from deepseek_nb.gateway.tokens import LONGEST_FORM, Caller, Doorkeeper
from deepseek_nb.gateway.webhook import Bell

__all__ = ["create_app"]

Handler = Callable[[Request, "Rooms", Caller], Awaitable[Response]]


class Rooms:
    """What the routes use, made in the event loop that serves."""

    def __init__(self, config: GatewayConfig, monitor: Monitor, doorkeeper: Doorkeeper) -> None:
        self.desk = Desk(config, monitor)
        self.jobs = JobRoom(self.desk)
        self.status = StatusRoom(self.desk, doorkeeper, asyncio.get_running_loop().time())
        now = asyncio.get_running_loop().time
        self.bell = (
            None if config.webhook is None else Bell(config.webhook, lambda: self.status.notices(now()))
        )
        monitor.gauges = lambda: (*gauges_of(self.desk), *self._queues())

    def _queues(self) -> Iterator[Gauge]:
        queued = {name: float(count) for name, count in self.jobs.left.items()}
        if self.bell is not None:
            told = {"sent": float(self.bell.sent), "lost": float(self.bell.lost)}
            yield "alarms_posted", "Alarms that were delivered, or given up.", "result", told
        yield "queued", "Questions of queued batches without an answer.", "tenant", queued

    async def aclose(self) -> None:
        """Close them."""
        if self.bell is not None:
            await self.bell.aclose()
        await self.jobs.aclose()
        await self.desk.aclose()


class _Routes:
    """The routes of one app."""

    def __init__(self, config: GatewayConfig, monitor: Monitor) -> None:
        self._config = config
        self._monitor = monitor
        self._doorkeeper = Doorkeeper(config)
        self._rooms: Rooms | None = None

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Open the client when the server starts, close it when it ends."""
        self._rooms = Rooms(self._config, self._monitor, self._doorkeeper)
        try:
            yield
        finally:
            rooms, self._rooms = self._rooms, None
            await rooms.aclose()

    def rest(self) -> None:
        """The server begins to end: nothing more is asked of the queue."""
        if self._rooms is not None:
            self._rooms.jobs.rest()

    @property
    def rooms(self) -> Rooms:
        """The rooms, while the server runs."""
        assert self._rooms is not None  # noqa: S101 (no request comes before the lifespan begins)
        return self._rooms

    def table(self) -> list[Route]:
        """Which path is answered by what."""
        ask = ["POST"]
        return [
            *self._both("/chat/completions", "chat", lambda r, h, c: chat(r, h.desk, c), ask),
            *self._both("/models", "models", lambda r, h, c: listing(r, h.desk, c)),
            *self._both("/models/{model:path}", "models", lambda r, h, c: one_model(r, h.desk, c)),
            *self._both("/user/balance", "balance", lambda _, h, c: balance(h.desk, c)),
            self._route("/v1/compute", "compute", lambda r, h, c: compute(r, h.desk, h.jobs, c), ask),
            self._route("/v1/jobs", "jobs", lambda _, h, c: h.jobs.listing(c)),
            self._route("/v1/jobs/{job}", "jobs", lambda r, h, c: h.jobs.one(r, c)),
            self._route("/v1/jobs/{job}", "jobs", lambda r, h, c: h.jobs.drop(r, c), ["DELETE"]),
            self._route("/v1/stream", "stream", lambda r, h, c: stream(r, h.desk, c), ask),
            Route("/oauth/token", self._named("token", self._token), methods=ask),
            Route("/healthz", self._named("healthz", self._healthz)),
            Route("/openapi.json", self._named("openapi", self._openapi)),
            Route("/metrics", self._named("metrics", self._metrics)),
            Route("/status.json", self._named("status", self._figures)),
            *(
                Route(path, self._named("status", self._page(name)))
                for path, name in (
                    ("/", "status.html"),
                    ("/status", "status.html"),
                    ("/status.css", "status.css"),
                    ("/status.js", "status.js"),
                )
            ),
        ]

    def _both(
        self, path: str, name: str, handler: Handler, methods: list[str] | None = None
    ) -> tuple[Route, Route]:
        return self._route(path, name, handler, methods), self._route(f"/v1{path}", name, handler, methods)

    def _route(self, path: str, name: str, handler: Handler, methods: list[str] | None = None) -> Route:
        """A route that takes a token."""

        async def endpoint(request: Request) -> Response:
            caller = self._doorkeeper.admit(request.headers.get("authorization"))
            note_of(request).tenant = caller.tenant.name
            return await handler(request, self.rooms, caller)

        return Route(path, self._named(name, endpoint), methods=methods)

    @staticmethod
    def _named(
        name: str, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def named(request: Request) -> Response:
            note_of(request).route = name
            return await endpoint(request)

        return named

    # -- routes that take no token, or another one

    async def _token(self, request: Request) -> Response:
        body = await read_body(request, LONGEST_FORM)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and kind != "application/x-www-form-urlencoded":
            raise ApiError(415, "Expected a form: application/x-www-form-urlencoded", param="content-type")
        token = self._doorkeeper.issue(body, request.headers.get("authorization"))
        headers = {"cache-control": "no-store", "pragma": "no-cache"}
        return Response(compact(token), 200, headers, "application/json")

    async def _healthz(self, _: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def _openapi(self, _: Request) -> Response:
        return Response(_description(), media_type="application/json")

    async def _metrics(self, request: Request) -> Response:
        return self.rooms.status.metrics(request)

    async def _figures(self, request: Request) -> Response:
        return self.rooms.status.json(request, asyncio.get_running_loop().time())

    def _page(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        async def page(_: Request) -> Response:
            return self.rooms.status.page(name)

        return page


@cache
def _description() -> bytes:
    """``/openapi.json``, with the version of this package."""
    told = json.loads((files(__package__) / "page" / "openapi.json").read_bytes())
    told["info"]["version"] = version("deepseek_nb")
    return compact(told)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 (registered for it)
    return error_reply(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for it)
    said = {404: "There is no such address.", 405: "This address does not take that method."}
    message = said.get(error.status_code, error.detail)
    headers = error.headers or {}
    return error_reply(request, ApiError(error.status_code, message, code="no_route", headers=headers))


async def _client_gone(request: Request, _: Exception) -> Response:
    note_of(request).status = 499
    return Response(status_code=499)  # nobody reads it


async def _unexpected(request: Request, _: Exception) -> Response:
    note = note_of(request)
    message = f"The gateway failed. Tell whoever runs it this number: {note.request_id}"
    return error_reply(request, ApiError(500, message, kind="server_error", code="internal_error"))


def create_app(config: GatewayConfig) -> Front:
    """The app for an ASGI server; one process, one event loop."""
    monitor = Monitor(lambda: asyncio.get_running_loop().time())
    routes = _Routes(config, monitor)
    app = Starlette(
        routes=routes.table(),
        lifespan=routes.lifespan,
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            ClientGone: _client_gone,
            500: _unexpected,
        },
    )
    app.router.redirect_slashes = False
    return Front(app, monitor, rest=routes.rest)
