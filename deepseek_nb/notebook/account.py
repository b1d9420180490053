"""``%deepseek balance`` and ``%deepseek models``: what the server says of the account and of itself."""

from __future__ import annotations

from typing import Any

from deepseek_nb.notebook.display import show
from deepseek_nb.notebook.rooms import default_client
from deepseek_nb.notebook.tables import line, table

__all__ = ["show_balance", "show_models"]

AMOUNTS = ("currency", "total_balance", "granted_balance", "topped_up_balance")


def show_balance(_magics: Any, _rest: str) -> None:
    """Show the account's balance. Costs nothing; raises what came instead."""
    told = default_client().balance()
    rows = [
        [str(info.get(name, "")) for name in AMOUNTS]
        for info in told.get("balance_infos", [])
        if isinstance(info, dict)
    ]
    caption = "Balance" if told.get("is_available", True) else "Balance: not enough to ask with"
    show(table(caption, ["currency", "total", "granted", "topped up"], rows) if rows else line(caption))


def show_models(magics: Any, _rest: str) -> None:
    """Show the models the server offers, and which one a question goes to. Costs nothing."""
    client = default_client()
    asked = magics.model or client.settings.model
    rows = []
    for model in client.models():
        name, window = str(model.get("id", "")), model.get("context_window")
        size = f"{window:,}" if isinstance(window, int) else ""
        rows.append([name, str(model.get("name") or ""), "yes" if name == asked else "", size])
    head = ["model", "name", "asked by default", "context tokens"]
    show(table("Models", head, rows, left=3) if rows else line("The server names no models."))
