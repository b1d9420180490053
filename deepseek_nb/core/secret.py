"""A string that never shows itself: keys and shared secrets travel in it."""

from __future__ import annotations

__all__ = ["Secret"]


class Secret:
    """A secret string, masked wherever it could be seen.

    ``repr``, ``str``, ``format``, ``pickle`` and ``copy`` give the mask or refuse; only
    :meth:`reveal` gives the value, and only the last layer before the wire calls it.

    >>> Secret("sk-very-secret-1234")
    Secret('****1234')
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | Secret) -> None:
        self._value: str = value.reveal() if isinstance(value, Secret) else value

    def reveal(self) -> str:
        """The value itself. Call it where the bytes leave the process, nowhere else."""
        return self._value

    @property
    def mask(self) -> str:
        """Four stars, and the last four characters where the secret is long enough to spare them."""
        return "****" + (self._value[-4:] if len(self._value) >= 12 else "")

    def scrub(self, text: str) -> str:
        """``text`` with every appearance of this secret replaced by its mask."""
        return text.replace(self._value, self.mask) if self._value else text

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(("Secret", self._value))

    def __repr__(self) -> str:
        return f"Secret({self.mask!r})"

    def __str__(self) -> str:
        return self.mask

    def __format__(self, spec: str) -> str:
        return format(self.mask, spec)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret is not pickled: give the key again where it is needed")
