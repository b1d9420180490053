"""Frames of any kind: pandas and polars, odd indexes and columns, no rows, one row, all alike, none."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import stat
import subprocess
import sys
from typing import Literal

import numpy as np
import pandas as pd
import polars as pl
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deepseek_nb  # noqa: F401 (registers df.deepseek)
from deepseek_nb.adapters.journal import Journal
from deepseek_nb.batch.apply import apply
from deepseek_nb.batch.export import to_file
from deepseek_nb.batch.frames_io import FrameForm
from deepseek_nb.batch.resume import job_frame
from deepseek_nb.batch.rows import read_rows
from deepseek_nb.batch.submit import submit
from deepseek_nb.core import errors
from deepseek_nb.core.template import Template
from deepseek_nb.sandbox import Fault, FaultScript

ASK = "Sort this ticket: {{text}}"
ABOUT = ["status", "error", "route", "attempts", "cached", "tokens", "cost_usd", "latency_s"]


class Owner(pydantic.BaseModel):
    name: str
    age: int | None = None


class Full(pydantic.BaseModel):
    """One field of each kind."""

    label: Literal["card", "transfer", "cash"]
    urgency: int = pydantic.Field(ge=1, le=5)
    score: float
    sure: bool
    why: str
    day: dt.date
    at: dt.datetime
    owner: Owner
    tags: list[str]


def run(frame, client, **options):
    return apply(frame, ASK, client=client, progress=False, **options)


def test_columns_have_the_dtypes_of_the_schema(frame, client):
    """Whole numbers, categories, dates: also where a row has no answer."""
    frame.iloc[3, 0] = None
    out = run(frame, client, schema=Full)
    assert {name: str(dtype) for name, dtype in out.dtypes.items()} == {
        "label": "category",
        "urgency": "Int64",
        "score": "Float64",
        "sure": "boolean",
        "why": "str",
        "day": "datetime64[s]",
        "at": "datetime64[us, UTC]",
        "owner.name": "str",
        "owner.age": "Int64",
        "tags": "object",
        "status": "str",
        "error": "str",
        "route": "category",
        "attempts": "Int64",
        "cached": "boolean",
        "tokens": "Int64",
        "cost_usd": "Float64",
        "latency_s": "Float64",
    }
    assert out.iloc[3][["label", "urgency", "score", "sure", "why", "day", "at", "tags"]].isna().all()
    assert out["label"].cat.categories.tolist() == ["card", "transfer", "cash"]


def test_nested_models_stay_objects_by_choice_and_cost_no_second_request(frame, client, sandbox):
    flat = run(frame, client, schema=Full, job="n")
    whole = run(frame, client, schema=Full, job="n", nested="object")
    assert whole["owner"].iloc[0] == {"name": flat["owner.name"].iloc[0], "age": flat["owner.age"].iloc[0]}
    assert len(sandbox.log) == 30


def test_the_models_own_words_are_there_by_choice(frame, client, ticket, sandbox):
    """With what was mended in them; a failed row shows what was paid for, too."""
    faults = {"number 3 ": Fault("fenced_json"), "number 4 ": Fault("wrong_shape_json")}
    sandbox.faults = FaultScript(
        lambda ask: next((f for words, f in faults.items() if words in ask.text), None)
    )
    out = run(frame, client, schema=ticket, raw=True)
    assert list(out.columns[-2:]) == ["raw", "mends"]
    assert json.loads(out["raw"].iloc[0])["label"] == out["label"].iloc[0]
    assert out["raw"].iloc[3].startswith("Here is the JSON")
    assert out["mends"].iloc[3] == "fence, prose"
    assert out["mends"].isna().sum() == 38
    assert (out["status"].iloc[4], "another shape" in out["raw"].iloc[4]) == ("failed", True)
    assert out.attrs["deepseek_nb"]["mended"] == 1
    with pytest.raises(errors.FrameError, match="raw"):
        run(frame, client, schema={"raw": str}, raw=True)


@pytest.mark.parametrize("schema", [None, Full], ids=["text", "schema"])
@pytest.mark.parametrize("kind", [pd, pl], ids=["pandas", "polars"])
def test_a_frame_without_rows_is_one_without_rows(client, sandbox, kind, schema):
    """No request; all columns, and of the same dtypes as with rows."""
    some = run(kind.DataFrame({"text": ["my card is lost"]}), client, schema=schema)
    sent = len(sandbox.log)
    none = run(kind.DataFrame({"text": []}), client, schema=schema)
    assert (len(none), list(none.columns), len(sandbox.log)) == (0, list(some.columns), sent)
    changed = [n for n in none.columns if n != "at" and none[n].dtype != some[n].dtype]
    assert changed in ([], ["route"])


@pytest.mark.parametrize("rows", [1, 25], ids=["one row", "rows all alike"])
def test_equal_rows_are_one_request(client, sandbox, ticket, rows):
    out = run(pd.DataFrame({"text": ["my card is lost"] * rows}), client, schema=ticket)
    assert len(sandbox.log) == 1
    assert out["label"].tolist() == ["card"] * rows
    assert out["cost_usd"].sum() == pytest.approx(sandbox.log.cost_usd)


@pytest.mark.parametrize("empty", [None, np.nan, pd.NA, pd.NaT], ids=str)
def test_a_frame_of_missing_values_is_one_error(client, sandbox, empty):
    with pytest.raises(errors.FrameError, match="No row can be asked"):
        run(pd.DataFrame({"text": [empty] * 3}, dtype=object), client)
    assert len(sandbox.log) == 0


def test_categories_without_a_value_or_a_row(client, sandbox, ticket):
    """A category that no row has asks nothing; a row that has none fails alone, whatever its index says."""
    frame = pd.DataFrame(
        {"text": pd.Categorical(["card", None, "cash", "card"], categories=["cash", "card", "unused"])},
        index=pd.DatetimeIndex(["2026-01-01", None, None, "2026-01-01"]),
    )
    out = run(frame, client, schema=ticket)
    assert out["status"].tolist() == ["done", "failed", "done", "done"]
    assert out["label"].isna().tolist() == [False, True, False, False]
    assert out["label"].dropna().tolist() == ["card", "cash", "card"]
    assert out.index.equals(frame.index)
    assert len(sandbox.log) == 2


def test_columns_may_have_any_name(client, ticket):
    """Numbers, tuples, dates, the same name twice: what the template names is found."""
    odd = pd.DataFrame(
        [["my card is lost", 1, 2, 3]],
        columns=pd.Index([0, ("a", 1), dt.date(2026, 1, 1), "x"], dtype=object),
    )
    out = apply(odd, "{{0}} {{x}}", schema=ticket, client=client, progress=False)
    assert out["label"].tolist() == ["card"]


def prompts(column, layout: str = "inline", **options) -> list[str]:
    """What is asked about the rows of a frame with this one column."""
    rows = read_rows(pd.DataFrame({"x": column}), "{{x}}", layout=layout, **options)
    return [rows.prompts[place] for place in rows.row_prompt if place >= 0]


LAYOUTS = pytest.mark.parametrize("layout", ["keyed", "inline"])


@LAYOUTS
def test_values_that_are_equal_and_read_otherwise_are_asked_each(layout):
    """The same moment is night here and morning there; True is not 1."""
    there = dt.datetime(2026, 1, 1, 8, tzinfo=dt.timezone(dt.timedelta(hours=8)))
    cells = [there, there.astimezone(dt.UTC), (1, 2), (True, 2.0)]
    assert len(set(prompts(pd.Series(cells, dtype=object), layout))) == 4


@LAYOUTS
def test_an_array_in_a_cell_is_asked_whole(layout):
    """Numpy's own text of a long one is its two ends: two rows would be asked as one."""
    one, other = np.arange(2000), np.arange(2000)
    other[1000] = 0
    asked = prompts(pd.Series([one, other, np.array([["a"], np.array(["b"])], dtype=object)]), layout)
    assert [text.count(",") for text in asked] == [1999, 1999, 1]
    assert len(set(asked)) == 3
    assert "array" not in asked[2]


