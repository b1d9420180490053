"""Jobs of plain clients that share their answers through a real Redis, and what happens when it goes."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections import Counter

import children
import pandas as pd
import pytest
import workers
from queue_bench import TEMPLATE, Bench, check, frame_of, until

from deepseek_nb.adapters.redis_tier import RedisStanding, RedisTier
from deepseek_nb.batch.apply import apply
from deepseek_nb.batch.plan import plan
from deepseek_nb.batch.submit import submit
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret
from deepseek_nb.notebook.dry_run import dry_run

PASSWORD = "correct-horse-battery"


@pytest.fixture
def machine(sandbox, redis_server, tmp_path):
    """Makes the client of a machine that has a folder of its own, and Redis."""
    made = []

    def client(name: str, **settings) -> Client:
        given = {"base_url": sandbox.base_url, "api_key": sandbox.api_key, "redis_url": redis_server.url}
        made.append(Client(data_dir=tmp_path / name, **(given | settings)))
        return made[-1]

    yield client
    for each in made:
        each.close()


def ask(client, rows: int = 40, job: str = "j", **options):
    given = {"job": job, "max_tokens": 30, "progress": False} | options
    return apply(frame_of(rows), TEMPLATE, client=client, **given)


def asked(sandbox) -> Counter[str]:
    return Counter(record.question_hash for record in sandbox.log.chats if record.usable)


def calls(redis_server, command: str) -> int:
    with redis_server.client() as client:
        return int(client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


# ------------------------------------------------------------------------------------------ what is shared


def test_answers_of_one_folder_are_found_by_another(machine, sandbox, redis_server):
    """In one round trip for each chunk; they cost nothing there, and are that folder's own from then on."""
    first = ask(machine("a"))
    looked = calls(redis_server, "mget")
    other = machine("b")
    second = ask(other)
    check(second, 40)
    assert second["answer"].tolist() == first["answer"].tolist()
    assert second["cached"].all()
    assert second["cost_usd"].sum() == 0
    assert second.attrs["deepseek_nb"]["from_store"] == 40
    assert calls(redis_server, "mget") - looked == 1
    assert asked(sandbox).total() == 40
    redis_server.kill()
    check(ask(other, job="again"), 40)
    assert asked(sandbox).total() == 40


def test_claims_and_answers_are_a_few_round_trips(machine, redis_server):
    """A chunk's rows are claimed at once, and what ends at the same moment is written at once."""
    ask(machine("a", concurrency_max=64), 256)
    assert calls(redis_server, "evalsha") <= 4 + 128, "four times 64 rows; answers and claims in groups"
    assert len(redis_server.names("deepseek_nb:1:answer:*")) == 256
    assert not redis_server.names("*:claim:*"), "claims are given back"


def test_a_single_question_and_a_row_share_answers(machine, sandbox, redis_server):
    """Also the other way round: what a machine asked by itself is a row's answer on another one."""
    told = {"system": None, "max_tokens": 30, "thinking": False}
    answer = machine("a").ask("Return exactly: answer number 3", **told)
    out = ask(machine("b"), 5, layout="inline")
    check(out, 5)
    assert out["cached"].sum() == 1
    assert machine("c").ask("Return exactly: answer number 4", **told).cached
    assert not answer.cached
    assert len(sandbox.log.chats) == 5


@pytest.mark.slow
def test_two_processes_that_ask_the_same_rows_pay_each_once(sandbox, redis_server, tmp_path):
    """At the same moment, with nothing in common but Redis."""
    told = [
        workers.told(sandbox.base_url, sandbox.api_key, tmp_path / name, 32) | {"redis_url": redis_server.url}
        for name in "ab"
    ]
    both = [workers.Worker(workers.run_job, settings, 300, f"job {n}") for n, settings in enumerate(told)]
    assert [worker.result() for worker in both] == [{"said": "ok", "done": 300, "rows": 300}] * 2
    assert len(asked(sandbox)) == asked(sandbox).total() == 300
    assert not redis_server.names("*:claim:*")


