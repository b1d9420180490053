"""The wire: sends one request, hands back status, headers and the body's bytes, and names what failed.

Requests, credentials, certificates and errors are httpx's, the connections aiohttp's. A POST, of which a
job sends a hundred thousand, goes from httpx's transport to aiohttp with headers that were made once: the
cookies, redirects and event hooks of httpx's client are not used here, and cost more than the request.

Rules of this room: nothing is retried, redirected or waited for here; every failure of the
libraries below becomes one of ``core.errors`` (``failures.py``), cut loose from their tracebacks,
which hold the request's headers and so the key; a server that repeats the credentials it was sent
has them masked before anybody reads them. "Nothing was sent" and "may have been charged" are told
apart, and httpx alone cannot: over aiohttp, a refused connection and one reset after sending are
both its ``ConnectTimeout``, so the cause below it decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import aiohttp
import aiohttp.connector
import httpx
from httpx_aiohttp.transport import AiohttpResponseStream, AiohttpTransport, map_aiohttp_exceptions

from deepseek_nb.adapters.addresses import (
    checked_url,
    environment_proxy,
    host_and_port,
    say_once,
    tls_of,
)
from deepseek_nb.adapters.failures import FAILURES, map_error
from deepseek_nb.adapters.packing import LEAST_BYTES, packer
from deepseek_nb.core.errors import (
    ConfigError,
    DeepSeekError,
    EndpointUnknown,
    ServerFault,
    WentSilent,
)
from deepseek_nb.core.secret import Scrubber, Secret

__all__ = ["Reply", "Transport"]

T = TypeVar("T")

KEEPALIVE_S = 15.0  # short, so that a pooled connection the server has already dropped is rare
MAX_GET_BYTES = 8 * 2**20
PIECE_BYTES = 2**18
MOST_USUAL = 64  # sets of headers that are kept as they are sent
READ_BYTES = 2**14
PLAIN_BODY_BYTES = 2**20  # above this, aiohttp warns that bytes in one piece hold up the loop


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered; ``headers`` have lower-case names, ``chunks`` is read once."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]

    @property
    def trace_id(self) -> str:
        """The server's own name for this request (``x-ds-trace-id``), or an empty string."""
        return self.headers.get("x-ds-trace-id", "")