@LAYOUTS
def test_numbers_of_numpy_in_a_list_are_numbers(layout):
    cells = [list(np.array([0.5, 2])), (np.int64(1), [np.True_])]
    assert prompts(pd.Series(cells), layout) == prompts(pd.Series([[0.5, 2.0], (1, [True])]), layout)


def test_narrow_floats_are_asked_as_they_are_shown(client, sandbox):
    """0.1 and not 0.10000000149011612, in pandas as in polars: the same question."""
    assert prompts(pd.Series([0.1, 2], dtype="float32"), "keyed") == ['{"x":0.1}', '{"x":2}']
    assert prompts(pd.Series([0.1, 2], dtype="Float32")) == ["0.1", "2"]
    run(pd.DataFrame({"text": pd.Series([0.1, None], dtype="float32")}), client)
    out = run(pl.DataFrame({"text": pl.Series([0.1, None], dtype=pl.Float32)}), client)
    assert out["status"].to_list() == ["done", "failed"]
    assert len(sandbox.log) == 1


@LAYOUTS
def test_truths_of_numpy_are_truths(layout):
    for column in (pd.arrays.SparseArray([True, False]), pd.Series([np.True_, False], dtype=object)):
        assert prompts(column, layout) == prompts(pd.Series([True, False]), layout)


