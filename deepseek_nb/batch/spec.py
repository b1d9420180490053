"""What a job asks: everything that decides what its answers mean, and the errand for one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any, Literal

from deepseek_nb.batch.form import INLINE, Form, compact_json
from deepseek_nb.batch.packs import PACK_RULE, pack_message, pack_schema
from deepseek_nb.batch.typical import longest_tokens
from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.errand import Errand
from deepseek_nb.client.structured import Schema
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.call import Leg
from deepseek_nb.core.chat import Answer, ChatRequest, Message, Usage, canonical_json
from deepseek_nb.core.copies import changed
from deepseek_nb.core.errors import AnswerTruncated
from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.form import Structured
from deepseek_nb.core.layout.estimate import scale_of
from deepseek_nb.core.layout.prefix import BLOCK_TOKENS, Prefix, padded
from deepseek_nb.core.retry import RetryPolicy

__all__ = ["Asking", "JobSpec", "digest_of"]

ROW_PRIORITY = 2
ROW_MAX_TOKENS = 1024
"""What an answer may have where the schema does not bound it."""
LEAST_MAX_TOKENS = 256
"""Room for the prose that a model may put around a short answer."""
PLACEHOLDER = "row"
LONG_CHARS = 500_000
"""Shorter prompts fit any context there is; longer ones are counted."""
MARGIN_TOKENS = 12
"""How far padding overshoots a block where tokens are estimated."""
EXACT_TOKENS = 8
"""A count that is off by no more than this, for a whole prompt, is a count and no estimate."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """Template, form, schema, model and parameters of a job. Two jobs of one name must agree in all of it.

    ``block`` is the block of the server's cache that the static beginning is filled up to; 0: it is not.
    ``rows_per_request``: so many rows share a request, as long as all goes well (see ``packs``).
    """

    template: str
    schema: Schema | None
    system: str | None = None
    model: str | None = None
    thinking: bool = False
    temperature: float | None = None
    max_tokens: int | None = None
    structured: Structured = "json"
    answers: Literal["json", "numbers"] = "json"
    block: int = BLOCK_TOKENS
    form: Form = INLINE
    rows_per_request: int = 1

    def meta(self, client: AsyncClient) -> dict[str, Any]:
        """What the journal writes beside the job's name; every value counts for :meth:`digest`.

        The order of fields and the length of the padding are not in it: they change with the rows, and
        what they say is the same.
        """
        told = {
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
        if self.form.layout != "inline":
            told["layout"] = self.form.layout
            told["block"] = self.block
        if self.answers != "json":
            told["answers"] = self.answers
        if self.rows_per_request > 1:
            told["rows_per_request"] = self.rows_per_request
        return told

    def digest(self, client: AsyncClient) -> str:
        """Names the work: a job of the same name with another digest is other work."""
        return digest_of(self.meta(client))

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
    ) -> Asking:
        """What gives the errand for a row's prompt, checked once here for all rows.

        Instruction and schema go first and are the same for every row; the row comes last, in a
        message of its own. Thinking is off unless asked for: it only adds to the bill of row work.
        """
        numbers, many = self.answers == "numbers", self.rows_per_request
        most_tokens = client.most_tokens(self.model or client.settings.model)

        def prepare(form: Form, rows: int = 1) -> Errand:
            told = (self.system, form.instruction(packed=rows > 1), PACK_RULE if rows > 1 else "")
            system = "\n\n".join(part for part in told if part)
            made = client.prepare(
                PLACEHOLDER,
                schema=self.schema if rows == 1 else pack_schema(self.schema),
                structured=self.structured,
                system=system or None,
                model=self.model,
                thinking=self.thinking,
                temperature=self.temperature,
                max_tokens=self._max_tokens(rows, most_tokens),
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
                    most_tokens=most_tokens,
                ),
            )
            if self.schema is None and self.max_tokens is None and not self.thinking:
                made = replace(made, check=_whole)
            return replace(made, request=replace(made.request, json_mode=False)) if numbers else made

        block = 0 if self.form.layout == "inline" else self.block
        asking = Asking(
            client,
            self.form.given,
            prepare,
            block,
            note=f"[{many} in one]" if many > 1 else "",
            elsewhere_tokens=None if self.thinking else self.max_tokens or ROW_MAX_TOKENS,
        )
        if many > 1:
            asking.together = Asking(client, self.form.given, partial(prepare, rows=many), block)
        return asking

    def _max_tokens(self, rows: int, most: int | None) -> int | None:
        """What an answer about so many rows may have: at most what the model can give, where we know it."""
        each = self.max_tokens or (None if self.thinking else self._bound())
        if each is None or rows == 1:
            return each
        return each * rows if most is None else min(each * rows, max(each, most))

    def _bound(self) -> int:
        """Twice the longest answer that fits the schema: one that runs on is cut before it costs much."""
        longest = longest_tokens(self.schema)
        return ROW_MAX_TOKENS if longest is None else min(max(2 * longest, LEAST_MAX_TOKENS), ROW_MAX_TOKENS)


def _whole(answer: Answer) -> Answer:
    """The answer, unless a limit that nobody asked for cut it: then it is asked again with more room."""
    if answer.finish_reason == "length":
        raise AnswerTruncated(
            f"The answer was cut at {answer.usage.completion_tokens:,} tokens.",
            answer=answer,
            hint="Give max_tokens= what the longest answer may have.",
        )
    return answer


def digest_of(meta: Mapping[str, Any]) -> str:
    """The digest of the work that ``meta`` describes, given or read back from the journal."""
    return blake2b(canonical_json(meta).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class Asking:
    """Makes the errand of a row; calling it is all that is needed.

    A row's key is that of the plain request: fields in the template's order, and a note of the block
    in place of the filler. So the same row has the same key, however it is sent. ``note`` tells rows that
    are asked in another way from those that are asked like this. ``elsewhere_tokens``: what an answer of
    another server may have, whose model may think although it is not asked to.
    """

    def __init__(
        self,
        client: AsyncClient,
        form: Form,
        prepare: Callable[[Form], Errand],
        block: int,
        *,
        note: str = "",
        elsewhere_tokens: int | None = None,
    ) -> None:
        self.form = form
        self._elsewhere_tokens = elsewhere_tokens
        self.together: Asking | None = None
        """Asks several rows at once (:meth:`pack`), where that is wanted."""
        self._given = form
        self._client = client
        self._prepare = prepare
        self._plain = self._sent = plain = prepare(form)
        if note:
            digest = f"{plain.request.schema_digest or ''} {note}"
            self._plain = plain = replace(plain, request=replace(plain.request, schema_digest=digest))
        self._block = block
        self._count: Callable[[str], int] | None = None
        self._route = client.settings.route_name
        self._again: Callable[[ChatRequest], tuple[Leg, ...]] | None = client.other_legs(plain)
        self._head = self._key_head = plain.request.messages[:-1]
        self.prefix: Prefix | None = None
        """The static beginning as it is sent, where tokens are counted."""
        self._calibrated = False
        self._reach = self._function_tokens = 0
        if block:
            first = self._key_head[0]
            noted = Message(first.role, f"{first.content}\n[filled up to {block} tokens]")
            self._key_head = (noted, *self._key_head[1:])
        row = Message("user", PLACEHOLDER)
        self._key_of = changed(self._plain.request, messages=(*self._key_head, row)).keys(self._route)

    def static_tokens(self, count: Callable[[str], int]) -> int:
        """Tokens of what stands before the row, as it is without filler."""
        head = sum(padded(message.content, count, block=0).tokens for message in self._head[:1])
        return head + self._counted_function(count)

    def send_as(self, form: Form, count: Callable[[str], int], reach: int = 0) -> None:
        """Send the fields in this order, behind a static beginning that is filled up to whole blocks.

        ``count`` tells the tokens of a text; a block ends ``reach`` tokens into the row. Keys stay the same.
        """
        if form != self.form:
            self.form, self._sent = form, self._prepare(form)
        self._head = self._sent.request.messages[:-1]
        self._count, self._reach = count, reach
        self._function_tokens = self._counted_function(count)
        if self._head:
            self._fill(1.0, 0, 0)
        if self.together is not None:
            self.together.send_as(form, count)

    def __call__(self, prompt: str, on_event: Callable[[CallEvent], None] | None = None) -> Errand:
        """The errand for one row, as the form keeps it. Raises ContextTooLong for one that is too long."""
        message = Message("user", self.form.message(prompt))
        request = changed(self._sent.request, messages=(*self._head, message))
        if len(prompt) > LONG_CHARS:
            self._client.refuse_what_cannot_fit(request)
        key = self._key_of(prompt)
        made = changed(self._sent, request=request, key=key, on_event=on_event)
        return replace(made, fallbacks=self._again(self._elsewhere(prompt))) if self._again else made

    def pack(self, prompts: Sequence[str], on_event: Callable[[CallEvent], None] | None = None) -> Errand:
        """The errand for several rows at once; the answer is for ``packs.unpacked``.

        It is neither looked for nor kept as it is: each row's answer is, under the row's own key. Raises
        ContextTooLong for more than the model can read.
        """
        text = pack_message(list(map(self.form.message, prompts)), as_json=self.form.layout == "keyed")
        request = replace(self._sent.request, messages=(*self._head, Message("user", text)))
        if len(text) > LONG_CHARS:
            self._client.refuse_what_cannot_fit(request)
        key = request.fingerprint(self._route)
        made = replace(self._sent, request=request, key=key, look_up=False, keep=False, check=None)
        return replace(made, on_event=on_event, fallbacks=self._again(request) if self._again else ())

    def key(self, prompt: str) -> str:
        """The key of a row, without its errand. Raises ContextTooLong for one that is too long."""
        return self(prompt).key if len(prompt) > LONG_CHARS else self._key_of(prompt)

    def _elsewhere(self, prompt: str) -> ChatRequest:
        """The request as another server is asked: nothing is arranged or filled for its cache."""
        message = Message("user", self._given.message(prompt))
        plain = self._plain.request
        most_tokens = self._elsewhere_tokens or plain.max_tokens
        return replace(plain, messages=(*plain.messages[:-1], message), max_tokens=most_tokens)

    def calibrate(self, prompt: str, usage: Usage) -> bool:
        """Correct the padding by what the server counted for a row, once; whether it changed.

        What was sent before is not asked again for it: filler is not part of a row's key.
        """
        if self.prefix is None or self._count is None or self._calibrated or usage.estimated:
            return False
        self._calibrated = True
        counted = self.prefix.tokens + self._count(self.form.message(prompt)) + 2
        off = usage.prompt_tokens - counted
        if not off or not usage.prompt_tokens:
            return False
        before = self.prefix.text
        if abs(off) <= EXACT_TOKENS or self._function_tokens:  # how a function is told is not documented
            self._fill(1.0, off, 0)
        else:
            self._fill(scale_of(usage.prompt_tokens, counted), 0, MARGIN_TOKENS)
        return self.prefix.text != before

    def _counted_function(self, count: Callable[[str], int]) -> int:
        """Tokens of what tells the shape apart from the messages, and is taken to stand before them."""
        form = self._plain.request.form
        if form is None:
            return 0
        return count(form.schema_json if form.way == "responses" else compact_json(form.fields()["tools"]))

    def _fill(self, scale: float, offset_tokens: int, margin_tokens: int) -> None:
        assert self._count is not None  # noqa: S101 (asked before)
        system = self._sent.request.messages[0]
        self.prefix = padded(
            system.content,
            self._count,
            block=self._block,
            reach=self._reach,
            scale=scale,
            offset_tokens=offset_tokens + self._function_tokens,
            margin_tokens=margin_tokens,
        )
        self._head = (Message(system.role, self.prefix.text), *self._sent.request.messages[1:-1])
