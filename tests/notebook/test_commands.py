"""The commands of the line magic: which lines are commands, what they show, and what they must not do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import nbformat
import pytest
from kernels import CANARY_KEY, CELL_S, Kernel, kernel_environment, running_kernel
from nbclient.exceptions import CellExecutionError
from test_notebooks import execute

from deepseek_nb.core.errors import ConfigError
from deepseek_nb.notebook.commands import COMMANDS, find_command
from deepseek_nb.notebook.magics import DeepSeekMagics
from deepseek_nb.notebook.options import Line, read_line
from deepseek_nb.sandbox import Completion, FaultScript, Sandbox

OTHER_KEY = "sk-typed-0f1e2d3c4b5a6978"
PLAINTEXT = {"PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring"}


def read(line: str) -> Line:
    """The line as the magic reads it."""
    return read_line(DeepSeekMagics.deepseek.parser, line)


def rows_of(cell) -> dict[str, str]:
    """A table of two columns, as the plain text shows it."""
    lines = cell.texts("text/plain")[-1].splitlines()[2:]
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)


@contextmanager
def server_that_says(body: bytes) -> Iterator[str]:
    """The address of a server that answers everything with ``body``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# ------------------------------------------------------------------------------- what is a command


@pytest.mark.parametrize(
    "line",
    [
        *COMMANDS,
        "Balance",
        "models?",
        "key forget",
        "cache clear",
        "cache clear --yes",
        "jobs risk-2026",
        'jobs "a job"',
        "fix it",
        "explain the last error",
        "explain this error?",
        "fix -- keep the names",
        " cost ",
    ],
)
def test_these_lines_are_commands(line):
    assert find_command(read(line)) is not None


@pytest.mark.parametrize(
    "line",
    [
        "models are what exactly?",
        "balance of power in 1914",
        "key ideas of Kant",
        "cache invalidation, why is it hard?",
        "cache clear now, please",
        "cost of living in Berlin",
        "jobs of the future: which?",
        "fix the typo in {{text}}",
        "explain gravity",
        "explain --slowly gravity",
        "explain error bars",
        "error",
        "hello",
        "sky",
        "",
    ],
)
def test_these_lines_are_questions(line):
    assert find_command(read(line)) is None


@pytest.mark.parametrize(
    ("line", "near"),
    [("keys", "key"), ("model", "models"), ("costs?", "cost"), ("job", "jobs"), ("explian", "explain")],
)
def test_a_word_that_is_nearly_a_command_is_refused_before_it_costs(line, near):
    with pytest.raises(ConfigError, match=f"Did you mean %deepseek {near}\\?") as caught:
        find_command(read(line))
    assert len(caught.value._render_traceback_()) <= 5


@pytest.mark.parametrize(
    "line", ["--into x balance", "x << models", "--temperature 0 cost", "--no-cache jobs"]
)
def test_options_that_a_command_does_not_take_are_refused(line):
    """Nothing would be bound, and nobody would notice; --model is for those that ask."""
    with pytest.raises(ConfigError, match="takes no such options"):
        find_command(read(line))
    for line in ("--dry-run explain", "--background fix", "--chat c explain", "x << fix", "--system s fix"):
        with pytest.raises(ConfigError, match="takes no such options"):
            find_command(read(line))
    assert find_command(read("--model m --no-cache --budget 0.1 --priority 2 explain")) is not None


def test_questions_that_begin_like_commands_are_asked(kernel, sandbox):
    """And a cell's text never is a command."""
    assert (
        kernel.run("%deepseek models are what exactly?").texts()[-1] == "You said: models are what exactly?"
    )
    assert kernel.run("%%deepseek\nbalance").texts()[-1] == "You said: balance"
    assert kernel.run("%deepseek keys").error["ename"] == "ConfigError"
    assert len(sandbox.log) == 2


# -------------------------------------------------------------------------------------- the account


