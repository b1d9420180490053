"""Thousands of malformed requests: each gets a 4xx, none a 5xx, and the gateway serves on."""

from __future__ import annotations

import gzip
import json
import random
import re
import resource
import socket
import string
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import zstandard

from deepseek_nb.gateway import guard

from .people import SECRETS, chat_body, new_client

BODY_MOST = 200_000
ROUTES = ("/chat/completions", "/v1/chat/completions", "/v1/compute", "/v1/stream")
JSON = {"content-type": "application/json"}
WORDS = (
    "model",
    "messages",
    "role",
    "content",
    "stream",
    "stop",
    "query",
    "batch_requests",
    "id",
    "prompt",
    "priority",
    "tools",
    "tool_choice",
    "tool_calls",
    "tool_call_id",
    "function",
    "parameters",
)


@pytest.fixture
def hard(serve):
    return serve(body_bytes_max=BODY_MOST)


def token_of(name: str = "desk", secret: str | None = None, **claims: Any) -> str:
    told = {"iss": name, "exp": int(time.time()) + 200, "scope": "compute"} | claims
    return jwt.encode(told, secret or SECRETS[name], algorithm="HS256")


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, with names that the gateway knows among others."""
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, 1, -1, 5, 6, 2**53, -(2**70), 10**300, 1e308, -0.0, 0.1])
    if kind < 6:
        letters = rng.choice(
            [string.ascii_letters, "\ud800\udfff\u202e\x00\x1b", "日本語🙂", "../%2e%00'\";--"]
        )
        return "".join(rng.choice(letters) for _ in range(rng.randrange(12)))
    if kind == 6:
        return [junk(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {rng.choice((*WORDS, "x", "__proto__", "")): junk(rng, depth + 1) for _ in range(rng.randrange(6))}


def spoiled(rng: random.Random) -> Any:
    """A good body with one thing wrong: a value replaced, or a field that nobody knows."""
    body: Any = rng.choice(
        [
            chat_body(),
            chat_body(stream=True, stop=["x"], max_tokens=5),
            {"query": "x"},
            {"batch_requests": [{"id": 1, "prompt": "x"}]},
        ]
    )
    body = json.loads(json.dumps(body))
    place = body
    while True:
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.6:
            place = place[key]
            continue
        if rng.random() < 0.3 and isinstance(place, dict):
            place["".join(rng.choice(string.ascii_lowercase) for _ in range(9))] = junk(rng)
        else:
            place[key] = junk(rng)
        return body


def is_refused(reply: httpx.Response) -> bool:
    """A 4xx with the envelope of an error."""
    if not 400 <= reply.status_code < 500:
        return False
    error = reply.json()["error"]
    return isinstance(error, str) or {"message", "type", "param", "code"} == set(error)


def test_bodies_of_junk(hard, upstream):
    """8,400 bodies: random JSON, good bodies with one thing wrong, bytes that are no JSON, cut ones.

    What is still a good question after it was spoiled may be answered; nothing else is.
    """
    rng, seen = random.Random(7), Counter[int]()
    with new_client(hard) as client:
        for number in range(8400):
            kind = number % 4
            if kind == 0:
                body = json.dumps(junk(rng)).encode()
            elif kind == 1:
                body = json.dumps(spoiled(rng)).encode()
            elif kind == 2:
                body = rng.randbytes(rng.randrange(200))
            else:
                whole = json.dumps(chat_body()).encode()
                body = whole[: rng.randrange(len(whole))]
            route = rng.choice(ROUTES)
            while (reply := client.post(route, content=body, headers=JSON)).status_code == 429:
                time.sleep(int(reply.headers["retry-after-ms"]) / 1000)  # faster than a tenant may be
            seen[reply.status_code] += 1
            if reply.status_code == 200:
                asked = json.loads(body)
                assert sum(name in asked for name in ("query", "prompt", "messages", "batch_requests")) >= 1
            else:
                assert is_refused(reply), (reply.status_code, reply.text, body)
        time.sleep(0.1)
        assert client.post("/chat/completions", json=chat_body()).status_code == 200
    assert seen[400] > 8000  # with the tokens and the forms below: more than 10,000
    assert set(seen) <= {200, 400}
    print(dict(seen))


def test_tokens_of_junk(hard):
    """1,500 Authorization headers: 401 or 403, and no other tenant's rights."""
    rng, seen = random.Random(8), Counter[int]()
    good = token_of()
    others = [
        token_of("lab", SECRETS["desk"]),
        token_of("nobody", SECRETS["desk"]),
        token_of("desk", exp=1),
        token_of("desk", exp=int(time.time()) - 100),
        token_of("desk", nbf=int(time.time()) + 1000),
        token_of("desk", aud="x"),
        token_of("../desk", SECRETS["desk"]),
        token_of("desk\x00", SECRETS["desk"]),
        token_of("", SECRETS["desk"]),
        jwt.encode({"iss": "desk", "exp": int(time.time()) + 99}, None, algorithm="none"),
        jwt.encode({"iss": "desk", "exp": int(time.time()) + 99}, SECRETS["desk"] * 2, algorithm="HS384"),
        jwt.encode({"iss": "desk", "exp": int(time.time()) + 99}, SECRETS["desk"], algorithm="HS256",
                   headers={"kid": "../../etc/passwd", "jku": "http://127.0.0.1/keys", "crit": ["x"]}),
    ]  # fmt: skip
    with httpx.Client(base_url=hard.base_url, trust_env=False) as client:
        for number in range(1500):
            if number < len(others):
                given = f"Bearer {others[number]}"
            elif number % 3 == 0:
                letters = list(good)
                at = rng.randrange(len(letters))
                letters[at] = rng.choice([c for c in string.ascii_letters if c != letters[at]] + ["."])
                given = f"Bearer {''.join(letters)}"
            elif number % 3 == 1:
                given = rng.choice(["Bearer ", "bearer ", "Basic ", "Token ", ""]) + "".join(
                    rng.choice(string.ascii_letters + "._-=/+ ") for _ in range(rng.randrange(200))
                )
            else:
                given = f"Bearer {good[: rng.randrange(len(good))]}"
            reply = client.post(
                "/chat/completions", json=chat_body(), headers={"authorization": given.strip()}
            )
            seen[reply.status_code] += 1
            # the last letter of a signature carries bits that nobody reads
            same = given.removeprefix("Bearer ")[:-1] == good[:-1]
            assert (reply.status_code in (401, 403) and is_refused(reply)) or same, (given, reply.text)
    assert seen[403] > 900
    print(dict(seen))


