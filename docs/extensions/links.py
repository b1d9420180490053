"""Links that need a second look: names written short in docstrings, and files beside ``docs``.

A docstring names things as the code around it does (``AuthError``, ``deepseek_nb.core.chat.Answer``); the
reference has them where users import them (``deepseek_nb.errors.AuthError``, ``deepseek_nb.Answer``). A page
links ``../CHANGELOG.md``, which works on a code host; here it is a page of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.nodes import make_refnode

OWN = "deepseek_nb"
ROOT = Path(__file__).parents[2]
PAGES = {
    "benchmarks/README.md": "about/measuring",
    "CHANGELOG.md": "about/changelog",
    "CONTRIBUTING.md": "about/contributing",
}
"""Files beside ``docs`` that a page of ours includes."""


def _tail(target: str) -> str:
    """What is left of a dotted name without its modules: ``AsyncClient.ask`` of ``a.b.AsyncClient.ask``."""
    parts = target.split(".")
    upper = (place for place, part in enumerate(parts) if part.lstrip("_")[:1].isupper())
    return ".".join(parts[next(upper, len(parts) - 1) :])


def find_documented(app: Sphinx, env: BuildEnvironment, node: Any, shown: nodes.Element) -> Any:
    """The one documented thing that a short or an inner name means; None where it is not one."""
    target = node.get("reftarget", "")
    ours = target.startswith(OWN) or str(node.get("py:module")).startswith(OWN)
    if node.get("refdomain") != "py" or not ours:
        return None
    tail, objects = f".{_tail(target)}", env.domains.python_domain.objects
    found = {name: entry for name, entry in objects.items() if name.endswith(tail) and not entry.aliased}
    if len(found) != 1:
        # the annotation of a parameter may be an inner type, which no page tells of; a role must not
        return shown if target.startswith(OWN) and "refexplicit" not in node else None
    ((name, entry),) = found.items()
    text = shown.astext()
    if text.startswith(OWN):  # written out for the code's sake: a reader needs the end of it
        shown = nodes.literal("", "", *shown.children, classes=shown["classes"])
        shown.children[:] = [nodes.Text(_tail(text.removesuffix("()")) + "()" * text.endswith("()"))]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, shown, name)


def page_of(file: Path) -> str | None:
    """The page that shows a file of the repository; None where there is none."""
    try:
        name = file.resolve().relative_to(ROOT)
    except ValueError:
        return None
    if name.parts[0] == "notebooks":
        return name.with_suffix("").as_posix()
    if name.parts[0] == "docs" and name.suffix == ".md":
        return name.relative_to("docs").with_suffix("").as_posix()
    return PAGES.get(name.as_posix())


class PagesForFiles(SphinxTransform):
    """A link that leaves ``docs``, or comes from a notebook beside it, goes to the page of that file."""

    default_priority = 5

    def apply(self, **_: Any) -> None:
        """Look at each link to a file; in a notebook it starts where the notebook lies."""
        in_notebook = self.env.docname.startswith("notebooks/")
        for node in self.document.findall(addnodes.pending_xref):
            if node.get("reftype") != "myst":
                continue
            target, _, place = node["reftarget"].partition("#")
            if node.get("refdomain") == "doc":  # a page to Markdown, by its whole path where it is outside
                candidates = (
                    [Path(f"{target}.md"), Path(f"{target}.ipynb")] if Path(target).is_absolute() else []
                )
            else:
                candidates = [ROOT / "notebooks" / target] if in_notebook and target else []
            for page in filter(None, map(page_of, filter(Path.is_file, candidates))):
                node["refdomain"], node["reftarget"] = "doc", page
                node["reftargetid"] = node.get("reftargetid") or place or None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("missing-reference", find_documented)
    app.add_transform(PagesForFiles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
