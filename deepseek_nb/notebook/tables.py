"""Small tables and lines of our own, as Markdown and as plain text in columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deepseek_nb.notebook.sanitize import safe_markdown, safe_plain

__all__ = ["line", "table", "usd"]

Bundle = dict[str, str]


def line(text: str) -> Bundle:
    """One line; what a server wrote in it is harmless.

    >>> line("1 job")
    {'text/markdown': '1 job', 'text/plain': '1 job'}
    """
    text = re.sub(r"\s+", " ", safe_plain(text)).strip()
    return {"text/markdown": _literal(text), "text/plain": text}


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Bundle:
    """A table under a line that tells what it is; the first ``left`` columns are words, the others figures.

    >>> print(table("Bill", ["what", "USD"], [["asked", "0.10"]])["text/plain"])
    Bill
    what   USD
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
    return {
        "text/markdown": "\n".join([told["text/markdown"], "", marked[0], rule, *marked[1:]]),
        "text/plain": "\n".join([told["text/plain"], *plain]),
    }


def usd(amount: float) -> str:
    """An amount in dollars with the digits it takes to see it: at least cents.

    >>> usd(0), usd(0.00001234), usd(1234.5)
    ('$0.00', '$0.000012', '$1,234.50')
    """
    text = f"{amount:,.6f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"${whole}.{cents:0<2}"


def _literal(text: str) -> str:
    """Markdown that shows ``text`` to the letter."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", safe_markdown(text))
