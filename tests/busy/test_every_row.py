"""No row of the suite can be dropped silently: each has its tests, and each fault is played by them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from deepseek_nb.sandbox import FAULTS

ROWS = {
    "1": "503 at once: retry with full jitter and patience; one breaker for all rows",
    "2": "429 that names a falling limit: read it, shrink at once, no row fails for it",
    "3": "an empty or blank 200: busy, not a JSON error",
    "4a": "blank lines, then the answer: an answer; the wait is shown",
    "4b": "blank lines, then closed or for ever: a total deadline; busy; interruptible at once",
    "5": "comments: alive, not progress",
    "6": "a stall: hung up on, asked again, booked as unknown",
    "6b": "comments for ever: hung up on for want of progress",
    "7": "cut in the middle: partial text is never an answer; kept as partial; asked again",
    "8": "a clean end without finish and [DONE]: not an answer",
    "9": "reset before headers, stale connection: asked again on a fresh one",
    "10": "HTML pages, also under 200: told by status and first byte; at most 500 bytes kept",
    "11": "all in reasoning: not an answer; thinking off on the next try",
    "12": "empty or only spaces: at most two repairs, each a changed question",
    "13": "cut at max_tokens: more room on the next try; never parsed as it is",
    "14": "blanks up to the limit: hung up on early",
    "15": "insufficient_system_resource, aborted: busy",
    "16": "no choices: no IndexError; busy",
    "17": "usage anywhere or nowhere: accepted; estimated and flagged where missing",
    "18": "an error object inside a 200: seen first",
    "19": "tool-call markup in the text: not an answer, however it is cut",
    "20": "400 reasoning_content: echoed in chats; not retried",
    "21": "Content Exists Risk: this row fails, once; the others go on",
    "22": "402 in the middle: pause, keep, go on without paying twice",
    "23": "401 in plain text: a readable message",
    "24": "fine at first, then silence while many run: fewer at once",
    "25": "some calls hang: a cap for each try and another try; no second copy of a living one",
    "26": "unknown model: pause after the first row, or in the middle; the names are shown",
    "27": "new wordings and statuses: unknown 4xx fails the row, unknown 5xx is busy",
    "28": "content types swapped: the bytes decide",
}


def rows_tested() -> dict[str, list[tuple[str, str]]]:
    """For each row its tests: their names, and their source with what they are parametrized with."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.parse(source).body:
            name = re.match(r"test_row_0*(\d+[ab]?)_", getattr(node, "name", ""))
            if isinstance(node, ast.FunctionDef) and name:
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                text = "\n".join(lines[first - 1 : node.end_lineno])
                found.setdefault(name.group(1), []).append((node.name, text))
    return found


def test_every_row_has_a_test_and_no_test_a_row_that_is_not_there():
    assert set(rows_tested()) == set(ROWS)


def test_every_row_has_a_fault_and_no_fault_a_row_that_is_not_there():
    assert {row for spec in FAULTS.values() for row in spec.rows} == set(ROWS)


def test_every_fault_of_a_row_is_played_by_a_test_of_that_row():
    by_row = rows_tested()
    missing = [
        (row, spec.name)
        for spec in FAULTS.values()
        for row in spec.rows
        if not any(re.search(rf'"{spec.name}"', text) for _, text in by_row[row])
    ]
    assert missing == []


def test_every_test_of_a_row_says_in_one_line_what_the_client_must_do():
    for tests in rows_tested().values():
        for name, text in tests:
            assert '"""' in text, name
