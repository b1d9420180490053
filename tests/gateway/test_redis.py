"""Answers shared by several gateways through a real Redis, and what happens when it goes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from deepseek_nb.adapters.redis_tier import RedisTier
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret
from deepseek_nb.gateway.config import parse_config
from deepseek_nb.sandbox import Sandbox

from .people import SECRETS, UPSTREAM_KEY, chat_body, new_client


@pytest.fixture
def two(serve, redis_server, tmp_path):
    """Two gateways with nothing in common but the upstream and Redis."""
    return [serve(redis_url=redis_server.url, data_dir=os.fspath(tmp_path / name)) for name in "ab"]


def ask(gateway, text: str = "The sky is blue. What is blue?", headers=None, name: str = "desk", **more):
    with new_client(gateway, name) as client:
        return client.post("/chat/completions", json=chat_body(text, **more), headers=headers)


def metric(gateway, name: str) -> float:
    with new_client(gateway, "boss", scope="metrics") as client:
        lines = client.get("/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"deepseek_nb_gateway_{name}")))


def test_an_answer_of_one_gateway_is_found_by_another(two, upstream, redis_server):
    first = ask(two[0])
    second = ask(two[1])
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert second.headers["x-cost-usd"] == "0"
    assert second.json()["choices"] == first.json()["choices"]
    assert len(upstream.log.chats) == 1
    # a third look finds it in memory; another tenant does not find it at all
    asked = metric(two[1], 'cache_hits{tier="redis"}')
    ask(two[1])
    assert metric(two[1], 'cache_hits{tier="redis"}') == asked == 1
    assert ask(two[1], name="lab").headers["x-cache"] == "miss"
    with redis_server.client() as client:
        keys = [key.decode() for key in client.keys("*")]
        assert sum(key.startswith("deepseek_nb:1:answer:@desk/deepseek/deepseek-flash_") for key in keys) == 1
        assert not [key for key in keys if "claim" in key], "claims are given back"
        assert all(0 < client.ttl(key) <= 86400 for key in keys)


def test_how_old_an_answer_may_be_is_the_readers_to_say(two, upstream):
    ask(two[0])
    time.sleep(1.1)
    assert ask(two[1], headers={"cache-control": "max-age=1"}).headers["x-cache"] == "miss"
    assert ask(two[1]).headers["x-cache"] == "hit"
    assert len(upstream.log.chats) == 2


def test_what_was_changed_in_redis_is_not_found(two, upstream, redis_server):
    ask(two[0], "Return exactly: 17")
    with redis_server.client() as client:
        (key,) = client.keys("deepseek_nb:1:answer:*")
        client.set(key, client.get(key).replace(b"17", b"18"), ex=100)
    reply = ask(two[1], "Return exactly: 17")
    assert reply.headers["x-cache"] == "miss"
    assert reply.json()["choices"][0]["message"]["content"] == "17"


def test_equal_questions_of_two_gateways_are_one(serve, redis_server, tmp_path):
    with Sandbox(count="estimate", first_token_s=1.0, token_s=0.01, api_key=UPSTREAM_KEY) as slow:
        gateways = [
            serve(before=slow, redis_url=redis_server.url, data_dir=os.fspath(tmp_path / name))
            for name in "abc"
        ]
        with ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(lambda number: ask(gateways[number % 3]), range(12)))
        assert [reply.status_code for reply in replies] == [200] * 12
        assert len(slow.log.chats) == 1
        assert sum(reply.headers["x-cache"] == "miss" for reply in replies) == 1


CONFIG = """
[gateway]
port = 0
redis_url_env = "R_URL"
data_dir = "{data}"
[[upstream]]
name = "deepseek"
base_url = "{url}"
key_env = "UP_KEY"
[tenant.desk]
secret_env = "S_DESK"
priority = 4
"""


@pytest.mark.slow
def test_a_gateway_that_is_killed_frees_its_question(serve, redis_server, tmp_path):
    """The other one takes over when the dead one's claim has ended, ten seconds later."""
    with Sandbox(count="estimate", first_token_s=3.0, token_s=0.01, api_key=UPSTREAM_KEY) as slow:
        (tmp_path / "g.toml").write_text(CONFIG.format(data=tmp_path / "killed", url=slow.base_url))
        environ = {"UP_KEY": UPSTREAM_KEY, "S_DESK": SECRETS["desk"], "R_URL": redis_server.url}
        other = serve(before=slow, redis_url=redis_server.url, data_dir=os.fspath(tmp_path / "other"))
        with subprocess.Popen(
            [sys.executable, "-m", "deepseek_nb.cli", "gateway", "--config", tmp_path / "g.toml"],
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as doomed:
            doomed.base_url = next(word for word in doomed.stdout.readline().split() if "http" in word)

            def lost() -> None:
                with pytest.raises(httpx.TransportError):
                    ask(doomed)

            asking = threading.Thread(target=lost)
            asking.start()
            until_s = time.monotonic() + 20
            while not slow.in_flight:
                assert time.monotonic() < until_s
                time.sleep(0.01)
            began_s = time.monotonic()
            waiting = ThreadPoolExecutor(1).submit(ask, other)
            time.sleep(0.5)
            doomed.send_signal(signal.SIGKILL)
            asking.join()
            reply = waiting.result()
        assert reply.status_code == 200
        assert reply.headers["x-cache"] == "miss"
        assert 5 < time.monotonic() - began_s < 25


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_redis_goes_in_the_middle_and_comes_back(two, upstream, redis_server, how, caplog):
    """Nobody's request fails, none waits long; it is said once in the log, and in the figures."""
    ask(two[0], "Return exactly: before")
    redis_server.kill() if how == "killed" else redis_server.freeze()
    with caplog.at_level("INFO", "deepseek_nb.gateway"):
        for number in range(20):
            began_s = time.monotonic()
            reply = ask(two[0], f"Return exactly: {number}")
            assert (reply.status_code, reply.headers["x-cache"]) == (200, "miss")
            assert time.monotonic() - began_s < 3
        assert ask(two[0], "Return exactly: 3").headers["x-cache"] == "hit", "memory and disk serve on"
        assert metric(two[0], 'redis_up{tier="redis"}') == 0
        redis_server.start() if how == "killed" else redis_server.thaw()
        until_s = time.monotonic() + 20
        while not metric(two[0], 'redis_up{tier="redis"}'):
            assert time.monotonic() < until_s
            time.sleep(0.1)
    said = [record.fields["state"] for record in caplog.records if record.fields["event"] == "redis"]
    assert said == ["gone", "back"]
    ask(two[0], "Return exactly: after")
    assert ask(two[1], "Return exactly: after").headers["x-cache"] == "hit"


def test_a_gateway_starts_without_its_redis(serve, redis_server):
    redis_server.kill()
    gateway = serve(redis_url=redis_server.url)
    assert ask(gateway).status_code == 200
    assert metric(gateway, 'redis_up{tier="redis"}') == 0


@pytest.mark.parametrize("trusted", [True, False])
def test_a_redis_that_speaks_tls_is_used_where_its_certificate_is_trusted(serve, tls_redis, caplog, trusted):
    """Else it is as one that is gone: said once in the log, with the reason, and in the figures."""
    with caplog.at_level("INFO", "deepseek_nb.gateway"):
        gateway = serve(redis_url=tls_redis.trusting if trusted else tls_redis.url())
        for number in range(3):
            assert ask(gateway, f"Return exactly: {number}").status_code == 200
        assert metric(gateway, 'redis_up{tier="redis"}') == trusted
    said = [record.fields["why"] for record in caplog.records if record.fields["event"] == "redis"]
    assert said == ([] if trusted else ["SSLCertVerificationError: self-signed certificate"])
    assert len(tls_redis.server.names("deepseek_nb:1:answer:*")) == 3 * trusted


def test_claims_are_extended_while_their_owner_lives(redis_server):
    async def story() -> tuple[bool, bool, bool, bool]:
        one, other = (RedisTier(Secret(redis_server.url), lease_s=0.6) for _ in range(2))
        first = await one.claim("k")
        await asyncio.sleep(1.5)  # more than two leases
        second = await other.claim("k")
        other.let_go("k")  # not its own: nothing happens
        await asyncio.sleep(0.1)
        third = await other.claim("k")
        one.let_go("k")
        await asyncio.sleep(0.1)
        last = await other.claim("k")
        await one.aclose()
        await other.aclose()
        return first, second, third, last

    assert asyncio.run(story()) == (True, False, False, True)


def test_a_full_redis_keeps_nothing_and_stops_nobody(two, redis_server):
    with redis_server.client() as client:
        client.config_set("maxmemory", "1")
    assert ask(two[0]).status_code == 200
    assert ask(two[0]).headers["x-cache"] == "hit"
    assert metric(two[0], 'redis_up{tier="redis"}') == 1
    assert metric(two[0], 'redis_errors{tier="redis"}') >= 1


def test_a_password_never_stands_in_the_file():
    file = {
        "gateway": {"redis_url": "redis://:hunter2@10.0.0.1"},
        "upstream": [{"name": "a", "base_url": "http://127.0.0.1:1", "key_env": "K"}],
        "tenant": {"desk": {"secret_env": "S"}},
    }
    environ = {"K": "k", "S": SECRETS["desk"], "R": "ftp://nowhere"}
    with pytest.raises(ConfigError, match="redis_url_env") as caught:
        parse_config(file, environ)
    assert "hunter2" not in str(caught.value)
    file["gateway"] = {"redis_url_env": "R"}
    with pytest.raises(ConfigError, match=r"redis_url_env .*address of Redis") as caught:
        parse_config(file, environ)
    assert "nowhere" not in str(caught.value)
    environ["R"] = "redis://:nowhere@10.0.0.1"
    assert "nowhere" not in json.dumps(repr(parse_config(file, environ)))
