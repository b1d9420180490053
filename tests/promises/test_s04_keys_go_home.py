"""S4: a hostile address is refused before any byte, and a key goes to the server it was given for only."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import httpx
import pandas as pd
import pytest

import deepseek_nb as ds
from deepseek_nb.adapters.auth import ApiKey
from deepseek_nb.client.routes import Route
from deepseek_nb.core.errors import ConfigError, DeepSeekError
from deepseek_nb.sandbox import FaultScript

from .canary import KEY, find

HOSTILE = [
    # who is it really
    "https://api.deepseek.com@evil.example",
    "https://api.deepseek.com:443@evil.example/",
    f"https://{KEY.replace('/', '-')}@api.deepseek.com",
    "https://user:password@api.deepseek.com",
    "https://@api.deepseek.com",
    "https://api.deepseek.com\\@evil.example",
    "https://evil.example\\.api.deepseek.com",
    "https://evil.example#@api.deepseek.com",
    "https://evil.example?@api.deepseek.com",
    "https://api.deepseek.com?key=1",
    "https://api.deepseek.com/#",
    "https://api.deepseek.com%2eevil.example",
    "https://api.deepseek.com%00.evil.example",
    "https://api.deepseek.com\x00.evil.example",
    "https://api.deepseek.com\t.evil.example",
    "https://api.deepseek.com\n.evil.example",
    "https://api.deepseek.com\r\nHost: evil.example",
    " https://api.deepseek.com",
    "https://api.deepseek.com ",
    "https://api.deepseek.com evil.example",
    # letters that look like others
    "https://\u0430pi.deepseek.com",
    "https://api.deep\u0455eek.com",
    "https://api.deepseek\uff0ecom",
    "https://api.deepseek.com\u3002evil.example",
    "https://api.deepseek.com\u2024evil.example",
    "https://\u24d4vil.example",
    "https://api.deepseek.com\u200b",
    "https://api.deepseek.com\u2215evil.example",
    # schemes
    "http://api.deepseek.com",
    "ftp://api.deepseek.com",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "data:text/plain,x",
    "unix:///var/run/docker.sock",
    "gopher://127.0.0.1:25/",
    "ws://127.0.0.1/",
    "https:api.deepseek.com",
    "https:/api.deepseek.com",
    "https:///api.deepseek.com",
    "//api.deepseek.com",
    "api.deepseek.com",
    "https://",
    "https://:443",
    "https://.",
    "https://..",
    "https://a..b",
    "https://[::1",
    "https://host:0",
    "https://host:99999",
    "https://host:port",
    "https://host:-1",
    "",
    # plain http to what only looks like this machine
    "http://127.0.0.1.evil.example",
    "http://localhost.evil.example",
    "http://127.0.0.1@evil.example",
    "http://localhost:80@evil.example",
    "http://evil.localhost.example",
    "http://127.0.0.2.example",
    "http://0.0.0.0",
    "http://[::]",
    # numbers in disguise
    "https://2130706433",
    "http://2130706433:8000",
    "https://017700000001",
    "https://0x7f000001",
    "https://0x7f.1",
    "https://0x7f.0.0.1",
    "https://0177.0.0.1",
    "https://127.1",
    "https://127.0.1",
    "https://0",
    "https://1.2.3.4.5",
    "https://256.1.1.1",
    "https://2852039166",
    "https://0xa9fea9fe",
    "https://0251.0376.0251.0376",
    "http://127\u30020\u30020\u30021",
    # where cloud machines keep credentials
    "https://169.254.169.254",
    "http://169.254.169.254/latest/meta-data/",
    "https://169.254.169.254.",
    "https://169.254.170.2",
    "https://[fe80::1]",
    "https://[fe80::1%25eth0]",
    "https://[::ffff:169.254.169.254]",
    "https://[::ffff:a9fe:a9fe]",
    "https://[0:0:0:0:0:ffff:169.254.169.254]",
    "https://[::169.254.169.254]",
    "https://[64:ff9b::169.254.169.254]",
    "https://[2002:a9fe:a9fe::]",
    "https://[fd00:ec2::254]",
    "https://[fd20:ce::254]",
    "https://100.100.100.200",
    "https://168.63.129.16",
    "https://192.0.0.192",
    "https://metadata.google.internal",
    "https://METADATA.google.internal.",
    "https://metadata.goog",
    "https://metadata",
    "https://instance-data",
    "https://224.0.0.1",
    "https://[ff02::1]",
]

TRY_ALL = """
import json, sys
heard = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        heard.append([event, str(arguments[:2])])
import deepseek_nb as ds
from deepseek_nb import cli
from deepseek_nb.client.routes import Route
from deepseek_nb.core.errors import ConfigError
ds.Client; ds.configure; Route
sys.addaudithook(watch)
taken, messages = [], []
elsewhere = ds.Client(base_url="https://api.deepseek.com")
def door(call):
    try:
        call()
    except ConfigError as error:
        messages.append(str(error))
    except Exception as error:
        taken.append(f"{address} {error!r}")
    else:
        taken.append(address)
