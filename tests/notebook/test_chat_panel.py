"""The chat panel in a real kernel: what its controls do, what is shown, kept and sent, and what is not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import count

import nbformat
import pytest
from front_end import WIDGET_VIEW, FrontEnd
from kernels import CANARY_KEY, Kernel, eventually, kernel_environment, running_kernel
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from test_s05_answers_are_hostile import Outputs, ThisKernelManager
from test_sanitize import ATTACKS

from deepseek_nb.client.conversation import Turn
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import ContentRefused
from deepseek_nb.notebook.safe_html import html_of_plain, safe_html
from deepseek_nb.notebook.transcript import Exchange, answer_html, error_text, question_html, twin_of
from deepseek_nb.sandbox import Completion, Fault, FaultScript, ParsedRequest, Sandbox

NAMES = count(1)
ASKED: list[ParsedRequest] = []
"""What the server was asked, in order."""


def reply(request: ParsedRequest) -> Completion:
    """``long N`` gives N words, ``hostile`` an attack, everything else an echo."""
    ASKED.append(request)
    if wanted := re.search(r"long (\d+)", request.question):
        return Completion(" ".join(f"word{number}" for number in range(int(wanted[1]))))
    if "hostile" in request.question:
        return Completion("\n\n".join(ATTACKS))
    return Completion(f"You said: {request.question}", reasoning="Let me think. " * 20)


@pytest.fixture(scope="module")
def server() -> Iterator[Sandbox]:
    with Sandbox(engine=reply, count="estimate", api_key=CANARY_KEY, token_s=0.002) as running:
        yield running


@pytest.fixture(scope="module")
def shared_kernel(server, tmp_path_factory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("kernel")
    with running_kernel(kernel_environment(server, folder), folder) as kernel:
        yield kernel


def roles() -> list[str]:
    """Of the messages of the last question."""
    return [message["role"] for message in ASKED[-1].messages]


class Chat(FrontEnd):
    """A page with one open chat panel of its own."""

    def __init__(self, kernel: Kernel, options: str = "") -> None:
        super().__init__(kernel)
        self.name = f"talk {next(NAMES)}"
        self.run("import deepseek_nb as ds")
        assert self.run(f"panel = ds.chat({self.name!r}{options})\npanel")["status"] == "ok"
        self.question = self.find(_model_name="TextareaModel")
        self.region = self.find(value='<div role="status" aria-live="polite"></div>')

    def type(self, question: str) -> None:
        self.set(self.question, value=question)

    def send(self, question: str) -> None:
        self.type(question)
        self.click(description="Send")

    def ask(self, question: str) -> None:
        """Send it and wait for the end."""
        before = len(self.heard())
        self.send(question)
        self.wait(lambda: len(self.heard()) > before, within_s=30)

    def heard(self) -> list[str]:
        """What a screen reader was told, in order."""
        told = [
            message["content"]["data"]["state"].get("value", "")
            for message in self.messages
            if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == self.region
        ]
        return [text for value in told if (text := re.sub("<[^>]+>", "", value))]

    def said(self) -> str:
        """What it was told last."""
        return self.heard()[-1] if self.heard() else ""

    @property
    def twin(self) -> str:
        return self.texts()[-1]

    def turns(self) -> list[list[str]]:
        """The conversation in the kernel."""
        return self.value(f"[[t.question, t.answer.text] for t in ds.conversation({self.name!r}).turns]")


@pytest.fixture
def chat(kernel: Kernel) -> Chat:
    return Chat(kernel, ", thinking=False")


def test_a_question_is_answered_in_the_panel_and_kept_in_the_conversation(chat, sandbox):
    """The request carries what was said before; figures and the twin follow; nothing is printed."""
    chat.ask("say *first*")
    chat.ask("say second")
    assert chat.turns() == [
        ["say *first*", "You said: say *first*"],
        ["say second", "You said: say second"],
    ]
    page = chat.html()
    assert "You said: say <em>first</em>" in page
    assert "say *first*</div>" in page, "the question stands as it was written"
    assert "2 exchanges, " in page
    assert roles() == ["user", "assistant", "user"]
    assert chat.said().startswith("Answered in ")
    chat.wait(lambda: "say second" in chat.twin)
    assert chat.twin.startswith("<details><summary>Transcript, stays when the notebook is saved</summary>")
    assert "**You**\n\nsay second\n\n**DeepSeek**\n\nYou said: say second" in chat.twin
    assert chat.widgets[chat.question]["value"] == ""
    assert chat.errors() == []


def test_the_screen_reader_hears_of_the_end_only(chat):
    """Not of each piece."""
    chat.ask("long 300")
    chat.listen(0.3)
    assert len(chat.heard()) == 1
    for state in chat.widgets.values():
        if state["_model_name"] in ("ButtonModel", "TextareaModel", "DropdownModel", "CheckboxModel"):
            assert state["tooltip"]
            assert state["description"] or state["_model_name"] == "TextareaModel"


def test_the_controls_say_what_is_sent(kernel, sandbox):
    """Model and thinking by the panel's controls, the rest by the arguments; untouched is unsaid."""
    chat = Chat(kernel, ", system='Be terse.', temperature=0.5")
    chat.ask("say plain")
    asked = ASKED[-1].body
    assert "thinking" not in asked
    assert (asked["temperature"], asked["model"]) == (0.5, "deepseek-flash")
    assert asked["messages"][0] == {"role": "system", "content": "Be terse."}
    dropdown = chat.find(_model_name="DropdownModel")
    names = chat.widgets[dropdown]["_options_labels"]
    chat.set(dropdown, index=list(names).index("deepseek-v4-pro"))
    chat.set(chat.find(_model_name="CheckboxModel"), value=False)
    chat.ask("say pro")
    asked = ASKED[-1].body
    assert (asked["thinking"], asked["model"]) == ({"type": "disabled"}, "deepseek-v4-pro")


