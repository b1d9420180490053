"""How an ``Answer`` shows as the value of a cell: its Markdown made safe, and one line of facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek_nb.core.chat import Answer, fenced
from deepseek_nb.notebook.views import METADATA_KEY, facts, facts_line, final, with_line

__all__ = ["show_answer"]


def show_answer(answer: Answer) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """The MIME bundle and its metadata. IPython asks for it: ``deepseek_nb/__init__.py`` tells it to."""
    called = fenced("\n".join(map(str, answer.tool_calls))) if answer.tool_calls else ""
    text = "\n\n".join(part for part in (answer.text, called) if part)
    bundle = with_line(final(text, "markdown"), facts_line(answer))
    return bundle, {METADATA_KEY: facts(answer, simulated=answer.route == "sandbox")}
