"""A table in the manner of the paper's Beer table, generated: no row of it is from RateBeer.

The paper's table (Liu et al., MLSys 2025, arXiv 2403.05821; their artifact has it as ``datasets/beer.csv``)
may not be passed on. This one has its size, its fields in its order, and these figures of it: 1,423 beers,
each of one number, name and style; 4,862 reviewers; roughly, how many reviews a beer and a reviewer have (by
rank to the power of -1 and -0.6, each at least one), how many of a reviewer's reviews are of one day (a
fifth), and the four ratings (means 0.67 to 0.71 of the most points, correlations 0.51 to 0.85).

All else is made up: names, reviewers, numbers and which days, 44 styles for 78, 300 brewers with whose names
those of the beers begin. Nothing was fitted to a hit rate.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pandas as pd

__all__ = ["DEPENDENT", "QUESTION", "beer_table"]

ROWS = 28_479
BEERS = 1_423
BREWERS = 300
REVIEWERS = 4_862
SEED = 20_250_409
BEER_EXPONENT, REVIEWER_EXPONENT = 1.0, 0.6
SAME_DAY = 0.2
"""How often a reviewer's next review is of the day of an earlier one."""
DAY_S = 86_400
FIRST_S, LAST_S = 955_000_000 // DAY_S * DAY_S, 1_326_000_000 // DAY_S * DAY_S
QUALITY_SD, MOOD_SD = 0.1, 0.09
"""Of beers, and of one beer's reviews, as parts of the most points."""
RATINGS = {
    "overall": (20, 0.69, 0.05),
    "taste": (10, 0.67, 0.05),
    "palate": (5, 0.67, 0.09),
    "appearance": (5, 0.71, 0.11),
}
"""The most points, the mean as a part of them, and what a rating has of its own."""

QUESTION = (
    "Based on the beer descriptions, does this beer have European origin? Answer 'YES' if it does or 'NO' "
    "if it doesn't."
)
"""The paper's filter query for this table."""
DEPENDENT = {"beer/beerId": ("beer/name",), "beer/name": ("beer/beerId",)}
"""The dependencies that the paper tells its own method of."""


def _listed(words: str) -> list[str]:
    return words.split(", ")


STYLES = _listed(
    "Pale Lager, Premium Lager, Pilsener, Bohemian Pilsener, Dunkel, Helles, Oktoberfest/Märzen, Vienna, "
    "Schwarzbier, Dunkler Bock, Heller Bock, Doppelbock, Eisbock, Kölsch, Altbier, Hefeweizen, "
    "Dunkelweizen, Weizen Bock, Witbier, Berliner Weisse, Golden Ale/Blond Ale, American Pale Ale, "
    "English Pale Ale, India Pale Ale (IPA), Imperial/Double IPA, Black IPA, Amber Ale, Brown Ale, Mild "
    "Ale, Bitter, Premium Bitter/ESB, Scottish Ale, Scotch Ale, Barley Wine, Porter, Imperial/Strong "
    "Porter, Stout, Dry Stout, Sweet Stout, Imperial Stout, Belgian Ale, Belgian Strong Ale, "
    "Abt/Quadrupel, Saison"
)
PLACES = _listed(
    "Harbor, Ridge, Valley, Old Mill, Stone Bridge, North Shore, Cedar, Granite, Iron Gate, Red Barn, "
    "Blue Heron, Summit, Lakeside, Foxhill, Greenfield, Millbrook, Eagle Rock, Silver Creek, Black Oak, "
    "Whitewater, Sandhill, Kingsport, Elmwood, Ravenswood, Brookside"
)
HOUSES = _listed(
    "Brewing, Brewery, Brewhouse, Ales, Brouwerij, Brauhaus, Brauerei, Pivovar, Cellars, Craft, Works, Farm"
)
FIRST = _listed(
    "Old, Golden, Midnight, Winter, Double, Smoked, Wild, Royal, Grand, Lazy, Crooked, Hoppy, Dark, "
    "Velvet, Burnt, Summer, Harvest, Bourbon Barrel, Saint, Noble, Lost, Broken, Rusty, Howling"
)
SECOND = _listed(
    "Monk, Fox, Anchor, Lantern, Raven, Badger, Trail, Orchard, Moon, Hammer, Wagon, Widow, River, "
    "Bishop, Hound, Anvil, Barrel, Beacon, Crow, Lumberjack, Miller, Pilgrim, Thistle, Valkyrie"
)
LAST = _listed("Ale, Lager, IPA, Stout, Porter, Weisse, Tripel, Bock, Bitter, Reserve, Pils, Saison")
SYLLABLES = _listed(
    "ba, bru, cor, dan, del, fer, gar, hop, jo, ken, la, mar, mi, ner, ol, pat, ro, sam, ste, ter, yo"
)


