"""How a job went from its start to now: samples of running totals, few of them however long it takes."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SAMPLES", "History", "Sample"]

SAMPLES = 240
"""At most so many are kept."""
STEP_S = 0.1
"""Between samples at first; about doubled whenever there is no more room."""


class Sample(NamedTuple):
    """How far a run was at one moment. Totals: what happened in between is the difference of two samples."""

    at_s: float
    """Since the run began, pauses included."""
    rows: int
    """Finished by this run."""
    wire_s: float
    """Seconds that its rows spent at the server, added up: divided by the time, how many were there."""
    limit: int
    """How many the server seemed to bear; 0 where that was not known."""
    cost_usd: float
    """Of the job, earlier runs included."""
    paused_s: float
    """How long it was paused."""


class History:
    """Samples of a run. One thread calls :meth:`note`, several times a second; any thread may read.

    >>> history = History()
    >>> for second in range(3600): history.note(Sample(second, 2 * second, 0.0, 0, 0.0, 0.0))
    >>> len(history.samples) < SAMPLES, history.samples[0].at_s, history.samples[-1].at_s > 3500
    (True, 0, True)
    """

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        """Oldest first; the first one is that of the start."""
        self._step_s = STEP_S

    def note(self, now: Sample) -> None:
        """Keep ``now``, unless the last one kept is too near."""
        samples = self.samples
        if samples and now.at_s - samples[-1].at_s < self._step_s * 0.999:  # a tick is no exact tenth
            return
        samples.append(now)
        if len(samples) >= SAMPLES:
            # Totals lose nothing but resolution. A new list: another thread may read the old one.
            self.samples = samples[::2]
            self._step_s = self.samples[-1].at_s / len(self.samples)
