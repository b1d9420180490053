"""Alarms as they begin and end, POSTed to an address: nothing of what was asked, no secret."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from deepseek_nb.adapters.transport import Transport
from deepseek_nb.core.alarms import Alarm
from deepseek_nb.core.errors import DeepSeekError, StoreFailed
from deepseek_nb.core.secret import Secret
from deepseek_nb.gateway.logs import log_event
from deepseek_nb.gateway.replies import compact

__all__ = ["Bell", "Notice", "alarm_notice", "upstream_notice"]

LOOKS_EVERY_S = 5.0
WITHIN_S = 10.0
"""An address that takes longer has failed."""
WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 60.0, 60.0)
"""Before each further try; then the notice is given up."""
KEPT = 200
"""Notices that wait to be sent; the oldest is dropped for one more."""
AGAIN = (408, 425, 429)
"""Statuses below 500 after which it is tried again."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that is wrong now, in the words of the status page."""

    name: str
    """What tells it from others."""
    title: str
    text: str
    todo: str


def alarm_notice(alarm: Alarm, now: float) -> Notice:
    """An alarm of the table."""
    return Notice(alarm.name, alarm.title, alarm.line(now), alarm.todo)


def upstream_notice(name: str, trouble: str) -> Notice:
    """An upstream that is down."""
    return Notice(
        f"upstream_down:{name}",
        "Upstream down",
        f"The upstream {name} is down: {trouble}.",
        "Others answer while there are any; it is used again once it answers a probe.",
    )


class Bell:
    """Looks every few seconds what is wrong, and POSTs each change to ``url``, one after another.

    What cannot be delivered is tried again for some four minutes. ``look`` gives what is wrong now.
    Raises ConfigError for an address that cannot be used.
    """

    def __init__(
        self, url: Secret, look: Callable[[], list[Notice]], *, every_s: float = LOOKS_EVERY_S
    ) -> None:
        parts = urlsplit(url.reveal())
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._transport = Transport(f"{parts.scheme}://{parts.netloc}", auth=None, connect_timeout_s=WITHIN_S)
        self._look = look
        self._every_s = every_s
        self._standing: dict[str, Notice] = {}
        self._queue: deque[bytes] = deque(maxlen=KEPT)
        self._rings = asyncio.Event()
        self.sent = 0
        self.lost = 0
        self._work = [asyncio.create_task(self._watch()), asyncio.create_task(self._deliver())]

    async def aclose(self) -> None:
        """Stop; what was not delivered is not."""
        for task in self._work:
            task.cancel()
        await asyncio.wait(self._work)
        await self._transport.aclose()

    async def _watch(self) -> None:
        while True:
            try:
                now = {notice.name: notice for notice in self._look()}
            except StoreFailed:  # what was spent cannot be read now: nothing is known to have changed
                now = self._standing
            before, self._standing = self._standing, now
            for name, notice in self._standing.items():
                if name not in before:
                    self._ring("raised", notice)
            for name, notice in before.items():
                if name not in self._standing:
                    self._ring("ended", notice)
            await asyncio.sleep(self._every_s)

    def _ring(self, state: str, notice: Notice) -> None:
        log_event("alarm", state=state, alarm=notice.name, trouble=state == "raised")
        self._queue.append(compact(_told(state, notice)))
        self._rings.set()

    async def _deliver(self) -> None:
        while True:
            await self._rings.wait()
            self._rings.clear()
            while self._queue:
                body = self._queue.popleft()
                if await self._delivered(body):
                    self.sent += 1
                else:
                    self.lost += 1
                    log_event("alarm_not_delivered", trouble=True)

    async def _delivered(self, body: bytes) -> bool:
        for wait_s in (*WAITS_S, None):
            status = await self._posted(body)
            if 200 <= status < 300:
                return True
            if 300 <= status < 500 and status not in AGAIN:
                return False
            if wait_s is not None:
                await asyncio.sleep(wait_s)
        return False

    async def _posted(self, body: bytes) -> int:
        """The status, 0 where there was none."""
        try:
            async with asyncio.timeout(WITHIN_S), self._transport.post(self._path, body) as reply:
                return reply.status
        except (TimeoutError, DeepSeekError):
            return 0


def _told(state: str, notice: Notice) -> Mapping[str, Any]:
    return {
        "source": "deepseek_nb gateway",
        "state": state,
        "alarm": notice.name,
        "title": notice.title,
        "text": notice.text,
        "todo": notice.todo,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