class Transport:
    """One server, one connection pool without a limit of its own, one event loop.

    ``base_url``: https, or http to this machine (http to another one only without ``auth``, since a
    key would travel in clear); no user, query or fragment in it; never a link-local or metadata
    address. ``auth`` sets the credentials on the request in the last layer; they are in nothing this
    class shows. ``connect_timeout_s``: seconds for name, connection and TLS together; there is no
    other time limit on a POST (who calls watches the clock). ``compress``: "gzip" or "zstd" packs bodies from
    1 KiB on. ``trust_env``: take the proxy
    (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``) and the CA file (``SSL_CERT_FILE``) from the
    environment; certificates are always checked.

    Raises ConfigError for an unsafe or unreadable ``base_url``, proxy or CA file. Costs about 40 ms
    for an https address (reading the CA certificates); nothing is sent.

    >>> transport = Transport("https://api.deepseek.com", auth=None)
    >>> transport
    Transport('https://api.deepseek.com')
    """

    def __init__(
        self,
        base_url: str,
        *,
        auth: httpx.Auth | None,
        connect_timeout_s: float = 10.0,
        trust_env: bool = True,
        user_agent: str = "deepseek_nb",
        compress: str = "none",
    ) -> None:
        if not connect_timeout_s > 0:
            raise ConfigError(f"connect_timeout_s must be above 0 seconds, not {connect_timeout_s!r}.")
        url = checked_url(base_url, with_auth=auth is not None)
        self._base = str(url).rstrip("/")
        self._origin = str(url.copy_with(raw_path=b"/")).rstrip("/")
        self._where = f"{url.raw_host.decode('ascii')}:{url.port or (443 if url.scheme == 'https' else 80)}"
        self._auth = auth
        self._compress, self._packed = compress, packer(compress)
        self._flow = None if auth is None or getattr(auth, "sends_once", False) else auth.auth_flow
        self._targets: dict[str, httpx.URL] = {}
        self._usual: dict[tuple[Any, ...], _Sent] = {}
        self._headers = {
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",  # a compressed stream is a buffered stream
            "User-Agent": user_agent,
        }
        proxy = environment_proxy(url) if trust_env else None
        self._proxy_word = Secret("")
        if proxy and url.scheme == "http" and "proxy-authorization" in proxy.headers:
            self._proxy_word = Secret(proxy.headers["proxy-authorization"])
        self._proxy = host_and_port(proxy)
        if self._proxy:
            say_once(self._origin, self._proxy)
        self._connections = _connections(tls_of(url, proxy, trust_env=trust_env), proxy, connect_timeout_s)
        self._client = httpx.AsyncClient(
            auth=auth,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=connect_timeout_s, pool=connect_timeout_s),
            transport=self._connections,
            trust_env=False,  # the proxy and the CA file were read above
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def origin(self) -> str:
        """Scheme, host and port, the port left out where it is the scheme's own."""
        return self._origin

    @property
    def proxy(self) -> str | None:
        """Host and port of the proxy every request goes through, or None."""
        return self._proxy

    def __repr__(self) -> str:
        through = f", proxy={self._proxy!r}" if self._proxy else ""
        return f"{type(self).__name__}({self._base!r}{through})"

    def post(self, path: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> _Posting:
        """Send ``body`` (JSON) to ``path`` once; the context gives the Reply as soon as its headers are here.

        Whatever the status, a Reply comes back, except for a redirect (3xx), which raises
        EndpointUnknown: nothing is sent to a second address. Read ``chunks`` in the task that opened
        the context; leaving the context, also by cancellation, closes a connection that is not read
        to its end at once. Costs one request (two, when ``auth`` renews its token after a 401).

        Raises NeverConnected (nothing was sent), ConnectionLost and StreamBroken (it may have been
        charged), ConfigError. Reading ``chunks`` raises the same.

        >>> async with transport.post("/chat/completions", body) as reply:      # doctest: +SKIP
        ...     async for chunk in reply.chunks: ...
        """
        return _Posting(partial(self._replied, path, headers, body))

    async def get(self, path: str, *, timeout_s: float = 30.0) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers (lower-case names) and body of a small page; one request, never charged.

        Raises WentSilent when it is not complete within ``timeout_s`` seconds, ServerFault when the
        body passes 8 MiB, and what :meth:`post` raises.

        >>> status, headers, body = await transport.get("/models")              # doctest: +SKIP
        """
        url = self._url(path)
        # built here and not by the client, which would merge in cookies and its own headers
        request = httpx.Request("GET", url, headers=self._plain(url, {}))
        try:
            async with asyncio.timeout(timeout_s) as limit:
                response = await self._sent(self._client.send(request, stream=True))
                sent, status = _Sent(response.request), response.status_code
                headers = _scrubbed(response.headers.raw, sent.secrets)
                coded = headers.get("content-encoding", "identity").lower() != "identity"
                raw = response.aiter_bytes() if coded else response.aiter_raw()
                pieces = self._chunks(_next_of(raw), status, headers, sent.secrets)
                body = bytearray()
                try:
                    if 300 <= status < 400:
                        raise self._redirected(sent, status, headers, response.headers.get("location"))
                    async for chunk in pieces:
                        body += chunk
                        if len(body) > MAX_GET_BYTES:
                            raise ServerFault(f"{self._where} sent more than {MAX_GET_BYTES >> 20} MiB.")
                finally:
                    with contextlib.suppress(*FAILURES):
                        await response.aclose()
                    await pieces.aclose()
        except TimeoutError:
            if not limit.expired():
                raise
        except DeepSeekError as error:
            error.charged = "no"  # whatever happened to it: a page costs nothing
            raise
        else:
            return status, headers, bytes(body)
        raise WentSilent(
            f"{self._where} did not answer within {timeout_s:g} s.", charged="no", phase="answer"
        )

    async def aclose(self) -> None:
        """Close all connections; requests under way fail with ConnectionLost. Calling it twice is fine.

        Raises ConfigError when called from another event loop than the requests were.
        """
        if self._loop is not None:
            self._bind()
        self._closed = True
        await self._client.aclose()
        await self._connections.aclose()

    def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise ConfigError(
                f"The transport to {self._where} belongs to another event loop.",
                hint="Make one client per event loop: connections cannot be shared between loops.",
            )

    def _url(self, path: str) -> httpx.URL:
        if self._closed:
            raise ConfigError(f"The transport to {self._where} is closed.", hint="Make a new client.")
        self._bind()
        if (url := self._targets.get(path)) is None:
            url = self._targets[path] = httpx.URL(f"{self._base}/{path.lstrip('/')}")
        return url

    def _plain(self, url: httpx.URL, extra: Mapping[str, str]) -> dict[str, str]:
        """The headers of a request without its credentials."""
        headers = {"Host": url.netloc.decode("ascii"), **self._headers, **extra}
        if self._proxy_word:
            headers["Proxy-Authorization"] = self._proxy_word.reveal()
        return headers

    async def _post(
        self, path: str, extra: Mapping[str, str] | None, body: bytes
    ) -> tuple[_Sent, aiohttp.ClientResponse]:
        """Send it with its credentials, once more where they are renewed after that."""
        url, packed = self._url(path), self._packed if len(body) >= LEAST_BYTES else None
        given = (path, packed is not None, *(extra.items() if extra else ()))
        if (usual := self._usual.get(given)) is None:
            told = {"Content-Type": "application/json", **(extra or {})}
            if packed is not None:
                told["Content-Encoding"] = self._compress
            usual = _Sent(_request(url, self._plain(url, told)))
            if self._flow is None and self._auth is not None:
                usual = usual.with_credentials(self._auth)
            if len(self._usual) < MOST_USUAL:
                self._usual[given] = usual
        if packed is not None:
            body = packed(body)
        if self._flow is None:
            return usual, await self._sent(self._connections.post(usual, body))
        flow = self._flow(_request(url, usual.headers))
        sent = _Sent(next(flow))
        response = await self._sent(self._connections.post(sent, body))
        if (again := _goes_on(flow, response)) is not None:
            await _close(response)
            del response  # see _replied
            sent = _Sent(again)
            response = await self._sent(self._connections.post(sent, body))
        return sent, response

    async def _replied(self, path: str, extra: Mapping[str, str] | None, body: bytes) -> _Replied:
        sent, response = await self._post(path, extra, body)
        status, raw = response.status, response.raw_headers
        headers = _scrubbed(raw, sent.secrets)
        if 300 <= status < 400:
            refused = self._redirected(sent, status, headers, response.headers.get("location"))
            await _close(response)
            del response, raw  # a traceback that shows what a frame holds would show what the server sent
            raise refused
        read: Read = partial(response.content.read, READ_BYTES)
        if headers.get("content-encoding", "identity").lower() != "identity":
            read = _next_of(httpx.Response(status, headers=raw, stream=_Raw(read)).aiter_bytes())
        return status, headers, self._chunks(read, status, headers, sent.secrets), response

    async def _sent(self, sending: Coroutine[Any, Any, T]) -> T:
        failure: DeepSeekError | None = None
        try:
            return await sending
        except DeepSeekError:
            raise
        except BaseException as exc:  # noqa: BLE001 (mapped, or raised again)
            failure = map_error(exc, self._where)
            if failure is None:  # a cancellation, or a mistake of ours
                raise exc.with_traceback(None) from None  # the frames below hold the headers
        raise failure  # outside the handler: nothing of the libraries hangs on it

    async def _chunks(
        self, read: Read, status: int, headers: Mapping[str, str], secrets: Sequence[Secret]
    ) -> AsyncGenerator[bytes, None]:
        """The bytes with the credentials masked; what breaks them off is one of our errors."""
        scrubber = Scrubber(secrets, answer=status == 200)
        failure: DeepSeekError | None = None
        try:
            while piece := await read():
                if clean := scrubber.feed(piece):
                    yield clean
            if rest := scrubber.rest():
                yield rest
        except FAILURES as exc:
            failure = map_error(exc, self._where)
            if failure is None:
                raise
        if failure is not None:
            failure.status, failure.trace_id = status, headers.get("x-ds-trace-id")
            raise failure

    def _redirected(
        self, sent: _Sent, status: int, headers: Mapping[str, str], location: str | None
    ) -> EndpointUnknown:
        try:
            target = sent.url.join(location or "")
            host = ascii(target.host)[1:-1]
            for secret in sent.secrets:
                host = secret.scrub(host)
            host = host[:80] or "an unnamed place"
        except (httpx.InvalidURL, UnicodeError):
            host = "an unreadable address"
        return EndpointUnknown(
            f"{self._where} redirects to {host} (status {status}), which was not followed.",
            hint="Set base_url to the address that answers itself; keys are never carried to another one.",
            status=status,
            trace_id=headers.get("x-ds-trace-id"),
        )


_Replied = tuple[int, dict[str, str], AsyncGenerator[bytes, None], aiohttp.ClientResponse]


class _Sent:
    """A request's address and headers as aiohttp takes them; it shows neither."""

    __slots__ = ("headers", "secrets", "target", "url")

    def __init__(self, request: httpx.Request) -> None:
        self.url, self.target = request.url, str(request.url)
        encoding = request.headers.encoding
        self.headers = {name.decode(encoding): value.decode(encoding) for name, value in request.headers.raw}
        words = [request.headers.get(name, "") for name in ("authorization", "proxy-authorization")]
        self.secrets = [Secret(word.rpartition(" ")[2]) for word in words if word]

    def with_credentials(self, auth: httpx.Auth) -> _Sent:
        """The same with credentials that are the same in every request."""
        return _Sent(next(auth.auth_flow(_request(self.url, self.headers))))


class _Posting:
    """One POST: sent when it is entered, hung up when it is left."""

    __slots__ = ("_chunks", "_response", "_send")

    def __init__(self, send: Callable[[], Coroutine[Any, Any, _Replied]]) -> None:
        self._send = send

    async def __aenter__(self) -> Reply:
        status, headers, self._chunks, self._response = await self._send()
        return Reply(status, headers, self._chunks)

    async def __aexit__(self, *_: object) -> None:
        await _close(self._response)
        await self._chunks.aclose()


def _request(url: httpx.URL, headers: Mapping[str, str]) -> httpx.Request:
    """A POST to put credentials on; its body goes another way, or httpx would add headers for it."""
    return httpx.Request("POST", url, headers=headers, stream=httpx.ByteStream(b""))


def _goes_on(
    flow: Generator[httpx.Request, httpx.Response, None], response: aiohttp.ClientResponse
) -> httpx.Request | None:
    """The request with renewed credentials; None where this answer ends it."""
    try:
        return flow.send(httpx.Response(response.status, headers=response.raw_headers))
    except StopIteration:
        return None


def _scrubbed(raw: Sequence[tuple[bytes, bytes]], secrets: Sequence[Secret]) -> dict[str, str]:
    """The headers with lower-case names, equal names joined, without the credentials it answers to."""
    encoding = "ascii"
    if not all(value.isascii() for _, value in raw):
        encoding = httpx.Headers(raw).encoding
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode(encoding).lower(), raw_value.decode(encoding)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    together = "\n".join(headers.values())
    for secret in secrets:
        if secret.scrub(together) != together:
            headers = {name: secret.scrub(value) for name, value in headers.items()}
    return headers


Read = Callable[[], Awaitable[bytes]]
"""Gives the next bytes of a body; none at its end."""


class _Raw(httpx.AsyncByteStream):
    """The bytes of a body that httpx is to decompress."""

    def __init__(self, read: Read) -> None:
        self._read = read

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._read():
            yield piece


def _next_of(pieces: AsyncIterator[bytes]) -> Read:
    async def read() -> bytes:
        async for piece in pieces:
            if piece:
                return piece
        return b""

    return read


async def _in_pieces(body: bytes) -> AsyncGenerator[bytes, None]:
    view = memoryview(body)
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])


