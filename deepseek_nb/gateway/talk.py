"""``/chat/completions``, whole and streamed, as OpenAI's clients and DeepSeek's know it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from deepseek_nb.core.chat import Answer
from deepseek_nb.core.wire import Delta
from deepseek_nb.gateway.asks import Ask, read_chat, read_priority
from deepseek_nb.gateway.bodies import json_object, read_body
from deepseek_nb.gateway.desk import CacheWish, Call, Desk
from deepseek_nb.gateway.front import note_of, while_connected
from deepseek_nb.gateway.live import ALIVE, ALIVE_EVERY_S, EventStream
from deepseek_nb.gateway.refusals import ApiError
from deepseek_nb.gateway.replies import ChunkWriter, Transcripts, answer_body, compact, price_text
from deepseek_nb.gateway.tokens import Caller

__all__ = ["answer_whole", "chat", "facts_of", "fields_of", "first_piece", "headers_of", "priority_of"]

HELD_S = 10.0
"""So long a stream's status waits for the first piece: until then an error has a status of its own."""


async def chat(request: Request, desk: Desk, caller: Caller) -> Response:
    """Answer ``POST /chat/completions``."""
    caller.require("compute")
    quota = desk.quotas[caller.tenant.name]
    quota.count()
    body = json_object(request, await read_body(request, desk.config.body_bytes_max))
    ask = read_chat(body)
    ask = priority_of(request, ask)
    wish = CacheWish.of(request.headers.get("cache-control"))
    if ask.stream:
        return await _streamed(request, desk, caller, ask, wish)
    async with quota.place(), desk.call(caller.tenant, ask, wish) as call:
        answer = await answer_whole(request, call)
        return Response(answer_body(answer), 200, headers_of(call), "application/json")


def priority_of(request: Request, ask: Ask) -> Ask:
    """The ask with the priority of the header ``X-Priority``, where its body names none."""
    header = request.headers.get("x-priority")
    if header is None:
        return ask
    asked = read_priority(header, "x-priority")
    return ask if ask.priority is not None else ask.with_priority(asked)


async def answer_whole(request: Request, call: Call) -> Answer:
    """The answer, while the client waits for it; noted for the log."""
    try:
        return await while_connected(request, call.whole)
    finally:
        note_of(request).fields.update(fields_of(call))


def facts_of(call: Call) -> dict[str, Any]:
    """What the gateway says of an answer."""
    return {
        "upstream": call.upstream,
        "cached": call.cached,
        "degraded": call.degraded,
        "cost_usd": None if call.cost_usd is None else round(call.cost_usd, 12),
        "priority": call.errand.lane,
    }


def headers_of(call: Call) -> dict[str, str]:
    """The same as headers. What a stream costs is not known when they are sent."""
    headers = {
        "x-upstream": call.upstream,
        "x-cache": "hit" if call.cached else "miss",
        "x-priority": str(call.errand.lane),
    }
    if call.answer is not None or call.cached:
        headers["x-cost-usd"] = price_text(call.cost_usd)
    if call.degraded:
        headers["x-degraded"] = "true"
    return headers


def fields_of(call: Call) -> dict[str, Any]:
    """The same for the log, and the model's tokens."""
    if call.answer is None:
        return {"upstream": call.upstream, "priority": call.errand.lane}
    usage = call.answer.usage
    counts = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    return {**facts_of(call), "model": call.answer.model, **counts, "attempts": call.answer.attempts}


async def first_piece(request: Request, call: Call) -> Delta | None:
    """The first piece of a started call, None where none comes for a while. Raises the error it ends with."""

    async def first() -> Delta | None:
        try:
            async with asyncio.timeout(HELD_S):
                piece = await call.pieces.get()
        except TimeoutError:
            return None
        if piece is None:  # ended, and nothing was written
            call.pieces.put_nowait(None)
            await call.ended()
        return piece

    return await while_connected(request, first)


async def _streamed(request: Request, desk: Desk, caller: Caller, ask: Ask, wish: CacheWish) -> Response:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(desk.quotas[caller.tenant.name].place())
        call = await stack.enter_async_context(desk.call(caller.tenant, ask, wish, streamed=True))
        call.start()
        piece = await first_piece(request, call)
        known = piece is not None or call.answer is not None
        headers = headers_of(call) if known else {"x-priority": str(call.errand.lane)}
        events = _events(request, call, ask, piece)
        return EventStream(events, stack.pop_all(), headers)
    raise AssertionError  # pragma: no cover (the stack swallows nothing)


async def _events(request: Request, call: Call, ask: Ask, piece: Delta | None) -> AsyncGenerator[bytes, None]:
    writer = ChunkWriter(call.errand.request.model, include_usage=ask.include_usage)
    told = Transcripts()
    if piece is None and call.answer is None:
        yield ALIVE
    yield writer.role()
    try:
        async for delta in call.deltas(piece, ALIVE_EVERY_S):
            if delta is None:
                yield ALIVE
            elif delta.restart:
                told.again()
            elif written := writer.piece(_new(told.add(delta))):
                yield written
        answer = await call.ended()
        if written := writer.piece(_new(told.rest(answer))):
            yield written
        yield writer.finish(answer, facts_of(call))
    except ApiError as error:
        note = note_of(request)
        note.code, note.status = error.code, error.status  # the status it would have been
        yield b"data: " + compact({"error": error.told}) + b"\n\n"
    finally:
        note_of(request).fields.update(fields_of(call))


def _new(delta: Delta | None) -> Delta:
    """What is sent next; None: it is not what was sent before."""
    if delta is not None:
        return delta
    raise ApiError(
        502,
        "The answer broke off after its beginning was sent, and the next one begins differently. Ask again.",
        kind="server_error",
        code="stream_broken",
    )
