"""Weather: room that changes with time, outages, and what refusals cost."""

import socket
import time
from contextlib import ExitStack
from itertools import pairwise
from random import Random

import pytest
from raw_client import QUESTION, ask, listen, request_bytes

from deepseek_nb.cli import main
from deepseek_nb.sandbox import SCENARIOS, Fault, FaultScript, Sandbox, Weather, ideal_s, weather_of

LATER = 1e6
"""A step that comes when the test says so."""


@pytest.fixture
def send(make):
    """Send questions that stay open; gives their sockets once the sandbox has taken them."""
    with ExitStack() as stack:

        def start(sandbox, count, body=QUESTION):
            wanted = sandbox.in_flight + count
            socks = [
                stack.enter_context(socket.create_connection(("127.0.0.1", sandbox.port)))
                for _ in range(count)
            ]
            for sock in socks:
                sock.sendall(request_bytes(body))
            ends = time.monotonic() + 30
            while sandbox.in_flight < wanted and time.monotonic() < ends:
                time.sleep(0.002)
            assert sandbox.in_flight == wanted
            return socks

        yield start


def turn(sandbox):
    """Let the next step of the weather come now."""
    sandbox._loop.call_soon_threadsafe(sandbox._service._turn)


# ------------------------------------------------------------------------------------- the named ones


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_named_weather_follows_from_its_seed(name):
    weather = weather_of(name, 3)
    assert weather == weather_of(name, 3) != weather_of(name, 4)
    assert weather[0].since_s == 0.0
    assert all(20 <= step.slots <= 160 for step in weather)


def test_the_scenarios_differ_in_what_is_the_brake():
    limit, queue, storm = (weather_of(name, 1) for name in ("limit", "queue", "storm"))
    assert all(step.limit <= 1.25 * step.slots + 1 and step.queue == 40 and step.up for step in limit)
    assert {(step.limit, step.queue, step.up) for step in queue} == {(500, 200, True)}
    assert [step.slots for step in limit] == [step.slots for step in queue]
    down_s = [b.since_s - a.since_s for a, b in pairwise(storm) if not a.up]
    assert 0.05 < sum(down_s) / storm[-1].since_s < 0.4


@pytest.mark.parametrize(
    ("name", "told"),
    [("sunny", "limit, queue, storm, flat:"), ("flat:3", "SLOTS:LIMIT:QUEUE"), ("flat:3:4:5:6", "FROM:TO")],
)
def test_an_unknown_weather_is_refused_with_the_known_ones(name, told, capsys):
    with pytest.raises(ValueError, match=told):
        Sandbox(weather=name)
    assert main(["sandbox", "--weather", name]) == 2
    assert told in capsys.readouterr().err


def test_steps_begin_at_zero_and_go_up():
    calm = Weather(0.0, 1, 1, 1)
    for steps in ([], [Weather(5.0, 1, 1, 1)], [calm, calm]):
        with pytest.raises(ValueError, match="begin at 0 s and go up"):
            Sandbox(weather=steps)


def test_a_weather_and_fixed_room_exclude_one_another():
    with pytest.raises(ValueError, match="leave them out"):
        Sandbox(weather="limit", slots=3)


def test_the_ideal_fills_the_slots_and_waits_out_an_outage():
    weather = weather_of("flat:2:9:0:3:10", 0)
    assert ideal_s([2.0, 2.0], weather) == 2.0
    assert ideal_s([2.0] * 4, weather) == 4.0  # begun before the outage
    assert ideal_s([2.0] * 5, weather) == 12.0  # the fifth had to wait for its end


# ------------------------------------------------------------------------------- on the sandbox's door


def test_the_step_in_force_says_what_is_refused(make, send):
    steps = [Weather(0.0, 1, 3, 1), Weather(LATER, 1, 2, 1), Weather(LATER + 1, 3, 9, 0)]
    sandbox = make(weather=steps, faults=FaultScript.of("hang"))
    send(sandbox, 2)  # one hangs on the slot, one waits
    assert ask(sandbox).status == 503
    turn(sandbox)
    limited = ask(sandbox)
    assert limited.status == 429
    assert "concurrency limit of 2 " in limited.message


