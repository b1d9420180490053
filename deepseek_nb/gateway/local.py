"""Upstreams that are files: GGUF models, answered by llama.cpp in the gateway's own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from deepseek_nb.client.local_model import LocalModel
from deepseek_nb.gateway.config import GatewayConfig, UpstreamEntry

__all__ = ["local_models"]


@contextmanager
def local_models(config: GatewayConfig) -> Iterator[GatewayConfig]:
    """Load what ``config`` names by file; gives the config with the addresses where it listens meanwhile.

    Raises ConfigError where llama.cpp is not installed or cannot load a file.
    """
    with ExitStack() as stack:

        def found(entry: UpstreamEntry) -> UpstreamEntry:
            if entry.gguf is None:
                return entry
            local = stack.enter_context(
                LocalModel(
                    entry.gguf,
                    name=entry.model,
                    concurrent=entry.concurrent,
                    context_tokens=entry.context_tokens,
                )
            )
            return replace(entry, base_url=local.base_url, key=local.key)

        upstreams = tuple(found(entry) for entry in config.upstreams)
        routes = tuple(entry.route(config.settings.model) for entry in upstreams[1:])
        yield replace(config, upstreams=upstreams, routes=routes)
