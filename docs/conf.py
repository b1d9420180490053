"""How the documentation is built: ``sphinx-build -W --keep-going -n docs FOLDER``, offline.

Needs the extra ``docs`` (``pip install "deepseek_nb[docs,gateway]"``). The notebooks come in as they
are saved, by way of the link ``docs/notebooks``; nothing is run and nothing is fetched. Tables of
options, errors, settings and alarms are made from the code by ``extensions/from_code.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

from deepseek_nb import __version__  # noqa: E402

project = "deepseek_nb"
author = "The deepseek_nb developers"
project_copyright = author
release = version = __version__
language = "en"
smartquotes_action = "q"  # an option is --name, not a dash

extensions = ["myst_nb", "sphinx.ext.autodoc", "from_code", "links", "notebook_cells"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
nitpicky = True
nitpick_ignore_regex = [
    # names of others: this build asks nobody for their inventories
    (
        "py:.*",
        r"(IPython|asyncio|collections|datetime|decimal|ipywidgets|joblib|narwhals|pandas|pathlib|pydantic)\..*",
    ),
]
nb_execution_mode = "off"
nb_render_error_lexer = "none"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "furo"
html_title = f"deepseek_nb {release}"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
pygments_dark_style = "github-dark"
