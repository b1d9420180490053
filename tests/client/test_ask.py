"""One question over real sockets: answered, kept, shared, refused, repaired, interrupted."""

from __future__ import annotations

import asyncio
import sqlite3
import warnings
from collections.abc import Callable
from typing import Literal

import pydantic
import pytest

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.core import errors
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.events import CallEvent
from deepseek_nb.sandbox import Fault, FaultScript, Sandbox

QUESTION = "The sky is blue. Grass is green. What is blue?"


async def until(what: Callable[[], object]) -> None:
    """Wait for ``what``."""
    while not what():  # noqa: ASYNC110 (what is waited for is not ours to announce)
        await asyncio.sleep(0.01)


def passing(client: AsyncClient) -> int:
    """Interactive requests that hold a place."""
    return client.road.upstream("").gate("deepseek-flash").admission.passing


class Mood(pydantic.BaseModel):
    """A small shape."""

    mood: Literal["happy", "sad"]
    score: int = pydantic.Field(ge=0, le=10)


def test_an_answer_says_what_it_took(sandbox, with_client):
    """Text, served model, tokens, cost as the server charged it, one attempt, not cached."""
    answer = with_client(lambda c: c.ask(QUESTION))
    record = sandbox.log[0]
    assert answer.text.startswith("[simulated]")
    assert (answer.attempts, answer.cached, answer.finish_reason) == (1, False, "stop")
    assert answer.usage.prompt_tokens == record.prompt_tokens
    assert answer.cost_usd == pytest.approx(record.cost_usd)
    assert 0 < answer.first_token_s <= answer.latency_s
    assert answer.route == sandbox.base_url.removeprefix("http://")


def test_the_same_question_is_paid_once_also_by_another_client(sandbox, with_client):
    """The second client finds the answer on disk: same text, cached, no request."""
    first = with_client(lambda c: c.ask(QUESTION))
    second = with_client(lambda c: c.ask(QUESTION))
    assert (second.text, second.cached) == (first.text, True)
    assert len(sandbox.log) == 1


def test_what_changes_the_answer_changes_the_key_and_what_does_not_does_not(sandbox, with_client):
    """Another temperature is another question; another priority or user_id is not."""

    async def ask(client: AsyncClient) -> None:
        await client.ask(QUESTION)
        await client.ask(QUESTION, priority=1, user_id="u")
        assert len(sandbox.log) == 1
        await client.ask(QUESTION, temperature=0)
        await client.ask(QUESTION, system="Be brief.")
        await client.ask(QUESTION, model="deepseek-v4-pro")

    with_client(ask)
    assert len(sandbox.log) == 4


def test_without_the_cache_every_question_is_asked(sandbox, with_client):
    """``cache=False`` neither looks nor keeps."""

    async def ask(client: AsyncClient) -> None:
        for _ in range(3):
            await client.ask(QUESTION, cache=False)
        assert client.store is not None
        assert list(client.store.keys()) == []

    with_client(ask)
    assert len(sandbox.log) == 3


def test_an_old_answer_is_asked_again(sandbox, with_client):
    """``ttl`` or ``ttl_s`` says how old an answer may be; without it any age will do."""

    async def ask(client: AsyncClient) -> None:
        await client.ask(QUESTION)
        await asyncio.sleep(0.05)
        assert (await client.ask(QUESTION, ttl_s=60)).cached
        assert (await client.ask(QUESTION, ttl="30min")).cached
        assert not (await client.ask(QUESTION, ttl_s=0.01)).cached
        await asyncio.sleep(0.05)
        assert not (await client.ask(QUESTION, ttl=0.01)).cached
        with pytest.raises(errors.ConfigError, match="'soon' is not a duration"):
            await client.ask(QUESTION, ttl="soon")

    with_client(ask)
    assert len(sandbox.log) == 3


def test_equal_questions_at_once_are_asked_once(sandbox, with_client):
    """Fifty callers, one request, fifty answers."""

    async def ask(client: AsyncClient):
        return await asyncio.gather(*(client.ask(QUESTION) for _ in range(50)))

    answers = with_client(ask)
    assert len(sandbox.log) == 1
    assert len({a.text for a in answers}) == 1
    assert sum(not a.cached for a in answers) == 1


