"""Which models there are: those that the first upstream lists, and those that the package knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.core.errors import DeepSeekError
from deepseek_nb.gateway.config import Tenant
from deepseek_nb.gateway.refusals import ApiError, bad_request, from_error

__all__ = ["Catalogue"]

FRESH_S = 3600.0
"""The upstream is asked for its list again after so long."""
RESTS_S = 10.0
"""A list is asked for at most so often, whatever comes of it."""


class Catalogue:
    """The upstream's models, asked for at most once an hour; an old list serves while it is down."""

    def __init__(self, client: AsyncClient, ask: Callable[[], Awaitable[list[dict[str, Any]]]]) -> None:
        self._client = client
        self._ask = ask
        self._models: list[dict[str, Any]] = []
        self._asked_s = float("-inf")
        self._told_s = float("-inf")
        self._failed: ApiError | None = None
        self._asking = asyncio.Lock()

    async def models(self) -> list[dict[str, Any]]:
        """All of them, as the upstream describes them. Raises ApiError where no list was ever told."""
        now = asyncio.get_running_loop().time
        async with self._asking:
            if now() - self._told_s > FRESH_S and now() - self._asked_s > RESTS_S:
                self._asked_s = now()
                try:
                    self._models, self._failed = await self._ask(), None
                    self._told_s = now()
                except DeepSeekError as error:
                    self._failed = from_error(error)
        if self._failed is not None and not self._models:
            raise self._failed
        return self._models

    async def open_to(self, tenant: Tenant) -> list[dict[str, Any]]:
        """Those that the tenant may ask. Raises ApiError."""
        return [model for model in await self.models() if tenant.may_ask(str(model.get("id")))]

    async def require(self, tenant: Tenant, model: str) -> None:
        """Raise a 403 for a model that is closed to the tenant, a 400 for one that nobody knows.

        What is kept for each model (a line, a row in a table) is then never made for a made-up name.
        """
        if not tenant.may_ask(model):
            raise ApiError(
                403,
                f"The model {model!r} is not open to you.",
                kind="permission_error",
                code="model_not_allowed",
                param="model",
            )
        if model in tenant.models or model == self._client.settings.model:
            return
        if self._client.most_tokens(model) is not None:
            return
        if all(one.get("id") != model for one in await self.models()):
            # the first words are those by which clients of DeepSeek know it
            raise bad_request(f"Model Not Exist: {model!r} is not offered here.", "model", "model_not_found")
