"""A changed copy of a frozen value: what ``dataclasses.replace`` does, several times as fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

__all__ = ["changed"]

T = TypeVar("T")


def changed(value: T, /, **changes: Any) -> T:
    """``value``, a dataclass with two fields or more, with these fields changed. Its own checks run again.

    A row takes several such copies on its way; raises KeyError for a field there is not.

    >>> from deepseek_nb.core.chat import Usage
    >>> changed(Usage(3, 4), completion_tokens=5)
    Usage(prompt_tokens=3, completion_tokens=5, cache_hit_tokens=0, reasoning_tokens=0, estimated=False)
    """
    kind: Any = type(value)
    places, parts = _layout(kind)
    held = list(parts(value))
    for name, part in changes.items():
        held[places[name]] = part
    made: T = kind(*held)
    return made


@cache
def _layout(kind: type[Any]) -> tuple[dict[str, int], Callable[[Any], tuple[Any, ...]]]:
    names = [field.name for field in fields(kind)]
    return {name: place for place, name in enumerate(names)}, attrgetter(*names)