def test_a_follower_takes_over_when_the_first_caller_goes_away(tmp_path):
    """The leader is cancelled: another waiting caller asks, and gets its answer."""
    with Sandbox(first_token_s=0.2) as slow:

        async def ask() -> None:
            async with AsyncClient(base_url=slow.base_url, api_key=slow.api_key, data_dir=tmp_path) as client:
                leader = asyncio.create_task(client.ask(QUESTION))
                await asyncio.sleep(0.05)
                follower = asyncio.create_task(client.ask(QUESTION))
                await asyncio.sleep(0.02)
                leader.cancel()
                assert (await follower).text
                assert leader.cancelled() or (await asyncio.gather(leader, return_exceptions=True))

        asyncio.run(ask())
        assert sum(r.complete for r in slow.log.chats) == 1


def test_a_follower_is_not_taken_for_cancelled_when_the_first_caller_is(sandbox, with_client, misbehave):
    """Also where it was cancelled before, and went on: its own cancellation alone ends it."""
    misbehave("hang")

    async def follower(client: AsyncClient) -> Answer:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return await client.ask(QUESTION)
        raise AssertionError

    async def ask(client: AsyncClient) -> None:
        leader = asyncio.create_task(client.ask(QUESTION))
        second = asyncio.create_task(follower(client))
        await until(lambda: passing(client))
        second.cancel()
        await asyncio.sleep(0.05)
        leader.cancel()
        assert (await second).text

    with_client(ask)


def test_followers_of_answers_that_cannot_be_used_do_not_pay_for_them_again(sandbox, with_client):
    """The question and its two repairs, once for all."""
    sandbox.faults = FaultScript.always("wrong_shape_json")

    async def ask(client: AsyncClient) -> None:
        calls = (client.ask("I am sad", schema=Mood) for _ in range(5))
        told = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in told} == {errors.SchemaMismatch}

    with_client(ask)
    assert len(sandbox.log) == 3


def test_a_follower_has_its_own_budget_and_no_more_than_its_patience(sandbox, with_client):
    """The first one's budget is not its own, and a busy server keeps all of them for one patience only."""

    async def ask(client: AsyncClient) -> None:
        poor, rich = await asyncio.gather(
            client.ask(QUESTION, budget_usd=1e-9), client.ask(QUESTION), return_exceptions=True
        )
        assert isinstance(poor, errors.BudgetExceeded)
        assert isinstance(rich, Answer)
        sandbox.faults = FaultScript.always("busy_503")
        calls = (client.ask("Still there?", patience="1s") for _ in range(20))
        async with asyncio.timeout(10):
            told = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in told} == {errors.Overloaded}

    with_client(ask)


BUSY_FAULTS = [
    "busy_503",
    Fault("rate_429", limit=5),
    "html_502",
    "html_500",
    "html_200",
    "empty_200",
    "blank_200",
    "cut_rst",
    "cut_eof",
    "no_done",
    "proxy_text",
    "reset_before_headers",
    "insufficient_resource",
    "aborted",
    "no_choices",
    "null_choices",
    "error_in_200",
    "error_in_stream",
    "blank_json",
    "reasoning_only",
    "dsml",
]


@pytest.mark.parametrize("fault", BUSY_FAULTS, ids=str)
def test_a_fault_is_survived_and_the_answer_is_whole(fault, sandbox, with_client, misbehave):
    """Whatever the server does to the first try, the second gives the answer; nothing partial is kept."""
    misbehave(fault)
    answer = with_client(lambda c: c.ask(QUESTION))
    assert answer.text.startswith("[simulated]")
    assert answer.finish_reason == "stop"
    assert 2 <= len(sandbox.log) <= 3
    assert sandbox.log.answered_twice() == {}


@pytest.mark.parametrize(
    "fault",
    [
        "keepalive_then_json",
        "comments",
        "usage_extra_chunk",
        "usage_null",
        "role_null",
        "content_type_swapped",
        "dribble",
    ],
)
def test_an_odd_but_whole_answer_is_an_answer(fault, sandbox, with_client, misbehave):
    """Keep-alives, odd usage chunks, swapped content types: one request, no retry."""
    misbehave(fault)
    answer = with_client(lambda c: c.ask(QUESTION))
    assert answer.text.startswith("[simulated]")
    assert len(sandbox.log) == 1


