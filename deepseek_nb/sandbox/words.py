"""Small tools of the answer engine: words, sentences, cues and numbers that depend on the text alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

__all__ = ["clip", "mood", "number_of", "overlap", "sentences", "stems"]

_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]*")
_CUES: dict[str, frozenset[str]] = {
    "positive": frozenset(
        _WORD.findall(
            "beautiful best comfortable excellent fast favorite friendly good great happy helpful love nice "
            "perfect pleased recommend satisfied thank thanks well wonderful"
        )
    ),
    "negative": frozenset(
        _WORD.findall(
            "angry awful bad broken cancel complaint damaged declined delay disappointed error fail failed "
            "fraud hate late lost missing never poor problem refund return slow stolen "
            "terrible unhappy worst wrong"
        )
    ),
}
_MOODS: dict[str, str] = dict.fromkeys(
    _WORD.findall("bad critical default deny fraud high negative no poor reject unhappy urgent worse"),
    "negative",
) | dict.fromkeys(
    _WORD.findall("accept approve excellent good great happy low positive satisfied yes"), "positive"
)


def stems(text: str) -> frozenset[str]:
    """The words of a text, lower case, cut to five letters so that endings do not matter."""
    return frozenset(word[:5] for word in _WORD.findall(text.lower()))


@lru_cache(maxsize=4096)
def name_stems(name: str) -> frozenset[str]:
    """The words inside a name such as ``cardArrival`` or ``card_arrival``."""
    return stems(_CAMEL.sub(" ", name).replace("_", " "))


def overlap(option: str, found: frozenset[str]) -> float:
    """Which share of an option's words is among the words found."""
    wanted = name_stems(option)
    return len(wanted & found) / len(wanted) if wanted else 0.0


@lru_cache(maxsize=4096)
def mood_of_option(option: str) -> str | None:
    """Whether an option is a good or a bad one: "positive", "negative" or None."""
    for word in _WORD.findall(option.lower().replace("_", " ")):
        if word in _MOODS:
            return _MOODS[word]
    return None


def mood(found: Iterable[str]) -> float:
    """From -1 (bad words only) to 1 (good words only); 0 where there are none. Takes whole words."""
    words = set(found)
    good, bad = len(words & _CUES["positive"]), len(words & _CUES["negative"])
    return (good - bad) / (good + bad) if good + bad else 0.0


def words_of(text: str) -> list[str]:
    """The words of a text, lower case, in order."""
    return _WORD.findall(text.lower())


def number_of(*what: object) -> int:
    """A number below 2**53 that depends on nothing but the arguments."""
    name = "\x00".join(map(str, what)).encode("utf-8", "replace")
    return int.from_bytes(blake2b(name, digest_size=7).digest(), "big") >> 3


def sentences(text: str) -> list[str]:
    """The sentences of a text, without blanks around them."""
    found = [sentence.strip() for sentence in _SENTENCE.findall(text)]
    return [sentence for sentence in found if sentence] or [text.strip()]


def clip(text: str, chars: int) -> str:
    """The beginning of a text, at most so many characters, cut between words where that is possible."""
    if len(text) <= chars:
        return text
    cut = text[:chars]
    space = cut.rfind(" ")
    return cut[:space].rstrip(" ,;:") if space > chars // 2 else cut
