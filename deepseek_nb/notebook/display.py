"""The output of one call: its text as it is written, and a line on what is going on while it waits.

Everything goes to one display, which is replaced: the first text at once, then at most ten times a
second, and less often the longer the text is, since each update carries all of it again. Whatever
comes, no more than ``BYTES_FACTOR`` bytes are sent for each byte of text that arrived.

The class decides on times it is told and publishes through a function it is given: nothing here
waits, and no thread but the caller's is used.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from IPython.display import publish_display_data

from deepseek_nb.core.chat import Answer
from deepseek_nb.core.events import CallEvent, cause, duration, waiting_line
from deepseek_nb.core.wire import Delta
from deepseek_nb.notebook.views import METADATA_KEY, draft, facts, final, note

__all__ = ["CellOutput", "Publish", "Screen", "show"]

UPDATE_S = 0.1
"""Not more often than this."""
LINE_SHARE = 0.05
"""Lines on waiting come the more seldom the longer it takes: by this share of the time so far."""
QUIET_S = 1.0
"""An answer that begins sooner than this is not announced."""
BYTES_FACTOR = 30
"""The final state, in two forms, comes on top: 40 is the promise."""
ENVELOPE_BYTES = 1000
"""What one message weighs without its text."""

Publish = Callable[[Mapping[str, str], Mapping[str, Any]], None]


def show(bundle: Mapping[str, str], metadata: Mapping[str, Any] | None = None, **how: Any) -> None:
    """Put ``bundle`` into the output of the cell that runs. Main thread only."""
    publish: Any = publish_display_data  # IPython gives it no types
    publish(dict(bundle), dict(metadata or {}), **how)


class CellOutput:
    """One display in the output of the cell that runs: called once it appears, again it is replaced."""

    def __init__(self) -> None:
        self._transient = {"display_id": uuid.uuid4().hex}
        self.there = False
        """Whether it has appeared."""

    def __call__(self, bundle: Mapping[str, str], metadata: Mapping[str, Any]) -> None:
        """Show ``bundle``. Main thread only."""
        show(bundle, metadata, transient=dict(self._transient), update=self.there)
        self.there = True


class Screen:
    """What the reader sees of one call. ``live=False``: nothing until the end, then one output.

    Feed it with :meth:`take`, call :meth:`refresh` whenever :meth:`wait_s` has passed, and end it
    with :meth:`finish`, :meth:`keep` or :meth:`fail`.
    """

    def __init__(
        self, publish: Publish, *, now: Callable[[], float], view: str = "markdown", live: bool = True
    ) -> None:
        self.text = ""
        """The text of this try so far."""
        self.reasoning = ""
        self._publish = publish
        self._now = now
        self._view = view
        self._live = live
        self._received_bytes = 0
        self._sent_bytes = 0
        self._shown: str | None = None
        """What of the text is on the screen; None: a line, or nothing."""
        self._there = False
        self._held = False
        self._started_s = self._since_s = now()
        self._line: Callable[[float], str] = lambda passed_s: f"asking, {duration(passed_s)} so far"
        self._line_due_s = self._started_s + QUIET_S
        self._last_s = -math.inf

    # -- what happens

    def take(self, news: Delta | CallEvent) -> None:
        """A piece of the answer, or something that happened to the call."""
        if isinstance(news, Delta):
            self._take_piece(news)
        elif news.kind == "waiting" and news.error is not None:
            self._set_line(lambda passed_s: waiting_line(news, passed_s), at_once=True)
        elif news.kind == "fallback" and news.error is not None:
            told = f"{cause(news.error)}: asking {news.route} now"
            self._set_line(lambda passed_s: f"{told}, {duration(passed_s)} so far", at_once=True)
        elif news.kind == "back":
            told = f"asking {news.route} again"
            self._set_line(lambda passed_s: f"{told}, {duration(passed_s)} so far", at_once=True)
        elif news.kind == "held" and not self._held:
            self._held = True
            self._set_line(lambda passed_s: f"the server holds the request, {duration(passed_s)} so far")
        elif news.kind == "sent":
            self._sent(news)

    def _sent(self, news: CallEvent) -> None:
        self._held = False
        if news.tries + news.refusals > 1:
            self._set_line(lambda passed_s: f"asking again, {duration(passed_s)} so far")

    def _take_piece(self, piece: Delta) -> None:
        if piece.restart:
            self.text = self.reasoning = ""
            self._shown = None
            self._set_line(lambda passed_s: f"the answer broke off, {duration(passed_s)} ago", at_once=True)
        if piece.reasoning and not self.reasoning:
            self._set_line(lambda passed_s: f"thinking, {duration(passed_s)} so far", at_once=True)
        self.reasoning += piece.reasoning
        self.text += piece.text
        self._received_bytes += len(piece.text.encode("utf-8", "replace"))

    def _set_line(self, told: Callable[[float], str], *, at_once: bool = False) -> None:
        self._line, self._since_s = told, self._now()
        self._line_due_s = self._since_s + (0.0 if at_once else QUIET_S)

    # -- when to show it

    def wait_s(self) -> float | None:
        """How long until :meth:`refresh` has something to do; None: not before something happens."""
        if not self._live:
            return None
        if not self.text.strip():
            earliest_s = self._last_s + self._line_pause_s()
            return max(0.0, max(self._line_due_s, earliest_s) - self._now())
        if self._shown is None:
            return 0.0
        if self._shown == self.text or not self._affordable():
            return None
        return max(0.0, self._last_s + UPDATE_S - self._now())

    def _line_pause_s(self) -> float:
        return max(UPDATE_S, LINE_SHARE * (self._now() - self._started_s))

    def _affordable(self) -> bool:
        cost_bytes = ENVELOPE_BYTES + len(self.text.encode("utf-8", "replace"))
        return self._sent_bytes + cost_bytes <= BYTES_FACTOR * self._received_bytes

    def refresh(self) -> None:
        """Show what is due."""
        if self.wait_s() != 0.0:
            return
        if self.text.strip():
            self._shown = self.text
            self._show(draft(self.text, self._view))
        else:
            now_s = self._now()
            passed_s = now_s - self._since_s
            self._line_due_s = now_s + max(1.0, passed_s / 2)
            self._show(note(self._line(passed_s)), counted=False)

    def _show(
        self, bundle: Mapping[str, str], metadata: Mapping[str, Any] | None = None, *, counted: bool = True
    ) -> None:
        self._there = True  # first: an interrupt may come between the two
        self._publish(bundle, metadata or {})
        self._last_s = self._now()
        if counted:
            self._sent_bytes += ENVELOPE_BYTES + sum(len(shown.encode()) for shown in bundle.values())

    # -- the end

    def finish(self, answer: Answer, *, simulated: bool, bundle: Mapping[str, str] | None = None) -> None:
        """The whole answer, with the facts; ``bundle``: what is shown of it, where it is not its text."""
        if bundle is None:
            bundle = final(answer.text, self._view)
        self._show(bundle, {METADATA_KEY: facts(answer, simulated=simulated)})

    def keep(self, answer: Answer) -> None:
        """An answer that was interrupted: what there is of it stays."""
        if answer.text:
            self._show(
                final(answer.text, self._view), {METADATA_KEY: {"finish_reason": answer.finish_reason}}
            )
        elif self._there:
            self._show(note("interrupted"))

    def say(self, line: str) -> None:
        """Show a line at once, in place of what is there."""
        self._show(note(line), counted=False)

    def fail(self) -> None:
        """No answer: nothing stays that looks like one."""
        if self._there:
            self._show(note("no answer"))
