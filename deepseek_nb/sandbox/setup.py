"""Everything that can be set about a sandbox, in one frozen value."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from deepseek_nb.sandbox.answers import SAMPLE_FINGERPRINT
from deepseek_nb.sandbox.prefix_cache import CacheRule
from deepseek_nb.sandbox.questions import Engine
from deepseek_nb.sandbox.script import FaultRule
from deepseek_nb.sandbox.tokens import CountRule
from deepseek_nb.sandbox.weather import Weather

__all__ = ["Setup"]

UsageChunk = Literal["finish", "extra", "none", "null"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The settings of one sandbox. All times are server seconds (see ``time_scale``)."""

    port: int = 0
    """0 takes a free one."""
    api_key: str | None = "sk-sandbox-0000000000000000"
    """The only key it takes; None takes any."""
    faults: FaultRule | None = None
    """A :class:`FaultScript`, or any callable from an ``Ask`` to a ``Fault`` or None."""
    seed: int = 0
    balance_usd: str | None = "100.00"
    """US dollars as a decimal string, charged by the dated price table; None has no end."""
    concurrency: int | None = None
    """Requests at once before a 429; None follows the balance (``limit_for_balance``)."""
    slots: int | None = None
    """Requests that are worked on at once; None is all."""
    queue: int = 0
    """Requests that may wait for a slot; the next one gets a 503."""
    weather: str | Sequence[Weather] | None = None
    """How slots, queue and concurrency change over time: a name (see ``weather``; drawn from ``seed``) or the
    steps. It begins with the first request for an answer."""
    first_token_s: float = 0.0
    """From the slot to the first token."""
    token_s: float = 0.0
    """From one token to the next."""
    tokens_per_event: int = 1
    """How many tokens a stream sends at once; the last event of an answer takes as long as a full one."""
    spread: float = 0.0
    """Sigma of the lognormal factor on both times (median 1), drawn from the seed, prompt and try."""
    time_scale: float = 1.0
    """Server seconds in a real second: at 1000 a wait of 300 s takes 0.3 s."""
    now: Callable[[], datetime] | None = None
    """Tells the date (aware) for prices and ``created``; None is the real one."""
    keep_alive_s: float = 15.0
    """How often a waiting request gets a blank line or a comment."""
    close_after_s: float = 600.0
    """A request that waited this long for a slot is closed."""
    engine: Engine | None = None
    """Answers a ``ParsedRequest`` with a ``Completion``; None is the rule engine."""
    log_path: str | Path | None = None
    """A file for one line of JSON per ended request."""
    models_shape: Literal["new", "july"] = "new"
    """The current catalogue, or the one (and the wordings) of July 2026."""
    usage_chunk: UsageChunk = "finish"
    """Where a stream carries ``usage``: on its last delta, on an extra event, nowhere, or as null."""
    status_422: bool = False
    """Deserialization errors come as plain text under 422, as in 2024."""
    request_id_suffix: bool = False
    """Error messages end with `` (request_id: <uuid>)``."""
    cache_rule: CacheRule = "units"
    """How the prefix cache keeps prompts (see ``prefix_cache``)."""
    cache_settle_s: float = 0.0
    """How long after its request a prefix can be hit; the real one takes seconds."""
    cache_expiry_s: float = 24 * 3600.0
    count: CountRule = "auto"
    """How tokens are counted: "vocabulary", "estimate" (cheap, for load), "auto" (what is installed)."""
    fingerprint: str = SAMPLE_FINGERPRINT
    """``system_fingerprint`` of all answers."""

    @classmethod
    def of(cls, options: dict[str, Any]) -> Setup:
        """Make a setup, and tell the near name of an option that does not exist (ValueError)."""
        known = {field.name for field in fields(cls)}
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=2)
                guess = (
                    f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(sorted(known))}."
                )
                raise ValueError(f"The sandbox has no option {name!r}. {guess}")
        setup = cls(**options)
        if setup.weather is not None and not options.keys().isdisjoint(("slots", "queue", "concurrency")):
            raise ValueError("A weather says what slots, queue and concurrency are: leave them out.")
        for name in ("slots", "queue", "concurrency", "first_token_s", "token_s"):
            value = getattr(setup, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} is {value!r}: give 0 or more.")
        if setup.usage_chunk not in ("finish", "extra", "none", "null"):
            raise ValueError(
                f"usage_chunk={setup.usage_chunk!r} is unknown: say 'finish', 'extra', 'none' or 'null'."
            )
        return setup
