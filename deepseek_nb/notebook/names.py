"""The user's variables: what ``{{names}}`` and ``--schema NAME`` are looked up in."""

from __future__ import annotations

import difflib
import inspect
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

from deepseek_nb.core.errors import ConfigError

__all__ = ["UserNames", "names_around_magic"]

_LIST = re.compile(r"list\[(\w+)\]")

_RUN_MAGIC = ("run_cell_magic", "run_line_magic")
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>")
"""Frames of their own before Python 3.12."""
_NOT_FILLING = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)


class UserNames(Mapping[str, Any]):
    """The local names over the notebook's own.

    Iterating gives only what the user made and a prompt can hold, for "did you mean": not the
    shell's own names, modules and functions. Looking up finds all.
    """

    def __init__(self, shell: Any, local_names: Mapping[str, Any] | None) -> None:
        self._spaces = [shell.user_ns] if local_names is None else [local_names, shell.user_ns]
        self._hidden = shell.user_ns_hidden

    def __getitem__(self, name: str) -> Any:
        for space in self._spaces:
            if name in space:
                return space[name]
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(name in space for space in self._spaces)

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys(name for space in self._spaces for name in list(space))
        for name in names:
            hidden = name in self._hidden or not name.isidentifier()  # a comprehension's iterator is ".0"
            if not hidden and not isinstance(self[name], _NOT_FILLING):
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def schema(self, name: str) -> Any:
        """The object of that name, or for ``list[NAME]`` a list of them.

        Raises ConfigError, with the near names, if there is none.
        """
        if listed := _LIST.fullmatch(name):
            return list[self.schema(listed[1])]  # type: ignore[misc]
        if name in self:
            return self[name]
        names = {other for space in self._spaces for other in space if not other.startswith("_")}
        near = difflib.get_close_matches(name, names - set(self._hidden), n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "Run the cell that defines it first."
        raise ConfigError(f"--schema: there is no {name!r} in this notebook.", hint=hint)


def names_around_magic() -> Mapping[str, Any] | None:
    """The local names where the magic that runs was called from; None where nobody called one.

    IPython tells a cell magic the notebook's own even where a function called ``run_cell_magic``. In a
    comprehension they are its own and those around it.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name not in _RUN_MAGIC:
        frame = frame.f_back
    if frame is None or frame.f_back is None:
        return None
    frame = frame.f_back
    names: Mapping[str, Any] = frame.f_locals
    while frame.f_code.co_name in _COMPREHENSIONS and frame.f_back is not None:
        frame = frame.f_back
        names = {**frame.f_locals, **names}
    return names
