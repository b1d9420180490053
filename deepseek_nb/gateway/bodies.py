"""What a request carries: read within bounds, unpacked within bounds, and parsed strictly."""

from __future__ import annotations

import asyncio
import json
import zlib
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from deepseek_nb.gateway.refusals import ApiError, bad_request
from deepseek_nb.gateway.zstd import NotZstd, TooMuch, unpacked

__all__ = ["json_object", "read_body"]

READ_WITHIN_S = 60.0
"""A body that takes longer to come is not waited for."""
PIECE = 64 * 1024


async def read_body(request: Request, most: int) -> bytes:
    """The body, unpacked where it came as gzip or zstd; ``most`` bounds both forms.

    Raises ApiError: 400 for what is not gzip or zstd, 408, 413, and 415 for another encoding.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    unpack = _unpacker(encoding)
    length = request.headers.get("content-length")
    if length is not None and length.isdigit() and int(length) > most:
        raise _too_large(most)
    came, body = 0, bytearray()
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            async for piece in request.stream():
                came += len(piece)
                if came > most:
                    raise _too_large(most)
                if unpack is None:
                    body += piece
                else:
                    _inflate(unpack, piece, body, most)
    except TimeoutError:
        raise ApiError(408, "The body did not come in time.", code="request_timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "The body broke off.", code="body_incomplete") from None
    if unpack is not None and not unpack.eof:
        raise bad_request("The gzip body is cut.", code="body_not_gzip")
    return _from_zstd(bytes(body), most) if encoding == "zstd" else bytes(body)


def _from_zstd(packed: bytes, most: int) -> bytes:
    try:
        return unpacked(packed, most)
    except TooMuch:
        raise _too_large(most) from None
    except NotZstd as error:
        raise bad_request(str(error), code="body_not_zstd") from None


def _unpacker(encoding: str) -> Any:
    """What unpacks the body as it comes; None where it is taken as it is."""
    if encoding in ("", "identity", "zstd"):
        return None
    if encoding in ("gzip", "x-gzip"):
        return zlib.decompressobj(wbits=31)
    raise ApiError(
        415,
        f"The encoding {encoding[:40]!r} is not taken.",
        param="content-encoding",
        headers={"accept-encoding": "gzip, zstd, identity"},
    )


def _inflate(unpack: Any, piece: bytes, body: bytearray, most: int) -> None:
    """Unpack a piece; never more than the room that is left, and one byte to notice."""
    try:
        while piece and not unpack.eof:
            body += unpack.decompress(piece, min(PIECE, most - len(body) + 1))
            if len(body) > most:
                raise _too_large(most)
            piece = unpack.unconsumed_tail
    except zlib.error:
        raise bad_request("The body is not gzip.", code="body_not_gzip") from None
    if unpack.eof and (piece or unpack.unused_data):
        raise bad_request("Something follows the gzip body.", code="body_not_gzip")


def _too_large(most: int) -> ApiError:
    return ApiError(
        413,
        f"The body is larger than {most:,} bytes.",
        code="body_too_large",
        headers={"connection": "close"},
    )


def json_object(request: Request, body: bytes) -> dict[str, Any]:
    """The body as a JSON object, with strings and numbers that JSON knows. Raises ApiError, 400 or 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "Expected request with `Content-Type: application/json`", param="content-type")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise bad_request("The JSON is nested too deeply.", code="invalid_json") from None
    except (ValueError, UnicodeDecodeError) as error:
        where = (
            f" (line {error.lineno} column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        )
        raise bad_request(f"The body is not JSON{where}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise bad_request("The body is not a JSON object.", code="invalid_json")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