import os
for address in json.load(sys.stdin):
    door(lambda: ds.Client(base_url=address).models())
    door(lambda: ds.configure(base_url=address).models())
    door(lambda: elsewhere.settings.replace(base_url=address))
    key = os.environ["DEEPSEEK_API_KEY"]
    door(lambda: ds.Client(fallback=Route(base_url=address or " ", model="m", api_key=key)))
    if address and "\\0" not in address and address == address.strip():
        os.environ["DEEPSEEK_NB_BASE_URL"] = address
        door(lambda: ds.Client().models())
        del os.environ["DEEPSEEK_NB_BASE_URL"]
        if cli.main(["models", "--base-url", address]) != 2:
            taken.append("cli " + address)
print(json.dumps({"taken": taken, "heard": heard, "messages": messages}))
"""


def test_a_hostile_address_is_refused_before_any_byte():
    """Through every door, under an audit hook: nothing is looked up, nothing connected to."""
    done = subprocess.run(
        [sys.executable, "-c", TRY_ALL],
        input=json.dumps(HOSTILE),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env=os.environ | {"DEEPSEEK_API_KEY": KEY, "PYTHONIOENCODING": "utf-8:surrogatepass"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["taken"] == []
    assert told["heard"] == []
    assert len(told["messages"]) >= 4 * len(HOSTILE)
    assert find(done.stdout + done.stderr, KEY) == []
    assert "password" not in "".join(
        m.partition("carries a user name or password")[0] for m in told["messages"]
    )


def test_a_key_is_bound_to_its_origin_whatever_the_path(tmp_path):
    """Absolute addresses, tricks with slashes, dots and at-signs as a path: always the same server."""
    with ds.Sandbox(api_key=KEY) as home, ds.Sandbox(api_key=None) as thief:
        there = thief.base_url
        near = f"127.0.0.1:{thief.port}"
        paths = [there, f"{there}/x", f"//{near}/x", f"@{near}/", f"\\\\{near}/", f":{thief.port}/x", ""]
        paths += ["/../../x", "/..//..//x", f"/{there}", "?x=1", "#x", "/%2e%2e/x"]

        async def ask_all() -> None:
            async with ds.AsyncClient(base_url=home.base_url, api_key=KEY, data_dir=tmp_path) as client:
                transport = client.road.upstream("").transport
                for path in paths:
                    await transport.get(path)
                    async with transport.post(path, b"{}") as reply:
                        _ = [chunk async for chunk in reply.chunks]

        asyncio.run(ask_all())
        assert len(home.log) == 2 * len(paths)
        assert len(thief.log) == 0


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:{port}", "http://localhost:{home}", "https://127.0.0.1:{home}", "http://[::1]:{home}"],
)
def test_another_port_name_or_scheme_is_another_server(address):
    """The last layer before the wire refuses, whatever came before it."""
    auth = ApiKey(KEY, origin="http://127.0.0.1:8000")
    request = httpx.Request("POST", address.format(port=8001, home=8000))
    with pytest.raises(ConfigError, match="not sent to"):
        next(auth.auth_flow(request))
    assert "authorization" not in request.headers


def test_a_fallback_never_gets_the_first_servers_key(tmp_path):
    """It has its own key, which alone that server takes; without one elsewhere it is refused."""
    with ds.Sandbox(api_key=KEY) as home, ds.Sandbox(api_key="sk-other-server-0123456789") as other:
        settings = {"base_url": home.base_url, "api_key": KEY, "data_dir": tmp_path, "patience_s": 20}
        home.faults = FaultScript.always("busy_503")
        place = {"base_url": other.base_url, "model": "deepseek-flash", "name": "other"}
        route = Route(**place, api_key=other.api_key)
        with ds.Client(**settings, fallback=route, failover_s=0.1) as client:
            assert client.ask("Where?").route == "other"
        keyless = ds.Client(**settings, fallback=Route(**place), failover_s=0.1)
        with keyless as client, pytest.raises(DeepSeekError):
            client.ask("And without one?")
        assert [record.status for record in other.log] == [200, 401], "no key is sent, not the first one's"
        with pytest.raises(ConfigError, match="needs a key of its own"):
            ds.Client(**settings, fallback=Route(base_url="https://gateway.example", model="m"))


def test_a_repositorys_file_neither_brings_an_address_nor_a_key(tmp_path, monkeypatch):
    """Nor where answers come from: a cloned repository cannot steer a key."""
    monkeypatch.delenv("DEEPSEEK_NB_PYPROJECT")
    monkeypatch.chdir(tmp_path)
    for line in ('base_url = "https://evil.example"', f'api_key = "{KEY}"', 'route = "x"', 'data_dir = "d"'):
        (tmp_path / "pyproject.toml").write_text(f"[tool.deepseek_nb]\n{line}\n")
        with pytest.raises(ConfigError, match="never taken from") as caught:
            pd.DataFrame({"a": ["x"]}).deepseek.apply("{{a}}", client=ds.Client(api_key=KEY))
        assert not find(str(caught.value), KEY)
