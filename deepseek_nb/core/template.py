r"""Prompts with ``{{names}}`` in them, filled from a row of a table or from a notebook's variables.

``{{purpose}}`` is the column or variable of that name, whatever characters the name has
(``{{monthly income (DM)}}``). Where there is none, it is read as a path: ``{{user.name}}``,
``{{d["key"]}}``, ``{{xs[0]}}``, in any combination, without calls and without attributes that
begin with an underscore. Blanks inside the braces do not matter.

Everything else is left as it is: single braces, JSON, LaTeX, ``}}`` by itself. In a longer row of
braces the innermost two count, so ``\frac{{{a}}}{2}`` fills ``a``. Literal double braces are
written ``\{{`` (two backslashes before ``{{`` are two backslashes). Values are never expanded
again: a text from a table cannot smuggle a placeholder into the prompt.
"""

from __future__ import annotations

import difflib
import math
import numbers
import re
import types
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from deepseek_nb.core.errors import TemplateError

__all__ = ["Template"]

NAMES_SHOWN = 12
LITERAL_HINT = r"Write \{{ where double braces are meant literally."
PATH_HINT = (
    "Inside {{ }} stands a name or a path like user.name or d['key']: no call, no sum, nothing private."
)

_OPEN = re.compile(r"(\\*)\{\{(?!\{)")
_PATH = re.compile(r"""(?P<root>[^\W\d]\w*)(?P<steps>(?:\.[^\W\d_]\w*|\[(?:-?\d+|"[^"]*"|'[^']*')\])*)""")
_STEP = re.compile(r"""\.(?P<attribute>\w+)|\[(?P<index>-?\d+)\]|\[(?P<quote>["'])(?P<key>.*?)(?P=quote)\]""")
_EMPTY_KINDS = frozenset({"NAType", "NaTType"})  # pandas, known by name: this room imports no library
_TRUTH_KINDS = frozenset({"bool", "bool_"})  # numpy's, too
_DATE_KINDS = frozenset({"datetime64", "timedelta64"})  # numpy's, where "not a time" is unequal to itself
_NO_TEXT: tuple[Any, Any] = (object.__str__, object.__repr__)
_CODE = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, type)


