"""A template fills exactly what stands in double braces, and leaves everything else alone."""

from __future__ import annotations

import decimal
import math
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.core.errors import TemplateError
from deepseek_nb.core.template import Template

USER = SimpleNamespace(name="Ada", address=SimpleNamespace(city="London"), scores=[1, 2, 3])
NAMESPACE: dict[str, Any] = {
    "x": "VALUE",
    "user": USER,
    "d": {"key": "dk", "a b": "dab", "xs": [10, 20]},
    "xs": ["first", "last"],
    "a.b": "a column with a dot",
    "monthly income (DM)": 1169,
    "收入": "income",
    "_1": "an old result",
    "c{x}": "braces",
    "x}": "half a brace",
}


@pytest.mark.parametrize(
    ("source", "filled"),
    [
        ("{{x}}", "VALUE"),
        ("{{ x }} and {{\tx\n}}", "VALUE and VALUE"),
        ("{{monthly income (DM)}}", "1169"),
        ("{{收入}}", "income"),
        ("{{a.b}}", "a column with a dot"),
        ("{{_1}}", "an old result"),
        ("{{user.name}} of {{user.address.city}}", "Ada of London"),
        ("{{user.scores[0]}}{{user.scores[-1]}}", "13"),
        ("""{{d["key"]}}{{d['a b']}}{{ d["xs"][1] }}""", "dkdab20"),
        ("{{xs[0]}}", "first"),
        ("{{c{x}}}, {{ c{x} }}, {c{{x}}}", "braces, braces, {cVALUE}"),
        ("{{ x} }}", "half a brace"),
    ],
)
def test_names_and_paths_are_filled(source: str, filled: str) -> None:
    """A name with any characters is looked up as it stands, then read as a path."""
    assert Template(source).render(NAMESPACE) == filled


@pytest.mark.parametrize(
    ("source", "filled"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("{} {x} { {x} }", "{} {x} { {x} }"),
        (r"\frac{a}{b}", r"\frac{a}{b}"),
        ("a }} b", "a }} b"),
        ('{"a": {"b": {"c": 1}}}', '{"a": {"b": {"c": 1}}}'),
        ('{"a": {"b": {{x}}}}', '{"a": {"b": VALUE}}'),
        (r"\frac{{{x}}}{2}", r"\frac{VALUE}{2}"),
        (r"\{{{x}}\}", r"\{VALUE\}"),
        ("{{{{x}}}}", "{{VALUE}}"),
        (r"\{{x}}", "{{x}}"),
        (r"\{{ {{x}} }}", "{{ VALUE }}"),
        (r"row \\{{x}}", r"row \\VALUE"),
        (r"\\\{{x}}", r"\\{{x}}"),
        (r"a\b {x} \{", r"a\b {x} \{"),
        ("", ""),
    ],
)
def test_everything_else_stays_as_it_is(source: str, filled: str) -> None:
    """JSON, LaTeX and lone braces are literal; the innermost two count; a backslash makes them literal."""
    assert Template(source).render(NAMESPACE) == filled


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_double_braces_comes_back(text: str) -> None:
    """A prompt that asks for nothing is never touched."""
    template = Template(text)
    assert template.render({}) == text
    assert template.compile([])([]) == text
    assert template.names == ()


@given(st.text(), st.text(alphabet="{}x \\a"))
def test_values_are_never_expanded_again(value: str, braces: str) -> None:
    """Text from a table cannot smuggle a placeholder into the prompt."""
    smuggler = f"{braces}{{{{secret}}}}{value}"
    namespace = {"x": smuggler, "secret": "s3cret"}
    assert Template("<{{x}}>").render(namespace) == f"<{smuggler}>"
    assert Template("<{{x}}>").compile(["x", "secret"])([smuggler, "s3cret"]) == f"<{smuggler}>"


@given(st.lists(st.one_of(st.text(), st.integers(), st.booleans()), min_size=1, max_size=6), st.data())
def test_rows_are_filled_as_namespaces_are(values: list[Any], data: st.DataObject) -> None:
    """The fast way for many rows gives the same text as the slow one."""
    columns = [f"column {number}" for number in range(len(values))]
    asked = data.draw(st.lists(st.sampled_from(columns), max_size=8))
    template = Template("-".join(f"{{{{{name}}}}}" for name in asked))
    assert template.compile(columns)(values) == template.render(dict(zip(columns, values, strict=True)))


