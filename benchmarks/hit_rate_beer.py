"""A table in the manner of the paper's Beer table, generated: nothing in it is from RateBeer.

What the paper tells (Liu et al., MLSys 2025, arXiv 2403.05821, section 6 and appendix B): 28,479 reviews of
nine fields, of which ``beer/beerId`` and ``beer/name`` determine each other; prompts of 156 tokens in the
mean; repeated values "in early fields like review/profileName". From an earlier look at the real table: 1,423
distinct pairs of name and style. All else is assumed:

* the order of fields: the paper lists them by the alphabet and gives no other; here the profile name, which
  it calls early, stands first;
* a beer has one of 44 styles; names begin with one of 300 brewers;
* how often a beer or a reviewer comes falls with its rank (exponents 0.7 and 0.8);
* ratings on RateBeer's scales, as text ("4/5", "14/20"), around the beer's quality and a mood;
* times are days from 2000 to 2012 in seconds, evenly spread; numbers of beers have nothing to do with names.

``REVIEWERS`` is the one number that was fitted: by it the fields as given have about the hit rate that they
have in the real table (the paper: 49.9; an ideal cache: 51.9). It was set before another order was looked at.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import accumulate

import pandas as pd

__all__ = ["DEPENDENT", "QUESTION", "beer_table"]

ROWS = 28_479
BEERS = 1_423
BREWERS = 300
REVIEWERS = 29_000
SEED = 20_250_409
BEER_EXPONENT, REVIEWER_EXPONENT = 0.7, 0.8
FIRST_S, LAST_S = 955_000_000, 1_326_000_000

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


def beer_table(rows: int = ROWS, *, seed: int = SEED, reviewers: int = REVIEWERS) -> pd.DataFrame:
    """The table; the same for the same seed."""
    chance = random.Random(seed)
    brewers = _different(BREWERS, lambda: f"{chance.choice(PLACES)} {chance.choice(HOUSES)}")
    names = _different(BEERS, lambda: f"{chance.choice(brewers)} {_beer_name(chance)}")
    beers = [
        (number, name, chance.choice(STYLES), chance.gauss(0.65, 0.1))
        for number, name in zip(chance.sample(range(1, 80_000), BEERS), names, strict=True)
    ]
    people = _different(reviewers, lambda: _profile(chance))
    reviewed = beers + chance.choices(beers, cum_weights=_by_rank(BEERS, BEER_EXPONENT), k=rows)
    reviewed = chance.sample(reviewed[: max(rows, BEERS)], rows)  # each at least once, in a large table
    by_whom = chance.choices(people, cum_weights=_by_rank(reviewers, REVIEWER_EXPONENT), k=rows)
    return pd.DataFrame(
        [
            _review(chance, person, number, name, style, quality)
            for person, (number, name, style, quality) in zip(by_whom, reviewed, strict=True)
        ]
    )


def _review(
    chance: random.Random, person: str, number: int, name: str, style: str, quality: float
) -> dict[str, object]:
    mood = chance.gauss(quality, 0.08)

    def rated(most: int) -> str:
        return f"{min(most, max(1, round(most * chance.gauss(mood, 0.06))))}/{most}"

    return {
        "review/profileName": person,
        "beer/beerId": number,
        "beer/name": name,
        "beer/style": style,
        "review/appearance": rated(5),
        "review/overall": rated(20),
        "review/palate": rated(5),
        "review/taste": rated(10),
        "review/time": chance.randrange(FIRST_S, LAST_S, 86_400),
    }


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


def _by_rank(count: int, exponent: float) -> list[float]:
    return list(accumulate(rank**-exponent for rank in range(1, count + 1)))
