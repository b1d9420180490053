"""One request's life: whatever happens in whatever order, nothing is paid twice and nothing is lost."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_nb.core.call import (
    Admit,
    Admitted,
    Answered,
    Call,
    Command,
    Denied,
    Done,
    Event,
    Fail,
    Failed,
    FallBack,
    Finish,
    Hit,
    Interrupted,
    Leg,
    LookUp,
    Missed,
    Release,
    Reserve,
    Returned,
    Send,
    Settle,
    Store,
    Wait,
)
from deepseek_nb.core.chat import Answer, ChatRequest, Message, Usage
from deepseek_nb.core.errors import (
    AnswerEmpty,
    AuthError,
    BudgetExceeded,
    ContentRefused,
    DeepSeekError,
    Overloaded,
    RateLimited,
    SchemaMismatch,
    ServerFault,
    StreamBroken,
    WentSilent,
)
from deepseek_nb.core.retry import RetryPolicy

REQUEST = ChatRequest("m", (Message("user", "q"),), json_mode=True, max_tokens=100)
USAGE = Usage(10, 5)
BAD = Answer("{}", usage=USAGE)

FAULTS: list[DeepSeekError] = [
    Overloaded("503", status=503),
    RateLimited("429", status=429),
    ServerFault("500", status=500),
    StreamBroken("cut", usage=USAGE),
    WentSilent("silence"),
    AnswerEmpty("blank", answer=BAD),
    SchemaMismatch("wrong", answer=BAD),
    ContentRefused("risk", status=400),
    AuthError("401", status=401),
]


def fresh(error: DeepSeekError) -> DeepSeekError:
    """An error of the same kind: the story writes into the one it is given."""
    return type(error)(error.message, **{k: v for k, v in error.__dict__.items() if k != "message"})


@dataclass
class World:
    """Answers commands from a script and keeps the books that the rules speak of."""

    script: list[object]
    interrupt_at: int = -1
    now: float = 0.0
    commands: list[Command] = field(default_factory=list)
    open_reservations: int = 0
    reserved: int = 0
    ended: int = 0
    stored: list[str] = field(default_factory=list)
    legs: list[int] = field(default_factory=lambda: [0])

    def run(self, call: Call) -> Command:
        command = call.start(self.now)
        while True:
            self.commands.append(command)
            assert len(self.commands) < 1000, "the story does not end"
            if isinstance(command, Finish | Fail):
                return command
            event = self.answer(command)
            command = call.next(event, self.now)

    def answer(self, command: Command) -> Event:
        interrupted = len(self.commands) - 1 == self.interrupt_at
        if interrupted and isinstance(command, LookUp | Reserve | Admit | Send | Wait | FallBack):
            return Interrupted(USAGE if isinstance(command, Send) else None)
        match command:
            case LookUp():
                return Hit(Answer("kept", cached=True)) if self.script[:1] == ["hit"] else Missed()
            case Reserve():
                if self.script[:1] == ["denied"]:
                    return Denied(BudgetExceeded("no room"))
                assert self.open_reservations == 0, "a second reservation while one is open"
                self.open_reservations += 1
                self.reserved += 1
                return Done()
            case Settle() | Release():
                assert self.open_reservations == 1, "ended twice"
                self.open_reservations -= 1
                self.ended += 1
                return Done()
            case Admit():
                if self.script[:1] == ["down"]:
                    self.script.pop(0)
                    return Failed(Overloaded("down"))
                if self.script[:1] == ["back"]:
                    self.script.pop(0)
                    if command.earlier:
                        self.legs.append(command.earlier[0])
                        return Returned(command.earlier[0])
                return Admitted()
            case FallBack():
                assert self.open_reservations == 0, "a leg was left with its reservation open"
                self.legs.append(command.leg)
                return Done()
            case Send():
                assert self.open_reservations == 1, "sent without a reservation"
                self.now += 1.0
                step = self.script.pop(0) if self.script else "good"
                if isinstance(step, DeepSeekError):
                    error = fresh(step)
                    return Failed(error, getattr(error, "usage", None) or USAGE, wait_s=0.5)
                return Answered(Answer("good", usage=USAGE))
            case Store():
                self.stored.append(command.key)
                return Interrupted() if interrupted else Done()
            case Wait():
                self.now += command.wait_s
                return Done()
        raise AssertionError(command)


def call(**changes: object) -> Call:
    policy = RetryPolicy(**{"patience_s": 60.0, **changes})  # type: ignore[arg-type]
    return Call(REQUEST, key="k", policy=policy, rng=lambda: 0.5)


@settings(max_examples=400, deadline=None)
@given(
    script=st.lists(st.sampled_from([*FAULTS, "good"]), max_size=30),
    interrupt_at=st.integers(-1, 25),
    patience_s=st.one_of(st.none(), st.floats(0, 60)),
)
def test_the_rules_hold_for_every_sequence_of_events(script, interrupt_at, patience_s):
    """No second reservation, each ended once; stored before finished; waits within the patience."""
    world = World(list(script), interrupt_at)
    last = world.run(call(patience_s=patience_s))
    kinds = [type(command) for command in world.commands]
    assert world.open_reservations == 0
    assert world.ended == world.reserved
    waits = sum(command.wait_s for command in world.commands if isinstance(command, Wait))
    if patience_s is not None:
        assert waits <= patience_s + 1e-9
    if isinstance(last, Finish):
        assert "k" in world.stored
        assert kinds.index(Finish) > max(i for i, c in enumerate(world.commands) if isinstance(c, Store))
        stored = next(i for i, c in enumerate(world.commands) if isinstance(c, Store) and c.key == "k")
        settled = max(i for i, kind in enumerate(kinds) if kind is Settle)
        assert stored < settled, "a paid answer is on disk before its bill is booked"
        assert Send not in kinds[stored:], "nothing is sent after a complete answer"


@settings(max_examples=200, deadline=None)
@given(script=st.lists(st.sampled_from(FAULTS), max_size=12), interrupt_at=st.integers(0, 30))
def test_an_interrupt_leaves_no_reservation_open(script, interrupt_at):
    """Whenever the caller goes away, the money set aside is settled or released, and nothing more is sent."""
    world = World(list(script), interrupt_at)
    world.run(call())
    assert world.open_reservations == 0
    kinds = [type(command) for command in world.commands]
    if interrupt_at < len(kinds) and kinds[interrupt_at] not in (Settle, Release):
        assert Send not in kinds[interrupt_at + 1 :]


@pytest.mark.parametrize("script", [["hit"], ["denied"], ["good"], [FAULTS[0], "good"]])
def test_a_call_that_has_ended_is_gone_without_the_garbage_collector(script):
    """It holds nothing that holds it: thousands of rows leave nothing to look for."""
    gc.disable()
    try:
        ended = call()
        World(script).run(ended)
        left = weakref.ref(ended)
        del ended
        assert left() is None
    finally:
        gc.enable()


def test_a_hit_sends_nothing():
    """An answer in the store is the end: no reservation, no request."""
    world = World(["hit"])
    last = world.run(call())
    assert isinstance(last, Finish)
    assert [type(command) for command in world.commands] == [LookUp, Finish]


def test_a_denied_budget_sends_nothing():
    """Without room in the budget nothing is sent."""
    world = World(["denied"])
    last = world.run(call())
    assert isinstance(last, Fail)
    assert isinstance(last.error, BudgetExceeded)
    assert not any(isinstance(command, Send) for command in world.commands)


def test_refusals_are_not_tries():
    """Twenty 503s do not use up the eight faults a call may have; the answer counts one try."""
    world = World([FAULTS[0]] * 20 + ["good"])
    last = world.run(call(patience_s=None))
    assert isinstance(last, Finish)
    assert (last.answer.attempts, last.answer.refusals) == (1, 20)
    assert world.reserved == 1, "a refusal costs nothing, so its reservation is kept"


def test_faults_end_after_their_number():
    """The ninth fault gives the call up, and says how often it asked."""
    world = World([FAULTS[2]] * 20)
    last = world.run(call(patience_s=None))
    assert isinstance(last, Fail)
    assert sum(isinstance(command, Send) for command in world.commands) == 9
    assert "asked 9 times" in str(last.error)


def test_every_paid_text_is_kept():
    """Two unusable answers are stored beside the good one, and named by it."""
    world = World([FAULTS[6], FAULTS[5], "good"])
    last = world.run(call())
    assert isinstance(last, Finish)
    assert world.stored == ["k~1", "k~2", "k"]
    assert last.answer.raw == ("{}", "{}")
    assert (last.answer.repairs, last.answer.attempts) == (2, 3)


def test_a_third_unusable_answer_is_the_end_and_nothing_paid_is_lost():
    """At most two repairs; the error carries every text that was charged."""
    world = World([FAULTS[6]] * 5)
    last = world.run(call())
    assert isinstance(last, Fail)
    assert isinstance(last.error, SchemaMismatch)
    assert last.error.raw == ("{}", "{}", "{}")  # type: ignore[attr-defined]
    assert world.stored == ["k~1", "k~2", "k~3"]


@pytest.mark.parametrize("error", [FAULTS[7], FAULTS[8]], ids=["moderation", "key"])
def test_what_is_final_is_asked_once(error):
    """An error that would come again is not tried again, and releases its money."""
    world = World([error] * 5)
    last = world.run(call())
    assert isinstance(last, Fail)
    assert sum(isinstance(command, Send) for command in world.commands) == 1
    assert isinstance(world.commands[-2], Release)


def test_a_repair_asks_differently():
    """The request after an unusable answer shows it back and stays within the rules of JSON mode."""
    world = World([FAULTS[6], "good"])
    world.run(call())
    first, second = (c.request for c in world.commands if isinstance(c, Send))
    assert second.messages[: len(first.messages)] == first.messages
    assert second.messages[-2].content == "{}"
    assert second.thinking is False


def test_without_a_store_nothing_is_looked_up_or_kept():
    """``look_up=False, keep=False``: the road between is the same."""
    world = World(["good"])
    story = Call(REQUEST, key="k", policy=RetryPolicy(), rng=lambda: 0.5, look_up=False, keep=False)
    assert isinstance(world.run(story), Finish)
    assert not any(isinstance(command, LookUp | Store) for command in world.commands)


# ----------------------------------------------------------------------------------- several routes


def legs_call(*failovers_s: float | None, patience_s: float | None = 60.0, max_faults: int = 8) -> Call:
    """A call with one leg for each ``failover_s``, named m0, m1, ..."""
    requests = [ChatRequest(f"m{n}", REQUEST.messages, json_mode=True) for n in range(len(failovers_s))]
    legs = [Leg(r, f"k{n}", f, f"u{n}") for n, (r, f) in enumerate(zip(requests, failovers_s, strict=True))]
    return Call(
        legs[0].request,
        key=legs[0].key,
        policy=RetryPolicy(patience_s=patience_s, max_faults=max_faults),
        rng=lambda: 0.5,
        failover_s=legs[0].failover_s,
        fallbacks=legs[1:],
    )


@settings(max_examples=300, deadline=None)
@given(
    script=st.lists(st.sampled_from([*FAULTS, "good", "down", "back"]), max_size=40),
    interrupt_at=st.integers(-1, 60),
    failovers_s=st.lists(st.floats(0, 20), min_size=2, max_size=4),
    patience_s=st.floats(0, 60),
)
def test_the_rules_hold_with_several_routes(script, interrupt_at, failovers_s, patience_s):
    """Each reservation ends once, legs in order, stored under the leg's key, waits within the patience."""
    world = World(list(script), interrupt_at)
    told = legs_call(*failovers_s, patience_s=patience_s)
    last = world.run(told)
    assert world.open_reservations == 0
    assert world.reserved == world.ended
    for leg, after in zip(world.legs, world.legs[1:], strict=False):
        assert after < leg or after == leg + 1, "on to the next one, or back to an earlier one"
    assert sum(c.wait_s for c in world.commands if isinstance(c, Wait)) <= patience_s + 1e-9
    if isinstance(last, Finish):
        assert world.stored[-1] == f"k{world.legs[-1]}"
    for before, after in zip(world.commands, world.commands[1:], strict=False):
        if isinstance(before, FallBack) and isinstance(after, LookUp):
            assert after.key == f"k{before.leg}"


