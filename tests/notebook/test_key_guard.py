"""A key in the source of a cell: one warning for each run, the key in no output, and no false alarm."""

from __future__ import annotations

import pytest
from kernels import CANARY_KEY, kernel_environment, running_kernel

from deepseek_nb import session
from deepseek_nb.client.sync import Client
from deepseek_nb.notebook.scrub import keys_in, scrubbed

KEY = "sk-" + "7f3a9c1e5b2d4f6a8c0e1b3d5f7a9c2e"
GATEWAY_KEY = "gateway/0f9e8d7c6b5a"


@pytest.fixture(scope="module")
def kernel(server, tmp_path_factory):
    """A kernel of this file's own: its cells change the environment."""
    folder = tmp_path_factory.mktemp("guarded")
    with running_kernel(kernel_environment(server, folder), folder) as running:
        running.run("%load_ext deepseek_nb")
        yield running


def spoken(cell) -> str:
    """All that a saved notebook would hold of it but the source."""
    return str([message for message in cell.messages if message["msg_type"] != "execute_input"])


@pytest.mark.parametrize(
    "source",
    [
        f"%env DEEPSEEK_API_KEY={KEY}",
        f"%set_env OTHER {KEY}",
        f"import os\nos.environ['DEEPSEEK_API_KEY'] = '{KEY}'",
        f"import deepseek_nb\nelsewhere = deepseek_nb.Client(api_key='{KEY}')",
        f"key = '{KEY}'\nprint('the key is', key)",
        f"import sys\nsys.stderr.writelines(['{KEY}', 'x'])",
        f"# {KEY}",
        f"key = '{KEY}'\n1/0",
        f"%xmode Verbose\ndef f(key):\n    return key / 2\nf('{KEY}')",
        f"key = '{KEY}",
        f"# {KEY}\nimport asyncio\nawait asyncio.sleep(0)\nprint('{KEY}')\nmissing",
        f"%deepseek --api-key {KEY} hello",
        f"%deepseek --api-key={KEY} hello",
        f"x = '{CANARY_KEY}'",
        f"%%writefile {'{}'}\nkey = '{KEY}'",
    ],
)
def test_a_key_in_a_cell_gives_one_warning_of_three_lines(kernel, folder, source):
    """Masked, with what to do; neither it nor anything the cell prints shows the key."""
    cell = kernel.run(source.format(folder / "x.py"))
    told = cell.streamed
    assert told.count("this cell has an API key in it") == 1
    assert told.index("deepseek_nb: this cell") == 0
    assert "%deepseek key" in told
    assert "revoke" in told
    lines = told[: told.index("revoke this one.")].splitlines()
    assert len(lines) == 3
    for key in (KEY, CANARY_KEY):
        assert key not in spoken(cell)
    assert ("****9c2e" if KEY in source else "****9b3e") in told


def test_a_cell_without_a_key_is_left_alone(kernel):
    """Streams are the kernel's own again, and words that only look alike do not fire."""
    kernel.run(f"import sys\nbefore = sys.stdout\nkey = '{KEY}'")
    cell = kernel.run("print(type(sys.stdout).__name__, type(sys.stderr).__name__, key[:5])")
    assert cell.streamed == "OutStream OutStream sk-7f\n"
    quiet = kernel.run(
        "'task-0123456789abcdef0123', 'risk-2026-11-25-german-credit-1', 'sk-learn-is-a-library-of-models',"
        " 'sk-short-1', 'desk_sk-0123456789abcdef0123', 'sk-sandbox-0000000000000000', 'disk-123456789012345'"
    )
    assert quiet.streamed == ""


@pytest.mark.parametrize(
    "text", ["sk-learn-2-3", "task-sk", "sk-" + "a" * 40, "ask-me-anything-2026-11-25-ok", "sk-"]
)
def test_what_is_no_key(text):
    assert keys_in(text) == []


@pytest.mark.parametrize("key", [KEY, "sk-proj-AbC_12-dEf345GhI678jkl", CANARY_KEY])
def test_what_is_a_key_in_whatever_stands_around_it(key):
    for text in (f"'{key}'", f"={key}", f"({key})", f"Bearer {key}.", f"{key}\n", f"/{key}/"):
        assert [found.reveal() for found in keys_in(text)] == [key]


def test_the_key_in_use_is_known_whatever_it_looks_like(sandbox, folder):
    """Exactly that text; a short one may stand there by chance."""
    environment = kernel_environment(sandbox, folder, DEEPSEEK_API_KEY=GATEWAY_KEY)
    with running_kernel(environment, folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        assert "****6b5a" in kernel.run(f"x = '{GATEWAY_KEY}'").streamed
        assert kernel.run("x = 'gateway/0f9e'").streamed == ""
        kernel.run("import deepseek_nb as ds\nclient = ds.configure(api_key='other/9f8e7d6c5b4a')")
        assert "****5b4a" in kernel.run("y = 'other/9f8e7d6c5b4a'").streamed
        assert kernel.run("%unload_ext deepseek_nb").streamed == ""
        assert kernel.run(f"x = '{KEY}'").streamed == ""


def test_the_password_of_redis_is_masked(monkeypatch, tmp_path):
    """In what is sent to have it explained; an address without one is no secret there."""
    url = "redis://user:correct-horse@127.0.0.1:1"
    for given, shown in ((url, False), ("redis://127.0.0.1:1", True)):
        with Client(redis_url=given, data_dir=tmp_path) as client:
            monkeypatch.setattr(session, "_client", client)
            said = scrubbed(f"configure(redis_url={given!r})  # correct-horse")
        assert (given in said, "correct-horse" in said) == (shown, shown)


def test_a_cell_that_fails_puts_the_streams_back(kernel):
    """And what replaces the streams itself keeps its own."""
    kernel.run(f"key = '{KEY}'\n1/0")
    assert kernel.run("import sys\nprint(type(sys.stdout).__name__)").streamed == "OutStream\n"
    inside = kernel.run(f"%%capture got\nprint('{KEY}', 'inside')")
    assert inside.streamed.count("this cell has an API key") == 1
    assert kernel.value("'inside' in got.stdout") is True
    assert kernel.run("print(type(sys.stdout).__name__)").streamed == "OutStream\n"
