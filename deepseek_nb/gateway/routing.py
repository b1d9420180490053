"""Which upstream a question goes to, and where it goes on when that one fails.

*Peers* serve the same models: the first upstream of the file, and those that have no ``model`` of their
own. Their answers are one another's equals: kept under the same key, and found whoever gave them. What
has a ``model`` stands in for them, in the file's order, under keys of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.errand import Errand
from deepseek_nb.core.call import Leg
from deepseek_nb.core.chat import ChatRequest
from deepseek_nb.gateway.config import UpstreamEntry
from deepseek_nb.gateway.health import Health

__all__ = ["Router", "Served"]


@dataclass(slots=True, eq=False)
class Served:
    """One upstream as the router sees it."""

    entry: UpstreamEntry
    client_name: str
    """What the client calls it; empty: its own server."""
    current: float = 0.0
    """Of the smooth weighted round: who is highest goes next."""

    @property
    def name(self) -> str:
        """As in the file."""
        return self.entry.name

    @property
    def is_peer(self) -> bool:
        """Whether it is asked for whatever model a request names."""
        return self.entry.model is None


class Router:
    """Orders the upstreams for each question. In the event loop of ``client``."""

    def __init__(
        self, upstreams: Sequence[UpstreamEntry], client: AsyncClient, health: Health, failover_s: float
    ) -> None:
        self._client = client
        self._health = health
        self._failover_s = failover_s
        names = ("", *client.fallback_names)
        self.served = tuple(Served(entry, name) for entry, name in zip(upstreams, names, strict=True))
        self._peers = [one for one in self.served if one.is_peer]
        self._others = [one for one in self.served if not one.is_peer]
        self._peer_names = frozenset(one.name for one in self._peers)
        self.home = self.served[0].name
        """Under this name all peers' answers are kept."""

    def is_peer(self, name: str) -> bool:
        """Whether an answer of that upstream is as good as one of the first."""
        return name in self._peer_names

    def usable(self, served: Served, model: str) -> bool:
        """Whether it may be asked now: not down, its breaker closed or due for a try."""
        if self._health.upstreams[served.name].down:
            return False
        asked = served.entry.model or model
        upstream = self._client.upstream(served.client_name)
        state = upstream.standing().get(asked)
        return state is None or state.down_since_s is None or upstream.gate(asked).may_probe()

    def room(self, served: Served, model: str) -> float:
        """How many more bulk requests it seems to bear now."""
        asked = served.entry.model or model
        state = self._client.upstream(served.client_name).standing().get(asked)
        if state is None:
            return 1.0
        return 0.0 if state.waiting else max(0.0, state.limit - state.held - state.interactive)

    def stand_in(self, model: str) -> bool:
        """Whether some stand-in has room for a question of ``model``."""
        return any(self.usable(one, model) and self.room(one, model) >= 1.0 for one in self._others)

    def order(self, model: str, *, others: bool, others_first: bool = False) -> list[Served]:
        """Who is asked for ``model``, one after another; those that are down last of all.

        The first peer is chosen in turn, by weight, of those that have room. ``others`` says whether those
        that only stand in may be asked, ``others_first`` that they come before the peers.
        """
        up = [one for one in self._peers if self.usable(one, model)]
        peers = self._by_turns(up, model)
        stand_ins = [one for one in self._others if self.usable(one, model)] if others else []
        first = [*stand_ins, *peers] if others_first else [*peers, *stand_ins]
        allowed = [*self._peers, *(self._others if others else [])]
        return [*first, *(one for one in allowed if one not in first)]

    def _by_turns(self, up: list[Served], model: str) -> list[Served]:
        if len(up) < 2:
            return up
        free = [one for one in up if one.entry.weight and self.room(one, model) >= 1.0]
        turn = free or [one for one in up if one.entry.weight] or up
        for one in turn:
            one.current += one.entry.weight
        chosen = max(turn, key=lambda one: one.current)
        chosen.current -= sum(one.entry.weight for one in turn)
        rest = sorted((one for one in up if one is not chosen), key=lambda one: -one.entry.weight)
        return [chosen, *rest]

    def routed(self, errand: Errand, order: Sequence[Served]) -> Errand:
        """The errand on its way through ``order``."""
        first, *more = [self._leg(errand.request, one) for one in order]
        return replace(
            errand,
            request=first.request,
            key=first.key,
            upstream=first.upstream,
            failover_s=self._failover_s,
            fallbacks=tuple(more),
            swift=True,
        )

    def after(self, errand: Errand, name: str) -> Errand | None:
        """The errand from behind the upstream of that name on; None where that is the last one."""
        own = next(one.client_name for one in self.served if one.name == name)
        places = [errand.upstream, *(leg.upstream for leg in errand.fallbacks)]
        rest = errand.fallbacks[places.index(own) :]
        if not rest:
            return None
        first, *more = rest
        return replace(
            errand,
            request=first.request,
            key=first.key,
            upstream=first.upstream,
            fallbacks=tuple(more),
        )

    def _leg(self, request: ChatRequest, served: Served) -> Leg:
        asked = request if served.is_peer else replace(request, model=served.entry.model or request.model)
        key = asked.fingerprint(self.home if served.is_peer else served.name)
        return Leg(asked, key, self._failover_s, served.client_name)
