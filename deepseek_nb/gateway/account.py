"""``/models`` and ``/user/balance``: what a tenant may ask, and what it may still spend."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from deepseek_nb.core.errors import DeepSeekError, StoreFailed
from deepseek_nb.gateway.config import Tenant
from deepseek_nb.gateway.desk import Desk
from deepseek_nb.gateway.refusals import ApiError, from_error
from deepseek_nb.gateway.replies import compact
from deepseek_nb.gateway.tokens import Caller

__all__ = ["Catalogue", "balance"]

FRESH_S = 3600.0
"""The gateway itself asks its upstream again after so long."""
MAX_AGE = "private, max-age=604800"
"""A tenant's list is its own; it may keep it for seven days, and ask by its ETag before."""


class Catalogue:
    """The upstream's models, asked for at most once an hour; an old list serves while it is down."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._models: list[dict[str, Any]] = []
        self._asked_s = float("-inf")
        self._asking = asyncio.Lock()

    async def models(self, tenant: Tenant) -> list[dict[str, Any]]:
        """Those that are open to the tenant. Raises ApiError."""
        now = asyncio.get_running_loop().time
        async with self._asking:
            if now() - self._asked_s > FRESH_S:
                try:
                    self._models = await self._desk.client.models()
                    self._asked_s = now()
                except DeepSeekError as error:
                    if not self._models:
                        raise from_error(error) from None
        return [model for model in self._models if tenant.may_ask(str(model.get("id")))]

    async def listing(self, request: Request, caller: Caller) -> Response:
        """Answer ``GET /models``."""
        models = await self.models(caller.tenant)
        return _kept(request, compact({"object": "list", "data": models}))

    async def one(self, request: Request, caller: Caller) -> Response:
        """Answer ``GET /models/ID``."""
        wanted = request.path_params["model"]
        for model in await self.models(caller.tenant):
            if model.get("id") == wanted:
                return _kept(request, compact(model))
        raise ApiError(
            404, f"There is no model {wanted[:80]!r} for you.", code="model_not_found", param="model"
        )


def _kept(request: Request, body: bytes) -> Response:
    etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"etag": etag, "cache-control": MAX_AGE, "vary": "Authorization"}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(None, 304, headers)
    return Response(body, 200, headers, "application/json")


async def balance(desk: Desk, caller: Caller) -> Response:
    """Answer ``GET /user/balance``: the tenant's own day, in the form of DeepSeek's balance.

    Without a limit there is no amount to tell: ``balance_infos`` is empty.
    """
    try:
        day = desk.purses[caller.tenant.name].standing()
    except StoreFailed:
        raise ApiError(
            503, "What was spent cannot be read now.", kind="server_error", code="spending_unreadable"
        ) from None
    infos = []
    if day.left_usd is not None:
        amount = f"{day.left_usd:.2f}"
        infos.append(
            {
                "currency": "USD",
                "total_balance": amount,
                "granted_balance": "0.00",
                "topped_up_balance": amount,
            }
        )
    told = {
        "is_available": day.left_usd is None or day.left_usd > 0,
        "balance_infos": infos,
        "budget": {
            "tenant": caller.tenant.name,
            "spent_today_usd": round(day.spent_usd, 9),
            "limit_day_usd": day.limit_usd,
            "starts_anew": day.starts_anew.isoformat(),
        },
    }
    return Response(compact(told), 200, media_type="application/json")