@pytest.mark.parametrize(
    "fault", ["hang", Fault("stall", after_tokens=2), Fault("stall_with_comments", after_tokens=2)], ids=str
)
def test_silence_and_standstill_are_hung_up_on(fault, sandbox, with_client, misbehave):
    """No byte, no further byte, or comments without progress: given up in time, asked again."""
    misbehave(fault)
    answer = with_client(lambda c: c.ask(QUESTION), silence_timeout_s=0.3, token_timeout_s=0.3)
    assert answer.attempts == 2
    assert sandbox.log[0].aborted


FINAL_FAULTS = [
    ("content_risk", errors.ContentRefused),
    ("balance_402", errors.BalanceExhausted),
    ("governor_401", errors.AuthError),
    ("unknown_model", errors.ModelUnknown),
    ("content_filter", errors.ContentRefused),
    ("reasoning_required_400", errors.RequestInvalid),
]


@pytest.mark.parametrize(("fault", "error"), FINAL_FAULTS)
def test_what_is_final_is_asked_once_and_says_what_to_do(fault, error, sandbox, with_client, misbehave):
    """Moderation, an empty account, a bad key, an unknown model: no second request, a hint."""
    misbehave(fault, fault)
    with pytest.raises(error) as caught:
        with_client(lambda c: c.ask(QUESTION))
    assert len(sandbox.log) == 1
    assert len(caught.value._render_traceback_()) <= 5


def test_patience_ends_a_busy_call_with_nothing_charged(sandbox, with_client):
    """Only refusals: after the patience the caller hears how often it was tried."""
    sandbox.faults = FaultScript.always("busy_503")
    with pytest.raises(errors.Overloaded, match=r"asked \d+ times") as caught:
        with_client(lambda c: c.ask(QUESTION, patience="1s"))
    assert caught.value.charged == "no"
    assert caught.value.cost_usd == 0
    assert sandbox.log.cost_usd == 0


def test_events_tell_what_happens(with_client, misbehave):
    """A listener sees the wait with its reason and the patience left, then the answer."""
    misbehave("busy_503", "empty_200")
    heard: list[CallEvent] = []
    with_client(lambda c: c.ask(QUESTION, on_event=heard.append))
    assert [e.kind for e in heard if e.kind != "first_token"] == [
        "sent",
        "waiting",
        "sent",
        "waiting",
        "sent",
        "answered",
    ]
    waits = [e for e in heard if e.kind == "waiting"]
    assert isinstance(waits[0].error, errors.Overloaded)
    assert 0 < waits[0].left_s <= 600


@pytest.mark.parametrize("priority", [2, 5])
@pytest.mark.parametrize("kind", ["sent", "waiting", "first_token", "piece"])
def test_a_listener_that_raises_keeps_no_place_and_no_money(kind, priority, sandbox, with_client, misbehave):
    """Its error goes on, once the books are in order: the calls after it are asked as ever."""
    misbehave(*[Fault("rate_429", limit=5)] * 3)

    def breaks(event: CallEvent) -> None:
        if event.kind == kind:
            raise ZeroDivisionError(kind)

    def breaks_too(_: object) -> None:
        if kind == "piece":
            raise ZeroDivisionError(kind)

    async def ask(client: AsyncClient) -> None:
        for number in range(3):
            with pytest.raises(ZeroDivisionError):
                await client.ask(
                    f"{QUESTION} {number}", priority=priority, on_event=breaks, on_delta=breaks_too
                )
        assert client.budget.reserved_usd == 0
        assert (client.budget.unknown_usd > 0) == (kind in ("first_token", "piece"))
        async with asyncio.timeout(20):
            assert (await client.ask(QUESTION, priority=1)).text

    with_client(ask, concurrency_start=1, concurrency_max=1, budget_usd=1)


def test_closing_sends_away_who_waits(sandbox, with_client):
    """A call that waits for its place when the client is closed ends, and says why."""
    sandbox.faults = FaultScript.always("busy_503")

    async def ask(client: AsyncClient) -> None:
        calls = [asyncio.create_task(client.ask(f"{QUESTION} {n}", priority=2)) for n in range(12)]
        await until(lambda: len(sandbox.log) >= 12)
        await client.aclose()
        async with asyncio.timeout(30):
            told = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in told} == {errors.ConfigError}

    with_client(ask)


