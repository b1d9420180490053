"""Code cells of notebooks are IPython's, not Python's: a magic's cell is coloured as what it is."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


class AsIPython(SphinxTransform):
    """The cells of a saved notebook carry no lexer where its kernel left none."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        """Look at each block of code of the page."""
        if self.env.docname.startswith("notebooks/"):
            for block in self.document.findall(nodes.literal_block):
                if block.get("language") == "python":
                    block["language"] = "ipython3"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_transform(AsIPython)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
