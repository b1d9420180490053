"""How long an answer can be: no fitting answer is cut, and one that runs on is cut early."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Literal

import pandas as pd
import pytest
from annotated_types import Ge, Le, MaxLen
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from deepseek_nb.batch.apply import apply
from deepseek_nb.batch.typical import answer_tokens, longest_tokens
from deepseek_nb.client.structured import Schema
from deepseek_nb.client.sync import Client
from deepseek_nb.core.tokens import estimate_tokens
from deepseek_nb.sandbox import Fault, FaultScript, Sandbox


class Grade(Enum):
    low = "low"
    high = "higher than the one before"


class Inner(BaseModel):
    sure: bool
    word: Annotated[str, MaxLen(12)] | None


class Bounded(BaseModel):
    grade: Grade
    kind: Literal["a", "bb", 7]
    score: Annotated[int, Ge(-9), Le(10**20)]
    share: float
    words: Annotated[list[Annotated[str, MaxLen(5)]], MaxLen(3)]
    inner: Inner


@given(st.builds(Bounded), st.sampled_from([None, 2, 4]))
def test_no_answer_that_fits_is_longer(value, indent):
    told = json.dumps(value.model_dump(mode="json"), indent=indent, ensure_ascii=False)
    longest = longest_tokens(Schema.of(Bounded))
    assert longest is not None
    assert estimate_tokens(told) <= longest


@pytest.mark.parametrize(
    "shape",
    [
        {"a": str},
        {"a": list[int]},
        {"a": dict[str, int]},
        {"a": int, "b": str | None},
        {"type": "object", "properties": {"a": {}}},
    ],
)
def test_what_has_no_bound_has_none(shape):
    assert longest_tokens(Schema.of(shape)) is None


def test_a_bounded_answer_that_runs_on_costs_a_quarter(tmp_path):
    """Whitespace without end, which JSON mode is known for: it is paid up to ``max_tokens``."""
    frame = pd.DataFrame({"text": [f"ticket {n}" for n in range(6)]})
    paid = {}
    for name, shape in {"bounded": {"good": bool}, "free": {"good": bool, "why": str}}.items():
        with (
            Sandbox(count="estimate") as server,
            Client(base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path / name) as client,
        ):
            server.faults = FaultScript(
                lambda ask: Fault("whitespace_runaway") if "ticket 3" in ask.text else None
            )
            out = apply(frame, "Is it good? {{text}}", schema=shape, client=client, progress=False)
            assert (out["status"] == "done").sum() == 5
            paid[name] = next(record.completion_tokens for record in server.log if record.fault)
    assert paid == {"bounded": 256, "free": 1024}


def test_a_field_may_be_anything():
    """A schema of true allows all: nothing bounds it, and it fails nobody."""
    schema = Schema.of({"type": "object", "properties": {"any": True}})
    assert longest_tokens(schema) is None
    assert answer_tokens(schema, len) > 0