def test_a_stream_gives_the_pieces_of_the_answer(with_client):
    """The pieces make up the text; the answer is there after the last."""

    async def read(client: AsyncClient):
        reply = client.stream(QUESTION)
        pieces = [piece async for piece in reply]
        return pieces, reply.answer

    pieces, answer = with_client(read)
    assert len(pieces) > 3
    assert "".join(p.text for p in pieces) == answer.text


def test_a_broken_stream_starts_over_and_says_so(with_client, misbehave):
    """After a cut the pieces begin again behind a restart mark: joined from there they are the answer."""
    misbehave(Fault("cut_rst", after_tokens=5))

    async def read(client: AsyncClient):
        reply = client.stream(QUESTION)
        text = ""
        restarts = 0
        async for piece in reply:
            restarts += piece.restart
            text = piece.text if piece.restart else text + piece.text
        return text, restarts, reply.answer

    text, restarts, answer = with_client(read)
    assert restarts == 1
    assert text == answer.text


def test_leaving_a_stream_early_hangs_up(tmp_path):
    """Whoever stops reading stops paying: the server sees the connection go."""
    with Sandbox(token_s=0.05) as slow:

        async def read() -> None:
            async with AsyncClient(base_url=slow.base_url, api_key=slow.api_key, data_dir=tmp_path) as client:
                async for piece in client.stream(QUESTION, thinking=False):
                    if piece.text:
                        break
                await asyncio.sleep(0.3)
                assert client.budget.unknown_usd > 0
                assert client.budget.reserved_usd == 0

        asyncio.run(read())
        assert slow.log[0].aborted
        assert not slow.log[0].complete


def test_a_schema_gives_a_checked_value(with_client):
    """A pydantic model in, an instance out; a JSON Schema in, a dict out; columns in, a model out."""

    async def ask(client: AsyncClient):
        return [
            (await client.ask("I am happy", schema=shape)).value
            for shape in (Mood, Mood.model_json_schema(), {"mood": Literal["happy", "sad"]})
        ]

    model, plain, columns = with_client(ask)
    assert model == Mood(mood="happy", score=model.score)
    assert plain["mood"] == "happy"
    assert columns.mood == "happy"


@pytest.mark.parametrize("fault", ["bad_json_answer", "spaces_json", "length_cut", "wrong_shape_json"])
def test_an_unusable_answer_is_repaired_and_what_was_paid_is_kept(fault, sandbox, with_client, misbehave):
    """The second, changed question gives the value; the paid text stays with the answer and in the store."""
    misbehave(fault)

    async def ask(client: AsyncClient):
        answer = await client.ask("I am sad", schema=Mood)
        assert client.store is not None
        return answer, sorted(client.store.keys())

    answer, keys = with_client(ask)
    assert answer.value.mood == "sad"
    assert (answer.repairs, answer.attempts, len(answer.raw)) == (1, 2, 1)
    assert keys == [answer.fingerprint, answer.fingerprint + "~1"]
    assert answer.cost_usd == pytest.approx(sandbox.log.cost_usd)


def test_a_call_cancelled_while_a_paid_answer_is_written_sends_no_repair(sandbox, with_client, misbehave):
    """What was paid is kept and booked, and nothing more is paid."""
    misbehave("wrong_shape_json")

    async def ask(client: AsyncClient) -> None:
        assert client.store is not None
        busy = sqlite3.connect(client.store.path, isolation_level=None)

        def when(event: CallEvent) -> None:
            if event.kind == "first_token":
                busy.execute("BEGIN IMMEDIATE")  # the commit waits

        work = asyncio.create_task(client.ask("I am sad", schema=Mood, on_event=when))
        await until(lambda: busy.in_transaction and not passing(client))
        work.cancel()
        await asyncio.sleep(0.05)
        busy.execute("ROLLBACK")
        busy.close()
        with pytest.raises(asyncio.CancelledError):
            await work
        kept = list(client.store.keys())
        assert [key[-2:] for key in kept] == ["~1"]
        assert client.budget.reserved_usd == 0
        assert client.budget.spent_usd == pytest.approx(sandbox.log.cost_usd)

    with_client(ask, budget_usd=1)
    assert len(sandbox.log) == 1


