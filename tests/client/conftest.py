"""A sandbox and clients that talk to it over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.sync import Client
from deepseek_nb.sandbox import FaultScript, Sandbox

T = TypeVar("T")


@pytest.fixture
def sandbox():
    """A server that behaves until its faults are set; its own waits pass a hundred times faster."""
    with Sandbox(balance_usd="10.00", count="estimate", time_scale=100) as running:
        yield running


@pytest.fixture
def client(sandbox, tmp_path) -> Iterator[Client]:
    """A blocking client of the sandbox."""
    with Client(base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path) as made:
        yield made


@pytest.fixture
def with_client(sandbox, tmp_path) -> Callable[..., Any]:
    """Run ``work(client)`` in a fresh event loop with a client of the sandbox; settings may be given."""

    def run(work: Callable[[AsyncClient], Awaitable[T]], **settings: Any) -> T:
        async def inside() -> T:
            given = {"base_url": sandbox.base_url, "api_key": sandbox.api_key, "data_dir": tmp_path / "data"}
            async with AsyncClient(**(given | {"thinking": False} | settings)) as client:
                return await asyncio.wait_for(work(client), 60)

        return asyncio.run(inside())

    return run


@pytest.fixture
def misbehave(sandbox) -> Callable[..., None]:
    """Set the faults of the next requests, in order."""

    def script(*faults: Any) -> None:
        sandbox.faults = FaultScript.of(*faults)

    return script
