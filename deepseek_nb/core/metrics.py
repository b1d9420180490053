"""The figures a listener makes of what happens to calls: counts, rates, durations in constant memory."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields

from deepseek_nb.core.chat import Answer, Usage
from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.histogram import Histogram
from deepseek_nb.core.window import Window

__all__ = ["Metrics", "Spending"]


@dataclass
class Spending:
    """What the answers of one model on one route took. US dollars, by the prices of their time."""

    hits: int = 0
    answered: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    saved_usd: float = 0.0
    """What the answers from the store cost when they were asked."""
    unpriced: int = 0
    """Answers for which no price is known."""

    def hit(self, answer: Answer) -> None:
        """An answer came from the store."""
        self.hits += 1
        self.saved_usd += answer.cost_usd or 0.0

    def add(self, answer: Answer) -> None:
        """An answer came from the server."""
        self.answered += 1
        self.usage += answer.usage
        self.cost_usd += answer.cost_usd or 0.0
        self.unpriced += answer.cost_usd is None

    def __add__(self, other: Spending) -> Spending:
        return Spending(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass
class Metrics:
    """Running figures of a client. It is a listener: ``metrics(event)``."""

    calls: int = 0
    """Calls that ended: hits, answered and failed together."""
    hits: int = 0
    """Answers from the store."""
    answered: int = 0
    """Answers from the server."""
    failed: int = 0
    """Calls that ended in an error."""
    sent: int = 0
    """Requests, those that were refused and repairs included."""
    refusals: Counter[str] = field(default_factory=Counter)
    """What found no room, by class name."""
    faults: Counter[str] = field(default_factory=Counter)
    """What failed otherwise, by class name."""
    usage: Usage = field(default_factory=Usage)
    """Tokens of the answers from the server."""
    latency: Histogram = field(default_factory=Histogram)
    """From the call to the complete answer, waiting included; answers from the server."""
    first_token: Histogram = field(default_factory=Histogram)
    """From the call to the first token."""
    window: Window = field(default_factory=Window)
    """The same of the last five minutes."""
    spending: defaultdict[str, Spending] = field(default_factory=lambda: defaultdict(Spending))
    """By route and model, such as ``"api.deepseek.com/deepseek-flash"``."""

    def __call__(self, event: CallEvent) -> None:
        """Take one event."""
        self.window(event)
        if event.kind == "sent":
            self.sent += 1
        elif event.kind == "hit":
            self.calls += 1
            self.hits += 1
            if event.answer is not None:
                self.spending[event.answer.origin].hit(event.answer)
        elif event.kind == "answered" and event.answer is not None:
            self.calls += 1
            self.answered += 1
            self.usage += event.answer.usage
            self.spending[event.answer.origin].add(event.answer)
            self.latency.add(event.answer.latency_s)
            if event.answer.first_token_s is not None:
                self.first_token.add(event.answer.first_token_s)
        elif event.kind == "failed":
            self.calls += 1
            self.failed += 1
        if event.error is not None and event.kind in ("waiting", "fallback", "failed"):
            kind = self.refusals if event.error.disposition.value == "refused" else self.faults
            kind[type(event.error).__name__] += 1

    @property
    def hit_rate(self) -> float:
        """Share of calls answered from the store; nan before the first."""
        return self.hits / self.calls if self.calls else math.nan

    @property
    def error_rate(self) -> float:
        """Share of calls that ended in an error; nan before the first."""
        return self.failed / self.calls if self.calls else math.nan
