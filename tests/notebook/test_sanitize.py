"""Hostile Markdown comes out harmless, and honest Markdown as it went in."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from markdown_it import MarkdownIt

from deepseek_nb.notebook.sanitize import fenced, safe_markdown, safe_plain

LIVE = "<img src=x onerror=alert(1)>"
MARKDOWNS_OWN = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "em", "strong", "code", "pre"}
MARKDOWNS_OWN |= {"blockquote", "hr", "br", "a", "s", "table", "thead", "tbody", "tr", "th", "td"}
ATTRIBUTES = {"a": {"href", "title"}, "code": {"class"}, "ol": {"start"}, "td": {"style"}, "th": {"style"}}
HARMLESS = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)

ATTACKS = [
    "<script>alert(1)</script>",
    LIVE,
    "<svg onload=alert(1)>",
    '<button data-commandlinker-command="terminal:create-new" data-commandlinker-args="{}">click</button>',
    "<ScRiPt\n>alert(1)</sCrIpT\n>",
    "<!-- comment --><b>x</b>",
    "<!-- open",
    "<?php echo 1 ?>",
    "<!DOCTYPE html>",
    "<![CDATA[<script>]]>",
    "</div></div><h1>x",
    "<div\n\nonclick=alert(1)>x</div>",
    "<a href='javascript:alert(1)'>x</a>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<style>@import url(https://evil.example)</style>",
    "<form action=https://evil.example><input name=id></form>",
    "![alt](https://evil.example/p.png)",
    "![alt][ref]\n\n[ref]: https://evil.example/p.png",
    "![ref]\n\n[ref]: https://evil.example/p.png",
    "!![a](https://evil.example/p.png)",
    "\\![a](https://evil.example/p.png) \\\\![b](https://evil.example/p.png)",
    "[![a](https://evil.example/p.png)](https://evil.example)",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](  javascript:alert(1))",
    "[a](\njavascript:alert(1))",
    "[a](<javascript:alert(1)>)",
    "[a](java&#115;cript:alert(1))",
    "[a](javascript&colon;alert(1))",
    "[a](\x01javascript:alert(1))",
    "[a](java\tscript:alert(1))",
    "[a](data:text/html;base64,PHNjcmlwdD4=)",
    "[a](vbscript:x) [b](file:///etc/passwd) [c](//evil.example) [d](/lab/tree/x.ipynb) [e](#id)",
    "[a]: javascript:alert(1)\n\n[a] [x][a]",
    "[a]:\njavascript:alert(1)\n\n[a]",
    "> [a]:\n> javascript:alert(1)\n>\n> [a]",
    "[a\nb]: javascript:alert(1)\n\n[a b]",
    "[a]: <javascript:alert(1)> 'title'\n\n[a]",
    "<javascript:alert(1)>",
    "<data:text/html,x>",
    "<https://example.org/<img/src=x>",
    f"- ```\n  x\n  ```\n{LIVE}",
    f"- ```\n  x\n{LIVE}\n```\n{LIVE}",
    f"1. ~~~\n   x\n\n{LIVE}",
    f"> ```\n{LIVE}\n> ```",
    f"```\nx\n```\n{LIVE}\n```\ny",
    f"````\n```\n````\n{LIVE}",
    f"```\nx\n ``` y\n{LIVE}",
    f"```\nx\n```` \n{LIVE}",
    f"~~~\n```\n~~~\n{LIVE}\n```\n",
    f"``` a`b\n{LIVE}\n```",
    f"    ```\n{LIVE}\n    ```",
    f"\t{LIVE}",
    f"    indented\n{LIVE}",
    f"text\n    {LIVE}",
    f"`unclosed {LIVE}",
    f"`` ` {LIVE} ` ``` {LIVE}",
    f"`\na `{LIVE}` b",
    f"\\`{LIVE}`",
    f"`\\`{LIVE}`",
    f"a ` b\n\n{LIVE} ` c",
    f"| a | b |\n|---|---|\n| `a | {LIVE}` |",
    f"$`$ {LIVE} `",
    f"http://a.example/`{LIVE}`",
    f"[x `](http://a.example){LIVE}`",
    f"*a `b* {LIVE}`",
    f"$$\n\n```\n$$\n{LIVE}\n```",
    f"\\\\[\n\n```\n\\\\]\n{LIVE}\n```",
    f"\\begin{{a}}\n\n```\n\\end{{a}}\n{LIVE}\n```",
    f"\\[ $$ \\]\n\n```\n$$\n{LIVE}\n```",
    f"a $$ b\n\n$$\n\n```\n$$\n{LIVE}\n```",
    f"\\$$ $$\n\n```\n$$\n{LIVE}\n```",
    f"$$ a $$$\n\n```\n$$\n{LIVE}\n```",
    f"$a {LIVE} b$",
    f"$$\n{LIVE}\n$$",
    "$\\href{javascript:alert(1)}{x}$ $\\style{background:url(https://evil.example)}{x}$",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;",
    "\x1b[31mred\x1b[0m \x1b]8;;https://evil.example\x07link\x1b]8;;\x07 \x9b31m \x00 \x07",
    "<\x00script>alert(1)</script>",
    "<\u200bscript>",
    "\u202etxt.exe",
    f"a\r{LIVE}\r\n```\r{LIVE}\r```\r{LIVE}",
    f"a\u2028{LIVE}\x85```\n",
    "# MathJax\n\n<img id=MathJax>",
    '[a](https://x.example" onmouseover="alert(1))',
    "[a](https://x.example 'x' onclick=alert(1))",
    '<https://x.example/" onclick=alert(1)>',
    "[^1]: <b>note</b>\n\nx[^1]",
]


class Rendered(HTMLParser):
    """What a browser would find in the HTML."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.wrong: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in MARKDOWNS_OWN:
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            if name not in ATTRIBUTES.get(tag, ()) or (name == "href" and not HARMLESS.match(value or "")):
                self.wrong.append(f"<{tag} {name}={value!r}>")

    def handle_data(self, data):
        self.texts.append(data)

    def handle_comment(self, data):
        self.wrong.append(f"<!--{data}")

    def handle_decl(self, decl):
        self.wrong.append(f"<!{decl}")

    def handle_pi(self, data):
        self.wrong.append(f"<?{data}")

    def unknown_decl(self, data):
        self.wrong.append(f"<![{data}")


