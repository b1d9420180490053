"""How a job stands: plain figures that one thread writes and any may read."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from deepseek_nb.batch.history import History, Sample
from deepseek_nb.batch.pace import Pace
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.chat import Usage
from deepseek_nb.core.errors import Busy, DeepSeekError
from deepseek_nb.core.events import DOWN_AFTER_S, CallEvent, cause, duration
from deepseek_nb.core.histogram import Histogram

__all__ = ["Progress"]

LONG_S = 99 * 3600.0
"""A longer wait is not told."""


@dataclass(slots=True, repr=False)
class Progress:
    """Counts distinct prompts, not rows of the frame; money in US dollars, times in seconds.

    Cheap to read at any moment, and of a constant size. A share or a time that nothing is known of yet
    is None.
    """

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
    offpeak_s: float | None = None
    """How long it is until the cheap hours it waits for; None while it does not wait for them."""
    paused: bool = False
    """Nothing new is sent; what was on the wire may still come in."""
    on_the_wire: int = 0
    """Rows of this job that the server has now."""
    elapsed_s: float = 0.0
    """Since this run began."""
    paused_s: float = 0.0
    """Of that, how long it was paused."""
    latency: Histogram = field(default_factory=Histogram)
    """From the sending of a request to the end of its answer."""
    prompt_tokens: int = 0
    """Of this run's answers."""
    prefix_tokens: int = 0
    """Of those, found in the server's prefix cache: a fraction of the price."""
    pace: Pace = field(default_factory=Pace)
    """How fast rows are finished, and the curve of it."""
    history: History = field(default_factory=History)
    """How it went from the start to the last tick."""
    wire_s: float = 0.0
    """Seconds that rows of this run spent at the server, added up."""
    money: Budget | None = None
    """The job's budget."""

    @property
    def finished(self) -> int:
        """Done or failed, now and before."""
        return self.done + self.failed

    @property
    def pending(self) -> int:
        """Not answered yet."""
        return self.total - self.finished

    @property
    def states(self) -> dict[str, int]:
        """Rows by state; they add up to ``total``.

        "done" (asked and answered), "from store" (found there by this run), "failed", "in flight", "waiting".
        """
        in_flight = min(self.on_the_wire, self.pending)
        return {
            "done": self.done - self.from_store,
            "from store": self.from_store,
            "failed": self.failed,
            "in flight": in_flight,
            "waiting": self.pending - in_flight,
        }

    @property
    def error_rate(self) -> float | None:
        """Share of the finished rows that failed."""
        return self.failed / self.finished if self.finished else None

    @property
    def hit_rate(self) -> float | None:
        """Share of the rows finished by this run that were in the store already."""
        finished = self.finished - self.already
        return self.from_store / finished if finished > 0 else None

    @property
    def prefix_hit_rate(self) -> float | None:
        """Share of the prompt tokens that the server's prefix cache held."""
        return self.prefix_tokens / self.prompt_tokens if self.prompt_tokens else None

    @property
    def worked_s(self) -> float:
        """Since this run began, pauses left out."""
        return self.elapsed_s - self.paused_s

    @property
    def eta_s(self) -> float | None:
        """How long the rest takes at the rate of late; None while that cannot be told."""
        if not self.pending:
            return 0.0
        rate = self.pace.rate
        return self.pending / rate if rate and not self.paused else None

    @property
    def cost_usd(self) -> float:
        """What the job has cost, earlier runs and what was perhaps charged included."""
        return self.spent_usd if self.money is None else self.money.spent_usd + self.money.unknown_usd

    @property
    def budget_usd(self) -> float | None:
        """What it may cost; None where nothing was said."""
        return None if self.money is None else self.money.limit_usd

    def latency_s(self, share: float) -> float | None:
        """How long this share of the answers took at most: ``latency_s(0.99)`` is the P99."""
        return self.latency.quantile(share) if self.latency.count else None

    def tick(self, passed_s: float) -> None:
        """So many seconds have passed; those of a pause count neither as patience nor for the rate."""
        if not self.history.samples:
            self.history.note(self.sample())
        self.elapsed_s += passed_s
        self.wire_s += passed_s * self.on_the_wire
        if self.paused:
            self.paused_s += passed_s
            if self.trouble_s is not None:
                self.trouble_s += passed_s
        else:
            self.pace.note(self.worked_s, self.finished - self.already)
        self.history.note(self.sample())

    def sample(self) -> Sample:
        """How far this run is now."""
        return Sample(
            self.elapsed_s,
            self.finished - self.already,
            self.wire_s,
            self.limit,
            self.cost_usd,
            self.paused_s,
        )

    def answered(self, latency_s: float, usage: Usage) -> None:
        """An answer came, so long after its request was sent."""
        self.latency.add(latency_s)
        self.prompt_tokens += usage.prompt_tokens
        self.prefix_tokens += usage.cache_hit_tokens

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
        elif event.kind == "back":
            self.elsewhere -= 1

    def _note(self, error: DeepSeekError) -> None:
        if not isinstance(error, Busy):
            self.faults[type(error).__name__] += 1
        elif error.status is not None:  # without one nothing was sent: the server was known to be down
            self.refusals += 1

    @property
    def waits_for_offpeak(self) -> str:
        """``waits for off-peak, 2 h 10 min``; empty while it does not."""
        if self.offpeak_s is None:
            return ""
        hours, minutes = divmod(math.ceil(min(self.offpeak_s, LONG_S) / 60), 60)
        return "waits for off-peak, " + (f"{hours} h {minutes} min" if hours else f"{minutes} min")

    def line(self) -> str:
        """The figures in one line, for the end of a progress bar.

        Such as ``$0.0210, busy (503), 12 of 16 in flight, server down for 34 s, 9 min left``.
        """
        parts = [f"${self.spent_usd:.4f}"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.elsewhere:
            parts.append(f"{self.elsewhere} asked elsewhere")
        if self.offpeak_s is not None:
            parts.append(self.waits_for_offpeak)
        if self.waiting:
            parts.append(self.waiting)
            if self.limit:
                parts.append(f"{self.in_flight} of {self.limit} in flight")
        if self.down_s is not None and self.down_s >= DOWN_AFTER_S:
            parts.append(f"server down for {duration(self.down_s)}")
            if self.left_s is not None:
                parts.append(f"{duration(self.left_s)} left")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"<Progress: {self.finished:,} of {self.total:,} rows, {self.line()}>"
