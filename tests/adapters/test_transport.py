"""The wire, against real sockets that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import inspect
import logging
import pickle
import socket
import ssl
import sys
import time
import traceback

import aiohttp
import aiohttp.http_exceptions
import httpx
import pytest
import zstandard
from certificates import self_signed
from raw_server import raw_server

from deepseek_nb.adapters.auth import ApiKey
from deepseek_nb.adapters.failures import map_error
from deepseek_nb.adapters.transport import MAX_GET_BYTES, Transport
from deepseek_nb.core.errors import (
    ConfigError,
    ConnectionLost,
    EndpointUnknown,
    NeverConnected,
    ServerFault,
    StreamBroken,
    WentSilent,
)

CANARY = "sk-canary-7d41f0aa93b2c6e8"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@contextlib.asynccontextmanager
async def transport_to(url, **options):
    transport = Transport(url, **{"auth": None} | options)
    try:
        yield transport
    finally:
        await transport.aclose()


async def read(transport, body=b"{}", path="/chat/completions", **options):
    async with transport.post(path, body, **options) as reply:
        return reply, b"".join([chunk async for chunk in reply.chunks])


def fails(error, script, *, tls=None, url="", **options):
    """One POST to a server that runs ``script`` fails with ``error``, which is returned."""

    async def main():
        async with raw_server(script, tls=tls) as server:
            address = (url or server.url).format(port=server.port)
            async with transport_to(address, **options) as transport:
                with pytest.raises(error) as caught:
                    await read(transport)
        return caught.value

    return asyncio.run(main())


# -- what works ------------------------------------------------------------------------------------


def test_a_post_hands_back_status_headers_and_the_bytes_as_they_come():
    async def script(wire):
        await wire.request()
        await wire.send(CHUNKED.replace(b"\r\n\r\n", b"\r\nX-DS-Trace-Id: abc\r\n\r\n"))
        for piece in (b"data: 1\n\n", b": keep-alive\n\n", b"data: [DONE]\n\n"):
            await wire.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            await asyncio.sleep(0.02)
        await wire.send(b"0\r\n\r\n")
        await wire.request()

    async def main():
        async with raw_server(script) as server:
            auth = ApiKey(CANARY, origin=server.url)
            async with (
                transport_to(server.url + "/v1/", auth=auth, user_agent="deepseek_nb/9") as transport,
                transport.post("/chat/completions", b'{"a":1}', headers={"X-Extra": "7"}) as reply,
            ):
                chunks = [chunk async for chunk in reply.chunks]
            return server, reply, chunks

    server, reply, chunks = asyncio.run(main())
    assert (reply.status, reply.trace_id, reply.headers["transfer-encoding"]) == (200, "abc", "chunked")
    assert chunks == [b"data: 1\n\n", b": keep-alive\n\n", b"data: [DONE]\n\n"]
    [seen] = server.requests
    assert seen.line == "POST /v1/chat/completions HTTP/1.1"
    assert seen.body == b'{"a":1}'
    told = {name: seen.headers[name] for name in ("content-type", "accept-encoding", "user-agent", "x-extra")}
    assert told == {
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": "deepseek_nb/9",
        "x-extra": "7",
    }
    assert seen.headers["accept"] == "text/event-stream, application/json"
    assert seen.headers["authorization"] == f"Bearer {CANARY}"


def test_connections_are_kept_and_cookies_are_not():
    async def script(wire):
        while await wire.request():
            await wire.answer(b"{}", headers="Set-Cookie: who=me; Path=/\r\n")

    async def main():
        async with raw_server(script) as server:
            named = f"http://localhost:{server.port}"  # aiohttp's own jar keeps no cookies of bare numbers
            async with transport_to(named) as transport:
                for _ in range(3):
                    await read(transport)
                    await transport.get("/models")
            return server

    server = asyncio.run(main())
    assert (server.connections, len(server.requests)) == (1, 6)
    assert not any("cookie" in seen.headers for seen in server.requests)


def test_an_error_status_is_a_reply_too():
    async def script(wire):
        await wire.request()
        await wire.answer(b"busy", status="503 Service Unavailable")

    async def main():
        async with raw_server(script) as server, transport_to(server.url) as transport:
            return await read(transport)

    reply, body = asyncio.run(main())
    assert (reply.status, body, reply.trace_id) == (503, b"busy", "")


def test_a_large_body_goes_out_whole_and_again_when_the_token_is_renewed():
    class Again(httpx.Auth):
        def auth_flow(self, request):
            yield request
            yield request

    async def script(wire):
        while await wire.request():
            await wire.answer(b"{}")

    body = bytes(range(256)) * 2**14  # 4 MiB

    async def main():
        async with raw_server(script) as server, transport_to(server.url, auth=Again()) as transport:
            await read(transport, body)
            return server

    server = asyncio.run(main())
    assert [seen.body == body for seen in server.requests] == [True, True]
    assert all("transfer-encoding" not in seen.headers for seen in server.requests)


UNPACKS = {"gzip": gzip.decompress, "zstd": zstandard.decompress}


@pytest.mark.parametrize("how", UNPACKS)
def test_long_bodies_are_packed_where_that_is_wanted(how):
    async def script(wire):
        while await wire.request():
            await wire.answer(b"{}")

    long, short = b'{"text": "' + b"a row and " * 400 + b'"}', b'{"text": "a row"}'

    async def main():
        async with raw_server(script) as server, transport_to(server.url, compress=how) as transport:
            await read(transport, long)
            await read(transport, short)
            return server

    packed, plain = asyncio.run(main()).requests
    assert packed.headers["content-encoding"] == how
    assert UNPACKS[how](packed.body) == long
    assert len(packed.body) < len(long) / 10
    assert (plain.headers.get("content-encoding"), plain.body) == (None, short)


def test_zstd_without_its_package_is_said_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    if sys.version_info < (3, 14):
        with pytest.raises(ConfigError, match="needs the package zstandard"):
            Transport("https://api.deepseek.com", auth=None, compress="zstd")


def test_an_early_answer_to_a_body_nobody_reads_does_not_hang():
    async def script(wire):
        await wire.reader.readuntil(b"\r\n\r\n")
        await wire.answer(b"too large", status="413 Payload Too Large")
        await asyncio.sleep(30)

    async def main():
        async with raw_server(script) as server, transport_to(server.url) as transport:
            async with asyncio.timeout(5):
                return await read(transport, bytes(32 * 2**20))

    reply, body = asyncio.run(main())
    assert (reply.status, body) == (413, b"too large")


def test_a_compressed_answer_nobody_asked_for_is_unpacked():
    async def script(wire):
        seen = await wire.request()
        packed = gzip.compress(b'{"ok":true}')
        body = packed[:-9] + b"garbage!!" if seen.body == b"bad" else packed
        await wire.answer(body, headers="Content-Encoding: gzip\r\nConnection: close\r\n")

    async def main():
        async with raw_server(script) as server, transport_to(server.url) as transport:
            _, body = await read(transport)
            assert body == b'{"ok":true}'
            with pytest.raises(StreamBroken, match="decompressed"):
                await read(transport, b"bad")

    asyncio.run(main())


def test_300_streams_at_once():
    async def script(wire):
        while await wire.request():
            await wire.send(CHUNKED)
            for _ in range(5):
                await asyncio.sleep(0.05)
                await wire.send(b"3\r\nabc\r\n")
            await wire.send(b"0\r\n\r\n")

    async def main():
        async with raw_server(script) as server, transport_to(server.url) as transport:
            started = time.monotonic()
            answers = await asyncio.gather(*(read(transport) for _ in range(300)))
            return server, answers, time.monotonic() - started

    server, answers, took_s = asyncio.run(main())
    assert server.connections == 300, "all at once: the pool has no limit of its own"
    assert all(body == b"abc" * 5 for _, body in answers)
    assert took_s < 8


def test_get_hands_back_a_small_page():
    async def script(wire):
        await wire.request()
        await wire.answer(b'{"data":[]}', headers="X-A: 1\r\n")

    async def main():
        async with raw_server(script) as server, transport_to(server.url) as transport:
            return server, await transport.get("models")

    server, (status, headers, body) = asyncio.run(main())
    assert (status, headers["x-a"], body) == (200, "1", b'{"data":[]}')
    assert server.requests[0].line == "GET /models HTTP/1.1"
    assert "content-type" not in server.requests[0].headers


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
def test_get_ends_at_its_time_limit(start):
    async def script(wire):
        await wire.request()
        await wire.send(start)
        await asyncio.sleep(30)

    async def main():
        async with raw_server(script) as server, transport_to(server.url) as transport:
            with pytest.raises(WentSilent, match=r"within 0\.2 s") as caught:
                await transport.get("/models", timeout_s=0.2)
        return caught.value

    assert asyncio.run(main()).charged == "no"


def test_a_lost_get_costs_nothing():
    async def main():
        async with raw_server(_hang_up) as server, transport_to(server.url) as transport:
            with pytest.raises(ConnectionLost) as caught:
                await transport.get("/models")
        return caught.value.charged

    assert asyncio.run(main()) == "no"


def test_get_refuses_an_endless_page():
    async def script(wire):
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(2 * MAX_GET_BYTES // 2**16):
            await wire.send(bytes(2**16))

    async def main():
        async with raw_server(script) as server, transport_to(server.url) as transport:
            with pytest.raises(ServerFault, match="more than 8 MiB"):
                await transport.get("/models")

    asyncio.run(main())


# -- no connection: nothing was sent, nothing was charged ------------------------------------------


def test_a_refused_port():
    async def main():
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            async with transport_to(f"http://127.0.0.1:{port}") as transport:
                with pytest.raises(NeverConnected) as caught:
                    await read(transport)
            async with transport_to(f"http://localhost:{port}") as transport:
                with pytest.raises(NeverConnected):
                    await transport.get("/models")
        return port, caught.value

    port, error = asyncio.run(main())
    assert error.message == f"127.0.0.1:{port} cannot be reached (connection refused)."
    assert (error.charged, error.phase, error.retryable) == ("no", "connect", True)
    assert error.cause.startswith("httpx.ConnectTimeout < aiohttp.ClientConnectorError")
    assert error.__cause__ is None
    assert error.__context__ is None
    assert pickle.loads(pickle.dumps(error)).message == error.message


def test_an_unknown_host():
    async def main():
        async with transport_to("https://api.deepseek.invalid") as transport:
            with pytest.raises(NeverConnected) as caught:
                await read(transport)
        return caught.value

    assert asyncio.run(main()).message == "api.deepseek.invalid:443 is an unknown host."


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1, good for a day."""
    pem, key = self_signed(tmp_path_factory.mktemp("tls"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return pem, context


async def _answer(wire):
    while await wire.request():
        await wire.answer(b"{}")


def test_a_self_signed_certificate_is_not_accepted(certificate):
    error = fails(NeverConnected, _answer, tls=certificate[1], url="https://127.0.0.1:{port}")
    assert "certificate" in error.message
    assert "self-signed certificate" in error.message
    assert "SSL_CERT_FILE" in error.hint
    assert error.charged == "no"


def test_a_certificate_the_environment_names_is_accepted(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))

    async def main():
        async with (
            raw_server(_answer, tls=certificate[1]) as server,
            transport_to(f"https://127.0.0.1:{server.port}") as transport,
        ):
            return await read(transport)

    assert asyncio.run(main())[1] == b"{}"


def test_a_certificate_for_another_name_is_not_accepted(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    error = fails(NeverConnected, _answer, tls=certificate[1], url="https://localhost:{port}")
    assert "ostname mismatch" in error.message


def test_no_switch_turns_checking_off():
    assert "verify" not in inspect.signature(Transport).parameters


def test_https_to_a_server_that_speaks_no_tls():
    async def script(wire):
        await wire.reader.read(100)
        await wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    error = fails(NeverConnected, script, url="https://127.0.0.1:{port}")
    assert error.message.startswith("TLS with 127.0.0.1:")


def test_a_handshake_that_never_ends():
    async def script(wire):
        await asyncio.sleep(30)

    error = fails(NeverConnected, script, url="https://127.0.0.1:{port}", connect_timeout_s=0.2)
    assert "took no connection in time" in error.message


# -- the connection breaks: it may have been charged -------------------------------------------------


async def _reset_unread(wire):
    await wire.request()
    wire.reset()


async def _hang_up(wire):
    await wire.request()


@pytest.mark.parametrize("script", [_reset_unread, _hang_up])
def test_no_answer_to_a_request_that_was_sent(script):
    error = fails(ConnectionLost, script)
    assert (error.charged, error.phase) == ("unknown", "request")
    assert error.__context__ is None


CUTS = {
    "chunked": CHUNKED + b"5\r\nabcde\r\n",
    "in a chunk": CHUNKED + b"50\r\nabcde",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nX-DS-Trace-Id: t1\r\n\r\nabcde",
    "bad chunk": CHUNKED + b"5\r\nabcde\r\nzz\r\n",
}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", CUTS)
def test_an_answer_cut_off(name, reset):
    got = []

    async def script(wire):
        await wire.request()
        head, end, rest = CUTS[name].partition(b"\r\n\r\n")
        await wire.send(head + end)
        await asyncio.sleep(0.05)
        await wire.send(rest)
        await asyncio.sleep(0.05)
        if reset:
            wire.reset()

    async def main():
        async def read_on(reply):
            async for chunk in reply.chunks:
                got.append(chunk)  # noqa: PERF401 (what came before the error counts)

        async with (
            raw_server(script) as server,
            transport_to(server.url) as transport,
            transport.post("/", b"{}") as reply,
        ):
            with pytest.raises(ConnectionLost) as caught:
                await read_on(reply)
        return caught.value

    error = asyncio.run(main())
    assert (error.charged, error.phase, error.status) == ("unknown", "answer", 200)
    assert error.trace_id == ("t1" if name == "length" else None)
    assert name == "bad chunk" or b"".join(got) == b"abcde", "what came before the cut is handed over"
    assert error.__context__ is None


@pytest.mark.parametrize(
    "head",
    [
        b"ICY 200 OK\r\n\r\n",
        b"<html>bad gateway</html>\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"\x16\x03\x01\x00\xa5" * 20,
    ],
)
def test_an_answer_that_is_not_http(head):
    async def script(wire):
        await wire.request()
        await wire.send(head)

    error = fails(ConnectionLost, script)
    assert (error.charged, error.__context__) == ("unknown", None)


def test_a_kept_connection_the_server_has_closed_meanwhile():
    async def closes_idle(wire):
        await wire.request()
        await wire.answer(b"{}")

    async def closes_on_the_next(wire):
        await wire.request()
        await wire.answer(b"{}")
        await wire.reader.read(1)
        wire.reset()

    async def main(script):
        outcomes = []
        async with raw_server(script) as server, transport_to(server.url) as transport:
            for _ in range(6):
                try:
                    outcomes.append((await read(transport))[0].status)
                except ConnectionLost as error:
                    outcomes.append(error.retryable)
                await asyncio.sleep(0.02)
        return outcomes

    assert asyncio.run(main(closes_idle)) == [200] * 6
    assert asyncio.run(main(closes_on_the_next)) == [200, True] * 3


def test_a_kept_connection_that_is_reset_while_idle_makes_no_noise(caplog):
    async def script(wire):
        for _ in range(3):
            await wire.request()
            await wire.answer(b"{}")
        await asyncio.sleep(0.05)
        wire.reset()

    async def main():
        async with raw_server(script) as server, transport_to(server.url) as transport:
            for _ in range(3):
                await read(transport)
            assert server.connections == 1
            await asyncio.sleep(0.15)
            gc.collect()

    asyncio.run(main())
    gc.collect()
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


# -- redirects, loops, closing -----------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_error_and_the_other_host_hears_nothing(status):
    async def main():
        async with raw_server(_answer) as other:

            async def script(wire):
                while await wire.request():
                    to = f"Location: http://localhost:{other.port}/steal?key=1\r\n"
                    await wire.answer(b"", status=f"{status} Elsewhere", headers=to)

            async with raw_server(script) as server:
                auth = ApiKey(CANARY, origin=server.url)
                async with transport_to(server.url, auth=auth) as transport:
                    with pytest.raises(EndpointUnknown) as caught:
                        await read(transport)
                    with pytest.raises(EndpointUnknown):
                        await transport.get("/models")
            return server, other, caught.value

    server, other, error = asyncio.run(main())
    assert (len(server.requests), other.connections) == (2, 0)
    assert f"redirects to localhost (status {status})" in error.message
    assert "steal" not in str(error)
    assert error.charged == "no"
    assert not error.retryable


@pytest.mark.parametrize(
    "to", ["", "Location: http://[::bad/\r\n", "Location: \x01\x02\r\n", "Location: /v2\r\n"]
)
def test_a_redirect_to_an_odd_place(to):
    async def script(wire):
        await wire.request()
        await wire.send(f"HTTP/1.1 302 Found\r\n{to}Content-Length: 0\r\n\r\n".encode())

    fails((EndpointUnknown, ConnectionLost), script)


@pytest.mark.parametrize("stage", ["before headers", "in the body", "left early"])
def test_cancelling_closes_the_connection_at_once(stage):
    async def main():
        hung_up, arrived = asyncio.Event(), asyncio.Event()

        async def script(wire):
            await wire.request()
            if stage != "before headers":
                await wire.send(CHUNKED + b"3\r\nabc\r\n")
            arrived.set()
            await wire.reader.read(1)
            hung_up.set()

        async def leave(transport):
            async with transport.post("/", b"{}") as reply:
                async for _ in reply.chunks:
                    break

        async with raw_server(script) as server, transport_to(server.url) as transport:
            task = asyncio.create_task(leave(transport) if stage == "left early" else read(transport))
            await arrived.wait()
            await asyncio.sleep(0.05)
            started = time.monotonic()
            if stage == "left early":
                await task
            else:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            async with asyncio.timeout(1):
                await hung_up.wait()
            return time.monotonic() - started

    assert asyncio.run(main()) < 1


def test_a_transport_belongs_to_one_event_loop():
    transport = Transport("http://127.0.0.1:9", auth=None)

    async def use():
        with pytest.raises(NeverConnected):
            await read(transport)

    async def misuse():
        with pytest.raises(ConfigError, match="another event loop"):
            await read(transport)
        with pytest.raises(ConfigError, match="another event loop"):
            await transport.get("/models")
        with pytest.raises(ConfigError, match="another event loop"):
            await transport.aclose()

    with asyncio.Runner() as first:
        first.run(use())
        with asyncio.Runner() as second:
            second.run(misuse())
        first.run(transport.aclose())


def test_a_closed_transport_says_so():
    async def main():
        transport = Transport("http://127.0.0.1:9", auth=None)
        await transport.aclose()
        await transport.aclose()
        with pytest.raises(ConfigError, match="closed"):
            await read(transport)

    asyncio.run(main())


def test_closing_ends_what_is_under_way():
    async def script(wire):
        await wire.request()
        arrived.set()
        await asyncio.sleep(30)

    arrived = asyncio.Event()

    async def main():
        async with raw_server(script) as server:
            transport = Transport(server.url, auth=None)
            task = asyncio.create_task(read(transport))
            await arrived.wait()
            await transport.aclose()
            with pytest.raises(ConnectionLost):
                async with asyncio.timeout(2):
                    await task

    asyncio.run(main())


# -- addresses and proxies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "",
        "api.deepseek.com",
        "ftp://api.deepseek.com",
        "https://",
        "https://user:hunter2@api.deepseek.com",
        "https://api.deepseek.com@evil.example",
        "https://api.deepseek.com\\@evil.example",
        "https://api.deepseek.com/?key=hunter2",
        "https://api.deepseek.com/#hunter2",
        "https://api.deepseek.com/?",
        "https://[::1",
        "https://a b",
        "https://host:port",
        "https://169.254.169.254/latest",
        "https://[fe80::1]",
        "https://[::ffff:169.254.169.254]",
        "https://[fd00:ec2::254]",
        "https://0.0.0.0",
        "https://2130706433",
        "https://0x7f.1",
        "https://127.1",
        "https://0251.0376.0251.0376",
        "https://metadata.google.internal",
        "https://METADATA.google.internal.",
        "https://100.100.100.200",
        "http://api.deepseek.com",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        None,
    ],
)
def test_no_request_goes_to_a_hostile_address(address):
    with pytest.raises(ConfigError) as caught:
        Transport(address, auth=ApiKey(CANARY, origin="https://api.deepseek.com"))
    assert "hunter2" not in str(caught.value)