@pytest.mark.parametrize(
    "error", [Overloaded("503"), RateLimited("429"), ServerFault("500"), WentSilent("x")]
)
def test_trouble_of_the_servers_leads_to_the_next_route(error):
    """Once the first has kept the call waiting for its ``failover_s``."""
    world = World([error] * 3)
    last = world.run(legs_call(2.0, None))
    assert isinstance(last, Finish)
    sends = [c.request.model for c in world.commands if isinstance(c, Send)]
    assert sends[0] == "m0"
    assert sends[-1] == "m1"


@pytest.mark.parametrize(
    "error", [AuthError("401"), ContentRefused("risk"), SchemaMismatch("wrong", answer=BAD)]
)
def test_what_another_route_does_not_mend_stays_on_this_one(error):
    """A wrong key, a refused text, an answer that does not fit: no other route is asked."""
    world = World([error] * 9)
    assert isinstance(world.run(legs_call(0.0, None)), Fail)
    assert {c.request.model for c in world.commands if isinstance(c, Send)} == {"m0"}


def test_a_route_that_seems_down_is_left_without_sending():
    """The driver says so in place of a place: nothing is sent there, nothing is booked."""
    world = World(["down"])
    assert isinstance(world.run(legs_call(5.0, None)), Finish)
    assert [c.request.model for c in world.commands if isinstance(c, Send)] == ["m1"]


