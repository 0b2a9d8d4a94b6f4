"""The configuration of Sphinx for `make docs`: the Markdown pages of the repository, and the API from its docstrings.

Pages stay plain Markdown, so that a code host can show them. The navigation is the list in the README's section
"Documentation". Comments in docs/api.md select the names that each of its sections describes.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import roialign_ext
import roialign_ext.onnx
import roialign_ext.viz

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\]]+)\]\(([^)#:]+)\)")
FILE_AS_TEXT = re.compile(r"\[[\w./]+\.md\](?=\()")

project = "roialign_ext"
release = version = roialign_ext.__version__
copyright = "the roialign_ext developers"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]

# The source folder is the whole repository, so that links between its pages become links between pages of the site.
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "examples/*.md", "benchmarks/*.md", "benchmarks/results/*.md"]
exclude_patterns = [".*", "build", "dist", "outputs", "csrc", "roialign_ext", "tests"]  # folders without pages
suppress_warnings = ["toc.not_included"]  # benchmarks/results/gpu.md may be missing; a test checks the other pages

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
copybutton_exclude = ".linenos, .gp, .go"

nitpicky = True
# Names of other packages: without a network there is no inventory to look them up in.
nitpick_ignore_regex = [("py:.*", r"(torch|collections|matplotlib|onnxscript|pathlib|typing)\..*")]

autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"roialign_ext {release}"
html_static_path = ["site/static"]
html_extra_path = ["site/index.html"]
html_css_files = ["site.css"]
html_copy_source = False


def navigation(readme: str) -> str:
    """The README's list of pages as tables of contents. A list item is a caption and links."""
    items = re.split(r"^- ", readme.partition("\n## Documentation\n")[2], flags=re.MULTILINE)[1:]
    trees = []
    for item in items:
        caption, _, links = item.partition(":")
        pages = re.findall(r"\[([^\]]+)\]\(([^)]+)\.md\)", links)
        entries = "\n".join(f"{title[0].upper()}{title[1:]} </{page}>" for title, page in pages)
        trees.append(f"```{{toctree}}\n:caption: {caption}\n:hidden:\n\n{entries}\n```\n")
    return "\n".join(trees)


def _kind(name: str) -> str:
    value = getattr(roialign_ext, name)
    home = getattr(value, "__module__", "")
    return {"roialign_ext.functional": "functions", "roialign_ext.modules": "modules"}.get(home, "others")


def descriptions(section: str) -> str:
    """The directives for one section of docs/api.md: a module with all its names, or a kind of names of the package."""
    if section.startswith("roialign_ext."):
        return f".. automodule:: {section}\n   :members:"
    return "\n".join(_directive(name) for name in roialign_ext.__all__ if _kind(name) == section)


def _directive(name: str) -> str:
    value, path = getattr(roialign_ext, name), f"roialign_ext.{name}"
    if inspect.isclass(value):
        return f".. auto{'exception' if issubclass(value, Exception) else 'class'}:: {path}\n   :members:\n"
    return f".. auto{'function' if callable(value) else 'data'}:: {path}\n"


def _complete(_: Any, page: str, source: list[str]) -> None:
    """Changes the source of a page for the site.

    Only a code host has pages of folders, so links to folders become text. A link whose text is the name of a file gets
    the title of its page.
    """
    folder = (ROOT / page).parent
    source[0] = FILE_AS_TEXT.sub("[]", source[0])
    source[0] = LINK.sub(lambda link: link[1] if (folder / link[2]).is_dir() else link[0], source[0])
    if page == root_doc:
        source[0] += "\n" + navigation(source[0])
    if page == "docs/api":
        comment = re.compile(r"^<!-- api: (\S+) -->$", flags=re.MULTILINE)
        source[0] = comment.sub(lambda found: f"```{{eval-rst}}\n{descriptions(found[1])}\n```", source[0])


def _link_pages(_: Any, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Makes links of the paths of pages in docstrings, which help() shows as plain text."""
    lines[:] = [re.sub(r"\b(docs/\w+)\.md", r":doc:`\1.md </\1>`", line) for line in lines]


def setup(app: Any) -> None:
    app.connect("source-read", _complete)
    app.connect("autodoc-process-docstring", _link_pages)
