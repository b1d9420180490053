"""Warns when the source of a cell that runs has a key in it, and masks the key in what that cell prints.

The source is saved with the notebook, so the key is to go; what was printed would stay behind, and
``%env DEEPSEEK_API_KEY=...`` prints what it sets.
"""

from __future__ import annotations

import sys
from typing import Any

from deepseek_nb.core.secret import Secret
from deepseek_nb.notebook.scrub import keys_in, keys_in_use

__all__ = ["KeyGuard"]

EXACT_CHARS = 12
"""A key in use that is shorter ("none", "ollama") may stand in a cell by chance."""
MASKS_SHOWN = 3


class KeyGuard:
    """Listens to a shell: :meth:`before` is for ``pre_run_cell``, :meth:`after` for ``post_run_cell``."""

    def __init__(self) -> None:
        self._runs: list[list[tuple[str, Any, _Masking]]] = []
        """For each cell that runs (``%%capture`` runs one inside another), the streams to put back."""

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
            stream = getattr(sys, name)
            masking = _Masking(stream, keys)
            setattr(sys, name, masking)
            self._runs[-1].append((name, stream, masking))

    def after(self, _result: Any) -> None:
        """The cell has run: the streams are as they were, unless the cell has changed them itself."""
        for name, stream, masking in self._runs.pop() if self._runs else ():
            if getattr(sys, name) is masking:
                setattr(sys, name, stream)


class _Masking:
    """An output stream with these keys masked; everything else is the stream's own."""

    def __init__(self, stream: Any, keys: list[Secret]) -> None:
        self._stream = stream
        self._keys = keys

    def write(self, text: str) -> Any:
        for key in self._keys:
            text = key.scrub(text)
        return self._stream.write(text)

    def writelines(self, lines: Any) -> None:
        for text in lines:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _keys_of(source: str) -> list[Secret]:
    used = [key for key in keys_in_use() if len(key.reveal()) >= EXACT_CHARS and key.reveal() in source]
    return list(dict.fromkeys([*used, *keys_in(source)]))
