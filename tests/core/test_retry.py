"""Waits, patience and repairs, as pure figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.core.chat import Answer, ChatRequest, Message
from deepseek_nb.core.errors import (
    AnswerEmpty,
    AnswerTruncated,
    ContentRefused,
    Overloaded,
    SchemaMismatch,
    ServerFault,
)
from deepseek_nb.core.retry import RetryPolicy, full_jitter_s, repaired

REQUEST = ChatRequest("m", (Message("user", "json please"),), json_mode=True, max_tokens=100, thinking=True)


@given(st.integers(0, 10_000), st.floats(0, 0.999))
def test_jitter_stays_below_the_cap(tries, chance):
    """However often it was tried, also far beyond what a float's exponent holds."""
    assert 0 <= full_jitter_s(tries, base_s=0.5, cap_s=8.0, rng=lambda: chance) <= 8.0


def test_a_sane_retry_after_is_the_least_wait():
    """The server's word counts, when there is one."""
    error = ServerFault("x", retry_after_s=5.0)
    assert RetryPolicy().fault_wait_s(1, error, lambda: 0.0) == 5.0


@pytest.mark.parametrize(
    ("error", "faults", "repairs", "waited_s", "over"),
    [
        (Overloaded("x"), 99, 0, 10, False),
        (Overloaded("x"), 0, 0, 600, True),
        (ServerFault("x"), 8, 0, 0, False),
        (ServerFault("x"), 9, 0, 0, True),
        (SchemaMismatch("x"), 0, 2, 0, False),
        (SchemaMismatch("x"), 0, 3, 0, True),
        (ContentRefused("x"), 0, 0, 0, True),
    ],
)
def test_when_a_call_gives_up(error, faults, repairs, waited_s, over):
    """Refusals by patience, faults and repairs by number, the final at once."""
    assert RetryPolicy().gives_up(error, faults=faults, repairs=repairs, waited_s=waited_s, wait_s=1) is over


def test_a_cut_answer_gets_more_room_and_no_thinking():
    """Twice the tokens each time, thinking off: it counts inside max_tokens."""
    for repairs, room in ((1, 200), (2, 400)):
        again = repaired(REQUEST, AnswerTruncated("cut", answer=Answer("half")), repairs)
        assert (again.max_tokens, again.thinking) == (room, False)


def test_a_cut_answer_is_given_no_more_room_than_the_model_has():
    """The server would refuse it."""
    long = ChatRequest("m", REQUEST.messages, max_tokens=300_000)
    error = AnswerTruncated("cut", answer=Answer("half"))
    assert repaired(long, error, 1, 393_216).max_tokens == 393_216
    assert repaired(long, error, 1).max_tokens == 600_000


def test_a_blank_answer_is_asked_for_in_plainer_words():
    """The second time without JSON mode, which writes spaces over what it cannot recognise."""
    first = repaired(REQUEST, AnswerEmpty("blank", answer=Answer("  ")), 1)
    second = repaired(REQUEST, AnswerEmpty("blank", answer=Answer("  ")), 2)
    assert (first.json_mode, second.json_mode) == (True, False)
    assert "JSON" in second.messages[-1].content


def test_a_wrong_shape_is_shown_back_with_what_is_wrong():
    """The conversation goes on: the same beginning, so that the prefix cache can hit."""
    again = repaired(REQUEST, SchemaMismatch("score is too high", answer=Answer('{"score": 999}')), 1)
    assert again.messages[:1] == REQUEST.messages
    assert [m.role for m in again.messages[1:]] == ["assistant", "user"]
    assert "score is too high" in again.messages[-1].content
