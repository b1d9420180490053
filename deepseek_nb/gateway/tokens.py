"""Who asks: tokens are issued for a tenant's secret, and checked, whether we or the tenant signed them.

A token is an HS256 JWT whose ``iss`` is the tenant, signed with one of the tenant's live secrets. Ours
and the tenant's own are of one kind, so that there is one check. No credentials at all is a 401 that
says how to authenticate; credentials that are not good are a 403.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import jwt

from deepseek_nb.adapters.auth import ALGORITHM, LONGEST_TOKEN, verify
from deepseek_nb.core.errors import AuthError
from deepseek_nb.core.secret import Secret
from deepseek_nb.gateway.config import GatewayConfig, Tenant
from deepseek_nb.gateway.refusals import ApiError

__all__ = ["Caller", "Doorkeeper"]

KNOWN_TOKENS = 4096
"""So many tokens that were found good are remembered until they expire: a check takes some 0.1 ms."""
REALM = 'Bearer realm="deepseek-nb"'
LONGEST_FORM = 16_384


class Caller:
    """A tenant that has shown who it is, with the scopes of this token."""

    __slots__ = ("scopes", "tenant")

    def __init__(self, tenant: Tenant, scopes: frozenset[str]) -> None:
        self.tenant = tenant
        self.scopes = scopes

    def require(self, *scopes: str) -> None:
        """Raise a 403 unless the token has one of these scopes."""
        if self.scopes.isdisjoint(scopes):
            raise ApiError(
                403,
                f"The token lacks the scope {' or '.join(scopes)}.",
                kind="authentication_error",
                code="insufficient_scope",
                headers={"www-authenticate": f'{REALM}, error="insufficient_scope"'},
            )


class Doorkeeper:
    """Issues tokens and checks them. ``clock`` gives seconds since 1970."""

    def __init__(self, config: GatewayConfig, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, Caller]] = OrderedDict()
        self._nobody = Secret(secrets.token_urlsafe(48))  # what an unknown tenant's token is checked with

    # -- checking

    def admit(self, authorization: str | None) -> Caller:
        """The caller by its Authorization header. Raises ApiError: 401 without one, 403 for a bad one."""
        scheme, _, token = (authorization or "").strip().partition(" ")
        token = token.strip()
        if not token or scheme.lower() != "bearer":
            raise ApiError(
                401,
                "There is no token. Get one from POST /oauth/token, or sign one with your secret, and send "
                "it as: Authorization: Bearer TOKEN",
                kind="authentication_error",
                code="missing_token",
                headers={"www-authenticate": REALM},
            )
        until_s, caller = self._known.get(token, (0.0, None))
        if caller is None or until_s <= self._clock():
            until_s, caller = self._checked(token)
            self._known[token] = until_s, caller
            if len(self._known) > KNOWN_TOKENS:
                self._known.popitem(last=False)
        return caller

    def _checked(self, token: str) -> tuple[float, Caller]:
        """The caller, and until when the token is good. Raises a 403."""
        said = _payload(token)
        issuer = said.get("iss")
        issuer = issuer if isinstance(issuer, str) else ""
        tenant = self._config.tenant(issuer)
        try:
            claims = verify(
                token,
                (self._nobody,) if tenant is None else tenant.secrets,
                issuer=issuer,
                audience=self._config.audience if "aud" in said else None,
                leeway_s=self._config.skew_s,
            )
        except AuthError as refused:
            raise _forbidden(refused.message) from None
        if tenant is None:
            raise _forbidden("The token is not signed with a known secret.")
        expires_s = int(claims["exp"])
        if expires_s > self._clock() + self._config.token_lifetime_max_s + self._config.skew_s:
            raise _forbidden("The token is valid for too long.")
        scopes = frozenset(_scopes(claims)) & frozenset(tenant.scopes)
        return expires_s + self._config.skew_s, Caller(tenant, scopes)

    # -- issuing

    def issue(self, body: bytes, authorization: str | None) -> dict[str, Any]:
        """The answer to ``POST /oauth/token``: form or Basic, ``grant_type=client_credentials``.

        Raises ApiError in OAuth's words (RFC 6749, 5.2).
        """
        form = _form(body)
        by_header = authorization is not None
        name, secret = (
            _basic(authorization) if authorization else (form.get("client_id"), form.get("client_secret"))
        )
        if by_header and ("client_secret" in form or form.get("client_id", name) != name):
            raise _oauth(400, "invalid_request", "Two ways to authenticate at once.")
        if name is None or secret is None:
            raise _unknown_client()
        tenant = self._config.tenant(name)
        # as RFC 6749 wants it in the header, and as curl -u sends it
        forms = {unquote_plus(secret), secret} if by_header else {secret}
        if not self._knows(tenant, forms) or tenant is None:
            raise _unknown_client()
        if form.get("grant_type") != "client_credentials":
            code = "unsupported_grant_type" if form.get("grant_type") else "invalid_request"
            raise _oauth(400, code, "grant_type has to be client_credentials.")
        wanted = form.get("scope", "").split() or list(tenant.scopes)
        if strange := [scope for scope in wanted if scope not in tenant.scopes]:
            raise _oauth(400, "invalid_scope", f"The scope {strange[0]!r:.40} is not yours.")
        return self._token(tenant, " ".join(wanted))

    def _knows(self, tenant: Tenant | None, forms: set[str]) -> bool:
        given = [form.encode("utf-8", "surrogatepass") for form in forms]
        known = [self._nobody] if tenant is None else tenant.secrets
        # all of them are compared, whichever fits
        fits = sum(hmac.compare_digest(each, one.reveal().encode()) for each in given for one in known)
        return tenant is not None and fits > 0

    def _token(self, tenant: Tenant, scope: str) -> dict[str, Any]:
        now_s, lifetime_s = (
            int(self._clock()),
            int(min(self._config.token_lifetime_s, self._config.token_lifetime_max_s)),
        )
        claims = {
            "iss": tenant.name,
            "sub": tenant.name,
            "scope": scope,
            "iat": now_s,
            "exp": now_s + lifetime_s,
            "jti": uuid.uuid4().hex,
        }
        if self._config.audience is not None:
            claims["aud"] = self._config.audience
        token = jwt.encode(claims, tenant.secrets[0].reveal(), algorithm=ALGORITHM)
        return {"access_token": token, "token_type": "Bearer", "expires_in": lifetime_s, "scope": scope}


def _forbidden(problem: str) -> ApiError:
    return ApiError(
        403,
        f"{problem} Get a new one, and check this machine's clock.",
        kind="authentication_error",
        code="invalid_token",
        headers={"www-authenticate": f'{REALM}, error="invalid_token"'},
    )


def _payload(token: str) -> Mapping[str, Any]:
    """What the token says of itself, which nobody has checked yet."""
    parts = token.split(".")
    if len(token) > LONGEST_TOKEN or len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _scopes(claims: Mapping[str, Any]) -> list[str]:
    scope = claims.get("scope")
    if isinstance(scope, list):
        return [each for each in scope if isinstance(each, str)]
    return scope.split() if isinstance(scope, str) else []


def _form(body: bytes) -> dict[str, str]:
    if len(body) > LONGEST_FORM:
        raise _oauth(400, "invalid_request", "The form is too long.")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=20
        )
    except ValueError:
        raise _oauth(400, "invalid_request", "The body is not a form.") from None
    if len(dict(pairs)) < len(pairs):
        raise _oauth(400, "invalid_request", "A field stands twice.")
    return dict(pairs)


def _basic(authorization: str) -> tuple[str | None, str | None]:
    scheme, _, coded = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return None, None
    try:
        text = base64.b64decode(coded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None, None
    name, colon, secret = text.partition(":")
    return (unquote_plus(name), secret) if colon else (None, None)


class _OAuthError(ApiError):
    """An error in the form of RFC 6749."""

    def body(self) -> bytes:
        told = {"error": self.code, "error_description": re.sub(r"[^ !#-\[\]-~]", "?", self.message)}
        return json.dumps(told).encode()


def _oauth(status: int, code: str, message: str, **headers: str) -> ApiError:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return _OAuthError(status, message, code=code, headers={"cache-control": "no-store", **given})


def _unknown_client() -> ApiError:
    """One answer for a name that is unknown and for a secret that is wrong."""
    return _oauth(
        401,
        "invalid_client",
        "Unknown client, or wrong secret.",
        www_authenticate='Basic realm="deepseek-nb"',
    )