def test_a_request_that_breaks_every_server_ends():
    """A row without a patience of its own: each route is given its faults, then it is over."""
    world = World([ServerFault("500")] * 500)
    last = world.run(legs_call(30.0, 30.0, patience_s=None, max_faults=3))
    assert isinstance(last, Fail)
    assert len([c for c in world.commands if isinstance(c, Send)]) <= 20


# ------------------------------------------------------------------------ back to a route before


def models(world: World) -> list[str]:
    """Where the question was sent, in order."""
    return [c.request.model for c in world.commands if isinstance(c, Send)]


def test_a_call_in_line_goes_back_with_what_it_has_reserved():
    """One look-up and one reservation for each turn that was taken, none for the way back."""
    world = World(["down", "back"])
    last = world.run(legs_call(5.0, 5.0))
    assert isinstance(last, Finish)
    assert last.answer.fingerprint == "k0"
    assert models(world) == ["m0"]
    kinds = [type(c) for c in world.commands]
    turn = kinds.index(FallBack)
    assert kinds[turn:] == [FallBack, LookUp, Reserve, Admit, Send, Store, Settle, Finish]


def test_only_a_later_leg_may_be_left_for_an_earlier_one():
    """The way back is offered to the driver at each wait in line, and to earlier legs alone."""
    world = World(["down", "down", Overloaded("503"), "good"])
    world.run(legs_call(5.0, 5.0, 5.0))
    assert [c.earlier for c in world.commands if isinstance(c, Admit)] == [(), (0,), (0, 1), (0, 1)]


