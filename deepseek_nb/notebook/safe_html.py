"""Text of others as HTML for a widget: Markdown made harmless, then rendered here, with no HTML of theirs.

An HTML widget puts what it is given into the page as it is: nobody sanitises it after us.
"""

from __future__ import annotations

import functools
import html
from collections.abc import MutableMapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from deepseek_nb.notebook.sanitize import safe_markdown, safe_plain

__all__ = ["html_of_markdown", "html_of_plain", "safe_html"]

HIGHEST_HEADING = 3
"""An answer's headings stay below those of the notebook."""
CODE = "background: var(--jp-layout-color2, #f2f2f2); padding: 4px 8px; overflow: auto"


def safe_html(text: str) -> str:
    r"""``text``, Markdown from a model, as HTML without live parts: links open in a window of their own.

    >>> safe_html("a <b>bold</b> *word*")
    '<p>a &lt;b&gt;bold&lt;/b&gt; <em>word</em></p>\n'
    """
    return html_of_markdown(safe_markdown(text))


def html_of_markdown(markdown: str) -> str:
    """Markdown that :func:`safe_markdown` made, as HTML."""
    return str(_renderer().render(markdown))


def html_of_plain(text: str) -> str:
    """``text`` as it is, line by line.

    >>> html_of_plain("1 < 2")
    '<div style="white-space: pre-wrap">1 &lt; 2</div>'
    """
    return f'<div style="white-space: pre-wrap">{html.escape(safe_plain(text))}</div>'


@functools.cache
def _renderer() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")
    made.core.ruler.push("lower_headings", _lower_headings)
    made.add_render_rule("link_open", _link_open)
    made.add_render_rule("fence", _fence)
    return made


def _lower_headings(state: Any) -> None:
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + HIGHEST_HEADING - 1)}"


def _link_open(
    renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]
) -> str:
    tokens[index].attrSet("style", "text-decoration: underline")
    tokens[index].attrSet("target", "_blank")
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    return str(renderer.renderToken(tokens, index, options, env))


def _fence(
    renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]
) -> str:
    return f'<div style="{CODE}">{RendererHTML.fence(renderer, tokens, index, options, env)}</div>\n'
