"""Fault scripts: which request meets which fault, the same one in every run."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from deepseek_nb.sandbox.faults import Fault

__all__ = ["Ask", "FaultRule", "FaultScript", "chance"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a fault script may look at: one well-formed request the server has room and credit for."""

    index: int
    """Order of arrival among all requests."""
    prompt_hash: str
    nth_try: int
    """How often this prompt got this far before: 0 for the first time."""
    text: str = field(repr=False)
    """The contents of all messages, joined by line ends."""
    stream: bool
    json_mode: bool


FaultRule = Callable[[Ask], Fault | None]


class FaultScript:
    """Decides which request meets which fault. Make one with ``of``, ``always``, ``weights``, ``by_prompt``.

    Only well-formed requests that the server has room and credit for are asked about: a 429 of the
    real concurrency limit uses up no fault. Safe to use from any thread.
    """

    def __init__(self, rule: FaultRule | None = None) -> None:
        self._rule = rule
        self._next: deque[Fault | None] = deque()
        self._lock = threading.Lock()

    def __call__(self, ask: Ask) -> Fault | None:
        """The fault for this request, or None."""
        with self._lock:
            if self._next:
                return self._next.popleft()
        return None if self._rule is None else self._rule(ask)

    def append(self, *faults: Fault | str | None) -> None:
        """Put faults at the end of the list that is played first; None lets one request pass."""
        made = [_as_fault(fault) for fault in faults]
        with self._lock:
            self._next.extend(made)

    def clear(self) -> None:
        """Drop what is left of the list (a rule stays)."""
        with self._lock:
            self._next.clear()

    @property
    def left(self) -> int:
        """How many of the list are still to be played."""
        return len(self._next)

    @classmethod
    def of(cls, *faults: Fault | str | None) -> FaultScript:
        """These faults, one for each request in order of arrival, then none. None lets one pass.

        >>> FaultScript.of("busy_503", None, Fault("stall", after_tokens=3)).left
        3
        """
        script = cls()
        script.append(*faults)
        return script

    @classmethod
    def always(cls, fault: Fault | str) -> FaultScript:
        """The same fault for every request."""
        made = _as_fault(fault)
        return cls(lambda _: made)

    @classmethod
    def weights(
        cls,
        weights: Mapping[str | Fault, float],
        seed: int = 0,
        *,
        per_prompt_tries: int | None = None,
        max_per_prompt: int | None = None,
    ) -> FaultScript:
        """Seeded chance: each try of a prompt meets a fault with its weight (0.05 is one in twenty).

        The n-th try of a prompt always meets the same fate, whatever runs beside it. Only the first
        ``per_prompt_tries`` tries of a prompt are at risk; after ``max_per_prompt`` faults it is
        left alone, so that every prompt can be answered.

        Raises ValueError for an unknown name, a negative weight, or weights that exceed 1 together.
        """
        total, steps = 0.0, []
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"The weight of {name!r} is {weight!r}: give a share between 0 and 1.")
            total += weight
            steps.append((total, _as_fault(name)))
        if total > 1 + 1e-9:
            raise ValueError(f"The weights are {total:g} together: they are shares of all tries, at most 1.")

        def rule(ask: Ask) -> Fault | None:
            if per_prompt_tries is not None and ask.nth_try >= per_prompt_tries:
                return None
            if max_per_prompt is not None:
                before = sum(chance(seed, ask.prompt_hash, nth) < total for nth in range(ask.nth_try))
                if before >= max_per_prompt:
                    return None
            drawn = chance(seed, ask.prompt_hash, ask.nth_try)
            return next((fault for up_to, fault in steps if drawn < up_to), None)

        return cls(rule)

    @classmethod
    def by_prompt(cls, faults: Mapping[str, list[Fault | str | None] | Fault | str]) -> FaultScript:
        """Faults for chosen prompts: keys are a part of their text, or their ``prompt_hash``.

        Each prompt that matches meets the faults of the first matching key in order, one on each
        try, then none.
        """
        made = {
            key: [_as_fault(fault) for fault in ([listed] if isinstance(listed, (Fault, str)) else listed)]
            for key, listed in faults.items()
        }

        def rule(ask: Ask) -> Fault | None:
            for key, listed in made.items():
                if key == ask.prompt_hash or key in ask.text:
                    return listed[ask.nth_try] if ask.nth_try < len(listed) else None
            return None

        return cls(rule)


def chance(seed: int, *what: object) -> float:
    """A number from 0 to 1 that depends on nothing but the arguments."""
    name = "\x00".join(map(str, (seed, *what))).encode("utf-8", "replace")
    return int.from_bytes(blake2b(name, digest_size=7).digest(), "big") / 2**56


def _as_fault(fault: Any) -> Any:
    return Fault(fault) if isinstance(fault, str) else fault
