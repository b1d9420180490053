"""Everything that can go wrong, each cause with its own class.

::

    DeepSeekError
    ├── Yours                    something on this side has to change first
    │   ├── ConfigError          a setting is missing, unknown, mistyped or unsafe
    │   │   └── StoreFailed      answers or jobs cannot be kept on this disk    (pauses a job)
    │   ├── TemplateError        a prompt template cannot be read or filled
    │   ├── FrameError           a DataFrame cannot be used as it stands
    │   ├── SchemaError          an answer schema cannot be used
    │   ├── JobMismatch          a job name belongs to other work
    │   ├── JobRunning           a job of this process has not ended yet
    │   │   └── NotReady         its result was waited for as long as asked (a TimeoutError)
    │   ├── AuthError            the key or the token is not accepted             (pauses a job)
    │   ├── BudgetExceeded       the next request could pass the budget           (pauses a job)
    │   ├── BalanceExhausted     the account is empty (402)                       (pauses a job)
    │   └── RequestInvalid       the server will not take this request (400, 413, 415, 422)
    │       ├── ModelUnknown     no model of that name                            (pauses a job)
    │       ├── EndpointUnknown  no such address on this server (404, 405)        (stops)
    │       ├── ContextTooLong   prompt and answer do not fit the context
    │       └── ContentRefused   moderation refused this text
    ├── Theirs                   the same request may work later
    │   ├── Busy                 the server had no room; nothing was charged
    │   │   ├── RateLimited      429: more in flight than the account may have
    │   │   ├── Overloaded       503: no capacity
    │   │   └── Recalled         we hung up ourselves, for an interactive call
    │   ├── ServerFault          500, 502, 504 or an error page
    │   ├── TransportFailed      the connection failed
    │   │   ├── NeverConnected   nothing was sent
    │   │   ├── ConnectionLost   reset or closed after sending; it may have been charged
    │   │   └── WentSilent       no byte, or no progress, for too long
    │   └── StreamBroken         the answer stopped half-way, or a 200 held no answer
    └── AnswerInvalid            an answer came, was charged, and cannot be used
        ├── AnswerEmpty          blank text, only spaces, or only reasoning
        ├── AnswerTruncated      cut at max_tokens
        └── SchemaMismatch       not JSON, or not the asked-for shape

Every class says whose ``fault`` it is, whether the same request is ``retryable``, whether money
was ``charged`` ("no", "yes", "unknown") and what a job does with it (``disposition``, the classes
of the busy server suite). Every error carries a ``hint``: what to do. Errors are raised, never
returned as values; they can be pickled; in a notebook they take at most five lines.
"""

from __future__ import annotations

import copyreg
import re
import textwrap
from enum import Enum
from typing import Any, ClassVar, Literal

__all__ = [
    "AnswerEmpty",
    "AnswerInvalid",
    "AnswerTruncated",
    "AuthError",
    "BalanceExhausted",
    "BudgetExceeded",
    "Busy",
    "ConfigError",
    "ConnectionLost",
    "ContentRefused",
    "ContextTooLong",
    "DeepSeekError",
    "Disposition",
    "EndpointUnknown",
    "FrameError",
    "JobMismatch",
    "JobRunning",
    "ModelUnknown",
    "NeverConnected",
    "NotReady",
    "Overloaded",
    "RateLimited",
    "Recalled",
    "RequestInvalid",
    "SchemaError",
    "SchemaMismatch",
    "ServerFault",
    "StoreFailed",
    "StreamBroken",
    "TemplateError",
    "Theirs",
    "TransportFailed",
    "WentSilent",
    "Yours",
]

LINES_IN_A_NOTEBOOK = 5
WIDTH_IN_A_NOTEBOOK = 88
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What moves a cursor, colours or turns text: a message quotes servers and models."""


class Disposition(Enum):
    """What is done about an error."""

    REFUSED = "refused"  # the server had no room: try again, the try does not count
    RETRY = "retry"  # something broke: try again, a few times
    REPAIR = "repair"  # a charged answer cannot be used: ask again, changed, at most twice
    PAUSE = "pause"  # every row would fail alike: stop sending, keep everything, resume later
    FINAL = "final"  # this row is done for; the others go on
    STOP = "stop"  # the code or the call is wrong: fail before anything is sent


class DeepSeekError(Exception):
    """The root. ``str(error)`` is one sentence on what happened; ``hint`` is what to do.

    Keyword arguments become attributes: ``status`` (HTTP status), ``body`` (at most 500 characters
    of what the server said), ``trace_id`` (the server's own name for the request), ``answer`` (the
    charged answer that cannot be used), ``usage``, ``frame`` (what a job has so far), and so on.
    """

    fault: ClassVar[Literal["yours", "theirs"]] = "yours"
    retryable: ClassVar[bool] = False
    charged: Literal["no", "yes", "unknown"] = "no"
    disposition: ClassVar[Disposition] = Disposition.STOP
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, **details: Any) -> None:
        message = _CONTROLS.sub("", message)
        super().__init__(message)
        self.message = message
        self.hint: str = self.default_hint if hint is None else hint
        for name, value in details.items():
            setattr(self, name, value)

    # what an error may carry; None where it does not apply
    status: int | None = None
    body: str | None = None
    trace_id: str | None = None
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg.__newobj__, (type(self), self.message), self.__dict__.copy()  # type: ignore[attr-defined]

    def _render_traceback_(self) -> list[str]:
        """The lines a notebook shows instead of a traceback."""
        head = f"{type(self).__name__}: {self.message}"
        lines = _wrapped(head, LINES_IN_A_NOTEBOOK - 2)
        return lines + _wrapped(self.hint, LINES_IN_A_NOTEBOOK - len(lines))


def _wrapped(text: str, most: int) -> list[str]:
    """``text`` in at most ``most`` lines; what is left out shows as an ellipsis."""
    return textwrap.wrap(text, WIDTH_IN_A_NOTEBOOK, max_lines=most, placeholder=" …")


class Yours(DeepSeekError):
    """Something on this side has to change before the same call can work."""


class ConfigError(Yours):
    """A setting is missing, unknown, mistyped or unsafe. Nothing was sent."""


class StoreFailed(ConfigError):
    """The files that keep answers and jobs cannot be used: a full disk, no permission, damage.

    ``reason`` is "full", "busy", "readonly", "damaged" or "unusable".
    """

    disposition = Disposition.PAUSE
    reason: str = "unusable"


class TemplateError(Yours):
    """A prompt template cannot be read or filled. Nothing was sent."""

    disposition = Disposition.FINAL


class FrameError(Yours):
    """A DataFrame cannot be used as it stands. Nothing was sent."""


class SchemaError(Yours):
    """An answer schema cannot be used. Nothing was sent."""


class JobMismatch(Yours):
    """The job name belongs to a job with another template, schema or model, or to a damaged one.

    Nothing was sent.
    """

    default_hint = "Give this work another job name, or delete the old job with: deepseek-nb jobs delete NAME"


class JobRunning(Yours):
    """A job of this process has not ended yet. Nothing was sent."""

    default_hint = "Wait for it with job.result() or await job, or end it with job.cancel()."


class NotReady(JobRunning, TimeoutError):
    """A job's result is not there yet; the job goes on."""

    default_hint = "Wait longer, or take what there is: job.frame()"