def test_balance_and_models_are_tables(kernel, sandbox):
    """Markdown and plain text in columns; no question is asked."""
    balance = kernel.run("%deepseek balance")
    assert re.search(r"USD +\d+\.\d\d", balance.texts("text/plain")[-1])
    assert "| currency | total |" in balance.texts()[-1]
    models = kernel.run("%deepseek models").texts("text/plain")[-1]
    assert re.search(r"^deepseek-flash .* yes +1,048,576$", models, re.MULTILINE)
    kernel.run("%config DeepSeekMagics.model = 'deepseek-v4-pro'")
    models = kernel.run("%deepseek models").texts("text/plain")[-1]
    kernel.run("%config DeepSeekMagics.model = ''")
    assert re.search(r"^deepseek-v4-pro .* yes ", models, re.MULTILINE)
    assert [record.path for record in sandbox.log] == ["/user/balance", "/models", "/models"]


def test_what_a_server_says_of_itself_is_shown_harmless(sandbox, folder):
    """A model's name cannot break out of its cell, bring markup or move the cursor."""
    name = "<script>x</script>|**b**\x1b[31m ![i](https://evil.example/i.png)"
    body = json.dumps({"data": [{"id": name, "name": "a\n\nb", "context_window": "<b>"}]}).encode()
    with server_that_says(body) as address:
        environment = kernel_environment(sandbox, folder, DEEPSEEK_NB_BASE_URL=address)
        with running_kernel(environment, folder) as kernel:
            kernel.run("%load_ext deepseek_nb")
            cell = kernel.run("%deepseek models")
    shown = cell.texts()[-1]
    assert "\\|\\*\\*b\\*\\*" in shown
    assert shown.count("\n") == 4, "caption, blank line, head, rule, and one row"
    for part in ("<script", "![", "\x1b", "<b>"):
        assert part not in shown
    assert "\x1b" not in cell.texts("text/plain")[-1]


def test_the_bill_says_what_was_asked_saved_and_spent(sandbox, folder):
    """By the server's own count; an answer from the store costs nothing and says what it saved."""
    environment = kernel_environment(sandbox, folder, DEEPSEEK_NB_BUDGET_USD="50")
    with running_kernel(environment, folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        nothing = rows_of(kernel.run("%deepseek cost"))
        assert (nothing["calls"], nothing["cost"], nothing["budget left"]) == ("0", "USD 0.00", "USD 50.00")
        kernel.run("%deepseek say bill")
        kernel.run("%deepseek say bill")
        kernel.run("import deepseek_nb\ndeepseek_nb.configure(budget_usd=25)")
        kernel.run("%deepseek --model deepseek-v4-pro say more")
        sandbox.faults = FaultScript.of("content_risk")
        kernel.run("%deepseek say refused")
        cell = kernel.run("%deepseek cost")
    assert len(cell.shown) == 2, "a second table: by model"
    lines = cell.texts("text/plain")[0].splitlines()[2:]
    told = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)
    records = [record for record in sandbox.log if record.status == 200]
    assert len(records) == 2
    spent_usd = sum(record.cost_usd for record in records)
    assert told["calls"] == "4"
    assert (told["answered"], told["from the store"], told["failed"]) == ("2", "1", "1")
    assert told["tokens in"] == f"{sum(record.prompt_tokens for record in records):,}"
    assert told["tokens out"] == f"{sum(record.completion_tokens for record in records):,}"
    assert float(told["cost"].removeprefix("USD ")) == pytest.approx(spent_usd, abs=1e-6)
    assert float(told["saved by the store"].removeprefix("USD ")) == pytest.approx(
        records[0].cost_usd, abs=1e-6
    )
    assert float(told["budget left"].removeprefix("USD ")) == pytest.approx(
        25 - records[1].cost_usd, abs=1e-6
    )
    models = cell.texts("text/plain")[1]
    assert re.search(r"^deepseek-flash +1 +1 ", models, re.MULTILINE)
    assert re.search(r"^deepseek-v4-pro +1 +0 ", models, re.MULTILINE)


# ---------------------------------------------------------------------------------------- the files


