"""Credentials: what is sent, to whom, how often, and what is accepted."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import httpx
import jwt
import pytest
from raw_server import raw_server

from deepseek_nb.adapters.auth import ApiKey, JWTBearer, verify
from deepseek_nb.core.errors import AuthError, ConfigError
from deepseek_nb.core.secret import Secret

KEY = "sk-canary-7d41f0aa93b2c6e8"
SECRET = "0123456789abcdef0123456789abcdef"
URL = "https://api.deepseek.com/chat/completions"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now_s=None):
        self.now_s = time.time() if now_s is None else now_s

    def __call__(self):
        return self.now_s


def sent(auth, url=URL):
    """The Authorization header ``auth`` sets on a request to ``url``."""
    return next(auth.auth_flow(httpx.Request("POST", url))).headers["authorization"]


def claims(header, **options):
    assert header.startswith("Bearer ")
    required = {"require": ["iss", "sub", "iat", "exp", "scope", "jti"]}
    return jwt.decode(header[7:], SECRET, algorithms=["HS256"], options=required, **options)


def ask(script, auth):
    """One POST with ``auth`` to a raw server that runs ``script``; the answer, and what the server saw."""

    async def main():
        async with raw_server(script) as server, httpx.AsyncClient(auth=auth, trust_env=False) as client:
            return await client.post(server.url, json={}), server.requests

    return asyncio.run(main())


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [KEY, Secret(KEY), f"  {KEY}\n"])
def test_a_key_goes_to_the_origin_it_was_given_for(given):
    auth = ApiKey(given, origin="https://api.deepseek.com/v1")
    assert sent(auth) == f"Bearer {KEY}"
    assert sent(auth, "https://API.deepseek.com:443/models") == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "url",
    [
        "http://api.deepseek.com/",
        "https://api.deepseek.com:8443/",
        "https://evil.example/",
        "https://api.deepseek.com.evil.example/",
        "https://api.deepseek.com@evil.example/",
        "https://\u0430pi.deepseek.com/",
    ],
)
def test_a_key_goes_nowhere_else(url):
    auth = ApiKey(KEY, origin="https://api.deepseek.com")
    request = httpx.Request("POST", url)
    with pytest.raises(ConfigError, match=r"given for https://api\.deepseek\.com and is not sent") as caught:
        next(auth.auth_flow(request))
    assert "authorization" not in {name for name in request.headers if request.url.userinfo == b""}
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["", "  ", "sk-a b", "sk-a\nX-Evil: 1", "ｓｋ-1234567890", "sk-…"])
def test_a_key_that_cannot_be_one(key):
    with pytest.raises(ConfigError) as caught:
        ApiKey(key, origin="https://api.deepseek.com")
    assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize("origin", ["", "api.deepseek.com", "file:///etc", "https://[::1", None])
def test_a_key_needs_an_origin(origin):
    with pytest.raises(ConfigError, match="web address"):
        ApiKey(KEY, origin=origin)


def test_a_key_is_sent_once_even_after_a_401():
    async def script(wire):
        while await wire.request():
            await wire.answer(b"no", status="401 Unauthorized")

    async def main():
        async with raw_server(script) as server:
            async with httpx.AsyncClient(auth=ApiKey(KEY, origin=server.url), trust_env=False) as client:
                response = await client.post(server.url, json={})
            return response.status_code, len(server.requests)

    assert asyncio.run(main()) == (401, 1)


def test_nothing_shows_a_secret():
    key, token = ApiKey(KEY, origin="https://[::1]:8000/x"), JWTBearer("desk", SECRET)
    assert repr(key) == "ApiKey('****c6e8', origin='https://[::1]:8000')"
    assert repr(token) == "JWTBearer('desk', '****cdef', scope='compute')"
    sent(token)
    for auth, secret in ((key, KEY), (token, SECRET)):
        assert secret not in repr(auth) + str(auth) + f"{auth}" + repr(vars(auth))
        with pytest.raises(TypeError):
            pickle.dumps(auth)
    assert "eyJ" not in repr(vars(token)), "the token is as good as the secret while it lives"


# -- tokens ----------------------------------------------------------------------------------------


def test_what_a_token_says():
    clock = Clock()
    auth = JWTBearer("desk", SECRET, scope="stream", issuer="acme", audience="gateway", clock=clock)
    told = claims(sent(auth), audience="gateway", issuer="acme")
    assert (told["iss"], told["sub"], told["aud"], told["scope"]) == ("acme", "desk", "gateway", "stream")
    assert told["iat"] == int(clock.now_s - 30)
    assert told["exp"] == int(clock.now_s + 300)
    assert claims(sent(JWTBearer("desk", SECRET)))["iss"] == "desk"
    assert claims(sent(JWTBearer("desk", SECRET)))["jti"] != claims(sent(JWTBearer("desk", SECRET)))["jti"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"secret": "deepseek-jwt-token"}, "has 18 bytes"),
        ({"secret": "x" * 31}, "has 31 bytes"),
        ({"lifetime_s": 0}, "lifetime_s"),
        ({"lifetime_s": 301}, "lifetime_s"),
        ({"lifetime_s": float("nan")}, "lifetime_s"),
        ({"client_id": ""}, "client_id"),
        ({"origin": "gateway"}, "web address"),
    ],
)
def test_settings_that_are_refused(options, says):
    with pytest.raises(ConfigError, match=says) as caught:
        JWTBearer(**{"client_id": "desk", "secret": SECRET} | options)
    assert "deepseek-jwt-token" not in str(caught.value)


def test_a_token_can_be_kept_to_one_origin():
    auth = JWTBearer("desk", SECRET, origin="https://gateway.example")
    assert claims(sent(auth, "https://gateway.example/v1"))
    with pytest.raises(ConfigError, match="not sent to"):
        sent(auth, URL)


def test_a_token_is_renewed_at_80_percent_of_its_age_by_the_monotonic_clock():
    clock, monotonic = Clock(), Clock(1000.0)
    auth = JWTBearer("desk", SECRET, clock=clock, monotonic=monotonic)
    first = sent(auth)
    clock.now_s += 5000  # somebody sets the wall clock: no reason to renew
    monotonic.now_s += 239
    assert sent(auth) == first
    monotonic.now_s += 1
    assert sent(auth) != first
    assert auth.tokens_made == 2


def test_500_concurrent_calls_at_expiry_make_one_new_token():
    async def script(wire):
        while await wire.request():
            await wire.answer(b"{}")

    monotonic = Clock(0.0)
    auth = JWTBearer("desk", SECRET, monotonic=monotonic)

    async def main():
        async with raw_server(script) as server:
            limits = httpx.Limits(max_connections=25)
            async with httpx.AsyncClient(auth=auth, trust_env=False, limits=limits, timeout=30) as client:
                await client.post(server.url)
                monotonic.now_s += 299
                await asyncio.gather(*(client.post(server.url) for _ in range(500)))
            return [seen.headers["authorization"] for seen in server.requests]

    headers = asyncio.run(main())
    assert len(headers) == 501
    assert len(set(headers[1:])) == 1
    assert auth.tokens_made == 2


def test_500_calls_of_32_threads_at_expiry_make_one_new_token():
    monotonic = Clock(0.0)
    auth = JWTBearer("desk", SECRET, monotonic=monotonic)
    sent(auth)
    monotonic.now_s += 240
    gate = threading.Barrier(32)

    def many(_):
        gate.wait()
        return {sent(auth) for _ in range(16)}

    with ThreadPoolExecutor(32) as pool:
        headers = set().union(*pool.map(many, range(32)))
    assert (len(headers), auth.tokens_made) == (1, 2)


def test_many_401s_at_once_make_one_new_token():
    async def script(wire):
        while seen := await wire.request():
            good = seen.headers["authorization"] != first
            await wire.answer(b"{}", status="200 OK" if good else "401 Unauthorized")

    auth = JWTBearer("desk", SECRET)
    first = sent(auth)

    async def main():
        async with raw_server(script) as server:
            async with httpx.AsyncClient(auth=auth, trust_env=False) as client:
                responses = await asyncio.gather(*(client.post(server.url, json={}) for _ in range(20)))
            return [response.status_code for response in responses]

    assert asyncio.run(main()) == [200] * 20
    assert auth.tokens_made == 2


def test_a_401_loop_ends_after_one_retry():
    async def script(wire):
        while await wire.request():
            await wire.answer(
                b"no", status="401 Unauthorized", headers=f"Date: {formatdate(usegmt=True)}\r\n"
            )

    auth = JWTBearer("desk", SECRET)
    response, requests = ask(script, auth)
    assert response.status_code == 401
    assert len(requests) == 2
    assert len({seen.headers["authorization"] for seen in requests}) == 2
    assert [seen.body for seen in requests] == [b"{}", b"{}"]
    assert auth.tokens_made == 2


def test_a_403_is_not_asked_again():
    async def script(wire):
        while await wire.request():
            await wire.answer(b"no", status="403 Forbidden")

    response, requests = ask(script, JWTBearer("desk", SECRET))
    assert (response.status_code, len(requests)) == (403, 1)


def test_the_sync_client_renews_alike():
    async def script(wire):
        while await wire.request():
            again = len(wire.requests) > 1
            await wire.answer(b"{}", status="200 OK" if again else "401 Unauthorized")

    def post(url):
        with httpx.Client(auth=JWTBearer("desk", SECRET), trust_env=False) as client:
            return client.post(url, json={}).status_code

    async def main():
        async with raw_server(script) as server:
            return await asyncio.to_thread(post, server.url), server.requests

    status, requests = asyncio.run(main())
    assert status == 200
    assert len({seen.headers["authorization"] for seen in requests}) == 2


@pytest.mark.parametrize("off_s", [-600, 600])
@pytest.mark.parametrize("date", [True, False])
def test_a_clock_ten_minutes_off_is_corrected_by_the_servers_date(off_s, date):
    async def script(wire):
        while seen := await wire.request():
            told = f"Date: {formatdate(usegmt=True)}\r\n" if date else ""
            try:
                verify(seen.headers["authorization"][7:], SECRET, issuer="desk")
            except AuthError:
                await wire.answer(b"no", status="401 Unauthorized", headers=told)
            else:
                await wire.answer(b"{}", headers=told)

    monotonic = Clock(0.0)
    auth = JWTBearer("desk", SECRET, clock=lambda: time.time() + off_s, monotonic=monotonic)
    response, requests = ask(script, auth)
    assert (response.status_code, len(requests)) == (200 if date else 401, 2)
    if date:  # and the correction is kept for the next token
        monotonic.now_s += 299
        response, requests = ask(script, auth)
        assert (response.status_code, len(requests)) == (200, 1)


@pytest.mark.parametrize(
    "date",
    ["", "yesterday", "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "1", "Mon, 99"],
)
def test_a_date_that_cannot_be_right_is_not_believed(date):
    clock = Clock()
    auth = JWTBearer("desk", SECRET, clock=clock)
    flow = auth.auth_flow(httpx.Request("POST", URL))
    next(flow)
    again = flow.send(httpx.Response(401, headers={"date": date}))
    assert claims(again.headers["authorization"])["exp"] == int(clock.now_s + 300)


# -- the other end -----------------------------------------------------------------------------------


def made(secret=SECRET, algorithm="HS256", drop=(), **changed):
    now_s = int(time.time())
    told = {"iss": "desk", "iat": now_s, "exp": now_s + 60, "scope": "compute"} | changed
    return jwt.encode({name: told[name] for name in told if name not in drop}, secret, algorithm=algorithm)


def test_a_good_token_is_accepted_also_with_the_secret_before():
    assert verify(made(), SECRET, issuer="desk")["scope"] == "compute"
    assert verify(made(), [Secret("n" * 32), Secret(SECRET)], issuer="desk")["iss"] == "desk"
    assert verify(made(aud="gw"), SECRET, issuer="desk", audience="gw")["aud"] == "gw"
    assert verify(made(exp=time.time() - 20), SECRET, issuer="desk")
    assert verify(made(iat=time.time() + 20), SECRET, issuer="desk")
    assert verify(sent(JWTBearer("desk", SECRET))[7:], SECRET, issuer="desk")["sub"] == "desk"


def _unsigned():
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part({'iss': 'desk', 'exp': time.time() + 60})}."


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: made(secret="m" * 32), "known secret"),
        (lambda: made(exp=1_700_000_000), "expired"),
        (lambda: made(iat=4_000_000_000), "not valid yet"),
        (lambda: made(nbf=4_000_000_000), "not valid yet"),
        (lambda: made(iss="other"), "another issuer"),
        (lambda: made(drop=["iss"]), "lacks"),
        (lambda: made(drop=["exp"]), "lacks"),
        (lambda: made(aud="gateway"), "another audience"),
        (lambda: made(secret="x" * 64, algorithm="HS512"), "not an HS256"),
        (_unsigned, "not an HS256"),
        (lambda: made()[:-3] + "abc", "known secret"),
        (str, "cannot be read"),
        (lambda: "a.b.c", "cannot be read"),
        (lambda: "x" * 10_000, "too long"),
    ],
)
def test_a_token_that_is_refused(make, says):
    token = make()
    with pytest.raises(AuthError, match=says) as caught:
        verify(token, [SECRET, "z" * 32], issuer="desk")
    assert caught.value.status == 401
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("secrets", ["short", [], [SECRET, "short"]])
def test_a_secret_that_is_too_short_checks_nothing(secrets):
    with pytest.raises(ConfigError):
        verify(made(), secrets, issuer="desk")
