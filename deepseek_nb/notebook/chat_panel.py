"""``ds.chat()``: a panel to ask one question after the other, on a named conversation.

The request runs in the background loop and a thread of the panel shows what comes, so the kernel is
free meanwhile. Nothing is raised in that thread: what ends a request is shown in the panel.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from typing import Any

import ipywidgets

from deepseek_nb.client.portal import background
from deepseek_nb.client.sync import Client
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.events import duration
from deepseek_nb.data import read_json
from deepseek_nb.notebook.carry import carry
from deepseek_nb.notebook.display import ENVELOPE_BYTES, Screen
from deepseek_nb.notebook.panel import Panel, Twin, announce, assign, live_region
from deepseek_nb.notebook.safe_html import html_of_markdown, html_of_plain
from deepseek_nb.notebook.transcript import (
    MOST_SHOWN,
    Exchange,
    answer_html,
    error_text,
    question_html,
    twin_of,
)
from deepseek_nb.session import conversation, default_client

__all__ = ["ChatPanel", "chat"]

PRIORITY = 5
"""Somebody waits for it: it goes first."""
BYTES_FACTOR = 30
"""What the drafts of an answer may weigh for each byte of it; the final state comes on top."""
FOLD = "Transcript, stays when the notebook is saved"


def chat(
    name: str = "chat",
    *,
    model: str | None = None,
    system: str | None = None,
    thinking: bool | None = None,
    last_turns: int | None = None,
    **options: Any,
) -> ChatPanel:
    """A panel to talk in, on the conversation ``name``: what was said there before stands in it.

    It shows where it is the last line of a cell, or by ``display(panel)``. ``system`` and ``last_turns``
    go to :func:`deepseek_nb.session.conversation`; ``model`` and ``thinking`` are where its controls
    begin; further options are those of :meth:`deepseek_nb.client.aio.AsyncClient.ask`. What fails is
    shown in the panel, and the conversation stays as it was; so it does after Stop.

    Costs nothing by itself: each question costs what it costs in a cell. Raises ConfigError or
    RequestInvalid for what can be known to fail.

    >>> ds.chat("risk", system="You are terse.")                  # doctest: +SKIP
    """
    return ChatPanel(name, model, system, thinking, last_turns, options)


class ChatPanel:
    """The panel that :func:`chat` gives."""

    def __init__(
        self,
        name: str,
        model: str | None,
        system: str | None,
        thinking: bool | None,
        last_turns: int | None,
        options: Mapping[str, Any],
    ) -> None:
        self._options = {"priority": PRIORITY, **options}
        client = default_client()
        client.aio.prepare("x", model=model, thinking=thinking, **self._options)  # wrong options: here
        self.conversation = conversation(name, system=system, last_turns=last_turns)
        """What the panel talks in."""
        self._lock = threading.RLock()
        self._exchanges: list[Exchange] = []
        self._work: Future[Answer] | None = None
        self._busy = self._stopped = False
        self._make_controls(model or client.settings.model, thinking, client.settings.thinking)
        self._panel: Panel | None = None

    # -- what it looks like

    def _make_controls(self, model: str, thinking: bool | None, by_default: bool | None) -> None:
        known = read_json("models.json")
        model = known["retired"].get(model, {}).get("use", model)
        names = [one["id"] for one in known["models"]]
        self._thinking = by_default if thinking is None else thinking
        thinks = next((one["thinking_default"] for one in known["models"] if one["id"] == model), False)
        self._thinks_unasked = thinks if self._thinking is None else self._thinking
        wide, line = {"width": "auto"}, {"margin": "0"}
        self._title = ipywidgets.HTML(layout=line)
        self._figures = ipywidgets.HTML(layout=line)
        self._said = ipywidgets.VBox(layout={"flex": "0 0 auto"})
        self._transcript = ipywidgets.Box(
            [self._said],
            # from the bottom up: the latest is in view, and stays there while it grows
            layout={
                "flex_flow": "column-reverse",
                "max_height": "420px",
                "overflow": "auto",
                "border": "1px solid var(--jp-border-color2, #d0d0d0)",
                "padding": "4px 12px",
            },
        )
        self._progress = ipywidgets.HTML(layout=line)
        self._region = live_region()
        self._question = ipywidgets.Textarea(
            placeholder="Ask something. From here, Tab and then Space send it.",
            tooltip="Your question",
            continuous_update=False,
            rows=3,
            layout=wide,
        )
        self._send = ipywidgets.Button(
            description="Send", tooltip="Send the question", button_style="primary", layout=wide
        )
        self._stop = ipywidgets.Button(
            description="Stop", tooltip="Stop this answer", disabled=True, layout=wide
        )
        self._new = ipywidgets.Button(
            description="New", tooltip="Begin the conversation anew: nothing is sent along", layout=wide
        )
        self._model = ipywidgets.Dropdown(
            options=names if model in names else [model, *names],
            value=model,
            description="Model",
            tooltip="The model to ask",
            layout={"width": "230px"},
            style={"description_width": "initial"},
        )
        self._think = ipywidgets.Checkbox(
            value=self._thinks_unasked,
            description="Think first",
            tooltip="Whether the model thinks before it answers: better, slower, dearer",
            indent=False,
            layout=wide,
        )
        self._send.on_click(lambda _: self._on_send())
        self._stop.on_click(lambda _: self._on_stop())
        self._new.on_click(lambda _: self._on_new())

    def _box(self) -> ipywidgets.Widget:
        row = {"align_items": "center", "grid_gap": "8px", "flex_flow": "row wrap"}
        return ipywidgets.VBox(
            [
                ipywidgets.HBox(
                    [self._title, self._figures], layout={**row, "justify_content": "space-between"}
                ),
                self._transcript,
                ipywidgets.HBox([self._progress, self._region], layout={"min_height": "32px"}),
                self._question,
                ipywidgets.HBox([self._send, self._stop, self._new, self._model, self._think], layout=row),
            ],
            layout={"max_width": "900px"},
        )

    def _ipython_display_(self) -> None:
        if self._panel is not None and self._panel.live:
            self.close()
        if self._panel is not None:  # its widgets are closed
            self._make_controls(self._model.value, self._thinking, self._thinking)
        name = self.conversation.name
        self._panel = Panel(
            self._box(),
            self._twin,
            title=f"Chat “{name}”",
            instead=f"Where widgets do not show, ask in cells: ds.conversation({name!r}).ask(...).",
            fold=FOLD,
            key=f"chat {name}",
        )
        with self._lock:
            self._show_anew()
        self._panel.show()

    def __repr__(self) -> str:
        return f"<ChatPanel on {self.conversation!r}>"

    def close(self) -> None:
        """Stop what is under way and put the transcript in the panel's place."""
        self._on_stop()
        if self._panel is not None:
            self._panel.end()

    def _twin(self) -> Twin:
        with self._lock:
            exchanges = list(self._exchanges)
        return twin_of([one for one in exchanges if one.note], f"Chat “{self.conversation.name}”")

    def _follow(self) -> None:
        """Show the conversation as it is: cells and other panels may have talked in it."""
        turns = self.conversation.turns
        shown = [one.turn for one in self._exchanges if one.turn is not None]
        if len(shown) != len(turns) or any(a is not b for a, b in zip(shown, turns, strict=True)):
            self._show_anew()
        self._show_figures()

    def _show_anew(self) -> None:
        self._exchanges = [Exchange.of(turn) for turn in self.conversation.turns]
        before = self._said.children
        self._transcript.layout.display = "none"
        assign(self._said, children=())
        for old in before:
            old.close()
        for one in self._exchanges[-MOST_SHOWN:]:
            self._append(one)
        self._show_figures()

    def _append(self, exchange: Exchange) -> ipywidgets.HTML:
        """Two widgets at the end: the question is not sent again with each piece of the answer."""
        question = ipywidgets.HTML(question_html(exchange))
        answer = ipywidgets.HTML(answer_html(exchange) if exchange.note else "")
        self._transcript.layout.display = "flex"
        before = self._said.children
        gone = before[: max(0, len(before) + 2 - 2 * MOST_SHOWN)]
        assign(self._said, children=(*before[len(gone) :], question, answer))
        for old in gone:
            old.close()
        return answer

    def _show_figures(self) -> None:
        told = self.conversation
        tokens = sum(turn.answer.usage.total_tokens for turn in told.turns if not turn.answer.cached)
        count = len(told)
        assign(self._title, value=f"<strong>Chat “{html.escape(told.name)}”</strong>")
        exchanges = f"{count} exchange{'' if count == 1 else 's'}"
        took = f"{exchanges}, {tokens:,} tokens, ${told.cost_usd:.4f}" if count else "nothing asked yet"
        assign(self._figures, value=took)

    # -- what the user does: in the main thread, or in a subshell's

    def _on_send(self) -> None:
        with self._lock:
            question = self._question.value
            if self._busy or not question.strip():
                return
            self._busy, self._stopped = True, False
            self._follow()
            exchange = Exchange(question)
            self._exchanges.append(exchange)
            shown = self._append(exchange)
            self._enable(busy=True)
            assign(self._question, value="")
            announce(self._region, "")
        self._question.focus()
        threading.Thread(
            target=self._ask, args=(exchange, shown), name="deepseek_nb-chat", daemon=True
        ).start()

    def _on_stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._work is not None:
                self._work.cancel()

    def _on_new(self) -> None:
        with self._lock:
            if self._busy:
                return
            self.conversation.clear()
            self._show_anew()
            announce(self._region, "A new conversation.")
        self._keep()

    def _enable(self, *, busy: bool) -> None:
        assign(self._send, disabled=busy)
        assign(self._new, disabled=busy)
        assign(self._stop, disabled=not busy)

    # -- what happens then: in a thread of its own

    def _ask(self, exchange: Exchange, shown: ipywidgets.HTML) -> None:
        drafts = _Drafts(exchange, shown, self._progress)
        screen = Screen(drafts.publish, now=time.monotonic)
        drafts.screen = screen
        try:
            client = default_client()
            answer = carry(client, self._begin, self._prompt(exchange), self._call_options(), screen)
        except CancelledError:
            self._end(exchange, shown, screen, "Interrupted. What was written of it may be charged.")
        except Exception as error:  # noqa: BLE001 (whatever it is, it is shown in the panel)
            self._end(exchange, shown, screen, error_text(error), failed=True)
        else:
            self._answered(exchange, shown, answer, client)

    def _prompt(self, exchange: Exchange) -> Any:
        return self.conversation.prompt(exchange.question)

    def _call_options(self) -> dict[str, Any]:
        untouched = self._thinking is None and self._think.value == self._thinks_unasked
        return {
            **self._options,
            "system": self.conversation.system,
            "model": self._model.value,
            "thinking": None if untouched else self._think.value,
        }

    def _begin(self, work: Any, errand: Any) -> Future[Answer]:
        with self._lock:
            self._work = background.start(work, errand)
            if self._stopped:
                self._work.cancel()
            return self._work

    def _answered(self, exchange: Exchange, shown: ipywidgets.HTML, answer: Answer, client: Client) -> None:
        with self._lock:
            self.conversation.add(exchange.question, answer)
            done = Exchange.of(self.conversation.turns[-1])
            if client.aio.not_saved is not None:
                done.note += "; it could not be kept on the disk"
            exchange.text, exchange.reasoning = done.text, done.reasoning
            exchange.note, exchange.turn = done.note, done.turn
        self._settle(exchange, shown, f"Answered in {duration(answer.latency_s)}.")

    def _end(
        self, exchange: Exchange, shown: ipywidgets.HTML, screen: Screen, note: str, *, failed: bool = False
    ) -> None:
        with self._lock:
            exchange.text, exchange.reasoning = screen.text, screen.reasoning
            exchange.note, exchange.trouble = note, failed
            if failed and not self._question.value.strip():
                assign(self._question, value=exchange.question)  # to be sent again
        self._settle(
            exchange, shown, "No answer: the reason is below the question." if failed else "Stopped."
        )

    def _settle(self, exchange: Exchange, shown: ipywidgets.HTML, said: str) -> None:
        with self._lock:
            self._work, self._busy = None, False
            assign(shown, value=answer_html(exchange))
            assign(self._progress, value="")
            self._enable(busy=False)
            self._show_figures()
            announce(self._region, said)
        self._keep()

    def _keep(self) -> None:
        if self._panel is not None:
            self._panel.refresh_twin()


class _Drafts:
    """Shows an answer that is being written, within a bound on what the browser is sent for it."""

    screen: Screen

    def __init__(self, exchange: Exchange, shown: ipywidgets.HTML, progress: ipywidgets.HTML) -> None:
        self._exchange = exchange
        self._shown = shown
        self._progress = progress
        self._sent_bytes = 0

    def publish(self, bundle: Mapping[str, str], _: Mapping[str, Any]) -> None:
        """Take what the screen would show: a draft of the text, or a line on what is going on."""
        if "text/markdown" not in bundle:
            assign(self._progress, value=html_of_plain(bundle["text/plain"]))
            return
        draft = answer_html(self._exchange, html_of_markdown(bundle["text/markdown"]))
        cost_bytes = ENVELOPE_BYTES + len(draft.encode("utf-8", "replace"))
        if self._sent_bytes + cost_bytes > BYTES_FACTOR * len(self.screen.text.encode("utf-8", "replace")):
            return  # HTML may weigh more than the text that the screen counts
        self._sent_bytes += cost_bytes
        assign(self._progress, value="")
        assign(self._shown, value=draft)
