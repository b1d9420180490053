"""What ``gateway.toml`` says: the upstreams, the tenants and their limits, in frozen values.

Secrets never stand in the file: it names the environment variables that hold them. Whatever cannot
be used is refused before the gateway starts, with the place it stands at.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deepseek_nb.adapters.addresses import checked_url
from deepseek_nb.adapters.settings import Settings
from deepseek_nb.client.local_model import LocalModel
from deepseek_nb.client.routes import Route
from deepseek_nb.core.alarms import Thresholds
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret
from deepseek_nb.gateway.tables import Table

__all__ = ["SCOPES", "GatewayConfig", "Tenant", "UpstreamEntry", "parse_config", "read_config"]

SCOPES = ("compute", "metrics", "admin")
"""``compute`` asks questions, ``metrics`` reads ``/metrics``, ``admin`` sees every tenant's spending too."""
MIN_SECRET_BYTES = 32
RATE_MAX = 1000.0
_TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ROUTE_NAME = re.compile(r"[\w.:\[\]-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamEntry:
    """One server that answers.

    One with a ``weight`` and no ``model`` is a peer of the first one: asked in turn for whatever model a
    request names. One with a ``model`` stands in for the peers when they fail. The first one is a peer, and
    has neither a ``dialect`` nor a ``price_usd``.
    """

    name: str
    base_url: str
    key: Secret | None = None
    model: str | None = None
    """What it is asked for, whatever was asked of the gateway."""
    weight: float = 1.0
    """A peer's share of the questions; 0: asked only when no other peer can be."""
    dialect: str | None = None
    price_usd: tuple[float, float, float] | None = None
    gguf: Path | None = None
    """A model's file, which the gateway itself answers from; its ``base_url`` is there once it does."""
    concurrent: int = 2
    """Of a file: questions at a time."""
    context_tokens: int = 8192
    """Of a file: prompt and answer of a question together."""

    def route(self, model: str) -> Route:
        """It as a fallback of the client, which wants a model's name even where any can be asked for."""
        return Route(
            model=self.model or model,
            base_url=self.base_url,
            api_key=self.key,
            name=self.name,
            price_usd=self.price_usd,
            # checked when the file was read; a peer is one to whom the same can be said
            dialect=self.dialect or (None if self.model else "deepseek"),  # type: ignore[arg-type]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Who may ask, and how much."""

    name: str
    secrets: tuple[Secret, ...]
    """One, or two while one is replaced by the other. Tokens are made with the first."""
    scopes: tuple[str, ...] = ("compute",)
    priority: int = 3
    """Of a request that names none."""
    priority_max: int = 4
    """A higher one that is asked for is lowered to this."""
    requests_per_second: float = 100.0
    concurrent: int = 64
    """Questions in flight at once."""
    budget_day_usd: float | None = None
    models: tuple[str, ...] = ()
    """The models it may ask for; empty: all."""
    ttl_s: float | None = None
    """How old a kept answer may be; None: any age."""
    cache: bool = True
    fallback: bool = True
    """Whether stand-ins may answer when the first upstream and its peers cannot."""
    degrade: int = 0
    """Up to this priority, a question that would wait too long goes to a stand-in; 0: none does."""

    def may_ask(self, model: str) -> bool:
        """Whether that model is open to it."""
        return not self.models or model in self.models


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """All of ``gateway.toml``, checked."""

    settings: Settings
    """Those of the client that asks the first upstream."""
    upstreams: tuple[UpstreamEntry, ...]
    tenants: Mapping[str, Tenant]
    host: str = "127.0.0.1"
    port: int = 8400
    audience: str | None = None
    """Tokens that name an audience have to name this one."""
    token_lifetime_s: float = 3600.0
    """Of tokens from ``/oauth/token``."""
    token_lifetime_max_s: float = 86400.0
    """A token that is valid for longer is refused, whoever signed it."""
    skew_s: float = 30.0
    """How far clocks may differ."""
    body_bytes_max: int = 8 * 1024 * 1024
    """Of one request, and of what it unpacks to."""
    batch_max: int = 1000
    """Questions in one ``batch_requests``."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """From where on the status page shows an alarm."""
    webhook: Secret | None = None
    """Where alarms are POSTed as they begin and end; None: nowhere."""
    open_metrics: bool = False
    """Whether ``/metrics`` needs no token."""
    open_status: bool = True
    """Whether the status page shows its figures (never a tenant's) without a token."""
    probe_every_s: float = 2.0
    """How often an upstream that is down is asked whether it is back."""
    queued_max: int = 100_000
    """Questions of one tenant in the queue."""
    job_patience_s: float = 86400.0
    """How long a queued question is tried while upstreams are busy."""
    job_keep_s: float = 7 * 86400.0
    """How long a finished job can be looked at."""
    waits_s: tuple[float, ...] = (5.0, 15.0, 30.0)
    """How long a line questions of priority 1, 2 and 3 are let into."""
    redis_url: Secret | None = None
    """Where answers are shared with other gateways; None: nowhere."""
    redis_keep_s: float = 86400.0
    """How long Redis keeps one."""
    routes: tuple[Route, ...] = field(default=(), repr=False)

    def tenant(self, name: str) -> Tenant | None:
        """The tenant of that name."""
        return self.tenants.get(name)


def read_config(path: str | Path, environ: Mapping[str, str] | None = None) -> GatewayConfig:
    """Read ``gateway.toml``; keys and secrets come from ``environ`` (None: this process's).

    Raises ConfigError for a file that cannot be read, an unknown or missing key (with the near name), a
    wrong value, a secret that is missing, shared by two tenants or under 32 bytes.

    >>> read_config("gateway.toml").tenants["risk-desk"].concurrent        # doctest: +SKIP
    64
    """
    path = Path(path).expanduser()
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror or error}.",
            hint="Give the gateway's file with --config; docs/gateway.md has an example.",
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from None
    return parse_config(told, environ, where=path.name, folder=path.parent)


def parse_config(
    told: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    *,
    where: str = "gateway.toml",
    folder: Path = Path(),
) -> GatewayConfig:
    """What :func:`read_config` makes of the file's values; paths begin in ``folder``. Raises ConfigError."""
    environ = os.environ if environ is None else environ
    file = Table(told, where)
    gateway = file.table("gateway", required=False)
    upstreams = tuple(
        _upstream(entry, environ, folder, first=number == 0)
        for number, entry in enumerate(file.tables("upstream"))
    )
    tenants = {name: _tenant(name, entry, environ) for name, entry in file.named("tenant")}
    alarms = file.table("alarms", required=False)
    webhook = _webhook(alarms, environ)
    thresholds = _thresholds(alarms)
    file.end()
    _refuse_twins(upstreams, tenants, where)
    settings = _settings(gateway, upstreams[0], environ)
    config = GatewayConfig(
        settings=settings,
        upstreams=upstreams,
        tenants=tenants,
        host=gateway.text("host", "127.0.0.1"),
        port=gateway.whole("port", 8400, 0, 65535),
        audience=gateway.text("audience", None),
        token_lifetime_s=gateway.seconds("token_lifetime", 3600.0, 60.0, 86400.0),
        token_lifetime_max_s=gateway.seconds("token_lifetime_max", 86400.0, 60.0, 366 * 86400.0),
        skew_s=gateway.seconds("clock_skew", 30.0, 0.0, 300.0),
        body_bytes_max=gateway.whole("body_bytes_max", 8 * 1024 * 1024, 1024, 48 * 1024 * 1024),
        batch_max=gateway.whole("batch_max", 1000, 1, 100_000),
        thresholds=thresholds,
        webhook=webhook,
        open_metrics=gateway.switch("open_metrics", default=False),
        open_status=gateway.switch("open_status", default=True),
        probe_every_s=gateway.seconds("probe_every", 2.0, 0.1, 600.0),
        queued_max=gateway.whole("queued_max", 100_000, 0, 10_000_000),
        job_patience_s=gateway.seconds("job_patience", 86400.0, 0.0, 30 * 86400.0),
        job_keep_s=gateway.seconds("job_keep", 7 * 86400.0, 60.0, 366 * 86400.0),
        waits_s=gateway.durations("waits", (5.0, 15.0, 30.0)),
        redis_url=_redis_url(gateway, environ),
        redis_keep_s=gateway.seconds("redis_keep", 86400.0, 1.0, 366 * 86400.0),
        routes=tuple(one.route(settings.model) for one in upstreams[1:] if one.gguf is None),
    )
    gateway.end()
    return config


def _upstream(entry: Table, environ: Mapping[str, str], folder: Path, *, first: bool) -> UpstreamEntry:
    if first and (given := entry.has("model", "dialect", "price_usd", "gguf")):
        raise ConfigError(
            f"{entry.place(given)} is not for the first upstream.",
            hint="It is DeepSeek's service, or speaks as it does: asked for the model that a request names. "
            "The default model stands in [gateway].",
        )
    if entry.has("gguf"):
        return _local(entry, folder)
    if not first and not entry.has("model", "weight"):
        raise ConfigError(
            f"{entry.where} needs a model.",
            hint="The name that is asked for there; or a weight, if it serves the same models as the first.",
        )
    if entry.has("model") and entry.has("weight"):
        raise ConfigError(
            f"{entry.place('weight')} is for upstreams without a model.",
            hint="Those with one stand in, in the order of the file.",
        )
    price = entry.numbers("price_usd", 3)
    base_url, model = entry.text("base_url"), entry.text("model", None)
    # what a client would refuse is refused here, with the place it stands at
    told: dict[str, Any] = {"base_url": base_url} | ({} if model is None else {"model": model})
    Settings(**told, sources=dict.fromkeys(told, entry.where))
    made = UpstreamEntry(
        name=_name(entry),
        base_url=base_url,
        key=_from_environment(entry, "key_env", environ),
        model=model,
        weight=entry.number("weight", 1.0, 0.0, 1e6),
        dialect=entry.choice("dialect", ("deepseek", "openai"), None),
        price_usd=None if price is None else (price[0], price[1], price[2]),
    )
    entry.end()
    if not first and made.key is None and not made.route("any").on_this_machine:
        raise ConfigError(
            f"{entry.place('key_env')} is missing.",
            hint="The environment variable with its API key; only a server on this machine needs none.",
        )
    return made


def _local(entry: Table, folder: Path) -> UpstreamEntry:
    """A model's file, which stands in for the peers."""
    if given := entry.has("base_url", "key_env", "weight", "dialect", "price_usd"):
        raise ConfigError(
            f"{entry.place(given)} is not for a file.",
            hint="The gateway answers from it itself, for nothing, when no server can.",
        )
    file = folder / Path(entry.text("gguf")).expanduser()
    LocalModel(file).check()
    made = UpstreamEntry(
        name=_name(entry),
        base_url="",
        model=entry.text("model", file.stem),
        dialect="openai",
        gguf=file,
        concurrent=entry.whole("concurrent", 2, 1, 256),
        context_tokens=entry.whole("context_tokens", 8192, 256, 10_000_000),
    )
    entry.end()
    return made


def _name(entry: Table) -> str:
    return entry.matching("name", _ROUTE_NAME, "a name of letters, digits and the signs _ . : -")


def _from_environment(entry: Table, key: str, environ: Mapping[str, str]) -> Secret | None:
    variable = entry.text(key, None)
    return None if variable is None else _variable(entry, key, variable, environ)


def _redis_url(gateway: Table, environ: Mapping[str, str]) -> Secret | None:
    """Where Redis is: in the file, or in an environment variable, where the password may stand in it."""
    given = gateway.text("redis_url", None)
    url = _from_environment(gateway, "redis_url_env", environ) if given is None else Secret(given)
    if given is not None and gateway.has("redis_url_env"):
        raise ConfigError(f"{gateway.where} has redis_url and redis_url_env.", hint="Give one of them.")
    if given is not None and "@" in given:
        raise gateway.wrong("redis_url", "without a password; name a variable with all of it: redis_url_env")
    if url is not None and url.reveal().partition("://")[0] not in ("redis", "rediss", "unix"):
        key = "redis_url_env" if given is None else "redis_url"
        raise gateway.wrong(
            key, "the address of Redis, such as redis://HOST:6379/0, rediss://HOST or unix:///PATH"
        )
    return url


def _variable(entry: Table, key: str, variable: str, environ: Mapping[str, str]) -> Secret:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise entry.wrong(key, "the name of an environment variable (the secret itself never stands here)")
    value = Secret(environ.get(variable, "").strip())
    if not value:
        raise ConfigError(
            f"The environment variable {variable} ({entry.place(key)}) is not set.",
            hint="Set it before the gateway starts.",
        )
    return value


def _tenant(name: str, entry: Table, environ: Mapping[str, str]) -> Tenant:
    if not _TENANT_NAME.fullmatch(name):
        raise ConfigError(
            f"{entry.where} is not a tenant's name.",
            hint="It has to be lower-case letters, digits, _ and -, 63 at most.",
        )
    variables = entry.texts("secret_env")
    if not 1 <= len(variables) <= 2:
        raise entry.wrong("secret_env", "one environment variable, or two while a secret is replaced")
    secrets = tuple(_variable(entry, "secret_env", variable, environ) for variable in variables)
    for variable, secret in zip(variables, secrets, strict=True):
        size = len(secret.reveal().encode("utf-8", "surrogatepass"))
        if size < MIN_SECRET_BYTES:
            raise ConfigError(
                f"The secret in {variable} ({entry.place('secret_env')}) has {size} bytes; "
                f"it needs at least {MIN_SECRET_BYTES}.",
                hint='Make one with: python -c "import secrets; print(secrets.token_urlsafe(48))"',
            )
    priority_max = entry.whole("priority_max", 4, 1, 5)
    priority = entry.whole("priority", min(3, priority_max), 1, 5)
    if priority > priority_max:
        raise entry.wrong("priority", f"no more than priority_max, which is {priority_max}")
    made = Tenant(
        name=name,
        secrets=secrets,
        scopes=tuple(entry.texts("scopes", ["compute"], SCOPES)),
        priority=priority,
        priority_max=priority_max,
        requests_per_second=entry.number("requests_per_second", 100.0, 0.01, RATE_MAX),
        concurrent=entry.whole("concurrent", 64, 1, 10_000),
        budget_day_usd=entry.number("budget_day_usd", None, 0.0, 1e9),
        models=tuple(entry.texts("models", [])),
        ttl_s=entry.seconds("ttl", None, 1.0, 10 * 365 * 86400.0),
        cache=entry.switch("cache", default=True),
        fallback=entry.switch("fallback", default=True),
        degrade=entry.whole("degrade", 0, 0, 3),
    )
    if made.degrade and not made.fallback:
        raise entry.wrong("degrade", "left out, or 0, where fallback is false: it is a stand-in that answers")
    entry.end()
    return made


def _webhook(table: Table, environ: Mapping[str, str]) -> Secret | None:
    """An address in the file, or in an environment variable: such addresses are often secrets."""
    url = table.text("webhook", None)
    named = _from_environment(table, "webhook_env", environ)
    if url is not None and named is not None:
        raise ConfigError(f"{table.where} has webhook and webhook_env.", hint="Give one of them.")
    found = named if url is None else Secret(url)
    if found is not None:
        try:
            parts = urlsplit(found.reveal())
            checked_url(f"{parts.scheme}://{parts.netloc}", with_auth=False)
        except (ConfigError, ValueError):
            key = "webhook" if url is not None else "webhook_env"
            raise table.wrong(key, "a web address, such as https://hooks.example.org/T1") from None
    return found


def _thresholds(table: Table) -> Thresholds:
    made = Thresholds(
        p99_ms=table.number("p99_ms", 800.0, 1.0, 1e9),
        error_rate=table.number("error_rate", 0.02, 1e-6, 1.0),
        cache_hit_rate=table.number("cache_hit_rate", 0.6, 1e-6, 1.0),
        quota=table.number("quota", 0.8, 1e-6, 1.0),
        least_calls=table.whole("least_calls", 20, 1, 1_000_000),
    )
    table.end()
    return made


def _refuse_twins(upstreams: tuple[UpstreamEntry, ...], tenants: Mapping[str, Tenant], where: str) -> None:
    names = [upstream.name for upstream in upstreams]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"Two upstreams in {where} have the same name.", hint="Answers are told apart by it."
        )
    if not any(upstream.weight for upstream in upstreams if upstream.model is None):
        raise ConfigError(
            f"Every upstream without a model in {where} has the weight 0.",
            hint="Give one of them a weight above 0: it is asked first.",
        )
    owner: dict[Secret, str] = {}
    for tenant in tenants.values():
        for secret in tenant.secrets:
            if owner.setdefault(secret, tenant.name) != tenant.name:
                raise ConfigError(
                    f"The tenants {owner[secret]!r} and {tenant.name!r} have the same secret.",
                    hint="Give each its own: whoever knows it can pose as the other.",
                )


def _settings(gateway: Table, first: UpstreamEntry, environ: Mapping[str, str]) -> Settings:
    key_place = "key_env in [[upstream]] number 1"
    given: dict[str, Any] = {
        "base_url": first.base_url,
        "api_key": first.key,
        "route": first.name,
        "model": gateway.text("model", "deepseek-flash"),
        "patience_s": gateway.seconds("patience", 60.0, 0.0, 86400.0),
        "failover_s": gateway.seconds("failover", 3.0, 0.1, 600.0),
        "concurrency_max": gateway.whole("concurrency_max", 256, 1, 10_000),
        "max_repairs": gateway.whole("max_repairs", 0, 0, 2),
        "budget_day_usd": gateway.number("budget_day_usd", None, 0.0, 1e9),
        "budget_month_usd": gateway.number("budget_month_usd", None, 0.0, 1e9),
    }
    folder = gateway.text("data_dir", environ.get("DEEPSEEK_NB_DATA_DIR", "").strip() or None)
    if folder is not None:
        given["data_dir"] = folder
    settings = Settings(**given, sources=dict.fromkeys(given, gateway.where) | {"api_key": key_place})
    if settings.api_key is None:
        raise ConfigError(
            f"The upstream {first.name!r} needs key_env, the environment variable with its API key.",
            hint="A server on this machine that needs none takes any, such as: unused",
        )
    return settings
