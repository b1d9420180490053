"""Filling a JSON Schema from a text, by plain rules: the simulated model's structured answers.

An option of an enum wins by the words it shares with the text, then by its mood (good or bad
words in the text), then by a hash of the text. Numbers named in the text behind a property's name
are taken if they fit; other numbers come from a hash, inside the bounds. Strings are sentences of
the text that share words with the property. ``$ref``, ``allOf``, ``anyOf``, ``oneOf``, ``const``,
``type`` lists, nested objects, arrays and tuples are followed; null is the last choice.
"""

from __future__ import annotations

import math
import re
from typing import Any

from deepseek_nb.sandbox.words import (
    clip,
    mood,
    mood_of_option,
    name_stems,
    number_of,
    overlap,
    sentences,
    stems,
    words_of,
)

__all__ = ["fill"]

_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")
_NEGATIONS = frozenset({"no", "not", "never", "without", "none", "nor", "isn", "doesn", "don", "cannot"})
_FORMATS = {
    "date": "2026-11-23",
    "date-time": "2026-11-23T10:00:00Z",
    "time": "10:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.org/",
    "url": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_PATTERN_GUESSES = (
    "A", "a", "1", "AB", "ab", "12", "ABC", "abc", "123", "1234", "12345", "AB12", "A1", "A-1", "AB-12",
    "ABC-123", "AB-1234", "2026", "2026-11", "2026-11-23", "10:00", "+4912345678", "a-b", "a_b", "#a1b2c3",
    "1.0", "1.0.0",
)  # fmt: skip
_DEEP = 4
_MEMBERS_OF_ITS_OWN = {"item": "string", "value": "integer"}
_DEEPEST = 40


def fill(schema: dict[str, Any], text: str) -> Any:
    """A value that fits ``schema``, made from ``text``: always the same for the same two.

    >>> fill({"properties": {"risk": {"enum": ["low", "high"]}}}, "The risk is high.")
    {'risk': 'high'}
    """
    return _Filler(schema, text).value(schema, "", "", 0)


class _Filler:
    def __init__(self, root: dict[str, Any], text: str) -> None:
        self.root = root
        self.text = text
        self.words = words_of(text)
        self.stems = frozenset(word[:5] for word in self.words)
        self.mood = mood(self.words)
        self._sentences: list[str] | None = None

    @property
    def sentences(self) -> list[str]:
        if self._sentences is None:
            self._sentences = sentences(self.text)
        return self._sentences

    def drawn(self, *what: object) -> int:
        return number_of(self.text, *what)

    # -------------------------------------------------------------------------------- any value

    def value(self, schema: Any, name: str, salt: str, depth: int) -> Any:
        """A value for one (sub)schema. ``name`` is its property's; ``salt`` tells equal ones apart."""
        schema = self.resolved(schema, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self.option(schema["enum"], name, salt)
        kind = self.kind(schema)
        if depth > _DEEPEST and kind in ("object", "array"):
            return {} if kind == "object" else []
        match kind:
            case "object":
                return self.members(schema, salt, depth)
            case "array":
                return self.items(schema, name, salt, depth)
            case "integer" | "number":
                return self.number(schema, name, salt, whole=kind == "integer")
            case "boolean":
                return self.truth(name, salt)
            case "null":
                return None
            case _:
                return self.string(schema, name, salt)

    def resolved(self, schema: Any, depth: int) -> dict[str, Any]:
        """The schema with references, ``allOf`` and alternatives settled."""
        seen = 0
        while isinstance(schema, dict) and seen < 32:
            seen += 1
            if "$ref" in schema:
                rest = {key: value for key, value in schema.items() if key != "$ref"}
                schema = {**self.pointed(schema["$ref"]), **rest}
            elif schema.get("allOf"):
                rest = {key: value for key, value in schema.items() if key != "allOf"}
                for part in schema["allOf"]:
                    rest = _merged(rest, self.resolved(part, depth + 1))
                schema = rest
            elif schema.get("anyOf") or schema.get("oneOf"):
                schema = self.alternative(schema, depth)
            else:
                return schema
        return {}

    def alternative(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        key = "anyOf" if schema.get("anyOf") else "oneOf"
        rest = {name: value for name, value in schema.items() if name != key}
        choices = [self.resolved(choice, depth + 1) for choice in schema[key]]
        solid = [
            choice for choice in choices if self.kind(choice) != "null" and choice.get("const", 0) is not None
        ]
        if depth > _DEEP:  # a schema that contains itself has to end
            solid = [c for c in choices if self.kind(c) not in ("object", "array")] or solid
        consts = [choice["const"] for choice in solid if isinstance(choice.get("const"), str)]
        if consts and len(consts) == len(solid):
            return {**rest, "enum": consts}
        pick = self.drawn("alternative", depth) % len(solid) if solid else 0
        if [self.kind(choice) for choice in solid] == ["number", "string"]:
            pick = 0  # that is how a Decimal is told, and not any text is one
        return _merged(rest, solid[pick] if solid else {"type": "null"})

    def pointed(self, reference: Any) -> dict[str, Any]:
        """What a ``#/...`` reference points to; an open schema if it points nowhere."""
        at: Any = self.root
        for step in str(reference).removeprefix("#").strip("/").split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if step:
                at = at.get(step) if isinstance(at, dict) else None
        return at if isinstance(at, dict) else {}

    @staticmethod
    def kind(schema: dict[str, Any]) -> str:
        """The type to fill: the first that is not null."""
        kind = schema.get("type")
        if isinstance(kind, list):
            return next((each for each in kind if each != "null"), "null")
        if isinstance(kind, str):
            return kind
        if "properties" in schema or "required" in schema:
            return "object"
        if "items" in schema or "prefixItems" in schema:
            return "array"
        if any(key in schema for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")):
            return "number"
        return "string"

    # ---------------------------------------------------------------------------- each of them

    def members(self, schema: dict[str, Any], salt: str, depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        made = {
            name: self.value(part, f"{name} {_about(part)}", f"{salt}.{name}", depth + 1)
            for name, part in schema.get("properties", {}).items()
            if depth <= _DEEP or name in required
        }
        for name in required:
            if name not in made:
                made[name] = self.value({"type": "string"}, name, f"{salt}.{name}", depth + 1)
        if not made and schema.get("additionalProperties", True) is True and depth <= _DEEP:
            # any members will do: a model would not leave it empty
            made = {
                name: self.value({"type": kind}, name, f"{salt}.{name}", depth + 1)
                for name, kind in _MEMBERS_OF_ITS_OWN.items()
            }
        return made

    def items(self, schema: dict[str, Any], name: str, salt: str, depth: int) -> list[Any]:
        fixed = [
            self.value(part, name, f"{salt}[{at}]", depth + 1)
            for at, part in enumerate(schema.get("prefixItems", ()))
        ]
        item = schema.get("items", {} if not fixed else False)
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", max(least, 3))
        ends = depth > _DEEP and least <= len(fixed)
        if item is False or most <= len(fixed) or ends:
            return fixed
        wanted = min(max(least, 1 + self.drawn("items", salt) % 2), most)
        options = self.resolved(item, depth).get("enum")
        if options:
            found = self.stems_beside(options)
            ranked = sorted(options, key=lambda option: self.score(option, name, salt, found), reverse=True)
            return [*fixed, *(ranked * wanted if wanted > len(ranked) else ranked)[: wanted - len(fixed)]]
        made = fixed
        for at in range(len(fixed), wanted + 32):
            if len(made) >= wanted:
                break
            value = self.value(item, name, f"{salt}[{at}]", depth + 1)
            if value not in made or not schema.get("uniqueItems"):
                made.append(value)
        return made

    def option(self, options: list[Any], name: str, salt: str) -> Any:
        found = self.stems_beside(options)
        return max(options, key=lambda option: self.score(option, name, salt, found))

    def stems_beside(self, options: list[Any]) -> frozenset[str]:
        """The words of the text; where it lists all the options, that list does not count."""
        names = [str(option) for option in options if option is not None]
        if len(names) < 2 or not all(name in self.text for name in names):
            return self.stems
        rest = self.text
        for name in sorted(names, key=len, reverse=True):
            rest = rest.replace(name, " ", 1)
        return stems(rest)

    def score(self, option: Any, name: str, salt: str, found: frozenset[str]) -> tuple[float, float, int]:
        """How well an option fits the words found."""
        if option is None:
            return (-1.0, -1.0, 0)
        text = str(option)
        side = mood_of_option(text)
        fit = 0.0 if side is None else self.mood if side == "positive" else -self.mood
        return (overlap(text, found), fit, self.drawn("option", salt, name, text))

    def number(self, schema: dict[str, Any], name: str, salt: str, *, whole: bool) -> int | float:
        low, high = _bounds(schema, whole=whole)
        step = schema.get("multipleOf")
        named = self.named_number(name)
        if named is not None and low <= named <= high and (not whole or named == int(named)):
            value = named
        else:
            share = self.drawn("number", salt) / 2**53
            if self.mood:  # good texts get the upper half
                share = share / 2 + (0.5 if self.mood > 0 else 0.0)
            value = low + share * (high - low)
        if step:
            first = math.ceil(low / step - 1e-9)
            count = max(math.floor((high - first * step) / step + 1e-9), 0)
            steps = first + min(max(round(value / step) - first, 0), count)
            value = steps * step
            return int(value) if whole else round(value, 10)
        if whole:
            return min(max(round(value), math.ceil(low)), math.floor(high))
        rounded = round(value, 2)
        return rounded if low <= rounded <= high else value

    def named_number(self, name: str) -> float | None:
        """A number that stands close behind the property's name in the text."""
        wanted = name_stems(name.split(" ")[0])
        for at, word in enumerate(self.words):
            if word[:5] in wanted:
                for near in self.words[at + 1 : at + 4]:
                    if near.isdigit():
                        return float(near)
        return None

    def truth(self, name: str, salt: str) -> bool:
        """True where the text speaks of the property and does not deny it."""
        wanted = name_stems(name.split(" ")[0]) - {"is", "has", "needs"}
        for at, word in enumerate(self.words):
            if word[:5] in wanted:
                return not _NEGATIONS.intersection(self.words[max(at - 3, 0) : at])
        return self.drawn("truth", salt) % 2 == 1

    def string(self, schema: dict[str, Any], name: str, salt: str) -> str:
        shaped = _FORMATS.get(schema.get("format", ""))
        if shaped is not None:
            return shaped
        most = schema.get("maxLength", 160)
        if "pattern" in schema:
            return self.matching(schema["pattern"], most)
        about = name_stems(name)
        best = max(self.sentences, key=lambda s: (len(about & stems(s)), self.drawn("sentence", salt, s)))
        made: str = clip(best, max(most, 0))
        least = schema.get("minLength", 0)
        while len(made) < least:
            made = f"{made} {best or 'none'}".strip()[: max(least, most)]
        return str(made[:most])

    def matching(self, pattern: str, most: int) -> str:
        """Best effort: a part of the text that matches, else a common shape that does."""
        try:
            wanted = re.compile(pattern)
        except re.error:
            return clip(self.sentences[0], most)
        words: list[str] = [
            *self.text.split(),
            *_NUMBER.findall(self.text),
            *_PATTERN_GUESSES,
            self.text.strip(),
        ]
        for candidate in words:
            if len(candidate) <= most and wanted.search(candidate):
                return candidate
        return clip(self.sentences[0], most)


def _about(schema: Any) -> str:
    return str(schema.get("description", "")) if isinstance(schema, dict) else ""


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    both = {**first, **second}
    if "properties" in first and "properties" in second:
        both["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        both["required"] = [*first["required"], *second["required"]]
    return both


def _bounds(schema: dict[str, Any], *, whole: bool) -> tuple[float, float]:
    gap = 1 if whole else 1e-6
    low = schema.get("minimum")
    high = schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if isinstance(above, (int, float)) and not isinstance(above, bool):
        low = above + gap if low is None else max(low, above + gap)
    if isinstance(below, (int, float)) and not isinstance(below, bool):
        high = below - gap if high is None else min(high, below - gap)
    if low is None:
        low = 0 if high is None or high > 0 else high - 100
    if high is None:
        high = low + 100
    return low, high
