"""Room and money: concurrency by balance, slots and queue, keep-alives, charging, 402."""

import socket
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from raw_client import QUESTION, ask, listen, request_bytes, talk

from deepseek_nb.sandbox import Fault, FaultScript

OFF_PEAK = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PEAK = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)


@pytest.fixture
def hold(make):
    """Open connections with a request that the sandbox has taken and not answered."""
    with ExitStack() as stack:

        def start(sandbox, count):
            wanted = sandbox.in_flight + count
            for _ in range(count):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", sandbox.port)))
                sock.sendall(request_bytes(QUESTION))
            ends = time.monotonic() + 2
            while sandbox.in_flight < wanted and time.monotonic() < ends:
                time.sleep(0.002)
            assert sandbox.in_flight == wanted

        yield start


@pytest.mark.parametrize(("balance_usd", "limit"), [("0.04", 5), ("0.07", 7), ("0.90", 25), ("1.50", 39)])
def test_429_follows_the_balance_in_the_exact_words(make, hold, balance_usd, limit):
    sandbox = make(balance_usd=balance_usd, faults=FaultScript.of(*["hang"] * limit))
    hold(sandbox, limit)
    heard = ask(sandbox)
    assert heard.status == 429
    assert heard.body == (
        b'{"error":{"message":"Too many requests. Your current concurrency is %d, which exceeds your '
        b"concurrency limit of %d based on your remaining balance. Please top up your balance to restore "
        b'your concurrency.","type":"rate_limit_error","param":null,"code":"invalid_request_error"}}'
        % (limit + 1, limit)
    )
    sandbox.balance_usd = "100"
    assert ask(sandbox).status == 200


def test_a_fixed_limit_counts_from_the_request_to_its_end(make, hold):
    sandbox = make(concurrency=2, faults=FaultScript.of("hang"))
    hold(sandbox, 1)
    assert [ask(sandbox).status for _ in range(3)] == [200] * 3
    sandbox.faults.append("hang")
    hold(sandbox, 1)
    assert ask(sandbox).status == 429


def test_a_client_that_leaves_gives_its_room_back(make):
    sandbox = make(concurrency=1, faults=FaultScript.of("hang"))
    assert ask(sandbox, wait_s=0.1).ending == "silent"
    ends = time.monotonic() + 2
    while sandbox.in_flight and time.monotonic() < ends:
        time.sleep(0.002)
    assert ask(sandbox).status == 200


def test_over_the_queue_is_busy(make, hold):
    sandbox = make(slots=1, queue=1, first_token_s=60.0)
    hold(sandbox, 2)
    heard = ask(sandbox)
    assert heard.status == 503
    assert heard.message.startswith("Service is too busy.")


def test_waiting_requests_get_keep_alives_then_their_answer(make, hold):
    sandbox = make(slots=1, queue=5, first_token_s=200.0, keep_alive_s=60.0, time_scale=1000.0)
    hold(sandbox, 1)
    plain = ask(sandbox)
    assert plain.body.startswith(b"\n\n\n")
    assert plain.text == "OK"
    hold(sandbox, 1)
    streamed = ask(sandbox, stream=True)
    assert streamed.body.startswith(b": keep-alive\n\n: keep-alive\n\n")
    assert streamed.text == "OK"


def test_ten_minutes_in_the_queue_are_the_end(make, hold):
    sandbox = make(slots=1, queue=5, keep_alive_s=150.0, time_scale=2000.0, faults=FaultScript.of("hang"))
    hold(sandbox, 1)
    started = time.monotonic()
    heard = ask(sandbox)
    assert 0.3 <= time.monotonic() - started < 1.5
    assert (heard.status, heard.body) == (200, b"\n\n\n")
    record = sandbox.log[-1]
    assert (record.complete, record.aborted, record.cost_usd) == (False, False, 0)


def test_a_queue_without_keep_alives_closes_with_nothing(make, hold):
    sandbox = make(slots=1, queue=5, keep_alive_s=900.0, time_scale=2000.0, faults=FaultScript.of("hang"))
    hold(sandbox, 1)
    heard = ask(sandbox)
    assert (heard.raw, heard.ending) == (b"", "closed")