def test_a_plan_knows_what_others_have_answered(machine, sandbox):
    ask(machine("a"), 15)
    other = machine("b")
    planned = plan(frame_of(20), TEMPLATE, client=other, max_tokens=30)
    assert (planned.rows, planned.requests) == (20, 5)
    errand = other.aio.prepare("Hello?", max_tokens=5)
    assert not other.kept([errand.key])
    machine("a2").ask("Hello?", max_tokens=5)
    assert "it would cost nothing" in dry_run(other, errand, [])["text/plain"]


def test_rows_that_share_requests_are_shared_one_by_one(machine, sandbox):
    """Two machines at the same moment ask each row once; a third one asks none."""
    frame = pd.DataFrame({"text": [f"My card number {n} is lost" for n in range(120)]})
    told = {"max_tokens": 30, "rows_per_request": 8}
    jobs = [submit(frame, "Sort: {{text}}", job="j", client=machine(name), **told) for name in "ab"]
    outs = [job.result() for job in jobs]
    assert all((out["status"] == "done").all() for out in outs)
    assert sum(int((~out["cached"].astype(bool)).sum()) for out in outs) == 120
    assert (outs[0]["answer"] == outs[1]["answer"]).all()
    sent = len(sandbox.log)
    assert submit(frame, "Sort: {{text}}", job="j", client=machine("c"), **told).result()["cached"].all()
    assert len(sandbox.log) == sent


def test_how_old_an_answer_may_be_and_whether_it_is_kept_are_as_for_the_store(machine, sandbox, redis_server):
    ask(machine("a"), 5, cache=False)
    assert not redis_server.names()
    ask(machine("b"), 5)
    time.sleep(1.1)
    assert ask(machine("c"), 5, ttl="1s")["cached"].sum() == 0
    assert asked(sandbox).total() == 15
    assert ask(machine("d"), 5, ttl="1h")["cached"].all()
    with redis_server.client() as client:
        left_s = [client.ttl(key) for key in redis_server.names()]
    assert len(left_s) == 5
    assert all(86000 < each <= 86400 for each in left_s)


def test_what_was_changed_in_redis_is_asked_again(machine, sandbox, redis_server):
    """A value that does not fit its checksum, and one that is none of ours; the other rows are found."""
    ask(machine("a"), 10)
    with redis_server.client() as client:
        changed, broken = redis_server.names("deepseek_nb:1:answer:*")[:2]
        client.set(changed, client.get(changed).replace(b"answer number", b"answer to all"))
        client.set(broken, b"\xff\x00")
    out = ask(machine("b"), 10)
    check(out, 10)
    assert out["cached"].sum() == 8
    assert asked(sandbox).total() == 12


# ------------------------------------------------------------------------------------------ when it goes


@pytest.mark.parametrize("how", ["killed", "frozen", "full"])
def test_redis_goes_in_the_middle_of_a_job(machine, sandbox, redis_server, how):
    """Every row is done and paid once; it is said once, and once that it is back."""
    client = machine("a", concurrency_max=8)

    def disturb() -> None:
        until(lambda: len(sandbox.log.chats) >= 40)
        if how == "full":
            with redis_server.client() as inside:
                inside.config_set("maxmemory", "1")
        else:
            redis_server.kill() if how == "killed" else redis_server.freeze()

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        check(ask(client, 200), 200)
        disturbing.join()
        check(ask(client, 20, "second"), 20)
    said = [str(each.message) for each in heard if each.category is RedisStanding]
    assert len(said) == (how != "full"), said
    assert asked(sandbox).total() == len(asked(sandbox)) == 200
    if how == "full":
        assert client.aio.redis.counts["errors"] > 0
        return
    assert "does not answer" in said[0]
    redis_server.start() if how == "killed" else redis_server.thaw()
    until(lambda: client.aio.redis.up)
    with pytest.warns(RedisStanding, match="answers again"):
        ask(client, 210)
    assert ask(machine("b"), 210)["cached"].sum() >= 10, "it is used again"


