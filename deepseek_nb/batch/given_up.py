"""Rows that end their workers: begun so often without an end, they are given up, with the reason."""

from __future__ import annotations

from typing import Any

__all__ = ["DELIVERIES", "GIVEN_UP", "given_up"]

DELIVERIES = 5
"""So often a row may be begun without an end before it is given up."""
GIVEN_UP = "GivenUp"
"""How a row that was given up is called in the ``error`` column."""


def given_up(deliveries: int) -> dict[str, Any]:
    """What the ledger keeps of a row that was begun so often without an end."""
    return {
        "error": GIVEN_UP,
        "message": f"Workers began this row {deliveries} times, and each ended before an answer was kept.",
        "hint": "See what ends them; then ask it once more: deepseek-nb jobs retry NAME",
        "charged": "unknown",
        "status": None,
        "trace_id": None,
        "attempts": deliveries,
        "cost_usd": None,
        "raw": [],
    }
