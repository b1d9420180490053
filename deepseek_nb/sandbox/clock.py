"""The server's clock: its own seconds, which may run faster than ours, and the date for prices."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["ServerClock"]


class ServerClock:
    """Server seconds since the start, ``time_scale`` of them in each real second.

    ``now`` tells the date (aware, UTC) for prices and ``created``; the default is the real one.
    The date does not run faster: a thousandfold sandbox would pass through a week of peak hours.
    """

    def __init__(self, time_scale: float = 1.0, now: Callable[[], datetime] | None = None) -> None:
        if not time_scale > 0:
            raise ValueError(
                f"time_scale is {time_scale!r}: give the server seconds in a real second, above 0."
            )
        self.time_scale = float(time_scale)
        self._now = now
        self._zero = time.monotonic()

    def now_s(self) -> float:
        """Server seconds since the start."""
        return (time.monotonic() - self._zero) * self.time_scale

    def real_s(self, server_s: float) -> float:
        """The real seconds that ``server_s`` server seconds take."""
        return server_s / self.time_scale

    def utc(self) -> datetime:
        """The date and time, in UTC."""
        return datetime.now(UTC) if self._now is None else self._now()
