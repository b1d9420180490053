"""``ds.dashboard()``: the default client's figures and alarms, refreshed until the panel is closed."""

from __future__ import annotations

import html
import threading
import time
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import ipywidgets

from deepseek_nb.client.portal import background
from deepseek_nb.client.sync import Client
from deepseek_nb.core.alarms import RULES, Alarm, Alarms, Thresholds
from deepseek_nb.core.errors import DeepSeekError
from deepseek_nb.notebook.panel import Panel, Ticker, Twin, announce, assign, live_region
from deepseek_nb.notebook.safe_html import html_of_plain
from deepseek_nb.notebook.standing import (
    Standing,
    alarms_html,
    plots_html,
    standing_of,
    table_html,
    twin_of,
)
from deepseek_nb.notebook.transcript import error_text
from deepseek_nb.session import default_client

__all__ = ["Dashboard", "dashboard"]

REFRESH_S = 1.0
KEEP_S = 5.0
"""The twin is not written more often than this."""
LOOK_S = 5.0
"""The loop that is asked for figures is given so long to answer; then the next look is waited for."""
FOLD = "Figures, stay when the notebook is saved"
CONTROLS = (
    ("p99_ms", "P99 above, ms", 1.0, 1e9),
    ("error_rate", "Errors above, %", 100.0, 100.0),
    ("cache_hit_rate", "Cache hits below, %", 100.0, 100.0),
    ("quota", "Quota from, %", 100.0, 100.0),
)
"""Of each threshold: its name, its label, the factor of the unit shown, the most that can be entered."""


def dashboard(
    *,
    p99_ms: float | None = 800.0,
    error_rate: float | None = 0.02,
    cache_hit_rate: float | None = 0.6,
    quota: float | None = 0.8,
    least_calls: int = 20,
) -> Dashboard:
    """The figures of the default client over the last five minutes, with alarms, refreshed by themselves.

    It shows where it is the last line of a cell, or by ``display(board)``, once a second until Close. The
    arguments say from where on there is an alarm, None switches one off: P99 of the latency (from the
    call to the whole answer, waiting included), the share of calls that fail, the share found in the
    answer store, and the share of the budget or of the requests in flight that is used. Fewer than
    ``least_calls`` calls are not judged. It follows :func:`deepseek_nb.session.configure`.

    Costs nothing and sends nothing. Raises ConfigError for what can be no threshold.

    >>> ds.dashboard(p99_ms=5000, cache_hit_rate=None)            # doctest: +SKIP
    """
    return Dashboard(Thresholds(p99_ms, error_rate, cache_hit_rate, quota, least_calls))


