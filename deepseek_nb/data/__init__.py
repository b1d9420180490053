"""Files the package carries: dated prices, holidays and models, and a small data set for the examples."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

__all__ = ["path", "read_json", "read_text"]


def path(name: str) -> Traversable:
    """Find the carried file called ``name``, to be opened or read wherever the package is installed.

    Raises FileNotFoundError, naming the files there are, if there is none of that name.

    >>> path("german_credit.csv").name
    'german_credit.csv'
    """
    room = files(__name__)
    carried = sorted(file.name for file in room.iterdir() if file.is_file() and not _is_code(file.name))
    if name not in carried:
        raise FileNotFoundError(f"The package carries no file {name!r}. It carries: {', '.join(carried)}.")
    return room / name


def read_text(name: str) -> str:
    """Read the text of the carried file called ``name`` (UTF-8).

    >>> read_text("german_credit.csv").partition(",")[0]
    'applicant_id'
    """
    return path(name).read_text(encoding="utf-8")


def read_json(name: str) -> Any:
    """Read what the carried JSON file called ``name`` holds.

    >>> [model["id"] for model in read_json("models.json")["models"]]
    ['deepseek-flash', 'deepseek-v4-pro']
    """
    return json.loads(read_text(name))


def _is_code(name: str) -> bool:
    return name.endswith((".py", ".pyc"))
