"""The tenants of the tests, their secrets, and clients that ask as one of them."""

from __future__ import annotations

from typing import Any

import httpx

from deepseek_nb.adapters.auth import JWTBearer
from deepseek_nb.gateway.serve import GatewayServer

SECRETS = {
    "desk": "desk-secret-0123456789abcdef-0123456789",
    "lab": "lab-secret-0123456789abcdef-0123456789",
    "boss": "boss-secret-0123456789abcdef-0123456789",
}
NEXT = "next-secret-0123456789abcdef-0123456789"
UPSTREAM_KEY = "sk-upstream-0123456789-canary"
TENANTS: dict[str, dict[str, Any]] = {
    "desk": {
        "priority": 4,
        "priority_max": 5,
        "requests_per_second": 1000.0,
        "secret_env": ["S_DESK", "S_NEXT"],
    },
    "lab": {"requests_per_second": 1000.0},
    "boss": {"scopes": ["compute", "metrics", "admin"], "requests_per_second": 1000.0},
}


def chat_body(text: str = "The sky is blue. What is blue?", **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": text}]
    return {"model": "deepseek-flash", "messages": turns, "thinking": {"type": "disabled"}} | more


def new_client(gateway: GatewayServer, name: str = "desk", **options: Any) -> httpx.Client:
    auth = JWTBearer(name, SECRETS[name], scope=options.pop("scope", "compute metrics admin"))
    return httpx.Client(base_url=gateway.base_url, auth=auth, timeout=30, trust_env=False, **options)