class Dashboard:
    """The panel that :func:`dashboard` gives."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._alarms = Alarms(thresholds)
        self._lock = threading.RLock()
        self._client: Client | None = None
        self._told: tuple[str, ...] = ()
        """The alarms that were announced."""
        self._drawn: tuple[str, ...] = ()
        self._changed = False
        """Whether something differs from what the twin holds."""
        self._kept_s = 0.0
        self._panel: Panel | None = None
        self._ticker: Ticker | None = None
        self._look()

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The alarms that stood at the last look."""
        return self._standing_alarms

    @property
    def thresholds(self) -> Thresholds:
        """From where on there is an alarm, as the controls say."""
        return self._alarms.thresholds

    def close(self) -> None:
        """Refresh no more, and put the figures in the panel's place."""
        if self._panel is not None:
            self._panel.end()

    def _ended(self) -> None:
        if self._ticker is not None:
            self._ticker.stop()
        with suppress(TookTooLong, DeepSeekError):
            self._look()  # the last figures stay

    def __repr__(self) -> str:
        return f"<Dashboard of {self._standing.name}>"

    # -- looking

    def _look(self) -> None:
        """Read the figures and judge them."""
        client = default_client()
        standing: Standing = background.start(standing_of, client).result(LOOK_S)
        with self._lock:
            if client is not self._client:  # another client's figures begin anew
                self._client, self._alarms = client, Alarms(self._alarms.thresholds)
            self._standing = standing
            self._standing_alarms = self._alarms.judge(
                standing.figures,
                standing.now_s,
                budget=standing.budget_share,
                in_flight=standing.in_flight_share,
            )
            self._at = datetime.now(UTC)

    def _twin(self) -> Twin:
        with self._lock:
            return twin_of(self._standing, self._standing_alarms, self.thresholds, self._at)

    # -- showing

    def _ipython_display_(self) -> None:
        self.close()
        self._make()
        self._look()
        self._draw()
        self._changed = False
        self._panel = Panel(
            self._box,
            self._twin,
            title="Dashboard of the default client",
            instead="Where widgets do not show, look at ds.default_client().metrics and at its budget.",
            fold=FOLD,
            key="dashboard",
            ended=self._ended,
        )
        if self._panel.show():
            self._ticker = Ticker(self._tick, failed=self._failed, period_s=REFRESH_S)
            self._ticker.start()

    def _make(self) -> None:
        auto = {"width": "auto"}
        self._title = ipywidgets.HTML()
        self._table, self._plots, self._stands = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self._region = live_region()
        close = ipywidgets.Button(
            description="Close", tooltip="Refresh no more; the figures stay", layout=auto
        )
        close.on_click(lambda _: self.close())
        fields = [self._field(*control) for control in CONTROLS]
        row = {"flex_flow": "row wrap", "grid_gap": "4px 16px"}
        thresholds = ipywidgets.Accordion(
            [
                ipywidgets.VBox(
                    [ipywidgets.HTML("0 switches an alarm off."), ipywidgets.HBox(fields, layout=row)]
                )
            ],
            titles=("Alarm thresholds",),
        )
        head = {"justify_content": "space-between", "align_items": "center"}
        self._box = ipywidgets.VBox(
            [
                ipywidgets.HBox([self._title, self._region, close], layout=head),
                self._table,
                self._stands,
                self._plots,
                thresholds,
            ],
            layout={"max_width": "900px", "grid_gap": "4px"},
        )
        self._drawn, self._told, self._kept_s = (), (), time.monotonic()

    def _field(self, name: str, label: str, factor: float, most: float) -> ipywidgets.Widget:
        value = getattr(self.thresholds, name)
        field = ipywidgets.BoundedFloatText(
            0.0 if value is None else round(factor * value, 6),
            min=0.0,
            max=most,
            description=label,
            tooltip=f"{RULES.get(name, RULES['budget']).title}: 0 switches the alarm off",
            style={"description_width": "initial"},
            layout={"width": "200px"},
        )
        field.observe(lambda change: self._set(name, change["new"] / factor or None), "value")
        return field

    def _set(self, name: str, value: float | None) -> None:
        with self._lock:
            now = self._alarms.thresholds
            changed: Any = {one: getattr(now, one) for one in Thresholds.__dataclass_fields__} | {name: value}
            self._alarms.thresholds = Thresholds(**changed)

    # -- refreshing: in a thread of its own

    def _tick(self) -> None:
        try:
            self._look()
        except TookTooLong:
            return
        self._draw()
        if self._panel is not None and self._changed and time.monotonic() >= self._kept_s + KEEP_S:
            self._changed, self._kept_s = False, time.monotonic()
            self._panel.refresh_twin()

    def _draw(self) -> None:
        """Show the last look: what differs from the look before."""
        with self._lock:
            now, alarms, thresholds = self._standing, self._standing_alarms, self.thresholds
        assign(self._title, value=f"<strong>Dashboard</strong> of {html.escape(now.name)}, last 5 min")
        table, plots = table_html(now, alarms), plots_html(now, thresholds)
        names = tuple(alarm.title for alarm in alarms)
        assign(self._table, value=table)
        assign(self._plots, value=plots)
        assign(self._stands, value=alarms_html(now, alarms))
        if names != self._told:
            self._told = names
            announce(self._region, f"Alarm: {', '.join(names)}" if names else "No alarm any more")
        if self._drawn != (table, plots, *names):
            self._drawn, self._changed = (table, plots, *names), True

    def _failed(self, error: Exception) -> None:
        assign(self._stands, value=html_of_plain(f"The dashboard stopped. {error_text(error)}"))
        announce(self._region, "The dashboard stopped")
