"""Run the code of one page of the documentation, as a reader would who types it in: ``run_page.py PAGE``.

Every fenced block in ``python`` or ``ipython3`` is a cell of one IPython session. A ``text`` block right
after one is what that cell has to show, with ``...`` for what may differ. A block whose fence stands
right below a comment ``<!-- not run: WHY -->`` is left out. Exits with 1 at the first difference.
"""

from __future__ import annotations

import doctest
import re
import sys
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^>]+) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
RUN = ("python", "ipython3")
ECHO = re.compile(r"^Out\[\d+\]: ?\n?", re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Cell:
    """A block to run, and what it has to show; None where the page does not say."""

    line: int
    source: str
    shows: str | None = None


def cells(text: str) -> list[Cell]:
    """The cells of a page."""
    found: list[Cell] = []
    after = -1  # where the last cell to be run ended
    for block in BLOCK.finditer(text):
        line, body = text.count("\n", 0, block.start("body")), block["body"]
        if block["language"] in RUN and block["why"] is None:
            found.append(Cell(line, body))
            after = block.end()
        elif block["language"] == "text" and found and text[after : block.start()].strip() == "":
            found[-1] = Cell(found[-1].line, found[-1].source, body)
    return found


def run(page: Path) -> int:
    """Run a page; gives the exit status."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell.instance()
    checker = doctest.OutputChecker()
    for cell in cells(page.read_text(encoding="utf-8")):
        with capture_output(stderr=False, display=False) as shown:
            done = shell.run_cell(cell.source, store_history=True)
        said = ECHO.sub("", shown.stdout)
        where = f"{page.name}:{cell.line + 1}"
        if not done.success:
            print(
                f"{where} failed: {done.error_before_exec or done.error_in_exec!r}\n{said}", file=sys.stderr
            )
            return 1
        if cell.shows is not None and not checker.check_output(cell.shows.strip(), said.strip(), FLAGS):
            print(f"{where} is to show\n{cell.shows}\nand shows\n{said}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
