"""Warns when the source of a cell that runs has a key in it, and masks the key in what that cell puts out.

The source is saved with the notebook, so the key is to go; outputs would stay behind. ``%env
DEEPSEEK_API_KEY=...`` prints what it sets, and a traceback quotes the lines around an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from IPython import get_ipython

from deepseek_nb.core.secret import Secret
from deepseek_nb.notebook.scrub import keys_in, keys_in_use

__all__ = ["KeyGuard"]

EXACT_CHARS = 12
"""A key in use that is shorter ("none", "ollama") may stand in a cell by chance."""
MASKS_SHOWN = 3


class KeyGuard:
    """Listens to a shell: :meth:`before` is for ``pre_run_cell``, :meth:`after` for ``post_run_cell``."""

    def __init__(self) -> None:
        self._runs: list[list[tuple[Any, str, Any, Any]]] = []
        """For each cell that runs (``%%capture`` runs one inside another), what to put back."""

    def before(self, info: Any) -> None:
        """Look at the source; three lines on standard error if there is a key in it."""
        keys = _keys_of(info.raw_cell or "")
        told = any(self._runs)
        self._runs.append([])
        if not keys or told:
            return
        masks = ", ".join(key.mask for key in keys[:MASKS_SHOWN]) + (", ..." if keys[MASKS_SHOWN:] else "")
        sys.stderr.write(
            f"deepseek_nb: this cell has an API key in it ({masks}), and a cell is saved with its notebook.\n"
            "Take it out, here and from any output that shows it, and run %deepseek key instead.\n"
            "If others may have seen the notebook or its history, make a new key and revoke this one.\n"
        )
        sys.stderr.flush()
        for name in ("stdout", "stderr"):
            self._replace(sys, name, _Masking(getattr(sys, name), keys))
        shell = get_ipython()
        for formatter in () if shell is None else (shell.InteractiveTB, shell.SyntaxTB):
            masking = _masking(formatter.structured_traceback, keys)
            self._replace(formatter, "structured_traceback", masking)

    def after(self, _result: Any) -> None:
        """The cell has run: all is as it was, but for what the cell has changed itself."""
        for owner, name, before, ours in self._runs.pop() if self._runs else ():
            if getattr(owner, name) is ours:
                setattr(owner, name, before)

    def _replace(self, owner: Any, name: str, ours: Any) -> None:
        self._runs[-1].append((owner, name, getattr(owner, name), ours))
        setattr(owner, name, ours)


def _masking(format_lines: Callable[..., list[str]], keys: list[Secret]) -> Callable[..., list[str]]:
    """The same, with these keys masked in the lines."""

    def masked(*arguments: Any, **more: Any) -> list[str]:
        return [_masked(line, keys) for line in format_lines(*arguments, **more)]

    return masked


class _Masking:
    """An output stream with these keys masked; everything else is the stream's own."""

    def __init__(self, stream: Any, keys: list[Secret]) -> None:
        self._stream = stream
        self._keys = keys

    def write(self, text: str) -> Any:
        return self._stream.write(_masked(text, self._keys))

    def writelines(self, lines: Any) -> None:
        for text in lines:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _masked(text: str, keys: list[Secret]) -> str:
    for key in keys:
        text = key.scrub(text)
    return text


def _keys_of(source: str) -> list[Secret]:
    used = [key for key in keys_in_use() if len(key.reveal()) >= EXACT_CHARS and key.reveal() in source]
    return list(dict.fromkeys([*used, *keys_in(source)]))
