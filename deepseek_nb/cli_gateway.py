"""``deepseek-nb gateway``: serve the engine to a team."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any

from deepseek_nb.cli_common import given, room
from deepseek_nb.core.errors import ConfigError

__all__ = ["add_gateway"]

OUTSIDE = ("prometheus_client", "starlette", "uvicorn", "zstandard")


def add_gateway(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "gateway",
        help="serve a team: one API key, cache and budget, with quotas and metrics",
        description="Serve many people and programs with one API key, which never leaves the gateway: "
        "OpenAI-compatible routes and /v1/compute, tokens for each tenant, quotas, a cache and a budget "
        "apart, /metrics and a status page. Runs until interrupted.",
        epilog="The file names upstreams, tenants, and the environment variables with their secrets. "
        "docs/gateway.md has an example.",
    )
    command.add_argument("--config", metavar="FILE", default="gateway.toml", help="default: gateway.toml")
    command.add_argument("--host", help="where to listen (default: as in the file, or 127.0.0.1)")
    command.add_argument("--port", type=int, help="default: as in the file, or 8400; 0 takes a free one")
    command.add_argument("--check", action="store_true", help="read the file, say what it means, and stop")
    command.set_defaults(run=_gateway)


def _gateway(options: argparse.Namespace) -> int:
    try:
        serve = room("gateway.serve")
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in OUTSIDE:
            raise
        raise ConfigError(
            f"The gateway needs the package {missing.name}, which is not installed.",
            hint='Install it with: pip install "deepseek_nb[gateway]"',
        ) from None
    config = room("gateway.config").read_config(options.config)
    if options.port is not None and not 0 <= options.port <= 65535:
        raise ConfigError(f"--port is 0 to 65535, not {options.port}.")
    if options.check:
        print(serve.summary(config))
        return 0
    with suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
        serve.serve_forever(config, announce=print, **given(options, "host", "port"))
    return 0
