"""What the arguments of a call have to be: checked before anything is sent.

A number of numpy or of ``decimal`` comes back as a plain one, which JSON can say. Plain values are given
back as they are, to the type: ``0`` and ``0.0`` name different questions in the answer store.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from deepseek_nb.core.errors import ConfigError, RequestInvalid

__all__ = ["amount_usd", "number", "scalar", "switch", "text", "texts", "whole"]


def amount_usd(name: str, value: Any) -> float | None:
    """What may be spent, in US dollars, or None. Raises :class:`ConfigError`.

    >>> amount_usd("budget_usd", 2)
    2
    """
    plain = _real(value)
    if value is not None and not (plain is not None and plain > 0):
        raise ConfigError(
            f"{name} is an amount above 0, not {value!r}.", hint="Give US dollars, such as 0.50."
        )
    return plain


def number(name: str, value: Any) -> float | None:
    """A number, or None. Raises :class:`RequestInvalid`, as all below.

    >>> number("temperature", 0.2)
    0.2
    """
    plain = _real(value)
    if value is not None and (plain is None or not isfinite(plain)):
        raise _refused(name, "a number", value)
    return plain


def whole(name: str, value: Any) -> int | None:
    """A whole number, or None.

    >>> whole("max_tokens", 1e3)
    1000
    """
    plain = scalar(value)
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)
    if isinstance(plain, bool) or not (plain is None or isinstance(plain, int)):
        raise _refused(name, "a whole number", value)
    return plain


def text(name: str, value: Any) -> str | None:
    """A text, or None."""
    if not (value is None or isinstance(value, str)):
        raise _refused(name, "a text", value)
    return value


def texts(name: str, value: Any) -> tuple[str, ...]:
    """A text, several, or none at all.

    >>> texts("stop", "END")
    ('END',)
    """
    several = (value,) if isinstance(value, str) else () if value is None else value
    if not isinstance(several, Sequence) or not all(isinstance(one, str) for one in several):
        raise _refused(name, "a text or a list of texts", value)
    return tuple(several)


def switch(name: str, value: Any) -> bool | None:
    """True, False or None."""
    plain = scalar(value)
    if not (plain is None or isinstance(plain, bool)):
        raise _refused(name, "True or False", value)
    return plain


def _real(value: Any) -> float | None:
    """The plain number that this is; None where it is none."""
    plain = scalar(value)
    if isinstance(plain, bool) or not hasattr(plain, "__float__"):
        return None
    return plain if isinstance(plain, int | float) else float(plain)


def scalar(value: Any) -> Any:
    """The number in a scalar of numpy; everything else as it is, for checks of its own."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def _refused(name: str, what: str, value: Any) -> RequestInvalid:
    return RequestInvalid(f"{name} is {what}, not {value!r}.", hint="Nothing was sent.")
