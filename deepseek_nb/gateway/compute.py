"""``POST /v1/compute`` and ``POST /v1/stream``: a question, or a batch of them, without a chat around."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from deepseek_nb.core.wire import Delta
from deepseek_nb.gateway.asks import Ask, read_priority
from deepseek_nb.gateway.batches import Item, read_compute, told_of
from deepseek_nb.gateway.bodies import json_object, read_body
from deepseek_nb.gateway.desk import CacheWish, Call, Desk
from deepseek_nb.gateway.front import note_of, while_connected
from deepseek_nb.gateway.jobs import JobRoom
from deepseek_nb.gateway.live import ALIVE, ALIVE_EVERY_S, EventStream
from deepseek_nb.gateway.refusals import ApiError, bad_request
from deepseek_nb.gateway.replies import compact
from deepseek_nb.gateway.talk import answer_whole, fields_of, first_piece, headers_of, priority_of
from deepseek_nb.gateway.tokens import Caller

__all__ = ["compute", "stream"]


async def compute(request: Request, desk: Desk, jobs: JobRoom, caller: Caller) -> Response:
    """Answer ``POST /v1/compute``."""
    caller.require("compute")
    quota = desk.quotas[caller.tenant.name]
    quota.count()
    body = json_object(request, await read_body(request, desk.config.body_bytes_max))
    queued = body.pop("queue", None)
    if not isinstance(queued, bool | None):
        raise bad_request("queue is true or false.", "queue")
    asked = read_compute(body, batch_max=desk.config.batch_max)
    wish = CacheWish.of(request.headers.get("cache-control"))
    if queued:
        header = request.headers.get("x-priority")
        items = asked if isinstance(asked, list) else [Item(1, asked, body)]
        return await jobs.submit(
            caller, items, wish, None if header is None else read_priority(header, "x-priority")
        )
    if isinstance(asked, list):
        _refuse_long_lines(desk, caller, asked, request)
        quota.charge(len(asked) - 1)
        return await _batch(request, desk, caller, asked, wish)
    async with quota.place(), desk.call(caller.tenant, priority_of(request, asked), wish) as call:
        answer = await answer_whole(request, call)
        told = {"id": str(uuid.uuid4()), **told_of(call, answer)}
        return Response(compact(told), 200, headers_of(call), "application/json")


def _refuse_long_lines(desk: Desk, caller: Caller, items: list[Item], request: Request) -> None:
    """Raise a 429 where the line of some question is too long: nothing of the batch is asked then."""
    asked = [priority_of(request, item.ask) for item in items if isinstance(item.ask, Ask)]
    for model, priority in {(ask.model or desk.config.settings.model, ask.priority) for ask in asked}:
        if refusal := desk.load.refusal(model, desk.priority(caller.tenant, priority)):
            raise refusal


async def _batch(
    request: Request, desk: Desk, caller: Caller, items: list[Item], wish: CacheWish
) -> Response:
    """One result for each id. The tenant's last place stays free for its single questions."""
    quota, results = desk.quotas[caller.tenant.name], dict[str | int, dict[str, Any]]()
    waiting = iter(items)

    async def one(item: Item) -> dict[str, Any]:
        try:
            if isinstance(item.ask, ApiError):
                raise item.ask
            ask = priority_of(request, item.ask)
            # the batch was let in as a whole
            async with quota.place(wait=True), desk.call(caller.tenant, ask, wish, patient=True) as call:
                return {"id": item.id, **told_of(call, await call.whole())}
        except ApiError as error:
            return {"id": item.id, "error": {**error.told, "status": error.status}}

    async def worker() -> None:
        for item in waiting:
            results[item.id] = await one(item)

    async def all_of_them() -> None:
        workers = max(1, caller.tenant.concurrent - 1)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(workers, len(items))):
                group.create_task(worker())

    await while_connected(request, all_of_them)
    good = [result for result in results.values() if "error" not in result]
    costs = [result["cost_usd"] for result in good]
    summary = {
        "answered": len(good),
        "failed": len(results) - len(good),
        "cached": sum(result["cached"] for result in good),
        "cost_usd": None if None in costs else round(sum(costs), 12),
    }
    note_of(request).fields.update(summary)
    headers = {"x-cost-usd": "unknown" if None in costs else f"{sum(costs):.9f}"}
    return Response(compact({"results": list(results.values()), **summary}), 200, headers, "application/json")


async def stream(request: Request, desk: Desk, caller: Caller) -> Response:
    """Answer ``POST /v1/stream``: events ``delta``, ``restart``, then ``done`` or ``error``."""
    caller.require("compute")
    quota = desk.quotas[caller.tenant.name]
    quota.count()
    body = await read_body(request, desk.config.body_bytes_max)
    asked = read_compute(json_object(request, body), batch_max=desk.config.batch_max)
    if isinstance(asked, list):
        raise bad_request("A batch is not streamed; POST it to /v1/compute.", "batch_requests")
    ask = priority_of(request, asked)
    wish = CacheWish.of(request.headers.get("cache-control"))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(quota.place())
        call = await stack.enter_async_context(desk.call(caller.tenant, ask, wish, streamed=True))
        call.start()
        piece = await first_piece(request, call)
        known = piece is not None or call.answer is not None
        headers = headers_of(call) if known else {"x-priority": str(call.errand.lane)}
        return EventStream(_events(request, call, piece), stack.pop_all(), headers)
    raise AssertionError  # pragma: no cover (the stack swallows nothing)


async def _events(request: Request, call: Call, piece: Delta | None) -> AsyncGenerator[bytes, None]:
    written = False
    try:
        async for delta in call.deltas(piece, ALIVE_EVERY_S):
            if delta is None:
                yield ALIVE
            elif delta.restart:
                yield _event("restart", {})
            else:
                written = True
                parts = {"text": delta.text, "reasoning": delta.reasoning}
                yield _event("delta", {name: text for name, text in parts.items() if text})
        answer = await call.ended()
        if not written:
            yield _event("delta", {"text": answer.text})
        told = told_of(call, answer)
        yield _event("done", {"id": str(uuid.uuid4()), **told})
    except ApiError as error:
        note = note_of(request)
        note.code, note.status = error.code, error.status
        yield _event("error", {"error": error.told})
    finally:
        note_of(request).fields.update(fields_of(call))


def _event(kind: str, value: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + compact(value) + b"\n\n"
