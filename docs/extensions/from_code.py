"""``{from-code} WHAT``: tables of options, settings, errors, alarms and figures, made from the code."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from deepseek_nb import cli
from deepseek_nb.adapters import settings
from deepseek_nb.core import alarms, errors
from deepseek_nb.core.metrics import Metrics
from deepseek_nb.data import read_json
from deepseek_nb.gateway.monitor import Monitor
from deepseek_nb.notebook.magics import DeepSeekMagics
from deepseek_nb.sandbox import fault_table

DONE = {
    "refused": "tried again; the try does not count",
    "retry": "tried again, a few times",
    "repair": "asked again, changed, at most twice",
    "pause": "the job stops with everything saved; the same call goes on",
    "final": "this row fails, the others go on",
    "stop": "raised at once",
}
"""What is done about an error, by its disposition."""
USAGE_WIDTH = 90
ROLE = re.compile(r":\w+:`~?([^`]+)`")


# ------------------------------------------------------------------------------------------- Markdown


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(each) for each in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def code(text: str) -> str:
    """As code."""
    return f"`{text}`" if text else ""


def markdown(docstring: str) -> str:
    """A docstring's reStructuredText as Markdown, as far as one paragraph has any."""
    return ROLE.sub(lambda role: code(role[1].rpartition(".")[2]), docstring).replace("``", "`")


def _paragraph(value: Any) -> str:
    return markdown((inspect.getdoc(value) or "").split("\n\n")[0])


def _attributes(kind: type) -> dict[str, str]:
    """What stands below each attribute of a class in its source."""
    found = ModuleAnalyzer.for_module(kind.__module__).find_attr_docs()
    return {name: markdown(" ".join(lines)) for (of, name), lines in found.items() if of == kind.__name__}


# ----------------------------------------------------------------------------------------- the options


def _words(action: argparse.Action) -> str:
    if not action.option_strings:
        return code(str(action.metavar or action.dest))
    value = ""
    if action.nargs != 0:
        choices = action.choices and "|".join(map(str, action.choices))
        value = " " + str(action.metavar or choices or action.dest.upper())
    return ", ".join(code(name + value) for name in action.option_strings)


def _options(parser: argparse.ArgumentParser, *, head: str = "option") -> str:
    listed = [
        action
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction) and action.help != argparse.SUPPRESS
    ]
    shown = [(_words(one), _sentence(one.help or "")) for one in listed if "--help" not in one.option_strings]
    return table((head, ""), shown) if shown else ""


def _sentence(text: str) -> str:
    return markdown(text.replace("%%", "%"))


