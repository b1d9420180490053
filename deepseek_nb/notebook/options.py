"""The options of ``%deepseek`` and ``%%deepseek``, and how a magic's line is read.

The line is taken apart here and not by a shell-like splitter: a question may hold apostrophes,
quotes and anything else. A line that cannot be read is a ConfigError with the near name.
"""

from __future__ import annotations

import argparse
import difflib
import keyword
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from IPython.core import magic_arguments as ipython_arguments
from IPython.core.error import UsageError

from deepseek_nb.adapters.settings import parse_duration_s, parse_patience_s
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.notebook.views import VIEWS

__all__ = ["SHORT_USAGE", "Line", "read_line", "with_options"]

SHORT_USAGE = """\
%deepseek [options] question      %%deepseek [options]      with the question in the lines below it
%deepseek key | balance | models | cache | cost | jobs | fix | explain
{{name}} in a question is filled from your variables; --into NAME (or NAME <<) binds the answer.
%deepseek? lists the options."""

argument: Any = ipython_arguments.argument  # IPython gives its decorators no types
magic_arguments: Any = ipython_arguments.magic_arguments

_FLAGS = frozenset(
    {"--background", "--dry-run", "--help", "--new", "--next", "--no-cache", "--no-thinking", "--thinking"}
)
_SHORT = {"-h": "--help", "-m": "--model"}
_OPTION = re.compile(r"\s*(--?[A-Za-z][\w-]*)(=?)")
_VALUE = re.compile(
    r"""\s*(?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'|(?P<bare>\S+))(?=\s|$)"""
)
_TO_NAME = re.compile(r"\s*(\S+)\s*<<(?=\s|$)\s*")
_SECRET_LIKE = re.compile(r"(?:key|token|secret|password)$", re.IGNORECASE)


