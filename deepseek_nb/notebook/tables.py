"""Tables and lines in an output, as Markdown and as plain text in columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_nb.notebook.prompt_tables import cell_text
from deepseek_nb.notebook.sanitize import safe_markdown, safe_plain

__all__ = ["line", "rows_bundle", "table", "usd"]

ROWS_SHOWN = 20
CELL_CHARS_SHOWN = 200

Bundle = dict[str, str]


def line(text: str) -> Bundle:
    """One line; what a server wrote in it is harmless.

    >>> line("1 job")
    {'text/markdown': '1 job', 'text/plain': '1 job'}
    """
    text = re.sub(r"\s+", " ", safe_plain(text)).strip()
    return {"text/markdown": _literal(text), "text/plain": text}


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Bundle:
    """A table under a line that tells what it is (none: ""), as Markdown and as plain text.

    The first ``left`` columns are words, the others figures.

    >>> print(table("Bill", ["what", "USD"], [["asked", "0.10"]])["text/plain"])
    Bill
    what    USD
    asked  0.10
    """
    cells = [[line(cell)["text/plain"] for cell in row] for row in (head, *rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(head))]
    plain = [
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    marked = ["| " + " | ".join(_literal(cell) for cell in row) + " |" for row in cells]
    rule = "|" + "|".join(" :--- " if number < left else " ---: " for number in range(len(head))) + "|"
    told = line(caption)
    above = ([told["text/markdown"], ""], [told["text/plain"]]) if caption else ([], [])
    return {
        "text/markdown": "\n".join([*above[0], marked[0], rule, *marked[1:]]),
        "text/plain": "\n".join([*above[1], *plain]),
    }


def rows_bundle(rows: Sequence[Mapping[str, Any]], name: str | None = None) -> Bundle:
    """Rows of an answer as a table; of a long one the first, and how many there are.

    ``name`` is the variable that holds them all.
    """
    names = list(dict.fromkeys(key for row in rows for key in row))
    if not names:
        return {"text/plain": "no rows"}
    cells = [[_short(row.get(name)) for name in names] for row in rows[:ROWS_SHOWN]]
    shown = table("", [_short(name) for name in names], cells, left=len(names))
    if len(rows) > ROWS_SHOWN:
        more = line(f"{ROWS_SHOWN} of {len(rows):,} rows shown" + (f"; all are in {name}" if name else ""))
        shown = {kind: f"{text}\n\n{more[kind]}" for kind, text in shown.items()}
    return shown


def _short(value: Any) -> str:
    text = cell_text(value)
    return text if len(text) <= CELL_CHARS_SHOWN else text[: CELL_CHARS_SHOWN - 1] + "…"


def usd(amount: float) -> str:
    """An amount in dollars with the digits it takes to see it: at least cents.

    In words, since two dollar signs in Markdown begin and end a formula, escaped or not.

    >>> usd(0), usd(0.00001234), usd(1234.5)
    ('USD 0.00', 'USD 0.000012', 'USD 1,234.50')
    """
    text = f"{amount:,.6f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"USD {whole}.{cents:0<2}"


def _literal(text: str) -> str:
    """Markdown that shows ``text`` to the letter."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", safe_markdown(text))