def test_thinking_is_folded_away(kernel):
    """It is said while it lasts, and stands folded in the panel; the twin leaves it out."""
    chat = Chat(kernel, ", thinking=True")
    chat.ask("say thoughts")
    assert "<details><summary>Thinking, " in chat.html()
    assert "Let me think. Let me think." in chat.html()
    chat.wait(lambda: "say thoughts" in chat.twin)
    assert "Let me think" not in chat.twin


def test_stop_keeps_the_partial_text_and_leaves_the_conversation_alone(chat, sandbox):
    """The connection is closed, the text is marked, the next question goes without it."""
    chat.send("long 20000")
    chat.wait(lambda: "word40 " in chat.html())
    chat.click(description="Stop")
    chat.wait(lambda: chat.said() == "Stopped.", within_s=2)
    assert eventually(lambda: len(sandbox.log) == 1)
    assert sandbox.log[0].aborted
    assert "word40 " in chat.html()
    assert "Interrupted. What was written of it may be charged." in chat.html()
    chat.wait(lambda: "(Interrupted. What was written of it may be charged.)" in chat.twin)
    assert chat.turns() == []
    chat.ask("say on")
    assert roles() == ["user"]
    assert "word40 " in chat.html()


def test_new_begins_anew(chat, sandbox):
    """Nothing is sent along, and nothing stays on the screen."""
    chat.ask("say old")
    chat.click(description="New")
    chat.wait(lambda: chat.said() == "A new conversation.")
    assert "say old" not in chat.html()
    chat.wait(lambda: "Nothing was asked yet." in chat.twin)
    chat.ask("say newer")
    assert roles() == ["user"]


