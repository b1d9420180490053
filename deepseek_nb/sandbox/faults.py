"""Every fault the sandbox can play, by name, and what it does on the wire.

``FAULTS`` is the table: what each fault does on the wire, the rows of the busy server suite it
serves (1 to 28), its parameters with their defaults, what is charged for it, and whether the
answer it leaves can still be used. ``print(fault_table())`` shows it. All times are server seconds.
``whole=True`` sends one JSON body although a stream was asked for; a page is filled up to ``size_bytes``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["FAULTS", "Fault", "FaultSpec", "fault_table"]

Charged = Literal["no", "sent", "full"]


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One row of the table of faults."""

    name: str
    rows: tuple[str, ...]
    """Rows of the busy server suite; empty for extras."""
    does: str
    charged: Charged
    """"no"; "full"; or "sent": the prompt and the tokens handed over before it broke."""
    usable: bool
    """Whether a client may use the answer: if so, asking again would pay twice."""
    params: Mapping[str, Any]

    @property
    def whole(self) -> bool:
        """Whether a whole answer reaches the client, good or bad."""
        return self.charged == "full" and self.name not in ("no_done", "done_unclosed")


FAULTS: dict[str, FaultSpec] = {}


def _fault(
    name: str, rows: str, does: str, *, charged: Charged = "no", usable: bool = False, **params: Any
) -> None:
    FAULTS[name] = FaultSpec(name, tuple(rows.split()), does, charged, usable, params)


# ----------------------------------------------------------------- no room, no money, no entry
_fault("busy_503", "1", '503 "Service is too busy" at once', retry_after_s=None)
_fault("rate_429", "2", "429 that names a concurrency limit", limit=5, current=None, retry_after_s=None)
_fault(
    "limit_falls",
    "2",
    "429 while more than N run; N is the next of `limits` after each `every` requests that got in",
    limits=(20, 10, 5),
    every=20,
    current=None,
)
_fault("balance_402", "22", '402 "Insufficient Balance" in the middle of a job')
_fault("governor_401", "23", "401 in plain text without a content type")
_fault(
    "reasoning_required_400",
    "20",
    "400: reasoning_content must be passed back",
    unless_echoed=False,
    older=False,
)
_fault("content_risk", "21", '400 "Content Exists Risk"')
_fault("unknown_model", "26", "400: the model was renamed")
_fault("html_500", "10", "500 with an openresty error page", size_bytes=0)
_fault("html_502", "10", "502 with a gateway's error page", size_bytes=0)
_fault("html_504", "10", "504 with a gateway's error page", size_bytes=0)
_fault("html_200", "10", "200 (or another status) with the page of a bot wall", status=200, size_bytes=0)
_fault("reworded_request_id", "27", "a 503 whose message ends with a request id")
_fault("reworded_422", "27", "a deserialization error as plain text under 422, as in 2024")
_fault("reworded_models", "27 26", "the unknown-model error with another list of names")
_fault("reworded_status", "27", "a status nobody announced: 529 here, or any other", status=529)
# ------------------------------------------------------------------------ accepted, not answered
_fault("empty_200", "3", "200 with no body at all")
_fault("blank_200", "3", "200, blank lines, the end", wait_s=60.0)
_fault(
    "keepalive_then_json",
    "4a",
    "blank lines (comments in a stream), then a good answer",
    charged="full",
    usable=True,
    lines=3,
    every_s=None,
    whole=False,
)
_fault(
    "keepalive_then_close",
    "4b",
    "a blank line (or comment) every so often, then closed, no answer",
    every_s=60.0,
    close_s=300.0,
    whole=False,
)
_fault(
    "comments",
    "5",
    "comments before and between all events (blank lines before a JSON answer)",
    charged="full",
    usable=True,
)
_fault(
    "hang",
    "6",
    "accepts the request, never sends a byte; with reset_s it is reset after that; without a slot it only "
    "counts as in flight",
    reset_s=None,
    slot=True,
)
_fault(
    "stall",
    "6",
    "stops for ever after some tokens (half the body, if not streamed), socket open",
    charged="sent",
    after_tokens=1,
)
_fault(
    "stall_with_comments",
    "6b",
    "as stall, but keep-alives go on for ever",
    charged="sent",
    after_tokens=1,
    every_s=None,
)
_fault(
    "slow_after",
    "24",
    "good answers at first; then silence, then closed, while more than `calm` run",
    fine=8,
    wait_s=60.0,
    calm=1,
)
_fault(
    "bimodal_hang",
    "25",
    "no byte for very long, then a good answer",
    charged="full",
    usable=True,
    wait_s=600.0,
)
# ------------------------------------------------------------------------------ broken half-way
_fault(
    "cut_rst",
    "7",
    "the connection is reset after some tokens (half the body)",
    charged="sent",
    after_tokens=2,
)
_fault(
    "cut_incomplete", "7", "the connection is closed inside a chunked body", charged="sent", after_tokens=2
)
_fault(
    "cut_eof",
    "8",
    "a clean end of the body after some tokens: no finish, no [DONE]",
    charged="sent",
    after_tokens=2,
)
_fault(
    "proxy_text",
    "8",
    "after some tokens a proxy's plain text, then a clean end",
    charged="sent",
    after_tokens=2,
    text="upstream error: read ECONNRESET",
)
_fault("no_done", "8", "all events but the last [DONE]", charged="full")
_fault("done_unclosed", "8", "[DONE] without the blank line that closes it", charged="full")
_fault("reset_before_headers", "9", "the connection is reset before a byte of the answer")
_fault(
    "stale_connection",
    "9",
    "a good answer; the next request on the same connection is reset",
    charged="full",
    usable=True,
)
_fault(
    "dribble",
    "19",
    "a good answer in very small pieces, cut anywhere, also inside characters",
    charged="full",
    usable=True,
    piece_bytes=7,
)
# --------------------------------------------------------------------- answers of no or little use
_fault("reasoning_only", "11", "stop, blank content, everything in reasoning_content", charged="full")
_fault("blank_json", "12", "stop, empty content", charged="full")
_fault("spaces_json", "12", "stop, only spaces where the JSON was not recognized", charged="full")
_fault("length_cut", "13", "finish_reason length: half an answer", charged="full", share=0.5)
_fault("reasoning_length", "13", "finish_reason length: reasoning ate all of max_tokens", charged="full")
_fault(
    "whitespace_runaway",
    "14",
    "blanks up to max_tokens, or this many, then length",
    charged="full",
    tokens=4096,
)
_fault("insufficient_resource", "15", "half an answer, finish_reason insufficient_system_resource", share=0.5)
_fault("aborted", "15", "half an answer, finish_reason aborted", share=0.5)
_fault("content_filter", "", "half an answer, finish_reason content_filter", charged="full", share=0.5)
_fault("dsml", "19", "tool-call markup (DSML) inside the content", charged="full", variant=0)
_fault("bad_json_answer", "12", "an answer that is not JSON: its last bracket is missing", charged="full")
_fault("fenced_json", "12", "the answer inside a Markdown code fence, with a sentence before", charged="full")
_fault("wrong_shape_json", "12", "good JSON of another shape than asked for", charged="full")
# --------------------------------------------------------------------------------- odd bytes
_fault("no_choices", "16", '200 with "choices":[]')
_fault("null_choices", "16", '200 with "choices":null')
_fault("usage_missing", "17", "a good answer without usage", charged="full", usable=True)
_fault("usage_extra_chunk", "17", "usage on an extra event with no choices", charged="full", usable=True)
_fault("usage_null", "17", '"usage":null', charged="full", usable=True)
_fault("role_null", "17", 'the last delta says "role":null', charged="full", usable=True)
_fault("error_in_200", "18", "an error object as the body of a 200", message="Internal error, please retry.")
_fault(
    "error_in_stream",
    "18",
    "an error object as an event after some tokens",
    charged="sent",
    after_tokens=1,
    message="Internal error, please retry.",
)
_fault(
    "error_beside_answer",
    "18",
    "half an answer that says stop, with an error object beside it",
    charged="sent",
    message="Internal error, please retry.",
)
_fault(
    "content_type_swapped",
    "28",
    "events served as application/json, JSON as octet-stream",
    charged="full",
    usable=True,
    whole=False,
)