RENDERERS = [
    MarkdownIt("commonmark", {"html": True}),
    MarkdownIt("gfm-like", {"html": True, "linkify": False}).disable("linkify"),
]
for renderer in RENDERERS:
    renderer.validateLink = lambda url: True  # the worst renderer checks no link


def wrong_in(text: str) -> list[str]:
    return [wrong for renderer in RENDERERS for wrong in Rendered(renderer.render(text)).wrong]


def test_the_judge_sees_what_is_wrong():
    """Unsanitised, the attacks are found: the test is not blind."""
    found = [attack for attack in ATTACKS if wrong_in(attack)]
    assert len(found) > len(ATTACKS) / 2
    assert wrong_in("[a](javascript:alert(1))") == ["<a href='javascript:alert(1)'>"] * 2


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_survives(attack):
    """Alone, after and before other text, inside a list and a quotation."""
    for text in (
        attack,
        f"Some text.\n{attack}\nMore.",
        f"```python\nx = '<'\n```\n{attack}",
        f"{attack}\n```html\n<b>\n```\n",
        "\n".join(f"- {line}" if not i else f"  {line}" for i, line in enumerate(attack.split("\n"))),
        "\n".join(f"> {line}" for line in attack.split("\n")),
        attack + attack,
    ):
        assert wrong_in(safe_markdown(text)) == []
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", safe_markdown(attack))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", safe_plain(attack))


PIECES = [
    *(
        "`",
        "``",
        "```",
        "~~~",
        "\n",
        "\n\n",
        "\r",
        "    ",
        "\t",
        "- ",
        "1. ",
        "> ",
        "| ",
        "|---|",
        "# ",
        ": ",
    ),
    *("$", "$$", "\\", "\\\\", "\\[", "\\]", "\\begin{a}", "\\end{a}", "\\href{javascript:x}", "*", "_", "!"),
    *("[a]", "[", "]", "(", ")", "](", "]:", "<", ">", "&", "&lt;", "&#60;", "<!--", "-->", "<b>", LIVE),
    *("javascript:x", "<javascript:x>", "https://e.example/", "\x1b[1m", "word", " "),
]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=24).map("".join))
def test_nothing_put_together_from_nasty_pieces_survives(text):
    """Random compositions of everything that has a meaning somewhere."""
    assert wrong_in(safe_markdown(text)) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=16).map("".join))
