"""What was said in a chat panel, exchange by exchange: as HTML for its widgets, and as its static twin."""

from __future__ import annotations

import functools
import html
from collections.abc import Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt

from deepseek_nb.client.conversation import Turn
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import DeepSeekError
from deepseek_nb.notebook.panel import Twin
from deepseek_nb.notebook.safe_html import html_of_plain, safe_html
from deepseek_nb.notebook.sanitize import safe_markdown, safe_plain

__all__ = ["Exchange", "answer_html", "error_text", "question_html", "twin_of"]

MOST_SHOWN = 40
"""So many exchanges are on the screen, the latest; the conversation has them all."""
FAINT = "color: var(--jp-ui-font-color2, #616161)"
TROUBLE = "color: var(--jp-error-color1, #b3261e)"


@dataclass(slots=True)
class Exchange:
    """A question and what came of it."""

    question: str
    text: str = ""
    reasoning: str = ""
    note: str = ""
    """Of our own, below the text: what it took, or why it ended."""
    trouble: bool = False
    """Whether the note tells of an error."""
    turn: Turn | None = None
    """Its place in the conversation; None where no answer came, or not all of it."""

    @classmethod
    def of(cls, turn: Turn) -> Exchange:
        """A turn of the conversation."""
        answer = turn.answer
        return cls(turn.question, answer.text, answer.reasoning, facts_line(answer), turn=turn)


def facts_line(answer: Answer) -> str:
    """Who answered, and what it took.

    >>> facts_line(Answer("x", model="deepseek-flash", cached=True))
    'deepseek-flash, from the store, nothing charged'
    """
    if answer.cached:
        return f"{answer.model}, from the store, nothing charged"
    cost = "" if answer.cost_usd is None else f", ${answer.cost_usd:.4f}"
    cut = "" if answer.finish_reason == "stop" else f", ended by: {answer.finish_reason}"
    return f"{answer.model}, {answer.latency_s:.1f} s, {answer.usage.total_tokens:,} tokens{cost}{cut}"


def error_text(error: BaseException) -> str:
    """The error in at most five lines, with its hint."""
    if isinstance(error, DeepSeekError):
        return "\n".join(error._render_traceback_())
    said = f"{type(error).__name__}: {safe_plain(str(error))}"
    return "\n".join(said[:400].splitlines()[:5])


def question_html(exchange: Exchange) -> str:
    """What the user wrote."""
    return _lines("<strong>You</strong>", html_of_plain(exchange.question), style="margin-top: 8px")


def answer_html(exchange: Exchange, rendered: str | None = None) -> str:
    """What came: the text, the reasoning folded away, the note. ``rendered``: the text, if at hand."""
    text = safe_html(exchange.text) if rendered is None else rendered
    parts = ["<strong>DeepSeek</strong>", text] if text else []
    if exchange.reasoning:
        parts.append(
            f"<details><summary>Thinking, {len(exchange.reasoning):,} characters</summary>"
            f"{html_of_plain(exchange.reasoning)}</details>"
        )
    if exchange.note:
        style = f"white-space: pre-wrap; {TROUBLE if exchange.trouble else FAINT}"
        parts.append(f'<div style="{style}">{html.escape(safe_plain(exchange.note))}</div>')
    return _lines(*parts)


def _lines(*parts: str, style: str = "margin: 0") -> str:
    """In the line height of text, not in that of controls."""
    return f'<div style="line-height: 1.5; {style}">{"".join(parts)}</div>'


def twin_of(exchanges: Sequence[Exchange], heading: str) -> Twin:
    """The latest exchanges below ``heading``."""
    heading = safe_plain(heading)
    if not exchanges:
        return Twin(safe_markdown(heading), heading).with_note("Nothing was asked yet.")
    markdown, plain = [heading], [heading]
    left_out = len(exchanges) - MOST_SHOWN
    if left_out > 0:
        markdown.append(f"({left_out} earlier exchanges are not shown.)")
        plain.append(markdown[-1])
    for one in exchanges[-MOST_SHOWN:]:
        note = " ".join(safe_plain(one.note).split())
        markdown += [
            "---",
            "**You**",
            _closed(one.question),
            "**DeepSeek**" if one.text else "",
            _closed(one.text),
        ]
        markdown += [f"({note})"] if note else []
        plain += [f"You: {safe_plain(one.question).strip()}"]
        plain += [f"DeepSeek: {safe_plain(one.text).strip()}"] if one.text else []
        plain += [f"({note})"] if note else []
    # All at once: what one text leaves open, such as a formula, another could close.
    whole = "\n\n".join(part.strip("\n") for part in markdown if part.strip())
    return Twin(safe_markdown(whole), "\n\n".join(plain))


@functools.cache
def _blocks() -> MarkdownIt:
    return MarkdownIt("commonmark").disable(["html_block", "inline"])


def _closed(text: str) -> str:
    """``text`` with the code block at its end closed: the next text is not part of it."""
    text = safe_plain(text).rstrip()
    tokens = _blocks().parse(text)
    if not tokens or tokens[-1].type != "fence" or not tokens[-1].map:
        return text
    fence, (first, end) = tokens[-1].markup, tokens[-1].map
    last_line = text.split("\n")[end - 1].strip()
    closed = end - first > 1 and set(last_line) == {fence[0]} and len(last_line) >= len(fence)
    return text if closed else f"{text}\n{fence}"
