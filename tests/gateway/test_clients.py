"""Programs that others wrote, as they are used, and our own client: they notice no difference."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import subprocess

import pandas as pd
import pytest
import zstandard

from deepseek_nb.batch.apply import apply
from deepseek_nb.client.sync import Client
from deepseek_nb.sandbox import FaultScript, Sandbox

from .people import SECRETS, UPSTREAM_KEY, chat_body
from .test_hostile import token_of


@pytest.fixture
def langchain(gateway):
    """LangChain's client of OpenAI, told nothing but the address and a token."""
    chat_models = pytest.importorskip("langchain_openai")

    def model(**more):
        return chat_models.ChatOpenAI(
            base_url=f"{gateway.base_url}/v1",
            api_key=token_of("desk"),
            model="deepseek-flash",
            temperature=0,
            max_retries=2,
            **more,
        )

    return model


def test_langchain_asks_streams_and_batches(langchain):
    model = langchain()
    said = model.invoke([("system", "Be brief."), ("human", "Return exactly: blue")])
    assert said.content == "blue"
    assert said.usage_metadata["output_tokens"] >= 1
    assert said.response_metadata["finish_reason"] == "stop"
    pieces = [piece.content for piece in model.stream("Return exactly: one two three four five")]
    assert "".join(pieces) == "one two three four five"
    assert len(pieces) > 2
    many = model.batch([f"Return exactly: {number}" for number in range(20)], {"max_concurrency": 10})
    assert [one.content for one in many] == [str(number) for number in range(20)]

    async def later() -> list[str]:
        asked = (model.ainvoke(f"Return exactly: later {number}") for number in range(5))
        try:
            return [one.content for one in await asyncio.gather(*asked)]
        finally:
            await model.root_async_client.close()

    assert asyncio.run(later()) == [f"later {number}" for number in range(5)]


def test_langchain_reads_json_by_its_own_means(langchain):
    model = langchain().with_structured_output(method="json_mode")
    found = model.invoke('Return exactly: {"colour": "blue"}   (as json)')
    assert isinstance(found, dict)


def test_langchain_is_told_what_is_not_there(langchain):
    """An image, which the gateway does not carry: its own error, which names the place."""
    openai = pytest.importorskip("openai")
    image = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\]\.content\[0\]"):
        langchain().invoke([("human", [image])])


def test_langchain_tries_again_when_it_is_told_to(serve):
    """A 503 of a gateway without patience: the client's own second try gets the answer."""
    chat_models = pytest.importorskip("langchain_openai")
    with Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY) as server:
        gateway = serve(before=server, patience="0s")
        server.faults = FaultScript.of("busy_503")
        model = chat_models.ChatOpenAI(
            base_url=f"{gateway.base_url}/v1", api_key=token_of("desk"), model="deepseek-flash", max_retries=3
        )
        assert model.invoke("Return exactly: blue").content == "blue"


@pytest.fixture
def curl(gateway, tmp_path):
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")

    def call(path: str, *options: str, body: bytes | None = None) -> tuple[int, str]:
        """The status and the body, as curl prints them."""
        if body is not None:
            (tmp_path / "body").write_bytes(body)
            options = (*options, "--data-binary", f"@{tmp_path / 'body'}")
        done = subprocess.run(
            [program, "-sS", "--noproxy", "*", "-w", "\n%{http_code}", f"{gateway.base_url}{path}", *options],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        text, _, status = done.stdout.rpartition("\n")
        return int(status), text

    return call


JSON = ("-H", "Content-Type: application/json")


def test_curl_gets_a_token_and_asks(curl):
    status, text = curl(
        "/oauth/token", "-u", f"desk:{SECRETS['desk']}", "-d", "grant_type=client_credentials"
    )
    assert status == 200
    bearer = ("-H", f"Authorization: Bearer {json.loads(text)['access_token']}")
    status, text = curl("/v1/chat/completions", *bearer, *JSON, body=json.dumps(chat_body()).encode())
    assert (status, json.loads(text)["object"]) == (200, "chat.completion")
    streamed = json.dumps(chat_body(stream=True)).encode()
    status, text = curl("/v1/chat/completions", "-N", *bearer, *JSON, body=streamed)
    assert status == 200
    assert text.rstrip().endswith("data: [DONE]")
    asked = json.dumps({"query": "Return exactly: packed"}).encode()
    for name, packed in (
        ("gzip", gzip.compress(asked)),
        ("zstd", zstandard.ZstdCompressor().compress(asked)),
    ):
        status, text = curl("/v1/compute", *bearer, *JSON, "-H", f"Content-Encoding: {name}", body=packed)
        assert (status, json.loads(text)["answer"]) == (200, "packed")
    queued = json.dumps({"query": "Return exactly: later", "queue": True}).encode()
    status, text = curl("/v1/compute", *bearer, *JSON, body=queued)
    assert status == 202
    job = json.loads(text)["id"]
    until = 200
    while json.loads(text)["state"] != "done" and until:
        status, text = curl(f"/v1/jobs/{job}", *bearer)
        until -= 1
    assert json.loads(text)["results"][0]["answer"] == "later"
    assert curl(f"/v1/jobs/{job}", *bearer, "-X", "DELETE")[0] == 204
    # http2's upgrade, a HEAD, an Expect: none of them breaks it
    assert curl("/healthz", "--http2")[0] == 200
    assert curl("/healthz", "-I")[0] == 200
    assert curl("/v1/compute", *bearer, *JSON, "-H", "Expect: 100-continue", body=asked)[0] == 200
    assert curl("/v1/compute", *JSON, body=asked)[0] == 401


@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
def test_the_notebooks_own_client_signs_its_tokens_and_packs_its_bodies(
    gateway, upstream, tmp_path, compress
):
    """One long question, and rows; the tenant's secret takes the place of a key."""
    with Client(
        base_url=gateway.base_url,
        jwt_client_id="desk",
        jwt_client_secret=SECRETS["desk"],
        data_dir=tmp_path / "own",
        compress=compress,
    ) as client:
        text = "a long story, " * 200
        assert client.ask(f"Return exactly: {text}the end", max_tokens=4000).text.endswith("the end")
        frame = pd.DataFrame({"text": [f"{text}{n}" for n in range(6)]})
        ask = "Return exactly: {{text}}"
        out = apply(frame, ask, client=client, layout="inline", max_tokens=4000, progress=False)
    assert out["answer"].tolist() == frame["text"].tolist()
    assert len(upstream.log.complete) == 7