def test_half_a_character_is_asked_as_a_question_mark(client, sandbox):
    """Text cut in the middle of an emoji: ``ask`` sends it like that, too."""
    halves, asked = pd.DataFrame({"text": pd.Series(["a \ud83d", "b"], dtype=object)}), []
    sandbox.faults = FaultScript(lambda ask: asked.append(ask.text))
    for layout in ("keyed", "compact", "inline"):
        assert run(halves, client, layout=layout)["status"].tolist() == ["done", "done"]
    assert sum("a ?" in text for text in asked) == 3


def test_half_a_character_in_an_answer_is_a_question_mark(client):
    """One such answer does not take the whole job's frame away, nor its files."""
    frame = pd.DataFrame({"text": ["a", "b"]})
    run(frame, client, job="whole")
    store = client.aio.store
    key = next(store.keys())
    store.put(key, {**store.get(key), "text": "half \ud83d"})
    answers = run(frame, client, job="half")["answer"].tolist()
    assert "half ?" in answers
    with Journal(client.settings.data_dir) as journal:
        assert job_frame(journal, "half")["answer"].tolist() == answers


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_file_that_is_replaced_is_as_private_as_it_was(tmp_path, ending):
    """Written once more for its owner alone, and through a link."""
    private, link = tmp_path / f"private{ending}", tmp_path / f"link{ending}"
    private.touch(0o600)
    link.symlink_to(private)
    frame = pd.DataFrame({"n": [1]})
    for path in (private, link):
        to_file(frame, FrameForm(frame, ()), path)
    assert link.is_symlink()
    assert private.stat().st_size
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_an_object_without_a_text_is_no_value(client, sandbox):
    """Its address is another one in the next process: the row would be paid again."""
    frame = pd.DataFrame({"text": pd.Series(["here", object()], dtype=object)})
    out = run(frame, client)
    assert out["status"].tolist() == ["done", "failed"]
    assert "no text" in out["error"].iloc[1]


@LAYOUTS
def test_a_category_that_cannot_be_asked_fails_its_rows(layout):
    """As NaN does in a column of pyarrow, where it is a value and not missing."""
    column = pd.Series([len, "here", len], dtype=object).astype("category")
    rows = read_rows(pd.DataFrame({"x": column}), "{{x}}", layout=layout)
    assert (list(rows.row_prompt), list(rows.problems)) == ([-1, 0, -1], [0, 2])


def test_blanks_around_a_columns_name_need_not_be_written(client):
    """As the second line of ``a, b`` in a CSV file has them."""
    for kind in (pd, pl):
        frame = kind.DataFrame({" text ": ["lost"], "text  ": ["x"], " other": ["my card"]})
        assert "my card" in run_with(frame, "Echo {{other}} please", client)
        with pytest.raises(errors.TemplateError, match="'text'"):  # which of the two?
            run_with(frame, "Echo {{text}} please", client)


