"""Settings: what was given as arguments, then the environment, then ``[tool.deepseek_nb]`` in pyproject.toml.

Every value is checked when it is set; an unknown name, a wrong type or an unsafe address raises
ConfigError, saying where the value came from. Keys are only taken from arguments, from the
environment and from where the user had them kept, and the address they are sent to from the first
two: a repository's file must not carry a key, nor send yours elsewhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret

__all__ = [
    "LOOPBACK_HOSTS",
    "PYPROJECT_VARIABLE",
    "Settings",
    "hidden",
    "load_settings",
    "load_table",
    "parse_duration_s",
    "parse_patience_s",
]

PREFIX = "DEEPSEEK_NB_"
PYPROJECT_VARIABLE = "DEEPSEEK_NB_PYPROJECT"
OTHER_VARIABLES = {"DEEPSEEK_API_KEY": "api_key", "DEEPSEEK_NB_STREAM": "stream_display"}
"""Variables that are not called after their field; one that is goes before."""

OTHER_TABLES = ("magics",)
"""Tables in ours that others read, by :func:`load_table`."""
KEPT = "%deepseek key"
"""The source of a key that was typed in and kept."""
NEVER_FROM_A_FILE = ("api_key", "base_url", "data_dir", "jwt_client_secret", "redis_url", "route")
CREDENTIALS = ("api_key", "jwt_client_id", "jwt_client_secret")
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
METADATA_HOSTS = (
    *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
    *("instance-data", "instance-data.ec2.internal", "metadata", "metadata.goog"),
    *("metadata.google.internal", "metadata.tencentyun.com"),
)
"""Besides the link-local ones: addresses at which cloud machines hand out credentials."""

_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(sec|s|min|h|d|w)\s*")
_SWITCHES = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def parse_duration_s(duration: str | float) -> float:
    """Read a duration, in seconds.

    It is a number of seconds, or text like ``"90s"``, ``"30min"``, ``"12h"``, ``"7d"``, ``"1h 30min"``.
    Raises ConfigError for anything else, a negative number included.

    >>> parse_duration_s("30min")
    1800.0
    """
    try:
        return _seconds(duration)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{duration!r} is not a duration.", hint=f"It has to be {_DURATION_SAYS}."
        ) from None


def parse_patience_s(patience: str | float) -> float:
    """Read a patience, in seconds: a number is minutes, text may name its unit (``"90s"``, ``"2h"``).

    Raises ConfigError for anything else, a negative number included.

    >>> parse_patience_s(10), parse_patience_s("90s")
    (600.0, 90.0)
    """
    try:
        return _seconds(float(patience)) * 60
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return parse_duration_s(patience)
    except ConfigError:
        raise ConfigError(
            f"{patience!r} is not a duration.",
            hint="It has to be a number of minutes, or text like '90s', '30min', '12h'.",
        ) from None


# --- kinds of values -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a field takes: in words, from text (the environment), and from Python.

    ``check`` returns the value as it is kept. Both raise ValueError or TypeError for what they do
    not take; the text of a ValueError, where it has one, tells more than ``says``.
    """

    says: str
    from_text: Callable[[str], Any]
    check: Callable[[Any], Any]
    optional: bool = False
    secret: bool = False

    def read(self, text: str | Secret) -> Any:
        """Read a value from the environment."""
        if isinstance(text, Secret):
            return None if text.reveal().lower() == "none" else text
        return None if self.optional and text.lower() == "none" else self.from_text(text)

    def keep(self, value: Any) -> Any:
        """Check a value, and bring it into the form that is kept."""
        return None if self.optional and value is None else self.check(value)


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        text = value.strip()
        try:
            value = float(text)
        except ValueError:
            parts = list(_DURATION.finditer(text))
            if not parts or "".join(part[0] for part in parts) != text:
                raise
            value = sum(float(part[1]) * _SECONDS[part[2]] for part in parts)
    return _real(value)


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    if not 0 <= value <= sys.float_info.max:
        raise ValueError
    return float(value)