def test_two_repairs_are_all(sandbox, with_client, misbehave):
    """Three unusable answers end it: three requests, all three texts in the error."""
    misbehave(*["wrong_shape_json"] * 5)
    with pytest.raises(errors.SchemaMismatch) as caught:
        with_client(lambda c: c.ask("I am sad", schema=Mood))
    assert len(sandbox.log) == 3
    assert len(caught.value.raw) == 3


BAD_SCHEMAS = [
    {"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"minimum": 5, "maximum": 1}}, "required": ["a"]},
    {"type": "object", "properties": {}, "required": ["b"], "additionalProperties": False},
    {"type": "string"},
    {},
    "not a schema",
    int,
]


@pytest.mark.parametrize("schema", BAD_SCHEMAS, ids=str)
def test_a_schema_no_answer_can_meet_is_refused_before_any_request(schema, sandbox, with_client):
    """Empty choices, crossed bounds, forbidden requirements: known before money is spent."""
    with pytest.raises(errors.SchemaError) as caught:
        with_client(lambda c: c.ask("x", schema=schema))
    assert caught.value.hint
    assert len(sandbox.log) == 0


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ("", {}, errors.RequestInvalid),
        ("  \n", {}, errors.RequestInvalid),
        ([], {}, errors.RequestInvalid),
        ([{"role": "boss", "content": "x"}], {}, errors.RequestInvalid),
        (5, {}, errors.RequestInvalid),
        ("x", {"priority": 9}, errors.RequestInvalid),
        ("x", {"budget_usd": -1}, errors.ConfigError),
        ("x", {"budget_usd": 1e-9}, errors.BudgetExceeded),
        ("x " * 4_000_000, {}, errors.ContextTooLong),
    ],
    ids=["empty", "blank", "no messages", "role", "type", "priority", "negative", "too small", "too long"],
)
def test_bad_input_is_refused_before_any_request(prompt, options, error, sandbox, with_client):
    """Each with its own class, at most five lines, and nothing sent."""
    with pytest.raises(error) as caught:
        with_client(lambda c: c.ask(prompt, **options))
    assert len(sandbox.log) == 0
    assert len(caught.value._render_traceback_()) <= 5


def test_a_missing_key_says_how_to_give_one(tmp_path):
    """The error names the environment variable, the argument and the way without a key."""

    async def ask() -> None:
        async with AsyncClient(data_dir=tmp_path) as client:
            await client.ask("x")

    with pytest.raises(errors.ConfigError, match=r"DEEPSEEK_API_KEY.*api_key=.*use_sandbox"):
        asyncio.run(ask())


def test_a_wrong_key_is_told_without_showing_it(with_client):
    """401: one request, a readable message, not a trace of the key."""
    canary = "sk-canary-0123456789abcdef"
    with pytest.raises(errors.AuthError) as caught:
        with_client(lambda c: c.ask("x"), api_key=canary)
    assert canary not in "".join(caught.value._render_traceback_()) + repr(caught.value.__dict__)


def test_a_token_serves_where_a_key_does(tmp_path):
    """With a client id and secret each request carries a short-lived JWT instead of a key."""
    with Sandbox(api_key=None) as gateway:

        async def ask():
            async with AsyncClient(
                base_url=gateway.base_url,
                jwt_client_id="analyst",
                jwt_client_secret="s" * 40,
                data_dir=tmp_path,
            ) as client:
                return await client.ask("Return exactly: in")

        assert asyncio.run(ask()).text == "in"


def test_a_request_that_the_server_holds_is_told(sandbox, with_client, misbehave):
    """Keep-alives and no answer yet: an event, at most one a second, before the first token."""
    misbehave(Fault("keepalive_then_json", lines=8, every_s=10.0))
    kinds: list[str] = []
    with_client(lambda c: c.ask(QUESTION, on_event=lambda event: kinds.append(event.kind)))
    assert kinds == ["sent", "held", "first_token", "answered"]


def test_a_repair_knows_what_its_model_can_write(with_client):
    """From the dated list of models; of a model that is not in it nothing is known."""

    async def look(client: AsyncClient) -> list[int | None]:
        return [client.prepare("x", model=name).policy.most_tokens for name in ("deepseek-flash", "other")]

    assert with_client(look) == [393_216, None]


def test_a_stubborn_client_keeps_eight_in_flight(with_client):
    """For who shares an account with a greedy rival."""

    async def look(client: AsyncClient) -> float:
        return client.road.upstream("").gate("deepseek-flash").admission.tuning.least

    assert (with_client(look), with_client(look, stubborn=True)) == (1.0, 8.0)
    assert with_client(look, stubborn=True, concurrency_max=4) == 4.0


