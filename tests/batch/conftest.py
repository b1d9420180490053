"""A sandbox, a blocking client of it, and a frame."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import pydantic
import pytest

from deepseek_nb.client.sync import Client
from deepseek_nb.sandbox import Sandbox


class Ticket(pydantic.BaseModel):
    """What is asked about a row."""

    label: Literal["card", "transfer", "cash"]
    urgency: int = pydantic.Field(ge=1, le=5)


@pytest.fixture
def ticket() -> type[Ticket]:
    return Ticket


@pytest.fixture
def sandbox():
    """A server that behaves until its faults are set."""
    with Sandbox(balance_usd="10.00", count="estimate", time_scale=100) as running:
        yield running


@pytest.fixture
def client(sandbox, tmp_path):
    """A client whose answers and jobs live in a folder of their own."""
    with Client(
        base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path, silence_timeout_s=1
    ) as made:
        yield made


@pytest.fixture
def frame() -> pd.DataFrame:
    """Forty tickets, ten of them twice, on an index of letters."""
    texts = [f"My {('card', 'transfer', 'cash')[n % 3]} number {n} is lost" for n in range(30)]
    texts += texts[:10]
    return pd.DataFrame({"text": texts, "n": range(40)}, index=[f"t{n}" for n in range(40)])
