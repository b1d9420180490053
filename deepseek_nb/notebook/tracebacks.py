"""A traceback as text for a model: the cells' lines and the ends of long ways, without anybody's folders."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

__all__ = ["shortened", "traceback_text"]

FRAMES = 12
"""Of each error; of more the first third and the last two thirds are told."""
ERRORS = 3
"""Of a chain: the last ones."""
MESSAGE_CHARS = 2000
_MACHINERY = re.compile(r"IPython[/\\]core[/\\]|ipykernel[/\\]")
_LIBRARY = re.compile(r".*[/\\](?:site-packages|dist-packages)[/\\]")
_CELL = re.compile(r"<ipython-input-.*>|<string>|.*[/\\]ipykernel_\d+[/\\]\d+\.py")
_STANDARD = sysconfig.get_path("stdlib")


def traceback_text(error: BaseException) -> str:
    """The errors of a chain, the oldest first, each with its calls, shortened. No variables, no folders."""
    parts = [_one(each) for each in _chain(error)]
    return "\n\nWhile that was handled, or because of it:\n\n".join(parts)


def shortened(text: str, most: int) -> str:
    """``text`` in about ``most`` characters: what is left out is its middle, and says so.

    >>> shortened("a" * 9 + "b" * 9, 10)
    'aaaaa … (8 characters left out) … bbbbb'
    """
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … ({len(text) - 2 * half:,} characters left out) … {text[-half:]}"


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in chain and len(chain) < ERRORS:
        chain.append(each)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return chain[::-1]


def _one(error: BaseException) -> str:
    told = traceback.TracebackException.from_exception(error, lookup_lines=False)
    frames = [frame for frame in told.stack if not _MACHINERY.search(frame.filename)]
    lines = [_frame(frame) for frame in frames]
    if len(lines) > FRAMES:
        first, last = FRAMES // 3, FRAMES - FRAMES // 3
        lines[first:-last] = [f"… ({len(lines) - FRAMES} calls left out)"]
    if isinstance(error, SyntaxError):
        last_line = f"SyntaxError: {error.msg} (line {error.lineno}: {(error.text or '').strip()})"
    else:
        last_line = f"{type(error).__name__}: {error}"
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    return "\n".join([*lines, shortened("\n".join([last_line, *notes]), MESSAGE_CHARS)])


def _frame(frame: traceback.FrameSummary) -> str:
    where = f"{_place(frame.filename)} line {frame.lineno}, in {frame.name}"
    return f"{where}\n    {frame.line}" if frame.line else where


def _place(file: str) -> str:
    """Where code stands, without the folders of this machine."""
    if _CELL.fullmatch(file):
        return "cell"
    if _LIBRARY.match(file):
        return _LIBRARY.sub("", file).replace("\\", "/")
    if _STANDARD and file.startswith(_STANDARD):
        return file.removeprefix(_STANDARD).lstrip("/\\").replace("\\", "/")
    return Path(file).name
