"""Lets ``%deepseek why is the sky blue?`` ask, where IPython would look for help on ``blue``.

To IPython a line that ends with a question mark asks for help, magic lines included, and a
question commonly does end with one. ``%deepseek?`` alone still shows the help.
"""

from __future__ import annotations

import re

__all__ = ["let_questions_ask"]

_ASKING = re.compile(
    r"(?P<start>\s*(?:[^\W\d][\w.]*\s*=\s*)?)%deepseek[ \t]+(?P<question>(?!\?+\s*$)\S.*\?)\s*"
)
_LONG_QUOTES = re.compile(r'"""|' + r"'''")


def let_questions_ask(lines: list[str]) -> list[str]:
    r"""An IPython input transformer: such lines become the call IPython makes of other magic lines.

    The bodies of cell magics and texts in triple quotes are left alone.

    >>> let_questions_ask(["x = %deepseek why?\n"])
    ["x = get_ipython().run_line_magic('deepseek', 'why?')\n"]
    """
    if not any("%deepseek" in line for line in lines):
        return lines
    if next(line for line in lines if line.strip()).startswith("%%"):
        return lines
    asked, quotes = [], 0
    for line in lines:
        found = _ASKING.fullmatch(line)
        if found and quotes % 2 == 0:
            asked.append(f"{found['start']}get_ipython().run_line_magic('deepseek', {found['question']!r})\n")
        else:
            asked.append(line)
            quotes += len(_LONG_QUOTES.findall(line))
    return asked