def test_a_call_that_went_back_has_the_time_of_a_new_one_there():
    """Refused again, it is sent on only after the failover time has passed once more."""
    refusals = [Overloaded("503")] * 4
    world = World(["down", "back", *refusals])
    world.run(legs_call(4.0, 60.0))
    assert models(world) == ["m0", "m0", "m0", "m1", "m1"]


def test_the_repair_of_an_answer_stays_where_that_came_from():
    """What is shown back to the model is its own answer."""
    world = World(["down", SchemaMismatch("wrong", answer=BAD), "back", "good"])
    last = world.run(legs_call(5.0, 5.0))
    assert isinstance(last, Finish)
    assert models(world) == ["m1", "m1"]
    assert [c.earlier for c in world.commands if isinstance(c, Admit)] == [(), (0,), ()]


def test_going_to_and_fro_gives_no_server_more_faults_than_its_own():
    """Each route keeps its count; one that has used its tries up is not gone back to."""
    script = [ServerFault("500")] * 3 + ["back", "good"]
    world = World(script)
    world.run(legs_call(600.0, 600.0, max_faults=2))
    assert models(world) == ["m0", "m0", "m0", "m1"]
    assert [c.earlier for c in world.commands if isinstance(c, Admit)][-1] == ()
    fault = ServerFault("500")
    world = World([fault, fault, "down", "back", fault, "good"])
    world.run(legs_call(600.0, 600.0, max_faults=2))
    assert models(world) == ["m0", "m0", "m0", "m1"], "two faults before, one after: those are its three"