def test_a_job_starts_without_its_redis(machine, sandbox, redis_server):
    redis_server.kill()
    with pytest.warns(RedisStanding, match=r"does not answer \(FileNotFoundError\)"):
        check(ask(machine("a")), 40)
    with pytest.warns(RedisStanding):
        machine("b").ask("Hello?")
    assert asked(sandbox).total() == 41


@pytest.mark.slow
def test_a_killed_process_frees_its_rows(sandbox, redis_server, tmp_path):
    """Another machine waits for the claims of the dead one to end, and asks only what was not answered."""
    told = workers.told(sandbox.base_url, sandbox.api_key, tmp_path / "a", 8)
    doomed = workers.Worker(workers.run_job, told | {"redis_url": redis_server.url}, 120, "j")
    until(lambda: len(sandbox.log.chats) >= 40)
    doomed.kill()
    told |= {"redis_url": redis_server.url, "data_dir": tmp_path / "b"}
    assert workers.Worker(workers.run_job, told, 120, "j").result()["done"] == 120
    assert len(asked(sandbox)) == 120
    assert asked(sandbox).total() <= 120 + 8, "what was at the server"


# ------------------------------------------------------------------------------------------ the address


def test_the_password_shows_nowhere(machine, sandbox, redis_server, tmp_path, caplog):
    """Neither where it is right, nor where it is wrong; nor is it on the disk."""
    with redis_server.client() as inside:
        inside.config_set("requirepass", PASSWORD)
    url = f"unix://:{PASSWORD}@{redis_server.socket}"
    client = machine("a", redis_url=url)
    out = ask(client, 5)
    check(ask(machine("b", redis_url=url), 5), 5)
    assert asked(sandbox).total() == 5
    with pytest.warns(RedisStanding, match="AuthenticationError") as said:
        ask(machine("c", redis_url=url.replace(PASSWORD, "wrong-" + PASSWORD)), 5)
    texts = [repr(client), repr(client.settings), str(client.settings.describe()), str(out.attrs)]
    texts += [
        repr(client.aio.redis),
        repr(vars(client.aio)),
        caplog.text,
        *(str(each.message) for each in said),
    ]
    assert not [text for text in texts if PASSWORD in text]
    client.close()
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or PASSWORD.encode() not in file.read_bytes(), file


def test_without_an_address_nothing_of_redis_is_imported(sandbox, tmp_path):
    """And with one, a missing package is said at once."""
    script = """
    import sys
    import pandas as pd
    from deepseek_nb import Client, apply
    from deepseek_nb.core.errors import ConfigError

    given = {"base_url": sys.argv[1], "api_key": "sk-sandbox-0000000000000000", "data_dir": sys.argv[2]}
    with Client(**given) as client:
        apply(pd.DataFrame({"n": [1, 2]}), "Say {{n}}", job="j", client=client, progress=False)
    assert "redis" not in sys.modules
    sys.modules["redis"] = None
    try:
        Client(redis_url="redis://127.0.0.1:1", **given)
    except ConfigError as error:
        print(error.hint)
    """
    said = children.run_code(script, sandbox.base_url, str(tmp_path))
    assert said == 'Install it with: pip install "deepseek_nb[redis]"\n'


@pytest.mark.parametrize("url", ["redis://127.0.0.1?db=one", "redis://127.0.0.1?there_is_no_such_option=1"])
def test_an_option_that_there_is_not_is_said_at_once(url, tmp_path):
    with pytest.raises(ConfigError, match="address of Redis"):
        Client(redis_url=url, data_dir=tmp_path)
    Client(redis_url=url, data_dir=tmp_path, cache=False).close()  # it shares nothing


# ------------------------------------------------------------------------------------------ TLS