def _whole(low: int, high: int) -> _Kind:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError
        if not low <= value <= high:
            raise ValueError
        return value

    return _Kind(f"a whole number from {low} to {high}", int, check)


def _duration(*, zero: bool = False, optional: bool = False) -> _Kind:
    def check(value: Any) -> float:
        seconds = _seconds(value)
        if seconds == 0 and not zero:
            raise ValueError
        return seconds

    says = _DURATION_SAYS + ("" if zero else ", more than zero") + (", or None" if optional else "")
    return _Kind(says, str, check, optional=optional)


def _text(pattern: str, says: str, *, optional: bool = False) -> _Kind:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        if not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return _Kind(says, str, check, optional=optional)


def _check_switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _read_switch(text: str) -> bool:
    if text.lower() not in _SWITCHES:
        raise ValueError
    return _SWITCHES[text.lower()]


def _check_secret(value: Any) -> Secret | None:
    if not isinstance(value, (str, Secret)):
        raise TypeError
    secret = Secret(Secret(value).reveal().strip())
    if not re.fullmatch(r"[!-~]*", secret.reveal()):
        raise ValueError
    return secret if secret else None


def _check_redis_url(value: Any) -> Secret | None:
    secret = _check_secret(value)
    if secret is not None:
        url = urlsplit(secret.reveal())
        where = url.path if url.scheme == "unix" else url.hostname
        if url.scheme not in ("redis", "rediss", "unix") or not where or url.port == 0:
            raise ValueError
        if "password=" in url.query:  # masks show the end of a secret
            raise ValueError
    return secret


def _check_folder(value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or isinstance(value, bytes):
        raise TypeError
    if not os.fspath(value) or "\0" in os.fspath(value):
        raise ValueError
    try:
        return Path(value).expanduser().absolute()
    except (RuntimeError, FileNotFoundError):  # the home of nobody; a current folder that was deleted
        raise ValueError from None


_DURATION_SAYS = "a duration: a number of seconds, or text like '90s', '30min', '12h', '7d'"
_SWITCH = _Kind("True or False (in the environment: 1 or 0)", _read_switch, _check_switch)
_SECRET = _Kind("text without blanks or special letters", str, _check_secret, optional=True, secret=True)
_REDIS_URL = dataclasses.replace(
    _SECRET,
    says="the address of a Redis, such as redis://USER:PASSWORD@HOST:6379/0, rediss://HOST or unix:///PATH",
    check=_check_redis_url,
)
_NAME = _text(r"\S+", "a name without blanks")
_OPTIONAL_NAME = dataclasses.replace(_NAME, says="a name without blanks, or None", optional=True)
_ROUTE = _text(r"[\w.:\[\]-]+", "a name of letters, digits and the signs _ . : - [ ], or None", optional=True)
_MONEY = _Kind("an amount in US dollars, zero or more, or None", float, _real, optional=True)
_FOLDER = _Kind("the path of a folder", str, _check_folder)


# --- the address -----------------------------------------------------------------------------------------


def _check_url(value: Any) -> str:
    """Return the address in its plain form. What is wrong with it is said without showing a password."""
    if not isinstance(value, str):
        raise TypeError
    if re.search(r"[\s\\\x00-\x1f\x7f]", value):
        raise ValueError("it has a blank, a backslash or a control character in it")
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        raise ValueError("it is not an address: http(s)://host[:port][/path]") from None
    if "@" in url.netloc:
        raise ValueError("it carries a user name or password: give credentials as settings of their own")
    if "?" in value or "#" in value:
        raise ValueError("it has a query or a fragment, and requests need neither")
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise ValueError("it is not an address: http(s)://host[:port][/path]")
    host = _check_host(url.hostname)
    if url.scheme == "http" and host not in LOOPBACK_HOSTS:
        raise ValueError(
            f"plain http would send the key readable through the network, and is for this machine only "
            f"({', '.join(LOOPBACK_HOSTS)}): use https for {host}"
        )
    where = f"[{host}]" if ":" in host else host
    shown_port = "" if port in (None, {"http": 80, "https": 443}[url.scheme]) else f":{port}"
    return f"{url.scheme}://{where}{shown_port}{url.path.rstrip('/')}"


_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def _check_host(host: str) -> str:
    if not host.isascii():
        raise ValueError(
            f"the host {host!r} has letters that may only look like others: if you mean it, "
            f"write it as {_punycode(host)}"
        )
    if host.rstrip(".") in METADATA_HOSTS:
        raise ValueError(f"{host} is where cloud machines hand out credentials")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        if re.fullmatch(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)\.?", host):
            raise ValueError(f"{host} hides an IP address: write it as four decimal numbers") from None
        if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.removesuffix(".").split(".")):
            raise ValueError(f"{host!r} is not a host name") from None
        return host
    inner = _inner_ip(ip)
    if inner.is_link_local or inner.is_multicast or inner.is_unspecified or str(inner) in METADATA_HOSTS:
        raise ValueError(f"{host} is a link-local, metadata, multicast or empty address, never a model's")
    return str(ip)