def test_plain_http_is_for_this_machine_or_without_a_key():
    key = ApiKey(CANARY, origin="https://api.deepseek.com")
    for address in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"):
        assert Transport(address, auth=key).origin == address
    assert Transport("http://llama.lan:8080", auth=None).origin == "http://llama.lan:8080"
    assert Transport("https://API.deepseek.com:443/v1/", auth=key).origin == "https://api.deepseek.com"


def test_a_path_cannot_leave_the_server():
    async def main():
        async with raw_server(_answer) as server, transport_to(server.url) as transport:
            for path in ("@evil.example", "//evil.example/x", "http://evil.example/", "../../x"):
                await read(transport, path=path)
            return server

    server = asyncio.run(main())
    assert len(server.requests) == 4
    assert all(seen.headers["host"] == f"127.0.0.1:{server.port}" for seen in server.requests)


def test_settings_out_of_range():
    with pytest.raises(ConfigError, match="connect_timeout_s"):
        Transport("http://127.0.0.1:1", auth=None, connect_timeout_s=0)


def test_a_ca_file_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="CA certificates"):
        Transport("https://api.deepseek.com", auth=None)
    assert Transport("https://api.deepseek.com", auth=None, trust_env=False).proxy is None


async def _tunnel_refused(wire):
    seen = await wire.request()
    if seen.line.startswith("CONNECT"):
        await wire.answer(b"", status="407 Proxy Authentication Required")
    else:
        await wire.answer(b"by proxy")