def test_an_unreachable_host_is_told_after_the_patience(tmp_path):
    """Nothing listens there: nothing was sent, the address is named, the hint says what to check."""

    async def ask() -> None:
        async with AsyncClient(base_url="http://127.0.0.1:9", api_key="k" * 20, data_dir=tmp_path) as client:
            await client.ask("x", patience="0.5s")

    with pytest.raises(errors.NeverConnected, match=r"127\.0\.0\.1:9") as caught:
        asyncio.run(ask())
    assert caught.value.charged == "no"


def test_a_retired_model_name_is_translated_with_a_warning(sandbox, with_client):
    """Never silently: the caller hears which model is asked instead."""
    with pytest.warns(UserWarning, match="retired"):
        with_client(lambda c: c.ask("x", model="deepseek-chat"))
    assert sandbox.log[0].model == "deepseek-flash"


def test_a_budget_is_never_passed(sandbox, with_client):
    """Many questions on a small budget: refused ones cost nothing, the sum stays below."""

    async def ask(client: AsyncClient):
        return await asyncio.gather(
            *(client.ask(f"question {n}", max_tokens=50) for n in range(60)), return_exceptions=True
        )

    outcomes = with_client(ask, budget_usd=0.0001)  # room for some, at peak and off-peak prices
    assert any(isinstance(o, errors.BudgetExceeded) for o in outcomes)
    assert any(not isinstance(o, BaseException) for o in outcomes)
    assert sandbox.log.cost_usd <= 0.0001


def test_no_budget_can_be_kept_where_no_price_is_known(sandbox, with_client):
    """An unknown model with a budget is refused; without one the server decides."""
    with pytest.raises(errors.ConfigError, match="No price is known"):
        with_client(lambda c: c.ask("x", model="local-llama", budget_usd=1.0))
    assert len(sandbox.log) == 0


def test_interactive_calls_pass_while_bulk_waits(tmp_path):
    """Lane 5 does not stand in the line of lane 1."""
    with Sandbox(first_token_s=0.3) as slow:

        async def race() -> float:
            async with AsyncClient(
                base_url=slow.base_url,
                api_key=slow.api_key,
                data_dir=tmp_path,
                concurrency_start=2,
                concurrency_max=2,
            ) as client:
                bulk = [asyncio.create_task(client.ask(f"row {n}", priority=1)) for n in range(12)]
                await asyncio.sleep(0.05)
                vip = await client.ask("urgent", priority=5)
                waiting = sum(not task.done() for task in bulk)
                for task in bulk:
                    task.cancel()
                await asyncio.gather(*bulk, return_exceptions=True)
                assert waiting >= 8
                return vip.latency_s

        assert asyncio.run(race()) < 0.9


def test_two_event_loops_need_two_clients(sandbox, tmp_path):
    """A client used from a second loop says so instead of hanging."""
    client = AsyncClient(base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path)

    async def ask(text: str) -> None:
        await client.ask(text)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(ask("one"))
        with pytest.raises(errors.ConfigError, match="another event loop"):
            asyncio.run(ask("two"))
        loop.run_until_complete(client.aclose())
    finally:
        loop.close()


def test_nothing_warns_on_a_plain_question(with_client):
    """A user sees no warning they cannot do anything about."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_client(lambda c: c.ask("plain"))


def test_no_patience_still_asks_once(with_client, sandbox):
    """Without any patience a question is sent all the same, kept answers and claims or not."""

    async def ask(client):
        return await client.ask("Is it there?")

    assert with_client(ask, patience_s=0).text
    assert len(sandbox.log.complete) == 1


def test_what_is_in_the_store_needs_no_key(sandbox, with_client):
    """A notebook that was run once can be run again by who has its store; anything else names the key."""
    text = with_client(lambda client: client.ask(QUESTION)).text

    async def ask(client: AsyncClient) -> None:
        assert (await client.ask(QUESTION)).text == text
        for call in (lambda: client.ask("new"), client.models, client.balance):
            with pytest.raises(errors.ConfigError, match="There is no API key"):
                await call()

    with_client(ask, api_key=None)
    assert len(sandbox.log) == 1
