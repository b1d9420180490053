"""S2: short-lived tokens, end to end: one renewal for all who wait, one retry on a 401, wrong clocks."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import jwt
import pytest

import deepseek_nb as ds
from deepseek_nb.adapters.auth import JWTBearer, verify
from deepseek_nb.core.errors import AuthError, ConfigError

from .canary import CLIENT_SECRET, serving

ANSWER = {
    "model": "m",
    "choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


class _Gateway(BaseHTTPRequestHandler):
    """Verifies each token by our own rules at its own clock; ``strict`` refuses even good ones."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        token = self.headers["authorization"].removeprefix("Bearer ")
        now_s = time.time() + self.server.ahead_s
        with self.server.lock:
            self.server.tokens.append(token)
        status, body = 200, ANSWER
        try:
            told = jwt.decode(
                token,
                CLIENT_SECRET,
                algorithms=["HS256"],
                issuer="desk",
                options={"verify_exp": False, "verify_iat": False, "require": ["exp", "iat", "iss", "jti"]},
            )
            late = now_s > told["exp"] or told["iat"] > now_s + 1 or told["exp"] - told["iat"] > 331
        except jwt.InvalidTokenError:
            late = True
        if late or self.server.strict or token in self.server.revoked:
            status, body = 401, {"error": {"message": "no", "type": "authentication_error"}}
        data = json.dumps(body).encode()
        self.send_response_only(status)
        self.send_header("Date", formatdate(now_s, usegmt=True))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


@contextmanager
def gateway(*, ahead_s: float = 0.0, strict: bool = False) -> Iterator[_Server]:
    """A gateway whose clock is ``ahead_s`` ahead; ``tokens`` are those it saw, in order."""
    server = _Server(("127.0.0.1", 0), _Gateway)
    server.ahead_s, server.strict, server.tokens, server.revoked = ahead_s, strict, [], set()
    server.lock = threading.Lock()
    with serving(server):
        yield server


def settings(server: _Server, folder, **more) -> dict:
    return {
        "base_url": f"http://127.0.0.1:{server.server_address[1]}",
        "jwt_client_id": "desk",
        "jwt_client_secret": CLIENT_SECRET,
        "data_dir": folder,
        "patience_s": 5,
        "cache": False,
    } | more


def test_500_calls_at_expiry_renew_once(tmp_path):
    """The token of the first call is revoked; 500 calls at once find out and share one new token."""

    async def main(server: _Server) -> list[str]:
        own = settings(server, tmp_path, concurrency_max=500, concurrency_start=500)
        async with ds.AsyncClient(**own) as client:
            await client.ask("first")
            server.revoked.update(server.tokens)
            answers = await asyncio.gather(*(client.ask(f"question {n}") for n in range(500)))
        return [answer.text for answer in answers]

    with gateway() as server:
        assert asyncio.run(main(server)) == ["yes"] * 500
    old, *rest = server.tokens
    assert set(rest) - {old} == {rest[-1]}, "exactly one new token"
    assert rest.count(old) <= 500, "each call meets the old token at most once"
    assert rest.count(rest[-1]) == 500


@pytest.mark.parametrize("ahead_s", [-600, -31, 0, 31, 600])
def test_a_clock_ten_minutes_off_does_not_matter(ahead_s, tmp_path):
    """Either direction: at most one refused try, after which tokens are made for the server's clock."""
    with gateway(ahead_s=ahead_s) as server, ds.Client(**settings(server, tmp_path)) as client:
        assert [client.ask(f"question {n}").text for n in range(5)] == ["yes"] * 5
    assert len(server.tokens) <= 6
    assert len(set(server.tokens)) <= 2


def test_a_401_loop_ends_after_one_renewal(tmp_path):
    """Two requests with two tokens, then an error that says so; the next call starts the same, no worse."""
    with gateway(strict=True) as server, ds.Client(**settings(server, tmp_path)) as client:
        with pytest.raises(AuthError):
            client.ask("?")
        assert len(server.tokens) == len(set(server.tokens)) == 2
        with pytest.raises(AuthError):
            client.ask("?")
    assert len(server.tokens) == 4


@pytest.mark.parametrize("secret", ["deepseek-jwt-token", "x" * 31, "ä" * 15])
def test_a_short_secret_is_refused_before_anything_is_sent(secret, tmp_path):
    """Under 32 bytes, on either side."""
    with gateway() as server:
        given = settings(server, tmp_path, jwt_client_secret=secret)
        with pytest.raises(ConfigError), ds.Client(**given) as client:
            client.ask("?")
    assert server.tokens == []
    with pytest.raises(ConfigError, match="HS256 needs at least 32"):
        verify("x.y.z", secret, issuer="desk")


def test_both_ends_of_ours_agree():
    """What the client makes, the gateway's check accepts; what was signed otherwise, it does not."""
    flow = JWTBearer("desk", CLIENT_SECRET, audience="gateway").auth_flow
    header = next(flow(httpx.Request("POST", "https://gateway.example"))).headers["authorization"]
    token = header.removeprefix("Bearer ")
    assert verify(token, CLIENT_SECRET, issuer="desk", audience="gateway")["scope"] == "compute"
    with pytest.raises(AuthError):
        verify(token, CLIENT_SECRET[::-1], issuer="desk", audience="gateway")
    head, body, _ = token.split(".")
    with pytest.raises(AuthError):
        verify(f"{head}.{body}.", CLIENT_SECRET, issuer="desk", audience="gateway")
