"""Conversation: questions and answers under one name, each question sent with those before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deepseek_nb.client.sync import Client
from deepseek_nb.core.chat import Answer, Message
from deepseek_nb.core.errors import ConfigError

__all__ = ["Conversation", "Turn"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: Answer


class Conversation:
    """What was asked and answered so far, in order.

    A question that fails or is interrupted leaves the conversation as it was. All of it is sent with
    every question, and paid as input (mostly at the price of the server's prefix cache); ``last_turns``
    sends only so many of the latest exchanges. Running the same cells again in a fresh kernel asks the
    same questions after the same answers: they come from the store, and cost nothing.

    >>> chat = ds.conversation("risk", system="You are terse.")       # doctest: +SKIP
    >>> chat.ask("What is a default?").text                           # doctest: +SKIP
    >>> chat.ask("And how likely is one?").text                       # doctest: +SKIP
    """

    def __init__(
        self,
        name: str,
        client: Callable[[], Client],
        *,
        system: str | None = None,
        last_turns: int | None = None,
    ) -> None:
        self.name = name
        self.system = system
        """Instructions that go first."""
        self.last_turns = last_turns
        self.turns: list[Turn] = []
        self._client = client

    def prompt(self, question: str) -> list[Message]:
        """The messages to send for ``question``: those before it, then itself."""
        sent = len(self) if self.last_turns is None else min(len(self), self.last_turns)
        before = [
            message
            for turn in self.turns[len(self) - sent :]
            for message in (Message("user", turn.question), Message("assistant", turn.answer.text))
        ]
        return [*before, Message("user", question)]

    def add(self, question: str, answer: Answer) -> None:
        """Take an exchange in: the next question is sent with it."""
        self.turns.append(Turn(question, answer))

    def clear(self) -> None:
        """Begin anew, with the same instructions."""
        self.turns.clear()

    def ask(self, question: str, **options: Any) -> Answer:
        """Ask the next question: options, costs and errors as in :meth:`AsyncClient.ask`; no ``tools``."""
        if options.get("tools"):
            raise ConfigError(
                "A conversation keeps questions and answers, and no calls of functions.",
                hint="Send the turns as a list: ds.ask([...], tools=...).",
            )
        answer = self._client().ask(self.prompt(question), **{"system": self.system, **options})
        self.add(question, answer)
        return answer

    @property
    def cost_usd(self) -> float:
        """What its answers cost, those from the store not counted."""
        return sum(turn.answer.cost_usd or 0.0 for turn in self.turns if not turn.answer.cached)

    def __len__(self) -> int:
        return len(self.turns)

    def __repr__(self) -> str:
        return f"<Conversation {self.name!r}, {len(self)} turns, ${self.cost_usd:.4f}>"