def test_answers_are_shared_where_the_certificate_is_trusted(machine, sandbox, tls_redis):
    """``ssl_ca_certs=`` in the address names what to trust; warnings are errors here."""
    check(ask(machine("a", redis_url=tls_redis.trusting)), 40)
    second = ask(machine("b", redis_url=tls_redis.trusting))
    check(second, 40)
    assert second["cached"].all()
    assert len(sandbox.log.chats) == 40
    assert len(tls_redis.server.names("deepseek_nb:1:answer:*")) == 40
    assert not tls_redis.server.names("*:claim:*")


def test_a_redis_may_want_a_certificate_of_each_machine(machine, tls_redis):
    """``ssl_certfile=`` and ``ssl_keyfile=`` name it; without one it is as a Redis that is gone."""
    with tls_redis.server.client() as inside:
        inside.config_set("tls-auth-clients", "yes")
    own = f"&ssl_certfile={tls_redis.pem}&ssl_keyfile={tls_redis.key}"
    check(ask(machine("a", redis_url=tls_redis.trusting + own), 5), 5)
    assert len(tls_redis.server.names("deepseek_nb:1:answer:*")) == 5
    with pytest.warns(RedisStanding, match="does not answer"):
        check(ask(machine("b", redis_url=tls_redis.trusting), 5), 5)


@pytest.mark.parametrize(
    ("host", "trusted", "why"),
    [("127.0.0.1", False, "self-signed certificate"), ("localhost", True, "Hostname mismatch")],
)
def test_where_it_is_not_trusted_the_work_goes_on_without(machine, sandbox, tls_redis, host, trusted, why):
    """One warning that says why, and nothing is sent there; every row is done."""
    query = f"?ssl_ca_certs={tls_redis.pem}" if trusted else ""
    client = machine("a", redis_url=tls_redis.url(query, host))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        check(ask(client), 40)
        check(ask(client, 10, "second"), 10)
        assert client.ask("Return exactly: done").text == "done"
    said = [str(each.message) for each in heard if each.category is RedisStanding]
    assert len(said) == 1
    assert f"does not answer (SSLCertVerificationError: {why}" in said[0]
    assert client.aio.redis.counts["errors"] >= 1
    assert len(sandbox.log.chats) == 41
    assert tls_redis.server.names() == []


def test_a_redis_that_goes_and_comes_back_with_another_certificate(machine, tls_redis):
    """It is used again only once the certificate is the one that is trusted."""
    client, trusted = machine("a", redis_url=tls_redis.trusting), tls_redis.server.options
    check(ask(client), 40)
    tls_redis.server.kill()
    with pytest.warns(RedisStanding, match="does not answer"):
        check(ask(client, 60, "second"), 60)
    tls_redis.trust("of somebody else")
    tls_redis.server.start()
    check(ask(client, 80, "third"), 80)
    assert not client.aio.redis.up
    assert tls_redis.server.names() == []
    tls_redis.server.kill()
    tls_redis.server.options = trusted
    tls_redis.server.start()
    until(lambda: client.aio.redis.up)
    with pytest.warns(RedisStanding, match="answers again"):
        check(ask(client, 100, "fourth"), 100)
    assert len(tls_redis.server.names("deepseek_nb:1:answer:*")) >= 20


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("?ssl_ca_certs=/there/is/none.pem", "says of TLS cannot be used: No such file"),
        ("?ssl_ca_certs={folder}/empty.pem", "says of TLS cannot be used"),
        ("?ssl_certfile=/there/is/none.pem", "says of TLS cannot be used: No such file"),
        ("?ssl_cert_reqs=perhaps", "address of Redis is not taken"),
        ("?ssl_min_version=9", "says of TLS cannot be used"),
    ],
)
def test_what_the_address_says_of_tls_is_checked_at_once(query, told, tmp_path):
    """A file that is not there is a mistake of this machine, not a Redis that is gone."""
    (tmp_path / "empty.pem").touch()
    with pytest.raises(ConfigError, match=told):
        Client(redis_url=f"rediss://127.0.0.1:1/0{query.format(folder=tmp_path)}", data_dir=tmp_path / "data")