def _inner(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _commands(name: str, parser: argparse.ArgumentParser, told: str = "") -> list[str]:
    parser.formatter_class = functools.partial(argparse.HelpFormatter, width=USAGE_WIDTH)
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    parts = [f"## {name}", _sentence(parser.description or told), f"```text\n{usage}\n```", _options(parser)]
    parts += [_sentence(parser.epilog or "")]
    for inner_name, inner in _inner(parser).items():
        parts += _commands(f"{name} {inner_name}", inner, _help_of(parser, inner_name))
    return parts


def _help_of(parser: argparse.ArgumentParser, name: str) -> str:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                if choice.dest == name:
                    told = choice.help or ""
                    return f"{told[:1].upper()}{told[1:]}."
    return ""


def commands() -> str:
    """``deepseek-nb`` and all its commands."""
    return "\n\n".join(filter(None, _commands("deepseek-nb", cli._parser())))


def magic() -> str:
    """The options of ``%deepseek`` and ``%%deepseek``."""
    return _options(DeepSeekMagics.deepseek.parser)


def magic_defaults() -> str:
    """What ``%config DeepSeekMagics`` lists."""
    traits = DeepSeekMagics.class_own_traits(config=True)
    rows = [
        (code(name), code(repr(traits[name].default_value)), markdown(traits[name].help)) for name in traits
    ]
    return table(("name", "default", ""), rows)


# ---------------------------------------------------------------------------------------- the settings


def settings_table() -> str:
    """All settings: what each takes, its default, its variable."""
    told, rows = _attributes(settings.Settings), []
    for each in dataclasses.fields(settings.Settings):
        if each.name in settings.KINDS:
            default = "the user's own" if each.default is dataclasses.MISSING else code(str(each.default))
            kind = settings.KINDS[each.name]
            words = f"{told.get(each.name, '')} *{kind.says[:1].upper()}{kind.says[1:]}.*"
            rows.append((code(each.name), default, words))
    return table(("setting", "default", "what it says, and *what it takes*"), rows)


def prices() -> str:
    """The dated price table."""
    rows = []
    for row in read_json("prices.json")["rows"]:
        for hours in ("off_peak", "peak"):
            if row[hours] is not None:
                usd = [f"{row[hours][part]:g}" for part in ("hit", "miss", "output")]
                rows.append((row["model"], row["valid_from"][:10], hours.replace("_", "-"), *usd))
    return table(("model", "from", "hours", "cache hit", "cache miss", "output"), rows)


# ------------------------------------------------------------------------------------------ the errors


def _below(root: type[errors.DeepSeekError], depth: int = 0) -> list[tuple[int, type[errors.DeepSeekError]]]:
    found = []
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            found += [(depth, kind), *_below(kind, depth + 1)]
    return found


def _errors(root: type[errors.DeepSeekError]) -> str:
    rows = []
    for depth, kind in [(0, root), *_below(root, 1)] if root is errors.AnswerInvalid else _below(root):
        name = "  " * depth + f"{{py:class}}`~deepseek_nb.errors.{kind.__name__}`"
        told = f"{_paragraph(kind)} *{kind.default_hint}*" if kind.default_hint else _paragraph(kind)
        rows.append((name, told, kind.charged, DONE[kind.disposition.value]))
    return table(("class", "cause, and *what to do*", "charged", "what is done"), rows)


def errors_yours() -> str:
    """What has to change on this side."""
    return _errors(errors.Yours)


def errors_theirs() -> str:
    """What the server or the way to it did."""
    return _errors(errors.Theirs)


def errors_answers() -> str:
    """Answers that were paid for and cannot be used."""
    return _errors(errors.AnswerInvalid)


def error_classes() -> str:
    """The entries of all classes, for links to them."""
    kinds = [
        kind for root in (errors.Yours, errors.Theirs, errors.AnswerInvalid) for kind in (root, *_all(root))
    ]
    entries = [f".. autoclass:: deepseek_nb.errors.{kind.__name__}()\n   :members:" for kind in kinds]
    return "```{eval-rst}\n" + "\n\n".join(entries) + "\n```"


def _all(root: type[errors.DeepSeekError]) -> list[type[errors.DeepSeekError]]:
    return [kind for _, kind in _below(root)]


# ----------------------------------------------------------------------------------- figures and alarms


def alarm_table() -> str:
    """The alarms: what is watched, from where on, until when, what to do."""
    usual, rows = alarms.Thresholds(), []
    for name, rule in alarms.RULES.items():
        at = getattr(usual, rule.field)
        if rule.field == "quota":
            begins, ends = f"{at:.0%} or more", f"{(1 - alarms.BACK_SHARE) * at:.0%} or less"
        elif rule.below:
            begins, ends = f"under {at:.0%}", f"{at + alarms.BACK_SHARE * (1 - at):.0%} or more"
        elif name == "p99_ms":
            begins, ends = f"over {at:,.0f} ms", f"{(1 - alarms.BACK_SHARE) * at:,.0f} ms or less"
        else:
            begins, ends = f"over {at:.1%}", f"{(1 - alarms.BACK_SHARE) * at:.1%} or less"
        rows.append((rule.title, begins, ends, code(f"{rule.field}="), rule.todo))
    return table(("watched", "alarm from", "ends at", "set with", "what to do"), rows)


def least_calls() -> str:
    """From how many calls on shares and latencies are judged."""
    return f"Fewer than {alarms.Thresholds().least_calls} calls (`least_calls=`) are not judged."


def client_figures() -> str:
    """What a client counts."""
    told = _attributes(Metrics) | {
        name: _paragraph(value) for name, value in vars(Metrics).items() if isinstance(value, property)
    }
    return table(("figure", ""), [(code(name), words) for name, words in told.items()])


def gateway_figures() -> str:
    """What the gateway counts for Prometheus."""
    families = Monitor(clock=lambda: math.nan).registry.collect()
    rows = [(code(one.name + "_total" * (one.type == "counter")), one.documentation) for one in families]
    return table(("metric", ""), rows)


# --------------------------------------------------------------------------------------- the directive

TABLES: dict[str, Callable[[], str]] = {
    "alarms": alarm_table,
    "client-figures": client_figures,
    "commands": commands,
    "error-classes": error_classes,
    "errors-answers": errors_answers,
    "errors-theirs": errors_theirs,
    "errors-yours": errors_yours,
    "faults": fault_table,
    "gateway-figures": gateway_figures,
    "least-calls": least_calls,
    "magic": magic,
    "magic-defaults": magic_defaults,
    "prices": prices,
    "settings": settings_table,
}


class FromCode(SphinxDirective):
    """Put in what the code says of itself; a name that is not in ``TABLES`` is an error of the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table as part of the page."""
        make = TABLES.get(self.arguments[0])
        if make is None:
            raise self.error(f"no table {self.arguments[0]!r}: there are {', '.join(TABLES)}")
        return self.parse_text_to_nodes(make(), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("from-code", FromCode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
