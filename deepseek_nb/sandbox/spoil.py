"""The faults of the answer itself: what the model wrote, or did not write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle, islice

from deepseek_nb.sandbox.faults import Fault
from deepseek_nb.sandbox.questions import Completion, ParsedRequest
from deepseek_nb.sandbox.tokens import Counter

__all__ = ["SPOILERS", "Draft", "bundled", "draft_answer"]

_DSML_TEXTS = (
    '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="answer">\n<｜DSML｜parameter name="text" string="true">yes'
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
    '<｜｜DSML｜｜ calls><｜｜DSML｜｜ invoke name="answer"></｜｜DSML｜｜ invoke></｜｜DSML｜｜ calls>',
    '<‖DSML‖function_calls><‖DSML‖invoke name="answer"></‖DSML‖invoke></‖DSML‖function_calls>',
    '< | DSML | tool_calls>< | DSML | invoke name="answer"></ | DSML | invoke></ | DSML | tool_calls>',
    "yes</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
)
_OTHER_SHAPE = '{"result":{"note":"another shape than asked for"}}'
_LONG_THOUGHT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer as tokens. ``reasoning`` is None where none is sent."""

    content: tuple[str, ...]
    reasoning: tuple[str, ...] | None
    finish_reason: str = "stop"

    @property
    def tokens(self) -> int:
        """Tokens to pay for."""
        return len(self.content) + len(self.reasoning or ())


def draft_answer(request: ParsedRequest, completion: Completion, counter: Counter) -> Draft:
    """Cut a completion at its stop strings and at ``max_tokens``, of which reasoning takes its part first."""
    text = "".join(call.arguments for call in completion.calls) or completion.text
    if request.stop:
        ends = [at for at in map(text.find, request.stop) if at >= 0]
        if ends:
            text = text[: min(ends)]
    content = counter.pieces(text)
    reasoning = counter.pieces(completion.reasoning) if request.thinking else None
    draft = Draft(content, reasoning, completion.finish_reason)
    if draft.tokens <= request.max_tokens:
        return draft
    kept = None if reasoning is None else reasoning[: request.max_tokens]
    return Draft(content[: request.max_tokens - len(kept or ())], kept, "length")


def bundled(draft: Draft, size: int) -> Draft:
    """The same answer in pieces of ``size`` tokens.

    >>> bundled(Draft(("a", "b", "c"), None), 2).content
    ('ab', 'c')
    """
    content, reasoning = (
        None
        if pieces is None
        else tuple("".join(pieces[at : at + size]) for at in range(0, len(pieces), size))
        for pieces in (draft.content, draft.reasoning)
    )
    return replace(draft, content=content or (), reasoning=reasoning)


def _reasoning_only(draft: Draft, *_: object) -> Draft:
    return replace(draft, content=(), reasoning=draft.reasoning or draft.content, finish_reason="stop")


def _blank(draft: Draft, *_: object) -> Draft:
    return replace(draft, content=(), finish_reason="stop")


def _spaces(draft: Draft, *_: object) -> Draft:
    content = tuple(" " * len(piece) for piece in draft.content)
    return replace(draft, content=content, finish_reason="stop")


def _half(finish_reason: str) -> Callable[..., Draft]:
    def cut(draft: Draft, fault: Fault, *_: object) -> Draft:
        kept = max(1, int(len(draft.content) * fault["share"]))
        return replace(draft, content=draft.content[:kept], finish_reason=finish_reason)

    return cut


def _reasoning_length(draft: Draft, _: Fault, request: ParsedRequest, counter: Counter) -> Draft:
    thought = draft.reasoning or counter.pieces("Wait, let me think about this once more. ")
    tokens = min(request.max_tokens, _LONG_THOUGHT_TOKENS)
    return Draft((), tuple(islice(cycle(thought), tokens)), "length")


def _runaway(draft: Draft, fault: Fault, request: ParsedRequest, _: Counter) -> Draft:
    blanks = min(request.max_tokens, fault["tokens"]) - len(draft.reasoning or ()) - 1
    return replace(draft, content=("{", *("\n\t " for _ in range(blanks))), finish_reason="length")


def _dsml(draft: Draft, fault: Fault, *_: object) -> Draft:
    text = _DSML_TEXTS[fault["variant"] % len(_DSML_TEXTS)]
    return replace(draft, content=tuple(text[at : at + 3] for at in range(0, len(text), 3)))


def _bad_json(draft: Draft, *_: object) -> Draft:
    if not draft.content:
        return draft
    return replace(draft, content=(*draft.content[:-1], draft.content[-1].rstrip()[:-1]))


def _fenced(draft: Draft, _: Fault, __: ParsedRequest, counter: Counter) -> Draft:
    before, after = counter.pieces("Here is the JSON:\n```json\n"), counter.pieces("\n```")
    return replace(draft, content=(*before, *draft.content, *after))


def _wrong_shape(draft: Draft, _: Fault, __: ParsedRequest, counter: Counter) -> Draft:
    return replace(draft, content=counter.pieces(_OTHER_SHAPE))


SPOILERS: dict[str, Callable[[Draft, Fault, ParsedRequest, Counter], Draft]] = {
    "reasoning_only": _reasoning_only,
    "blank_json": _blank,
    "spaces_json": _spaces,
    "length_cut": _half("length"),
    "reasoning_length": _reasoning_length,
    "whitespace_runaway": _runaway,
    "insufficient_resource": _half("insufficient_system_resource"),
    "aborted": _half("aborted"),
    "content_filter": _half("content_filter"),
    "dsml": _dsml,
    "bad_json_answer": _bad_json,
    "fenced_json": _fenced,
    "wrong_shape_json": _wrong_shape,
}
"""The faults that change the answer and leave its way to the client alone."""
