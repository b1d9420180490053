"""A changed copy of a frozen value: what ``dataclasses.replace`` does, several times as fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, make_dataclass
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

__all__ = ["changed"]

T = TypeVar("T")


def changed(value: T, /, **changes: Any) -> T:
    """``value``, a dataclass with two slots or more, with these fields changed. Its own checks run again.

    A row takes several such copies on its way; raises KeyError for a field there is not.

    >>> from deepseek_nb.core.chat import Usage
    >>> changed(Usage(3, 4), completion_tokens=5)
    Usage(prompt_tokens=3, completion_tokens=5, cache_hit_tokens=0, reasoning_tokens=0, estimated=False)
    """
    kind: Any = type(value)
    places, parts, made_of, check = _layout(kind)
    held = list(parts(value))
    for name, part in changes.items():
        held[places[name]] = part
    made: Any = made_of(*held)
    made.__class__ = kind
    if check is not None:
        check(made)
    return made  # type: ignore[no-any-return]


@cache
def _layout(
    kind: type[Any],
) -> tuple[
    dict[str, int], Callable[[Any], tuple[Any, ...]], Callable[..., Any], Callable[[Any], None] | None
]:
    """How such values are taken apart and put together.

    A frozen value sets each field by a call, which is most of what a copy costs. So a copy is made as a
    value of the same slots that is not frozen, and then declared to be of its kind.
    """
    names = [field.name for field in fields(kind)]
    thawed = make_dataclass(f"_Thawed{kind.__name__}", names, slots=True)
    places = {name: place for place, name in enumerate(names)}
    return places, attrgetter(*names), thawed, getattr(kind, "__post_init__", None)