def test_the_proxy_of_the_environment_is_used_and_its_password_not_shown(monkeypatch):
    async def main():
        async with raw_server(_tunnel_refused) as proxy:
            for scheme in ("HTTP", "HTTPS"):
                monkeypatch.setenv(f"{scheme}_PROXY", f"http://me:hunter2@127.0.0.1:{proxy.port}")
            async with transport_to("https://api.deepseek.invalid") as transport:
                assert transport.proxy == f"127.0.0.1:{proxy.port}"
                assert "hunter2" not in repr(transport)
                with pytest.raises(NeverConnected, match=r"did not let us through \(status 407\)") as caught:
                    await read(transport)
                assert "hunter2" not in str(caught.value)
                assert "HTTPS_PROXY" in caught.value.hint
            async with transport_to("http://llama.invalid") as transport:
                assert (await read(transport))[1] == b"by proxy"
            return proxy

    proxy = asyncio.run(main())
    assert [seen.line for seen in proxy.requests] == [
        "CONNECT api.deepseek.invalid:443 HTTP/1.1",
        "POST http://llama.invalid/chat/completions HTTP/1.1",
    ]
    assert {seen.headers["proxy-authorization"] for seen in proxy.requests} == {"Basic bWU6aHVudGVyMg=="}


def test_a_proxy_that_is_down(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")

    async def main():
        async with transport_to("https://api.deepseek.invalid") as transport:
            with pytest.raises(NeverConnected, match=r"The proxy before api\.deepseek\.invalid:443"):
                await read(transport)

    asyncio.run(main())


def test_this_machine_and_no_proxy_hosts_go_without(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "gateway.lan")
    for address in ("http://127.0.0.1:1", "http://localhost:1", "https://gateway.lan"):
        assert Transport(address, auth=None).proxy is None
    assert Transport("https://api.deepseek.com", auth=None).proxy == "127.0.0.1:9"
    assert Transport("https://api.deepseek.com", auth=None, trust_env=False).proxy is None


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://[::bad"])
def test_a_proxy_that_cannot_be_used_is_named_at_once(monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigError, match="only http and https proxies"):
        Transport("https://api.deepseek.com", auth=None)


# -- the key is never seen ----------------------------------------------------------------------------


def test_the_key_is_in_nothing_that_is_shown(caplog):
    caplog.set_level(logging.DEBUG)
    shown = []

    async def cancelled(transport):
        task = asyncio.create_task(read(transport))
        await asyncio.sleep(0.1)
        task.cancel()
        await task

    def note(error):
        shown.append(repr(error) + str(error) + str(vars(error)))
        lines = traceback.TracebackException.from_exception(error, capture_locals=True)
        shown.append("".join(lines.format()))

    async def script(wire):
        await wire.request()
        kind = wire.number % 4
        if kind == 0:
            await wire.answer(b"{}", status="401 Unauthorized", headers="Connection: close\r\n")
        elif kind == 1:
            await wire.send(b"junk\r\n\r\n")
        elif kind == 2:
            await asyncio.sleep(30)
        else:
            await wire.send(CHUNKED + b"5\r\nab")

    async def main():
        async with raw_server(script) as server:
            auth = ApiKey(CANARY, origin=server.url)
            async with transport_to(server.url, auth=auth) as transport:
                shown.append(repr(transport) + repr(vars(transport)))
                for number in range(1, 9):
                    try:
                        if number % 4 == 2:
                            await cancelled(transport)
                        else:
                            shown.append(repr(await read(transport)))
                    except (asyncio.CancelledError, ConnectionLost) as error:
                        note(error)
            async with transport_to(
                "http://127.0.0.1:9", auth=ApiKey(CANARY, origin="http://127.0.0.1:9")
            ) as gone:
                with pytest.raises(NeverConnected) as caught:
                    await read(gone)
                note(caught.value)
            async with transport_to(server.url, auth=ApiKey(CANARY, origin="https://other.example")) as wrong:
                with pytest.raises(ConfigError, match="not sent to") as caught:
                    await read(wrong)
                note(caught.value)
            return server

    server = asyncio.run(main())
    assert sum(seen.headers["authorization"] == f"Bearer {CANARY}" for seen in server.requests) == 8
    assert len(shown) > 10
    assert caplog.records
    everything = "".join(shown) + caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert CANARY not in everything


# -- every exception is mapped ------------------------------------------------------------------------

MAPPED = {
    # aiohttp
    "aiohttp.ClientError": ConnectionLost,
    "aiohttp.ClientResponseError": ConnectionLost,
    "aiohttp.ContentTypeError": ConnectionLost,
    "aiohttp.WSServerHandshakeError": ConnectionLost,
    "aiohttp.ClientHttpProxyError": NeverConnected,
    "aiohttp.TooManyRedirects": EndpointUnknown,
    "aiohttp.ClientConnectionError": ConnectionLost,
    "aiohttp.ClientConnectionResetError": ConnectionLost,
    "aiohttp.ClientOSError": ConnectionLost,
    "aiohttp.ClientConnectorError": NeverConnected,
    "aiohttp.ClientConnectorDNSError": NeverConnected,
    "aiohttp.ClientProxyConnectionError": NeverConnected,
    "aiohttp.UnixClientConnectorError": NeverConnected,
    "aiohttp.ClientSSLError": NeverConnected,
    "aiohttp.ClientConnectorSSLError": NeverConnected,
    "aiohttp.ClientConnectorCertificateError": NeverConnected,
    "aiohttp.ServerConnectionError": ConnectionLost,
    "aiohttp.ServerDisconnectedError": ConnectionLost,
    "aiohttp.ServerTimeoutError": WentSilent,
    "aiohttp.ConnectionTimeoutError": NeverConnected,
    "aiohttp.SocketTimeoutError": WentSilent,
    "aiohttp.ServerFingerprintMismatch": NeverConnected,
    "aiohttp.ClientPayloadError": ConnectionLost,
    "aiohttp.UploadAbortedError": ConnectionLost,
    "aiohttp.InvalidURL": ConfigError,
    "aiohttp.InvalidUrlClientError": ConfigError,
    "aiohttp.InvalidUrlRedirectClientError": EndpointUnknown,
    "aiohttp.RedirectClientError": EndpointUnknown,
    "aiohttp.NonHttpUrlRedirectClientError": EndpointUnknown,
    "aiohttp.NonHttpUrlClientError": ConfigError,
    # httpx
    "httpx.CloseError": ConnectionLost,
    "httpx.ConnectError": NeverConnected,
    "httpx.ConnectTimeout": NeverConnected,
    "httpx.DecodingError": StreamBroken,
    "httpx.HTTPError": ConnectionLost,
    "httpx.HTTPStatusError": ServerFault,
    "httpx.InvalidURL": ConfigError,
    "httpx.LocalProtocolError": ConfigError,
    "httpx.NetworkError": ConnectionLost,
    "httpx.PoolTimeout": NeverConnected,
    "httpx.ProtocolError": ConnectionLost,
    "httpx.ProxyError": NeverConnected,
    "httpx.ReadError": ConnectionLost,
    "httpx.ReadTimeout": WentSilent,
    "httpx.RemoteProtocolError": ConnectionLost,
    "httpx.RequestError": ConnectionLost,
    "httpx.TimeoutException": WentSilent,
    "httpx.TooManyRedirects": EndpointUnknown,
    "httpx.TransportError": ConnectionLost,
    "httpx.UnsupportedProtocol": ConfigError,
    "httpx.WriteError": ConnectionLost,
    "httpx.WriteTimeout": WentSilent,
    # mistakes of the caller, raised as they are
    "httpx.CookieConflict": None,
    "httpx.RequestNotRead": None,
    "httpx.ResponseNotRead": None,
    "httpx.StreamClosed": None,
    "httpx.StreamConsumed": None,
    "httpx.StreamError": None,
}


def _family(kind):
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


def _all_kinds():
    for kind in set(_family(aiohttp.ClientError)):
        if kind.__module__.startswith("aiohttp."):
            yield f"aiohttp.{kind.__name__}", kind
    for name in httpx.__all__:
        kind = getattr(httpx, name)
        if inspect.isclass(kind) and issubclass(kind, Exception):
            yield f"httpx.{name}", kind


def _made(kind):
    """An instance, whatever its ``__init__`` asks for."""
    error = kind.__new__(kind)
    if issubclass(kind, aiohttp.ClientResponseError):
        error.status = 400
    return error


def test_every_exception_of_httpx_and_aiohttp_is_mapped():
    kinds = dict(_all_kinds())
    assert sorted(set(kinds) - set(MAPPED)) == [], "a new exception: say here what it means"
    for name, kind in kinds.items():
        error = map_error(_made(kind), "h:1")
        assert (None if error is None else type(error)) is MAPPED[name], name


@pytest.mark.parametrize(
    "kind", sorted(_family(aiohttp.http_exceptions.HttpProcessingError), key=lambda kind: kind.__name__)
)
def test_what_the_parser_raises_is_mapped(kind):
    assert isinstance(map_error(_made(kind)), ConnectionLost)


@pytest.mark.parametrize(
    ("exc", "becomes"),
    [
        (TimeoutError(), WentSilent),
        (ConnectionResetError(104, "x"), ConnectionLost),
        (BrokenPipeError(32, "x"), ConnectionLost),
        (ConnectionRefusedError(111, "x"), NeverConnected),
        (socket.gaierror(-2, "x"), NeverConnected),
        (ssl.SSLCertVerificationError(1, "x"), NeverConnected),
        (ssl.SSLError(1, "x"), ConnectionLost),
        (OSError(), ConnectionLost),
    ],
)
def test_what_the_operating_system_raises_is_mapped(exc, becomes):
    error = map_error(exc, "h:1")
    assert type(error) is becomes
    assert "h:1" in error.message
    assert error.hint


@pytest.mark.parametrize(
    "exc", [ValueError("x"), RuntimeError("x"), asyncio.CancelledError(), KeyboardInterrupt()]
)
def test_everything_else_is_left_alone(exc):
    assert map_error(exc) is None
    exc.__context__ = aiohttp.ServerDisconnectedError()
    assert map_error(exc) is None


def test_the_cause_below_decides():
    def chain(cause):
        error = httpx.ConnectTimeout("https://api.deepseek.com/?key=hunter2")
        error.__cause__ = cause
        return map_error(error, "h:1")

    assert type(chain(aiohttp.ServerDisconnectedError())) is ConnectionLost
    assert type(chain(aiohttp.ClientOSError(104, "Connection reset by peer"))) is ConnectionLost
    assert type(chain(aiohttp.ConnectionTimeoutError())) is NeverConnected
    assert type(chain(None)) is NeverConnected
    lost = chain(aiohttp.ServerDisconnectedError("https://api.deepseek.com/?key=hunter2"))
    assert "hunter2" not in str(lost) + repr(lost) + str(vars(lost))
    assert lost.cause == "httpx.ConnectTimeout < aiohttp.ServerDisconnectedError"


def test_too_many_open_files_is_said_as_such():
    error = map_error(aiohttp.ClientOSError(24, "Too many open files"), "h:1")
    assert "ulimit -n" in error.hint
