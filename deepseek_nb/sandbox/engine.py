"""The answer engine: plain, deterministic rules in place of a model. A SIMULATION: answers mean nothing.

The rules. "Return exactly: X" and "Reply with exactly X" are answered with X; also where a system message
says it of a row's ``{{fields}}`` and the question is that row as JSON. In JSON mode the
first JSON Schema found in the messages (the system message first) is filled from the last user
message (see ``filling``); without one the answer is ``{"answer": ...}`` with a sentence of it. A
function that has to be called gets its parameters filled alike, and so is the schema of ``/responses``.
Where the model is free to call functions, it calls those that the question speaks of (see ``tools``); once
their results are there, it answers with what they say.
Where a list of answers to numbered rows is asked for, each row is answered as it would be alone (see
``packed``). Where the system message asks for lines with the number of an option, those are written (see
``numbered``). A row that is JSON is read field by field, in whatever order they come.
Anything else is answered with "[simulated]" and up to two sentences of it. An answer that ends in
an unfinished assistant message (``prefix``) goes on where that stops. The same messages always
get the same answer. Reasoning, where thinking is on, is a few sentences about the text, longer
with more effort.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from itertools import takewhile
from typing import Any

from deepseek_nb.core.chat import canonical_json
from deepseek_nb.sandbox.filling import fill
from deepseek_nb.sandbox.numbered import find_lines, write_lines
from deepseek_nb.sandbox.packed import answer_pack, as_read
from deepseek_nb.sandbox.questions import Call, Completion, ParsedRequest
from deepseek_nb.sandbox.tools import fitting
from deepseek_nb.sandbox.words import clip, number_of, sentences

__all__ = ["answer", "asked_schema", "find_schema"]

MARK = "[simulated] "
_EXACTLY = re.compile(
    r"\b(?:return|reply|respond|answer)(?:\s+with)?\s+exactly:?\s+(?P<text>.+?)"
    r"(?:\s+and\s+nothing\s+else)?\.?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_ROW_IS_TOLD = "\n\nThe message is one row, a JSON object"
_NAMED = re.compile(r"\{\{(.+?)\}\}")
_DECODER = json.JSONDecoder()
_ANSWER_CHARS = 240
_THOUGHTS = (
    'The text begins with "{begins}". I read it once more and look for what is asked.',
    "What matters here is what the text itself says, so I keep close to its words and add nothing.",
    "I weigh the words that speak for one answer against those that speak for another.",
    "The form of the answer is given, so I check that every part that is asked for will be there.",
    "Nothing in the text contradicts this. I could be wrong, but this is the answer that fits best.",
    "Before I write it down I go through the text a second time, from its end to its beginning.",
)
_THOUGHTS_BY_EFFORT = {"low": 2, "high": 4, "max": 6}


def answer(request: ParsedRequest) -> Completion:
    """Answer a request by the rules above."""
    question = request.question
    calls = _calls(request, question)
    text = "" if calls else _text(request, question)
    last = request.messages[-1]
    if last["role"] == "assistant" and last.get("prefix"):
        begun = last["content"]
        text = text[len(begun) :] if text.startswith(begun) else f" {text}"
    if not request.thinking:
        return Completion(text, calls=calls)
    kept = _THOUGHTS[: _THOUGHTS_BY_EFFORT[request.effort]]
    return Completion(text, " ".join(kept).format(begins=clip(question.strip(), 40)), calls=calls)


def _calls(request: ParsedRequest, question: str) -> tuple[Call, ...]:
    """The calls that the model makes of its own will."""
    if not request.tools or request.messages[-1]["role"] != "user":
        return ()
    called = fitting(request.tools, question)
    return tuple(Call(tool.name, _json(fill(tool.parameters, as_read(question)))) for tool in called)


def _text(request: ParsedRequest, question: str) -> str:
    said = [as_read(message["content"]) for message in request.messages if message["role"] == "user"]
    wanted = request.schema if request.tool is None else request.tool.parameters
    asked = wanted or find_schema(request.text_of("system"))[0]
    if asked is not None and (packed := answer_pack(asked, question, _row_text)) is not None:
        return _json(packed)
    if wanted is not None:
        return _json(fill(wanted, "\n".join(said)))
    exactly = _EXACTLY.search(question) or _EXACTLY.search(_filled(request.text_of("system"), question))
    if exactly is not None:
        return exactly["text"].strip()
    if lines := find_lines(request.text_of("system")):
        return write_lines(lines, as_read(question))
    schema, inside = _schema_of(request, question)
    told = schema is not None and not inside  # by the system message: obeyed without JSON mode too
    if not request.json_mode and not told:
        return MARK + clip(_extract(_results(request) or as_read(question), 2), _ANSWER_CHARS)
    if schema is None:
        return canonical_json({"answer": clip(_extract(question, 1), _ANSWER_CHARS)})
    source = question.replace(inside, " ") if inside else "\n".join(said)
    return _json(fill(schema, source))


def _results(request: ParsedRequest) -> str:
    """What the calls gave whose results end the conversation."""
    ended = takewhile(lambda message: message["role"] == "tool", reversed(request.messages))
    return "\n".join(message["content"] for message in reversed(list(ended)))


def _row_text(row: str) -> str:
    """The answer to a row of a pack of which a text is asked."""
    exactly = _EXACTLY.search(row)
    return exactly["text"].strip() if exactly else MARK + clip(_extract(row, 2), _ANSWER_CHARS)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _filled(system: str, row: str) -> str:
    """What a system message asks of a row that comes as JSON, with the row's values in it; else nothing."""
    instruction, told, _ = system.partition(_ROW_IS_TOLD)
    if not told:
        return ""
    try:
        values = json.loads(row)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(values, dict):
        return ""
    return _NAMED.sub(lambda name: str(values.get(name[1], name[0])), instruction)


def _extract(text: str, count: int) -> str:
    found = sentences(text)
    start = number_of("extract", text) % max(len(found) - count + 1, 1)
    return " ".join(found[start : start + count])


def asked_schema(request: ParsedRequest) -> dict[str, Any] | None:
    """The JSON Schema an answer has to fit, wherever the request tells it; None where it tells none."""
    wanted = request.schema if request.tool is None else request.tool.parameters
    return wanted or _schema_of(request, request.question)[0]


def _schema_of(request: ParsedRequest, question: str) -> tuple[dict[str, Any] | None, str]:
    """The schema, and its text if it stands in the question itself."""
    rest = [message["content"] for message in request.messages if message["role"] != "system"]
    system = [message["content"] for message in request.messages if message["role"] == "system"]
    for text in (*system, *reversed(rest)):
        schema, source = find_schema(text)
        if schema is not None:
            return schema, source if text is question else ""
    return None, ""


@lru_cache(maxsize=512)
def find_schema(text: str) -> tuple[dict[str, Any] | None, str]:
    """The first JSON object with "properties" in a text, and the text it stands in.

    >>> find_schema('Fit this: {"type":"object","properties":{"a":{"type":"integer"}}} please')[1][:16]
    '{"type":"object"'
    """
    at = text.find("{") if '"properties"' in text else -1
    while at >= 0:
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        if isinstance(value, dict) and isinstance(value.get("properties"), dict):
            return value, text[at:end]
        at = text.find("{", end)
    return None, ""
