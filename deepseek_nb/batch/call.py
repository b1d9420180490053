"""A call of ``submit``, ``apply`` or ``plan``, and the work it comes to: read and checked, nothing sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Any, Literal

import pandas as pd

from deepseek_nb.adapters.settings import parse_duration_s, parse_patience_s
from deepseek_nb.adapters.tokenizer import counter
from deepseek_nb.batch.form import Layout
from deepseek_nb.batch.frame import answer_columns
from deepseek_nb.batch.frames_io import as_pandas
from deepseek_nb.batch.hours import When, check_when
from deepseek_nb.batch.numbered import NumberedSchema
from deepseek_nb.batch.packs import MOST_ROWS
from deepseek_nb.batch.rows import Rows, read_rows
from deepseek_nb.batch.spec import Asking, JobSpec
from deepseek_nb.client.arguments import amount_usd, number, scalar, switch, text, whole
from deepseek_nb.client.schema_columns import Nested
from deepseek_nb.client.structured import Schema
from deepseek_nb.client.sync import Client
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.errors import ConfigError, ContextTooLong, TemplateError
from deepseek_nb.core.form import Structured
from deepseek_nb.core.layout.arrange import Arrangement, as_given
from deepseek_nb.core.template import Template

__all__ = ["OPTIONS", "JobCall", "Work", "arranged", "fitting", "job_call", "user_of", "work_of"]

_JOB_NAME = re.compile(r"[\w][\w .:/-]{0,99}")
FEWEST_ROWS = 32
"""A smaller job is sent as it comes: what its layout could save is less than a cent."""


@dataclass(frozen=True, slots=True)
class JobCall:
    """The arguments of a call of ``submit`` or ``apply``."""

    frame: Any
    template: str
    schema: Any
    into: str | None
    nested: Nested
    structured: Structured
    raw: bool
    job: str | None
    system: str | None
    model: str | None
    thinking: bool
    temperature: float | None
    max_tokens: int | None
    priority: int
    ttl: str | float | None
    cache: bool | None
    budget_usd: float | None
    patience: float | str | None
    fallback: Any
    missing: Literal["fail", "empty"]
    retry_failed: bool
    layout: Layout
    answers: Literal["json", "numbers"]
    cache_block: int
    rows_per_request: int
    when: When | None
    client: Client | None


OPTIONS = tuple(
    option.name for option in fields(JobCall) if option.name not in ("frame", "template", "schema", "client")
)


def job_call(given: Mapping[str, Any]) -> JobCall:
    """The call that these arguments make, each a plain value.

    Raises :class:`ConfigError`, :class:`RequestInvalid` or :class:`TemplateError` for one of the wrong kind.
    """
    template = given["template"]
    if isinstance(template, Template):
        if template.missing == "empty":
            given = {**given, "missing": "empty"}
        template = template.source
    if not isinstance(template, str):
        raise TemplateError(
            f"A template is a text, not {type(template).__name__}.", hint="Such as: 'Rate {{purpose}}'."
        )
    if given["nested"] not in ("object", "flatten"):
        raise ConfigError(f"nested is 'object' or 'flatten', not {given['nested']!r}.")
    if given["patience"] is not None:
        parse_patience_s(given["patience"])
    if given["when"] is not None:
        check_when(given["when"])
    plain = {name: kind(name, given[name]) for name, kind in KINDS.items()}
    return JobCall(**{**given, **plain, "template": template})


KINDS: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("system", "model", "into"), text),
    **dict.fromkeys(("thinking", "cache", "raw", "retry_failed"), switch),
    **dict.fromkeys(("max_tokens", "priority"), whole),
    **dict.fromkeys(("cache_block", "rows_per_request"), lambda _, value: scalar(value)),
    "temperature": number,
    "budget_usd": amount_usd,
}


@dataclass(frozen=True, slots=True)
class Work:
    """What a call asks for: its rows, and what decides what they mean."""

    name: str
    index: pd.Index
    """That of the caller's frame."""
    rows: Rows
    spec: JobSpec
    digest: str

    def asking(self, call: JobCall, client: Client, budget: Budget | None = None) -> Asking:
        """What gives the errand for each of its rows."""
        return self.spec.errands(
            client.aio,
            user_id=user_of(self.name),
            priority=call.priority,
            ttl_s=None if call.ttl is None else parse_duration_s(call.ttl),
            cache=call.cache,
            budget=budget,
            fallback=call.fallback,
        )