def run_with(frame, template, client) -> str:
    out = apply(frame, template, client=client, progress=False)
    return str(out["answer"][0])


def test_a_template_says_itself_what_an_empty_value_does(frame, client):
    frame.iloc[0, 0] = None
    template = Template(ASK, missing="empty")
    out = apply(frame, template, client=client, progress=False)
    assert set(out["status"]) == {"done"}


@pytest.mark.parametrize("layout", ["keyed", "compact", "inline"])
def test_a_path_that_begins_at_an_empty_value_is_empty(layout):
    """A row without a user has no name of one, in a frame of structs as in one of dictionaries."""
    users = pd.DataFrame({"user": [{"name": "Ada"}, None, np.nan]})
    rows = read_rows(users, "Greet {{user['name']}}", layout=layout)
    assert set(rows.problems) == {1, 2}
    assert all("is empty" in why for why in rows.problems.values())
    assert read_rows(users, "Greet {{user['name']}}", layout=layout, missing="empty").problems == {}


def test_the_index_is_told_to_be_made_a_column(client):
    frame = pd.DataFrame({"x": ["a"]}, index=pd.Index(["q"], name="text"))
    with pytest.raises(errors.TemplateError, match="reset_index"):
        run(frame, client)


def test_where_no_row_can_be_asked_the_hint_is_of_what_is_wrong(client):
    frame = pd.DataFrame({"user": [{"name": "Ada"}]})
    with pytest.raises(errors.FrameError, match=r"write \['name'\] instead of \.name"):
        apply(frame, "Greet {{user.name}}", client=client, progress=False)


@pytest.mark.parametrize("into", [5, ["a"]], ids=str)
def test_a_column_is_named_by_a_text(frame, client, sandbox, into):
    with pytest.raises(errors.RequestInvalid, match="into is a text"):
        run(frame, client, into=into)
    assert len(sandbox.log) == 0


