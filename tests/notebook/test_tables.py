"""Tables in a prompt: what is sent of them, what is refused; and rows of an answer as a table."""

from __future__ import annotations

import csv
import io

import pandas as pd
import polars as pl
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.core.errors import TemplateError
from deepseek_nb.core.template import Template
from deepseek_nb.notebook.prompt_tables import PromptTables, is_table
from deepseek_nb.notebook.shapes import _frame
from deepseek_nb.notebook.tables import ROWS_SHOWN, rows_bundle


def written(value, *, sample: int | None = None, most_chars: int = 10_000) -> tuple[str, list[str]]:
    tables = PromptTables(most_chars=most_chars, sample=sample)
    return Template("{{v}}").render({"v": value}, tables), tables.notes


def test_a_table_is_names_once_and_a_line_for_each_row():
    """Whole numbers without a trailing .0, gaps empty, commas and line ends quoted."""
    frame = pd.DataFrame({"n": [1.0, 2.5, None], "text": ["a,b", "two\nlines", None], "k": [1, 2, 3]})
    text, notes = written(frame)
    assert text == 'n,text,k\n1,"a,b",1\n2.5,"two\nlines",2\n,,3'
    assert notes == ["v: 3 of 3 rows, 3 of 3 columns sent"]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        pl.LazyFrame({"a": [1, 2], "b": ["x", "y"]}),
    ],
    ids=["pandas", "polars", "lazy"],
)
def test_frames_of_every_library_are_sent_alike(frame):
    assert written(frame)[0] == "a,b\n1,x\n2,y"


@pytest.mark.parametrize("series", [pd.Series([1, 2], name="a"), pl.Series("a", [1, 2])], ids=["pd", "pl"])
def test_a_series_is_a_table_of_one_column(series):
    assert written(series)[0] == "a\n1\n2"


def test_an_index_that_says_something_is_sent():
    """Names and labels are; the numbers of rows, whatever their order, are not."""
    frame = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    assert written(frame)[0] == "index,a\nx,1\ny,2"
    assert written(frame.rename_axis("who"))[0] == "who,a\nx,1\ny,2"
    assert written(pd.DataFrame({"a": [1, 2]}, index=[7, 3]))[0] == "a\n1\n2"
    grouped = pd.DataFrame({"g": ["m", "m", "w"], "v": [1, 3, 5]}).groupby("g").v.mean()
    assert written(grouped)[0] == "g,v\nm,2\nw,5"


def test_columns_of_one_name_are_told_apart():
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    assert written(frame)[0] == "a,a (2)\n1,2"
    assert list(frame.columns) == ["a", "a"], "the user's frame is left alone"


def test_a_sample_is_evenly_spaced_and_said():
    """The same rows each time: the same question is found in the store."""
    frame = pd.DataFrame({"a": range(1000)})
    text, notes = written(frame, sample=4)
    assert text == "a\n0\n250\n500\n750"
    assert notes == ["v: 4 of 1,000 rows, evenly spaced, 1 of 1 columns sent"]
    assert written(frame[:3], sample=4)[1] == ["v: 3 of 3 rows, 1 of 1 columns sent"]


@pytest.mark.parametrize("rows", [200, 5_000_000])
def test_a_table_that_is_too_long_is_refused_with_a_way_that_works(rows):
    """A huge one without being written out; the sample it names fits."""
    frame = pd.DataFrame({"a": range(rows), "b": "some words"})
    with pytest.raises(TemplateError) as refused:
        written(frame, most_chars=2_000)
    sample = int(refused.value.hint.split("--sample ")[1].split(",")[0])
    assert f"{rows:,} rows x 2 columns" in refused.value.message
    assert 2 <= sample < rows
    assert len(refused.value._render_traceback_()) <= 5
    assert len(written(frame, sample=sample, most_chars=2_000)[0]) <= 2_000


def test_what_is_no_table_is_left_to_the_template():
    class Table:
        """Of that name, and of no library."""

    assert not any(is_table(value) for value in (1, "x", [1], {"a": 1}, Table(), None, pd, pd.Timestamp(0)))
    assert written([1, 2])[0] == "[1, 2]"


def test_values_are_never_expanded_again():
    frame = pd.DataFrame({"a": ["{{secret}}"]})
    text = Template("{{v}} {{secret}}").render({"v": frame, "secret": "s"}, PromptTables(most_chars=99))
    assert text == "a\n{{secret}} s"


@given(st.lists(st.tuples(st.text(), st.integers() | st.none()), max_size=5))
def test_any_cells_can_be_read_back(rows):
    """A reader of CSV finds the same table."""
    frame = pl.DataFrame({"a": [a for a, _ in rows], "b": [str(b) for _, b in rows]})
    read = list(csv.reader(io.StringIO(written(frame)[0], newline="")))
    lines = [[a.replace("\r\n", "\n").replace("\r", "\n"), b] for a, b in frame.iter_rows()]
    assert read == [["a", "b"], *lines]


# ------------------------------------------------------------------------------- rows of an answer


def test_rows_become_a_frame_with_the_named_columns():
    assert list(_frame([], ("a", "b")).columns) == ["a", "b"]
    assert _frame([{"a": 1}, {"b": 2}]).shape == (2, 2)


def test_rows_of_a_model_that_writes_its_aliases_are_not_empty():
    class Rated(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(serialize_by_alias=True)
        risk_level: int = pydantic.Field(alias="riskLevel")

    assert _frame([Rated(riskLevel=3)], tuple(Rated.model_fields))["risk_level"].tolist() == [3]


def test_rows_are_shown_as_markdown_and_as_aligned_text():
    bundle = rows_bundle([{"name": "a|b", "n": 1.0}, {"name": "long one", "n": None}])
    assert bundle["text/markdown"] == "| name | n |\n| :--- | :--- |\n| a\\|b | 1 |\n| long one |  |"
    assert bundle["text/plain"] == "name      n\na|b       1\nlong one"


def test_of_many_rows_the_first_are_shown_and_all_are_counted():
    bundle = rows_bundle([{"n": n} for n in range(1000)], "risks")
    assert bundle["text/plain"].splitlines()[-1] == f"{ROWS_SHOWN} of 1,000 rows shown; all are in risks"
    assert bundle["text/markdown"].count("\n| ") == ROWS_SHOWN + 1


def test_cells_of_an_answer_are_harmless():
    bundle = rows_bundle([{"<b>\x01": "<script>x</script> ![p](https://e/p.png)\n| x"}])
    assert bundle["text/plain"].startswith("<b>\n")
    assert "<script" not in bundle["text/markdown"]
    assert "![" not in bundle["text/markdown"]
    assert len(bundle["text/markdown"].splitlines()) == 3