def _inner_ip(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in ipaddress.ip_network("64:ff9b::/96") or 0xFFFF < int(ip) <= 0xFFFFFFFF:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def _punycode(host: str) -> str:
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return "its punycode form (xn--...)"


_URL = _Kind("an https address", str, _check_url)


# --- the settings ----------------------------------------------------------------------------------------


KINDS: Mapping[str, _Kind] = {
    "api_key": _SECRET,
    "base_url": _URL,
    "model": _NAME,
    "route": _ROUTE,
    "jwt_client_id": _OPTIONAL_NAME,
    "jwt_client_secret": _SECRET,
    "jwt_scope": _NAME,
    "jwt_issuer": _OPTIONAL_NAME,
    "data_dir": _FOLDER,
    "ttl_s": _duration(optional=True),
    "cache": _SWITCH,
    "redis_url": _REDIS_URL,
    "redis_keep_s": _duration(),
    "priority": _whole(1, 5),
    "concurrency_max": _whole(1, 10_000),
    "concurrency_start": _whole(1, 10_000),
    "patience_s": _duration(zero=True),
    "connect_timeout_s": _duration(),
    "silence_timeout_s": _duration(),
    "token_timeout_s": _duration(),
    "total_timeout_s": _duration(),
    "failover_s": _duration(),
    "hedge_after_s": _duration(optional=True),
    "compress": _text(r"none|gzip|zstd", "'none', 'gzip' or 'zstd'"),
    "recall": _SWITCH,
    "share_limit": _SWITCH,
    "stubborn": _SWITCH,
    "budget_usd": _MONEY,
    "budget_day_usd": _MONEY,
    "budget_month_usd": _MONEY,
    "max_repairs": _whole(0, 2),
    "max_faults": _whole(0, 100),
    "when": _text(r"now|offpeak", "'now' or 'offpeak'"),
    "thinking": dataclasses.replace(_SWITCH, optional=True),
    "stream_display": _SWITCH,
}
"""What each setting takes."""


def _default_data_dir() -> Path:
    return Path(platformdirs.user_data_dir("deepseek_nb", appauthor=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, checked. Durations (``..._s``) are seconds or text like ``"30min"``; money is US dollars.

    Raises ConfigError for a value of the wrong type or out of bounds, naming where it came from.

    >>> settings = Settings(api_key="sk-0123456789abcdef", patience_s="10min")
    >>> settings.api_key, settings.patience_s, settings.route_name
    (Secret('****cdef'), 600.0, 'api.deepseek.com')
    """

    api_key: Secret | None = None
    base_url: str = "https://api.deepseek.com"
    """https; plain http for this machine only."""
    model: str = "deepseek-flash"
    route: str | None = None
    """Who answers, part of every cache key; None: host and port of ``base_url``. Read ``route_name``."""
    jwt_client_id: str | None = None
    jwt_client_secret: Secret | None = None
    jwt_scope: str = "compute"
    jwt_issuer: str | None = None
    data_dir: Path = field(default_factory=_default_data_dir)
    """Where answers and jobs are kept."""
    ttl_s: float | None = None
    """How old a kept answer may be; None: any age."""
    cache: bool = True
    """Whether answers are kept and found again."""
    redis_url: Secret | None = None
    """The Redis through which machines share answers, and ask a question once; None: none. For all who share
    it a ``route`` has to be one server."""
    redis_keep_s: float = 86400.0
    """After so long Redis drops an answer; the file keeps it."""
    priority: int = 3
    """1 to 5; 5 goes first."""
    concurrency_max: int = 256
    """Requests in flight at most."""
    concurrency_start: int = 16
    """Requests in flight to begin with; never more than ``concurrency_max``, to which it is lowered."""
    patience_s: float = 600.0
    """How long one question waits for a server without room."""
    connect_timeout_s: float = 10.0
    silence_timeout_s: float = 30.0
    """Without any byte, keep-alives included."""
    token_timeout_s: float = 120.0
    """Without any progress of the answer."""
    total_timeout_s: float = 1800.0
    """For one request, from sending to the last byte."""
    failover_s: float = 5.0
    """How long an interactive call waits for a server before it takes its next route; rows wait six times as
    long. Only where a fallback is given."""
    hedge_after_s: float | None = 5.0
    """After so long without any byte an interactive call sends a second copy; None: never."""
    compress: str = "none"
    """How bodies from 1 KiB on are packed: "gzip" or "zstd". For a gateway of yours; whether DeepSeek's own
    service reads them is not known."""
    recall: bool = False
    """Whether rows that wait in the server's queue are hung up on for an interactive call; whether the server
    charges for them is not known."""
    share_limit: bool = True
    """Whether all kernels of this machine on one account share one limit on requests in flight."""
    stubborn: bool = False
    """Never fewer than eight in flight, and short holds: to hold one's own against a greedy rival on the same
    account, at many times the requests."""
    budget_usd: float | None = None
    """None: no limit."""
    budget_day_usd: float | None = None
    """What all kernels of this machine on one account may spend in a day, by the local calendar."""
    budget_month_usd: float | None = None
    """The same for a calendar month."""
    max_repairs: int = 2
    """How often a charged answer that cannot be used is asked for again."""
    max_faults: int = 8
    """How often one question is sent again after a failure of the server or the connection."""
    when: str = "now"
    """When jobs send: "now", or "offpeak" to wait for the cheap hours."""
    thinking: bool | None = None
    """None: what the task at hand takes as its default."""
    stream_display: bool = True
    """Whether a cell shows its answer as it comes."""
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each value came from; a field that is not in it has its default or was an argument."""

    def __post_init__(self) -> None:
        for name, kind in KINDS.items():
            source = self.sources.get(name, "argument")
            object.__setattr__(self, name, _checked(name, kind, getattr(self, name), source, kind.keep))
        object.__setattr__(self, "concurrency_start", min(self.concurrency_start, self.concurrency_max))

    @property
    def origin(self) -> tuple[str, str]:
        """Scheme, and host with port, of ``base_url``: what a key belongs to."""
        url = urlsplit(self.base_url)
        return url.scheme, url.netloc

    @property
    def route_name(self) -> str:
        """Who answers: ``route``, or host and port of ``base_url``."""
        return self.route or urlsplit(self.base_url).netloc

    def replace(self, **changes: Any) -> Settings:
        """Make a copy with these fields changed, checked again.

        A key belongs to the server it was given for: another ``base_url`` leaves the credentials behind,
        unless they are among the changes. Raises ConfigError for an unknown name or a value that is not
        taken.

        >>> Settings().replace(priority=5).priority
        5
        """
        changes = hidden(changes)
        _refuse_unknown(changes, "argument")
        values = {name: getattr(self, name) for name in KINDS}
        if "base_url" in changes and Settings(base_url=changes["base_url"]).origin != self.origin:
            values |= dict.fromkeys(CREDENTIALS)
        values |= changes
        return Settings(**values, sources={**self.sources, **dict.fromkeys(changes, "argument")})

    def describe(self) -> list[tuple[str, str, str]]:
        """List name, value and source of every setting, secrets masked.

        >>> Settings(model="deepseek-v4-pro").describe()[2]
        ('model', 'deepseek-v4-pro', 'argument')
        """
        defaults = Settings()
        rows = [(name, getattr(self, name), getattr(defaults, name)) for name in KINDS]
        return [
            (name, str(value), self.sources.get(name, "default" if value == default else "argument"))
            for name, value, default in rows
        ]

    def require_credentials(self) -> None:
        """Make sure that there is something to authenticate with: a key, or id and secret for a token.

        Raises ConfigError, naming the ways to give one.
        """
        if self.api_key or (self.jwt_client_id and self.jwt_client_secret):
            return
        if self.jwt_client_id or self.jwt_client_secret:
            lacking = "jwt_client_secret" if self.jwt_client_id else "jwt_client_id"
            raise ConfigError(
                f"A token needs jwt_client_id and jwt_client_secret, and {lacking} is not given.",
                hint=f"Set {PREFIX}{lacking.upper()}, or give {lacking}=... as an argument.",
            )
        raise ConfigError(
            "There is no API key.",
            hint="In a notebook run %deepseek key, or set the environment variable DEEPSEEK_API_KEY "
            "(platform.deepseek.com, API keys), or give api_key=... as an argument, or try everything "
            "without a key: deepseek_nb.use_sandbox()",
        )


# --- where values come from ------------------------------------------------------------------------------


def load_settings(
    *,
    start_dir: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    kept_key: Callable[[str], Secret | None] | None = None,
    **arguments: Any,
) -> Settings:
    """Gather the settings: arguments go before the environment, and that before pyproject.toml.

    The environment variable of a setting is ``DEEPSEEK_NB_`` and its name in capitals; the key's is
    also ``DEEPSEEK_API_KEY``. The file is the nearest ``pyproject.toml`` in ``start_dir`` (None: the
    current folder) or above it; ``DEEPSEEK_NB_PYPROJECT`` names another one, or is ``off``.

    Raises ConfigError for unknown names, values that are not taken, files that cannot be read, and
    for keys and addresses in a file.

    >>> load_settings(environ={"DEEPSEEK_NB_PYPROJECT": "off", "DEEPSEEK_NB_TTL_S": "7d"}).ttl_s
    604800.0
    """
    environ = _Environment(os.environ if environ is None else environ)
    arguments = hidden(arguments)
    _refuse_unknown(arguments, "argument")
    from_environment, variables = _from_environment(environ)
    file = _pyproject(environ, start_dir)
    from_file = {} if file is None else _from_pyproject(file)
    sources = {
        **dict.fromkeys(from_file, str(file)),
        **variables,
        **dict.fromkeys(arguments, "argument"),
    }
    settings = Settings(**{**from_file, **from_environment, **arguments}, sources=sources)
    if kept_key is None or "api_key" in arguments or any(getattr(settings, name) for name in CREDENTIALS):
        return settings
    key = kept_key("://".join(settings.origin))
    return (
        dataclasses.replace(settings, api_key=key, sources={**sources, "api_key": KEPT}) if key else settings
    )


def load_table(
    name: str, *, start_dir: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The table ``[tool.deepseek_nb.NAME]`` of the same ``pyproject.toml``; empty where there is none.

    Raises ConfigError for a file that cannot be read and for what is no table; its ``file`` is the path.
    """
    environ = _Environment(os.environ if environ is None else environ)
    file = _pyproject(environ, start_dir)
    table = {} if file is None else _tool_table(file).get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(
            f"tool.deepseek_nb.{name} in {file} is not a table.",
            hint=f"Begin it with [tool.deepseek_nb.{name}]",
            file=file,
        )
    return table


def _from_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values, and the variable each one came from. An empty variable is as good as none."""
    fields = OTHER_VARIABLES | {PREFIX + name.upper(): name for name in KINDS}
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in fields and variable != PYPROJECT_VARIABLE:
            raise ConfigError(
                f"There is no setting for the environment variable {variable}.",
                hint=_near_hint(variable, [*fields, PYPROJECT_VARIABLE]),
            )
    variables = {name: variable for variable, name in fields.items() if environ.get(variable, "").strip()}
    values = {
        name: _checked(name, kind, hidden(environ[variable].strip(), secret=kind.secret), variable, kind.read)
        for name, variable in variables.items()
        for kind in [KINDS[name]]
    }
    return values, variables


def _pyproject(environ: Mapping[str, str], start_dir: str | os.PathLike[str] | None) -> Path | None:
    named = environ.get(PYPROJECT_VARIABLE, "").strip()
    if named.lower() == "off":
        return None
    if named:
        file = Path(os.path.expanduser(named))  # noqa: PTH111 (leaves the home of nobody as it is)
        if not file.is_file():
            raise ConfigError(f"{PYPROJECT_VARIABLE} names {named!r}, and there is no such file.")
        return file
    try:
        start = Path(start_dir or "").absolute()
    except FileNotFoundError:
        return None  # the current folder was deleted
    return next((file for up in (start, *start.parents) if (file := up / "pyproject.toml").is_file()), None)


def _tool_table(file: Path) -> dict[str, Any]:
    try:
        tools = tomllib.loads(file.read_text(encoding="utf-8")).get("tool")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{file} cannot be read: {error}.",
            hint=f"Mend it, or set {PYPROJECT_VARIABLE}=off to go without it.",
            file=file,
        ) from error
    table = tools.get("deepseek_nb", {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(
            f"tool.deepseek_nb in {file} is not a table.",
            hint="Begin it with [tool.deepseek_nb]",
            file=file,
        )
    return table


def _from_pyproject(file: Path) -> dict[str, Any]:
    table = {name: value for name, value in _tool_table(file).items() if name not in OTHER_TABLES}
    for name in NEVER_FROM_A_FILE:
        if name in table:
            raise ConfigError(
                f"{name} stands in {file}, where it is never taken from: a file of a repository must not "
                "carry a key, send yours elsewhere, nor bring answers along.",
                hint=f"Delete it there; set {PREFIX}{name.upper()} in your environment, or give {name}=... "
                "as an argument.",
            )
    _refuse_unknown(table, str(file))
    return table


class _Environment(Mapping[str, str]):
    """The environment, which shows nothing of itself: a traceback with values would show every key."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        return self._environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)

    def __repr__(self) -> str:
        return "<the environment>"


def hidden(given: Any, *, secret: bool = True) -> Any:
    """What was ``given``, its secrets in a :class:`Secret` each: settings by name, a list of such, or a text.

    A public function that takes a key first puts this in the argument's place. An error that passes
    it then shows no key in a traceback with values, such as IPython's under ``%xmode Verbose``.

    >>> hidden({"api_key": "sk-0123456789abcdef", "priority": 5})
    {'api_key': Secret('****cdef'), 'priority': 5}
    """
    if isinstance(given, dict):
        return {name: hidden(value, secret=_is_secret(name)) for name, value in given.items()}
    if isinstance(given, list | tuple) and not secret:
        return [hidden(each, secret=False) for each in given]
    if not secret or given is None or isinstance(given, Secret | Settings):
        return given
    return Secret(given) if isinstance(given, str) else type(given)  # refused, and not shown


def _is_secret(name: Any) -> bool:
    return name in KINDS and KINDS[name].secret


def _checked(name: str, kind: _Kind, value: Any, source: str, step: Callable[[Any], Any]) -> Any:
    """``step(value)``, its errors turned into ConfigError. A secret, or an address, is never shown."""
    try:
        return step(value)
    except (TypeError, ValueError) as error:
        why = str(error) if kind is _URL and isinstance(error, ValueError) else ""
        shown = "" if kind.secret or kind is _URL else f" {value!r}"
        raise ConfigError(
            f"{name}{shown} ({_from(source)}) is not taken" + (f": {why}." if why else "."),
            hint="" if why else f"It has to be {kind.says}.",
        ) from None


def _refuse_unknown(names: Iterable[str], source: str) -> None:
    for name in names:
        if name not in KINDS:
            raise ConfigError(
                f"There is no setting {name!r} ({_from(source)}).", hint=_near_hint(name, KINDS)
            )


def _from(source: str) -> str:
    return "given as an argument" if source == "argument" else f"from {source}"


def _near_hint(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