def test_a_text_that_is_still_being_written_is_as_harmless(text):
    """Every beginning of an answer is shown at some time."""
    for end in range(len(text)):
        assert wrong_in(safe_markdown(text[:end])) == []


HONEST = [
    "Just a line.",
    "# Title\n\nA **bold** and *slanted* text, with `code`, [a link](https://example.org/a_(b)?c=1&d=2).",
    "Write <me@x> no: 3 < 4 and a <= b & c, R&D, AT&T; 1<2.",
    "| a | b |\n|---|--:|\n| 1 | 2 |\n| x < y | `z` |",
    "1. one\n2. two\n   - three\n\n> quoted\n> text",
    "Euler: $e^{i\\pi} + 1 = 0$ and\n\n$$\n\\begin{aligned} a &= b \\\\ c &< d \\end{aligned}\n$$\n\nDone.",
    "Prices from $5 to $10.",
    "```python\nif a < b and c & d:\n    print('<b>&lt;</b>')\n```",
    "Before\n\n```html\n<script>alert(1)</script>\n![x](y)\n```\n\nafter",
    "````markdown\n```python\nx\n```\n````",
    "Use the `<div>` tag, (`Vec<u8>`), and `a && b`; `List<int>` is `x[0]`.",
    "$$a$$\n\n```html\n<b>$5</b>\n```",
    "Mail mailto:a@example.org, see [me](mailto:a@example.org) or https://example.org.",
    "[1]: https://example.org/one\n\nAs [shown][1].",
    "äöü 中文 🙂 العربية",
]


@pytest.mark.parametrize("text", HONEST)
def test_honest_text_stays_as_it_is(text):
    """To the letter, in what is rendered."""
    shown = safe_markdown(text)
    for renderer in RENDERERS:
        if "<me@x>" not in text:
            assert renderer.render(shown) == renderer.render(text)
        assert Rendered(renderer.render(shown)).wrong == []
    assert safe_plain(text) == text


def test_text_that_looks_like_a_tag_reads_as_it_was_written():
    """Outside of code too: escaped, not dropped."""
    html = RENDERERS[0].render(safe_markdown("A <b> and Vec<u8> &lt; ![pixel](https://e.example/p.png)"))
    assert "".join(Rendered(html).texts).strip() == "A <b> and Vec<u8> &lt; pixel"


def test_formulas_keep_their_meaning():
    """``<`` in a formula gets a blank, which mathematics ignores, not an entity, which it would show."""
    assert safe_markdown("$a<b$ and \\(x<y\\)") == "$a< b$ and \\(x< y\\)"


def test_an_unclosed_block_is_closed():
    """While code is being written it already shows as code."""
    assert safe_markdown("```python\nx = '<b>'") == "```python\nx = '<b>'\n```"


def test_a_fence_is_longer_than_what_it_holds():
    """Backticks inside cannot close it."""
    assert fenced("a\n````\n<b>", "py").startswith("`````py\n")
    assert wrong_in(fenced("```\n" + LIVE)) == []


SLOW = ["\\[", "$$ ", "`a", "[", "](", "\\begin{a}", "<", "&a", "](https://a(", "\x1b]", "```\n"]
SLOW += ["```\n<\n```\n", "\\[ x\n```\n<\n```\n", "$$a$$\n```\n<\n```\n", "$$a$$ \\\\[c\\\\]\n```\n<\n```\n"]


@pytest.mark.parametrize("piece", SLOW)
def test_a_long_hostile_text_takes_no_long_time(piece):
    """40 KB of the worst piece: a second, not minutes."""
    start_s = time.process_time()
    safe_markdown(piece * (40_000 // len(piece)))
    assert time.process_time() - start_s < 3
