"""The account: its balance, what a request is charged, and how many may run at once."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from deepseek_nb.core.prices import Price, PriceTable
from deepseek_nb.data import read_json

__all__ = ["Account", "Catalogue", "Model", "limit_for_balance"]

# The real function is not known. These are the limits that 429 bodies named in 2026 (5, 7, 17, 20,
# 25, 39 on accounts that were nearly empty, 200 and more after a top-up of 10 USD), put in order;
# the balances beside them are our guess.
_LIMITS = tuple(
    (Decimal(balance_usd), limit)
    for balance_usd, limit in (
        ("0.05", 5),
        ("0.10", 7),
        ("0.25", 17),
        ("0.50", 20),
        ("1.00", 25),
        ("2.00", 39),
        ("5.00", 100),
        ("25.00", 200),
    )
)


def limit_for_balance(balance_usd: Decimal, model_limit: int) -> int:
    """Requests at once that a balance allows: 5 when nearly empty, the model's own limit from 25 USD.

    >>> [limit_for_balance(Decimal(usd), 2500) for usd in ("0.04", "0.90", "10", "100")]
    [5, 25, 200, 2500]
    """
    for below_usd, limit in _LIMITS:
        if balance_usd < below_usd:
            return min(limit, model_limit)
    return model_limit


def _usd(amount: str | Decimal) -> Decimal:
    try:
        usd = Decimal(str(amount))
    except InvalidOperation:
        usd = Decimal("nan")
    if not usd.is_finite():
        raise ValueError(f"balance_usd is {amount!r}: give US dollars, such as 12.50.")
    return usd


class Account:
    """A balance in decimal US dollars; None is without end. Prices come from the dated price table."""

    def __init__(self, balance_usd: str | Decimal | None, concurrency: int | None = None) -> None:
        self.balance_usd = None if balance_usd is None else _usd(balance_usd)
        self.concurrency = concurrency
        self._table = PriceTable.from_data(read_json("prices.json"), read_json("holidays_cn.json"))
        self._prices: dict[tuple[str, int], Price] = {}

    @property
    def empty(self) -> bool:
        """Whether the next request gets a 402."""
        return self.balance_usd is not None and self.balance_usd <= 0

    def limit(self, model_limit: int) -> int:
        """How many requests may run at once now."""
        if self.concurrency is not None:
            return self.concurrency
        if self.balance_usd is None:
            return model_limit
        return limit_for_balance(self.balance_usd, model_limit)

    def charge(
        self, model: str, at: datetime, hit_tokens: int, miss_tokens: int, output_tokens: int
    ) -> float:
        """Take the price of these tokens at that time off the balance; return it, in US dollars."""
        minute = (model, int(at.timestamp() // 60))  # prices change on the minute
        price = self._prices.get(minute)
        if price is None:
            price = self._prices[minute] = self._table.price(model, at)
        cost_usd = price.cost_usd(hit_tokens=hit_tokens, miss_tokens=miss_tokens, output_tokens=output_tokens)
        cost_usd = round(cost_usd, 12)
        if self.balance_usd is not None:
            self.balance_usd -= Decimal(f"{cost_usd:.12f}")
        return cost_usd

    def to_json(self) -> dict[str, Any]:
        """The answer of ``GET /user/balance``. A balance without end reads as 1,000,000.00."""
        total_usd = Decimal(1_000_000) if self.balance_usd is None else max(self.balance_usd, Decimal(0))
        shown = f"{total_usd:.2f}"
        info = {
            "currency": "USD",
            "total_balance": shown,
            "granted_balance": "0.00",
            "topped_up_balance": shown,
        }
        return {"is_available": not self.empty, "balance_infos": [info]}


class Model:
    """One entry of the catalogue."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.id: str = entry["id"]
        self.served: str = entry["served"]
        self.context_tokens: int = entry["context_tokens"]
        self.max_output_tokens: int = entry["max_output_tokens"]
        self.concurrency: int = entry["concurrency"]
        self.images: bool = entry["images"]
        self.entry = entry


class Catalogue:
    """The models on offer: the package's dated list, or the two of July 2026."""

    def __init__(self, shape: str = "new") -> None:
        if shape not in ("new", "july"):
            raise ValueError(f"models_shape={shape!r} is unknown: say 'new' or 'july'.")
        self.shape = shape
        data = read_json("models.json")
        self.models = [Model(entry) for entry in data["models"]]
        self._by_name: dict[str, Model] = {}
        if shape == "july":
            flash, pro = self.models[0], self.models[1]
            self.models = [Model({**flash.entry, "id": "deepseek-v4-flash", "images": False}), pro]
            retired = dict.fromkeys(data["retired"], self.models[0])
            self._by_name = retired | {model.id: model for model in self.models}
        else:
            for model in self.models:
                for name in (model.id, *model.entry["aliases"]):
                    self._by_name[name] = model

    def find(self, name: str) -> Model | None:
        """The model of that name or alias."""
        return self._by_name.get(name)

    def unknown(self, name: str) -> str:
        """The server's message for a name it does not know."""
        if self.shape == "july":
            return (
                "The supported API model names are deepseek-v4-pro or deepseek-v4-flash, "
                f"but you passed {name}."
            )
        names = ", ".join(model.id for model in self.models)
        return f"The supported API model names are {names}, but you passed {name}."

    def to_json(self) -> dict[str, Any]:
        """The answer of ``GET /models``."""
        return {"object": "list", "data": [self._entry(model) for model in self.models]}

    def _entry(self, model: Model) -> dict[str, Any]:
        entry: dict[str, Any] = {"id": model.id, "object": "model", "owned_by": "deepseek"}
        if self.shape == "july":
            return entry
        return entry | {
            "name": model.served,
            "context_window": model.context_tokens,
            "max_output_tokens": model.max_output_tokens,
            "input_modalities": ["text", "image"] if model.images else ["text"],
            "output_modalities": ["text"],
            "effort": {"supported_levels": ["low", "high", "max"], "default_level": "high"},
            "api_capabilities": {"anthropic_messages": {"system_prompt_update": True}},
        }
