"""The prefix cache gives the hit counts that were published, and isolates users."""

import pytest
from raw_client import QUESTION, ask, talk

from deepseek_nb.sandbox.prefix_cache import PrefixCache
from deepseek_nb.sandbox.tokens import BLOCK_TOKENS


class Cache:
    """A prefix cache that is asked with plain lists of tokens."""

    def __init__(self, rule="units", **times):
        self.cache = PrefixCache(rule, **times)
        self.now_s = 0.0

    def send(self, tokens, user=None):
        blocks, digest = [], 0
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            digest = hash((digest, tuple(tokens[start : start + BLOCK_TOKENS])))
            blocks.append(digest)
        name = str(hash(tuple(tokens)))
        hit = self.cache.hit_tokens(user, len(tokens), tuple(blocks), name, self.now_s)
        self.cache.store(user, len(tokens), tuple(blocks), name, self.now_s)
        return hit


def run(length, start=0):
    return list(range(start, start + length))


PUBLISHED = [
    (92, 0),
    (132, 0),
    (212, 128),
    (372, 256),
    (692, 640),
    (1332, 1280),
    (4810, 4736),
    (5172, 5120),
    (5901, 5888),
]


@pytest.mark.parametrize(("tokens", "hit"), PUBLISHED)
def test_a_warm_repeat_hits_as_published(tokens, hit):
    cache = Cache()
    assert [cache.send(run(tokens)), cache.send(run(tokens))] == [0, hit]


@pytest.mark.parametrize(("tokens", "hit"), [pair for pair in PUBLISHED if pair[0] < 2000])
def test_a_warm_repeat_hits_as_published_over_the_socket(make, tokens, hit):
    sandbox = make(count="vocabulary")
    text = "a" + " a" * (tokens - 5)
    seen = [ask(sandbox, text, max_tokens=1).json["usage"] for _ in range(2)]
    assert seen[0]["prompt_tokens"] == tokens
    assert [usage["prompt_cache_hit_tokens"] for usage in seen] == [0, hit]
    assert seen[1]["prompt_cache_miss_tokens"] == tokens - hit
    assert seen[1]["prompt_tokens_details"] == {"cached_tokens": hit}


def test_an_extension_hits_the_unit_of_what_it_extends():
    cache = Cache()
    cache.send(run(6893))
    assert cache.send(run(6906)) == 6784


def test_only_the_last_tokens_differ():
    cache = Cache()
    cache.send(run(7074))
    assert cache.send(run(7044) + run(30, 90_000)) == 7040


def test_a_change_in_the_middle_hits_nothing():
    cache = Cache()
    cache.send(run(5748))
    changed = run(5748)
    changed[2900] = -7
    assert cache.send(changed) == 0


def test_a_shared_instruction_is_found_by_the_third_row():
    cache = Cache()
    rows = [run(300) + run(200, 10_000 * n) for n in range(1, 5)]
    assert [cache.send(row) for row in rows] == [0, 0, 256, 256]


def test_a_short_row_behind_an_aligned_instruction_hits_from_the_second():
    rows = [run(256) + run(40, 10_000 * n) for n in range(1, 5)]
    kind, strict = Cache(), Cache("strict")
    assert [kind.send(row) for row in rows] == [0, 256, 256, 256]
    assert [strict.send(row) for row in rows] == [0, 0, 256, 256]
    assert strict.send(rows[0]) == 256


def test_strict_still_hits_its_own_repeat():
    cache = Cache("strict")
    assert [cache.send(run(500)) for _ in range(3)] == [0, 384, 384]


def test_users_are_isolated():
    cache = Cache()
    cache.send(run(500), "a")
    assert cache.send(run(500), "b") == 0
    assert cache.send(run(500), "a") == 384


def test_units_settle_and_expire():
    cache = Cache(settle_s=2.0, expiry_s=100.0)
    hits = []
    for cache.now_s in (0.0, 1.0, 2.0, 101.0, 102.5):
        hits.append(cache.cache.hit_tokens(None, 500, (1, 2, 3), "x", cache.now_s))
        if cache.now_s == 0:
            cache.cache.store(None, 500, (1, 2, 3), "x", 0.0)
    assert hits == [0, 0, 384, 384, 0]


def test_a_unit_that_expired_is_built_again():
    cache = Cache(expiry_s=10.0)
    cache.send(run(500))
    cache.now_s = 20.0
    assert [cache.send(run(500)), cache.send(run(500))] == [0, 384]


@pytest.mark.parametrize("count", ["vocabulary", "estimate"])
def test_a_row_job_over_the_socket(make, count):
    """The instruction first, the row last, one user: hits from the third row at the latest."""
    sandbox = make(count=count)
    system = {"role": "system", "content": "Rate the text. " * 120}
    hits = []
    for n in range(4):
        row = f"row {n} " + f"{n} speaks of many things " * 30
        body = QUESTION | {"messages": [system, {"role": "user", "content": row}], "user_id": "job"}
        hits.append(talk(sandbox, body).json["usage"]["prompt_cache_hit_tokens"])
    assert hits[0] == 0
    assert hits[2] == hits[3] > 0
    assert hits[3] % 128 == 0


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="cache_rule='loose'"):
        PrefixCache("loose")
