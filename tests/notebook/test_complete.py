"""TAB in a real kernel, over the Jupyter protocol: ``|`` is the cursor."""

from __future__ import annotations

import pytest
from kernels import CELL_S, kernel_environment, running_kernel

from deepseek_nb.data import read_json

SETTING_UP = """
import pydantic
import deepseek_nb as ds
class Risk(pydantic.BaseModel):
    level: int
class Customer:
    city = "Ulm"
customer, shape, _hidden_shape = Customer(), {"level": "integer"}, {"a": 1}
ds.conversation("risk talk"), ds.conversation("review")
"""


@pytest.fixture
def complete(kernel):
    """What TAB offers, and the text it would replace."""
    assert kernel.run(SETTING_UP).status == "ok"

    def tab(code: str) -> tuple[list[str], str]:
        position = code.index("|")
        code = code[:position] + code[position + 1 :]
        message_id = kernel.client.complete(code, position)
        reply = kernel.client.get_shell_msg(timeout=CELL_S)
        assert reply["parent_header"]["msg_id"] == message_id
        content = reply["content"]
        return content["matches"], code[content["cursor_start"] : content["cursor_end"]]

    return tab


MODELS = [name for model in read_json("models.json")["models"] for name in (model["id"], *model["aliases"])]


@pytest.mark.parametrize(
    ("code", "offered", "replaced"),
    [
        ("%deepseek --mo|", ["--model"], "--mo"),
        ("%%deepseek --mo|", ["--model"], "--mo"),
        ("%%deepseek --mo|\nquestion", ["--model"], "--mo"),
        ("x = %deepseek --mo|", ["--model"], "--mo"),
        ("print(1)\nif True:\n    %deepseek --mo|", ["--model"], "--mo"),
        ("%deepseek --mo|del", ["--model"], "--mo"),
        ("%deepseek answer << --pri|", ["--priority"], "--pri"),
        ("%deepseek --no-cache --thinking --sys|", ["--system"], "--sys"),
        ('%deepseek --system "a -- b" --sch|', ["--schema"], "--sch"),
        ("%deepseek --model=|", sorted(MODELS), ""),
        ("%deepseek --model |", sorted(MODELS), ""),
        ("%%deepseek -m deepseek-v4-p|\nwhy?", ["deepseek-v4-pro"], "deepseek-v4-p"),
        ("%deepseek --model=deepseek-v4-p|", ["deepseek-v4-pro"], "deepseek-v4-p"),
        ("%deepseek --as j|", ["json"], "j"),
        ("%deepseek --priority |", ["1", "2", "3", "4", "5"], ""),
        ("%deepseek --schema |", ["Risk", "shape"], ""),
        ("%deepseek --into cus|", ["customer"], "cus"),
        ("%deepseek ba|", ["balance"], "ba"),
        ("%deepseek key f|", ["forget"], "f"),
        ("%deepseek cache |", ["clear"], ""),
        ("%%deepseek\nGreet {{cus|", ["customer"], "cus"),
        ("%%deepseek\nGreet {{ cus|}}, please", ["customer"], "cus"),
        ("%%deepseek\nGreet cus|", ["customer"], "cus"),
        ("%%deepseek --as text\nline\nGreet {{customer.ci|", ["city"], "ci"),
        ("%%deepseek\nGreet {{shape['le|", ["level"], "le"),
        ("%deepseek greet {{cus|", ["customer"], "cus"),
    ],
)
def test_what_is_offered(complete, code, offered, replaced):
    """Just that, and nothing of Python's beside it."""
    matches, text = complete(code)
    assert (sorted(matches), text) == (offered, replaced)


def test_conversations_are_offered_by_name(complete, kernel):
    """Where the magic has that option."""
    if "--chat" in complete("%deepseek --|")[0]:
        assert complete("%deepseek --chat re|") == (["review"], "re")


def test_every_option_of_the_parser_is_offered_once(complete, kernel):
    """So a new one needs no line here; what is given already is not offered again."""
    magic = "get_ipython().magics_manager.registry['DeepSeekMagics'].deepseek"
    names = kernel.value(f"[n for a in {magic}.parser._actions for n in a.option_strings]")
    everything = sorted(name for name in names if name.startswith("--"))
    assert sorted(complete("%deepseek --|")[0]) == everything
    assert sorted(complete("%%deepseek |\nwhy?")[0]) == everything
    assert "--model" not in complete("%deepseek -m x --|")[0]
    assert {"key", "cost", *everything} <= set(complete("%deepseek |")[0])


def test_retired_models_are_not_offered(complete):
    for name in read_json("models.json")["retired"]:
        assert name not in complete("%deepseek --model |")[0]


def test_behind_two_braces_only_variables_are_offered(complete):
    """No function, class, module or builtin: none of them fills a question."""
    offered = complete("%%deepseek\nGreet {{|")[0]
    assert {"customer", "shape"} <= set(offered)
    assert not {"print", "Risk", "pydantic", "ds", "get_ipython", "In"} & set(offered)


@pytest.mark.parametrize(
    "code",
    ["%%deepseek\n--mo|", "# %deepseek --mo|", "%deepseek what is --mo|", "'%deepseek --mo|", "%deep --mo|"],
)
def test_no_options_where_none_belong(complete, code):
    assert "--model" not in complete(code)[0]


def test_other_completion_is_left_alone(complete):
    """Names, magics and attributes, as without the extension."""
    assert complete("cus|") == (["customer"], "cus")
    assert set(complete("%deepse|")[0]) == {"%deepseek", "%%deepseek"}
    assert "city" in complete("customer.|")[0]


def test_nothing_is_printed_and_nothing_heavy_is_imported(sandbox, folder):
    """A TAB must not wait for an HTTP library."""
    with running_kernel(kernel_environment(sandbox, folder), folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        for code in ("%deepseek --model ", "%deepseek --chat ", "%deepseek --schema ", "%%deepseek\n{{"):
            kernel.client.complete(code)
            kernel.client.get_shell_msg(timeout=CELL_S)
        heavy = ("pandas", "httpx", "aiohttp", "pydantic", "joblib")
        cell = kernel.run(f"import sys\nprint([name for name in {heavy!r} if name in sys.modules])")
        assert cell.streamed == "[]\n"
        assert kernel.run("%unload_ext deepseek_nb").status == "ok"
        kernel.client.complete("%deepseek --mo")
        assert kernel.client.get_shell_msg(timeout=CELL_S)["content"]["matches"] == []