def beer_table(rows: int = ROWS, *, seed: int = SEED) -> pd.DataFrame:
    """The table; the same for the same seed."""
    chance = random.Random(seed)
    brewers = _different(BREWERS, lambda: f"{chance.choice(PLACES)} {chance.choice(HOUSES)}")
    names = _different(BEERS, lambda: f"{chance.choice(brewers)} {_beer_name(chance)}")
    beers = [
        (number, name, chance.choice(STYLES), chance.gauss(0, QUALITY_SD))
        for number, name in zip(chance.sample(range(1, 130_000), BEERS), names, strict=True)
    ]
    people = _different(REVIEWERS, lambda: _profile(chance))
    reviewed = _each_once(chance, beers, BEER_EXPONENT, rows)
    by_whom = _each_once(chance, people, REVIEWER_EXPONENT, rows)
    days: dict[str, list[int]] = {}
    return pd.DataFrame(
        [
            _review(chance, person, _day_s(chance, days.setdefault(person, [])), *beer)
            for person, beer in zip(by_whom, reviewed, strict=True)
        ]
    )


def _review(
    chance: random.Random, person: str, day_s: int, number: int, name: str, style: str, quality: float
) -> dict[str, object]:
    mood = chance.gauss(quality, MOOD_SD)

    def rated(most: int, mean: float, own_sd: float) -> str:
        return f"{min(most, max(1, round(most * chance.gauss(mean + mood, own_sd))))}/{most}"

    return {
        "review/profileName": person,
        "review/time": day_s,
        **{f"review/{what}": rated(*how) for what, how in RATINGS.items()},
        "beer/name": name,
        "beer/style": style,
        "beer/beerId": number,
    }


def _day_s(chance: random.Random, before: list[int]) -> int:
    """A day of a reviewer, in seconds: one of those before, or another; late ones are more likely."""
    if before and chance.random() < SAME_DAY:
        return chance.choice(before)
    before.append(int(chance.triangular(FIRST_S, LAST_S, LAST_S)) // DAY_S * DAY_S)
    return before[-1]


def _beer_name(chance: random.Random) -> str:
    words = [chance.choice(FIRST), chance.choice(SECOND), chance.choice(LAST)]
    return " ".join(chance.choice(([words[1]], words[:2], words[1:], words)))


def _profile(chance: random.Random) -> str:
    name = "".join(chance.choice(SYLLABLES) for _ in range(chance.randint(2, 4)))
    return f"{name}{chance.randrange(1, 1000)}" if chance.random() < 0.3 else name


def _different(count: int, draw: Callable[[], str]) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw()] = None
    return list(found)


def _each_once(chance: random.Random, these: list[Any], exponent: float, count: int) -> list[Any]:
    """So many of them in any order: each once, as far as there is room, and more often by its rank."""
    by_rank = list(accumulate((rank + 1) ** -exponent for rank in range(len(these))))
    drawn = these + chance.choices(these, cum_weights=by_rank, k=max(0, count - len(these)))
    return chance.sample(drawn, count)
