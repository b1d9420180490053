"""The servers one client reaches: connections for each, and an admission of its own for each model."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from deepseek_nb.adapters.auth import ApiKey, JWTBearer
from deepseek_nb.adapters.limits import SharedLimits, account_name
from deepseek_nb.adapters.settings import Settings
from deepseek_nb.adapters.transport import Transport
from deepseek_nb.client.gate import Gate, GateState, NotShared
from deepseek_nb.client.routes import Route, read_routes
from deepseek_nb.core.admission import Admission, Tuning
from deepseek_nb.core.call import Leg
from deepseek_nb.core.chat import ChatRequest
from deepseek_nb.core.errors import ConfigError, StoreFailed
from deepseek_nb.core.prices import Price
from deepseek_nb.core.responses import in_json_mode
from deepseek_nb.core.secret import Secret
from deepseek_nb.core.wire import Dialect

__all__ = ["Upstream", "Upstreams", "account_of"]

LIMITS_FILE = "limits.db"
"""In the data directory, beside the answers."""

BULK_FAILOVER = 6
"""A row waits so many times as long as an interactive call for its server, before it takes another."""


class Upstream:
    """One server. The service limits requests by account and model: so does this.

    ``price`` is what all its models cost; None: what the price table says, and nothing where it does not
    know and the server is ``free``, as a model on this machine is.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        route: str,
        new_gate: Callable[[str], Gate],
        dialect: Dialect = "deepseek",
        base_path: str = "",
        price: Price | None = None,
        free: bool = False,
    ) -> None:
        self.transport = transport
        self.route = route
        self.dialect: Dialect = dialect
        self.base_path = base_path
        self.price = price
        self.free = free
        self.reached = False
        """Whether this server ever answered: from then on a failing connection is an outage, not a typo."""
        self._new_gate = new_gate
        self._gates: dict[str, Gate] = {}

    def gate(self, model: str) -> Gate:
        """The admission for requests to ``model``."""
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates[model] = self._new_gate(model)
        return gate

    def standing(self) -> dict[str, GateState]:
        """How the line for each model stands, of those that were asked."""
        return {model: gate.state() for model, gate in self._gates.items()}

    async def aclose(self) -> None:
        """Close the connections, and leave the lines."""
        for gate in self._gates.values():
            gate.close()
        await self.transport.aclose()


class Upstreams:
    """The client's own server, named ``""``, and those of its fallback routes; each is opened when used."""

    def __init__(self, settings: Settings) -> None:
        self.secrets: set[Secret] = set()
        """What must not show in any message."""
        self._settings = settings
        self._routes: dict[str, tuple[Route, Settings]] = {"": (Route(model=settings.model), settings)}
        self._open: dict[str, Upstream] = {}
        self._parents: list[dict[str, Upstream]] = []
        self._guard(settings)

    def names(self, fallback: Any) -> tuple[str, ...]:
        """The names of these fallback routes (as a user gives them), each checked and kept.

        Raises ConfigError for a route that cannot be used.
        """
        names = []
        for route in read_routes(fallback):
            settings = route.settings(self._settings)
            name = f"{settings.route_name}/{settings.model}"
            if self._routes.setdefault(name, (route, settings)) != (route, settings):
                raise ConfigError(
                    f"Two fallbacks are called {name!r}.",
                    hint="Give one of them another name: Route(name=...)",
                )
            self._guard(settings)
            names.append(name)
        return tuple(names)

    def legs(self, request: ChatRequest, names: Sequence[str], *, interactive: bool) -> tuple[Leg, ...]:
        """Where ``request`` is asked after the first route, in this order; never where it was asked first.

        Servers that may know nothing but what all have are asked in JSON mode instead of at /responses.
        """
        legs = []
        first = request.fingerprint(self._settings.route_name)
        for name in names:
            route, settings = self._routes[name]
            asked = replace(request, model=settings.model)
            if asked.over_responses and route.speaks() == "openai":
                asked = in_json_mode(asked)
            key = asked.fingerprint(settings.route_name)
            if key != first:
                legs.append(Leg(asked, key, self.failover_s(interactive=interactive), name))
        return tuple(legs)

    def failover_s(self, *, interactive: bool) -> float:
        """How long a route may keep a call waiting before the next one is tried."""
        return self._settings.failover_s * (1 if interactive else BULK_FAILOVER)

    def get(self, name: str) -> Upstream:
        """The server of that route; another model of the client's own server is reached by the same one."""
        upstream = self._open.get(name)
        if upstream is None:
            route, settings = self._routes[name]
            own_server = bool(name) and route.base_url is None
            upstream = self.get("") if own_server else _connected(route, settings)
            self._open[name] = upstream
        return upstream

    def standing(self) -> dict[str, GateState]:
        """How the lines of the client's own server stand, by model; empty while it is not open."""
        own = self._open.get("")
        return {} if own is None else own.standing()

    def begin_in_child(self) -> None:
        """In a forked child: open none yet, and keep the parent's from being closed."""
        self._parents.append(self._open)
        self._open = {}

    async def aclose(self) -> None:
        """Close all of them. They are opened again when they are used again."""
        upstreams, self._open = set(self._open.values()), {}
        for upstream in upstreams:
            await upstream.aclose()

    def _guard(self, settings: Settings) -> None:
        self.secrets.update(key for key in (settings.api_key, settings.jwt_client_secret) if key is not None)


