"""An event loop whose seconds pass faster, so that a client's own timers are scaled without touching it.

Every sleep, timeout and time stamp that goes through asyncio is in scaled seconds: a back-off of
4 s takes 0.2 s at scale 20, in openai-python, LiteLLM, tenacity, aiohttp and deepseek_nb alike.
What does not scale is work: a millisecond of computing is 20 ms of the scaled time.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import Any


class ScaledSelector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Waits ``1/scale`` of what it is told."""

    scale = 1.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """As select, with a timeout in scaled seconds."""
        return super().select(timeout / self.scale if timeout is not None and timeout > 0 else timeout)


class ScaledLoop(asyncio.SelectorEventLoop):
    """An event loop in which ``scale`` seconds pass in each real one."""

    def __init__(self, scale: float) -> None:
        selector = ScaledSelector()
        selector.scale = self.scale = scale
        super().__init__(selector)

    def time(self) -> float:
        """Scaled seconds of the monotonic clock."""
        return time.monotonic() * self.scale


class ScaledPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes :class:`ScaledLoop` the loop that everybody in this process gets."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A scaled loop."""
        return ScaledLoop(self.scale)
