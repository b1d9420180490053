"""Bodies packed with zstd: unpacked by the standard library, before Python 3.14 by ``zstandard``."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):  # pragma: no cover (which of the two depends on the Python)
    from compression import zstd
else:
    import zstandard

__all__ = ["NotZstd", "TooMuch", "unpacked"]

WINDOW_LOG = 23
"""A frame may need 8 MiB of memory to be read, which is what HTTP's zstd allows."""
PIECE = 64 * 1024


class NotZstd(ValueError):
    """What came is not one whole zstd frame; says why."""


class TooMuch(ValueError):
    """It holds more than it may."""


def unpacked(packed: bytes, most: int) -> bytes:
    """What the frame ``packed`` holds. Raises TooMuch beyond ``most`` bytes, as soon as they are passed.

    Raises NotZstd for anything else but one whole frame. Needs memory for ``most`` bytes, 8 MiB and no more.

    >>> unpacked(b"no frame", 100)
    Traceback (most recent call last):
    ...
    deepseek_nb.gateway.zstd.NotZstd: The body is not zstd.
    """
    if sys.version_info >= (3, 14):  # pragma: no cover
        return _by_the_library(packed, most)
    return _by_the_package(packed, most)


if sys.version_info >= (3, 14):  # pragma: no cover

    def _by_the_library(packed: bytes, most: int) -> bytes:
        frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
        body = bytearray()
        try:
            piece = frame.decompress(packed, PIECE)
            while piece or not (frame.eof or frame.needs_input):
                body += piece
                if len(body) > most:
                    raise TooMuch
                piece = b"" if frame.eof else frame.decompress(b"", PIECE)
        except zstd.ZstdError:
            raise NotZstd("The body is not zstd.") from None
        _refuse_rest(whole=frame.eof, rest=frame.unused_data)
        return bytes(body)

else:

    def _by_the_package(packed: bytes, most: int) -> bytes:
        reading = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG)
        count = 0
        try:
            with reading.stream_reader(packed, read_across_frames=False) as pieces:  # only counts
                while piece := pieces.read(PIECE):
                    count += len(piece)
                    if count > most:
                        raise TooMuch
            frame = reading.decompressobj()
            body = frame.decompress(packed)
        except zstandard.ZstdError:
            raise NotZstd("The body is not zstd.") from None
        _refuse_rest(whole=frame.eof, rest=frame.unused_data)
        return body


def _refuse_rest(*, whole: bool, rest: bytes) -> None:
    if not whole:
        raise NotZstd("The zstd body is cut.")
    if rest:
        raise NotZstd("Something follows the zstd body.")
