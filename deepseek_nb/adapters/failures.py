"""What failed on the wire: the libraries' exceptions, and the system's, as errors of ours."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from dataclasses import dataclass

import aiohttp
import aiohttp.http_exceptions
import httpx

from deepseek_nb.adapters.addresses import CHECK_URL
from deepseek_nb.core.errors import (
    ConfigError,
    ConnectionLost,
    DeepSeekError,
    EndpointUnknown,
    NeverConnected,
    ServerFault,
    StreamBroken,
    WentSilent,
)

__all__ = ["FAILURES", "map_error"]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a failure becomes; in ``message``, where: host and port, why: TLS's or the system's words."""

    becomes: type[DeepSeekError]
    phase: str  # connect, request, answer
    message: str
    hint: str


_UNREACHED = "Check base_url, and whether the server is started."
_IN_TIME = "Check the network and the proxy settings, or allow more with connect_timeout_s."
_PROXY = "Check HTTPS_PROXY (address, user, password), or set NO_PROXY to go without."
_TRUST = "If a proxy of your organisation signs anew, set SSL_CERT_FILE to its CA file; checking stays on."
_TLS = "Check that base_url has the right scheme and port, and the proxy settings."
_DNS = "Check base_url and the network: this machine's DNS does not know the name."
_AGAIN = "Running it again usually works; whether the lost request was charged is unknown."

UNREACHED = _Outcome(NeverConnected, "connect", "{where} cannot be reached ({why}).", _UNREACHED)
NOT_IN_TIME = _Outcome(NeverConnected, "connect", "{where} took no connection in time.", _IN_TIME)
UNKNOWN_HOST = _Outcome(NeverConnected, "connect", "{where} is an unknown host.", _DNS)
NO_TRUST = _Outcome(NeverConnected, "connect", "The certificate of {where} is not accepted ({why}).", _TRUST)
NO_TLS = _Outcome(NeverConnected, "connect", "TLS with {where} did not come about ({why}).", _TLS)
NO_PROXY = _Outcome(
    NeverConnected, "connect", "The proxy before {where} did not let us through ({why}).", _PROXY
)
BAD_URL = _Outcome(ConfigError, "connect", "The address of {where} cannot be used.", CHECK_URL)
BAD_REQUEST = _Outcome(ConfigError, "request", "The request to {where} is not valid HTTP.", "")
HUNG_UP = _Outcome(ConnectionLost, "request", "{where} hung up without an answer.", _AGAIN)
BROKE = _Outcome(ConnectionLost, "request", "The connection to {where} broke.", _AGAIN)
CUT = _Outcome(ConnectionLost, "answer", "The answer of {where} was cut off.", _AGAIN)
NOT_HTTP = _Outcome(ConnectionLost, "answer", "What {where} answered is not HTTP.", _AGAIN)
SILENT = _Outcome(WentSilent, "answer", "{where} went silent.", _AGAIN)
GARBLED = _Outcome(StreamBroken, "answer", "The answer of {where} cannot be decompressed.", _AGAIN)
REDIRECTED = _Outcome(EndpointUnknown, "answer", "{where} redirects to somewhere else.", CHECK_URL)
BAD_STATUS = _Outcome(ServerFault, "answer", "{where} answered with an error status.", "")

