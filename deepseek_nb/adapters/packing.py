"""Bodies of requests, packed before they are sent."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from importlib import import_module

from deepseek_nb.core.errors import ConfigError

__all__ = ["LEAST_BYTES", "packer"]

LEAST_BYTES = 1024
"""Shorter bodies are sent as they are."""


def packer(how: str) -> Callable[[bytes], bytes] | None:
    """What packs a body as "gzip" or "zstd"; None for "none".

    Raises ConfigError for "zstd" on a Python before 3.14 without the package ``zstandard``.

    >>> gzip.decompress(packer("gzip")(b"a row" * 400)) == b"a row" * 400
    True
    """
    if how == "none":
        return None
    if how == "gzip":
        return lambda body: gzip.compress(body, compresslevel=1, mtime=0)
    if sys.version_info >= (3, 14):  # pragma: no cover (which of the two depends on the Python)
        compress: Callable[[bytes], bytes] = import_module("compression.zstd").compress
        return compress
    try:
        zstandard = import_module("zstandard")
    except ModuleNotFoundError:
        raise ConfigError(
            "compress='zstd' needs the package zstandard on this Python.",
            hint="Install it with: pip install zstandard, or use compress='gzip'.",
        ) from None
    return lambda body: zstandard.ZstdCompressor(level=1).compress(body)  # one is for one thread at a time