def test_who_waits_begins_when_slots_are_added(make, send):
    steps = [Weather(0.0, 1, 9, 5), Weather(LATER, 2, 9, 5)]
    sandbox = make(weather=steps, faults=FaultScript.of("hang"))
    send(sandbox, 1)
    waiting = send(sandbox, 1)[0]
    turn(sandbox)
    assert listen(waiting, 30).text == "OK"


def test_an_outage_resets_half_of_what_runs_and_refuses_what_is_new(make, send):
    steps = [Weather(0.0, 20, 99, 5), Weather(LATER, 20, 99, 5, up=False), Weather(LATER + 1, 20, 99, 5)]
    sandbox = make(weather=steps, seed=3, faults=FaultScript.always("hang"))
    socks = send(sandbox, 20)
    turn(sandbox)
    luck = Random(3 * 7 + 5)
    unlucky = sum(luck.random() < 0.5 for _ in range(20))
    ends = time.monotonic() + 30
    while sandbox.in_flight > 20 - unlucky and time.monotonic() < ends:
        time.sleep(0.002)
    assert sandbox.in_flight == 20 - unlucky
    assert ask(sandbox).status == 503
    assert sum(listen(sock, 0.05).ending == "reset" for sock in socks) == unlucky
    sandbox.faults = None
    turn(sandbox)
    while ask(sandbox).status != 200 and time.monotonic() < ends:
        time.sleep(0.002)
    assert ask(sandbox).text == "OK"


def test_the_weather_begins_with_the_first_request_and_follows_the_clock(make):
    sandbox = make(weather=[Weather(0.0, 0, 9, 0), Weather(60.0, 9, 9, 0)], time_scale=200.0)
    time.sleep(0.4)  # 80 server seconds that do not count
    assert ask(sandbox).status == 503
    ends = time.monotonic() + 30
    while ask(sandbox).status != 200 and time.monotonic() < ends:
        time.sleep(0.02)
    first, last = sandbox.log[0], sandbox.log[-1]
    assert last.status == 200
    assert last.arrived_s - first.arrived_s >= 59.9


def test_refusals_cost_the_server_time(make):
    sandbox = make(
        weather=[Weather(0.0, 0, 9, 0), Weather(LATER, 1, 9, 0)], first_token_s=6.0, time_scale=100.0
    )
    assert [ask(sandbox).status for _ in range(50)] == [503] * 50
    turn(sandbox)
    while ask(sandbox).status != 200:
        time.sleep(0.002)
    record = sandbox.log[-1]
    assert record.ended_s - record.arrived_s >= 6.0 + 50 * 0.1 - 0.01


# ---------------------------------------------------------------------------- what the weather needs


def test_a_lost_request_takes_a_place_of_the_account_and_no_slot(make, send):
    lost = Fault("hang", slot=False)
    sandbox = make(slots=1, queue=0, concurrency=2, faults=FaultScript.of(lost))
    send(sandbox, 1)
    assert ask(sandbox).text == "OK"
    sandbox.faults.append(lost)
    send(sandbox, 1)
    assert ask(sandbox).status == 429


def test_a_hanging_connection_is_reset_at_last(make):
    sandbox = make(time_scale=1000.0, faults=FaultScript.of(Fault("hang", reset_s=100.0)))
    heard = ask(sandbox)
    assert (heard.raw, heard.ending) == (b"", "reset")


def test_several_tokens_share_an_event_and_all_are_billed(make):
    messages = [{"role": "user", "content": "Return exactly: " + "abcd" * 10}]
    told = []
    for size in (1, 4):
        sandbox = make(count="estimate", tokens_per_event=size)
        heard = ask(sandbox, messages=messages, stream=True)
        pieces = [e for e in heard.events[:-1] if e["choices"][0]["delta"].get("content")]
        told.append((len(pieces), heard.text, sandbox.log[-1].completion_tokens))
    assert told == [(10, "abcd" * 10, 10), (3, "abcd" * 10, 10)]
