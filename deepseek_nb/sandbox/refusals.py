"""Errors as the server words them: the refusals of a busy, strict or empty-handed service."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

from deepseek_nb.sandbox.answers import error_body
from deepseek_nb.sandbox.faults import Fault
from deepseek_nb.sandbox.questions import ParsedRequest
from deepseek_nb.sandbox.steps import Reply

__all__ = ["REFUSALS", "ApiError", "balance_empty", "busy", "error_reply", "rate_limited", "refuse"]

OCTETS = "application/octet-stream"
BUSY_TEXT = (
    "Service is too busy. We advise users to temporarily switch to alternative LLM API service providers."
)
_REASONING_TEXT = "The `reasoning_content` in the thinking mode must be passed back to the API."
_OLDER_REASONING_TEXT = (
    "Missing `reasoning_content` field in the assistant message at message index 1. For more information, "
    "please refer to the documentation of the thinking mode."
)
_SERDE_TEXT = (
    "Failed to deserialize the JSON body into the target type: messages[0]: "
    "missing field `content` at line 1 column 64"
)
_PAGE = (
    "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
    "<hr><center>{server}</center>\r\n</body>\r\n</html>\r\n"
)
_WALL = (
    "<!DOCTYPE html>\n<html><head><title>Just a moment...</title></head>"
    "<body>Checking your browser before you go on.</body></html>\n"
)


class ApiError(Exception):
    """A request that is refused; ``reply`` says so."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def refuse(message: str) -> ApiError:
    """A 400 with this message, for a request that is well-formed and not taken."""
    return ApiError(Reply.whole(error_body(message), 400, OCTETS))


def error_reply(
    status: int, message: str, kind: str = "invalid_request_error", code: str = "invalid_request_error"
) -> Reply:
    """An error in the usual envelope."""
    return Reply.whole(error_body(message, kind, code), status)


def busy(retry_after_s: float | None = None, message: str = BUSY_TEXT) -> Reply:
    """503: no capacity."""
    kind = "service_unavailable_error"
    return Reply.whole(error_body(message, kind, kind), 503, headers=_retry_after(retry_after_s))


def rate_limited(current: int, limit: int, retry_after_s: float | None = None) -> Reply:
    """429: more at once than the balance allows, in the server's own words."""
    message = (
        f"Too many requests. Your current concurrency is {current}, which exceeds your concurrency limit of "
        f"{limit} based on your remaining balance. Please top up your balance to restore your concurrency."
    )
    return Reply.whole(error_body(message, "rate_limit_error"), 429, headers=_retry_after(retry_after_s))


def balance_empty() -> Reply:
    """402: the account is empty."""
    return error_reply(402, "Insufficient Balance", "unknown_error")


def governor() -> Reply:
    """401 for a request without a key: plain text, no content type."""
    return Reply.whole(b"Authentication Fails (governor)", 401, None)


def _retry_after(retry_after_s: float | None) -> tuple[tuple[str, str], ...]:
    return () if retry_after_s is None else (("retry-after", f"{retry_after_s:g}"),)


def _page(fault: Fault, status: int, title: str, server: str = "openresty") -> Reply:
    return Reply.whole(_filled(_PAGE.format(title=title, server=server), fault), status, "text/html")


def _filled(page: str, fault: Fault) -> bytes:
    """The page, made longer by comments as the pages of gateways are."""
    body = page.encode()
    comment = b"<!-- a padding to disable the browser's own error page -->\r\n"
    missing: int = max(0, fault["size_bytes"] - len(body))
    return (body + comment * (missing // len(comment) + 1))[: len(body) + missing]


def _wall(fault: Fault, _: ParsedRequest) -> Reply:
    return Reply.whole(_filled(_WALL, fault), fault["status"], "text/html; charset=utf-8")


def _rate_429(fault: Fault, _: ParsedRequest) -> Reply:
    current = fault["limit"] + 1 if fault["current"] is None else fault["current"]
    return rate_limited(current, fault["limit"], fault["retry_after_s"])


def _limit_falls(fault: Fault, _: ParsedRequest) -> Reply:
    limit = fault["limits"][0]
    return rate_limited(limit + 1 if fault["current"] is None else fault["current"], limit)


def _reasoning_required(fault: Fault, _: ParsedRequest) -> Reply:
    return error_reply(400, _OLDER_REASONING_TEXT if fault["older"] else _REASONING_TEXT)


def _unknown(names: str) -> Callable[[Fault, ParsedRequest], Reply]:
    def reply(_: Fault, request: ParsedRequest) -> Reply:
        message = f"The supported API model names are {names}, but you passed {request.model}."
        return Reply.whole(error_body(message), 400, OCTETS)

    return reply


def _reworded_status(fault: Fault, _: ParsedRequest) -> Reply:
    return error_reply(fault["status"], "Something new has happened.", "new_error", "new_error")


REFUSALS: dict[str, Callable[[Fault, ParsedRequest], Reply]] = {
    "busy_503": lambda fault, _: busy(fault["retry_after_s"]),
    "rate_429": _rate_429,
    "limit_falls": _limit_falls,
    "balance_402": lambda *_: balance_empty(),
    "governor_401": lambda *_: governor(),
    "reasoning_required_400": _reasoning_required,
    "content_risk": lambda *_: error_reply(400, "Content Exists Risk"),
    "unknown_model": _unknown("deepseek-nova, deepseek-v5-pro"),
    "html_500": lambda fault, _: _page(fault, 500, "500 Internal Server Error"),
    "html_502": lambda fault, _: _page(fault, 502, "502 Bad Gateway", "nginx"),
    "html_504": lambda fault, _: _page(fault, 504, "504 Gateway Time-out", "nginx"),
    "html_200": _wall,
    "reworded_request_id": lambda *_: busy(message=f"{BUSY_TEXT} (request_id: {uuid4()})"),
    "reworded_422": lambda *_: Reply.whole(_SERDE_TEXT.encode(), 422, "text/plain; charset=utf-8"),
    "reworded_models": _unknown("deepseek-nova or deepseek-v5-pro"),
    "reworded_status": _reworded_status,
}
"""The faults that refuse a request instead of answering it."""
