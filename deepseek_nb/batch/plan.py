"""``df.deepseek.plan``: what a job would send and cost, before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, signature
from os.path import commonprefix
from statistics import fmean
from typing import Any, Literal

from narwhals.typing import IntoDataFrame

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.tokenizer import counter
from deepseek_nb.batch.call import JobCall, Work, arranged, fitting, job_call, work_of
from deepseek_nb.batch.form import Layout
from deepseek_nb.batch.garbage import collected_less
from deepseek_nb.batch.hours import When
from deepseek_nb.batch.packs import pack_answer, pack_message
from deepseek_nb.batch.run import LEADERS
from deepseek_nb.batch.spec import ROW_PRIORITY, Asking
from deepseek_nb.batch.typical import answer_tokens, least_answer
from deepseek_nb.batch.waves import waves_of
from deepseek_nb.client.errand import Errand
from deepseek_nb.client.schema_columns import Nested
from deepseek_nb.client.sync import Client
from deepseek_nb.core.chat import Message
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.events import duration
from deepseek_nb.core.form import Structured
from deepseek_nb.core.layout.estimate import Estimate, cached_tokens, sampled
from deepseek_nb.core.layout.prefix import BLOCK_TOKENS
from deepseek_nb.core.prices import Price, PriceTable
from deepseek_nb.data import read_json
from deepseek_nb.session import default_client

__all__ = ["Plan", "call_of", "plan"]

PROMPTS_SHOWN = 2
AFTER_THE_ROW_TOKENS = 2
SOMETHING = '{"a":"b"}'
"""In place of a row, where what stands around it is counted."""
ANSWER_S = 1.5
"""How long a short answer takes, where this client has not seen any."""
ANSWER_TOKEN_S = 0.02
BARS = 30
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call of ``apply`` or ``submit`` would do. Nothing was sent; made by :func:`plan`.

    ``apply(plan)`` and ``submit(plan)`` do it. Tokens are estimated from 200 rows, answers from the schema
    (free text counts as 40 tokens, an answer without a schema as 100); what the server's cache will have
    follows from the documented rule. Live figures may differ: the cache is "best effort". With
    ``cache_block=0`` rows may share a block by chance, which is not foreseen: the bill is lower then.
    """

    call: JobCall = field(repr=False)
    prompts: tuple[tuple[Message, ...], ...]
    """The first requests exactly as they would be sent."""
    rows: int
    distinct_rows: int
    unfit_rows: int
    """Rows that cannot be asked: an empty value, or too long."""
    done_rows: int
    """Distinct rows whose answer is there already, in the job or in the store."""
    estimate: Estimate
    layout: str
    fields: tuple[str, ...]
    """In the order in which they are sent; none for inline prompts."""
    prefix_tokens: int
    leaders: int
    model: str
    price_now: Price | None = field(repr=False)
    price_off_peak: Price | None = field(repr=False)
    concurrency: int
    time_s: float
    """At this concurrency, if the server is not busy."""

    @property
    def requests(self) -> int:
        """Requests that would be sent, repairs apart."""
        return self.estimate.requests

    @property
    def cost_usd(self) -> float | None:
        """What it would cost now; None where no price is known."""
        return None if self.price_now is None else self.estimate.cost_usd(self.price_now)

    @property
    def cost_off_peak_usd(self) -> float | None:
        """What it would cost in the cheap hours; None where no price is known."""
        return None if self.price_off_peak is None else self.estimate.cost_usd(self.price_off_peak)

    @property
    def peak(self) -> bool:
        """Whether it is peak hour now, with the doubled price."""
        return self.price_now is not None and self.price_now.peak

    def figures(self) -> dict[str, str]:
        """Every figure in words, by name."""
        told = self.estimate
        share = told.cached_tokens / told.prompt_tokens if told.prompt_tokens else 0.0
        named = {
            "rows": f"{self.rows:,} ({self.distinct_rows:,} distinct, {self.unfit_rows:,} cannot be asked)",
            "answers there already": f"{self.done_rows:,}",
            "requests": f"{told.requests:,}",
            "layout": self.layout + (f", {self.prefix_tokens:,} static tokens" if self.fields else ""),
            "leaders": f"{self.leaders:,}",
            "prompt tokens": f"{told.prompt_tokens:,}",
            "from the server's cache": f"{told.cached_tokens:,} ({share:.0%})",
            "answer tokens": f"{told.answer_tokens:,}",
            "cost now": _usd(self.cost_usd) + (" (peak hours)" if self.peak else " (off-peak)"),
            "cost off-peak": _usd(self.cost_off_peak_usd),
            "time": f"about {duration(self.time_s)}, {self.concurrency} at once",
        }
        if self.cost_usd is None:
            named["cost now"] = "no price is known"
        return named

    def plot(self) -> Any:
        """What is paid for, as a bar chart of matplotlib; as text where that is not installed.

        >>> df.deepseek.plan("Rate {{purpose}}", schema=Risk).plot()              # doctest: +SKIP
        """
        price = self.price_now or Price(0.02, 1.0, 4.0)
        told = self.estimate
        parts = {
            "prompt, uncached": price.cost_usd(miss_tokens=told.prompt_tokens - told.cached_tokens),
            "prompt, cached": price.cost_usd(hit_tokens=told.cached_tokens),
            "answers": price.cost_usd(output_tokens=told.answer_tokens),
        }
        if find_spec("matplotlib") is None:
            most = max(parts.values()) or 1.0
            return "\n".join(
                f"{name:<17}{'█' * round(BARS * usd / most)} {usd:.4f}" for name, usd in parts.items()
            )
        figure, axes = import_module("matplotlib.pyplot").subplots(figsize=(6, 1.8))
        axes.barh(list(parts), list(parts.values()))
        axes.invert_yaxis()
        axes.set_xlabel("USD")
        return figure

    def __repr__(self) -> str:
        return f"<Plan: {self.requests:,} requests, {_usd(self.cost_usd)} now>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002
        """The figures and the first prompts, as text and as Markdown."""
        figures = self.figures()
        width = max(map(len, figures))
        plain = [f"{name:<{width}}  {value}" for name, value in figures.items()]
        table = ["| plan | |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures.items())]
        for number, prompt in enumerate(self.prompts, 1):
            text = "\n".join(map(_shown, prompt))
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            plain += ["", f"Request {number}", text]
            table += ["", f"Request {number}", "", f"{fence}text", text, fence]
        return {"text/plain": "\n".join(plain), "text/markdown": "\n".join(table)}


def plan(
    frame: IntoDataFrame,
    template: str,
    *,
    schema: Any = None,
    into: str | None = None,
    nested: Nested = "flatten",
    structured: Structured = "json",
    raw: bool = False,
    job: str | None = None,
    system: str | None = None,
    model: str | None = None,
    thinking: bool = False,
    temperature: float | None = None,
    max_tokens: int | None = None,
    priority: int = ROW_PRIORITY,
    ttl: str | float | None = None,
    cache: bool | None = None,
    budget_usd: float | None = None,
    patience: float | str | None = None,
    fallback: Any = None,
    missing: Literal["fail", "empty"] = "fail",
    retry_failed: bool = False,
    layout: Layout = "auto",
    answers: Literal["json", "numbers"] = "json",
    cache_block: int = BLOCK_TOKENS,
    rows_per_request: int = 1,
    when: When | None = None,
    client: Client | None = None,
) -> Plan:
    """Tell what :func:`deepseek_nb.apply` with the same arguments would send and cost; nothing is sent.

    Needs no key. Raises as ``apply`` does for a frame, template, schema or option that cannot be used.

    >>> plan = df.deepseek.plan("Rate the risk of {{purpose}}", schema=Risk)      # doctest: +SKIP
    >>> plan.cost_usd, plan.requests                                              # doctest: +SKIP
    >>> df.deepseek.apply(plan)                                                   # doctest: +SKIP
    """
    given = locals()  # all arguments, by name
    return _plan(job_call(given))


def call_of(given: dict[str, Any]) -> JobCall:
    """The call that these arguments of ``apply`` or ``submit`` make; a plan brings its own.

    Raises :class:`ConfigError` for a plan with other arguments beside it, and for no template.
    """
    frame, template = given["frame"], given["template"]
    planned = frame if isinstance(frame, Plan) else template
    if not isinstance(planned, Plan):
        if template is None:
            raise ConfigError("There is no template.", hint="Give a question with {{columns}} in it.")
        return job_call(given)
    usual = {name: option.default for name, option in signature(plan).parameters.items()}
    changed = [
        name for name, default in usual.items() if default is not Parameter.empty and given[name] != default
    ]
    if changed or (frame is not planned and frame is not planned.call.frame):
        raise ConfigError(
            f"A plan is done as it is, without {', '.join(changed) or 'another frame'}.",
            hint="Make another plan with these options.",
        )
    return planned.call


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the requests of a job look, as far as their cost goes."""

    call: JobCall
    work: Work
    asking: Asking
    static_tokens: int
    first_tokens: int
    """What stands before the first row, which is asked alone."""
    waves: Sequence[Sequence[int]]
    in_flight: int

    def estimate(
        self, prompts: Sequence[str], blocks: Sequence[int], count: Callable[[str], int]
    ) -> Estimate:
        """What it takes to ask about ``prompts``, which share ``blocks`` with the ones before them."""
        many, block = self.call.rows_per_request, self.call.cache_block or BLOCK_TOKENS
        looked = [prompts[place] for place in sampled(len(prompts))]
        row_tokens = fmean(count(self.asking.form.message(row)) for row in looked)
        shared, requests, lead = self.static_tokens, len(prompts), self.waves
        each_tokens = answer_tokens(self.work.spec.schema, count)
        more_row = more_answer = 0.0  # of a row behind the first, and of its answer
        if many > 1:
            packs = -(-(requests - 1) // many)
            requests, blocks = 1 + packs, (0,) * packs
            lead = [(place,) for place in range(LEADERS)] if packs > LEADERS else ()
            more_row = count(pack_message([SOMETHING] * many, as_json=True)) / many - count(SOMETHING)
            least = least_answer(self.work.spec.schema)
            more_answer = count(pack_answer([least] * many)) / many - count(least)
        elif self.asking.form.layout == "inline":
            shared += count(commonprefix(looked)) if requests > 1 else 0  # noqa: RUF071 (characters are meant)
        cached = cached_tokens(
            blocks,
            prefix_tokens=shared // block * block,
            waves=lead,
            in_flight=self.in_flight,
            block=block,
        )
        behind = len(prompts) - 1
        static = self.first_tokens + self.static_tokens * (requests - 1) + AFTER_THE_ROW_TOKENS * requests
        return Estimate(
            requests,
            round(static + row_tokens * len(prompts) + more_row * behind),
            cached,
            round(each_tokens * len(prompts) + more_answer * behind),
        )


@collected_less()
def _plan(call: JobCall) -> Plan:
    client = call.client or default_client()
    work = work_of(call, client)
    asking = work.asking(call, client)
    rows, keys = fitting(work.rows, asking)
    done = _done(call, client, work, keys, asking("", None))
    places = [place for place, key in enumerate(keys) if key not in done]
    found = arranged(rows, places, asking, call.cache_block)
    count, many = counter(), call.rows_per_request
    sender = asking.together or asking
    static, first_static = (
        one.prefix.tokens if one.prefix else max(2, one.static_tokens(count)) for one in (sender, asking)
    )
    waved = many == 1 and not waves_of(keys, [len(wave) for wave in found.waves], asking).empty
    first = [rows.prompts[places[place]] for place in found.sent[: PROMPTS_SHOWN * many]]
    model, concurrency = call.model or client.settings.model, client.settings.concurrency_max
    told = Estimate(0, 0, 0, 0)
    if places:
        prompts = [rows.prompts[place] for place in places]
        lead = found.waves if waved else (range(1),)
        shape = _Shape(call, work, asking, static, first_static, lead, concurrency)
        told = shape.estimate(prompts, found.blocks, count)
    at = datetime.now(UTC)
    at_once = min(concurrency, max(1, told.requests))
    answer_s = ANSWER_S + ANSWER_TOKEN_S * told.answer_tokens / max(1, told.requests)
    return Plan(
        call,
        tuple(_messages(asking, first[at : at + many]) for at in range(0, len(first), many)),
        len(work.index),
        len(rows.prompts),
        sum(place < 0 for place in rows.row_prompt),
        len(keys) - len(places),
        told,
        rows.form.layout,
        tuple(asking.form.fields[place] for place in asking.form.order),
        static,
        sum(map(len, found.waves)) if waved else min(1, told.requests),
        model,
        client.aio.price_now(model),
        _off_peak(client, model, at),
        at_once,
        answer_s * -(-told.requests // at_once) + (answer_s if waved else 0.0),
    )


def _messages(asking: Asking, prompts: Sequence[str]) -> tuple[Message, ...]:
    """What is sent for these rows; one alone, or the last of a job of packs, is asked as a row."""
    if asking.together is None or len(prompts) == 1:
        return asking(prompts[0], None).request.messages
    return asking.together.pack(prompts).request.messages


def _done(call: JobCall, client: Client, work: Work, keys: list[str], probe: Errand) -> set[str]:
    """Keys of rows that have an answer: in the job's ledger, or in the store, as ``probe`` looks there."""
    done: set[str] = set()
    journal_file = client.settings.data_dir / "jobs.db"
    if journal_file.exists():
        with Journal(journal_file) as journal:
            before = journal.job(work.name)
            if before is not None and before.digest == work.digest:
                ended = ("d",) if call.retry_failed else ("d", "f")
                done |= {row.key for row in journal.rows(work.name) if row.state in ended}
    if probe.look_up:
        done |= client.kept([key for key in keys if key not in done], probe.ttl_s)
    return done & set(keys)


def _off_peak(client: Client, model: str, at: datetime) -> Price | None:
    """The price in the next cheap hours; None where none is known."""
    now = client.aio.price_now(model)
    if now is None or not now.peak:
        return now
    table = PriceTable.from_data(read_json("prices.json"), read_json("holidays_cn.json"))
    change = table.next_change(at)
    return None if change is None else table.find(model, change + timedelta(seconds=1))


def _shown(turn: Message) -> str:
    return f"[{turn.role}]\n" + _UNSEEN.sub("\ufffd", turn.content)


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount:.4f} USD"