class Fault:
    """One fault to play: a name of ``FAULTS`` and its parameters. Equal ones compare equal.

    Raises ValueError, with the near names, for a name or a parameter that does not exist.

    >>> Fault("rate_429", limit=5)
    Fault('rate_429', limit=5)
    """

    __slots__ = ("_params", "name")
    name: str
    _params: dict[str, Any]

    def __init__(self, name: str, **params: Any) -> None:
        spec = FAULTS.get(name)
        if spec is None:
            raise ValueError(f"There is no fault {name!r}.{_near(name, FAULTS)}")
        for given in params:
            if given not in spec.params:
                raise ValueError(f"The fault {name!r} has no parameter {given!r}.{_near(given, spec.params)}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "_params", params)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"A Fault does not change: make another one to set {name!r}.")

    def __getitem__(self, param: str) -> Any:
        """The value of a parameter, given or default."""
        return self._params[param] if param in self._params else self.spec.params[param]

    @property
    def spec(self) -> FaultSpec:
        """Its row in the table of faults."""
        return FAULTS[self.name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fault) and (self.name, self._params) == (other.name, other._params)

    def __hash__(self) -> int:
        return hash((self.name, repr(sorted(self._params.items()))))

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self._params.items())
        return f"Fault({self.name!r}{given})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_fault, (self.name, dict(self._params))


def _make_fault(name: str, params: dict[str, Any]) -> Fault:
    return Fault(name, **params)


def _near(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f" Did you mean {' or '.join(map(repr, near))}?"
    return f" Known: {', '.join(known)}." if known else " It has none."


def fault_table() -> str:
    """The table of faults as Markdown."""
    lines = ["| fault | rows | on the wire | charged | usable | parameters |", "|---|---|---|---|---|---|"]
    for spec in FAULTS.values():
        params = ", ".join(f"{name}={value!r}" for name, value in spec.params.items())
        usable = "yes" if spec.usable else "no"
        lines.append(
            f"| {spec.name} | {' '.join(spec.rows)} | {spec.does} | {spec.charged} | {usable} | {params} |"
        )
    return "\n".join(lines)
