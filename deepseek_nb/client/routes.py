"""Route: another place where a question may be asked, when the first one is busy or down."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from deepseek_nb.adapters.settings import LOOPBACK_HOSTS, Settings
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.prices import Price
from deepseek_nb.core.secret import Secret
from deepseek_nb.core.wire import Dialect

__all__ = ["DEEPSEEK_HOST", "Route", "read_routes"]

DEEPSEEK_HOST = "deepseek.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Another model, another OpenAI-compatible endpoint, or a local model.

    * ``model``: its name there; needed with ``base_url``.
    * ``base_url``: None asks the client's own server. https, or http to this machine.
    * ``api_key``: for another server, its own key; the client's key is never sent there. Better named
      than written: ``api_key_env="OTHER_API_KEY"`` reads it from the environment. A server on
      this machine needs none.
    * ``name``: what its answers are called in the ``route`` column and in the cache key; None: host and port.
    * ``price_usd``: what a million tokens cost there, as (cache hit, cache miss, output). Needed with a
      budget, except for the models of the price table and for servers on this machine (0).
    * ``dialect``: "deepseek" sends all of DeepSeek's fields, "openai" leaves out ``thinking`` and
      ``user_id``, which other servers may refuse; None: by the host.

    Raises :class:`~deepseek_nb.core.errors.ConfigError` when it is used with an unsafe address, without a
    key it needs, or with a name that is taken.

    >>> Route(base_url="http://127.0.0.1:11434/v1", model="qwen3:8b", name="local")
    Route(model='qwen3:8b', base_url='http://127.0.0.1:11434/v1', name='local')
    """

    model: str | None = None
    base_url: str | None = None
    api_key: Secret | str | None = None
    api_key_env: str | None = None
    name: str | None = None
    price_usd: tuple[float, float, float] | None = None
    dialect: Dialect | None = None

    def __post_init__(self) -> None:
        if isinstance(self.api_key, str):
            object.__setattr__(self, "api_key", Secret(self.api_key))

    def __repr__(self) -> str:
        given = {name: getattr(self, name) for name in self.__slots__}
        shown = (f"{name}={value!r}" for name, value in given.items() if value is not None)
        return f"Route({', '.join(shown)})"

    def settings(self, own: Settings) -> Settings:
        """The settings of a client of this route; ``own`` are those of the client that falls back to it."""
        if self.base_url is None:
            given = {"api_key": self.api_key, "api_key_env": self.api_key_env, "name": self.name}
            if extra := [name for name, value in given.items() if value is not None]:
                raise ConfigError(
                    f"A fallback with {extra[0]} needs a base_url.",
                    hint="Without base_url it is another model of the same server.",
                )
            if not self.model:
                raise ConfigError("A fallback needs a model or a base_url.", hint="Such as: deepseek-v4-pro")
            return own.replace(model=self.model)
        if not self.model:
            raise ConfigError(
                f"The fallback at {urlsplit(self.base_url).hostname} needs a model.",
                hint="Give the name of the model that server offers: Route(base_url=..., model=...)",
            )
        settings = own.replace(
            base_url=self.base_url,
            model=self.model,
            api_key=self._key(),
            jwt_client_id=None,  # also of another path on the same server: a route has its own
            jwt_client_secret=None,
            route=self.name,
            compress="none",  # it was said of the first server
        )
        if settings.api_key is None and not self.on_this_machine:
            raise ConfigError(
                f"The fallback at {settings.route_name} needs a key of its own: yours is not sent there.",
                hint="Put it in the environment and give its name: Route(api_key_env='OTHER_API_KEY', ...)",
            )
        if settings.route_name == own.route_name and settings.base_url != own.base_url:
            raise ConfigError(
                f"The fallback at {settings.base_url} has the name of your own server, {own.route_name!r}.",
                hint="Give it another name: its answers must not pose as the first server's.",
            )
        return settings

    def _key(self) -> Secret | None:
        if self.api_key is not None and self.api_key_env is not None:
            raise ConfigError("A fallback has api_key and api_key_env.", hint="Give one of them.")
        if self.api_key_env is None:
            return self.api_key if isinstance(self.api_key, Secret) else None
        value = os.environ.get(self.api_key_env, "").strip()
        if not value:
            raise ConfigError(
                f"The environment variable {self.api_key_env} (key of a fallback) is not set.",
                hint="Set it before the kernel starts.",
            )
        return Secret(value)

    @property
    def on_this_machine(self) -> bool:
        """Whether it is asked over the loopback."""
        return self.base_url is not None and urlsplit(self.base_url).hostname in LOOPBACK_HOSTS

    def speaks(self) -> Dialect:
        """The fields its requests may hold."""
        if self.dialect is not None:
            return self.dialect
        if self.base_url is None:
            return "deepseek"
        host = urlsplit(self.base_url).hostname or ""
        return "deepseek" if host == DEEPSEEK_HOST or host.endswith(f".{DEEPSEEK_HOST}") else "openai"

    def price(self) -> Price | None:
        """What its tokens cost, where that was given."""
        return None if self.price_usd is None else Price(*self.price_usd)


def read_routes(fallback: Any) -> tuple[Route, ...]:
    """``fallback`` as given by the user: None, one of, or a list of model names, dicts and Routes.

    Raises ConfigError for anything else.
    """
    if fallback is None:
        return ()
    if isinstance(fallback, str | Route | dict):
        fallback = [fallback]
    if not isinstance(fallback, Sequence):
        raise ConfigError(f"fallback is a list of routes, not {type(fallback).__name__}.", hint=HINT)
    return tuple(_read(route) for route in fallback)


HINT = "Such as: fallback=['deepseek-v4-pro', Route(base_url='http://127.0.0.1:11434/v1', model='qwen3:8b')]"


def _read(route: Any) -> Route:
    if isinstance(route, Route):
        return route
    if isinstance(route, str):
        if "://" in route:
            raise ConfigError(f"A fallback's address needs a model beside it: {route!r}.", hint=HINT)
        return Route(model=route)
    if isinstance(route, dict):
        try:
            return Route(**route)
        except TypeError as error:
            said = str(error).removeprefix("Route.__init__() ")
            raise ConfigError(f"A fallback cannot be read: {said}.", hint=HINT) from None
    raise ConfigError(f"A fallback is a model name or a Route, not {type(route).__name__}.", hint=HINT)
