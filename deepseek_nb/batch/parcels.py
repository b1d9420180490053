"""What travels over a broker: a row with all that a worker needs, and what became of it. No key is in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepseek_nb.adapters.rabbitmq import Parcel
from deepseek_nb.core.errors import DeepSeekError

__all__ = ["FORMAT", "Result", "Row", "Unreadable"]

FORMAT = 1
"""Of both messages; raised when a release writes what an older one would misread."""


class Unreadable(ValueError):
    """A message that this release cannot read."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a job, for a worker anywhere."""

    job: str
    put: str
    """Of which handing over."""
    key: str
    """The row's key in its submitter's ledger."""
    body: str
    """The row as the ledger keeps it."""
    ask: Mapping[str, Any]
    """What the job asks: its ``meta``."""
    options: Mapping[str, Any]
    """Of its call: ``ttl``, ``cache``, ``fallback``."""
    sent_as: Mapping[str, Any] | None
    """The order of the fields, and how far a filled block reaches into the row; None: as it comes."""
    limit_usd: float | None = None
    """What it may cost; None where the job has no budget."""

    def parcel(self, priority: int, answers: str, attempt: int = 0) -> Parcel:
        """As a message; ``attempt`` tells it from the same row that went out before."""
        told = {
            "v": FORMAT,
            "job": self.job,
            "put": self.put,
            "key": self.key,
            "row": self.body,
            "ask": self.ask,
            "options": self.options,
            "sent_as": self.sent_as,
            "limit_usd": self.limit_usd,
        }
        return Parcel(_bytes(told), f"{self.put}.{attempt}.{self.key}", priority, answers, {"tries": 0})

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Row:
        """Read one. Raises Unreadable."""
        try:
            if told["v"] != FORMAT:
                raise Unreadable(f"it has format {told['v']!r}, and this release reads {FORMAT}")
            return cls(
                job=str(told["job"]),
                put=str(told["put"]),
                key=str(told["key"]),
                body=str(told["row"]),
                ask=dict(told["ask"]),
                options=dict(told["options"]),
                sent_as=None if told["sent_as"] is None else dict(told["sent_as"]),
                limit_usd=None if told["limit_usd"] is None else float(told["limit_usd"]),
            )
        except (KeyError, TypeError, ValueError) as why:
            if isinstance(why, Unreadable):
                raise
            raise Unreadable(f"{type(why).__name__}: {why}") from None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a row. One of ``answer``, ``error``, ``stop`` and ``lost`` is there."""

    key: str
    put: str
    answer: dict[str, Any] | None = None
    """As the ledger keeps it."""
    error: dict[str, Any] | None = None
    """Why the row failed, as the ledger keeps it."""
    stop: dict[str, Any] | None = None
    """Why no row of the job can be asked."""
    lost: dict[str, Any] | None = None
    """A row with a limit was begun, and what became of it, or was charged for it, is not known."""
    cost_usd: float = 0.0
    unknown_usd: float = 0.0
    """What was perhaps charged beside it."""

    def parcel(self) -> Parcel:
        """As a message."""
        told = {
            "v": FORMAT,
            "key": self.key,
            "put": self.put,
            "answer": self.answer,
            "error": self.error,
            "stop": self.stop,
            "lost": self.lost,
            "cost_usd": self.cost_usd,
            "unknown_usd": self.unknown_usd,
        }
        return Parcel(_bytes(told), f"{self.put}.{self.key}")

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Result:
        """Read one. Raises Unreadable."""
        try:
            if told["v"] != FORMAT:
                raise Unreadable(f"it has format {told['v']!r}, and this release reads {FORMAT}")
            names = ("answer", "error", "stop", "lost")
            values = {name: dict(told[name]) for name in names if told.get(name) is not None}
            if len(values) != 1:
                raise Unreadable("it has no result")
            return cls(
                str(told["key"]),
                str(told["put"]),
                **values,
                cost_usd=float(told["cost_usd"]),
                unknown_usd=float(told["unknown_usd"]),
            )
        except (KeyError, TypeError, ValueError) as why:
            if isinstance(why, Unreadable):
                raise
            raise Unreadable(f"{type(why).__name__}: {why}") from None


def _bytes(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def cost_of(error: DeepSeekError) -> float:
    """What was paid for an answer that could not be used."""
    return float(getattr(error, "cost_usd", None) or 0.0)
