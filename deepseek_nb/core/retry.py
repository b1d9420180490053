"""How long to wait after a fault, how often to try, how to ask again for a usable answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from deepseek_nb.core.chat import ChatRequest, Message
from deepseek_nb.core.errors import (
    AnswerEmpty,
    AnswerInvalid,
    AnswerTruncated,
    Busy,
    DeepSeekError,
    Disposition,
)

__all__ = ["RetryPolicy", "full_jitter_s", "repaired"]


def full_jitter_s(tries: int, *, base_s: float, cap_s: float, rng: Callable[[], float]) -> float:
    """``U(0, 1) * min(cap_s, base_s * 2**tries)``, the wait that spreads a crowd best.

    ``tries`` counts from 0; ``rng`` gives a number in [0, 1).
    """
    return rng() * min(cap_s, base_s * 2.0 ** min(tries, 30))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient one call is. Seconds everywhere.

    * Refusals (429, 503) are not the call's fault: they are not counted, only ``patience_s`` ends
      them (None: never; a job watches over its own patience).
    * Faults (500, reset, silence, broken stream) may have cost something: at most ``max_faults``.
    * Charged answers that cannot be used are asked again, changed, at most ``max_repairs`` times.
    """

    patience_s: float | None = 600.0
    max_faults: int = 8
    max_repairs: int = 2
    wait_initial_s: float = 0.5
    wait_max_s: float = 8.0
    most_tokens: int | None = None
    """The longest answer the model gives: a repair asks for no more. None: not known."""

    def fault_wait_s(self, faults: int, error: DeepSeekError, rng: Callable[[], float]) -> float:
        """Seconds before the try after fault number ``faults`` (from 1); a sane Retry-After is the least."""
        wait_s = full_jitter_s(faults, base_s=self.wait_initial_s, cap_s=self.wait_max_s, rng=rng)
        return max(wait_s, error.retry_after_s or 0.0)

    def gives_up(
        self, error: DeepSeekError, *, faults: int, repairs: int, waited_s: float, wait_s: float
    ) -> bool:
        """Whether ``error`` ends the call: ``faults`` and ``repairs`` already include it."""
        if error.disposition is Disposition.REFUSED or error.disposition is Disposition.RETRY:
            out_of_patience = self.patience_s is not None and waited_s + wait_s > self.patience_s
            return out_of_patience or (not isinstance(error, Busy) and faults > self.max_faults)
        if error.disposition is Disposition.REPAIR:
            return repairs > self.max_repairs
        return True


REPAIR_TOKENS = 8192
"""The server's own cap without thinking: where we set none, the next one is above it."""


def repaired(
    first: ChatRequest, error: AnswerInvalid, repairs: int, most_tokens: int | None = None
) -> ChatRequest:
    """The question to ask after a charged answer that cannot be used.

    ``first`` is the question as it was first asked, ``repairs`` counts from 1. Thinking is
    switched off. An answer cut at ``max_tokens`` gets twice the room each time, ``most_tokens`` at
    most; a blank one is asked for in plainer words, the second time without JSON mode (which replaces
    what it cannot recognise with spaces); one of the wrong shape is shown back with what is wrong.
    """
    calm = replace(
        first, thinking=False if first.thinking is not False else first.thinking, reasoning_effort=None
    )
    if isinstance(error, AnswerTruncated):
        room = (first.max_tokens or REPAIR_TOKENS) * 2**repairs
        return replace(calm, max_tokens=room if most_tokens is None else min(room, most_tokens))
    if isinstance(error, AnswerEmpty) or error.answer is None or not error.answer.text.strip():
        again = Message(
            "user",
            "Answer now. Write only the JSON object."
            if first.wants_json
            else "Answer now, in words."
            if first.tools is None
            else "Answer now, in words or by calling a function.",
        )
        return replace(calm.with_messages(again), json_mode=first.json_mode and repairs < 2)
    wrong = Message("assistant", error.answer.text)
    why = Message(
        "user",
        f"That answer{'' if repairs < 2 else ', too,'} cannot be used: {error.message} "
        "Write the corrected answer only" + (", one JSON object." if first.wants_json else "."),
    )
    return calm.with_messages(wrong, why)
