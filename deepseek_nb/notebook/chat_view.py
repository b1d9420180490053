"""The widgets of a chat panel: its controls, the exchanges one below the other, and the lines around them."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets

from deepseek_nb.data import read_json
from deepseek_nb.notebook.display import ENVELOPE_BYTES, Screen
from deepseek_nb.notebook.panel import assign, close_widgets, live_region
from deepseek_nb.notebook.safe_html import html_of_markdown, html_of_plain
from deepseek_nb.notebook.transcript import MOST_SHOWN, Exchange, answer_html, question_html

__all__ = ["ChatView", "Drafts"]

BYTES_FACTOR = 30
"""What the drafts of an answer may weigh for each byte of it; the final state comes on top."""
AUTO = {"width": "auto"}
LINE = {"margin": "0"}
ROW = {"align_items": "center", "grid_gap": "8px", "flex_flow": "row wrap"}
BOTTOM_UP = {
    # the latest is in view, and stays there while it grows
    "flex_flow": "column-reverse",
    "max_height": "420px",
    "overflow": "auto",
    "border": "1px solid var(--jp-border-color2, #d0d0d0)",
    "padding": "4px 12px",
}


class ChatView:
    """All widgets of one panel. ``thinking`` is what was said of it so far; None: nothing."""

    def __init__(
        self,
        name: str,
        *,
        model: str,
        thinking: bool | None,
        send: Callable[[], None],
        stop: Callable[[], None],
        new: Callable[[], None],
    ) -> None:
        known = read_json("models.json")
        model = known["retired"].get(model, {}).get("use", model)
        names = [one["id"] for one in known["models"]]
        thinks = next((one["thinking_default"] for one in known["models"] if one["id"] == model), False)
        self._thinking = thinking
        self._ticked = thinks if thinking is None else thinking
        self.progress = ipywidgets.HTML(layout=LINE)
        """What is going on, while something is."""
        self.region = live_region()
        self.question = ipywidgets.Textarea(
            placeholder="Ask something. From here, Tab and then Space send it.",
            tooltip="Your question",
            continuous_update=False,
            rows=3,
            layout=AUTO,
        )
        self._figures = ipywidgets.HTML(layout=LINE)
        self._said = ipywidgets.VBox(layout={"flex": "0 0 auto"})
        self._transcript = ipywidgets.Box([self._said], layout={**BOTTOM_UP, "display": "none"})
        self._send = _button("Send", "Send the question", send, button_style="primary")
        self._stop = _button("Stop", "Stop this answer", stop, disabled=True)
        self._new = _button("New", "Begin the conversation anew: nothing is sent along", new)
        self._model = ipywidgets.Dropdown(
            options=names if model in names else [model, *names],
            value=model,
            description="Model",
            tooltip="The model to ask",
            layout={"width": "230px"},
            style={"description_width": "initial"},
        )
        self._think = ipywidgets.Checkbox(
            value=self._ticked,
            description="Think first",
            tooltip="Whether the model thinks before it answers: better, slower, dearer",
            indent=False,
            layout=AUTO,
        )
        title = ipywidgets.HTML(f"<strong>Chat “{html.escape(name)}”</strong>", layout=LINE)
        controls = [self._send, self._stop, self._new, self._model, self._think]
        self.box = ipywidgets.VBox(
            [
                ipywidgets.HBox([title, self._figures], layout={**ROW, "justify_content": "space-between"}),
                self._transcript,
                ipywidgets.HBox([self.progress, self.region], layout={"min_height": "32px"}),
                self.question,
                ipywidgets.HBox(controls, layout=ROW),
            ],
            layout={"max_width": "900px"},
        )

    @property
    def model(self) -> str:
        """The model that is chosen."""
        return str(self._model.value)

    @property
    def thinking(self) -> bool | None:
        """Whether the model is to think first; None where nobody said so, and the server's default holds."""
        untouched = self._thinking is None and self._think.value == self._ticked
        return None if untouched else bool(self._think.value)

    def enable(self, *, busy: bool) -> None:
        """Let the controls take what can be done now."""
        assign(self._send, disabled=busy)
        assign(self._new, disabled=busy)
        assign(self._stop, disabled=not busy)

    def show_figures(self, text: str) -> None:
        """What the conversation took so far."""
        assign(self._figures, value=html.escape(text))

    def show(self, exchanges: Sequence[Exchange]) -> None:
        """Show these exchanges and no others."""
        before = self._said.children
        assign(self._transcript.layout, display="none")
        assign(self._said, children=())
        close_widgets(*before)
        for one in exchanges[-MOST_SHOWN:]:
            self.append(one)

    def append(self, exchange: Exchange) -> ipywidgets.HTML:
        """Show one more at the end; gives the widget that its answer is written into.

        The question has a widget of its own: it is not sent again with each piece of the answer.
        """
        question = ipywidgets.HTML(question_html(exchange))
        answer = ipywidgets.HTML(answer_html(exchange) if exchange.note else "")
        before = self._said.children
        gone = before[: max(0, len(before) + 2 - 2 * MOST_SHOWN)]
        assign(self._said, children=(*before[len(gone) :], question, answer))
        assign(self._transcript.layout, display="flex")
        close_widgets(*gone)
        return answer


class Drafts:
    """Shows an answer that is being written, within a bound on what the browser is sent for it."""

    screen: Screen
    """What decides when; it publishes here."""

    def __init__(self, exchange: Exchange, shown: ipywidgets.HTML, progress: ipywidgets.HTML) -> None:
        self._exchange = exchange
        self._shown = shown
        self._progress = progress
        self._sent_bytes = 0

    def publish(self, bundle: Mapping[str, str], _: Mapping[str, Any]) -> None:
        """Take what the screen would show: a draft of the text, or a line on what is going on."""
        if "text/markdown" not in bundle:
            assign(self._progress, value=html_of_plain(bundle["text/plain"]))
            if self._shown.value and not self.screen.text:  # what was shown belongs to a try that broke
                assign(self._shown, value="")
            return
        draft = answer_html(self._exchange, html_of_markdown(bundle["text/markdown"]))
        cost_bytes = ENVELOPE_BYTES + len(draft.encode("utf-8", "replace"))
        if self._sent_bytes + cost_bytes > BYTES_FACTOR * len(self.screen.text.encode("utf-8", "replace")):
            return  # HTML may weigh more than the text that the screen counts
        self._sent_bytes += cost_bytes
        assign(self._progress, value="")
        assign(self._shown, value=draft)


def _button(label: str, told: str, do: Callable[[], None], **traits: Any) -> ipywidgets.Button:
    made = ipywidgets.Button(description=label, tooltip=told, layout=AUTO, **traits)
    made.on_click(lambda _: do())
    return made
