"""The desk every question goes over: it makes it a tenant's own, and lets the one client take it.

What keeps tenants apart, by the client's public means alone:

* The key of an answer, and of the claim on it, is ``@TENANT/`` and the client's own key. No key of
  another tenant, nor of a notebook on the same files, can begin so ("@" is in no route's name).
* ``user_id`` is the tenant's: the service's own prefix cache is apart, too. A ``user_id`` that the
  tenant gives divides it further.
* Money is reserved in the tenant's own budget, which stands in the gateway's.
"""

from __future__ import annotations

import asyncio
import hashlib
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from deepseek_nb.adapters.redis_tier import RedisTier
from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.errand import Errand
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import AnswerInvalid, AuthError, BalanceExhausted, DeepSeekError
from deepseek_nb.core.wire import Delta
from deepseek_nb.gateway.asks import Ask
from deepseek_nb.gateway.catalogue import Catalogue
from deepseek_nb.gateway.config import GatewayConfig, Tenant
from deepseek_nb.gateway.health import PROBE_WITHIN_S, Health, Prober, Watch
from deepseek_nb.gateway.load import Load
from deepseek_nb.gateway.logs import log_event
from deepseek_nb.gateway.monitor import Monitor
from deepseek_nb.gateway.purses import Purse
from deepseek_nb.gateway.quota import Quota
from deepseek_nb.gateway.refusals import bad_request, from_error
from deepseek_nb.gateway.routing import Router

__all__ = ["CacheWish", "Call", "Desk"]


@dataclass(frozen=True, slots=True)
class CacheWish:
    """What a request says of the answer store, by its Cache-Control header."""

    look_up: bool = True
    keep: bool = True
    ttl_s: float | None = None

    @classmethod
    def of(cls, header: str | None) -> CacheWish:
        """Read the header: ``no-cache`` asks anew, ``no-store`` keeps nothing either, ``max-age=N``."""
        look_up, keep, ttl_s = True, True, None
        for part in (header or "").lower().split(","):
            name, _, value = part.strip().partition("=")
            if name == "no-store":
                look_up = keep = False
            elif name == "no-cache":
                look_up = False
            elif name == "max-age" and value.strip().isdigit() and len(value) < 12:
                ttl_s = float(value)
                look_up = look_up and ttl_s > 0
        return cls(look_up, keep, ttl_s)