PATHS = (
    *(
        "//chat/completions",
        "/chat//completions",
        "/chat/completions/",
        "/v1/../chat/completions",
        "/v2/chat",
    ),
    *(
        "/chat/%2e%2e/completions",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/status.css/../../config.py",
        "/v1/v1/models",
    ),
    *("/..%2f..%2fpyproject.toml", "/status.js%00", "/page/status.html", "/config.py", "/gateway.toml"),
    *("/models%00", "/user/balance/lab", "/tenant/lab", "/oauth", "/.env", "/metrics/", "/CHAT/completions"),
)


def test_paths_and_methods(hard):
    with new_client(hard) as client:
        for path in PATHS:
            reply = raw(hard, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert re.match(rb"HTTP/1.1 40[0-5] ", reply), (path, reply[:200])
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "GET", "TRACE", "PROPFIND"):
            for path in ROUTES:
                reply = client.request(method, path)
                assert (reply.status_code, is_refused(reply)) == (405, True), (method, path)
        for path in ("/models", "/metrics", "/status", "/healthz"):
            assert client.post(path, json={}).status_code == 405
        for model in ("../lab", "%2e%2e", "x" * 5000, "a/b", "%00"):
            assert client.get(f"/v1/models/{model}").status_code == 404


def raw(gateway, data: bytes, *, wait_s: float = 10.0) -> bytes:
    """Bytes to the socket, and what comes back until it closes."""
    url = httpx.URL(gateway.base_url)
    with socket.create_connection((url.host, url.port or 80), timeout=wait_s) as wire:
        wire.sendall(data)
        came = b""
        while piece := wire.recv(65536):
            came += piece
        return came


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/compute HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/compute HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnothex\r\n",
    ],
)
def test_bytes_that_are_no_http(hard, data):
    reply = raw(hard, data)
    assert reply.startswith(b"HTTP/1.1 4") or reply == b""
    assert httpx.get(f"{hard.base_url}/healthz").status_code == 200


def test_heads_that_never_end(hard, monkeypatch):
    """A head is bounded in bytes, also in one line, and in time; a connection that served is, too."""
    before = process_bytes()
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"GET /", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 3000):
        url = httpx.URL(hard.base_url)
        with socket.create_connection((url.host, url.port or 80), timeout=10) as wire:
            sent, came = 0, b""
            wire.sendall(data)
            try:
                while sent < 20_000_000:
                    wire.sendall(b"a" * 100_000)
                    sent += 100_000
                came = wire.recv(1000)
            except OSError:
                pass
            assert sent < 20_000_000 or came.startswith(b"HTTP/1.1 400")
    assert process_bytes() - before < 30_000_000
    monkeypatch.setattr(guard, "HEAD_WITHIN_S", 0.3)
    good = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for data in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n", good + b"GET / HTTP/1.1\r\n"):
        began_s = time.monotonic()
        raw(hard, data)
        assert time.monotonic() - began_s < 3
    assert httpx.get(f"{hard.base_url}/healthz").status_code == 200


