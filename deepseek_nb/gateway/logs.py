"""Logs as lines of JSON: who asked what kind of thing and how it ended; no prompt, answer, key or token."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

__all__ = ["JsonLines", "log_event", "log_request", "log_to"]

LOGGER = logging.getLogger("deepseek_nb.gateway")
OURS = ("deepseek_nb.gateway", "uvicorn", "uvicorn.error", "py.warnings")


class JsonLines(logging.Formatter):
    """One line of JSON for each record. Of an exception only kind and place: its words may quote a prompt."""

    def format(self, record: logging.LogRecord) -> str:
        """The record in one line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": when, "level": record.levelname.lower()}
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line |= fields
        elif record.exc_info:
            line["message"] = "an error that nobody expected"
        else:
            line["message"] = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = type(record.exc_info[1]).__name__
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                code = trace.tb_frame.f_code
                name = code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
                line["at"] = f"{name}:{trace.tb_lineno} {code.co_name}"
        return json.dumps(line, separators=(",", ":"), default=str)


def log_request(
    request_id: str,
    tenant: str,
    route: str,
    status: int,
    seconds: float,
    code: str,
    more: Mapping[str, object],
) -> None:
    """The line of one request."""
    fields: dict[str, object] = {
        "event": "request",
        "request_id": request_id,
        "tenant": tenant,
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 1),
    }
    if code:
        fields["error"] = code
    fields.update(more)
    LOGGER.log(logging.ERROR if status >= 500 else logging.INFO, "request", extra={"fields": fields})


def log_event(event: str, *, trouble: bool = False, **fields: object) -> None:
    """A line for something that happened to the gateway itself."""
    level = logging.WARNING if trouble else logging.INFO
    LOGGER.log(level, event, extra={"fields": {"event": event, **fields}})


def _is_news(record: logging.LogRecord) -> bool:
    """Not the trace of a request that was cut because the gateway ends: its own line says so."""
    return not record.exc_info or not isinstance(record.exc_info[1], asyncio.CancelledError)


def log_to(stream: TextIO | None = None) -> None:
    """Send the gateway's log, and its server's, to ``stream`` (None: standard error)."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines())
    handler.addFilter(_is_news)
    logging.captureWarnings(True)
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if name == LOGGER.name else logging.WARNING)
