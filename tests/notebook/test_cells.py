"""What a cell can be asked to do besides asking: tables, code, conversations, dry runs, the background."""

from __future__ import annotations

import pytest
from kernels import eventually, kernel_environment, running_kernel

from deepseek_nb.sandbox import FaultScript

SHAPES = """
import pydantic, pandas as pd
class Risk(pydantic.BaseModel):
    level: int
    why: str
Risks = list[Risk]
"""


# ------------------------------------------------------------------------------- tables and values


@pytest.mark.parametrize(
    ("options", "kind"),
    [("--schema list[Risk]", "DataFrame"), ("--schema Risks", "DataFrame"), ("--as table", "DataFrame")],
)
def test_a_list_of_models_and_a_table_are_frames(kernel, options, kind):
    """Shown as a Markdown table and as aligned text, bound as a DataFrame, nothing alive in its cells."""
    kernel.run(SHAPES)
    cell = kernel.run(f"%%deepseek {options} --into rows\nrate them")
    assert cell.texts()[-1] == "| level | why |\n| :--- | :--- |\n| 3 | because |\n| 4 | &lt;script> |"
    assert cell.texts("text/plain")[-1] == "level  why\n3      because\n4      <script>"
    assert kernel.value("[type(rows).__name__, rows.to_dict('list')]") == [
        kind,
        {"level": [3, 4], "why": ["because", "<script>"]},
    ]


def test_one_model_can_be_shown_as_a_table(kernel):
    """--schema decides the value, --as how it is shown."""
    kernel.run(SHAPES)
    cell = kernel.run("%%deepseek --schema Risk --as table --into risk\nrate it")
    assert cell.texts("text/plain")[-1] == "level  why\n3      because"
    assert kernel.value("[type(risk).__name__, risk.level]") == ["Risk", 3]


def test_json_is_read_whether_fenced_or_not(kernel):
    kernel.run('%%deepseek --as json --into plain\ngive {"a": [1, 2]}')
    kernel.run('%%deepseek --as json --into dressed\ngive Here:\n```json\n{"a": 3}\n```')
    assert kernel.value("[plain, dressed]") == [{"a": [1, 2]}, {"a": 3}]
    kernel.run("del plain, dressed")


def test_an_answer_that_is_no_json_fails_the_cell_and_is_kept(kernel):
    """It is paid: it stays on the screen and in _deepseek; the name is not bound."""
    cell = kernel.run("%%deepseek --as json --into nothing\ngive a poem")
    assert cell.status == "error"
    assert cell.error["ename"] == "SchemaMismatch"
    assert len(cell.error["traceback"]) <= 5
    assert "a poem" in cell.texts()[-1]
    assert kernel.value("[_deepseek.text, 'nothing' in globals()]") == ["a poem", False]


def test_an_answer_that_was_cut_off_says_so(kernel, sandbox):
    """What came is shown and bound: it is paid for, and may be what was asked for."""
    sandbox.faults = FaultScript.of("length_cut")
    cell = kernel.run("%%deepseek --into cut\nlong 433")
    assert cell.status == "ok"
    assert cell.texts("text/plain")[-1].startswith(kernel.value("cut"))
    assert "cut off here" in cell.texts("text/plain")[-1]
    assert "cut off here" not in kernel.value("cut")


def test_code_is_bound_without_its_fence(kernel):
    cell = kernel.run("%%deepseek --as code --into code\ngive Sure!\n```python\nx = 1\n```\nThat is it.")
    assert cell.texts()[-1] == "```python\nx = 1\n```"
    assert kernel.value("code") == "x = 1"


@pytest.mark.parametrize(
    ("answer", "cell_source"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```sql\nselect 1\n```", "%%sql\nselect 1"),
    ],
)
def test_code_goes_into_the_next_cell_and_is_not_run(kernel, answer, cell_source):
    cell = kernel.run(f"%%deepseek --next\ngive {answer}")
    (payload,) = cell.reply["content"]["payload"]
    assert payload == {"source": "set_next_input", "text": cell_source, "replace": False}
    assert kernel.value("'x' in globals()") is False


def test_reasoning_is_folded_away_where_that_is_wanted(kernel):
    """By default it is in _deepseek.reasoning only: it may be longer than the answer."""
    kernel.run("%config DeepSeekMagics.reasoning = 'folded'")
    try:
        cell = kernel.run("%%deepseek --thinking\nsay folded")
    finally:
        kernel.run("%config DeepSeekMagics.reasoning = 'hidden'")
    head, fold, answer = cell.texts()[-1].partition("\n\n</details>\n\n")
    assert head.startswith("<details><summary>Reasoning, 280 characters</summary>\n\n> Let me think.")
    assert (bool(fold), answer) == (True, "You said: say folded")
    assert cell.texts("text/plain")[-1] == "You said: say folded"