def test_waiting_for_a_busy_server_is_visible(chat, sandbox):
    """The same line as in a cell."""
    sandbox.faults = FaultScript.of("busy_503", "busy_503", "busy_503")
    chat.send("say busy please")
    chat.wait(lambda: re.search(r"busy \(503\), try \d, next in \d+ s, .* nothing charged", chat.html()))
    chat.wait(lambda: "You said: say busy please" in chat.html() and chat.said(), within_s=30)
    assert "busy (503)" not in chat.html()


def test_what_fails_is_shown_with_what_to_do_and_the_question_is_back(chat, sandbox):
    """In five lines, nothing printed, the conversation as it was; the same panel goes on."""
    sandbox.faults = FaultScript.of("content_risk")
    chat.send("say something risky")
    chat.wait(lambda: "ContentRefused" in chat.html())
    chat.wait(lambda: chat.widgets[chat.question]["value"] == "say something risky")
    assert ContentRefused.default_hint.split(".")[0] in " ".join(chat.html().split())
    assert chat.turns() == []
    assert chat.errors() == []
    chat.wait(lambda: "ContentRefused" in chat.twin)
    sandbox.faults = None
    chat.click(description="Send")
    chat.wait(lambda: "You said: say something risky" in chat.html())


def test_a_broken_try_is_taken_off_the_screen(chat, sandbox):
    """What a broken stream had shown is not in front of the answer."""
    sandbox.faults = FaultScript.of(*[Fault("cut_eof", after_tokens=3)] * 2)
    chat.ask("say it whole, whatever happens")
    assert chat.html().count("You said: ") == 1


def test_the_traffic_is_bounded(chat):
    """At most forty bytes to the browser for each byte of an answer, and ten updates a second."""
    begun = len(chat.messages)
    chat.ask("long 3000")
    text = " ".join(f"word{number}" for number in range(3000))
    assert text in chat.html()
    chat.listen(0.5)
    sent = [m for m in chat.messages[begun:] if m["msg_type"] in ("comm_msg", "update_display_data")]
    parts = ("header", "parent_header", "metadata", "content")
    total = sum(
        len(json.dumps(message[part], default=str, ensure_ascii=False).encode())
        for message in sent
        for part in parts
    )
    drafts = [m for m in sent if "word1 " in json.dumps(m["content"])]
    assert len(drafts) > 5
    print(f"{total / len(text):.1f} bytes sent per byte, {len(drafts)} drafts")
    assert total <= 40 * len(text)


def test_two_panels_talk_at_once(kernel, sandbox):
    """Each on its own conversation; what one shows the other does not."""
    one = Chat(kernel, ", thinking=False")
    one.run(f"other = ds.chat({one.name + ' b'!r}, thinking=False)")
    one.run("other")
    boxes = one.find_all(_model_name="TextareaModel")
    sends = one.find_all(description="Send")
    assert len(boxes) == len(sends) == 2
    for box, send, words in zip(boxes, sends, ("long 301", "long 302"), strict=True):
        one.set(box, value=words)
        one._send(send, {"method": "custom", "content": {"event": "click"}})
    one.wait(lambda: "word300</p>" in one.html() and "word301</p>" in one.html())
    assert len(sandbox.log) == 2
    assert [len(turns) for turns in one.value(f"[ds.conversation({one.name!r}).turns and [1], [1]]")] == [
        1,
        1,
    ]


def test_showing_a_conversation_again_moves_the_panel(chat):
    """Running the cell again leaves one panel, with what was said, and a transcript where the old one was."""
    chat.ask("say it here")
    chat.run(f"ds.chat({chat.name!r})")
    assert len(chat.find_all(description="Send")) == 1
    assert "You said: say it here" in chat.html()
    old, closed, new, twin = chat.outputs.values()
    assert "You said: say it here" in old["text/markdown"]
    assert WIDGET_VIEW not in old
    assert WIDGET_VIEW in new
    assert closed["text/plain"] == "Closed."
    assert "You said: say it here" in twin["text/markdown"]