def test_jobs_are_listed_and_one_is_told_of(sandbox, folder):
    """Counts, what they cost, and what rows failed for; nothing is sent."""
    with running_kernel(kernel_environment(sandbox, folder), folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        assert kernel.run("%deepseek jobs").texts("text/plain") == ["No jobs yet."]
        sandbox.faults = FaultScript.of(None, "content_risk")
        kernel.run(
            "import pandas as pd\n"
            "frame = pd.DataFrame({'t': ['a', 'b', 'c']})\n"
            "done = frame.deepseek.apply('say {{t}}', job='a job', progress=False)"
        )
        asked = len(sandbox.log)
        listed = kernel.run("%deepseek jobs").texts("text/plain")[-1]
        one = rows_of(kernel.run('%deepseek jobs "a job"'))
        wrong = kernel.run("%deepseek jobs ajob")
    assert re.search(r"^a job +\w+ +2 +1 +0 +USD 0\.00", listed, re.MULTILINE)
    assert (one["rows done"], one["rows failed"], one["failed: ContentRefused"]) == ("2", "1", "1")
    assert "Did you mean 'a job'?" in wrong.error["evalue"]
    assert len(sandbox.log) == asked


def test_the_cache_is_cleared_only_when_told_twice(kernel, sandbox):
    """``cache clear`` says what would go; with --yes the same question is asked, and paid, again."""
    kernel.run("%deepseek say kept")
    kernel.run("%deepseek cache clear")
    kernel.run("%deepseek say kept")
    assert len(sandbox.log) == 1
    held = rows_of(kernel.run("%deepseek cache"))
    deleted = kernel.run("%deepseek cache clear --yes").texts("text/plain")[-1]
    number = held["answers"]
    assert deleted == f"Deleted {number} answer" + ("." if number == "1" else "s.")
    kernel.run("%deepseek say kept")
    assert len(sandbox.log) == 2


@pytest.fixture
def sharing(kernel, redis_server) -> Iterator[Kernel]:
    """A kernel whose client shares its answers through Redis."""
    kernel.run(f"import deepseek_nb as ds; sharing = ds.configure(redis_url={redis_server.url!r})")
    yield kernel
    kernel.run("sharing = ds.configure()")


def test_the_cache_tells_how_redis_stands(sharing, sandbox, redis_server):
    """Whether it is there, what was found there, and that it keeps what is deleted here."""
    sharing.run("%deepseek say shared")
    there = rows_of(sharing.run("%deepseek cache"))
    assert there["Redis, shared with other machines"] == "there"
    assert (there["found there"], there["not found there"]) == ("0", "1")
    assert "Redis" in sharing.run("%deepseek cache clear --yes").texts("text/plain")[-1]
    sharing.run("%deepseek say shared")
    assert rows_of(sharing.run("%deepseek cache"))["found there"] == "1"
    assert len(sandbox.log) == 1
    redis_server.kill()
    gone = rows_of(sharing.run("%deepseek cache"))
    assert gone["Redis, shared with other machines"].startswith("gone (")
    said = sharing.run("%deepseek say something else")
    assert said.status == "ok"
    assert "RedisStanding: Redis does not answer" in said.streamed
    assert len(sandbox.log) == 2


# ------------------------------------------------------------------------------------------ the key


def test_a_key_is_typed_unseen_kept_and_found_by_the_next_kernel(sandbox, folder):
    """A password request; a keyring of its server's origin; no other server gets it; ``forget`` ends it."""
    environment = kernel_environment(sandbox, folder, XDG_DATA_HOME=str(folder), **PLAINTEXT)
    del environment["DEEPSEEK_API_KEY"]
    said = []
    with running_kernel(environment, folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        refused = kernel.run("%deepseek say hello")
        assert "%deepseek key" in refused.error["evalue"]
        assert len(refused.error["traceback"]) <= 5
        cell = kernel.run("%deepseek key", typed=CANARY_KEY)
        assert cell.asked["password"] is True
        assert CANARY_KEY not in cell.asked["prompt"]
        assert "****9b3e" in cell.texts("text/plain")[-1]
        assert "PlaintextKeyring" in cell.texts("text/plain")[-1]
        assert kernel.run("%deepseek say hello").status == "ok"
        said += [refused.messages, cell.messages, cell.reply]
    assert list(folder.rglob("keyring_pass.cfg"))
    with running_kernel(environment, folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        assert kernel.value("'keyring' in __import__('sys').modules") is False
        assert kernel.run("%deepseek say it again").status == "ok"
        sources = kernel.run("deepseek_nb.default_client().settings.describe()[0]")
        with Sandbox(api_key=None) as thief:
            kernel.run(f"elsewhere = deepseek_nb.Client(base_url={thief.base_url!r})")
            kernel.run("elsewhere.ask('who is there?')")
            assert len(thief.log) == 0
        assert "forgotten" in kernel.run("%deepseek key forget").texts("text/plain")[-1]
        gone = kernel.run("%deepseek --no-cache say hello")
        assert "There is no API key" in gone.error["evalue"]
        said += [sources.messages, gone.messages]
    with running_kernel(environment, folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        assert "There is no API key" in kernel.run("%deepseek --no-cache say hello").error["evalue"]
    assert CANARY_KEY not in str(said)
    kept = {file: file.read_bytes() for file in (folder / "data").rglob("*") if file.is_file()}
    assert kept
    assert [file.name for file, data in kept.items() if CANARY_KEY.encode() in data] == []


def test_without_a_keyring_the_key_stays_in_this_kernel(sandbox, folder):
    """None, a broken one, or none that is safe: it says so, and nothing is written."""
    for number, backend in enumerate(("keyring.backends.fail.Keyring", "no.such.Backend", "")):
        home = folder / str(number)
        home.mkdir()
        environment = kernel_environment(
            sandbox, home, PYTHON_KEYRING_BACKEND=backend, XDG_DATA_HOME=str(home), HOME=str(home)
        )
        if not backend:
            del environment["PYTHON_KEYRING_BACKEND"]
        del environment["DEEPSEEK_API_KEY"]
        with running_kernel(environment, home) as kernel:
            kernel.run("%load_ext deepseek_nb")
            told = kernel.run("%deepseek key", typed=f"  {CANARY_KEY} ").texts("text/plain")[-1]
            assert "in this kernel only" in told
            assert kernel.run("%deepseek say hello").status == "ok"
            kernel.run("deepseek_nb.configure(priority=4)")
            assert kernel.run("%deepseek say more").status == "ok", "settings made anew find it too"
        assert not list(home.rglob("keyring_pass.cfg"))


def test_a_typed_key_goes_before_the_environment_and_wrong_input_changes_nothing(sandbox, folder):
    """Nothing typed, blanks inside: as it was. A 401 of a wrong key shows no part but its end."""
    with running_kernel(kernel_environment(sandbox, folder), folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        kernel.run("%deepseek key", typed="")
        bad = kernel.run("%deepseek key", typed="sk-with a blank 0123456789")
        assert bad.error["ename"] == "ConfigError"
        assert "0123456789" not in str(bad.messages)
        assert kernel.run("%deepseek say hello").status == "ok"
        other = kernel.run("%deepseek key", typed=OTHER_KEY)
        assert "DEEPSEEK_API_KEY goes before it" in other.texts("text/plain")[-1]
        wrong = kernel.run("%deepseek --no-cache say hello")
        assert wrong.error["ename"] == "AuthError"
        assert OTHER_KEY not in str([other.messages, wrong.messages])
        kernel.run("%deepseek key forget")
        assert kernel.run("%deepseek --no-cache say hello").status == "ok"


def test_where_nobody_can_type_the_cell_fails_shortly(sandbox, folder):
    """As in nbclient and nbval: five lines at most, and what to do instead."""
    with pytest.raises(CellExecutionError):
        execute(sandbox, folder, "%deepseek key")
    error = nbformat.read(folder / "saved.ipynb", as_version=4).cells[1].outputs[-1]
    assert error.ename == "ConfigError"
    assert len(error.traceback) <= 5
    assert "DEEPSEEK_API_KEY" in error.evalue


def test_an_interrupt_while_typing_is_one_line(kernel):
    """And the key that was in use still is."""
    message_id = kernel.client.execute("%deepseek key", allow_stdin=True)
    kernel.client.get_stdin_msg(timeout=CELL_S)
    kernel.manager.interrupt_kernel()
    reply = kernel.client.get_shell_msg(timeout=CELL_S)
    assert reply["parent_header"]["msg_id"] == message_id
    assert (reply["content"]["ename"], len(reply["content"]["traceback"])) == ("Interrupted", 1)
    assert kernel.run("%deepseek --no-cache say still here").status == "ok"


# --------------------------------------------------------------------------------- explain and fix

CORRECTED = "%matplotlib inline\nlevel = {'a': 1}\nprint(level['a'])"
FAILING = f"level = {{'a': 1}}\nwhere = '{OTHER_KEY}'\nprint(level['b'])"


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """What the helping server was asked, whole."""
    return []


@pytest.fixture(scope="module")
def helper(asked, tmp_path_factory):
    """A kernel whose server explains, and gives a corrected cell where it is to."""

    def answer(request) -> Completion:
        asked.append("\n".join(message["content"] for message in request.messages))
        if "```python block" in request.question and "no code" not in request.question:
            return Completion(f"The key was missing.\n\n```python\n{CORRECTED}\u202e\n```\n")
        return Completion("The key 'b' is missing.")

    folder = tmp_path_factory.mktemp("helper")
    with Sandbox(engine=answer, count="estimate", api_key=CANARY_KEY) as sandbox:
        environment = kernel_environment(sandbox, folder, GITHUB_TOKEN="ghp_0123456789abcdef")
        with running_kernel(environment, folder) as kernel:
            kernel.run("%load_ext deepseek_nb")
            yield kernel


def test_without_an_error_there_is_nothing_to_explain(sandbox, folder):
    with running_kernel(kernel_environment(sandbox, folder), folder) as kernel:
        kernel.run("1/0")
        kernel.run("%load_ext deepseek_nb")
        kernel.run("%deepseek --nope x")
        for command in ("explain", "fix"):
            (told,) = kernel.run(f"%deepseek {command}").texts("text/plain")
            assert told.startswith("There is no error")
            assert "\n" not in told
    assert len(sandbox.log) == 0


def test_explain_sends_the_cell_and_its_error_without_keys_and_folders(helper, asked):
    """And shows the answer; the error stays the last one when asking about it fails."""
    failed = helper.run(FAILING)
    number = failed.reply["content"]["execution_count"]
    asked.clear()
    helper.run("%deepseek --modle x")
    cell = helper.run("%deepseek --model deepseek-v4-pro explain -- I am new to this")
    assert cell.facts["model"] == "deepseek-v4-pro"
    (prompt,) = asked
    assert cell.texts("text/plain")[0] == f"About cell [{number}], KeyError: 'b'"
    assert cell.texts()[-1] == "The key 'b' is missing."
    for part in ("print(level['b'])", "KeyError: 'b'", "cell line 3", "I am new to this", "****6978"):
        assert part in prompt, part
    assert OTHER_KEY not in prompt
    assert "/tmp" not in prompt


def test_fix_puts_the_whole_cell_below_and_runs_nothing(helper, asked):
    """Without the signs that could hide what it does."""
    helper.run(f"import os\nprint(os.environ['GITHUB_TOKEN'] + '{CANARY_KEY}')\n" + FAILING)
    asked.clear()
    cell = helper.run("%deepseek fix")
    assert cell.next_cell == CORRECTED
    assert cell.texts()[1].startswith("The key was missing.")
    assert "Look at it before you run it" in cell.texts("text/plain")[-1]
    assert helper.value("'b' in level") is False
    assert CANARY_KEY not in asked[0]
    nothing = helper.run("%deepseek fix -- no code")
    assert nothing.next_cell is None
    assert "No corrected cell came" in nothing.texts("text/plain")[-1]


def test_a_token_in_an_error_is_masked(helper, asked):
    """What the environment holds under such a name, wherever it turns up."""
    helper.run("import os\nraise ValueError('refused ' + os.environ['GITHUB_TOKEN'])")
    asked.clear()
    cell = helper.run("%deepseek explain")
    assert "ghp_0123456789abcdef" not in asked[0] + str(cell.messages)
    assert "refused ****cdef" in asked[0]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = (1,\nprint(2", "SyntaxError"),
        ("def f(n):\n    return f(n + 1)\nf(0)", "calls left out"),
        ("raise ValueError('x' * 100_000)", "characters left out"),
        ("import json\njson.loads('{')", "json/decoder.py line"),
        (
            "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e",
            "ZeroDivisionError",
        ),
        ("import pandas as pd\npd.DataFrame({'a': [1]})['b']", "pandas/core/frame.py line"),
    ],
)
def test_every_kind_of_error_is_told_shortly(helper, asked, source, told):
    helper.run(source)
    asked.clear()
    assert helper.run("%deepseek explain").status == "ok"
    assert told in asked[0]
    assert len(asked[0]) < 8_000
    assert "site-packages" not in asked[0]
    assert "ipykernel" not in asked[0]
