"""A changed copy is what ``dataclasses.replace`` gives: of the same kind, frozen, and checked."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, fields, replace

import pytest

from deepseek_nb.core.chat import Answer, ChatRequest, Message, Usage
from deepseek_nb.core.copies import changed


@dataclass(frozen=True, slots=True)
class Span:
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError("it ends before it begins")


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        (Answer("text", usage=Usage(3, 4)), {"route": "r", "cost_usd": 0.5, "value": {"a": 1}}),
        (Usage(3, 4), {"estimated": True}),
        (ChatRequest("m", (Message("user", "hello"),)), {"max_tokens": 7}),
        (Span(1, 2), {}),
    ],
)
def test_as_replace(value, changes):
    made, expected = changed(value, **changes), replace(value, **changes)
    assert type(made) is type(value)
    assert [getattr(made, each.name) for each in fields(made)] == [
        getattr(expected, each.name) for each in fields(expected)
    ]
    assert made == expected == pickle.loads(pickle.dumps(made))
    assert repr(made) == repr(expected)
    with pytest.raises(FrozenInstanceError):
        setattr(made, fields(made)[0].name, None)


def test_its_own_checks_run_again():
    assert changed(Span(1, 2), last=5) == Span(1, 5)
    with pytest.raises(ValueError, match="ends before"):
        changed(Span(1, 2), last=0)
    with pytest.raises(KeyError):
        changed(Span(1, 2), middle=1)
