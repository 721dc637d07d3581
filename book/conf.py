"""Settings of the book. `tools/book.py` puts its pages together and calls Sphinx with these.

Nothing is loaded from elsewhere: mathematics becomes MathML, which browsers draw themselves.
"""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

KIT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((KIT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def find_repository() -> str:
    """Return the address of this kit on GitHub, or "" where it is not known."""
    if "GITHUB_REPOSITORY" in os.environ:
        return f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}"
    command = ["git", "-C", str(KIT), "remote", "get-url", "origin"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git
        return ""
    return found.removesuffix(".git") if found.startswith("https://github.com/") else ""


project = PROJECT["name"]
version = release = PROJECT["version"]
author = copyright = "The mamlpp authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_image_options = {"alt": "a figure; the text and the code around it say what it shows"}
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
# Docstrings are not written for Sphinx, and names may be exported twice.
suppress_warnings = ["config.cache", "docutils", "ref.python"]

default_role = "code"  # docstrings are Markdown: one backtick is code
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "no-value": True,  # which may be a folder of this machine
}
python_use_unqualified_type_names = True

html_theme = "sphinx_book_theme"
html_title = "mamlpp"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_show_sourcelink = False
html_copy_source = True
html_show_copyright = False

REPOSITORY = find_repository()
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": True,
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "collapse_navbar": True,
    "navbar_persistent": [],  # its search stands in the sidebar
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "path_to_docs": "",
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }


def write_inline(writer, node: nodes.math) -> None:
    """Write inline mathematics as MathML."""
    writer.body.append(_mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def write_display(writer, node: nodes.math_block) -> None:
    """Write displayed mathematics as MathML."""
    writer.body.append(f'<div class="math-block">{_mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def _mathml(tex: str, as_block: bool) -> str:
    try:
        return tex2mathml(tex, as_block=as_block)
    except Exception:  # a command that it does not know: the source is better than nothing
        return f"<code>{escape(tex)}</code>"


def as_rst(app, what: str, name: str, of, options, lines: list[str]) -> None:
    """Turn what is Markdown in a docstring into reStructuredText: bars, and blocks of code."""
    text = "\n".join(lines).replace("|", r"\|")
    lines[:] = re.sub(r"(\n\n)(?= {4}\S)", r"\1.. code-block:: default\n\n", text).split("\n")


def setup(app) -> None:
    """Register the writer of mathematics, and the reader of docstrings."""
    app.connect("autodoc-process-docstring", as_rst, priority=400)
    app.add_html_math_renderer("mathml", (write_inline, None), (write_display, None))


html_math_renderer = "mathml"
