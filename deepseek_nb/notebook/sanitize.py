"""Makes text from a model harmless to show: no live HTML, no images, no links but http, https and mailto.

What a model writes is hostile input: it may repeat what stood in a poisoned row. A notebook's
Markdown renderers pass HTML through, load images from anywhere (which tells the address whatever
was put into it) and differ in where code and mathematics begin. So only what every renderer must
read alike stays as it is: fenced code blocks at the top level, written anew in one plain form, and
code spans that cannot be read otherwise. Everywhere else ``<`` and ``&`` are escaped where they
would begin a tag or an entity. When in doubt a text is escaped: it then looks odd, and that is all.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["fenced", "safe_markdown", "safe_plain"]

_CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # ANSI: colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # ANSI: window titles, links
    r"|\x1b[P^_X][^\x1b]*(?:\x1b\\)?"  # ANSI: strings
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"  # line ends of some parsers, reversals of direction
    r"|[\ud800-\udfff]"
)
_BLANK_LINES = re.compile(r"(\n[ \t]*\n\s*)")
_RUN = re.compile(r"`+")
_BEFORE_SPAN = re.compile(r"(?:^|[ \t])[(\"'*_>-]{0,3}$")
"""What may stand before a sure code span: not the end of an address that would swallow its backtick."""
_UNSURE_IN_SPAN = frozenset("|[]*~")
_UNSURE_AROUND = ("$", "\\")
"""Where mathematics may begin, or an escape, renderers disagree about backticks."""

_ADDRESS = r"(?:https?://|mailto:)[^\s<>\"'`\\()\[\]]*(?:\([^\s<>\"'`\\()\[\]]*\)[^\s<>\"'`\\()\[\]]*)*"
_AUTOLINK = re.compile(rf"<({_ADDRESS})>(\w?)", re.IGNORECASE)
_LINK_IN_ANGLES = re.compile(rf"\]\([ \t]*<({_ADDRESS})>", re.IGNORECASE)
_OTHER_LINK = re.compile(rf"\]\((?!\s*{_ADDRESS}(?:[\s)]|\Z))", re.IGNORECASE)
_OTHER_DEFINITION = re.compile(rf"\]:(?!\s*{_ADDRESS}(?:\s|\Z))", re.IGNORECASE)
_IMAGE = re.compile(r"(?<!\\)!+(?=\[)")
_ESCAPED_IMAGE = re.compile(r"!(?=\[)")
_TEX_COMMAND = re.compile(r"\\(?=(?:href|url|html\w*|class|cssId|style|require|includegraphics)(?![A-Za-z]))")
"""What TeX in a browser can use to link, load and style."""
_MATH = re.compile(
    r"\$\$.{,2000}?\$\$|\$[^$\n]+\$|\\\[.{,2000}?\\\]|\\\(.{,500}?\\\)"
    r"|\\begin\{([a-z]*\*?)\}.{,2000}?\\end\{\1\}",
    re.DOTALL,
)
_TAG_START = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY_START = re.compile(r"&(?=#\d+;|#[xX][0-9a-fA-F]+;|\w+;)")

_WIDE_MATH = (
    (r"\$\$.*?\$\$", r"\$\$"),
    (r"^[ \t>]*\$\$.*?\$\$", r"^[ \t>]*\$\$"),
    (r"\\\\\[.*?\\\\\]", r"\\\\[\[\]]"),
    (r"\\\[.*?\\\]", r"\\[\[\]]"),
    (r"\\begin\{(?P<env>[a-z]*\*?)\}.*?\\end\{(?P=env)\}", r"\\(?:begin|end)\{"),
)
"""Mathematics that may run over several paragraphs, code blocks included: all of it, and its marks."""
MOST_MARKS = 200
"""With more of them than this, nobody looks: finding pairs takes time by the square."""

_HEADING = re.compile(r"[ \t>*+\d.)-]*#{1,6}(?:[ \t]|$)")
_UNDERLINE = re.compile(r"[ \t>]*(?:=+|-+)[ \t]*")
_CLOSING = re.compile(r"[ \t]#+[ \t]*$")
_MARKUP = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)|[*_~`\\\[\]]")
_PAGE_NAMES = re.compile(
    "MathJax|[Jj]upyter|IPython|[Rr]equire|define|jQuery|[Mm]ermaid|katex|renderMath|Plotly|Bokeh|[Vv]ega"
    "|_JUPYTERLAB|google|module|exports|process|global|document|location|config|widgets"
)
"""What the scripts of a page look up by name."""
_NO_NAME = "\u200b"

_LANGUAGE = re.compile(r"[A-Za-z0-9_+#.-]{1,30}")
_DRAWN = frozenset({"mermaid", "geojson", "topojson", "stl"})
"""Languages of code blocks that some front ends draw instead of show."""


def safe_plain(text: str) -> str:
    r"""``text`` without control characters: no colours, no moves of the cursor, no reversed writing.

    >>> safe_plain("red: \x1b[31mx\x1b[0m")
    'red: x'
    """
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def safe_markdown(text: str) -> str:
    """``text`` as Markdown that every renderer shows without HTML, images and strange links.

    >>> safe_markdown("a <b>bold</b> ![pixel](https://example.org/p.png)")
    'a &lt;b>bold&lt;/b> [pixel](https://example.org/p.png)'
    """
    text = safe_plain(text)
    lines = text.split("\n")
    formulas = _Formulas()
    parts: list[str] = []
    position = 0
    for start, end, info, content in _top_level_fences(text):
        before = "\n".join(lines[position:start])
        formulas.add(before)
        parts += [_safe_prose(before), _safe_fence(formulas, info, content)]
        position = end
    parts.append(_safe_prose("\n".join(lines[position:])))
    return "\n\n".join(part for part in (part.strip("\n") for part in parts) if part.strip())


def fenced(text: str, language: str = "") -> str:
    r"""``text`` as one code block of Markdown, whatever it holds.

    >>> fenced("x = 1", "python")
    '```python\nx = 1\n```'
    """
    text = safe_plain(text).strip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in _RUN.findall(text)), default=0))
    language = language if _LANGUAGE.fullmatch(language) and language.lower() not in _DRAWN else ""
    return f"{fence}{language}\n{text}\n{fence}"


# ------------------------------------------------------------------------------------- code blocks


@functools.cache
def _block_parser() -> Callable[[str], list[Any]]:
    from markdown_it import MarkdownIt  # here: 50 ms that loading the extension must not cost

    # Only blocks are looked for, and no HTML blocks: in what is shown there are none.
    return MarkdownIt("commonmark").disable(["html_block", "inline"]).parse


def _top_level_fences(text: str) -> Iterator[tuple[int, int, str, str]]:
    """First line, line after the last, info and content of each fenced block that is in no other block."""
    if "```" not in text and "~~~" not in text:
        return
    for token in _block_parser()(text):
        if token.type == "fence" and token.level == 0 and token.map:
            yield token.map[0], token.map[1], token.info, token.content


def _safe_fence(formulas: _Formulas, info: str, content: str) -> str:
    block = fenced(content, (info.split() or [""])[0])
    if ("<" in content or "&" in content or "[" in content) and formulas.left_open:
        return _safe_prose(block)  # a renderer may take the block for the middle of a formula
    return block


class _Formulas:
    """The prose before a code block: whether a renderer may think that a formula is still open there."""

    def __init__(self) -> None:
        self._prose = ""
        self._left_open = False
        self._too_many = False
        self._known = True

    def add(self, prose: str) -> None:
        """More prose, from after the last code block."""
        if "$" in prose or "\\" in prose:
            self._prose += "\n\n" + prose
            self._known = False

    @property
    def left_open(self) -> bool:
        """Whether some renderer, whichever kinds of mathematics it knows, may be inside a formula."""
        if not self._known and not self._too_many:
            self._left_open, self._known = self._look(), True
        return self._left_open

    def _look(self) -> bool:
        prose, flags = self._prose, re.DOTALL | re.MULTILINE
        if "$$" in prose and ("\\$" in prose or "$$$" in prose):
            return True
        marks = [len(re.findall(mark, prose, flags)) for _, mark in _WIDE_MATH]
        self._too_many = sum(marks) > MOST_MARKS
        if self._too_many:
            return True
        present = [kind for kind, count in zip(_WIDE_MATH, marks, strict=True) if count]
        for count in range(1, len(present) + 1):
            for known in itertools.combinations(present, count):
                rest = re.sub("|".join(whole for whole, _ in known), "", prose, flags=flags)
                if any(re.search(mark, rest, flags) for _, mark in known):
                    return True
        return False


# ------------------------------------------------------------------------------- everything else


def _safe_prose(text: str) -> str:
    """Text outside of code blocks, paragraph by paragraph: a code span never crosses an empty line."""
    return "".join(_safe_paragraph(part) for part in _BLANK_LINES.split(_without_names(text)))


def _without_names(text: str) -> str:
    """``text`` in which no heading is the name of a page's own object: renderers make an ``id`` of it.

    An element with the id MathJax answers to ``window.MathJax``. An invisible blank makes another name of it.
    """
    if not _PAGE_NAMES.search(_MARKUP.sub(r"\1", text)):
        return text
    lines = text.split("\n")
    for number, line in enumerate(lines):
        underlined = number + 1 < len(lines) and _UNDERLINE.fullmatch(lines[number + 1])
        if (underlined or _HEADING.match(line)) and _PAGE_NAMES.search(_MARKUP.sub(r"\1", line)):
            end = closing.start() if (closing := _CLOSING.search(line)) else len(line)
            lines[number] = line[:end] + _NO_NAME + line[end:]
    return "\n".join(lines)


def _safe_paragraph(text: str) -> str:
    parts, position = [], 0
    for start, end in _sure_spans(text):
        parts += [_neutral(text[position:start]), text[start:end]]
        position = end
    return "".join([*parts, _neutral(text[position:])])


def _sure_spans(paragraph: str) -> list[tuple[int, int]]:
    """The code spans that every renderer sees alike; none at all where one backtick is in doubt."""
    if "`" not in paragraph or any(mark in paragraph for mark in _UNSURE_AROUND):
        return []
    spans, line_start = [], 0
    for line in paragraph.split("\n"):
        runs = list(_RUN.finditer(line))
        if len(runs) % 2:
            return []
        for opening, closing in zip(runs[::2], runs[1::2], strict=True):
            if len(opening[0]) != len(closing[0]):
                return []
            content = line[opening.end() : closing.start()]
            before = line[max(0, opening.start() - 4) : opening.start()]  # one more than may be signs
            if _BEFORE_SPAN.search(before) and not _UNSURE_IN_SPAN & set(content):
                spans.append((line_start + opening.start(), line_start + closing.end()))
        line_start += len(line) + 1
    return spans


def _neutral(text: str) -> str:
    text = _LINK_IN_ANGLES.sub(r"](\1", text)
    text = _AUTOLINK.sub(lambda found: f"{found[1]} {found[2]}" if found[2] else found[1], text)
    text = _OTHER_LINK.sub("] (", text)
    text = _OTHER_DEFINITION.sub("] :", text)
    text = _ESCAPED_IMAGE.sub("! ", _IMAGE.sub("", text))
    text = _TEX_COMMAND.sub(r"\\ ", text)
    text = _ENTITY_START.sub("&amp;", text)
    parts, position = [], 0
    for formula in _MATH.finditer(text):
        parts += [_TAG_START.sub("&lt;", text[position : formula.start()]), _TAG_START.sub("< ", formula[0])]
        position = formula.end()
    return "".join([*parts, _TAG_START.sub("&lt;", text[position:])])
