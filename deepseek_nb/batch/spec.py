"""What a job asks: everything that decides what its answers mean, and the errand for one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.errand import Errand
from deepseek_nb.client.structured import Schema
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.chat import Message, canonical_json
from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.form import Structured
from deepseek_nb.core.retry import RetryPolicy

__all__ = ["JobSpec"]

ROW_PRIORITY = 2
ROW_MAX_TOKENS = 1024
PLACEHOLDER = "row"
LONG_CHARS = 500_000
"""Shorter prompts fit any context there is; longer ones are counted."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """Template, schema, model and parameters of a job. Two jobs of one name must agree in all of it."""

    template: str
    schema: Schema | None
    system: str | None = None
    model: str | None = None
    thinking: bool = False
    temperature: float | None = None
    max_tokens: int | None = None
    structured: Structured = "json"

    def meta(self, client: AsyncClient) -> dict[str, Any]:
        """What the journal writes beside the job's name; every value counts for :meth:`digest`."""
        return {
            "template": self.template,
            "schema": self.schema.json_schema if self.schema else None,
            "model": self.model or client.settings.model,
            "route": client.settings.route_name,
            "system": self.system,
            "thinking": self.thinking,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            **({} if self.structured == "json" else {"structured": self.structured}),
        }

    def digest(self, client: AsyncClient) -> str:
        """Names the work: a job of the same name with another digest is other work."""
        return blake2b(canonical_json(self.meta(client)).encode(), digest_size=12).hexdigest()

    def errands(
        self,
        client: AsyncClient,
        *,
        user_id: str,
        priority: int = ROW_PRIORITY,
        ttl_s: float | None = None,
        cache: bool | None = None,
        budget: Budget | None = None,
        fallback: Any = None,
    ) -> Callable[[str, Callable[[CallEvent], None] | None], Errand]:
        """A function that gives the errand for a row's prompt, checked once here for all rows.

        Instruction and schema go first and are the same for every row; the row comes last, in a
        message of its own. Thinking is off unless asked for: it only adds to the bill of row work.
        """
        first = client.prepare(
            PLACEHOLDER,
            schema=self.schema,
            structured=self.structured,
            system=self.system,
            model=self.model,
            thinking=self.thinking,
            temperature=self.temperature,
            max_tokens=self.max_tokens or (None if self.thinking else ROW_MAX_TOKENS),
            priority=priority,
            ttl_s=ttl_s,
            cache=cache,
            budget=budget,
            user_id=user_id,
            fallback=fallback,
            policy=RetryPolicy(
                patience_s=None,
                max_faults=client.settings.max_faults,
                max_repairs=client.settings.max_repairs,
                most_tokens=client.most_tokens(self.model or client.settings.model),
            ),
        )
        head, route = first.request.messages[:-1], client.settings.route_name
        again = client.other_legs(first)

        def errand(prompt: str, on_event: Callable[[CallEvent], None] | None = None) -> Errand:
            messages = (*head, Message("user", prompt))
            request = replace(first.request, messages=messages)
            if len(prompt) > LONG_CHARS:
                client.refuse_what_cannot_fit(request)
            made = replace(first, request=request, key=request.fingerprint(route), on_event=on_event)
            return replace(made, fallbacks=again(request)) if again else made

        return errand
