"""A conversation sends what was said before, and keeps only what was answered."""

from __future__ import annotations

import pytest

from deepseek_nb import session
from deepseek_nb.client.conversation import Conversation
from deepseek_nb.core.chat import Answer, Message
from deepseek_nb.core.errors import ConfigError, ContentRefused
from deepseek_nb.sandbox import Completion, FaultScript, ParsedRequest, Sandbox


@pytest.fixture
def server(tmp_path):
    asked: list[list[tuple[str, str]]] = []

    def answer(request: ParsedRequest) -> Completion:
        asked.append([(turn["role"], turn["content"]) for turn in request.messages])
        return Completion(f"answer {len(asked)}")

    with Sandbox(engine=answer) as running:
        running.asked = asked
        old = session.configure(base_url=running.base_url, api_key=running.api_key, data_dir=tmp_path)
        yield running
        old.close()


def test_each_question_goes_with_those_before_it(server):
    """Instructions first, then the exchanges in order, the question last."""
    chat = session.conversation("a", new=True, system="Be terse.")
    first = chat.ask("one")
    chat.ask("two")
    assert server.asked[1] == [
        ("system", "Be terse."),
        ("user", "one"),
        ("assistant", first.text),
        ("user", "two"),
    ]
    assert session.conversation("a") is chat
    assert "a" in session.conversations()
    assert chat.cost_usd == pytest.approx(sum(record.cost_usd for record in server.log))


def test_the_same_cells_again_cost_nothing(server):
    """A fresh conversation of the same questions is answered from the store."""
    for _ in range(2):
        chat = session.conversation("a", new=True)
        chat.ask("one")
        chat.ask("two")
    assert len(server.log) == 2
    assert chat.cost_usd == 0


def test_a_failed_question_leaves_it_as_it_was(server):
    """No dangling turn."""
    chat = session.conversation("a", new=True)
    chat.ask("one")
    server.faults = FaultScript.of("content_risk")
    with pytest.raises(ContentRefused):
        chat.ask("two")
    assert [turn.question for turn in chat.turns] == ["one"]


@pytest.mark.parametrize(("last_turns", "sent"), [(None, "123"), (0, ""), (1, "3"), (2, "23"), (9, "123")])
def test_only_the_last_turns_are_sent(last_turns, sent):
    """``last_turns`` bounds what a question costs."""
    chat = Conversation("a", session.default_client, last_turns=last_turns)
    for number in "123":
        chat.add(number, Answer("x"))
    messages = chat.prompt("now")
    assert "".join(message.content for message in messages[:-1:2]) == sent
    assert messages[-1] == Message("user", "now")


def test_calls_of_functions_have_no_place_in_it(server):
    """Its next question would stand behind a call without a result."""
    chat = session.conversation("calls", new=True)
    with pytest.raises(ConfigError, match="no calls"):
        chat.ask("one", tools=[{"type": "function", "function": {"name": "now"}}])
    assert not server.asked
    assert len(chat) == 0
