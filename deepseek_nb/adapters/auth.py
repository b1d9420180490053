"""Credentials: sets the Authorization header in the last layer before the wire, and checks tokens.

Two ways in, both an ``httpx.Auth``: :class:`ApiKey` (what DeepSeek itself takes) and
:class:`JWTBearer` (HS256 tokens, made here and renewed in time, for a gateway that wants them).
:func:`verify` is the other end of the second. No class here shows its secret.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any

import httpx

from deepseek_nb.core.errors import AuthError, ConfigError
from deepseek_nb.core.secret import Secret

__all__ = ["ApiKey", "JWTBearer", "verify"]

ALGORITHM = "HS256"
BACKDATED_S = 30  # how far ``iat`` lies back: a server whose clock is a little behind accepts it too
LONGEST_TOKEN = 8192
MAX_LIFETIME_S = 300.0
MAX_SKEW_S = 86_400.0  # a Date header further off than this is not believed
MIN_SECRET_BYTES = 32
RENEW_AT = 0.8  # of the lifetime


class ApiKey(httpx.Auth):
    """Sends ``key`` as a bearer token, to the one origin it was given for.

    ``origin`` is an address such as ``"https://api.deepseek.com/v1"``, of which scheme, host and
    port count. A request to any other raises ConfigError before the key is on it. Raises ConfigError
    for a key that is empty or holds spaces, line ends or letters outside ASCII (white space around
    it is taken off).

    >>> ApiKey("sk-0123456789abcdef", origin="https://api.deepseek.com")
    ApiKey('****cdef', origin='https://api.deepseek.com')
    """

    sends_once = True
    """Whatever is answered: the answer need not be shown to :meth:`auth_flow`."""

    def __init__(self, key: Secret | str, *, origin: str) -> None:
        key = Secret(Secret(key).reveal().strip())  # no frame of ours holds it bare, should it be shown
        self._key, self._origin = key, ""
        if not re.fullmatch(r"[!-~]+", key.reveal()):
            what = (
                "holds characters no key has (spaces, line ends, full-width letters)" if key else "is empty"
            )
            raise ConfigError(
                f"The API key {what}.", hint="Copy it again from platform.deepseek.com, API keys."
            )
        self._origin = _origin(origin)
        self._known: httpx.URL | None = None  # the address that was found good the last time

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Set the header; nothing is renewed or sent again."""
        if request.url is not self._known:
            _same_origin(request, self._origin)
            self._known = request.url
        request.headers["Authorization"] = f"Bearer {self._key.reveal()}"
        yield request

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._key.mask!r}, origin={self._origin!r})"


