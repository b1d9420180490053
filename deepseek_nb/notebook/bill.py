"""``%deepseek cost``: what this kernel's questions and jobs have taken, and what the store has saved."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from deepseek_nb.core.metrics import Spending
from deepseek_nb.notebook.display import show
from deepseek_nb.notebook.rooms import room
from deepseek_nb.notebook.tables import table, usd

__all__ = ["show_bill"]


def show_bill(_magics: Any, _rest: str) -> None:
    """Show the bill of this kernel: of every default client it has had. Sends nothing."""
    session = room("session")
    client = session.default_client()
    figures = session.figures()
    metrics = [each for each, _ in figures]
    spent_usd = sum(budget.spent_usd for _, budget in figures)
    unknown_usd = sum(budget.unknown_usd for _, budget in figures)
    by_model: defaultdict[str, Spending] = defaultdict(Spending)
    for each in metrics:
        for origin, spending in list(each.spending.items()):
            by_model[origin] += spending
    total = sum(by_model.values(), Spending())
    rows = [
        ["calls", f"{sum(each.calls for each in metrics):,}"],
        ["answered", f"{total.answered:,}"],
        ["from the store", f"{total.hits:,}"],
        ["failed", f"{sum(each.failed for each in metrics):,}"],
        ["tokens in", f"{total.usage.prompt_tokens:,}"],
        ["of these from the server's cache", f"{total.usage.cache_hit_tokens:,}"],
        ["tokens out", f"{total.usage.completion_tokens:,}"],
        ["of these reasoning", f"{total.usage.reasoning_tokens:,}"],
        ["cost", usd(spent_usd)],
        ["perhaps charged", usd(unknown_usd)],
        ["saved by the store", usd(total.saved_usd)],
        ["budget left", "no limit" if client.budget.left_usd is None else usd(client.budget.left_usd)],
    ]
    if total.unpriced:
        rows.append(["answers without a known price", f"{total.unpriced:,}"])
    unreal = {session.SANDBOX_ROUTE: "simulated", session.REPLAY_ROUTE: "replayed"}
    included = [word for route, word in unreal.items() if any(_route(origin) == route for origin in by_model)]
    show(
        table(
            "Cost of this notebook so far"
            + (f" ({' and '.join(included)} answers included)" if included else ""),
            ["figure", "value"],
            rows,
        )
    )
    if len(by_model) > 1:
        show(_models(by_model, unreal))


def _models(by_model: dict[str, Spending], unreal: dict[str, str]) -> dict[str, str]:
    rows = []
    for origin, spending in sorted(by_model.items()):
        word = unreal.get(_route(origin))
        name = origin.partition("/")[2] + (f" ({word})" if word else "")
        figures = (
            spending.answered,
            spending.hits,
            spending.usage.prompt_tokens,
            spending.usage.completion_tokens,
        )
        rows.append([name, *(f"{number:,}" for number in figures), usd(spending.cost_usd)])
    return table("By model", ["model", "answered", "from the store", "tokens in", "tokens out", "cost"], rows)


def _route(origin: str) -> str:
    return origin.partition("/")[0]