class Desk:
    """The one client of a gateway, and what is kept for each tenant. Belongs to one event loop."""

    def __init__(self, config: GatewayConfig, monitor: Monitor) -> None:
        self.config = config
        self.monitor = monitor
        self.redis = (
            None
            if config.redis_url is None
            else RedisTier(config.redis_url, keep_s=config.redis_keep_s, told=_log_redis)
        )
        self.client = AsyncClient(config.settings, fallback=list(config.routes), shared=self.redis)
        self.health = Health([upstream.name for upstream in config.upstreams])
        self.router = Router(config.upstreams, self.client, self.health, config.settings.failover_s)
        self.catalogue = Catalogue(self.client, self._list_models)
        self.prober = Prober(self.health, self._probe, config.probe_every_s)
        clock = asyncio.get_running_loop().time
        self.load = Load(self.client, self.router, config.waits_s, clock)
        around = self.client.budget
        self.quotas = {name: Quota(tenant, clock) for name, tenant in config.tenants.items()}
        self.purses = {
            name: Purse(tenant, config.settings, around, lambda: self.client.now_utc())
            for name, tenant in config.tenants.items()
        }

    async def aclose(self) -> None:
        """Close the client and the files."""
        await self.prober.aclose()
        await self.client.aclose()
        if self.redis is not None:
            await self.redis.aclose()
        for purse in self.purses.values():
            purse.close()

    async def _list_models(self) -> list[dict[str, Any]]:
        """The models of the first peer that tells them."""
        peers = [one for one in self.router.order(self.config.settings.model, others=False) if one.is_peer]
        for peer in peers[:-1]:
            with suppress(DeepSeekError, TimeoutError):
                async with asyncio.timeout(PROBE_WITHIN_S):
                    return await self.client.models(peer.client_name)
        return await self.client.models(peers[-1].client_name)

    async def _probe(self, name: str) -> None:
        """Ask one upstream for its models, which costs nothing."""
        await self.client.models(next(one.client_name for one in self.router.served if one.name == name))

    def errand(
        self,
        tenant: Tenant,
        ask: Ask,
        wish: CacheWish,
        watch: Watch,
        on_delta: Callable[[Delta], None] | None = None,
        *,
        degraded: bool = False,
    ) -> tuple[str, Errand]:
        """The model that is asked for, and the question, checked and made the tenant's own.

        ``degraded`` sends it to a stand-in first, under that one's own model. Raises ApiError; nothing is
        sent.
        """
        keep = tenant.cache and wish.keep
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a retired name: the answer names its model
                errand = self.client.prepare(
                    ask.messages,
                    model=ask.model,
                    **ask.options,
                    user_id=user_id_of(tenant, ask.user_id),
                    priority=self.priority(tenant, ask.priority),
                    ttl_s=_shorter(tenant.ttl_s, wish.ttl_s),
                    cache=keep,
                    budget=self.purses[tenant.name].budget,
                    fallback=[],  # the router says where it goes
                    on_delta=on_delta,
                    on_event=watch,
                )
        except DeepSeekError as error:
            raise from_error(error) from None
        if ask.json_mode:
            errand = replace(errand, request=replace(errand.request, json_mode=True))
        model = errand.request.model
        order = self.router.order(model, others=tenant.fallback, others_first=degraded)
        errand = self.router.routed(errand, order)
        return model, _owned(tenant, errand if wish.look_up else replace(errand, look_up=False))

    def priority(self, tenant: Tenant, asked: int | None) -> int:
        """The lane: what was asked for, as far as the tenant may go."""
        return min(tenant.priority if asked is None else asked, tenant.priority_max)

    @asynccontextmanager
    async def call(
        self, tenant: Tenant, ask: Ask, wish: CacheWish, *, streamed: bool = False, patient: bool = False
    ) -> AsyncIterator[Call]:
        """The question, ready to be asked. Raises ApiError for what can be known to fail.

        Also where it would wait too long for its priority; not with ``patient``. Leaving the block hangs up.
        """
        call = Call(self, tenant, ask, wish, streamed=streamed)
        model = call.model
        await self.catalogue.require(tenant, model)
        if call.errand.budget.left_usd is not None and self.client.price_now(model) is None:
            raise bad_request(
                f"No price is known for {model!r}, so that a budget could not be kept.",
                "model",
                "model_without_price",
            )
        if not patient:
            await self._shed(call, model)
        try:
            yield call
        finally:
            await call.aclose()

    async def _shed(self, call: Call, model: str) -> None:
        """Where the line is too long for it, raise that; or send it to a stand-in, if its tenant says so.

        An answer that is kept needs no line.
        """
        refusal = self.load.refusal(model, call.errand.lane)
        if refusal is None or await self._is_kept(call.errand):
            return
        if call.errand.lane > call.tenant.degrade or not self.router.stand_in(model):
            raise refusal
        call.degrade()

    async def _is_kept(self, errand: Errand) -> bool:
        store = self.client.store
        if store is None or not errand.look_up:
            return False
        return await store.aget(errand.key, errand.ttl_s) is not None


