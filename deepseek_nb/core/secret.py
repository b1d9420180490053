"""A string that never shows itself: keys and shared secrets travel in it, and are masked in what comes back.

Two rules of this room. A secret shows its mask, whatever it is printed with. And a server that
repeats a secret in what it sends (an error page that quotes the request, a debugging gateway) does
not make it show either: :meth:`Secret.scrub` and :class:`Scrubber` know it as it is, and as base64,
URL, JSON, HTML and hexadecimal notation write it.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote

__all__ = ["Scrubber", "Secret"]

SCRUBBED_CHARS = 8
"""A shorter key ("none", "ollama") is none, and masking it would garble what has the word in it."""
SCRUBBED_IN_ANSWERS_CHARS = 16
"""In an answer, which is paid for, only what can hardly stand there by chance is masked."""


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
        """``text`` with every appearance of this secret, in any notation, replaced by its mask.

        >>> Secret("sk-very-secret-1234").scrub("no such key: c2stdmVyeS1zZWNyZXQtMTIzNA==")
        'no such key: ****1234A=='
        """
        if len(self._value) < SCRUBBED_CHARS:
            return text
        for form in _notations(self._value):
            if form in text:
                text = text.replace(form, self.mask)
        return text

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(("Secret", self._value))

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name != "_value"]  # for what lists an object's members

    def __repr__(self) -> str:
        return f"Secret({self.mask!r})"

    def __str__(self) -> str:
        return self.mask

    def __format__(self, spec: str) -> str:
        return format(self.mask, spec)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret is not pickled: give the key again where it is needed")


class Scrubber:
    """Masks secrets in a body of bytes that comes in pieces, wherever the pieces are cut.

    What may be the beginning of a secret at the end of a piece is held back until the next one
    tells. ``answer``: the body is an answer, in which only long secrets are looked for. Costs about
    a microsecond for a piece that ends as no part of a secret does.

    >>> scrubber = Scrubber([Secret("sk-very-secret-1234")])
    >>> scrubber.feed(b"no such key: sk-very"), scrubber.feed(b"-secret-1234."), scrubber.rest()
    (b'no such key: ', b'****1234.', b'')
    """

    def __init__(self, secrets: Iterable[Secret], *, answer: bool = False) -> None:
        least = SCRUBBED_IN_ANSWERS_CHARS if answer else SCRUBBED_CHARS
        found = [_masks(secret.reveal()) for secret in secrets if len(secret.reveal()) >= least]
        self._masks = [mask for masks, _ in found for mask in masks]
        self._letters = [letters for _, letters in found]
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """The next piece, masked; a little of its end may come with the one after it."""
        if self._held:
            data, self._held = self._held + data, b""
        for form, mask in self._masks:
            if form in data:
                data = data.replace(form, mask)
        if not any(data[-1:] in letters for letters in self._letters):  # most end with a line or a bracket
            return data
        held = max((_overlap(data, form) for form, _ in self._masks), default=0)
        if held:
            data, self._held = data[:-held], data[-held:]
        return data

    def rest(self) -> bytes:
        """What is held back at the end of the body; masked, where it is a good part of a secret."""
        held, self._held = self._held, b""
        return b"****" if len(held) >= SCRUBBED_CHARS else held

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._masks)} notations)"


@lru_cache(maxsize=64)
def _masks(value: str) -> tuple[tuple[tuple[bytes, bytes], ...], bytes]:
    """Each notation of ``value`` as bytes and what is written in its place; and the bytes that are in any."""
    mask = Secret(value).mask.encode("utf-8", "surrogatepass")
    forms = [form.encode("utf-8", "surrogatepass") for form in _notations(value)]
    return tuple((form, mask) for form in forms), bytes(set(b"".join(forms)))


def _overlap(data: bytes, form: bytes) -> int:
    """How many bytes at the end of ``data`` are a beginning of ``form``."""
    tail = data[-(len(form) - 1) :]
    at = tail.find(form[:1])
    while at >= 0:
        if form.startswith(tail[at:]):
            return len(tail) - at
        at = tail.find(form[:1], at + 1)
    return 0


@lru_cache(maxsize=64)
def _notations(value: str) -> tuple[str, ...]:
    """How ``value`` may be written, the longest first."""
    data = value.encode("utf-8", "surrogatepass")
    in_json, in_url = json.dumps(value)[1:-1], quote(data, safe="")
    forms = {value, value.lower(), in_url, in_url.lower(), html.escape(value), data.hex(), data.hex().upper()}
    forms |= {in_json, in_json.replace("/", "\\/")}
    for digits in ("04x", "04X"):
        codes = [f"\\u{format(ord(letter), digits)}" for letter in value]
        plain = [
            letter if letter not in "+/=&'<>" else code for letter, code in zip(value, codes, strict=True)
        ]
        forms |= {"".join(codes), "".join(plain)}
    for before in range(3):
        # without the characters at both ends that depend on what stands beside the secret
        coded = base64.b64encode(bytes(before) + data).decode()
        inner = coded[(0, 2, 3)[before] : len(coded) - (0, 3, 2)[(before + len(data)) % 3]]
        forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return tuple(sorted((form for form in forms if len(form) >= SCRUBBED_CHARS), key=len, reverse=True))
