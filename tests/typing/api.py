"""The public names as a type checker sees them: never run, only read by mypy (``test_typing_api``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, assert_type

import joblib
import pandas as pd
import polars as pl
import pydantic

import deepseek_nb as ds
from deepseek_nb import errors
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.wire import Delta


class Risk(pydantic.BaseModel):
    risk: Literal["low", "medium", "high"]
    score: int


def asking() -> None:
    answer = ds.ask("Why is the sky blue?")
    assert_type(answer, ds.Answer)
    assert_type(answer.text, str)
    assert_type(answer.cost_usd, float | None)
    assert_type(answer.usage.total_tokens, int)
    assert_type(answer.cached, bool)
    same: Answer = answer
    del same
    rated = ds.ask("Rate this", schema=Risk, system="You are strict.", priority=5, ttl_s=60, thinking=False)
    value: Risk = rated.value
    assert_type(value.score, int)
    ds.ask([{"role": "user", "content": "Hello"}], model="deepseek-v4-pro", budget_usd=0.1)


def streaming() -> None:
    reply = ds.stream("Tell me a story")
    for piece in reply:
        assert_type(piece, Delta)
        assert_type(piece.text, str)
    assert_type(reply.answer, ds.Answer | None)


def clients(folder: Path) -> None:
    assert_type(ds.default_client(), ds.Client)
    assert_type(ds.configure(model="deepseek-v4-pro", budget_usd=2.0), ds.Client)
    with ds.Client(api_key=ds.Secret("key"), data_dir=folder) as client:
        assert_type(client, ds.Client)
        assert_type(client.ask("Hello"), ds.Answer)
        assert_type(client.models(), list[dict[str, Any]])
        assert_type(client.balance(), dict[str, Any])


async def async_client() -> None:
    async with ds.AsyncClient(priority=2) as client:
        assert_type(client, ds.AsyncClient)
        assert_type(await client.ask("Hello"), ds.Answer)
        reply = client.stream("Tell me a story")
        async for piece in reply:
            assert_type(piece.reasoning, str)
        assert_type(reply.answer, ds.Answer | None)


def frames(frame: pd.DataFrame) -> None:
    scored = ds.apply(
        frame, "Rate the risk of {{purpose}}", schema=Risk, job="risk", ttl="30min", budget_usd=2, priority=1
    )
    assert_type(scored, pd.DataFrame)
    assert_type(ds.apply(frame, "{{text}}", into="told", missing="empty"), pd.DataFrame)
    assert_type(ds.apply(pl.DataFrame(), "{{text}}", schema=Risk, nested="object", raw=True), pl.DataFrame)


async def jobs(frame: pd.DataFrame) -> None:
    job = ds.submit(frame, "Rate the risk of {{purpose}}", schema=Risk, job="risk", budget_usd=2)
    assert_type(ds.submit(frame, "{{text}}", queue="amqp://localhost"), ds.Job)
    assert_type(ds.apply(frame, "{{text}}", backend="dask"), pd.DataFrame)
    assert_type(job, ds.Job)
    assert_type(job.result(timeout_s=5), pd.DataFrame)
    assert_type(await job, pd.DataFrame)
    assert_type(job.errors, pd.DataFrame)
    assert_type(job.progress.eta_s, float | None)
    assert_type(job.cost_usd, float)
    assert_type(job.done, bool)


def parts() -> None:
    assert_type(ds.__version__, str)
    template = ds.Template("Rate {{purpose}}")
    assert_type(template.names, tuple[str, ...])
    assert_type(template.render({"purpose": "car"}), str)
    assert_type(ds.Schema.of({"label": str, "score": int}), ds.Schema)
    assert_type(ds.Schema.of(Risk).columns, tuple[str, ...])
    assert_type(ds.Secret("key").reveal(), str)
    memory: joblib.Memory = ds.memory()
    memory.clear(warn=False)


def failing() -> None:
    try:
        ds.ask("Hello")
    except errors.BudgetExceeded as error:
        assert_type(error.hint, str)
        assert_type(error.retryable, bool)
    except ds.errors.Busy as busy:
        assert_type(busy.retry_after_s, float | None)
    except ds.DeepSeekError as other:
        assert_type(other.charged, Literal["no", "yes", "unknown"])


def sandbox() -> None:
    assert_type(ds.use_sandbox(), ds.Sandbox)
    with ds.Sandbox(seed=7, first_token_s=0.1) as server:
        assert_type(server.base_url, str)
        assert_type(server.api_key, str)
