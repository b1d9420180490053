"""Replay: the sandbox gives recorded answers after the recorded time, and says that they are replayed.

Rules of this room. An answer is the recorded one to the letter; only where the request asks for a shape with
a single field, and a plain text was recorded, that text is put into the field. What was recorded is never
guessed from: a request without a recording is refused, or answered by another engine, by choice. That an
answer is replayed stands beside it, not in it: in ``system_fingerprint``, in a header, in the server's log.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from deepseek_nb.sandbox.engine import answer, asked_schema
from deepseek_nb.sandbox.numbered import find_lines, told_lines
from deepseek_nb.sandbox.packed import rows_of
from deepseek_nb.sandbox.questions import Completion, Engine, ParsedRequest, Refused

__all__ = ["Replay"]

COLUMNS = ("text", "answer", "wait_s")
UNKNOWN = "This server replays recorded answers, and none was recorded for this request"
_ANCHOR_CHARS = 16
"""Recorded texts are looked for by so many first characters."""
_NAME_CHARS = 100
_WRITTEN_OUT = re.compile(r"\\(?:[nrvf]|x1[cde]|x85|u202[89])")
"""How the layout "compact" writes the end of a line."""

Row = tuple[str, str | Mapping[str, Any], Any]
"""Text, recorded answer, recorded wait in seconds (a number, or a text that spells one)."""


class Replay:
    """An engine for the sandbox that answers with what was recorded, after the time it took then.

    ``rows`` gives (text, recorded answer, recorded wait in seconds) for each row: zipped columns, a list, a
    frame's ``itertuples``. A request whose last user messages hold a row's text gets that row's answer: the
    message itself, a value of it where it is JSON (the rows of ``layout="keyed"``), or a part of it between
    blanks or punctuation, the longest that fits. Blanks and line ends do not count. Of equal texts the first
    counts. An answer that is a mapping is sent as JSON.

    * ``speed``: recorded seconds in one second of the server; 50 makes a wait of 100 s take 2 s. The whole
      answer comes at the end of the wait, streamed or not: when it began was not recorded.
    * ``unknown``: what a request without a recording gets. "refuse" (a 400 that costs nothing: the row fails
      with that reason), "simulate" (the rule engine's answer, which says ``[simulated]`` where it is a text),
      or an engine. A request with several rows in it has no recording: refused, it is asked row by row.
    * ``recording``: what the recording is called, printable ASCII.

    ``answer.system_fingerprint`` is then ``"replayed: NAME"``, as are the header ``x-deepseek-nb-replay`` and
    ``record.replayed`` in ``sandbox.log`` without that word. With "refuse", ``ds.use_sandbox`` keeps the
    answers under the route "sandbox-replay", so that no simulated one can stand among them.

    Raises ValueError for a table without rows, and for a row, a speed or a name that cannot be used.

    >>> replay = Replay([("Where is my card?", "card_arrival", 9.8)], speed=100)
    >>> sandbox = ds.use_sandbox(engine=replay)                                   # doctest: +SKIP
    >>> ds.ask("Where is my card?").text                                          # doctest: +SKIP
    'card_arrival'
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        speed: float = 1.0,
        unknown: Literal["refuse", "simulate"] | Engine = "refuse",
        recording: str = "a recording",
    ) -> None:
        if not speed > 0:
            raise ValueError(f"speed is {speed!r}: give the recorded seconds in a second, above 0.")
        if unknown not in ("refuse", "simulate") and not callable(unknown):
            raise ValueError(f"unknown is 'refuse', 'simulate' or an engine, not {unknown!r}.")
        if not re.fullmatch(rf'(?:(?!["\\])[ -~]){{1,{_NAME_CHARS}}}', recording):
            raise ValueError(
                f"recording is {recording!r}: a name has up to {_NAME_CHARS} characters of printable ASCII, "
                "without quotes and backslashes."
            )
        self.speed = float(speed)
        self.recording = recording
        self._unknown: Engine | None = (
            None if unknown == "refuse" else answer if unknown == "simulate" else unknown
        )
        self._found: dict[str, tuple[str, float]] = {}
        for number, row in enumerate(rows, 1):
            text, told, wait_s = _checked(row, number)
            self._found.setdefault(text, (told, wait_s))
        if not self._found:
            raise ValueError("There is nothing to replay: the table has no rows.")
        self._anchored = _anchored(self._found)

    @classmethod
    def read(cls, path: str | Path, *, columns: tuple[str, str, str] = COLUMNS, **options: Any) -> Self:
        """The engine for a CSV file with a header; ``columns`` names text, answer and wait in seconds.

        ``options`` are those of the class; the recording is called like the file if it has no other name.
        Raises OSError where the file cannot be read, and ValueError for a missing column.

        >>> Replay.read("complaints.csv", columns=("narrative", "label", "seconds"))   # doctest: +SKIP
        """
        path = Path(path)
        if len(columns) != len(COLUMNS):
            raise ValueError(f"columns is {columns!r}: name three, of texts, answers and waits in seconds.")
        options.setdefault("recording", re.sub(r'[^ -~]|["\\]', "_", path.name)[:_NAME_CHARS])
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            missing = [name for name in columns if name not in (table.fieldnames or ())]
            if missing:
                raise ValueError(
                    f"{path.name} has no column {missing[0]!r}; it has {', '.join(table.fieldnames or ())}."
                )
            text, told, wait_s = columns
            return cls(((line[text], line[told], line[wait_s]) for line in table), **options)

    def __len__(self) -> int:
        """How many different texts it knows."""
        return len(self._found)

    def __repr__(self) -> str:
        return f"<Replay of {self.recording!r}: {len(self):,} texts at {self.speed:g} times the speed>"

    @property
    def only_recorded(self) -> bool:
        """Whether it gives recorded answers and no others."""
        return self._unknown is None

    def __call__(self, request: ParsedRequest) -> Completion:
        """Answer a request. Raises Refused for one without a recording, where that was chosen."""
        text = self._text_in(request)
        if text is None:
            if self._unknown is None:
                raise Refused(UNKNOWN)
            return self._unknown(request)
        told, wait_s = self._found[text]
        return Completion(_as_asked(request, told), wait_s=wait_s / self.speed, recording=self.recording)

    def _text_in(self, request: ParsedRequest) -> str | None:
        """The recorded text a request is about; the last user message that has one counts."""
        for message in reversed(request.messages):
            if message["role"] != "user" or len(rows_of(message["content"]) or ()) > 1:
                continue
            values = [_plain(value) for value in _values(message["content"])]
            for value in values:
                if value in self._found:
                    return value
            held = [text for value in values for text in self._held_by(value)]
            if held:
                return max(held, key=len)
        return None

    def _held_by(self, value: str) -> Iterator[str]:
        """The recorded texts that stand in a text, with no letter or figure touching them."""
        for chars, texts_at in self._anchored.items():
            for at in range(len(value) - chars + 1):
                for text in texts_at.get(value[at : at + chars], ()):
                    around = value[at - 1 : at] + value[at + len(text) : at + len(text) + 1]
                    if value.startswith(text, at) and not any(map(str.isalnum, around)):
                        yield text


