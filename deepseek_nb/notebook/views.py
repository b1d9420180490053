"""What an answer looks like in a cell: the MIME bundle of a text, and the small facts saved with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from deepseek_nb.core.chat import REPLAYED, Answer
from deepseek_nb.notebook.sanitize import fenced, safe_markdown, safe_plain

__all__ = [
    "METADATA_KEY",
    "VIEWS",
    "code_of",
    "draft",
    "facts",
    "facts_line",
    "final",
    "folded",
    "note",
    "with_line",
]

VIEWS = ("markdown", "text", "json", "code", "table")
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
    if view == "table":  # JSON so far: nothing to read
        return note(f"writing, {len(text):,} characters so far")
    shown = safe_markdown(text) if view == "markdown" else fenced(*code_of(text, view))
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
    return {"text/markdown": fenced(*code_of(text, view)), "text/plain": plain}


def folded(bundle: Bundle, title: str, text: str) -> Bundle:
    """``bundle`` with ``text`` above it, folded away: readers of Markdown can open it.

    A quotation ends whatever is left open in it, so that the text cannot unfold itself.
    """
    if "text/markdown" not in bundle or not text.strip():
        return bundle
    quoted = "\n".join(f"> {line}" for line in safe_markdown(text.strip()).split("\n"))
    fold = f"<details><summary>{title}</summary>\n\n{quoted}\n\n</details>"
    return {**bundle, "text/markdown": f"{fold}\n\n{bundle['text/markdown']}"}


def with_line(bundle: Bundle, line: str) -> Bundle:
    """``bundle`` with one more line below it."""
    more = {"text/markdown": f"*{line}*", "text/plain": line}
    return {kind: f"{shown}\n\n{more[kind]}" for kind, shown in bundle.items()}


def facts_line(answer: Answer) -> str:
    """Who answered and what it took, in one line.

    >>> print(facts_line(Answer("x", model="deepseek-flash", cost_usd=0.0021, latency_s=1.25)))
    deepseek-flash, 0 tokens in (0 from the server's cache), 0 out, USD 0.002100, 1.2 s
    """
    usage = answer.usage
    parts = [
        answer.model,
        f"{usage.prompt_tokens:,} tokens in ({usage.cache_hit_tokens:,} from the server's cache)",
        f"{usage.completion_tokens:,} out",
    ]
    if answer.cached:
        saved = f", saved USD {answer.cost_usd:.6f}" if answer.cost_usd else ""
        parts.append(f"from the store{saved}")
    else:
        parts += ["price unknown" if answer.cost_usd is None else f"USD {answer.cost_usd:.6f}"]
        parts += [f"{answer.latency_s:.1f} s"]
    if answer.finish_reason != "stop":
        parts.append(answer.finish_reason)
    return ", ".join(parts)


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
    if answer.system_fingerprint.startswith(REPLAYED):
        told["replayed"] = answer.system_fingerprint.removeprefix(REPLAYED)
    elif simulated:
        told["simulated"] = True
    return told


def code_of(text: str, view: str) -> tuple[str, str]:
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