def test_the_facts_can_be_shown_below_each_answer(kernel):
    """What was paid, and from the store: what was saved."""
    kernel.run("%config DeepSeekMagics.facts = True")
    try:
        first, again = (kernel.run("%deepseek say the facts") for _ in range(2))
    finally:
        kernel.run("%config DeepSeekMagics.facts = False")
    cost_usd = first.facts["cost_usd"]
    assert f"USD {cost_usd:.6f}, " in first.texts("text/plain")[-1].splitlines()[-1]
    assert again.texts("text/plain")[-1].endswith(f"from the store, saved USD {cost_usd:.6f}")


# ------------------------------------------------------------------------------- tables in prompts


def test_a_table_is_sent_as_csv_and_the_output_says_how_much(kernel, sandbox):
    kernel.run("import pandas as pd\nframe = pd.DataFrame({'a': range(1000), 'b': 'x'})")
    cell = kernel.run("%%deepseek --sample 2\ngive {{frame}}")
    told, *_, answer = cell.texts("text/plain")
    assert told == "frame: 2 of 1,000 rows, evenly spaced, 2 of 2 columns sent"
    assert answer == "a,b\n0,x\n500,x"


def test_a_table_over_the_limit_is_refused_before_anything_is_sent(kernel, sandbox):
    kernel.run("import pandas as pd\nhuge = pd.DataFrame({'a': range(100_000), 'b': 'some words'})")
    sandbox.log.clear()
    cell = kernel.run("%deepseek sum up {{huge}}")
    assert cell.error["ename"] == "TemplateError"
    assert "--sample" in cell.error["evalue"]
    assert len(cell.error["traceback"]) <= 5
    assert len(sandbox.log) == 0


# ------------------------------------------------------------------------------- dry runs


def test_a_dry_run_shows_the_exact_prompt_and_sends_nothing(kernel, sandbox):
    """Prompt, instructions, what is sent of tables, tokens, price, and whether it is in the store."""
    kernel.run(SHAPES + "frame = pd.DataFrame({'a': [1, 2]})\nword = '{{frame}} ```'")
    sandbox.log.clear()
    question = "rate {{frame}} {{word}} for me"
    cell = kernel.run(f'%%deepseek --dry-run --schema Risk --system "Be brief." --max-tokens 50\n{question}')
    assert cell.status == "ok"
    assert len(sandbox.log) == 0
    plain = cell.texts("text/plain")[-1]
    for told in (
        "Dry run: nothing was sent.",
        "model: deepseek-flash",
        "max tokens: 50",
        "frame: 2 of 2 rows, 1 of 1 columns sent",
        "with the longest answer (50 tokens)",
        "in the store: no, it would be asked",
        "system:\nBe brief.\n\nAnswer with one JSON object",
        "user:\nrate a\n1\n2 {{frame}} ``` for me",
    ):
        assert told in plain
    assert "rate a\n1\n2 {{frame}} ``` for me\n````" in cell.texts()[-1], "in a fence that holds it"
    kernel.run(f'%%deepseek --schema Risk --system "Be brief." --max-tokens 50\n{question}')
    (record,) = sandbox.log
    again = kernel.run(f'%%deepseek --dry-run --schema Risk --system "Be brief." --max-tokens 50\n{question}')
    assert "in the store: yes, it would cost nothing" in again.texts("text/plain")[-1]
    most_usd = float(plain.split("USD ")[2].split(" ")[0])
    assert record.cost_usd <= most_usd