def _anchored(texts: Iterable[str]) -> dict[int, dict[str, list[str]]]:
    """The texts by their first characters, and how many these are: so a look-up does not grow with them."""
    found: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for text in texts:
        chars = min(len(text), _ANCHOR_CHARS)
        found[chars][text[:chars]].append(text)
    return {chars: dict(texts_at) for chars, texts_at in found.items()}


def _checked(row: Any, number: int) -> tuple[str, str, float]:
    """A row's text without its blanks, its answer as it is sent, and its wait."""
    try:
        text, told, wait_s = row
        wait_s = float(wait_s)
    except (TypeError, ValueError):
        raise ValueError(f"Row {number} is {row!r}: give a text, its answer, and seconds.") from None
    if isinstance(told, Mapping):
        told = json.dumps(dict(told), ensure_ascii=False, separators=(",", ":"))
    for what, value in (("text", text), ("answer", told)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"Row {number} has no {what}: {value!r}.")
    if not (math.isfinite(wait_s) and wait_s >= 0):
        raise ValueError(f"Row {number} waits {wait_s!r} seconds: give a number from 0.")
    return _plain(text), told, wait_s


def _plain(text: str) -> str:
    """A text with a single blank wherever it has blanks or ends of lines, written out or not."""
    return " ".join(_WRITTEN_OUT.sub(" ", text).split())


def _values(content: str) -> list[str]:
    """The texts in a message: those of its values where it is JSON, and the message itself."""
    found: list[str] = []
    if content.startswith(("{", "[")):
        try:
            waiting = [json.loads(content)]
        except (ValueError, RecursionError):
            waiting = []
        while waiting:
            value = waiting.pop()
            if isinstance(value, str):
                found.append(value)
            elif isinstance(value, (dict, list)):
                waiting += value.values() if isinstance(value, dict) else value
    return found or [content]


def _as_asked(request: ParsedRequest, told: str) -> str:
    """A recorded answer in the shape the request asks for, where that is clear; else as it was recorded."""
    whole = _json_object(told)
    lines = find_lines(request.text_of("system"))
    if lines:
        values = {lines[0][0]: told} if whole is None and len(lines) == 1 else whole or {}
        return told_lines(lines, values) or told
    if whole is not None:
        return told
    schema = asked_schema(request)
    if schema is None:
        return _written({"answer": told}) if request.json_mode else told
    fields = schema.get("properties") or {}
    if len(fields) != 1:
        return told
    ((name, shape),) = fields.items()
    return _written({name: _value(told, shape)})


def _value(told: str, shape: Any) -> Any:
    """The recorded text, or the number, truth or list it spells where the field asks for one."""
    kind = shape.get("type", "string") if isinstance(shape, dict) else "string"
    if kind == "string":
        return told
    try:
        return json.loads(told)
    except ValueError:
        return told


def _json_object(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
