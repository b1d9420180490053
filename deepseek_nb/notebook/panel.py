"""A panel: a widget in a cell's output, and its static twin, which stays when the notebook is saved.

A saved notebook holds no widgets: without its kernel, JupyterLab shows an error where one was. So a
panel that ends is replaced by its twin, and one that stays open keeps its twin folded in a second
output below it. Front ends without widgets show the twin, and a sentence on what to do instead.

Widgets may be written from any thread, with :func:`assign`; nothing here prints.
"""

from __future__ import annotations

import html
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ipywidgets
from IPython import get_ipython

from deepseek_nb.notebook.display import show
from deepseek_nb.notebook.sanitize import safe_markdown

__all__ = [
    "Panel",
    "Ticker",
    "Twin",
    "announce",
    "assign",
    "close_widgets",
    "has_widgets",
    "live_region",
    "reachable",
]

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PERIOD_S = 0.25
"""Not more often than this is a panel written."""

_writing = threading.RLock()
"""A widget sends what changed in steps that two threads must not mix."""


class Twin(NamedTuple):
    """What a panel looks like without widgets. Texts of others are in it sanitised, as in every output."""

    markdown: str
    plain: str

    @property
    def bundle(self) -> dict[str, str]:
        """The MIME bundle."""
        return {"text/markdown": self.markdown, "text/plain": self.plain}

    def with_note(self, note: str) -> Twin:
        """This, and a sentence of our own below it."""
        return Twin(f"{self.markdown}\n\n{note}".strip(), f"{self.plain}\n\n{note}".strip())

    def folded(self, summary: str) -> Twin:
        """This, folded under one line where the front end can fold."""
        inside = f"<details><summary>{html.escape(summary)}</summary>\n\n{self.markdown}\n\n</details>"
        return Twin(inside, f"{summary}\n\n{self.plain}")


class Panel:
    """Shows ``widget`` in the cell that runs; ``twin`` says what stands for it without widgets.

    ``title`` names it, ``instead`` is one sentence: what to do in a front end without widgets. With
    ``fold``, the line that the twin is folded under, the panel is one that stays open: the twin then
    stands in a second output, and :meth:`refresh_twin` writes it again. Of the panels with the same
    ``key`` one is alive: showing another ends it. ``ended`` is called when it ends, by whatever hand.

    >>> panel = Panel(widget, lambda: Twin("**3 of 9** rows", "3 of 9 rows"), title="Job x",
    ...               instead="Look at job.progress.")                        # doctest: +SKIP
    >>> panel.show()     # main thread, in the cell                           # doctest: +SKIP
    >>> panel.end()      # any thread: the twin stays, the widgets are closed # doctest: +SKIP
    """

    _alive: dict[str, Panel] = {}  # noqa: RUF012 (of all panels together)

    def __init__(
        self,
        widget: ipywidgets.Widget,
        twin: Callable[[], Twin],
        *,
        title: str,
        instead: str,
        fold: str | None = None,
        key: str | None = None,
        ended: Callable[[], None] | None = None,
    ) -> None:
        self.widget = widget
        self.live = False
        """Whether it is on the screen as a widget: shown where there are widgets, and not ended."""
        self._twin = twin
        self._title = title
        self._instead = instead
        self._fold = fold
        self._key = key
        self._ended = ended
        self._lock = threading.RLock()
        self._places = {name: {"display_id": uuid.uuid4().hex} for name in ("panel", "twin")}
        self._kept: Twin | None = None

    def show(self) -> bool:
        """Show it in the cell that runs; False where there are no widgets, but only the twin. Main thread."""
        twin = self._twin()
        with self._lock:
            if not has_widgets():
                show(twin.with_note(self._instead).bundle)
                close_widgets(self.widget)
                return False
            if self._key is not None:
                earlier = self._alive.pop(self._key, None)
                if earlier is not None:
                    earlier.end()
                self._alive[self._key] = self
            without = twin if self._fold is None else Twin(safe_markdown(f"**{self._title}**"), self._title)
            view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
            shown: Any = {**without.with_note(self._instead).bundle, WIDGET_VIEW: view}
            show(shown, transient=dict(self._places["panel"]))
            reachable(*_tree(self.widget))
            self.live = True
            if self._fold is not None:
                self._kept = twin
                show(twin.folded(self._fold).bundle, transient=dict(self._places["twin"]))
            return True

    def refresh_twin(self) -> None:
        """Write the folded twin again, if it changed: for a panel that stays open. Any thread."""
        if self._fold is None or not self.live:
            return
        twin = self._twin()
        with self._lock:
            if self.live and twin != self._kept:
                self._kept = twin
                self._replace("twin", twin.folded(self._fold))

    def end(self) -> None:
        """Put the twin in the panel's place and close the widgets; calling it twice is fine. Any thread."""
        if not self.live:
            return
        if self._ended is not None:
            self._ended()
        twin = self._twin()  # not under the lock: it may wait for one of its owner's
        with self._lock:
            if not self.live:
                return
            self.live = False
            if self._key is not None and self._alive.get(self._key) is self:
                del self._alive[self._key]
            self._replace("panel", twin)
            if self._fold is not None:
                self._replace("twin", Twin("*Closed.*", "Closed."))
            close_widgets(self.widget)

    def _replace(self, place: str, twin: Twin) -> None:
        show(twin.bundle, transient=dict(self._places[place]), update=True)