class JWTBearer(httpx.Auth):
    """Makes short-lived HS256 tokens from a shared secret, and sends one with every request.

    Claims: ``iss`` (``issuer``, or ``client_id``), ``sub`` (``client_id``), ``aud`` (where
    ``audience`` is given), ``scope``, ``jti``, ``iat`` (30 s back) and ``exp`` (``lifetime_s`` from
    now, at most 300 s). A token is renewed at 80 % of its life, measured by ``monotonic``; calls
    that find it old at the same moment share one new token. After a 401, and a 403 that says
    ``invalid_token`` in WWW-Authenticate (RFC 6750), the request is sent once more with a new token, never
    twice more; if the answer's Date header tells that this machine's
    clock is more than 30 s off, the new token is made for the server's clock. ``origin``, where
    given, is the only place tokens are sent to, as with :class:`ApiKey`. May be shared by threads.

    Raises ConfigError for a secret under 32 bytes or a lifetime out of range. Making a token costs
    microseconds and no request.

    >>> JWTBearer("risk-desk", "0123456789abcdef0123456789abcdef")
    JWTBearer('risk-desk', '****cdef', scope='compute')
    """

    def __init__(
        self,
        client_id: str,
        secret: Secret | str,
        *,
        scope: str = "compute",
        issuer: str | None = None,
        audience: str | None = None,
        lifetime_s: float = MAX_LIFETIME_S,
        origin: str | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        secret = Secret(secret)  # no frame of ours holds it bare, should it be shown
        self._secret = secret
        self._claims = {"iss": issuer or client_id, "sub": client_id, "scope": scope}
        if not client_id:
            raise ConfigError("client_id is empty.")
        if not 1 <= lifetime_s <= MAX_LIFETIME_S:
            raise ConfigError(f"lifetime_s must be 1 to {MAX_LIFETIME_S:g} seconds, not {lifetime_s!r}.")
        self._secret = _long_enough(secret)
        if audience is not None:
            self._claims["aud"] = audience
        self._lifetime_s = lifetime_s
        self._origin = None if origin is None else _origin(origin)
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._token = Secret("")
        self._made_at_s = 0.0
        self._skew_s = 0.0
        self._tokens_made = 0

    @property
    def tokens_made(self) -> int:
        """How many tokens were made so far."""
        return self._tokens_made

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Set the header; where the token is refused renew and send once more, whatever comes then."""
        if self._origin is not None:
            _same_origin(request, self._origin)
        token = self._current()
        request.headers["Authorization"] = f"Bearer {token.reveal()}"
        response = yield request
        if _token_refused(response):
            token = self._renewed(token, response.headers.get("date"))
            request.headers["Authorization"] = f"Bearer {token.reveal()}"
            yield request

    def _current(self) -> Secret:
        with self._lock:
            old = self._monotonic() - self._made_at_s >= RENEW_AT * self._lifetime_s
            return self._make() if old or not self._token else self._token

    def _renewed(self, rejected: Secret, date: str | None) -> Secret:
        with self._lock:
            if self._token != rejected:  # another call has renewed it meanwhile
                return self._token
            server_s = _seconds(date)
            if server_s is not None:
                skew_s = server_s - self._clock()
                if abs(skew_s - self._skew_s) > BACKDATED_S and abs(skew_s) <= MAX_SKEW_S:
                    self._skew_s = skew_s
            return self._make()

    def _make(self) -> Secret:
        now_s = self._clock() + self._skew_s
        times = {
            "iat": int(now_s - BACKDATED_S),
            "exp": int(now_s + self._lifetime_s),
            "jti": uuid.uuid4().hex,
        }
        encode = import_module("jwt").encode  # 0.1 s that an API key need not wait for
        self._token = Secret(encode(self._claims | times, self._secret.reveal(), algorithm=ALGORITHM))
        self._made_at_s = self._monotonic()
        self._tokens_made += 1
        return self._token

    def __repr__(self) -> str:
        name, scope = self._claims["sub"], self._claims["scope"]
        return f"{type(self).__name__}({name!r}, {self._secret.mask!r}, scope={scope!r})"


def verify(
    token: str,
    secrets: Secret | str | Sequence[Secret | str],
    *,
    issuer: str,
    audience: str | None = None,
    leeway_s: float = 30.0,
) -> dict[str, Any]:
    """Check ``token`` and give its claims: HS256, from ``issuer``, signed with one of ``secrets``, in time.

    Several secrets are for the days on which one is replaced by another. ``exp`` and ``iss`` must be
    there; ``iat`` and ``nbf`` may not lie ahead; ``leeway_s`` is how far the clocks may differ.
    ``audience`` must be given for a token that names one. Scope is for the caller to check.

    Raises AuthError (status 401; the message never holds the token), ConfigError for a secret under
    32 bytes. Costs microseconds and no request.

    >>> verify(token, secret, issuer="risk-desk")["scope"]                      # doctest: +SKIP
    'compute'
    """
    secrets = [Secret(each) for each in ([secrets] if isinstance(secrets, Secret | str) else secrets)]
    shown = Secret(token)
    token = shown.mask  # what a traceback with values shows
    keys = [_long_enough(each) for each in secrets]
    if not keys:
        raise ConfigError("There is no secret to check tokens with.")
    if len(shown.reveal()) > LONGEST_TOKEN:
        raise _refused("The token is too long.")
    problem, jwt = "", import_module("jwt")
    for key in keys:
        try:
            return dict(
                jwt.decode(
                    shown.reveal(),
                    key.reveal(),
                    algorithms=[ALGORITHM],
                    issuer=issuer,
                    audience=audience,
                    leeway=leeway_s,
                    options={"require": ["exp", "iss"]},
                )
            )
        except jwt.InvalidSignatureError:
            problem = "The token is not signed with a known secret."
        except jwt.InvalidTokenError as exc:
            problem = next(PROBLEMS[kind.__name__] for kind in type(exc).__mro__ if kind.__name__ in PROBLEMS)
            break
    raise _refused(problem)


PROBLEMS = {
    "ExpiredSignatureError": "The token has expired.",
    "ImmatureSignatureError": "The token is not valid yet.",
    "InvalidIssuerError": "The token comes from another issuer.",
    "InvalidAudienceError": "The token is meant for another audience.",
    "MissingRequiredClaimError": "The token lacks exp, iss or the audience.",
    "InvalidAlgorithmError": "The token is not an HS256 token.",
    "InvalidTokenError": "The token cannot be read.",
}
"""By pyjwt's error class."""


def _refused(problem: str) -> AuthError:
    return AuthError(problem, hint="Get a new token, and check this machine's clock.", status=401)


def _long_enough(secret: Secret | str) -> Secret:
    secret = Secret(secret)
    size = len(secret.reveal().encode())
    if size < MIN_SECRET_BYTES:
        raise ConfigError(
            f"The shared secret has {size} bytes; HS256 needs at least {MIN_SECRET_BYTES}.",
            hint='Make one with: python -c "import secrets; print(secrets.token_urlsafe(48))"',
        )
    return secret


def _token_refused(response: httpx.Response) -> bool:
    if response.status_code == 403:  # our gateway's answer to a token that is not good, or no longer
        return "invalid_token" in response.headers.get("www-authenticate", "")
    return response.status_code == 401


def _seconds(date: str | None) -> float | None:
    """Read an HTTP date: seconds since 1970, None where there is none to read."""
    try:
        moment = parsedate_to_datetime(date or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _origin(address: str | httpx.URL) -> str:
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, TypeError):
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError("The address a key is given for is not a web address.")
    port = "" if url.port is None else f":{url.port}"
    host = url.raw_host.decode("ascii")
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _same_origin(request: httpx.Request, origin: str) -> None:
    other = _origin(request.url)
    if other != origin:
        raise ConfigError(
            f"This key was given for {origin} and is not sent to {other}.",
            hint="Give each server its own key, together with its base_url.",
        )
