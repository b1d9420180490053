"""The files the package carries are whole, dated and say where they come from."""

from __future__ import annotations

import csv
import io
from datetime import date

import pytest

from deepseek_nb import data


@pytest.mark.parametrize(
    "name", ["prices.json", "models.json", "holidays_cn.json", "german_credit.csv", "LICENSES.md"]
)
def test_every_carried_file_can_be_opened(name: str) -> None:
    """Each file the package promises is there, with text in it."""
    assert data.path(name).is_file()
    assert data.read_text(name).strip()


@pytest.mark.parametrize("name", ["rates.json", "__init__.py", "../core/errors.py"])
def test_another_name_names_what_there_is(name: str) -> None:
    """Asking for a file that is not carried lists those that are, and never leaves the folder."""
    with pytest.raises(FileNotFoundError, match=r"It carries: .*german_credit\.csv.*prices\.json"):
        data.path(name)


@pytest.mark.parametrize(("year", "count"), [("2025", 18), ("2026", 19)])
def test_holidays_are_the_weekday_ones_of_their_year(year: str, count: int) -> None:
    """The known years list exactly their public holidays on a Monday to Friday."""
    days = [date.fromisoformat(day) for day in data.read_json("holidays_cn.json")["years"][year]]
    assert len(days) == count
    assert {day.year for day in days} == {int(year)}
    assert all(day.isoweekday() <= 5 for day in days)


def test_every_model_has_a_price_and_the_limits_a_client_needs() -> None:
    """Ids, aliases and retired names of the models all appear in the price table."""
    models = data.read_json("models.json")
    priced = {
        name for row in data.read_json("prices.json")["rows"] for name in (row["model"], *row["aliases"])
    }
    for model in models["models"]:
        assert {model["id"], *model["aliases"]} <= priced
        assert 0 < model["max_output_tokens"] < model["context_tokens"]
        assert model["concurrency"] > 0
    ids = {model["id"] for model in models["models"]}
    assert {use["use"] for use in models["retired"].values()} <= ids
    assert set(models["retired"]) <= priced


def test_every_price_row_names_its_source() -> None:
    """A price without a source is hearsay, and a hit never costs more than a miss."""
    for row in data.read_json("prices.json")["rows"]:
        assert row["source"]
        for usd in filter(None, (row["off_peak"], row["peak"])):
            assert 0 < usd["hit"] < usd["miss"] < usd["output"]


def test_the_credit_table_is_the_whole_of_it_and_is_attributed() -> None:
    """1,000 applicants, 700 good and 300 bad, and the licence the data came under."""
    rows = list(csv.DictReader(io.StringIO(data.read_text("german_credit.csv"))))
    assert [row["applicant_id"] for row in rows] == [str(number) for number in range(1, 1001)]
    assert sum(row["credit_risk"] == "good" for row in rows) == 700
    licences = data.read_text("LICENSES.md")
    assert all(word in licences for word in ("CC BY 4.0", "Hofmann", "UCI", "What was changed"))