@pytest.mark.parametrize(
    ("source", "what", "line", "column"),
    [
        ("{{x", "is never closed", 1, 1),
        ("one\ntwo {{x\nthree", "is never closed", 2, 5),
        ("{{a {{x}}", "is never closed", 1, 1),
        ("{{{x", "is never closed", 1, 2),
        ("ok {{ }}", "has no name", 1, 4),
        ("{{}}", "has no name", 1, 1),
    ],
)
def test_broken_braces_name_their_place(source: str, what: str, line: int, column: int) -> None:
    """The error names line and column, and how to write literal braces."""
    with pytest.raises(
        TemplateError, match=rf"line {line}, column {column} of the template {what}"
    ) as caught:
        Template(source)
    assert r"\{{" in caught.value.hint
    assert (caught.value.line, caught.value.column) == (line, column)  # type: ignore[attr-defined]


def test_names_are_roots_in_order_each_once() -> None:
    """What a template asks for can be listed before anything is filled."""
    assert Template("{{b.c}} {{a}} {{ b['x'] }} {{a c}}").names == ("b", "a", "a c")


def test_a_missing_name_is_an_error_with_the_near_names() -> None:
    """Nothing is sent; the error says which names are missing, which are near and which there are."""
    template = Template("{{Porpose}} for {{amount}} by {{nobody}}")
    with pytest.raises(TemplateError) as caught:
        template.check(["purpose", "amount", "age"])
    assert caught.value.missing == ("Porpose", "nobody")  # type: ignore[attr-defined]
    assert caught.value.near == {"Porpose": ("purpose",), "nobody": ()}  # type: ignore[attr-defined]
    assert "asks for 'Porpose', 'nobody'" in str(caught.value)
    assert "For Porpose: Did you mean 'purpose'?" in str(caught.value)
    assert "Available: 'purpose', 'amount', 'age'." in str(caught.value)
    pickle.loads(pickle.dumps(caught.value))


def test_checking_filling_and_compiling_agree_on_what_is_missing() -> None:
    """Whichever is called first, the same error comes before any text."""
    template = Template("{{amuont}}")
    for call in (
        lambda: template.check(["amount"]),
        lambda: template.render({"amount": 1}),
        lambda: template.compile(["amount"]),
    ):
        with pytest.raises(TemplateError, match="Did you mean 'amount'"):
            call()
    template.check(["amuont"])


def test_a_long_list_of_names_is_cut_and_hides_private_ones() -> None:
    """A notebook has hundreds of variables; a message has five lines."""
    names = ["_", "__name__", *(f"column_{number:03}" for number in range(100))]
    with pytest.raises(TemplateError, match=r"'column_000', .*'column_011' and 88 more\.") as caught:
        Template("{{zzz}}").check(names)
    assert "__name__" not in str(caught.value)
    assert len(caught.value._render_traceback_()) <= 5


def test_nothing_at_all_is_available() -> None:
    """An empty table says so."""
    with pytest.raises(TemplateError, match="Available: nothing"):
        Template("{{x}}").check([])


