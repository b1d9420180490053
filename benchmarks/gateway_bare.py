"""The least that a gateway can be: Starlette on uvicorn that passes a body on through aiohttp.

python benchmarks/gateway_bare.py UPSTREAM      # prints its address
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def app(upstream: str) -> Starlette:
    """The app."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as app.state.session:
            yield

    async def chat(request: Request) -> Response:
        body = await request.body()
        headers = {"content-type": "application/json"}
        session = request.app.state.session
        async with session.post(f"{upstream}/chat/completions", data=body, headers=headers) as reply:
            return Response(await reply.read(), reply.status, media_type="application/json")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])], lifespan=lifespan)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app(sys.argv[1]), access_log=False, log_level="warning", loop="asyncio")
    uvicorn.Server(config).run([listener])