def process_bytes() -> int:
    """The memory of this process, of which the gateway is a thread."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_bodies_that_are_too_large(hard):
    """By their length at once, without one while they come; packed, as soon as they unpack to too much."""
    with new_client(hard) as client:
        large = json.dumps(chat_body("x" * BODY_MOST)).encode()
        for path in ROUTES:
            assert client.post(path, content=large, headers=JSON).status_code == 413

        def pieces():
            for _ in range(50):
                yield b" " * 10_000

        assert client.post(ROUTES[0], content=pieces(), headers=JSON).status_code == 413
        assert client.post(ROUTES[0], json=chat_body()).status_code == 200


def test_packed_bodies(hard):
    """A bomb of 1 GB in 1 MB costs a moment and no memory; what is not gzip is told so."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b"\0" * 1_000_000) for _ in range(190)) + packer.flush()
    assert len(bomb) < BODY_MOST
    good = gzip.compress(json.dumps(chat_body()).encode())
    with new_client(hard) as client:
        began_s = time.monotonic()
        for _ in range(20):
            reply = client.post(ROUTES[0], content=bomb, headers=JSON | {"content-encoding": "gzip"})
            assert reply.status_code == 413
        assert time.monotonic() - began_s < 5
        for body, encoding, status in (
            (good, "gzip", 200),
            (good[:-4], "gzip", 400),
            (good + b"more", "gzip", 400),
            (good + good, "gzip", 400),
            (b"", "gzip", 400),
            (b"not gzip", "gzip", 400),
            (gzip.compress(good), "gzip", 400),
            (good, "zstd", 400),
            (good, "br", 415),
            (good, "gzip, gzip", 415),
            (good, "identity", 400),
        ):
            reply = client.post(ROUTES[0], content=body, headers=JSON | {"content-encoding": encoding})
            assert reply.status_code == status, (encoding, reply.text)


def test_bodies_packed_with_zstd(hard):
    """As gzip: bombs of every kind (one frame, runs of one byte, a size that is a lie) cost a moment."""
    pack = zstandard.ZstdCompressor(level=3).compress
    good = pack(json.dumps(chat_body()).encode())
    bomb = pack(b"\0" * 1_000_000_000)
    assert len(bomb) < BODY_MOST
    unsized = zstandard.ZstdCompressor(level=3, write_content_size=False).compress(b"\0" * 300_000_000)
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    sent = {"content-encoding": "zstd", "content-type": "application/json"}
    before = process_bytes()
    with new_client(hard) as client:
        began_s = time.monotonic()
        for _ in range(10):
            for body in (bomb, unsized):
                assert client.post(ROUTES[0], content=body, headers=sent).status_code == 413
        assert time.monotonic() - began_s < 5
        for body, status in (
            (good, 200),
            (pack(json.dumps({**chat_body(), "user": "x" * BODY_MOST}).encode()), 413),
            (good[:-4], 400),
            (good[:7], 400),
            (good + b"more", 400),
            (good + good, 400),
            (b"", 400),
            (b"not zstd", 400),
            (b"\x28\xb5\x2f\xfd", 400),
            (pack(good), 400),
            (
                zstandard.ZstdCompressor(compression_params=wide).compress(random.Random(1).randbytes(1000)),
                400,
            ),
        ):
            reply = client.post(ROUTES[0], content=body, headers=sent)
            assert reply.status_code == status, reply.text
        rng = random.Random(3)
        for _ in range(300):
            spoilt = bytearray(good)
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
            reply = client.post(ROUTES[0], content=bytes(spoilt), headers=sent)
            assert reply.status_code in (200, 400, 413), reply.text
    assert process_bytes() - before < 60_000_000


def test_other_content_types_and_nests(hard):
    body = json.dumps(chat_body()).encode()
    with new_client(hard) as client:
        for kind in (
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ):
            assert client.post(ROUTES[0], content=body, headers={"content-type": kind}).status_code == 415
        for text in (
            "[" * 90_000,
            '{"a":' * 30_000 + "1" + "}" * 30_000,
            '{"model": NaN}',
            '{"n": 1e999}',
            "1" * 5000,
        ):
            assert is_refused(client.post(ROUTES[0], content=text, headers=JSON)), text[:50]
        assert client.post(
            ROUTES[0], content=body, headers={"content-type": "Application/JSON; charset=utf-8"}
        )


def test_forms_of_junk(hard):
    """500 bodies for a token: 400, 401, 413 or 415, in OAuth's words or the envelope."""
    rng = random.Random(9)
    with httpx.Client(base_url=hard.base_url, trust_env=False) as client:
        for number in range(500):
            if number % 2:
                body = rng.randbytes(rng.randrange(300))
            else:
                names = ("grant_type", "client_id", "client_secret", "scope", "x", "")
                values = (
                    "client_credentials",
                    "desk",
                    SECRETS["lab"],
                    "admin",
                    "%zz",
                    "%ed%a0%80",
                )
                parts = [f"{rng.choice(names)}={rng.choice(values)}" for _ in range(rng.randrange(30))]
                body = "&".join(parts).encode()
            headers = {"content-type": "application/x-www-form-urlencoded"}
            if number % 5 == 0:
                headers["authorization"] = "Basic " + "".join(
                    rng.choice(string.ascii_letters) for _ in range(20)
                )
            reply = client.post("/oauth/token", content=body, headers=headers)
            assert reply.status_code in (400, 401), (body, reply.text)
            assert is_refused(reply)
        assert client.post("/oauth/token", content=b"x" * 20_000).status_code == 413
        assert client.post("/oauth/token", json={"grant_type": "client_credentials"}).status_code == 415
