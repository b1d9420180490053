"""S3: certificates are always checked, redirects never followed, and a proxy in between is named."""

from __future__ import annotations

import ast
import logging
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import deepseek_nb as ds
from deepseek_nb.adapters.addresses import proxy_of, say_once
from deepseek_nb.adapters.transport import Transport
from deepseek_nb.core.errors import EndpointUnknown, NeverConnected

from .canary import KEY, find

SOURCES = sorted(Path(ds.__file__).parent.rglob("*.py"))


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@dataclass
class Listener:
    """A server that answers every request with the same bytes, and keeps what it could read."""

    port: int = 0
    connections: int = 0
    heard: bytearray = field(default_factory=bytearray)


@contextmanager
def listener(answer: bytes = b"", *, tls: ssl.SSLContext | None = None) -> Iterator[Listener]:
    """Listens on a free port; with ``tls`` only what came through a finished handshake is heard."""
    told = Listener()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(5)
                with tls.wrap_socket(connection, server_side=True) if tls else connection as clear:
                    while data := clear.recv(65536):
                        told.heard += data
                        if b"\r\n\r\n" in data:
                            clear.sendall(answer)  # and read on: closing on unread bytes would reset
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        told.port = server.getsockname()[1]

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                told.connections += 1
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield told
        server.shutdown(socket.SHUT_RDWR)


def client_of(address: str, folder: Path, **settings) -> ds.Client:
    quick = {"api_key": KEY, "data_dir": folder, "max_faults": 0, "patience_s": 0, "cache": False}
    return ds.Client(base_url=address, **quick | settings)


def every_call(client: ds.Client):
    return client.models, client.balance, lambda: client.ask("?"), lambda: list(client.stream("?"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Contexts of a server: self-signed for this machine, long over, and for another name."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    made = {}
    for name, san, days in (("self-signed", "IP:127.0.0.1", 1), ("another name", "DNS:other.example", 1)):
        folder = tmp_path_factory.mktemp("tls")
        pem, key = folder / "cert.pem", folder / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", str(days)]
        command += ["-subj", "/CN=127.0.0.1", "-addext", f"subjectAltName={san}", "-keyout", str(key)]
        subprocess.run([*command, "-out", str(pem)], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, key)
        made[name] = (context, pem)
    return made


@pytest.mark.parametrize("kind", ["self-signed", "another name"])
def test_a_wrong_certificate_is_an_error_and_nothing_is_sent(certificates, kind, tmp_path, monkeypatch):
    """Not one byte of a request comes through the handshake, whichever call is made."""
    context, pem = certificates[kind]
    if kind == "another name":
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))  # trusted, and still not for this host
    with listener(tls=context) as server, client_of(f"https://127.0.0.1:{server.port}", tmp_path) as client:
        for call in every_call(client):
            with pytest.raises(NeverConnected, match="certificate of 127") as caught:
                call()
            assert caught.value.charged == "no"
            assert not find(str(caught.value), KEY)
    assert server.connections >= 4
    assert server.heard == b""


def test_the_same_server_is_heard_once_its_certificate_is_trusted(certificates, tmp_path, monkeypatch):
    """SSL_CERT_FILE is the way, and the check above is not blind."""
    context, pem = certificates["self-signed"]
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data":[]}'
    with (
        listener(answer, tls=context) as server,
        client_of(f"https://127.0.0.1:{server.port}", tmp_path) as c,
    ):
        assert c.models() == []
    assert f"Bearer {KEY}".encode() in server.heard


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_error_and_the_other_host_hears_nothing(status, tmp_path):
    """Two servers: the second one is never connected to."""
    with listener() as other:
        to = f"HTTP/1.1 {status} Elsewhere\r\nContent-Length: 0\r\n"
        to += f"Location: http://127.0.0.1:{other.port}/\r\n\r\n"
        with (
            listener(to.encode()) as server,
            client_of(f"http://127.0.0.1:{server.port}", tmp_path) as client,
        ):
            for call in every_call(client):
                with pytest.raises(EndpointUnknown, match="not followed"):
                    call()
    assert server.heard.count(b" HTTP/1.1\r\n") >= 4
    assert other.connections == 0


def weakened(source: str) -> list[str]:
    """What in a source would loosen TLS or follow redirects."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword):
            value = node.value.value if isinstance(node.value, ast.Constant) else ...
            if (node.arg in ("verify", "check_hostname", "verify_ssl", "ssl") and value in (False, None)) or (
                node.arg in ("follow_redirects", "allow_redirects") and value is not False
            ):
                found.append(f"{node.arg}={value}")
        elif isinstance(node, ast.Attribute) and node.attr in ("CERT_NONE", "_create_unverified_context"):
            found.append(node.attr)
        elif isinstance(node, ast.arg) and node.arg in ("verify", "verify_ssl", "insecure"):
            found.append(f"argument {node.arg}")
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Attribute) and target.attr in ("check_hostname", "verify_mode")
            for target in node.targets
        ):
            found.append("an assignment to a context")
    return found


def test_no_source_of_ours_loosens_tls_or_follows_redirects():
    """No switch, no argument, no context that does not check."""
    found = {str(file): weakened(file.read_text(encoding="utf-8")) for file in SOURCES}
    assert {file: what for file, what in found.items() if what} == {}
    for bad in ("f(verify=False)", "ssl.CERT_NONE", "def f(verify): ...", "f(follow_redirects=True)"):
        assert weakened(bad), bad


def test_a_proxy_in_use_is_shown_once(tmp_path, monkeypatch, caplog):
    """In the client's repr, and in one line of the log however many clients there are; not its password."""
    caplog.set_level(logging.INFO, logger="deepseek_nb")
    say_once.cache_clear()
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@127.0.0.1:9")
    for _ in range(3):
        with client_of("https://api.deepseek.com", tmp_path) as client:
            shown = repr(client)
            assert "through the proxy 127.0.0.1:9" in shown
            assert "hunter2" not in shown
            for call in every_call(client):
                with pytest.raises(NeverConnected, match="proxy") as caught:
                    call()
                assert "hunter2" not in str(caught.value)
    said = [record.getMessage() for record in caplog.records if "proxy" in record.getMessage()]
    assert said == [
        "Requests to https://api.deepseek.com go through the proxy 127.0.0.1:9, as the environment sets it."
    ]
    with client_of("http://127.0.0.1:8000", tmp_path) as client:
        assert "proxy" not in repr(client)


LOOPBACK = ("127.0.0.1", "127.8.9.1", "localhost", "LOCALHOST", "localhost.", "x.localhost", "[::1]")
LOOPBACK += ("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]")


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_is_never_reached_by_way_of_a_proxy(host, monkeypatch):
    """Whatever the environment says, in every notation."""
    with listener() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert proxy_of("https://api.deepseek.com") == f"127.0.0.1:{proxy.port}"
        for scheme in ("http", "https"):
            assert proxy_of(f"{scheme}://{host}:8000") is None
            assert Transport(f"{scheme}://{host}:8000", auth=None).proxy is None
    assert proxy.connections == 0