class AuthError(Yours):
    """The key or the token is not accepted (401, 403)."""

    disposition = Disposition.PAUSE
    default_hint = (
        "In a notebook run %deepseek key, or set DEEPSEEK_API_KEY to a valid key (platform.deepseek.com, API "
        "keys); then run the same call again."
    )


class BudgetExceeded(Yours):
    """The next request could cost more than is left of the budget. It was not sent."""

    disposition = Disposition.PAUSE
    default_hint = "Raise budget_usd and run the same call again: what is done is kept and not paid again."


class BalanceExhausted(Yours):
    """The account is empty (402). Nothing was charged for this request."""

    disposition = Disposition.PAUSE
    default_hint = (
        "Top up the account, then run the same call again: what is done is kept and not paid again."
    )


class RequestInvalid(Yours):
    """The server will not take this request, now or later (400, 413, 415, 422). Not charged."""

    disposition = Disposition.FINAL


class ModelUnknown(RequestInvalid):
    """The server knows no model of that name. Not charged."""

    disposition = Disposition.PAUSE
    default_hint = "See the names the server offers with: deepseek-nb models"


class EndpointUnknown(RequestInvalid):
    """The server has no such address (404, 405). Not charged."""

    disposition = Disposition.STOP
    default_hint = "Check base_url: for DeepSeek it is https://api.deepseek.com"


class ContextTooLong(RequestInvalid):
    """Prompt and asked-for answer do not fit the model's context. Not charged."""

    default_hint = "Shorten the prompt or lower max_tokens: both count."


class ContentRefused(RequestInvalid):
    """Moderation refused this text. Other rows are not affected."""

    default_hint = "False positives happen: rewording the text may help."


class Theirs(DeepSeekError):
    """The same request may work later."""

    fault = "theirs"
    retryable = True
    disposition = Disposition.RETRY


class Busy(Theirs):
    """The server had no room for the request, and charged nothing."""

    disposition = Disposition.REFUSED
    default_hint = "The server is busy; nothing was charged. Run it again later, or allow more patience."


class RateLimited(Busy):
    """429: more requests in flight than the account may have. ``limit``: the number it named, or None."""

    limit: int | None = None


class Overloaded(Busy):
    """503: the server has no capacity."""


class Recalled(Busy):
    """We hung up on a bulk request that waited in the server's queue, so that an interactive call passes.

    It is asked again. Whether the server charges for a request it never began is not documented.
    """

    charged: Literal["no", "yes", "unknown"] = "unknown"


class ServerFault(Theirs):
    """The server failed (500, 502, 504, another 5xx, or an error page)."""

    default_hint = "The server failed; running it again later usually works."


class TransportFailed(Theirs):
    """The connection failed. ``partial``: the text that came before."""

    charged: Literal["no", "yes", "unknown"] = "unknown"
    partial: str = ""


class NeverConnected(TransportFailed):
    """No connection came about: refused, unknown host, TLS. Nothing was sent."""

    charged = "no"
    default_hint = "Check base_url, the network and the proxy settings."


class ConnectionLost(TransportFailed):
    """The connection broke after the request was sent. Whether it was charged is unknown."""


class WentSilent(TransportFailed):
    """No byte, or no progress, for too long; we hung up. Whether it was charged is unknown."""


class StreamBroken(Theirs):
    """The answer stopped half-way, or a 200 held no answer. ``partial``: the text so far."""

    charged = "unknown"
    partial: str = ""


class AnswerInvalid(DeepSeekError):
    """An answer came and was charged, but cannot be used. ``answer``: the answer as it came."""

    fault = "theirs"
    retryable = True
    charged = "yes"
    disposition = Disposition.REPAIR
    answer: Any = None


class AnswerEmpty(AnswerInvalid):
    """The answer is blank, only spaces, or only reasoning."""


class AnswerTruncated(AnswerInvalid):
    """The answer was cut at max_tokens."""

    default_hint = "Raise max_tokens (thinking tokens count inside it)."


class SchemaMismatch(AnswerInvalid):
    """The answer is not JSON, or not the asked-for shape."""