def _name(text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise ConfigError(f"{text!r} is not a name a variable can have.", hint="Such as: --into answer")
    return text


def _number(text: str, kind: Callable[[str], Any], fits: Callable[[Any], bool], what: str) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not fits(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def _usd(text: str) -> Any:
    return _number(
        text, lambda amount: float(amount.removeprefix("$")), lambda usd: 0 < usd < inf, "US dollars above 0"
    )


def _temperature(text: str) -> Any:
    return _number(text, float, lambda temperature: 0 <= temperature <= 2, "a number from 0 to 2")


def _count(text: str) -> Any:
    return _number(text, int, lambda count: count >= 1, "a whole number from 1 on")


def _priority(text: str) -> Any:
    return _number(text, int, range(1, 6).__contains__, "a priority from 1 to 5")


def _patience(text: str) -> str:
    parse_patience_s(text)
    return text


_ARGUMENTS = (
    argument("--into", metavar="NAME", type=_name, help="Bind the answer to this name, if it comes."),
    argument("--model", "-m", help="The model to ask."),
    argument(
        "--schema",
        metavar="NAME",
        help="Name of a pydantic model, JSON Schema or {column: type}: the value is then a checked object; "
        "of list[NAME], a DataFrame.",
    ),
    argument("--system", metavar="TEXT", help='Instructions that go first, in "quotes"; {{name}} is filled.'),
    argument("--temperature", type=_temperature, help="0 to 2."),
    argument("--max-tokens", type=_count, help="The longest answer, thinking included."),
    argument(
        "--priority", type=_priority, choices=range(1, 6), help="1 to 5; 5, the default here, goes first."
    ),
    argument(
        "--ttl", dest="ttl_s", type=parse_duration_s, help="How old a kept answer may be, such as 30min."
    ),
    argument("--no-cache", dest="cache", action="store_false", default=None, help="Ask anew, keep nothing."),
    argument("--budget", dest="budget_usd", metavar="USD", type=_usd, help="Not sent if it could cost more."),
    argument(
        "--patience",
        metavar="MIN",
        type=_patience,
        help="Minutes to keep trying while the server is busy (or 90s, 1h).",
    ),
    argument("--thinking", action="store_true", default=None, help="Let the model think first."),
    argument("--no-thinking", dest="thinking", action="store_false", default=None, help="Answer at once."),
    argument(
        "--as",
        dest="view",
        choices=VIEWS,
        help="How to show the answer. json and code bind what is in it, table a DataFrame.",
    ),
    argument("--next", action="store_true", help="Put the code of the answer into the next cell."),
    argument("--chat", metavar="NAME", help="Ask in the conversation of this name, after what was said."),
    argument("--new", action="store_true", help="Begin that conversation anew."),
    argument(
        "--sample", metavar="N", type=_count, help="Of a table in the prompt send N rows, evenly spaced."
    ),
    argument("--dry-run", action="store_true", help="Show the exact prompt, tokens and price; send nothing."),
    argument("--background", action="store_true", help="Go on at once; NAME is a handle with .result()."),
    argument("--help", "-h", action="store_true", help="Show these options."),
)
_NAMES = (
    *("--into", "--model", "--schema", "--system", "--temperature", "--max-tokens", "--priority", "--ttl"),
    *("--no-cache", "--budget", "--patience", "--thinking", "--no-thinking", "--as", "--next", "--chat"),
    *("--new", "--sample", "--dry-run", "--background", "--help"),
)


def with_options(magic: Any) -> Any:
    """Give a magic its options: they become its ``?`` help and its ``parser``."""
    for add in reversed(_ARGUMENTS):
        magic = add(magic)
    return magic_arguments()(magic)


@dataclass(frozen=True, slots=True)
class Line:
    """A magic's line, read."""

    options: argparse.Namespace
    into: str | None
    question: str
    """What follows the options, to the letter."""


def read_line(parser: argparse.ArgumentParser, line: str) -> Line:
    """Take a magic's line apart: ``NAME <<`` or options in any order, then the question.

    Raises ConfigError for what is no option, or no value for one.
    """
    position, into, arguments = 0, None, []
    while True:
        if into is None and not _OPTION.match(line, position) and (to := _TO_NAME.match(line, position)):
            into, position = _name(to[1]), to.end()
        elif (found := _OPTION.match(line, position)) is not None:
            name = _known(found[1])
            position = found.end()
            if name in _FLAGS:
                if found[2]:
                    raise ConfigError(f"{name} takes no value.")
                arguments.append(name)
            else:
                value, position = _value(line, position, name)
                arguments.append(f"{name}={value}")
        else:
            break
    options = _parsed(parser, arguments)
    if into and options.into and into != options.into:
        raise ConfigError(f"Two names for one answer: {into} << and --into {options.into}.", hint="Give one.")
    return Line(options, into or options.into, line[position:].strip())


def _known(name: str) -> str:
    name = _SHORT.get(name, name)
    if name in _NAMES:
        return name
    if _SECRET_LIKE.search(name):
        raise ConfigError(
            f"There is no option {name}: what stands in a cell is saved with the notebook.",
            hint="Run %deepseek key, or set DEEPSEEK_API_KEY before the kernel starts.",
        )
    near = difflib.get_close_matches(name.replace("_", "-"), _NAMES, n=1)
    raise ConfigError(
        f"There is no option {name}.", hint=f"Did you mean {near[0]}?" if near else "See: %deepseek?"
    )


def _value(line: str, position: int, name: str) -> tuple[str, int]:
    found = _VALUE.match(line, position)
    if found is None or found["bare"] in _NAMES:
        raise ConfigError(f"{name} needs a value after it.", hint="See: %deepseek?")
    quoted = found["double"] if found["double"] is not None else found["single"]
    value = found["bare"] if quoted is None else re.sub(r"""\\(["'\\])""", r"\1", quoted)
    return value, found.end()


def _parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    try:
        return parser.parse_args(arguments)
    except UsageError as error:
        why = re.sub(r" _(\w+) value", " value", str(error).removeprefix("argument "))
        raise ConfigError(f"{why}.", hint="See: %deepseek?") from None
