"""What a plan comes to: tokens from a sample of rows, and the cache hits that the order of sending gives."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from deepseek_nb.core.layout.waves import LEADERS
from deepseek_nb.core.prices import Price

__all__ = ["Estimate", "cached_tokens", "led_tokens", "sampled", "scale_of"]

SAMPLE_ROWS = 200
"""Two hundred rows foretell a table's tokens within 2% (nineteen times in twenty)."""
SCALE_BOUNDS = (0.5, 1.5)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Requests and tokens of a job, as far as they can be foretold."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    """The part of ``prompt_tokens`` that the server's prefix cache will have."""
    answer_tokens: int

    def cost_usd(self, price: Price) -> float:
        """What that costs, in US dollars."""
        return price.cost_usd(
            hit_tokens=self.cached_tokens,
            miss_tokens=self.prompt_tokens - self.cached_tokens,
            output_tokens=self.answer_tokens,
        )


def sampled(count: int, most: int = SAMPLE_ROWS) -> list[int]:
    """Places of ``most`` rows spread evenly over ``count``, or all.

    >>> sampled(10, 3)
    [1, 5, 8]
    """
    if count <= most:
        return list(range(count))
    return [(2 * place + 1) * count // (2 * most) for place in range(most)]


def scale_of(billed_tokens: int, counted_tokens: int) -> float:
    """How many tokens the server counts for one of ours, by an answer's ``usage.prompt_tokens``.

    >>> scale_of(90, 100)
    0.9
    """
    low, high = SCALE_BOUNDS
    return min(high, max(low, billed_tokens / counted_tokens)) if counted_tokens > 0 else 1.0


def cached_tokens(
    row_blocks: Sequence[int],
    *,
    prefix_tokens: int,
    waves: Sequence[Sequence[int]] = (),
    in_flight: int = 1,
    block: int,
) -> int:
    """Tokens that the server's cache will have, all requests together.

    ``row_blocks[i]`` is how many blocks, behind the static beginning, row ``i`` shares with the one
    before it; ``waves`` are leaders, each wave waited for; ``in_flight`` requests are under way
    at once, so that a row finds what those before them left. The rule is the one that is documented: a
    beginning is kept where two requests share it (and differ behind it), and the third one hits.

    >>> cached_tokens([0, 0, 0, 0], prefix_tokens=256, block=128)
    512
    """
    paths = _paths(row_blocks)
    led = {row for wave in waves for row in wave}
    seen: set[tuple[int, int]] = set()
    kept: set[tuple[int, int]] = set()
    under_way: deque[list[tuple[int, int]]] = deque()

    def leave(path: list[tuple[int, int]]) -> None:
        for node in reversed(path):
            if node in seen:
                kept.add(node)
                break
        seen.update(path)

    total = 0
    for wave in (*waves, [row for row in range(len(paths)) if row not in led]):
        while under_way:
            leave(under_way.popleft())
        for row in wave:
            if len(under_way) >= in_flight:
                leave(under_way.popleft())
            path = paths[row]
            for node in reversed(path):
                if node in kept:
                    total += prefix_tokens + node[0] * block
                    break
            under_way.append(path)
    return total


def led_tokens(row_blocks: Sequence[int], *, prefix_tokens: int, block: int) -> int:
    """What :func:`cached_tokens` comes to where the leaders of every shared beginning are waited for.

    All requests that share a beginning have it from the cache, but for the two that lead. Quicker, and
    the same for the short run of rows as for the long table that it is taken from.

    >>> led_tokens([0, 1, 1, 1], prefix_tokens=256, block=128)
    768
    """
    starts = [0]  # where the run began that shares no block, one block, two, ... with the row before
    led = 0
    for row, blocks in enumerate((*row_blocks, -1)):
        while len(starts) > blocks + 1:
            many = max(0, row - starts.pop() - LEADERS)
            led += many * (block if starts else prefix_tokens)
        starts += [row - 1] * (blocks + 1 - len(starts))
    return led


def _paths(row_blocks: Sequence[int]) -> list[list[tuple[int, int]]]:
    """The shared beginnings of each row, shortest first: (blocks, the row where that one came first)."""
    paths: list[list[tuple[int, int]]] = []
    nodes: list[tuple[int, int]] = [(0, 0)]
    for row, blocks in enumerate(row_blocks):
        after = row_blocks[row + 1] if row + 1 < len(row_blocks) else 0
        nodes = nodes[: blocks + 1]
        nodes += [(depth, row) for depth in range(len(nodes), after + 1)]
        paths.append(list(nodes))
    return paths
