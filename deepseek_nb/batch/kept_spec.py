"""What a job asks, made again of what is written beside its name in the ledger, or travels with its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek_nb.adapters.journal import JobRow
from deepseek_nb.batch.form import INLINE, form_of
from deepseek_nb.batch.numbered import NumberedSchema
from deepseek_nb.batch.spec import JobSpec, digest_of
from deepseek_nb.client.structured import Schema
from deepseek_nb.core.errors import JobMismatch
from deepseek_nb.core.template import Template

__all__ = ["damage", "spec_of"]


def spec_of(meta: Mapping[str, Any]) -> JobSpec:
    """What a job asks, by what is written beside its name. One without a layout sends rows as they are."""
    template, told = str(meta.get("template")), meta.get("schema")
    layout, answers = meta.get("layout", "inline"), meta.get("answers", "json")
    schema = None if told is None else Schema.of(told)
    return JobSpec(
        template,
        NumberedSchema(schema) if schema is not None and answers == "numbers" else schema,
        meta.get("system"),
        meta.get("model"),
        bool(meta.get("thinking")),
        meta.get("temperature"),
        meta.get("max_tokens"),
        meta.get("structured", "json"),
        answers,
        meta.get("block", 0),
        INLINE if layout == "inline" else form_of(Template(template), (), layout),
        meta.get("rows_per_request", 1),
    )


def damage(there: JobRow) -> JobMismatch | None:
    """The error for a job whose description does not fit the digest beside it; None where it does.

    One of the two was damaged in the file, so whether a call is that job's work cannot be told.
    """
    if digest_of(there.meta) == there.digest:
        return None
    return JobMismatch(
        f"What the ledger holds of the job {there.name!r} is damaged: it cannot be told what it asks.",
        hint="Give the work another job name: rows whose answers are in the store are not paid again. The "
        f"damaged one goes with: deepseek-nb jobs delete {there.name!r}",
    )
