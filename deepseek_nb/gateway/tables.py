"""Reads the tables of a TOML file: each value is checked, and what nobody asked for is refused by name."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, overload

from deepseek_nb.adapters.settings import parse_duration_s
from deepseek_nb.core.errors import ConfigError

__all__ = ["Table"]

T = TypeVar("T")


class _NoDefault:
    pass


NO_DEFAULT: Final = _NoDefault()


class Table:
    """One table of the file, called ``where`` in messages. Every verb raises ConfigError.

    >>> table = Table({"port": 8400}, "gateway.toml")
    >>> table.whole("port", 0, 0, 65535); table.end()
    8400
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._values = dict(values)
        self._known: list[str] = []

    def place(self, key: str) -> str:
        """Where that key stands, for messages."""
        return f"{key} in {self.where}"

    def has(self, *keys: str) -> str | None:
        """The first of these keys that stands in it."""
        return next((key for key in keys if key in self._values), None)

    def wrong(self, key: str, wanted: str) -> ConfigError:
        """The error for a value that is not taken; the value itself may be a secret and is not shown."""
        return ConfigError(f"{self.place(key)} is not taken.", hint=f"It has to be {wanted}.")

    def end(self) -> None:
        """Refuse what nobody asked for."""
        for key in self._values:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1)
                known = ", ".join(sorted(self._known))
                raise ConfigError(
                    f"There is no {key!r} in {self.where}.",
                    hint=f"Did you mean {near[0]}?" if near else f"There are: {known}.",
                )

    def _take(self, key: str, default: Any) -> Any:
        self._known.append(key)
        if key in self._values:
            return self._values[key]
        if default is NO_DEFAULT:
            raise ConfigError(f"{self.place(key)} is missing.")
        return default

    # -- tables inside it

    def table(self, key: str, *, required: bool = True) -> Table:
        """The table of that name; an empty one where it is missing and not required."""
        value = self._take(key, NO_DEFAULT if required else {})
        if not isinstance(value, dict):
            raise self.wrong(key, f"a table: begin it with [{key}]")
        return Table(value, f"[{key}]")

    def tables(self, key: str) -> list[Table]:
        """The tables ``[[key]]``, one at least."""
        value = self._take(key, [])
        if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
            raise ConfigError(f"{self.where} has no {key}.", hint=f"Begin one with [[{key}]]")
        return [Table(each, f"[[{key}]] number {number}") for number, each in enumerate(value, 1)]

    def named(self, key: str) -> Iterator[tuple[str, Table]]:
        """The tables ``[key.name]``, one at least."""
        value = self._take(key, {})
        if not isinstance(value, dict) or not value or not all(isinstance(v, dict) for v in value.values()):
            raise ConfigError(f"{self.where} has no {key}.", hint=f"Begin one with [{key}.NAME]")
        for name, each in value.items():
            yield name, Table(each, f"[{key}.{name}]")

    # -- values

    @overload
    def text(self, key: str) -> str: ...
    @overload
    def text(self, key: str, default: str) -> str: ...
    @overload
    def text(self, key: str, default: str | None) -> str | None: ...
    def text(self, key: str, default: Any = NO_DEFAULT) -> str | None:
        """A text that is not empty."""
        value = self._take(key, default)
        if value is default:
            return default  # type: ignore[no-any-return]
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, "a text")
        return value

    def matching(self, key: str, pattern: re.Pattern[str], wanted: str) -> str:
        """A text of that form."""
        value = self.text(key)
        if not pattern.fullmatch(value):
            raise self.wrong(key, wanted)
        return value

    def choice(self, key: str, choices: Sequence[str], default: str | None) -> str | None:
        """One of these words."""
        value = self._take(key, default)
        if value is not default and value not in choices:
            raise self.wrong(key, f"one of {', '.join(choices)}")
        return value  # type: ignore[no-any-return]

    def texts(self, key: str, default: Any = NO_DEFAULT, choices: Sequence[str] | None = None) -> list[str]:
        """A list of texts; a single one may stand without brackets."""
        value = self._take(key, default)
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(v, str) and v.strip() for v in listed):
            raise self.wrong(key, "a text, or a list of texts")
        if len(set(listed)) < len(listed):
            raise self.wrong(key, "a list in which nothing stands twice")
        if choices is not None and (strange := [v for v in listed if v not in choices]):
            near = difflib.get_close_matches(strange[0], choices, n=1)
            raise ConfigError(
                f"{self.place(key)} has {strange[0]!r}.",
                hint=f"Did you mean {near[0]}?" if near else f"There are: {', '.join(choices)}.",
            )
        return listed

    def switch(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number in these bounds."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(key, f"a whole number from {low} to {high}")
        return value

    @overload
    def number(self, key: str, default: float, low: float, high: float) -> float: ...
    @overload
    def number(self, key: str, default: None, low: float, high: float) -> float | None: ...
    def number(self, key: str, default: float | None, low: float, high: float) -> float | None:
        """A number in these bounds."""
        value = self._take(key, default)
        if value is None and default is None:
            return None
        if not _is_number(value) or not low <= value <= high:
            raise self.wrong(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def numbers(self, key: str, count: int) -> tuple[float, ...] | None:
        """So many numbers, zero or more each; None where the key is missing."""
        value = self._take(key, None)
        if value is None:
            return None
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(_is_number(v) and v >= 0 for v in value)
        ):
            raise self.wrong(key, f"a list of {count} numbers, zero or more each")
        return tuple(float(v) for v in value)

    @overload
    def seconds(self, key: str, default: float, low: float, high: float) -> float: ...
    @overload
    def seconds(self, key: str, default: None, low: float, high: float) -> float | None: ...
    def seconds(self, key: str, default: float | None, low: float, high: float) -> float | None:
        """A duration in these bounds: a number of seconds, or text such as "30min"."""
        value = self._take(key, default)
        if value is None and default is None:
            return None
        try:
            seconds = parse_duration_s(value)
        except ConfigError:
            raise self.wrong(key, 'a duration, such as "90s", "30min" or "7d"') from None
        if not low <= seconds <= high:
            raise self.wrong(key, f"a duration from {low:g} to {high:g} seconds")
        return seconds

    def durations(self, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """So many durations as the default has, none less than the one before; in seconds."""
        value = self._take(key, None)
        if value is None:
            return default
        wanted = f"a list of {len(default)} durations that do not fall, such as 5s"
        if not isinstance(value, list) or len(value) != len(default):
            raise self.wrong(key, wanted)
        try:
            seconds = tuple(parse_duration_s(one) for one in value)
        except ConfigError:
            raise self.wrong(key, wanted) from None
        if sorted(seconds) != list(seconds) or not all(0 <= one < math.inf for one in seconds):
            raise self.wrong(key, wanted)
        return seconds


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
