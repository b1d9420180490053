"""Short answers are asked for in one piece once the first row has shown the server's pace."""

from __future__ import annotations

from deepseek_nb.adapters.owners import owner_name
from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.batch.apply import apply
from deepseek_nb.core.chat import ChatRequest, Message
from deepseek_nb.core.wire import AnswerDecoder

QUESTION = "What is {{text}}?"


def _streamed(sandbox) -> list[bool]:
    return [record.stream for record in sandbox.log.chats]


def test_the_first_row_is_streamed_and_the_others_are_not(sandbox, client, frame, ticket):
    result = apply(frame, QUESTION, schema=ticket, client=client, progress=False)
    assert (result["status"] == "done").all()
    assert _streamed(sandbox) == [True] + [False] * 29


def test_long_answers_are_streamed(sandbox, client, frame):
    apply(frame, QUESTION, max_tokens=8192, client=client, progress=False)
    assert _streamed(sandbox) == [True] * 30


def test_what_broke_in_one_piece_is_booked_to_its_last_token():
    request = ChatRequest("m", (Message("user", "hello"),), max_tokens=700)
    assert AnswerDecoder(request, streamed=False).partial().usage.completion_tokens == 700
    assert AnswerDecoder(request).partial().usage.completion_tokens == 0


def test_a_key_is_claimed_only_while_it_is_not_answered_and_nobody_else_asks(tmp_path):
    with AnswerStore(tmp_path) as store:
        store.put("answered", {"text": "x"})
        assert store.claim("elsewhere", owner=owner_name("other"))
        assert store.claims.take_now(["answered", "elsewhere", "free"]) == {"free"}
        assert store.claims.held == {"free"}
        store.put("free", {"text": "y"})
        assert store.claims.held == frozenset()