def test_a_slot_goes_from_hand_to_hand(make):
    sandbox = make(slots=2, queue=50, first_token_s=10.0, time_scale=1000.0)
    heard = []
    threads = [threading.Thread(target=lambda: heard.append(ask(sandbox).text)) for _ in range(20)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == ["OK"] * 20
    assert time.monotonic() - started >= 0.1  # ten rounds of two
    assert sandbox.in_flight == 0


def test_one_who_leaves_the_queue_takes_no_slot(make, hold):
    sandbox = make(slots=1, queue=5, faults=FaultScript.of("hang"))
    with socket.create_connection(("127.0.0.1", sandbox.port)) as first:
        first.sendall(request_bytes(QUESTION))
        while sandbox.in_flight < 1:
            time.sleep(0.002)
        assert ask(sandbox, wait_s=0.1).ending == "silent"  # waits, then leaves
    assert ask(sandbox).text == "OK"


def test_charges_follow_the_price_table(make):
    for now, usd in ((OFF_PEAK, "8 * 0.15 + 1 * 0.60"), (PEAK, "8 * 0.30 + 1 * 1.20")):
        sandbox = make(now=lambda now=now: now, balance_usd="1")
        ask(sandbox)
        wanted = Decimal(str(round(eval(usd), 6))) / 1_000_000
        assert Decimal(1) - sandbox.balance_usd == wanted
        assert sandbox.log.cost_usd == pytest.approx(float(wanted))


def test_cache_hits_are_cheaper(make):
    sandbox = make(now=lambda: OFF_PEAK)
    for _ in range(2):
        ask(sandbox, "Return exactly: OK " + "word " * 300)
    first, second = sandbox.log
    assert second.cache_hit_tokens == 256
    saved = 256 * (0.15 - 0.003) / 1_000_000
    assert first.cost_usd - second.cost_usd == pytest.approx(saved)


def test_402_when_the_balance_is_gone(make):
    sandbox = make(balance_usd="0.000004", now=lambda: OFF_PEAK)
    statuses = [ask(sandbox).status for _ in range(5)]
    assert statuses == [200, 200, 200, 402, 402]
    assert ask(sandbox).json == {
        "error": {
            "message": "Insufficient Balance",
            "type": "unknown_error",
            "param": None,
            "code": "invalid_request_error",
        }
    }
    assert talk(sandbox, method="GET", path="/user/balance").json["is_available"] is False
    sandbox.balance_usd = "5"
    assert ask(sandbox).status == 200


def test_the_balance_is_told_in_strings(make):
    sandbox = make(balance_usd="110")
    assert talk(sandbox, method="GET", path="/user/balance").body == (
        b'{"is_available":true,"balance_infos":[{"currency":"USD","total_balance":"110.00",'
        b'"granted_balance":"0.00","topped_up_balance":"110.00"}]}'
    )


def test_a_balance_without_end(make):
    sandbox = make(balance_usd=None)
    assert ask(sandbox).status == 200
    assert sandbox.balance_usd is None
    assert sandbox.log.cost_usd > 0


def test_refusals_and_hangs_cost_nothing(make):
    sandbox = make(faults=FaultScript.of("busy_503", "rate_429", "empty_200", Fault("hang"), "html_500"))
    for _ in range(5):
        ask(sandbox, wait_s=0.1)
    assert sandbox.balance_usd == Decimal("100.00")


def test_answers_take_the_time_they_are_given(make):
    sandbox = make(first_token_s=100.0, token_s=50.0, time_scale=1000.0)
    started = time.monotonic()
    heard = ask(sandbox, "Return exactly: one two three four", stream=True)
    assert heard.text == "one two three four"
    assert time.monotonic() - started >= 0.3
    assert ask(sandbox).body.startswith(b"\n" * 9)  # one each 15 s
    quick = make(first_token_s=10.0, time_scale=1000.0)
    assert "content-length" in ask(quick).headers  # no keep-alive was due: the length is known


def test_tokens_come_one_after_the_other(make):
    sandbox = make(token_s=0.1)
    with socket.create_connection(("127.0.0.1", sandbox.port)) as sock:
        body = QUESTION | {
            "stream": True,
            "messages": [{"role": "user", "content": "Return exactly: a b c d"}],
        }
        sock.sendall(request_bytes(body))
        early = listen(sock, 0.15)
        assert early.ending == "silent"
        assert 1 <= early.raw.count(b"data: ") <= 3
        assert b"[DONE]" in listen(sock, 1).raw


def test_spread_is_drawn_from_the_seed(make):
    times = []
    for _ in range(2):
        sandbox = make(first_token_s=20.0, spread=0.7, time_scale=100.0, seed=3)
        for text in ("a", "b", "c"):
            ask(sandbox, text)
        times.append([record.ended_s - record.arrived_s for record in sandbox.log])
    assert times[0] == pytest.approx(times[1], abs=6)
    assert max(times[0]) > min(times[0]) + 5