def test_a_panel_that_is_replaced_stops_asking(chat, sandbox):
    """Nobody would see the answer, and it would be paid."""
    chat.send("long 20001")
    chat.wait(lambda: "word40 " in chat.html())
    chat.run(f"ds.chat({chat.name!r})")
    assert eventually(lambda: len(sandbox.log) == 1)
    assert sandbox.log[0].aborted
    assert chat.turns() == []
    assert chat.errors() == []


def test_what_is_said_in_a_cell_stands_in_the_panel_with_the_next_question(chat):
    """Both talk in the same conversation."""
    chat.run(f"ds.conversation({chat.name!r}).ask('say it in a cell')")
    chat.ask("say it in the panel")
    assert "You said: say it in a cell" in chat.html()
    assert len(chat.turns()) == 2


def test_it_works_while_a_cell_runs_and_an_interrupt_of_that_cell_does_not_touch_it(chat):
    """The answer comes in while the kernel is busy; clicks that come in a subshell are heard."""
    chat.run("import time")
    chat.click_in_a_subshell()
    cell = chat.start("time.sleep(30)")
    chat.send("long 400")
    chat.wait(lambda: "word10 " in chat.html(), within_s=5)
    chat.kernel.manager.interrupt_kernel()
    chat.wait(lambda: "word399</p>" in chat.html())
    assert chat.end(cell)["ename"] == "KeyboardInterrupt"
    assert len(chat.turns()) == 1
    assert len(chat.errors()) == 1, "the interrupted cell's own"


def test_wrong_options_fail_the_cell(kernel):
    """Where they stand, not in a thread later."""
    page = FrontEnd(kernel)
    page.run("import deepseek_nb as ds")
    assert page.run("ds.chat('wrong', priority=9)")["ename"] == "RequestInvalid"
    assert page.run("ds.chat('wrong', colour=9)")["ename"] == "TypeError"
    assert "'wrong'" not in str(page.value("[*ds.session.conversations()]"))


# ------------------------------------------------------------------------------------ what is saved


