"""The documentation site: ``make docs``.

Sphinx with MyST-NB: MkDocs has had no release since 1.6.1 (2024), on which Material for MkDocs rests, and Zensical, its
successor, has no stable version yet. Furo takes the fonts of the system and scripts of its own: pages and search
work without network, also from a folder.
"""

import os
import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils.nodes import Element
from myst_nb.core import render
from nbformat import NotebookNode
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from docs.reference_pages import write_reference_pages

project = "image-longitudinal"
copyright = "the image-longitudinal authors"
version = release = installed_version("image-longitudinal")
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_design", "sphinx_copybutton"]
exclude_patterns = ["build", "**/.ipynb_checkpoints", "jupyter_execute"]
source_suffix = {".md": "myst-nb"}

# Strict: with --fail-on-warning (make docs) a dead link, a missing reference or an unlisted page ends the build.
nitpicky = True
nitpick_ignore_regex = [
    # Docstrings name modules and classes of the rooms, which the reference does not list, and packages of others.
    (r"py:.*", r"^(flows|tasks|models|storage|core|deployments)\..*"),
    (r"py:.*", r"^(?!image_longitudinal\.(?:[a-z_]+|Subject\w+)$).*"),
]

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Notebooks are executed by the build, unless DOCS_EXECUTE=off (.ci/run: everything but their output is checked).
nb_execution_mode = os.environ.get("DOCS_EXECUTE", "cache")
nb_execution_cache_path = str(Path(__file__).resolve().parents[1] / "build" / "docs-cache")
nb_execution_timeout = 1800  # seconds of a cell; a busy machine takes ten times as long as a quiet one
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

_coalesce = render.coalesce_streams


def join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs of a cell with one of each stream. MyST-NB alone ends a line wherever one piece of a stream ended."""
    joined: dict[str, NotebookNode] = {}
    others = []
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] in joined:
            joined[output["name"]]["text"] += output["text"]
            continue
        if output["output_type"] == "stream":
            joined[output["name"]] = output
        others.append(output)
    return _coalesce(others)


render.coalesce_streams = join_streams

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"image-longitudinal {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
highlight_language = "none"  # of blocks without a language: listings
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def with_package(app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: Element) -> Element | None:
    """What is meant where a docstring names ``storage.dataset.loaders.SubjectLoader``, without the package."""
    if node.get("refdomain") != "py" or node["reftarget"].startswith("image_longitudinal."):
        return None
    target = f"image_longitudinal.{node['reftarget']}"
    found: Element | None = env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], target, node, contents
    )
    return found


def check_offline(app: Sphinx, error: Exception | None) -> None:
    """End the build if a page would load anything from elsewhere: script, style, font, picture or frame."""
    loads = re.compile(
        r"""<(?:script|img|iframe|source)[^>]+src=["']?(?:https?:)?//|<link[^>]+href=["'](?:https?:)?//"""
    )
    pages = [] if error else [one for one in Path(app.outdir).rglob("*.html") if loads.search(one.read_text("utf-8"))]
    styles = [] if error else Path(app.outdir).rglob("*.css")
    pages += [one for one in styles if re.search(r"url\([\"']?(?:https?:)?//|@import", one.read_text("utf-8"))]
    if pages:
        raise ExtensionError(f"pages load something from the network: {', '.join(map(str, pages))}")


def setup(app: Sphinx) -> None:
    """Write the pages that are made from code before the sources are read; check what was made."""
    app.connect("builder-inited", lambda found: write_reference_pages(Path(found.srcdir) / "reference" / "generated"))
    app.connect("missing-reference", with_package)
    app.connect("build-finished", check_offline)