class Ticker:
    """Calls ``tick`` every ``period_s`` seconds in a thread of its own, until :meth:`stop`.

    An exception of ``tick`` ends it and goes to ``failed``: nothing is printed.
    """

    def __init__(
        self,
        tick: Callable[[], None],
        *,
        failed: Callable[[Exception], None],
        period_s: float = PERIOD_S,
    ) -> None:
        self._tick = tick
        self._failed = failed
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deepseek_nb-panel", daemon=True)

    def start(self) -> None:
        """Begin; the first call comes after one period."""
        self._thread.start()

    def stop(self) -> None:
        """Call no more; does not wait for a call that runs."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self._tick()
            except Exception as error:  # noqa: BLE001 (whoever made the panel shows it there)
                self._stop.set()
                self._failed(error)


def has_widgets() -> bool:
    """Whether the front end may have widgets: a notebook's kernel has, a terminal has not."""
    return getattr(get_ipython(), "kernel", None) is not None


def assign(widget: ipywidgets.Widget, **traits: Any) -> None:
    """Set those of ``traits`` that differ, in one message to the browser. From any thread.

    >>> assign(bar, value=3, bar_style="success")             # doctest: +SKIP
    """
    with _writing:
        changed = {name: value for name, value in traits.items() if getattr(widget, name) != value}
        if changed:
            with widget.hold_sync():
                for name, value in changed.items():
                    setattr(widget, name, value)
            reachable(widget)


def reachable(*controls: ipywidgets.Widget) -> None:
    """Let clicks on ``controls`` come through while a cell runs, where kernel and front end can.

    The front end sends clicks to a thread of their own (a subshell). ipykernel 7.4 sends them back to
    the shell that last wrote to the control, which a running cell blocks; here that note is taken away.
    """
    for control in controls:
        if control.comm is not None:
            vars(control.comm).pop("_reply_subshell_id", None)


def live_region() -> ipywidgets.HTML:
    """The one place of a panel that a screen reader reads out when it changes: see :func:`announce`."""
    return ipywidgets.HTML(_status(""))


def announce(region: ipywidgets.HTML, text: str) -> None:
    """Say ``text`` there: on completion and in trouble, never for each piece. From any thread."""
    assign(region, value=_status(text))


def _status(text: str) -> str:
    return f'<div role="status" aria-live="polite">{html.escape(text)}</div>'


def close_widgets(*widgets: ipywidgets.Widget) -> None:
    """Close these with all that is in them, their layouts and styles too. From any thread."""
    with _writing:
        for one in [part for widget in widgets for part in _tree(widget)]:
            one.close()


def _tree(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    yield widget
    for part in (getattr(widget, "layout", None), getattr(widget, "style", None)):
        if isinstance(part, ipywidgets.Widget):
            yield part
    for child in getattr(widget, "children", ()):
        yield from _tree(child)
