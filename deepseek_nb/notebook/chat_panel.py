"""``ds.chat()``: a panel to ask one question after the other, on a named conversation.

The request runs in the background loop and a thread of the panel shows what comes, so the kernel is
free meanwhile. Nothing is raised in that thread: what ends a request is shown in the panel.
"""

from __future__ import annotations

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
from deepseek_nb.notebook.carry import carry
from deepseek_nb.notebook.chat_view import ChatView, Drafts
from deepseek_nb.notebook.display import Screen
from deepseek_nb.notebook.panel import Panel, Twin, announce, assign
from deepseek_nb.notebook.transcript import Exchange, answer_html, error_text, twin_of
from deepseek_nb.session import conversation, default_client

__all__ = ["ChatPanel", "chat"]

PRIORITY = 5
"""Somebody waits for it: it goes first."""
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
        self._panel: Panel | None = None
        self._make(model or client.settings.model, client.settings.thinking if thinking is None else thinking)

    # -- what it looks like

    def _make(self, model: str, thinking: bool | None) -> None:
        self._view = ChatView(
            self.conversation.name,
            model=model,
            thinking=thinking,
            send=self._on_send,
            stop=self._on_stop,
            new=self._on_new,
        )

    def _ipython_display_(self) -> None:
        self.close()
        if self._panel is not None:  # its widgets are closed
            self._make(self._view.model, self._view.thinking)
        name = self.conversation.name
        self._panel = Panel(
            self._view.box,
            self._twin,
            title=f"Chat “{name}”",
            instead=f"Where widgets do not show, ask in cells: ds.conversation({name!r}).ask(...).",
            fold=FOLD,
            key=f"chat {name}",
            ended=self._on_stop,
        )
        with self._lock:
            self._show_anew()
        self._panel.show()

    def __repr__(self) -> str:
        return f"<ChatPanel on {self.conversation!r}>"

    def close(self) -> None:
        """Stop what is under way and put the transcript in the panel's place."""
        if self._panel is not None:
            self._panel.end()

    def _twin(self) -> Twin:
        with self._lock:
            ended = [one for one in self._exchanges if one.note]
        return twin_of(ended, f"Chat “{self.conversation.name}”")

    def _follow(self) -> None:
        """Show the conversation as it is: cells and other panels may have talked in it."""
        turns = self.conversation.turns
        shown = [one.turn for one in self._exchanges if one.turn is not None]
        if len(shown) != len(turns) or any(a is not b for a, b in zip(shown, turns, strict=True)):
            self._show_anew()

    def _show_anew(self) -> None:
        self._exchanges = [Exchange.of(turn) for turn in self.conversation.turns]
        self._view.show(self._exchanges)
        self._show_figures()

    def _show_figures(self) -> None:
        told, count = self.conversation, len(self.conversation)
        tokens = sum(turn.answer.usage.total_tokens for turn in told.turns if not turn.answer.cached)
        took = f"{count} exchange{'' if count == 1 else 's'}, {tokens:,} tokens, ${told.cost_usd:.4f}"
        self._view.show_figures(took if count else "nothing asked yet")

    # -- what the user does: in the main thread, or in a subshell's

    def _on_send(self) -> None:
        with self._lock:
            question = self._view.question.value
            if self._busy or not question.strip():
                return
            self._busy, self._stopped = True, False
            self._follow()
            exchange = Exchange(question)
            self._exchanges.append(exchange)
            shown = self._view.append(exchange)
            self._view.enable(busy=True)
            assign(self._view.question, value="")
            announce(self._view.region, "")
        self._view.question.focus()
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
            announce(self._view.region, "A new conversation.")
        self._keep()

    # -- what happens then: in a thread of its own

    def _ask(self, exchange: Exchange, shown: ipywidgets.HTML) -> None:
        drafts = Drafts(exchange, shown, self._view.progress)
        screen = Screen(drafts.publish, now=time.monotonic)
        drafts.screen = screen
        try:
            client = default_client()
            prompt: Any = self.conversation.prompt(exchange.question)
            answer = carry(client, self._begin, prompt, self._call_options(), screen)
        except CancelledError:
            self._end(exchange, shown, screen, "Interrupted. What was written of it may be charged.")
        except Exception as error:  # noqa: BLE001 (whatever it is, it is shown in the panel)
            self._end(exchange, shown, screen, error_text(error), failed=True)
        else:
            self._answered(exchange, shown, answer, client)

    def _call_options(self) -> dict[str, Any]:
        return {
            **self._options,
            "system": self.conversation.system,
            "model": self._view.model,
            "thinking": self._view.thinking,
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
            if failed and not self._view.question.value.strip():
                assign(self._view.question, value=exchange.question)  # to be sent again
        self._settle(
            exchange, shown, "No answer: the reason is below the question." if failed else "Stopped."
        )

    def _settle(self, exchange: Exchange, shown: ipywidgets.HTML, said: str) -> None:
        with self._lock:
            self._work, self._busy = None, False
            assign(shown, value=answer_html(exchange))
            assign(self._view.progress, value="")
            self._view.enable(busy=False)
            self._show_figures()
            announce(self._view.region, said)
        self._keep()

    def _keep(self) -> None:
        if self._panel is not None:
            self._panel.refresh_twin()