@dataclass(frozen=True, slots=True)
class Template:
    r"""A prompt with ``{{placeholders}}``.

    ``missing`` says what an empty value (None, NaN, NA, NaT) does: ``"error"`` raises, ``"empty"``
    puts nothing in its place. Raises TemplateError, naming line and column, for ``{{`` that is not
    closed or is empty.

    >>> Template("Rate {{purpose}} as {\"risk\": 1 to 5}.").render({"purpose": "a used car"})
    'Rate a used car as {"risk": 1 to 5}.'
    """

    source: str
    missing: Literal["error", "empty"] = "error"
    _head: str = field(init=False, repr=False, compare=False)
    _slots: tuple[tuple[_Placeholder, str], ...] = field(init=False, repr=False, compare=False)
    """Each placeholder and the literal text after it."""

    def __post_init__(self) -> None:
        if self.missing not in ("error", "empty"):
            raise ValueError(f"missing is 'error' or 'empty', not {self.missing!r}.")
        head, slots = _parse(self.source)
        object.__setattr__(self, "_head", head)
        object.__setattr__(self, "_slots", slots)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns or variables it asks for, in order, each once; of a path, where it starts.

        >>> Template("{{user.name}}, {{age}}, {{user.city}}").names
        ('user', 'age')
        """
        return tuple(dict.fromkeys(placeholder.root or placeholder.text for placeholder, _ in self._slots))

    @property
    def fields(self) -> tuple[str, ...]:
        """What stands between its braces, in order, each once: names and whole paths.

        >>> Template("{{user.name}}, {{age}}, {{user.name}}").fields
        ('user.name', 'age')
        """
        return tuple(dict.fromkeys(placeholder.text for placeholder, _ in self._slots))

    def has_paths(self, available: Container[str]) -> bool:
        """Whether a placeholder goes into a value, such as ``{{user.name}}`` where there is only ``user``."""
        found = (placeholder.resolve(available) for placeholder, _ in self._slots)
        return any(where is not None and where[1] for where in found)

    def named(self) -> str:
        r"""Its text with the placeholders left in, as one reads it: ``\{{`` is ``{{``.

        >>> Template("Rate { {purpose} } of {{ purpose }}").named()
        'Rate { {purpose} } of {{purpose}}'
        """
        return self._head + "".join(f"{{{{{slot.text}}}}}{tail}" for slot, tail in self._slots)

    def prose(self) -> str:
        """Its text without the placeholders."""
        return self._head + "".join(tail for _, tail in self._slots)

    def readers(self, columns: Sequence[str]) -> list[tuple[int, Callable[[Any], Any]]]:
        """For each of :attr:`fields`: the position of its column, and what takes its value from a cell.

        Text comes as it is, None for a value that is empty (with ``missing="empty"``), whole numbers and
        truth values as themselves, other numbers as numbers where JSON has them, anything else as text.
        Raises TemplateError as :meth:`compile`; the readers raise as :meth:`render`.
        """
        self.compile(columns)
        labels = [str(column) for column in columns]
        plan = {
            placeholder.text: (name, steps, placeholder)
            for name, steps, placeholder, _ in self._plan(dict.fromkeys(labels))
        }
        return [
            (labels.index(name), partial(self._value, slot, steps)) for name, steps, slot in plan.values()
        ]

    def _value(self, placeholder: _Placeholder, steps: tuple[_Step, ...], value: Any) -> Any:
        value = _at_the_end(steps, value, placeholder)
        if type(value) in (str, int):
            return value
        if type(value).__name__ in _TRUTH_KINDS:
            return bool(value)
        text = self._show(placeholder, (), value)
        if _is_empty(value):
            return None
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            try:
                return int(text)
            except ValueError:
                number = float(text)
                return number if math.isfinite(number) else text
        return text

    def check(self, available: Iterable[str]) -> None:
        """Make sure that every placeholder can be filled from these columns or variables.

        Raises TemplateError with ``missing`` (the names there are none of) and ``near`` (for each
        of them, the available names that look like it).

        >>> Template("{{purpose}}").check(["purpose", "amount"])
        """
        self._plan(dict.fromkeys(available))

    def render(
        self, namespace: Mapping[str, Any], write: Callable[[Any, str], str | None] | None = None
    ) -> str:
        """Fill it from a mapping of names to values.

        Text goes in as it is, whole numbers without a trailing ``.0``, anything else as ``str``
        shows it. ``write(value, placeholder)``, where given, is asked first about every value that is
        no text, and says None to leave it. Raises TemplateError if a name, key or attribute is missing,
        a value is empty (unless ``missing="empty"``) or is a function, class or module.

        >>> Template("{{amount}} DM for {{d['what']}}").render({"amount": 1169.0, "d": {"what": "radio"}})
        '1169 DM for radio'
        """
        filled = [self._head]
        for name, steps, placeholder, tail in self._plan(namespace):
            filled += [self._show(placeholder, steps, namespace[name], write), tail]
        return "".join(filled)

    def compile(self, columns: Sequence[str]) -> Callable[[Sequence[Any]], str]:
        """Make a function that fills it from rows of values in the order of ``columns``, for many rows.

        Raises TemplateError as :meth:`check`, or if a column that is asked for is there twice; the
        function raises as :meth:`render`.

        >>> fill = Template("{{b}} and {{a}}").compile(["a", "b"])
        >>> [fill(row) for row in [(1, 2), (3, 4)]]
        ['2 and 1', '4 and 3']
        """
        labels = [str(column) for column in columns]
        plan = self._plan(dict.fromkeys(labels))
        for name, *_ in plan:
            if labels.count(name) > 1:
                raise TemplateError(
                    f"The template asks for {name!r}, and {labels.count(name)} columns have that name.",
                    hint="Rename or drop all but one of them.",
                )
        placed = [(labels.index(name), steps, placeholder, tail) for name, steps, placeholder, tail in plan]

        def fill(values: Sequence[Any]) -> str:
            filled = [self._head]
            for position, steps, placeholder, tail in placed:
                value = values[position]
                if steps or type(value) is not str:
                    value = self._show(placeholder, steps, value)
                filled.append(value)
                filled.append(tail)
            return "".join(filled)

        return fill

    def _plan(self, available: Mapping[str, Any]) -> list[tuple[str, tuple[_Step, ...], _Placeholder, str]]:
        """For each placeholder: the name to look up, the steps from there, itself, the text after it."""
        found = [(placeholder.resolve(available), placeholder, tail) for placeholder, tail in self._slots]
        plan = [(*where, placeholder, tail) for where, placeholder, tail in found if where is not None]
        if len(plan) < len(found):
            lacking = [placeholder for where, placeholder, _ in found if where is None]
            raise _lacking_error(lacking, [name for name in available if isinstance(name, str)])
        return plan

    def _show(
        self,
        placeholder: _Placeholder,
        steps: tuple[_Step, ...],
        value: Any,
        write: Callable[[Any, str], str | None] | None = None,
    ) -> str:
        value = _at_the_end(steps, value, placeholder)
        if type(value) is str:
            return value
        if write is not None and (written := write(value, placeholder.text)) is not None:
            return written
        if _is_empty(value):
            if self.missing == "empty":
                return ""
            raise TemplateError(
                f"{{{{{placeholder.text}}}}} is empty ({value!r}).",
                hint="Fill the gap first, or give missing='empty' to put nothing in its place.",
                missing=(placeholder.text,),
                near={},
            )
        if isinstance(value, _CODE):
            raise TemplateError(
                f"{{{{{placeholder.text}}}}} is a {type(value).__name__}, not a value.", hint=PATH_HINT
            )
        if (type(value).__str__, type(value).__repr__) == _NO_TEXT:
            raise TemplateError(
                f"{{{{{placeholder.text}}}}} is a {type(value).__name__}, which has no text but its address.",
                hint="Put what is to be read of it into a text first.",
            )
        if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
            return _float_text(value)
        if isinstance(value, set | frozenset):  # in the same order in every process
            return f"{{{', '.join(sorted(map(repr, value)))}}}"
        return str(value)


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of a path: an attribute, a key or a position."""

    kind: Literal["attribute", "item"]
    key: str | int

    def of(self, value: Any, placeholder: _Placeholder) -> Any:
        """Take this step from ``value``."""
        try:
            return getattr(value, str(self.key)) if self.kind == "attribute" else value[self.key]
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            what = "attribute" if self.kind == "attribute" else "item"
            options = value if isinstance(value, Mapping) else dir(value) if self.kind == "attribute" else ()
            near = _near(str(self.key), [name for name in options if isinstance(name, str)])
            hint = _did_you_mean(near)
            if self.kind == "attribute" and isinstance(value, Mapping) and self.key in value:
                hint = f"It is a dictionary: write [{self.key!r}] instead of .{self.key}"
            raise TemplateError(
                f"{{{{{placeholder.text}}}}}: a {type(value).__name__} has no {what} {self.key!r} here.",
                hint=hint,
                missing=(placeholder.text,),
                near={placeholder.text: near},
            ) from error


def _at_the_end(steps: tuple[_Step, ...], value: Any, placeholder: _Placeholder) -> Any:
    """What the path leads to; where nothing stands on the way, that."""
    for step in steps:
        if _is_empty(value):
            break
        value = step.of(value, placeholder)
    return value


@dataclass(frozen=True, slots=True)
class _Placeholder:
    text: str
    root: str | None
    """Where the path starts; None if the text is no path, only a name."""
    steps: tuple[_Step, ...] = ()

    def resolve(self, available: Container[str]) -> tuple[str, tuple[_Step, ...]] | None:
        """Name what to look up, and the steps from there: the text as it stands goes before the path."""
        if self.text in available:
            return self.text, ()
        if self.root is not None and self.root in available:
            return self.root, self.steps
        return None


def _parse(source: str) -> tuple[str, tuple[tuple[_Placeholder, str], ...]]:
    """Split into the literal text at the start, and each placeholder with the literal text after it."""
    texts: list[str] = [""]
    placeholders: list[_Placeholder] = []
    position = 0
    while opening := _OPEN.search(source, position):
        texts[-1] += source[position : opening.start()]
        backslashes, position = opening[1], opening.end()
        if len(backslashes) % 2:
            texts[-1] += backslashes[:-1] + "{{"
            continue
        closing, next_opening = source.find("}}", position), source.find("{{", position)
        if closing < 0 or 0 <= next_opening < closing:
            raise _syntax_error(source, position - 2, "is never closed by }}")
        while source.count("{", position, closing) > source.count("}", position, closing):
            if not source.startswith("}}", closing + 1):
                break
            closing += 1  # a brace that the name opens is closed by it: {{c{x}}} is c{x}
        text = source[position:closing].strip()
        if not text:
            raise _syntax_error(source, position - 2, "has no name before its }}")
        texts[-1] += backslashes
        placeholders.append(_placeholder(text))
        texts.append("")
        position = closing + 2
    texts[-1] += source[position:]
    return texts[0], tuple(zip(placeholders, texts[1:], strict=True))


def _placeholder(text: str) -> _Placeholder:
    path = _PATH.fullmatch(text)
    if path is None:
        return _Placeholder(text, None)
    return _Placeholder(text, path["root"], tuple(map(_step, _STEP.finditer(path["steps"]))))


def _step(match: re.Match[str]) -> _Step:
    if match["attribute"] is not None:
        return _Step("attribute", match["attribute"])
    return _Step("item", int(match["index"]) if match["index"] is not None else match["key"])


def _syntax_error(source: str, position: int, what: str) -> TemplateError:
    line = source.count("\n", 0, position) + 1
    column = position - source.rfind("\n", 0, position)
    return TemplateError(
        f"The {{{{ in line {line}, column {column} of the template {what}.",
        hint=LITERAL_HINT,
        line=line,
        column=column,
        missing=(),
        near={},
    )


def _lacking_error(lacking: Sequence[_Placeholder], available: Sequence[str]) -> TemplateError:
    near = {
        placeholder.text: _near(placeholder.root or placeholder.text, available) for placeholder in lacking
    }
    hints = [
        f"For {text}: {_did_you_mean(names)}" if len(near) > 1 else _did_you_mean(names)
        for text, names in near.items()
        if names
    ]
    if any(placeholder.root is None for placeholder in lacking) and not any(near.values()):
        hints += [PATH_HINT, LITERAL_HINT]
    shown = [repr(name) for name in available if not name.startswith("_")]
    more = f" and {len(shown) - NAMES_SHOWN} more" if len(shown) > NAMES_SHOWN else ""
    hints.append(f"Available: {', '.join(shown[:NAMES_SHOWN]) or 'nothing'}{more}.")
    return TemplateError(
        f"The template asks for {', '.join(map(repr, near))}, and there is no such column or variable.",
        hint=" ".join(hints),
        missing=tuple(near),
        near=near,
    )


def _near(name: str, available: Sequence[str]) -> tuple[str, ...]:
    by_folded = {other.strip().casefold(): other for other in reversed(available)}
    return tuple(by_folded[other] for other in difflib.get_close_matches(name.casefold(), by_folded))


def _did_you_mean(names: Sequence[str]) -> str:
    blank = " Put a blank between its } and the }}." if any(name.endswith("}") for name in names) else ""
    return f"Did you mean {' or '.join(map(repr, names))}?{blank}" if names else ""


def _is_empty(value: Any) -> bool:
    kind = type(value).__name__
    if value is None or kind in _EMPTY_KINDS:
        return True
    return bool((isinstance(value, numbers.Number) or kind in _DATE_KINDS) and value != value)


def _float_text(value: Any) -> str:
    text = float.__repr__(value + 0.0) if isinstance(value, float) else str(value)
    return text.removesuffix(".0")