# The most telling link of a chain of causes is looked up: aiohttp's before httpx's before the
# operating system's. The first rule that fits wins, so a class stands before its base.
RULES: tuple[tuple[type[BaseException], _Outcome], ...] = (
    # aiohttp, no connection
    (aiohttp.ClientConnectorCertificateError, NO_TRUST),
    (aiohttp.ServerFingerprintMismatch, NO_TRUST),
    (aiohttp.ClientSSLError, NO_TLS),
    (aiohttp.ClientProxyConnectionError, NO_PROXY),
    (aiohttp.ClientHttpProxyError, NO_PROXY),
    (aiohttp.ClientConnectorDNSError, UNKNOWN_HOST),
    (aiohttp.ClientConnectorError, UNREACHED),
    (aiohttp.ConnectionTimeoutError, NOT_IN_TIME),
    (aiohttp.RedirectClientError, REDIRECTED),
    (aiohttp.InvalidURL, BAD_URL),
    (aiohttp.NonHttpUrlClientError, BAD_URL),
    # aiohttp, after sending
    (aiohttp.ServerTimeoutError, SILENT),
    (aiohttp.ServerDisconnectedError, HUNG_UP),
    (aiohttp.ClientConnectionError, BROKE),
    (aiohttp.ClientPayloadError, CUT),
    (aiohttp.TooManyRedirects, REDIRECTED),
    (aiohttp.ClientResponseError, NOT_HTTP),
    (aiohttp.http_exceptions.HttpProcessingError, NOT_HTTP),
    (aiohttp.ClientError, BROKE),
    # httpx, where nothing of aiohttp stands below it
    (httpx.ConnectError, UNREACHED),
    (httpx.ConnectTimeout, NOT_IN_TIME),
    (httpx.PoolTimeout, NOT_IN_TIME),
    (httpx.ProxyError, NO_PROXY),
    (httpx.UnsupportedProtocol, BAD_URL),
    (httpx.InvalidURL, BAD_URL),
    (httpx.LocalProtocolError, BAD_REQUEST),
    (httpx.RemoteProtocolError, NOT_HTTP),
    (httpx.ReadError, CUT),
    (httpx.TimeoutException, SILENT),
    (httpx.DecodingError, GARBLED),
    (httpx.TooManyRedirects, REDIRECTED),
    (httpx.HTTPStatusError, BAD_STATUS),
    (httpx.HTTPError, BROKE),
    # TLS and the operating system, where they come through bare
    (ssl.SSLCertVerificationError, NO_TRUST),
    (socket.gaierror, UNKNOWN_HOST),
    (ConnectionRefusedError, UNREACHED),
    (TimeoutError, SILENT),
    (OSError, BROKE),
)
FAILURES = (
    httpx.HTTPError,
    httpx.InvalidURL,
    aiohttp.ClientError,
    aiohttp.http_exceptions.HttpProcessingError,
    OSError,  # ssl.SSLError, socket.gaierror and TimeoutError are of its kind
)
MISTAKES = (httpx.StreamError, httpx.CookieConflict)  # of the caller: a reply read twice, or after its end


def map_error(exc: BaseException, where: str = "the server") -> DeepSeekError | None:
    """Give the error of ours for ``exc``, an exception of httpx, aiohttp, TLS or the operating system.

    None for everything else: cancellation, and the mistakes of a caller (``httpx.StreamConsumed``
    and its kin), which are to be raised as they are. ``where`` is host and port for the message;
    nothing of the exception's own text, which may hold a whole address, goes into it. The result
    carries ``phase`` ("connect": nothing was sent; "request"; "answer") and ``cause`` (the names of
    the exceptions it came from).

    >>> map_error(httpx.ReadError("reset"), "api.deepseek.com:443")
    ConnectionLost('The answer of api.deepseek.com:443 was cut off.')
    """
    if isinstance(exc, MISTAKES) or not isinstance(exc, FAILURES):
        return None
    links = _links(exc)
    link = min(links, key=_floor)  # the first of the most telling kind
    outcome = next(outcome for caught, outcome in RULES if isinstance(link, caught))
    names = " < ".join(f"{type(each).__module__.partition('.')[0]}.{type(each).__name__}" for each in links)
    message = outcome.message.format(where=where, why=_why(links))
    full = any(problem.errno in (errno.EMFILE, errno.ENFILE) for problem in _os_errors(links))
    hint = "This process may not open more files: raise the limit (ulimit -n)." if full else outcome.hint
    return outcome.becomes(message, hint=hint, phase=outcome.phase, cause=names)


def _links(exc: BaseException) -> list[BaseException]:
    """``exc`` and what it came from, the libraries' and the system's only."""
    links: list[BaseException] = []
    link: BaseException | None = exc
    while link is not None and link not in links and isinstance(link, FAILURES):
        links.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return links


def _floor(link: BaseException) -> int:
    if isinstance(link, aiohttp.ClientError | aiohttp.http_exceptions.HttpProcessingError):
        return 0
    return 1 if isinstance(link, httpx.HTTPError | httpx.InvalidURL) else 2


def _os_errors(links: list[BaseException]) -> list[OSError]:
    inner = [getattr(link, "certificate_error", None) or getattr(link, "os_error", None) for link in links]
    return [each for each in (*inner, *links) if isinstance(each, OSError)]


def _why(links: list[BaseException]) -> str:
    for each in links:
        if isinstance(each, aiohttp.ClientHttpProxyError):
            return f"status {each.status}"
    for problem in _os_errors(links):
        if isinstance(problem, ssl.SSLCertVerificationError):
            return str(getattr(problem, "verify_message", None) or "not verified").rstrip(".")
        if isinstance(problem, ssl.SSLError):
            return str(getattr(problem, "reason", None) or "no reason given").replace("_", " ").lower()
        if problem.errno is not None and problem.errno in errno.errorcode:
            return os.strerror(problem.errno).lower()
    return "no reason given"
