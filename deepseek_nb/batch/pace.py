"""How fast rows are finished: the rate of late, and its curve in constant memory."""

from __future__ import annotations

from collections import deque

__all__ = ["POINTS", "Pace"]

POINTS = 120
"""The curve has at most so many points, however long the job."""
STEP_S = 0.5
"""Between the curve's points at first; doubled whenever it is full."""
RECENT_S = 15.0
"""The rate is that of so many seconds."""


class Pace:
    """Rows a second. Times are seconds of work since the start, pauses left out.

    One thread calls :meth:`note`, several times a second; any thread may read.

    >>> pace = Pace()
    >>> for tenth in range(100): pace.note(tenth / 10, rows=2 * tenth)
    >>> round(pace.rate)
    20
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        """Rows a second of late; None before there is anything to tell."""
        self.points: list[tuple[float, float]] = []
        """``(seconds of work, rows a second up to there)``, oldest first."""
        self._step_s = STEP_S
        self._last = (0.0, 0)
        self._recent: deque[tuple[float, int]] = deque([(0.0, 0)])

    def note(self, worked_s: float, rows: int) -> None:
        """So many rows are finished after so many seconds of work."""
        since_s, before = self._recent[0]
        if worked_s - since_s >= STEP_S / 2:
            self.rate = (rows - before) / (worked_s - since_s)
        if worked_s - self._recent[-1][0] >= STEP_S:
            self._recent.append((worked_s, rows))
            while len(self._recent) > 2 and worked_s - self._recent[1][0] >= RECENT_S:
                self._recent.popleft()
        last_s, last_rows = self._last
        if worked_s - last_s >= self._step_s:
            self.points.append((worked_s, (rows - last_rows) / (worked_s - last_s)))
            self._last = (worked_s, rows)
            if len(self.points) >= POINTS:
                self._halve()

    def _halve(self) -> None:
        """Make one point of every two: a new list, since another thread may read the old one."""
        halved, since_s = [], 0.0
        for (middle_s, first), (end_s, second) in zip(self.points[::2], self.points[1::2], strict=True):
            rows = first * (middle_s - since_s) + second * (end_s - middle_s)
            halved.append((end_s, rows / (end_s - since_s)))
            since_s = end_s
        self.points, self._step_s = halved, 2 * self._step_s