def test_a_dry_run_needs_no_key(sandbox, folder):
    environment = kernel_environment(sandbox, folder)
    del environment["DEEPSEEK_API_KEY"]
    with running_kernel(environment, folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        cell = kernel.run("%deepseek --dry-run why?")
        assert cell.status == "ok"
        assert "user:\nwhy?" in cell.texts("text/plain")[-1]


# ------------------------------------------------------------------------------- conversations


def test_a_conversation_goes_on_from_cell_to_cell(kernel, sandbox):
    """Instructions hold for it; what fails or is interrupted leaves no turn; --new begins anew."""
    turns = "[[t.question, t.answer.text] for t in ds.conversation('talk').turns]"
    kernel.run("import deepseek_nb as ds")
    kernel.run("manner = 'kind'")
    kernel.run('%%deepseek --chat talk --system "Be {{manner}}."\nsay one')
    kernel.run("%%deepseek --chat talk\nsay two")
    assert kernel.value("ds.conversation('talk').system") == "Be kind."
    sandbox.faults = FaultScript.of("content_risk")
    assert kernel.run("%%deepseek --chat talk\nsay something bad").status == "error"
    kernel.run("%%deepseek --chat talk\nlong 20000", interrupt_when=lambda cell: len(cell.texts()) >= 2)
    assert kernel.value(turns) == [["say one", "You said: say one"], ["say two", "You said: say two"]]
    sandbox.faults = FaultScript.of("content_risk")
    assert kernel.run("%%deepseek --chat talk --new\nsay something bad").status == "error"
    assert kernel.value(f"len({turns})") == 2, "a new beginning that failed did not happen"
    kernel.run("%%deepseek --chat talk --new\nsay three")
    assert kernel.value(turns) == [["say three", "You said: say three"]]
    cell = kernel.run("%deepseek --chat talk --new")
    assert cell.texts("text/plain") == ["the conversation talk begins anew"]
    assert kernel.value(turns) == []


def test_the_instructions_of_a_cell_go_before_those_of_the_conversation(kernel):
    """And both before the magic's own setting."""
    kernel.run("import deepseek_nb as ds\n%config DeepSeekMagics.system = 'setting'")
    shown = []
    try:
        for options in ("", '--system "own"', ""):
            cell = kernel.run(f"%deepseek --chat order {options} --dry-run say {len(shown)}")
            shown.append(cell.texts("text/plain")[-1].split("system:\n")[1].split("\n")[0])
            kernel.run(f"%deepseek --chat order {options} say {len(shown)}")
    finally:
        kernel.run("%config DeepSeekMagics.system = ''")
    assert shown == ["setting", "own", "own"]


def test_a_sample_needs_a_table(kernel, sandbox):
    cell = kernel.run("%deepseek --sample 5 say it")
    assert (cell.error["ename"], len(sandbox.log)) == ("ConfigError", 0)


def test_new_needs_a_conversation(kernel, sandbox):
    assert kernel.run("%deepseek --new say it").error["ename"] == "ConfigError"
    assert len(sandbox.log) == 0


# ------------------------------------------------------------------------------- in the background


@pytest.fixture
def first_update(kernel):
    """The first update of a display that fits, while its cell runs or after it."""

    def read(cell, fits=lambda _: True) -> dict:
        while True:
            for message in cell.messages:
                if message["msg_type"] == "update_display_data" and fits(message):
                    return message
            cell.messages.append(kernel.client.get_iopub_msg(timeout=10))

    return read


def test_a_question_goes_on_while_other_cells_run(kernel, first_update):
    """The cell ends at once; its own output becomes the answer; the handle gives the value."""
    cell = kernel.run("%%deepseek --background --into later\nlong 300")
    assert cell.status == "ok"
    assert cell.texts("text/plain")[0] == "asking in the background"
    display_id = cell.shown[0]["content"]["transient"]["display_id"]
    last = first_update(cell, lambda message: message["content"]["metadata"].get("deepseek_nb"))
    text = " ".join(f"word{number}" for number in range(300))
    assert last["content"]["transient"]["display_id"] == display_id
    assert last["content"]["data"]["text/plain"] == text
    assert kernel.value("[later.result(), later.text, later.answer.finish_reason, _deepseek.text]") == [
        text,
        text,
        "stop",
        text,
    ]


def test_a_background_question_can_be_awaited_and_has_the_shape(kernel):
    kernel.run(SHAPES)
    kernel.run("%%deepseek --background --schema list[Risk] --into later\nrate them again")
    kernel.run("got = await later")
    assert kernel.value("[type(got).__name__, len(got)]") == ["DataFrame", 2]


def test_a_background_question_that_fails_says_so_and_raises_when_asked(kernel, sandbox, first_update):
    sandbox.faults = FaultScript.of("content_risk")
    asked = kernel.run("%%deepseek --background --into later\nsay something risky")
    last = first_update(asked)
    assert last["content"]["data"]["text/plain"].startswith("ContentRefused: ")
    cell = kernel.run("later.result()")
    assert (cell.status, cell.error["ename"]) == ("error", "ContentRefused")
    assert len(cell.error["traceback"]) <= 5


def test_a_background_question_can_be_cancelled(kernel, sandbox):
    """The request is hung up, which ends its bill."""
    kernel.run("%%deepseek --background --into later\nlong 20000")
    assert eventually(lambda: kernel.value("len(later.text)") > 0)
    assert kernel.value("later.cancel()") is True
    assert eventually(lambda: len(sandbox.log) == 1)
    assert sandbox.log[0].aborted
    assert kernel.value("later.status") == "cancelled"
    for asked in ("later.result()", "await later"):
        assert "was cancelled" in kernel.run(asked).error["evalue"]
        assert len(kernel.run(asked).error["traceback"]) <= 5


def test_a_background_question_goes_on_when_the_client_is_made_anew(kernel, sandbox):
    """New settings in another cell end nobody's question: it is asked and billed once."""
    kernel.run("%%deepseek --background --into later\nlong 317")
    assert eventually(lambda: kernel.value("len(later.text)") > 0)
    assert kernel.run("import deepseek_nb as ds\nds.configure(); None").status == "ok"
    assert kernel.value("later.result()").endswith("word316")
    assert eventually(lambda: len(sandbox.log) == 1)
    assert not sandbox.log[0].aborted


def test_an_interrupted_wait_leaves_the_question_under_way(kernel, sandbox):
    kernel.run("%%deepseek --background --into later\nlong 1000")
    for waiting in ("later.result()", "await later"):
        cell = kernel.run(f"print('go')\n{waiting}", interrupt_when=lambda cell: "stream" in cell.kinds)
        assert cell.status == "error"
        assert len(cell.error["traceback"]) == 1
        assert "goes on in the background" in cell.error["evalue"]
    assert kernel.value("later.result()").endswith("word999")
    assert not sandbox.log[0].aborted


@pytest.mark.parametrize("call", ["ds.ask('long 20000')", "list(ds.stream('long 20001'))"])
def test_a_blocking_call_that_is_interrupted_takes_one_line(kernel, sandbox, call):
    cell = kernel.run(
        f"import deepseek_nb as ds\nprint('go')\n{call}",
        interrupt_when=lambda cell: "stream" in cell.kinds and eventually(lambda: sandbox.in_flight > 0),
    )
    assert cell.error["traceback"] == ["Interrupted: The request was cancelled."]
    assert eventually(lambda: [record.aborted for record in sandbox.log] == [True])


def test_what_is_wrong_with_a_background_question_fails_its_cell(kernel, sandbox):
    for bad in ("--next say x", "--model '' --max-tokens x say x", "say {{nobody}}"):
        assert kernel.run(f"%deepseek --background {bad}").status == "error"
    assert len(sandbox.log) == 0


# ------------------------------------------------------------------------------- plain Python


def test_an_answer_shows_as_markdown_without_the_extension(sandbox, folder):
    """The value of a cell, made safe, with its facts in one line."""
    with running_kernel(kernel_environment(sandbox, folder), folder) as kernel:
        cell = kernel.run("import deepseek_nb as ds\nds.ask('hostile')")
        (result,) = [m["content"] for m in cell.messages if m["msg_type"] == "execute_result"]
    assert "<script" not in result["data"]["text/markdown"]
    assert "![" not in result["data"]["text/markdown"]
    assert "deepseek-flash, " in result["data"]["text/plain"].splitlines()[-1]
    assert result["metadata"]["deepseek_nb"]["finish_reason"] == "stop"


def test_an_answer_of_calls_shows_them(sandbox, folder):
    """It has no text: an empty cell would say nothing."""
    tools = [{"type": "function", "function": {"name": "get_weather"}}]
    ask = f"ds.ask('Rome', tools={tools}, tool_choice='required')"
    with running_kernel(kernel_environment(sandbox, folder), folder) as kernel:
        cell = kernel.run(f"import deepseek_nb as ds\n{ask}")
        (result,) = [m["content"] for m in cell.messages if m["msg_type"] == "execute_result"]
    assert "get_weather(" in result["data"]["text/markdown"]
    assert result["metadata"]["deepseek_nb"]["finish_reason"] == "tool_calls"


def test_an_awaiting_cell_leaves_the_loop_to_others(kernel):
    """Timers and other tasks of the kernel go on during a call."""
    kernel.run(
        "import asyncio, deepseek_nb as ds\nticks = 0\n"
        "async def tick():\n    global ticks\n"
        "    while True:\n        await asyncio.sleep(0.02)\n        ticks += 1\n"
        "ticker = asyncio.create_task(tick())\nanswer = await ds.aask('long 400')\nticker.cancel()"
    )
    assert kernel.value("answer.text[:11]") == "word0 word1"
    assert kernel.value("ticks") >= 10


def test_an_interrupted_await_hangs_up_in_one_line(kernel, sandbox):
    cell = kernel.run(
        "import deepseek_nb as ds\nprint('go')\nawait ds.aask('long 20000')",
        interrupt_when=lambda cell: "stream" in cell.kinds,
    )
    assert cell.error["traceback"] == ["Interrupted: The request was cancelled."]
    assert eventually(lambda: len(sandbox.log) == 1)
    assert sandbox.log[0].aborted


def test_in_a_terminal_nothing_is_printed_into_what_is_typed(shell, capsys):
    """The first line only; the answer is taken with the handle."""
    shell.run_cell_magic("deepseek", "--background --into later", "say it later")
    value = shell.user_ns["later"].result(timeout_s=20)
    assert value == "You said: say it later"
    assert eventually(lambda: shell.user_ns.get("_deepseek") is not None)
    assert capsys.readouterr().out.strip() == "asking in the background"