@pytest.mark.parametrize(
    "text",
    ["user.name()", "x + 1", "user.__class__", "user._private", "d[key]", "d[1:2]", "'x'", "1", '"a":1'],
)
def test_nothing_is_computed_or_called(text: str) -> None:
    """No calls, sums, slices or private attributes; the error says what may stand there."""
    with pytest.raises(TemplateError, match=r"a name or a path") as caught:
        Template(f"{{{{{text}}}}}").render({"user": USER, "x": 1, "d": {}})
    assert caught.value.missing == (text,)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{user.nam}}", r"SimpleNamespace has no attribute 'nam'.*Did you mean 'name'"),
        ("{{d['kye']}}", r"dict has no item 'kye'.*Did you mean 'key'"),
        ("{{d.key}}", r"It is a dictionary: write \['key'\] instead of \.key"),
        ("{{xs[7]}}", "list has no item 7"),
        ("{{x['a']}}", "str has no item 'a'"),
    ],
)
def test_a_step_that_leads_nowhere_says_so(source: str, message: str) -> None:
    """Missing attributes, keys and positions are template errors, with near names where there are some."""
    with pytest.raises(TemplateError, match=message):
        Template(source).render(NAMESPACE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1169, "1169"),
        (1169.0, "1169"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1 / 3, "0.3333333333333333"),
        (1e22, "1e+22"),
        (math.inf, "inf"),
        (True, "True"),
        ("", ""),
        ("1169.0", "1169.0"),
        (decimal.Decimal("2.50"), "2.50"),
        ([1, "a"], "[1, 'a']"),
        (np.float64(1169.0), "1169"),
        (np.float64(0.1), "0.1"),
        (np.float32(0.1), "0.1"),
        (np.float32(7.0), "7"),
        (np.int64(3), "3"),
        (np.str_("text"), "text"),
        (np.array([1, 2]), "[1 2]"),
        (pd.Timestamp("2026-11-23"), "2026-11-23 00:00:00"),
    ],
)
def test_values_are_written_as_people_write_them(value: Any, text: str) -> None:
    """Whole floats lose their ``.0``, whatever library they come from; text is never changed."""
    assert Template("{{x}}").render({"x": value}) == text
    assert Template("{{x}}").compile(["x"])([value]) == text


@pytest.mark.parametrize(
    "empty",
    [
        None,
        math.nan,
        np.float64("nan"),
        np.float32("nan"),
        decimal.Decimal("NaN"),
        pd.NA,
        pd.NaT,
        np.datetime64("NaT", "s"),
    ],
    ids=repr,
)
def test_an_empty_value_is_an_error_unless_asked_otherwise(empty: Any) -> None:
    """A gap in a row is told, not sent as the word 'nan'; ``missing="empty"`` sends nothing for it."""
    with pytest.raises(TemplateError, match=r"\{\{x\}\} is empty.*missing='empty'") as caught:
        Template("{{x}}").compile(["x"])([empty])
    assert caught.value.missing == ("x",)  # type: ignore[attr-defined]
    assert Template("[{{x}}]", missing="empty").render({"x": empty}) == "[]"


def test_an_unknown_way_with_empty_values_is_refused() -> None:
    """A slip in ``missing`` does not wait for the first gap."""
    with pytest.raises(ValueError, match="'error' or 'empty'"):
        Template("{{x}}", missing="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [len, "text".upper, pytest, dict, lambda: 1])
def test_code_is_not_a_value(value: Any) -> None:
    """``{{df.head}}`` is a slip: nobody wants '<bound method ...>' in a prompt."""
    with pytest.raises(TemplateError, match="not a value"):
        Template("{{x}}").render({"x": value})


def test_a_column_that_is_there_twice_is_refused_if_asked_for() -> None:
    """Which of the two was meant cannot be known; twins nobody asks for do no harm."""
    with pytest.raises(TemplateError, match="2 columns have that name"):
        Template("{{a}}").compile(["a", "b", "a"])
    assert Template("{{b}}").compile(["a", "b", "a"])([1, 2, 3]) == "2"


def test_columns_need_not_be_text() -> None:
    """A frame without header numbers its columns."""
    assert Template("{{0}}-{{1}}").compile([0, 1])(["a", "b"]) == "a-b"  # type: ignore[list-item]


def test_templates_are_values() -> None:
    """Equal sources are equal templates; they travel to other processes."""
    template = Template("{{x}}")
    assert template == Template("{{x}}")
    assert template != Template("{{x}}", missing="empty")
    assert pickle.loads(pickle.dumps(template)).render({"x": 1}) == "1"
    assert repr(template) == "Template(source='{{x}}', missing='error')"


def test_a_name_that_ends_in_a_brace_is_told_how_to_write_it() -> None:
    with pytest.raises(TemplateError) as caught:
        Template("{{y}}}").render({"y}": 1})
    assert "Put a blank" in caught.value.hint


def test_sets_have_one_text_in_every_process() -> None:
    """Words hash differently in each: the order of a set is no part of what it says."""
    code = """
from deepseek_nb.core.template import Template
print(Template("{{x}}").render({"x": set("abcdef")}), Template("{{x}}").render({"x": frozenset([2, 10])}))
"""
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert told == {"{'a', 'b', 'c', 'd', 'e', 'f'} {10, 2}\n"}