def test_the_saved_notebook_reads_well_without_a_kernel(server, sandbox, tmp_path):
    """Run by nbclient: a transcript in Markdown, and no styles, scripts, paths, keys or live parts."""
    cells = [
        "import time\nimport deepseek_nb as ds\npanel = ds.chat('saved', thinking=False)\npanel",
        "def ask(question):\n"
        "    panel._view.question.value = question\n    panel._view._send.click()\n"
        "    while panel._busy: time.sleep(0.01)\n    time.sleep(0.2)\n"
        "ask('say **saved**')\nask('hostile')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook,
        timeout=60,
        kernel_name="this",
        kernel_manager_class=ThisKernelManager,
        store_widget_state=False,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute(env=kernel_environment(server, tmp_path))
    panel, twin = (output["data"] for output in notebook.cells[0].outputs)
    assert not notebook.cells[1].outputs
    assert "You said: say **saved**" in twin["text/markdown"]
    assert "You said: say **saved**" in twin["text/plain"]
    assert panel["text/markdown"].startswith("**Chat “saved”**")
    saved = nbformat.writes(notebook)
    for nothing in ("<style>", "style=", CANARY_KEY, str(tmp_path), "\\u001b"):
        assert nothing not in saved.replace("style>@import", "")
    page = HTMLExporter().from_notebook_node(notebook)[0]
    alive = [found for found in Outputs(page).alive if found not in ("<details {}>", "<summary {}>")]
    assert alive == []


# --------------------------------------------------------------------------------- hostile answers

ALLOWED = {
    *(
        "p",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "li",
        "em",
        "strong",
        "s",
        "code",
        "pre",
        "br",
        "hr",
        "blockquote",
    ),
    *("table", "thead", "tbody", "tr", "th", "td", "a", "div", "details", "summary"),
}
STYLES = re.compile(
    r"white-space: pre-wrap(; color: var\(--[\w-]+, #\w+\))?|line-height: 1\.5; margin(-top: 8px|: 0)"
    r"|text-decoration: underline|text-align:(left|right|center)"
    r"|background: var\(--[\w-]+, #\w+\); padding: 4px 8px; overflow: auto"
)


class Alive(HTMLParser):
    """What of a widget's HTML is more than inert text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ALLOWED:
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            fine = {
                "href": re.compile(r"(?:https?://|mailto:).*", re.IGNORECASE | re.DOTALL),
                "style": STYLES,
                "class": re.compile(r"language-[\w+#.-]{1,30}"),
                "start": re.compile(r"\d+"),
                "title": re.compile(r".*", re.DOTALL),
                "target": re.compile("_blank"),
                "rel": re.compile("noopener noreferrer nofollow"),
            }.get(name)
            if fine is None or not fine.fullmatch(value or ""):
                self.found.append(f"<{tag} {name}={value!r}>")

    def handle_comment(self, data):
        self.found.append(f"<!--{data}-->")

    handle_decl = handle_pi = unknown_decl = handle_comment


def test_the_check_sees_what_is_alive():
    """A check that finds nothing anywhere would be none."""
    assert len([attack for attack in ATTACKS if Alive(attack).found]) > len(ATTACKS) / 3
    assert Alive('<a href="javascript:x" onclick="y">').found != []


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_a_model_or_server_wrote_is_alive_in_the_panel(attack):
    """As text, as reasoning, as the error of a server; alone and inside other text."""
    for text in (attack, f"Text.\n{attack}\nMore.", f"```\n{attack}", f"- {attack}", attack * 2):
        for page in (
            safe_html(text),
            html_of_plain(text),
            answer_html(Exchange("q", text, text, text, trouble=True)),
            answer_html(Exchange("q", note=error_text(ValueError(text)))),
            answer_html(Exchange("q", note=error_text(ContentRefused(text)))),
            question_html(Exchange(text)),
        ):
            assert Alive(page).found == []
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)


def test_links_open_elsewhere_and_tables_and_code_are_shown():
    """A link that replaced the page would take the notebook with it."""
    page = safe_html("[a](https://example.org)\n\n|x|\n|--:|\n|1|\n\n```python\nx < 1\n```\n# Big")
    assert 'href="https://example.org"' in page
    assert 'target="_blank" rel="noopener noreferrer nofollow"' in page
    assert "<td" in page
    assert "x &lt; 1" in page
    assert "<h3>Big</h3>" in page


def test_an_error_takes_five_lines_at_most():
    """Whatever it says."""
    for error in (ContentRefused("word " * 500), ValueError("line\n" * 50), RuntimeError("x" * 5000)):
        assert len(error_text(error).splitlines()) <= 5
        assert len(error_text(error)) <= 500


def _exchange(question: str, text: str) -> Exchange:
    return Exchange.of(Turn(question, Answer(text, model="m")))


def test_one_answer_cannot_swallow_the_next():
    """An open code block ends with its answer; an open formula does not make the next one's code live."""
    twin = twin_of(
        [_exchange("a", "```python\nx = 1"), _exchange("b", "second"), _exchange("~~~\nq", "z")], "Chat"
    )
    assert "x = 1\n```\n\n(m" in twin.markdown
    assert "**You**\n\nb\n\n**DeepSeek**\n\nsecond" in twin.markdown
    live = "<img src=x onerror=alert(1)>"
    twin = twin_of([_exchange("a", "$$ open"), _exchange("b", f"```\n{live}\n``` \n\n$$")], "Chat")
    assert live not in twin.markdown


def test_a_long_talk_is_kept_within_bounds():
    """The latest forty, and how many there were before."""
    twin = twin_of([_exchange(f"question {number}.", "yes") for number in range(50)], "Chat")
    assert "(10 earlier exchanges are not shown.)" in twin.markdown
    assert "question 9." not in twin.plain
    assert "question 10." in twin.plain
