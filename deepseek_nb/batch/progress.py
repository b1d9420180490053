"""How a job stands: plain figures that one thread writes and any may read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from deepseek_nb.core.errors import Busy, DeepSeekError
from deepseek_nb.core.events import DOWN_AFTER_S, CallEvent, cause, duration

__all__ = ["Progress"]


@dataclass(slots=True)
class Progress:
    """Counts distinct prompts, not rows of the frame; money in US dollars, times in seconds."""

    total: int = 0
    done: int = 0
    failed: int = 0
    from_store: int = 0
    """Of ``done``: found in the answer store, not asked."""
    already: int = 0
    """Done or failed when this run began."""
    requests: int = 0
    """Sent by this run."""
    refusals: int = 0
    """429s and 503s of this run: nothing was charged for them."""
    faults: Counter[str] = field(default_factory=Counter)
    """What broke in this run and was asked again, by class name."""
    spent_usd: float = 0.0
    """By this run; an amount the server may have charged for a broken request included."""
    waiting: str = ""
    """Why it waits, empty while it moves."""
    trouble_s: float | None = None
    """When the server first refused or failed since the last answer."""
    elsewhere: int = 0
    """Rows that went on to another route."""
    in_flight: int = 0
    """Requests of this kernel at the server now."""
    limit: int = 0
    """How many the server seems to bear, from all kernels on the account."""
    kernels: int = 1
    """How many share that limit."""
    down_s: float | None = None
    """For how long the server has seemed to be down."""
    left_s: float | None = None
    """How long the job goes on if nothing comes; None while answers come."""

    @property
    def finished(self) -> int:
        """Done or failed, now and before."""
        return self.done + self.failed

    @property
    def pending(self) -> int:
        """Not answered yet."""
        return self.total - self.finished

    def hear(self, event: CallEvent) -> None:
        """Take one event of a row's call."""
        if event.kind == "sent":
            self.requests += 1
        elif event.kind in ("waiting", "fallback") and event.error is not None:
            self.elsewhere += event.kind == "fallback"
            self._note(event.error)
            if self.trouble_s is None:
                self.trouble_s = event.at_s
            self.waiting = cause(event.error)
        elif event.kind in ("first_token", "answered"):
            self.trouble_s = None
            self.waiting = ""

    def _note(self, error: DeepSeekError) -> None:
        if not isinstance(error, Busy):
            self.faults[type(error).__name__] += 1
        elif error.status is not None:  # without one nothing was sent: the server was known to be down
            self.refusals += 1

    def line(self) -> str:
        """The figures in one line, for the end of a progress bar.

        Such as ``$0.0210, busy (503), 12 of 16 in flight, server down for 34 s, 9 min left``.
        """
        parts = [f"${self.spent_usd:.4f}"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.elsewhere:
            parts.append(f"{self.elsewhere} asked elsewhere")
        if self.waiting:
            parts.append(self.waiting)
            if self.limit:
                parts.append(f"{self.in_flight} of {self.limit} in flight")
        if self.down_s is not None and self.down_s >= DOWN_AFTER_S:
            parts.append(f"server down for {duration(self.down_s)}")
            if self.left_s is not None:
                parts.append(f"{duration(self.left_s)} left")
        return ", ".join(parts)