# ------------------------------------------------------------------------------------------ the tier itself


def test_a_question_and_a_claimed_row_of_one_process_do_not_wait_for_each_other(redis_server):
    """What this process holds already is its own to ask; what another one holds is not."""

    async def story() -> None:
        one, other = (RedisTier(Secret(redis_server.url)) for _ in range(2))
        assert await one.claim_many(["a", "b"]) == {"a", "b"}
        assert await one.claim("a")
        assert await one.claim_many(["a", "c"]) == {"a", "c"}
        assert await other.claim_many(["a", "d"]) == {"d"}
        await other.put("e", "{}", time.time() - 5)
        assert await one.claim_many(["e", "f"]) == {"f"}, "answered meanwhile"
        await asyncio.sleep(0.1)  # its claim is given back
        assert await one.claim_many(["e"], ttl_s=1) == {"e"}, "too long ago"
        await one.aclose()
        assert await other.claim_many(["a", "b", "c", "e", "f"], ttl_s=1) == {"a", "b", "c", "e", "f"}
        await other.aclose()

    asyncio.run(story())
    assert redis_server.names("*:claim:*") == []


def test_what_is_put_when_it_is_closed_ends_all_the_same(redis_server):
    async def story() -> None:
        tier = RedisTier(Secret(redis_server.url), within_s=0.2)
        assert await tier.claim("a")
        redis_server.freeze()
        writing = [asyncio.ensure_future(tier.put(f"{n}", "{}", time.time())) for n in range(3)]
        await asyncio.sleep(0)
        more = asyncio.ensure_future(tier.put("late", "{}", time.time()))
        await asyncio.sleep(0)
        await tier.aclose()
        await asyncio.wait_for(asyncio.gather(*writing, more), 1)

    asyncio.run(story())
    redis_server.thaw()


def test_a_cancellation_is_not_lost_where_redis_refuses(redis_server):
    """redis-py loses some while it closes a connection: who hangs up asks no more, who closes comes back."""
    with redis_server.client() as inside:
        inside.config_set("requirepass", PASSWORD)

    async def cancelled(tier: RedisTier, after_s: float) -> bool:
        asking = asyncio.ensure_future(tier.get("a"))
        await asyncio.sleep(after_s)
        return not asking.cancel() or ((await asyncio.wait([asking])) and asking.cancelled())

    async def closed(number: int) -> None:
        tier = RedisTier(Secret(redis_server.url))
        await tier.get("a")
        await asyncio.sleep(0.2 + number / 5000)  # it looks whether Redis is back just then
        await tier.aclose()

    async def story() -> None:
        tier = RedisTier(Secret(redis_server.url))
        for number in range(100):
            tier.up = True
            assert await cancelled(tier, number / 40_000), number
        await tier.aclose()
        async with asyncio.timeout(10):
            await asyncio.gather(*map(closed, range(150)))

    asyncio.run(story())


# ------------------------------------------------------------------------------------------ workers


@pytest.fixture
def shared_bench(rabbitmq, sandbox, redis_server, tmp_path):
    """A RabbitMQ whose workers have folders of their own, and Redis in their environment."""
    made = Bench("rabbitmq", rabbitmq.url, sandbox, tmp_path, redis_url=redis_server.url)
    yield made
    made.close()


@pytest.mark.slow
def test_workers_on_a_rabbitmq_find_one_anothers_answers(shared_bench):
    """The same rows in another job, worked off by another worker, are not paid again."""
    first = shared_bench.worker("--drain")
    check(shared_bench.submit(30, job="first").result(), 30)
    first.terminate()
    shared_bench.worker()
    out = shared_bench.submit(30, job="second").result()
    check(out, 30)
    assert len(shared_bench.asked) == 30
    assert out["cost_usd"].sum() == 0
