"""The default client of this process: what ``ds.ask``, ``df.deepseek`` and the magics share."""

from __future__ import annotations

import threading
from typing import Any

from deepseek_nb.adapters.settings import hidden
from deepseek_nb.client.aio import Prompt
from deepseek_nb.client.conversation import Conversation
from deepseek_nb.client.portal import attend, background
from deepseek_nb.client.sync import Client, Stream
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.metrics import Metrics

__all__ = [
    "aask",
    "ask",
    "configure",
    "conversation",
    "conversations",
    "current_client",
    "default_client",
    "figures",
    "stream",
]

SANDBOX_ROUTE = "sandbox"
"""The name simulated answers are stored under: they never pose as real ones."""
REPLAY_ROUTE = "sandbox-replay"
"""The name answers are stored under that the sandbox replays from a recording, where it gives no others."""

_lock = threading.RLock()
_client: Client | None = None
_conversations: dict[str, Conversation] = {}
_past_figures: list[tuple[Metrics, Budget]] = []


def default_client() -> Client:
    """The default client, made from the environment and ``pyproject.toml`` at the first use."""
    global _client
    with _lock:
        if _client is None:
            _client = Client()
        return _client


def current_client() -> Client | None:
    """The default client, if there is one yet: looking makes none."""
    return _client


def figures() -> list[tuple[Metrics, Budget]]:
    """What every default client of this process so far did and spent, in order; the last one is in use."""
    with _lock:
        return [*_past_figures, *([] if _client is None else [(_client.metrics, _client.budget)])]


def configure(**settings: Any) -> Client:
    """Make a new default client with these settings; what is not given comes from the environment.

    Raises :class:`~deepseek_nb.core.errors.ConfigError` for an unknown name or a wrong value, and
    then leaves the old client in place. Jobs that run go on with the client they began with.

    >>> configure(model="deepseek-v4-pro", budget_usd=2.00)       # doctest: +SKIP
    """
    global _client
    settings = hidden(settings)
    with _lock:
        made = Client(**settings)
        old, _client = _client, made
        if old is not None:
            _past_figures.append((old.metrics, old.budget))
    if old is not None:
        old.retire()
    return made


def ask(prompt: Prompt, **options: Any) -> Answer:
    """Ask the default client one question: see :meth:`deepseek_nb.client.aio.AsyncClient.ask`.

    >>> ask("Why is the sky blue?").text                          # doctest: +SKIP
    """
    return default_client().ask(prompt, **options)


async def aask(prompt: Prompt, **options: Any) -> Answer:
    """Ask the default client from a cell or coroutine that awaits: its event loop goes on meanwhile.

    Options, costs and errors as in :meth:`deepseek_nb.client.aio.AsyncClient.ask`. Several at once:
    ``await asyncio.gather(aask("one"), aask("two"))``.

    >>> answer = await aask("Why is the sky blue?")               # doctest: +SKIP
    """
    client = default_client()
    answer = await attend(background.start(client.atake, client.aio.prepare(prompt, **options)))
    client.warn_if_needed()
    return answer


def stream(prompt: Prompt, **options: Any) -> Stream:
    """Ask the default client and read the answer as it is written."""
    return default_client().stream(prompt, **options)


def conversation(
    name: str, *, new: bool = False, system: str | None = None, last_turns: int | None = None
) -> Conversation:
    """The conversation of that name in this process, begun at the first use; ``new=True`` begins it anew.

    ``system`` and ``last_turns``, where given, hold from now on. Costs nothing by itself.

    >>> conversation("risk").ask("What is a default?").text       # doctest: +SKIP
    """
    with _lock:
        if new or name not in _conversations:
            _conversations[name] = Conversation(name, default_client)
        found = _conversations[name]
    if system is not None:
        found.system = system
    if last_turns is not None:
        found.last_turns = last_turns
    return found


def conversations() -> list[str]:
    """The names of this process's conversations, in the order they were begun."""
    return list(_conversations)
