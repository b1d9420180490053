"""What happens to a call, as small frozen events, and the words for its waiting.

The client emits events; progress bars, panels, logs and metrics listen. No arrow runs up, and
nothing is computed when nobody listens. A face that shows a wait needs nothing but the event::

    busy (503), try 4, next in 12 s, 3 min left of 10 min, nothing charged
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import DeepSeekError

__all__ = ["DOWN_AFTER_S", "CallEvent", "Charged", "cause", "duration", "waiting_line"]

Kind = Literal["hit", "sent", "held", "first_token", "waiting", "fallback", "back", "answered", "failed"]
Charged = Literal["no", "unknown", "yes"]

CHARGED_WORDS: dict[Charged, str] = {"no": "nothing charged", "unknown": "perhaps charged", "yes": "charged"}

_RANK = tuple(CHARGED_WORDS)

DOWN_AFTER_S = 10.0
"""A server that gave nothing for so long is called down."""


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One thing that happened to one call. Fields that do not apply are None, 0 or empty."""

    kind: Kind
    """``hit`` (found in the store), ``sent``, ``held`` (keep-alives, and no answer yet), ``first_token``,
    ``waiting`` (before the next try), ``fallback`` (goes on by another route), ``back`` (goes back to an
    earlier route, which is up again), ``answered``, ``failed``."""
    lane: int
    at_s: float
    """On the client's monotonic clock."""
    route: str = ""
    """Where it is asked; with ``fallback`` and ``back``: where it is asked from now on."""
    tries: int = 0
    refusals: int = 0
    error: DeepSeekError | None = None
    """Why it waits, why it takes another route, or why it failed."""
    wait_s: float = 0.0
    """Until the next try."""
    left_s: float | None = None
    """Patience that remains after that wait; None: no end."""
    patience_s: float | None = None
    """Patience the call was given; None: no end."""
    down_s: float | None = None
    """For how long the server has seemed to be down; None: it has not."""
    charged: Charged = "no"
    """Whether this call was charged so far: "unknown" where a request was cut off."""
    spent_usd: float | None = 0.0
    """What it may have cost so far; None where no price is known."""
    answer: Answer | None = None


def waiting_line(event: CallEvent, passed_s: float = 0.0) -> str:
    """The wait that ``event`` tells of, in one line, ``passed_s`` seconds after it began.

    >>> from deepseek_nb.core.errors import Overloaded
    >>> error = Overloaded("busy", status=503)
    >>> waiting_line(CallEvent("waiting", 5, 0.0, tries=0, refusals=4, error=error, wait_s=12, left_s=170,
    ...                        patience_s=600))
    'busy (503), try 4, next in 12 s, 3 min left of 10 min, nothing charged'
    """
    assert event.error is not None  # noqa: S101 (a wait has its reason)
    parts = [f"{cause(event.error)}, try {event.tries + event.refusals}"]
    if event.down_s is not None and event.down_s + passed_s >= DOWN_AFTER_S:
        parts.append(f"server down for {duration(event.down_s + passed_s)}")
    parts.append(f"next in {_ahead(event.wait_s - passed_s)}")
    if event.left_s is not None:
        of = "" if event.patience_s is None else f" of {duration(event.patience_s)}"
        parts.append(f"{_ahead(event.left_s + event.wait_s - passed_s)} left{of}")
    charged = max(event.charged, event.error.charged, key=_RANK.index)
    parts.append(CHARGED_WORDS[charged])
    if charged != "no" and event.spent_usd:
        parts[-1] += f", ${event.spent_usd:.4f} so far"
    return ", ".join(parts)


def cause(error: DeepSeekError) -> str:
    """Why, in a few words of our own: what a server says is shown nowhere but in errors."""
    words = {
        "Recalled": "made room for an interactive call",
        "Busy": "busy",
        "ServerFault": "server error",
        "NeverConnected": "no connection",
        "ConnectionLost": "connection lost",
        "WentSilent": "went silent",
        "StreamBroken": "the answer broke off",
        "AnswerInvalid": "the answer could not be used",
    }
    said = next((words[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in words), "failed")
    return f"{said} ({error.status})" if error.status else said


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``"12 s"``, ``"3 min"``, ``"2.5 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _ahead(seconds: float) -> str:
    return duration(max(0, math.ceil(seconds)))
