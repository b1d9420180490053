"""Arguments of the wrong kind are refused before anything is sent; numbers of other packages are taken."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

import deepseek_nb as ds
from deepseek_nb.core.errors import ConfigError, RequestInvalid, TemplateError

REFUSALS = (RequestInvalid, ConfigError)
WRONG = [
    ("model", 3, "model is a text, not 3"),
    ("model", ["a"], r"model is a text, not \['a'\]"),
    ("system", 3, "system is a text, not 3"),
    ("temperature", "hot", "temperature is a number, not 'hot'"),
    ("temperature", True, "temperature is a number, not True"),
    ("temperature", float("nan"), "temperature is a number, not nan"),
    ("max_tokens", "many", "max_tokens is a whole number, not 'many'"),
    ("max_tokens", 1.5, "max_tokens is a whole number, not 1.5"),
    ("priority", 9, "priority is a whole number from 1 to 5, not 9"),
    ("priority", "high", "priority is a whole number, not 'high'"),
    ("cache", "no", "cache is True or False, not 'no'"),
    ("thinking", "yes", "thinking is True or False, not 'yes'"),
    ("budget_usd", "1", "budget_usd is an amount above 0, not '1'"),
    ("budget_usd", 0, "budget_usd is an amount above 0, not 0"),
    ("budget_usd", float("nan"), "budget_usd is an amount above 0, not nan"),
]


@pytest.mark.parametrize(("name", "value", "words"), WRONG)
def test_a_question_with_a_wrong_argument_is_refused(client, sandbox, name, value, words):
    with pytest.raises(REFUSALS, match=words):
        client.ask("hi", **{name: value})
    assert len(sandbox.log) == 0


@pytest.mark.parametrize(("name", "value", "words"), WRONG)
def test_a_job_with_a_wrong_argument_is_refused(client, sandbox, name, value, words):
    frame = pd.DataFrame({"a": [1, 2]})
    with pytest.raises(REFUSALS, match=words):
        ds.apply(frame, "Rate {{a}}", client=client, progress=False, **{name: value})
    assert len(sandbox.log) == 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("top_p", "x", "top_p is a number"),
        ("stop", 3, "stop is a text or a list of texts"),
        ("stop", ["a", 3], "stop is a text or a list of texts"),
        ("reasoning_effort", 3, "reasoning_effort is a text"),
        ("user_id", 3, "user_id is a text"),
    ],
)
def test_so_is_what_only_a_question_has(client, sandbox, name, value, words):
    with pytest.raises(REFUSALS, match=words):
        client.ask("hi", **{name: value})
    assert len(sandbox.log) == 0


@pytest.mark.parametrize("fallback", ["http://127.0.0.1:1/v1", ["deepseek-v4-pro", "http://127.0.0.1:1/v1"]])
def test_an_address_alone_is_no_fallback(client, sandbox, fallback):
    with pytest.raises(ConfigError, match="a model"):
        client.ask("hi", fallback=fallback)
    assert len(sandbox.log) == 0


def test_numbers_of_other_packages_are_numbers(client, sandbox):
    """Those of numpy and decimal, for a question and for a job, which is named by them."""
    given = {
        "temperature": np.float32(0.5),
        "max_tokens": np.int64(500),
        "priority": np.int64(5),
        "cache": np.bool_(False),
        "thinking": np.bool_(False),
        "budget_usd": Decimal("0.5"),
    }
    assert client.ask("hi", **given).text
    frame = pd.DataFrame({"a": [1]})
    assert list(ds.apply(frame, "Rate {{a}}", client=client, progress=False, **given)["status"]) == ["done"]
    plain = {"temperature": 0.5, "max_tokens": 500, "thinking": False}
    ds.apply(frame, "Rate {{a}}", client=client, progress=False, **plain)  # the same job, which is done
    assert len(sandbox.log) == 2


def test_a_plain_number_keeps_its_kind(client):
    """The answer store knows ``0`` and ``0.0`` apart: an answer paid before is found again."""
    assert type(client.aio.prepare("hi", temperature=0).request.temperature) is int
    assert type(client.aio.prepare("hi", temperature=0.0).request.temperature) is float


@pytest.mark.parametrize("ask", [ds.apply, ds.plan, ds.submit])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"template": 3}, "A template is a text, not int"),
        ({"template": ["{{a}}"]}, "A template is a text, not list"),
        ({"client": 3}, "client is a deepseek_nb.Client, not int"),
        ({"nested": "deep"}, "nested is 'object' or 'flatten', not 'deep'"),
        ({"raw": "yes"}, "raw is True or False, not 'yes'"),
        ({"retry_failed": "all"}, "retry_failed is True or False, not 'all'"),
        ({"when": "offpeek"}, "when= is 'now' or 'offpeak', not 'offpeek'"),
        ({"patience": "soon"}, "'soon' is not a duration"),
    ],
)
def test_a_job_a_plan_and_a_background_job_refuse_the_same(client, sandbox, ask, given, words):
    """A plan is not shown for what could not be done."""
    options = {"template": "Rate {{a}}", "client": client, **given}
    with pytest.raises((*REFUSALS, TemplateError), match=words):
        ask(pd.DataFrame({"a": [1, 2]}), **options)
    assert len(sandbox.log) == 0


def test_a_template_made_before_is_taken(client):
    frame = pd.DataFrame({"a": [1]})
    done = ds.apply(frame, ds.Template("Rate {{a}}"), client=client, progress=False, job="t")
    assert done.equals(ds.apply(frame, "Rate {{a}}", client=client, progress=False, job="t"))
