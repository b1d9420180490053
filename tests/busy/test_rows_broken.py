"""Rows 7 to 10 and 18: the answer breaks off, or something else comes in its place."""

from __future__ import annotations

import asyncio

import pytest

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.core import errors
from deepseek_nb.core.errors import Disposition
from deepseek_nb.core.retry import RetryPolicy
from deepseek_nb.sandbox import Fault, FaultScript, Sandbox

WHOLE = "one two three four five six seven eight nine ten"
ONE_TRY = RetryPolicy(max_faults=0, wait_initial_s=0.01)


def shown_at_last(got) -> str:
    """What a reader of the pieces has before them in the end."""
    text = ""
    for piece in got.shown:
        text = piece.text if piece.restart else text + piece.text
    return text


# ------------------------------------------------------------------------------------------- row 7


@pytest.fixture
def slow(talk):
    """A sandbox that writes a token every 20 ms, so that what was sent has been read when the cut comes."""
    with Sandbox(token_s=20, time_scale=1000, count="estimate", engine=talk.heard) as server:
        yield server


@pytest.mark.parametrize("fault", ["cut_rst", "cut_incomplete"])
def test_row_07_a_cut_answer_is_asked_again_from_the_start(fault, talk, slow):
    """Reset or closed after five tokens: the pieces begin anew, the answer is whole, the first is booked."""
    got = talk.ask(Fault(fault, after_tokens=5), sandbox=slow)
    assert isinstance(got.waits[0].error, errors.ConnectionLost)
    assert (got.text, got.answer.attempts) == (WHOLE, 2)
    assert sum(piece.restart for piece in got.shown) == 1
    assert shown_at_last(got) == WHOLE
    assert got.budget.unknown_usd > 0


@pytest.mark.parametrize("fault", ["cut_rst", "cut_incomplete"])
def test_row_07_partial_text_is_kept_as_partial_and_never_as_an_answer(fault, talk, slow):
    """With no try left: an error that holds the five tokens, and nothing in the store."""
    got = talk.ask(Fault(fault, after_tokens=5), sandbox=slow, policy=ONE_TRY)
    assert isinstance(got.error, errors.ConnectionLost)
    assert got.error.charged == "unknown"
    assert 0 < len(got.error.partial) < len(WHOLE)
    assert WHOLE.startswith(got.error.partial)


def test_row_07_half_a_json_body_is_no_answer(talk):
    """In a job with a schema: cut bodies are asked again, and no cell of the frame holds half an answer."""
    got = talk.ask(Fault("cut_incomplete", after_tokens=2), prompt="I lost my card", schema={"label": str})
    assert isinstance(got.waits[0].error, errors.ConnectionLost)
    assert got.answer.attempts == 2


# ------------------------------------------------------------------------------------------- row 8


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("cut_eof", "without [DONE]"),
        ("proxy_text", "without [DONE]"),
        (Fault("proxy_text", text="upstream error: read ECONNRESET\n"), "read ECONNRESET"),
        ("no_done", "without [DONE]"),
        ("done_unclosed", "without [DONE]"),
    ],
    ids=str,
)
def test_row_08_a_clean_end_is_not_an_end(fault, said, talk):
    """It takes a finish reason and a closed [DONE]; a clean end of the body or a proxy's text is none."""
    got = talk.ask(fault)
    assert (got.text, got.answer.attempts) == (WHOLE, 2)
    assert isinstance(got.waits[0].error, errors.StreamBroken)
    assert said in got.waits[0].error.message
    got = talk.ask(fault, policy=ONE_TRY)
    assert isinstance(got.error, errors.StreamBroken)
    assert got.error.partial
    assert WHOLE.startswith(got.error.partial)


# ------------------------------------------------------------------------------------------- row 9


def test_row_09_a_reset_before_headers_is_asked_again(talk):
    """Nothing came back: whether it was charged is unknown, the answer comes on the next try."""
    got = talk.ask(*["reset_before_headers"] * 2)
    assert (got.text, got.answer.attempts) == (WHOLE, 3)
    assert [event.error.charged for event in got.waits] == ["unknown"] * 2
    assert all(isinstance(event.error, errors.ConnectionLost) for event in got.waits)


def test_row_09_a_stale_connection_of_the_pool_is_not_noticed_by_the_caller(talk, tmp_path):
    """The server has dropped the idle connection: the next question is answered over a fresh one."""
    server = talk.sandbox
    server.faults = FaultScript.of("stale_connection", "stale_connection")

    async def ask_thrice() -> list[str]:
        async with AsyncClient(
            base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path / "pool"
        ) as client:
            return [(await client.ask(f"Return exactly: {n}")).text for n in range(3)]

    assert asyncio.run(ask_thrice()) == ["0", "1", "2"]
    assert server.log.answered_twice() == {}
    assert sum(record.usable for record in server.log) == 3


def test_row_09_idle_connections_are_kept_for_a_short_time(talk, tmp_path):
    """What the pool keeps is younger than what servers and proxies drop."""

    async def kept_s() -> float:
        server = talk.sandbox
        async with AsyncClient(
            base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path / "pool"
        ) as client:
            await client.ask("Return exactly: x")
            assert client._transport is not None
            session = client._transport._connections.client
            connector = session.connector if hasattr(session, "connector") else session().connector
            return connector._keepalive_timeout

    assert 0 < asyncio.run(kept_s()) <= 30


# ------------------------------------------------------------------------------------------ row 10


@pytest.mark.parametrize(
    "fault",
    [
        Fault("html_500", size_bytes=50_000),
        Fault("html_502", size_bytes=50_000),
        Fault("html_504", size_bytes=50_000),
        Fault("html_200", size_bytes=50_000),
        Fault("html_200", size_bytes=500_000),
        Fault("html_200", status=403),
    ],
    ids=str,
)
def test_row_10_a_page_is_busy_whatever_its_status_and_little_of_it_is_kept(fault, talk):
    """The first byte tells a page, also under 200: retried; its title is told, 500 bytes are kept."""
    got = talk.ask(fault)
    assert got.text == WHOLE
    error = got.waits[0].error
    assert isinstance(error, errors.ServerFault)
    assert error.disposition is Disposition.RETRY
    assert 0 < len(error.body.encode()) <= 500
    assert len(error.message) < 200
    assert "<" not in error.message
    assert len(got.log) == 2


# ------------------------------------------------------------------------------------------ row 18


@pytest.mark.parametrize(
    "fault", ["error_in_200", Fault("error_in_stream", after_tokens=4), "error_beside_answer"], ids=str
)
def test_row_18_an_error_object_inside_a_200_is_seen_first(fault, talk):
    """As the body, as an event after some tokens, beside half an answer that says stop: no answer."""
    got = talk.ask(fault)
    assert (got.text, len(got.log)) == (WHOLE, 2)
    assert got.waits[0].error.disposition is Disposition.RETRY
    assert "Internal error" in got.waits[0].error.message


def test_row_18_the_text_before_the_error_is_kept_as_partial(talk):
    """With no try left, what came before the error event is on the error."""
    got = talk.ask(Fault("error_in_stream", after_tokens=4), policy=ONE_TRY)
    assert isinstance(got.error, errors.StreamBroken)
    assert got.error.partial
    assert WHOLE.startswith(got.error.partial)
    got = talk.ask("error_beside_answer", policy=ONE_TRY)
    assert WHOLE.startswith(got.error.partial)
    assert got.error.partial