class Call:
    """One question under way, and then its answer. Closing it early hangs up, which ends its bill."""

    def __init__(self, desk: Desk, tenant: Tenant, ask: Ask, wish: CacheWish, *, streamed: bool) -> None:
        self.desk = desk
        self.tenant = tenant
        self.watch = Watch(desk.health)
        self.pieces: asyncio.Queue[Delta | None] = asyncio.Queue()
        """With ``streamed``: what comes, and None at the end."""
        self._errand_of = partial(
            desk.errand, tenant, ask, wish, self.watch, self.pieces.put_nowait if streamed else None
        )
        self.model, self.errand = self._errand_of()
        self.answer: Answer | None = None
        self._work: asyncio.Task[Answer] | None = None

    def degrade(self) -> None:
        """Ask a stand-in first; before it is started."""
        self.model, self.errand = self._errand_of(degraded=True)

    @property
    def upstream(self) -> str:
        """Who answers, or answered."""
        return self.watch.upstream if self.answer is None else self.answer.route or self.watch.upstream

    @property
    def cached(self) -> bool:
        """Whether it came from the store, or from an equal question under way; known at the first piece."""
        return not self.watch.began if self.answer is None else self.answer.cached

    @property
    def degraded(self) -> bool:
        """Whether one that only stands in for the first upstream and its peers answered."""
        return not self.desk.router.is_peer(self.upstream)

    @property
    def cost_usd(self) -> float | None:
        """What the answer cost now: nothing where it was kept; None where no price is known."""
        if self.cached:
            return 0.0
        return None if self.answer is None else self.answer.cost_usd

    async def whole(self) -> Answer:
        """Ask, and give the whole answer. Raises ApiError.

        An answer that was paid for and is blank or cut is given as it came.
        """
        try:
            answer = await self._taken()
        except AnswerInvalid as unusable:
            if not isinstance(unusable.answer, Answer):
                raise from_error(unusable) from None
            answer = replace(
                unusable.answer,
                route=self.watch.upstream,
                finish_reason=unusable.answer.finish_reason or "length",
                cost_usd=getattr(unusable, "cost_usd", None),
            )
        except DeepSeekError as error:
            raise from_error(error, own_cap=self.desk.purses[self.tenant.name].cap_name) from None
        self.answer = answer
        if not answer.cached and not self.degraded:
            took_s = asyncio.get_running_loop().time() - self.watch.sent_s
            self.desk.load.answered(self.model, self.errand.lane, took_s)
        self.desk.monitor.answered(self.tenant.name, self.upstream, answer, self.cost_usd)
        return answer

    async def _taken(self) -> Answer:
        """The answer; where an upstream's account is closed to us, that of the upstreams after it."""
        while True:
            try:
                return await self.desk.client.take(self.errand)
            except (AuthError, BalanceExhausted) as error:
                if not self.watch.asked:
                    continue  # an equal question's error: now it is this one's turn
                at_s = asyncio.get_running_loop().time()
                self.desk.health.barred(self.watch.upstream, error, at_s)
                rest = self.desk.router.after(self.errand, self.watch.upstream)
                if rest is None:
                    raise
                self.errand = rest

    async def ended(self) -> Answer:
        """The answer of a started call, once it has ended. Raises what it ended with."""
        assert self._work is not None  # noqa: S101 (started before)
        return await self._work

    def start(self) -> None:
        """Ask in a task of its own; pieces come meanwhile."""

        async def work() -> Answer:
            try:
                return await self.whole()
            finally:
                self.pieces.put_nowait(None)

        self._work = asyncio.create_task(work())

    async def deltas(self, first: Delta | None, alive_s: float) -> AsyncGenerator[Delta | None, None]:
        """The pieces of a started call, ``first`` before them; None after each ``alive_s`` of silence."""
        if first is not None:
            yield first
        while True:
            try:
                async with asyncio.timeout(alive_s):
                    piece = await self.pieces.get()
            except TimeoutError:
                yield None
                continue
            if piece is None:
                return
            yield piece

    async def aclose(self) -> None:
        """Hang up, if it is still under way."""
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
            await asyncio.wait([work])
            if not work.cancelled():
                work.exception()  # whoever read the pieces has it


def user_id_of(tenant: Tenant, given: str | None) -> str:
    """What the service is told: the tenant, and a digest of what the tenant gave.

    >>> from deepseek_nb.core.secret import Secret
    >>> user_id_of(Tenant(name="desk", secrets=(Secret("x" * 32),)), None)
    'desk'
    """
    if not given:
        return tenant.name
    digest = hashlib.blake2b(given.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()
    return f"{tenant.name}--{digest}"


def _log_redis(up: bool, why: str) -> None:
    log_event("redis", state="back" if up else "gone", **({} if up else {"why": why}), trouble=not up)


def _owned(tenant: Tenant, errand: Errand) -> Errand:
    """The errand under keys of the tenant's own."""
    legs = tuple(replace(leg, key=f"@{tenant.name}/{leg.key}") for leg in errand.fallbacks)
    return replace(errand, key=f"@{tenant.name}/{errand.key}", fallbacks=legs)


def _shorter(one: float | None, other: float | None) -> float | None:
    given = [value for value in (one, other) if value is not None]
    return min(given) if given else None
