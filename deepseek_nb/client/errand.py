"""One request and how it is to be done: what the faces prepare and the road takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from deepseek_nb.client.watchdog import Limits
from deepseek_nb.core.admission import INTERACTIVE_LANE
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.call import Leg
from deepseek_nb.core.chat import Answer, ChatRequest
from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.retry import RetryPolicy
from deepseek_nb.core.wire import Delta

__all__ = ["Errand"]


@dataclass(frozen=True, slots=True)
class Errand:
    """One request, its key, and everything about how it is asked."""

    request: ChatRequest
    key: str
    lane: int
    policy: RetryPolicy
    budget: Budget
    limits: Limits = field(default_factory=Limits)
    whole: Limits | None = None
    """The limits under which its first try asks for the answer in one piece; None: it is streamed, too.

    A stream costs some 50 us of processor time for every token. What an answer in one piece gives up is
    told in ``batch/run.py``; what broke once is streamed the next time.
    """
    look_up: bool = True
    """Whether the store is asked first; one who has looked already says False."""
    claimed: bool = False
    """Whether its key is claimed in the store for this process, which holds no answer: then neither is
    waited for. The claim ends with the errand."""
    keep: bool = True
    """Whether the answer is kept in the store."""
    ttl_s: float | None = None
    fallbacks: tuple[Leg, ...] = ()
    """Where it is asked next, in order, once the route before kept it waiting for its ``failover_s``."""
    failover_s: float | None = None
    """How long the first route may keep it waiting; only with ``fallbacks``."""
    upstream: str = ""
    """The driver's name for the server that is asked first; empty: the client's own."""
    swift: bool = False
    """Whether it goes elsewhere in every lane as an interactive call does: at once where its server is
    down, and where no byte came for ``failover_s``. Slow answers are waited for as the lane is."""
    hedged: bool = False
    """Whether a second copy is sent when nothing is heard of the first."""
    output_tokens: int = 8192
    """What an answer may have at most where the request does not say: for the reservation."""
    check: Callable[[Answer], Answer] | None = None
    """Gives the answer with its value, or raises an AnswerInvalid."""
    on_delta: Callable[[Delta], None] | None = None
    on_event: Callable[[CallEvent], None] | None = None
    on_kept: Callable[[Answer, str], None] | None = None
    """Told the answer, and the JSON text of it that the store keeps, as soon as the store was given it: who
    writes it down elsewhere need not wait for the store's commit."""

    @property
    def interactive(self) -> bool:
        """Whether somebody waits for it: it passes first."""
        return self.lane >= INTERACTIVE_LANE

    def with_value(self, answer: Answer) -> Answer:
        """``answer`` with the value that ``check`` makes of it; raises an AnswerInvalid as ``check`` does."""
        return self.check(answer) if self.check else answer
