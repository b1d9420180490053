"""Errors as the gateway says them: a status, and OpenAI's envelope, which is DeepSeek's too.

Nothing of the gateway's own account is told to a tenant: not its key, its balance, its budget, nor
what an upstream said about them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from deepseek_nb.core import errors
from deepseek_nb.core.errors import DeepSeekError
from deepseek_nb.core.events import cause

__all__ = ["ApiError", "bad_request", "from_error"]

INVALID = "invalid_request_error"


class ApiError(Exception):
    """A request that is not done: the ``status`` of the answer, and what its body says."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code or kind
        self.param = param
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            # whole seconds are what every client reads; openai's reads the milliseconds first
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
            self.headers["retry-after-ms"] = str(max(1, math.ceil(retry_after_s * 1000)))

    @property
    def told(self) -> dict[str, Any]:
        """What stands under ``error``."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}

    def body(self) -> bytes:
        """The envelope."""
        text = json.dumps({"error": self.told}, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400; ``param`` is the field that is wrong."""
    return ApiError(400, message, param=param, code=code)


def from_error(error: DeepSeekError, *, own_cap: str = "") -> ApiError:
    """What a tenant is told of a call that failed. ``own_cap`` is the name of the tenant's own budget."""
    if isinstance(error, errors.BudgetExceeded):
        return _over_budget(error, own_cap)
    if isinstance(error, errors.BalanceExhausted | errors.AuthError | errors.ConfigError):
        return ApiError(
            502,
            "The gateway cannot ask its upstream; whoever runs it has to see to that.",
            kind="server_error",
            code="upstream_not_available",
        )
    if isinstance(error, errors.RequestInvalid):
        return _invalid(error)
    if isinstance(error, errors.Busy):
        return ApiError(
            503,
            f"The model's server is busy{_tried(error)}; nothing was charged.",
            kind="service_unavailable_error",
            retry_after_s=error.retry_after_s,
        )
    if error.fault == "theirs":  # in words of our own: the server's may name addresses and the account
        silent = isinstance(error, errors.WentSilent)
        return ApiError(
            504 if silent else 502,
            f"The model's server did not answer ({cause(error)}){_tried(error)}.",
            kind="server_error",
            code="upstream_timeout" if silent else "upstream_failed",
        )
    return ApiError(400, str(error))


def _tried(error: DeepSeekError) -> str:
    times = getattr(error, "tries", 0) + getattr(error, "refusals", 0)
    return f", asked {times} times" if times > 1 else ""


def _invalid(error: errors.RequestInvalid) -> ApiError:
    code, param, message = None, None, str(error)
    if isinstance(error, errors.ContextTooLong):
        code, param = "context_length_exceeded", "messages"
    elif isinstance(error, errors.ModelUnknown):
        # the first words are those by which clients of DeepSeek know it
        code, param, message = "model_not_found", "model", "Model Not Exist: no upstream knows it."
    elif isinstance(error, errors.ContentRefused):
        code, message = "content_filter", f"Content Exists Risk. {error.message}"
    elif isinstance(error, errors.EndpointUnknown):
        return ApiError(502, "The upstream has no such address.", kind="server_error", code="upstream_failed")
    return ApiError(400, message, code=code, param=param)


def _over_budget(error: errors.BudgetExceeded, own_cap: str) -> ApiError:
    if own_cap and getattr(error, "cap", None) == own_cap:
        anew = getattr(error, "starts_anew", None)
        until = f" It starts anew at {anew}." if anew else ""
        message = f"{error.message}{until} A lower max_tokens reserves less."
        return ApiError(402, message, kind="insufficient_quota", code="insufficient_quota")
    return ApiError(
        402,
        "The gateway's own budget is used up; whoever runs it has to raise it.",
        kind="insufficient_quota",
        code="gateway_budget",
    )
