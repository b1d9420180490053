"""``/models`` and ``/user/balance``: what a tenant may ask, and what it may still spend."""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response

from deepseek_nb.core.errors import StoreFailed
from deepseek_nb.gateway.desk import Desk
from deepseek_nb.gateway.refusals import ApiError
from deepseek_nb.gateway.replies import compact
from deepseek_nb.gateway.tokens import Caller

__all__ = ["balance", "listing", "one_model"]

MAX_AGE = "private, max-age=604800"
"""A tenant's list is its own; it may keep it for seven days, and ask by its ETag before."""


async def listing(request: Request, desk: Desk, caller: Caller) -> Response:
    """Answer ``GET /models``."""
    models = await desk.catalogue.open_to(caller.tenant)
    return _kept(request, compact({"object": "list", "data": models}))


async def one_model(request: Request, desk: Desk, caller: Caller) -> Response:
    """Answer ``GET /models/ID``."""
    wanted = request.path_params["model"]
    for model in await desk.catalogue.open_to(caller.tenant):
        if model.get("id") == wanted:
            return _kept(request, compact(model))
    raise ApiError(404, f"There is no model {wanted[:80]!r} for you.", code="model_not_found", param="model")


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