def test_aliases_that_a_model_writes_itself_are_the_columns(frame, client):
    """Also inside a list or another model; the value is not lost under its other name."""

    class Rated(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(serialize_by_alias=True)
        risk_level: int = pydantic.Field(alias="riskLevel")

    class Outer(pydantic.BaseModel):
        inner: Rated

    assert run(frame, client, schema=Rated)["riskLevel"].notna().all()
    assert run(frame, client, schema=Outer)["inner.riskLevel"].notna().all()


def test_a_check_that_breaks_is_no_end_of_the_job(frame, client, sandbox):
    """Its row is asked again, as after any answer that does not fit; the same call then sends nothing."""

    class Split(pydantic.BaseModel):
        why: str

        @pydantic.field_validator("why")
        @classmethod
        def without_seven(cls, why: str) -> str:
            return {}["seven"] if "number 7" in why else why

    first = run(frame, client, schema=Split)
    assert set(first["status"]) == {"done"}
    sent = len(sandbox.log)
    assert sent > 30
    assert run(frame, client, schema=Split)["why"].tolist() == first["why"].tolist()
    assert len(sandbox.log) == sent


def test_a_decimal_is_its_text(frame, client):
    out = run(frame, client, schema={"price": decimal.Decimal})
    assert set(out["status"]) == {"done"}
    assert all(isinstance(price, str) and decimal.Decimal(price) >= 0 for price in out["price"])


# --------------------------------------------------------------------------------------------- polars


@pytest.fixture
def polars_frame(frame) -> pl.DataFrame:
    return pl.DataFrame({"text": frame["text"].tolist(), "n": range(40)})


def test_polars_in_polars_out(polars_frame, frame, client, sandbox):
    """Row for row the values that pandas gets, typed as polars does."""
    out = polars_frame.deepseek.apply(ASK, schema=Full, client=client, progress=False)
    assert isinstance(out, pl.DataFrame)
    assert dict(out.schema) == {
        "label": pl.Enum(["card", "transfer", "cash"]),
        "urgency": pl.Int64,
        "score": pl.Float64,
        "sure": pl.Boolean,
        "why": pl.String,
        "day": pl.Date,
        "at": pl.Datetime("us", "UTC"),
        "owner.name": pl.String,
        "owner.age": pl.Int64,
        "tags": pl.List(pl.String),
        "status": pl.String,
        "error": pl.String,
        "route": pl.Categorical,
        "attempts": pl.Int64,
        "cached": pl.Boolean,
        "tokens": pl.Int64,
        "cost_usd": pl.Float64,
        "latency_s": pl.Float64,
    }
    same = run(frame.reset_index(drop=True), client, schema=Full)
    for name in ("label", "urgency", "score", "sure", "why", "owner.name", "tags", "status", "cost_usd"):
        assert out[name].to_list() == same[name].tolist(), name
    assert out["day"].to_list() == same["day"].dt.date.tolist()
    assert len(sandbox.log) == 30


def test_polars_objects_are_structs_or_json_text(polars_frame, client):
    """As far as the schema tells what is inside."""
    out = run(polars_frame.head(2), client, schema=Full, nested="object")
    assert out.schema["owner"] == pl.Struct({"name": pl.String, "age": pl.Int64})
    assert run(polars_frame.head(2), client, schema=Full, into="all").schema["all"].fields[0].name == "label"
    aliased = pydantic.create_model("Aliased", name=(str, pydantic.Field(alias="its name")))
    listed = run(polars_frame.head(2), client, schema={"all": list[aliased]})
    assert listed.schema["all"] == pl.List(pl.Struct({"name": pl.String}))
    loose = run(polars_frame.head(2), client, schema={"any": dict[str, int]})
    assert isinstance(json.loads(loose["any"][0]), dict)


def test_a_polars_job(polars_frame, client, sandbox):
    """submit, the frame while it runs, the failed rows by their number, and again."""
    sandbox.faults = FaultScript(lambda ask: Fault("content_risk") if "number 3 " in ask.text else None)
    job = polars_frame.deepseek.submit(ASK, client=client, job="p")
    assert isinstance(job.frame(), pl.DataFrame)
    out = job.result(30)
    assert out["status"].to_list().count("failed") == 2
    assert job.errors["row"].to_list() == [3, 33]
    assert job.errors.columns == ["row", "error", "attempts", "cost_usd"]
    sandbox.faults = None
    again = job.retry_failed().result(30)
    assert set(again["status"]) == {"done"}
    assert len(sandbox.log.complete) == 30


def test_failed_rows_alone_are_asked_again(frame, client, sandbox, ticket):
    """A new handle under the same name; not while the job runs, and nothing where nothing failed."""
    sandbox.faults = FaultScript(lambda ask: Fault("content_risk") if "number 3 " in ask.text else None)
    job = submit(frame, ASK, schema=ticket, client=client)
    job.wait(30)
    assert job.errors.index.tolist() == ["t3", "t33"]
    sandbox.faults, sent = None, len(sandbox.log)
    again = job.retry_failed()
    assert again.name == job.name
    assert (again.result(30)["status"] == "done").all()
    assert len(sandbox.log) == sent + 1
    assert again.retry_failed().result(30)["label"].tolist() == again.result()["label"].tolist()
    assert len(sandbox.log) == sent + 1
    assert sandbox.log.answered_twice() == {}


def test_a_running_job_retries_nothing(frame, client, sandbox):
    sandbox.faults = FaultScript.always("busy_503")
    job = submit(frame, ASK, client=client)
    with pytest.raises(errors.NotReady):
        job.retry_failed()
    job.cancel()
    job.wait(30)


def test_polars_values_of_all_kinds_are_asked_as_pandas_values_are(client, sandbox, ticket):
    """Categories, dates, lists, nulls and text come into the prompt; a null fails its row alone."""
    odd = pl.DataFrame(
        {
            "text": pl.Series(["card", None, "cash"], dtype=pl.Categorical),
            "day": [dt.date(2026, 1, 1)] * 3,
            "n": [1, 2, 3],
            "x": [0.5, 2.0, 1e-9],
        }
    )
    out = apply(odd, "{{text}} {{day}} {{n}} {{x}}", schema=ticket, client=client, progress=False)
    assert out["status"].to_list() == ["done", "failed", "done"]
    assert out["label"].to_list() == ["card", None, "cash"]
    assert "text" in out["error"][1]


def test_a_lazy_frame_is_told_to_be_collected(client):
    with pytest.raises(errors.FrameError, match="LazyFrame") as caught:
        run(pl.LazyFrame({"text": ["a"]}), client)
    assert "collect" in caught.value.hint
    with pytest.raises(errors.FrameError, match="collect"):
        pl.LazyFrame({"text": ["a"]}).deepseek.apply(ASK, client=client)


@pytest.mark.parametrize(
    "texts", [pd.Series(["a"]), pl.Series(["a"]), ["a"]], ids=["pandas", "polars", "list"]
)
def test_texts_without_a_frame_are_told_how_to_become_one(client, texts):
    with pytest.raises(errors.FrameError, match=r"is no frame with rows\. Make it one: .*text") as caught:
        run(texts, client)
    assert "{{text}}" in caught.value.hint


def test_what_stops_a_polars_job_has_a_polars_frame(polars_frame, client, sandbox):
    sandbox.faults = FaultScript.always("balance_402")
    with pytest.raises(errors.BalanceExhausted) as caught:
        run(polars_frame, client)
    assert isinstance(caught.value.frame, pl.DataFrame)


def test_polars_frames_are_exported_without_formulas(tmp_path):
    frame = pl.DataFrame({"note": ["=1+1", "fine"], "n": [1, 2]})
    assert frame.deepseek.to_csv().splitlines() == ['"note","n"', '"\'=1+1",1', '"fine",2']
    frame.deepseek.to_excel(tmp_path / "notes.xlsx")
    assert pd.read_excel(tmp_path / "notes.xlsx")["note"].tolist() == ["'=1+1", "fine"]


def test_an_export_writes_whole_numbers_beside_an_empty_place_as_they_are(tmp_path):
    """To the last digit: an id is no float, in a column of any kind, nor in a category."""
    number = 2**60 + 1
    kinds = {"object": object, "Int64": "Int64", "category": pd.CategoricalDtype([number])}
    frame = pd.DataFrame({name: pd.Series([number, None], dtype=kind) for name, kind in kinds.items()})
    assert frame.deepseek.to_csv(index=False).splitlines()[1] == ",".join([str(number)] * 3)
    assert pl.DataFrame({"n": [number, None]}).deepseek.to_csv().splitlines()[1] == str(number)
    mixed = pd.DataFrame({"c": pd.Categorical(["=1+1", 3, None])}, index=pd.CategoricalIndex([1, 2, None]))
    assert mixed.deepseek.to_csv().splitlines()[1:] == ['1,"\'=1+1"', "2,3", '"",""']


# --------------------------------------------------------------------------------------------- Parquet


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_a_parquet_file_holds_what_the_frame_holds(frame, polars_frame, client, tmp_path, kind):
    """Read again it equals the frame; the index stands in front."""
    job = submit(frame if kind == "pandas" else polars_frame, ASK, schema=Full, client=client)
    out = job.result(30)
    job.to_parquet(tmp_path / "out.parquet")
    read = pl.read_parquet(tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.glob("*parquet*")] == ["out.parquet"]
    if kind == "polars":
        assert read.equals(out)
        return
    assert read.columns == ["index", *out.columns]
    assert read["index"].to_list() == frame.index.tolist()
    for name in out.columns:
        told = [None if empty else value for value, empty in zip(out[name], out[name].isna(), strict=True)]
        told = [value.date() for value in told] if name == "day" else told
        assert read[name].to_list() == told, name


def test_the_levels_of_an_index_are_columns_of_a_parquet_file(frame, client, tmp_path):
    frame.index = pd.MultiIndex.from_product([range(8), list("abcde")], names=["n", None])
    job = submit(frame, ASK, into="status_", client=client)
    job.result(30)
    job.to_parquet(tmp_path / "out.parquet")
    read = pl.read_parquet(tmp_path / "out.parquet")
    assert read.columns == ["n", "level_1", "status_", *ABOUT]
    assert list(zip(read["n"], read["level_1"], strict=True)) == frame.index.tolist()


def test_an_index_of_numbers_beyond_63_bits_is_text_in_a_parquet_file(client, tmp_path):
    """Such as hashes."""
    index = pd.Index([2**64 - 1, 1], dtype="uint64", name="hash")
    job = submit(pd.DataFrame({"text": ["a", "b"]}, index=index), ASK, client=client)
    job.result(30)
    job.to_parquet(tmp_path / "out.parquet")
    assert pl.read_parquet(tmp_path / "out.parquet")["hash"].to_list() == [str(2**64 - 1), "1"]


def test_a_parquet_file_that_cannot_be_written_leaves_nothing(frame, client, tmp_path):
    job = submit(frame.head(2), ASK, client=client)
    job.result(30)
    (tmp_path / "out.parquet").mkdir()
    with pytest.raises(OSError):
        job.to_parquet(tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.glob("*parquet*")] == ["out.parquet"]


def test_without_a_library_for_it_the_error_names_the_line_that_installs_one(tmp_path):
    code = """
import sys
sys.modules["polars"] = sys.modules["pyarrow"] = None  # as if they were not installed
import pandas as pd
from deepseek_nb.batch.frames_io import FrameForm
FrameForm(pd.DataFrame(), ()).write_parquet(pd.DataFrame(), "out.parquet")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "ConfigError" in done.stderr
    assert "pip install polars" in done.stderr
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------ any frame there is

CELLS = st.one_of(
    st.none(), st.text(max_size=6), st.integers(-9, 9), st.floats(width=16), st.booleans(), st.dates()
)
INDEXES = st.sampled_from(["range", "duplicated", "dates", "multi", "category", "mixed"])


def index_of(kind: str, rows: int) -> pd.Index:
    return {
        "range": lambda: pd.RangeIndex(7, 7 + rows),
        "duplicated": lambda: pd.Index(["same"] * rows, name="label"),
        "dates": lambda: pd.date_range("2026-01-01", periods=rows, freq="h"),
        "multi": lambda: pd.MultiIndex.from_arrays([range(rows), ["a"] * rows]),
        "category": lambda: pd.CategoricalIndex(["x", "y"] * rows)[:rows],
        "mixed": lambda: pd.Index([1, "a", None, 2.5, (3,)] * rows, dtype=object)[:rows],
    }[kind]()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(CELLS, max_size=8),
    kind=INDEXES,
    name=st.sampled_from(["text", 0, "x y"]),
    categories=st.booleans(),
    library=st.sampled_from(["pandas", "polars"]),
)
def test_any_frame_comes_back_row_for_row(cells, kind, name, categories, library, client, sandbox):
    """Equal cells have equal answers, a missing one fails alone, the index is kept, none is asked twice."""
    missing = [cell is None or cell != cell for cell in cells]  # the second is NaN
    if cells and all(missing):
        cells, missing = [*cells, "here"], [*missing, False]
    column = pd.Series(cells, dtype=object)
    if library == "polars":
        frame = pl.DataFrame(
            {str(name): [None if m else str(c) for c, m in zip(cells, missing, strict=True)]}
        )
    else:
        if categories and len(cells) and not any(missing):
            column = column.map(str).astype("category")
        frame = pd.DataFrame({name: column})
        frame.index = index_of(kind, len(cells))
    out = apply(frame, f"Echo {{{{{name}}}}} please", client=client, progress=False)
    assert [status == "failed" for status in out["status"]] == missing
    assert len(out) == len(cells)
    if library == "pandas":
        assert out.index.equals(frame.index)
    answers: dict[str, str] = {}
    for cell, gone, answer in zip(cells, missing, out["answer"], strict=True):
        if not gone:
            assert answers.setdefault(f"{type(cell).__name__}{cell}", answer) == answer
    assert sandbox.log.answered_twice() == {}
