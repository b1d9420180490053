"""What a connection is told to do, one step after the other: send, wait, hang, cut.

Times are server seconds. An answer is a :class:`Reply`: a status line's worth of facts and a list
of steps. Without any step but :class:`Send` it leaves in a single write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BLANK", "COMMENT", "Beat", "Cut", "Hang", "Reply", "Send", "Step", "Wait"]

BLANK = b"\n"
"""The keep-alive of an answer that is not streamed."""
COMMENT = b": keep-alive\n\n"
"""The keep-alive of a stream."""


@dataclass(frozen=True, slots=True)
class Send:
    """Hand over bytes of the body; ``tokens`` of the answer end in them."""

    data: bytes
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Beat:
    """Keep-alives while waiting: these bytes, this often."""

    data: bytes
    every_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass, with or without keep-alives."""

    wait_s: float
    beat: Beat | None = None


@dataclass(frozen=True, slots=True)
class Hang:
    """Wait until the client leaves."""

    beat: Beat | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """End the connection: by a reset, or by closing it inside the body."""

    reset: bool = True


Step = Send | Wait | Hang | Cut


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. ``length`` is the Content-Length; None sends the body in chunks."""

    steps: Sequence[Step]
    status: int = 200
    content_type: str | None = "application/json"
    length: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    stale: bool = False
    """Reset the connection when its next request comes."""

    @classmethod
    def whole(
        cls,
        body: bytes,
        status: int = 200,
        content_type: str | None = "application/json",
        *,
        tokens: int = 0,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> Reply:
        """A reply of known length that is sent at once."""
        return cls((Send(body, tokens),), status, content_type, len(body), headers)
