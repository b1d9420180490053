"""What an answer looks like in a cell: the MIME bundle of a text, and the small facts saved with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from deepseek_nb.core.chat import Answer
from deepseek_nb.notebook.sanitize import fenced, safe_markdown, safe_plain

__all__ = ["METADATA_KEY", "VIEWS", "draft", "facts", "final", "note"]

VIEWS = ("markdown", "text", "json", "code")
METADATA_KEY = "deepseek_nb"

Bundle = Mapping[str, str]

_FENCED_BLOCK = re.compile(r"^(`{3,})([^`\n]*)\n(.*?)^\1`*[ \t]*$", re.DOTALL | re.MULTILINE)


def note(text: str) -> Bundle:
    """One line about what is going on."""
    return {"text/plain": safe_plain(text)}


def draft(text: str, view: str) -> Bundle:
    """A text that is still being written: it is sent again and again, so it goes in one form only."""
    if view == "text":
        return {"text/plain": safe_plain(text)}
    shown = safe_markdown(text) if view == "markdown" else fenced(*_code_of(text, view))
    return {"text/markdown": shown, "text/plain": f"writing, {len(text):,} characters so far"}


def final(text: str, view: str) -> Bundle:
    """A finished text: for readers of Markdown, and plain for terminals, diffs and screen readers.

    >>> final('{"a": 1}', "json")["text/plain"]
    '{"a": 1}'
    """
    plain = safe_plain(text)
    if view == "text":
        return {"text/plain": plain}
    if view == "markdown":
        return {"text/markdown": safe_markdown(text), "text/plain": plain}
    if view == "json":
        text = _indented(text)
    return {"text/markdown": fenced(*_code_of(text, view)), "text/plain": plain}


def facts(answer: Answer, *, simulated: bool) -> dict[str, Any]:
    """What is saved with the output: who answered, and what it took."""
    told: dict[str, Any] = {
        "model": answer.model,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "cache_hit_tokens": answer.usage.cache_hit_tokens,
        "cost_usd": None if answer.cost_usd is None else round(answer.cost_usd, 9),
        "finish_reason": answer.finish_reason,
        "cached": answer.cached,
    }
    if simulated:
        told["simulated"] = True
    return told


def _code_of(text: str, view: str) -> tuple[str, str]:
    """The code in an answer and its language: its code blocks, or all of it where there are none."""
    blocks = list(_FENCED_BLOCK.finditer(text))
    if not blocks:
        return text, "json" if view == "json" else ""
    language = (blocks[0][2].split() or [""])[0]
    return "\n".join(block[3] for block in blocks), language


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