def _connected(route: Route, settings: Settings) -> Upstream:
    auth: ApiKey | JWTBearer | None = None
    if settings.jwt_client_id and settings.jwt_client_secret:
        auth = JWTBearer(
            settings.jwt_client_id,
            settings.jwt_client_secret,
            scope=settings.jwt_scope,
            issuer=settings.jwt_issuer,
            origin=settings.base_url,
        )
    elif settings.api_key is not None:
        auth = ApiKey(settings.api_key, origin=settings.base_url)
    return Upstream(
        Transport(
            settings.base_url,
            auth=auth,
            connect_timeout_s=settings.connect_timeout_s,
            compress=settings.compress,
        ),
        route=settings.route_name,
        new_gate=lambda model: _gate(settings, model),
        dialect=route.speaks(),
        base_path=urlsplit(settings.base_url).path,
        price=route.price(),
        free=route.on_this_machine,
    )


def _gate(settings: Settings, model: str) -> Gate:
    start = min(settings.concurrency_start, settings.concurrency_max)
    tuning = Tuning(
        start=start,
        most=settings.concurrency_max,
        tail_silence_s=settings.silence_timeout_s / 3,
        hedge_s=settings.hedge_after_s or settings.silence_timeout_s,
    )
    if settings.stubborn:
        tuning = replace(tuning, least=min(8.0, settings.concurrency_max), hold_s=0.25)
    admission = Admission(rng=random.random, tuning=tuning)
    return Gate(admission, shared=_shared_limits(settings, model), recall=settings.recall)


def account_of(settings: Settings, *parts: str) -> str:
    """A name for the account that these settings ask with, and for ``parts``, where the server is one."""
    server, *more = parts or ("://".join(settings.origin),)
    key = settings.api_key or settings.jwt_client_secret
    return account_name(server, settings.jwt_client_id or "", key.reveal() if key else "", *more)


def _shared_limits(settings: Settings, model: str) -> SharedLimits | None:
    """Where the kernels of this machine on the same account and model meet; None: each goes alone."""
    if not settings.share_limit:
        return None
    account = account_of(settings, settings.base_url, model)
    try:
        return SharedLimits(settings.data_dir / LIMITS_FILE, account)
    except StoreFailed as error:
        warnings.warn(
            f"The server's limits are not shared with other kernels: {error}", NotShared, stacklevel=2
        )
        return None
