"""The faults that come only under a condition: how many run, how many were let in, what a request carries."""

from __future__ import annotations

from collections.abc import Callable

from deepseek_nb.sandbox.faults import Fault
from deepseek_nb.sandbox.questions import ParsedRequest

__all__ = ["CONDITIONS"]

Condition = Callable[[Fault, ParsedRequest, int, int], Fault | None]


def _slow_after(fault: Fault, _: ParsedRequest, in_flight: int, let_in: int) -> Fault | None:
    return None if let_in < fault["fine"] or in_flight < fault["calm"] else fault


def _limit_falls(fault: Fault, _: ParsedRequest, in_flight: int, let_in: int) -> Fault | None:
    limits = fault["limits"]
    limit = limits[min(let_in // fault["every"], len(limits) - 1)]
    if in_flight < limit:
        return None
    return Fault(fault.name, limits=(limit,), every=fault["every"], current=in_flight + 1)


def _reasoning_required(fault: Fault, request: ParsedRequest, _: int, __: int) -> Fault | None:
    turns = [message for message in request.messages if message["role"] == "assistant"]
    echoed = all(turn.get("reasoning_content") is not None for turn in turns)
    return None if fault["unless_echoed"] and echoed else fault


CONDITIONS: dict[str, Condition] = {
    "slow_after": _slow_after,
    "limit_falls": _limit_falls,
    "reasoning_required_400": _reasoning_required,
}
"""What a fault comes to for a request, with the requests in flight before it and how many this fault
has let in so far; None lets this one in, too."""
