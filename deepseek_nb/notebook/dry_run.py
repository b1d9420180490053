"""``--dry-run``: the exact prompt, its tokens and its price, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_nb.core.budget import worst_case_usd
from deepseek_nb.core.tokens import estimate_request_tokens
from deepseek_nb.notebook.sanitize import fenced, safe_markdown, safe_plain

__all__ = ["dry_run"]

_THINKING = {True: "on", False: "off", None: "as the server decides"}


def dry_run(client: Any, errand: Any, notes: Sequence[str]) -> Mapping[str, str]:
    """What would be sent, in words: Markdown and plain text. Costs nothing, sends nothing, needs no key.

    ``notes`` tell of the tables in the prompt.
    """
    request = errand.request
    lines = [
        f"model: {request.model}, thinking {_THINKING[request.thinking]}",
        *(f"{name}: {value}" for name, value in _parameters(request)),
        *notes,
        f"prompt: about {estimate_request_tokens(request):,} tokens (an upper estimate), "
        f"{request.prompt_chars():,} characters",
        _price(client, errand),
    ]
    if errand.look_up and client.aio.store is not None:
        kept = errand.key in client.kept([errand.key], errand.ttl_s)
        lines.append("in the store: " + ("yes, it would cost nothing" if kept else "no, it would be asked"))
    title = "Dry run: nothing was sent."
    told = "\n".join(f"- {safe_markdown(line)}" for line in lines)
    texts = [(f"{message.role}:", message.content) for message in request.messages]
    markdown = [f"**{title}**", told, *(f"{role}\n\n{fenced(text)}" for role, text in texts)]
    plain = [title, *lines, *(f"\n{role}\n{text}" for role, text in texts)]
    return {"text/markdown": "\n\n".join(markdown), "text/plain": safe_plain("\n".join(plain))}


def _parameters(request: Any) -> list[tuple[str, Any]]:
    named = [(name, getattr(request, name)) for name in ("temperature", "max_tokens", "top_p")]
    if request.json_mode:
        named.append(("answer", "one JSON object, checked"))
    if request.form is not None:
        ways = {
            "tool": "the arguments of a strict function",
            "responses": "JSON of the schema, by /responses",
        }
        named.append(("answer", f"{ways[request.form.way]}, checked"))
    return [(name.replace("_", " "), value) for name, value in named if value is not None]


def _price(client: Any, errand: Any) -> str:
    request = errand.request
    price = client.aio.price_now(request.model)
    if price is None:
        return "price: not known for this model"
    tokens = estimate_request_tokens(request)
    longest = request.max_tokens or errand.output_tokens
    when = "peak hours" if price.peak else "off-peak"
    return (
        f"price now ({when}): at most USD {price.cost_usd(miss_tokens=tokens):.6f} for the prompt; "
        f"USD {worst_case_usd(tokens, longest, price):.6f} with the longest answer ({longest:,} tokens)"
    )