class _Connections(AiohttpTransport):
    """httpx's transport over aiohttp, for one server: what is the same in every request is made once."""

    def __init__(
        self,
        session: Callable[[], aiohttp.ClientSession],
        tls: ssl.SSLContext,
        proxy: httpx.Proxy | None,
        connect_timeout_s: float,
    ) -> None:
        super().__init__(verify=tls, proxy=proxy, trust_env=False, client=session)
        self._proxy: dict[str, Any] = {}
        if proxy is not None:
            self._proxy = {"proxy": str(proxy.url), "proxy_headers": proxy.headers}
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=connect_timeout_s, sock_connect=connect_timeout_s, sock_read=None
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request without a body; the response's is not read yet. Raises httpx's errors."""
        response = await self._exchange(request.method, _Sent(request), None)
        return httpx.Response(
            response.status, headers=response.raw_headers, stream=AiohttpResponseStream(response)
        )

    async def post(self, sent: _Sent, body: bytes) -> aiohttp.ClientResponse:
        """Send ``body``; the response's is not read yet. Raises httpx's errors."""
        return await self._exchange("POST", sent, body)

    async def _exchange(self, method: str, sent: _Sent, body: bytes | None) -> aiohttp.ClientResponse:
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        headers, data = sent.headers, cast(Any, body)
        if body is not None and len(body) > PLAIN_BODY_BYTES:
            headers, data = {**headers, "Content-Length": str(len(body))}, _in_pieces(body)
        try:
            return await self.client.request(
                method,
                sent.target,
                headers=headers,
                data=data,
                allow_redirects=False,
                auto_decompress=False,
                timeout=self._timeout,
                **self._proxy,
            )
        except Exception:
            with map_aiohttp_exceptions():
                raise


class _Response(aiohttp.ClientResponse):
    """A response whose body fails when its connection ends before it.

    Of itself aiohttp (3.14) lets the reader wait for ever when a later chunk of a chunked body is
    malformed: it closes the connection, and the error reaches the connection's queue, not the body.
    """

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        await super().start(connection)
        content = self.content
        if protocol is None or content.is_eof() or "content-length" in self.headers:
            return self

        def ended(_: object = None) -> None:
            if not content.is_eof() and content.exception() is None:
                content.set_exception(aiohttp.ClientPayloadError("the connection ended within the body"))

        closed = protocol.closed
        if closed is None:  # already
            ended()
            return self

        def complete() -> None:
            closed.remove_done_callback(ended)

        closed.remove_done_callback(_seen)  # once per connection, however many requests it serves
        closed.add_done_callback(_seen)
        closed.add_done_callback(ended)
        content.on_eof(complete)
        return self


def _seen(closed: asyncio.Future[None]) -> None:
    """Look at how a connection ended, or asyncio complains that nobody did."""
    if not closed.cancelled():
        closed.exception()


async def _close(response: aiohttp.ClientResponse) -> None:
    with contextlib.suppress(*FAILURES):
        await response.__aexit__(None, None, None)


def _connections(tls: ssl.SSLContext, proxy: httpx.Proxy | None, connect_timeout_s: float) -> _Connections:
    def session() -> aiohttp.ClientSession:  # made at the first request: it belongs to that event loop
        # limit=0: admission is the only limit (the adapter would read None as aiohttp's own 100)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=tls)
        jar = aiohttp.DummyCookieJar()
        return aiohttp.ClientSession(connector=connector, cookie_jar=jar, response_class=_Response)

    return _Connections(session, tls, proxy, connect_timeout_s)
