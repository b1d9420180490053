"""How an ``Answer`` shows as the value of a cell: its Markdown made safe, and one line of facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek_nb.notebook.views import METADATA_KEY, facts, facts_line, final, with_line

__all__ = ["register_formats"]


def register_formats(shell: Any) -> None:
    """Teach this shell to show answers. Imports nothing: the class is known by its name."""
    shell.display_formatter.mimebundle_formatter.for_type_by_name("deepseek_nb.core.chat", "Answer", _show)


def _show(answer: Any, **_: Any) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    bundle = with_line(final(answer.text, "markdown"), facts_line(answer))
    return bundle, {METADATA_KEY: facts(answer, simulated=answer.route == "sandbox")}