def work_of(call: JobCall, client: Client) -> Work:
    """Read the frame and check everything that can be checked without the journal.

    Raises what :func:`deepseek_nb.apply` raises before anything is sent.
    """
    if not isinstance(client, Client):
        raise ConfigError(f"client is a deepseek_nb.Client, not {type(client).__name__}.")
    shape = None if call.schema is None else Schema.of(call.schema, nested=call.nested)
    if call.answers not in ("json", "numbers"):
        raise ConfigError(f"answers is 'json' or 'numbers', not {call.answers!r}.")
    if call.answers == "numbers":
        if shape is None:
            raise ConfigError("answers='numbers' numbers the options of a schema: give schema=, too.")
        if call.structured != "json":
            raise ConfigError(
                f"answers='numbers' asks for lines, and structured={call.structured!r} for JSON: not both.",
                hint="Leave one of them out. Nothing was sent.",
            )
        shape = NumberedSchema(shape)
    if not isinstance(call.cache_block, int) or not 0 <= call.cache_block <= 4096:
        raise ConfigError(
            f"cache_block is a number of tokens from 0 (no filler) to 4096, not {call.cache_block!r}."
        )
    many = call.rows_per_request
    if not isinstance(many, int) or not 1 <= many <= MOST_ROWS:
        raise ConfigError(f"rows_per_request is a number of rows from 1 to {MOST_ROWS}, not {many!r}.")
    if many > 1 and call.answers == "numbers":
        raise ConfigError(
            "Rows that share a request are answered as JSON: not by number, too.",
            hint="Leave answers='numbers' or rows_per_request out. Nothing was sent.",
        )
    answer_columns(shape, call.into, raw=call.raw)
    frame = as_pandas(call.frame, call.template)
    rows = read_rows(frame, call.template, missing=call.missing, layout=call.layout)
    spec = JobSpec(
        call.template,
        shape,
        call.system,
        call.model,
        call.thinking,
        call.temperature,
        call.max_tokens,
        call.structured,
        call.answers,
        call.cache_block,
        rows.form,
        many,
    )
    digest = spec.digest(client.aio)
    return Work(_job_name(call.job, digest, rows.prompts), frame.index, rows, spec, digest)


def user_of(job: str) -> str:
    """The name under which a job's rows are told apart by the server: no text of the job itself."""
    return f"job-{blake2b(job.encode(), digest_size=8).hexdigest()}"


def arranged(rows: Rows, places: Sequence[int], asking: Asking, block: int) -> Arrangement:
    """Put the rows at these places in the order of sending, and have ``asking`` send them that way."""
    if not block or len(places) < FEWEST_ROWS or rows.form.layout == "inline":
        return as_given(len(places), len(rows.form.fields))
    count = counter()
    found = rows.arranged(places, count, prefix_tokens=asking.static_tokens(count), block=block)
    asking.send_as(replace(rows.form, order=found.fields), count, found.reach)
    return found


def fitting(rows: Rows, make_errand: Asking) -> tuple[Rows, list[str]]:
    """The rows that fit the model's context, and their keys; raises where none does."""
    keys: list[str] = []
    unfit: dict[int, str] = {}
    for place, prompt in enumerate(rows.prompts):
        try:
            keys.append(make_errand.key(prompt))
        except ContextTooLong as error:
            if len(unfit) + 1 == len(rows.prompts):
                raise
            unfit[place] = f"{type(error).__name__}: {error.message}"
    return rows.without(unfit), keys


def _job_name(job: str | None, digest: str, prompts: Any) -> str:
    if job is None:
        content = blake2b(digest.encode(), digest_size=6)
        for prompt in prompts:
            content.update(prompt.encode("utf-8", "surrogatepass") + b"\0")
        return f"apply-{content.hexdigest()}"
    if not isinstance(job, str) or not _JOB_NAME.fullmatch(job):
        raise ConfigError(
            f"{job!r} is not a job name.",
            hint="Use letters, digits, spaces and . : / - _, at most 100 of them.",
        )
    return job
