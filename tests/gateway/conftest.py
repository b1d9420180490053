"""A sandbox as the upstream, a gateway before it as a real server, and tenants with tokens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from deepseek_nb.gateway.config import parse_config
from deepseek_nb.gateway.serve import GatewayServer
from deepseek_nb.sandbox import Sandbox

from .people import NEXT, SECRETS, TENANTS, UPSTREAM_KEY, new_client


@pytest.fixture
def upstream() -> Iterator[Sandbox]:
    """A server that behaves until its faults are set; its own waits pass a hundred times faster."""
    with Sandbox(balance_usd="10.00", count="estimate", time_scale=100, api_key=UPSTREAM_KEY) as running:
        yield running


@pytest.fixture
def serve(upstream, tmp_path) -> Iterator[Callable[..., GatewayServer]]:
    """Start a gateway in front of a sandbox; ``tenants``, ``gateway`` and so on change what its file says."""
    running: list[GatewayServer] = []

    def start(
        *,
        tenants: dict[str, dict[str, Any]] | None = None,
        more: list[dict[str, Any]] | None = None,
        before: Sandbox | None = None,
        alarms: dict[str, Any] | None = None,
        **gateway: Any,
    ) -> GatewayServer:
        told = {name: {**TENANTS[name], **(tenants or {}).get(name, {})} for name in TENANTS}
        server = before or upstream
        environ = {"UP_KEY": server.api_key or "", "S_NEXT": NEXT}
        for name, table in told.items():
            environ[f"S_{name.upper()}"] = SECRETS[name]
            table.setdefault("secret_env", f"S_{name.upper()}")
        first = {"name": "deepseek", "base_url": server.base_url, "key_env": "UP_KEY"}
        file = {
            "gateway": {"port": 0, "data_dir": os.fspath(tmp_path / "data"), **gateway},
            "upstream": [first, *(more or [])],
            "tenant": told,
            "alarms": alarms or {},
        }
        running.append(GatewayServer(parse_config(file, environ)).start())
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def gateway(serve) -> GatewayServer:
    return serve()


@pytest.fixture
def as_tenant(gateway) -> Iterator[Callable[..., httpx.Client]]:
    """A client of the gateway that signs its own tokens."""
    made: list[httpx.Client] = []

    def client(name: str = "desk", **options: Any) -> httpx.Client:
        made.append(new_client(gateway, name, **options))
        return made[-1]

    yield client
    for one in made:
        one.close()
