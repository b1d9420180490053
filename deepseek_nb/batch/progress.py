"""How a job stands: plain figures that one thread writes and any may read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from deepseek_nb.core.events import CallEvent

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
        elif event.kind == "waiting" and event.error is not None:
            name = type(event.error).__name__
            if event.error.disposition.value == "refused":
                self.refusals += 1
            else:
                self.faults[name] += 1
            if self.trouble_s is None:
                self.trouble_s = event.at_s
            status = f" ({event.error.status})" if event.error.status else ""
            self.waiting = f"{'busy' if event.error.disposition.value == 'refused' else name}{status}"
        elif event.kind in ("first_token", "answered"):
            self.trouble_s = None
            self.waiting = ""

    def line(self) -> str:
        """The figures in one line, for the end of a progress bar."""
        parts = [f"${self.spent_usd:.4f}"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.waiting:
            parts.append(self.waiting)
        return ", ".join(parts)
