"""How the site looks: Sphinx, MyST-NB and Furo. What goes into it: `segleak_utils/running/site.py`.

Nothing is fetched by a page, from whichever host: formulas are MathML, letters those of the system.
"""

from docutils import nodes

from segleak_utils.running import pages
from segleak_utils.running.mathematics import mathml

project = "segleak"
author = "segleak authors"
html_title = "segleak"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc"]

# notebooks were executed before, and are never executed here
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type"]

default_role = "code"  # docstrings say `name`
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
add_module_names = False

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["segleak.css", "site.css"]
html_js_files = [("segleak.js", {"defer": "defer"})]
html_math_renderer = "mathml"
html_show_search_summary = False  # would fetch pages, which a page from a folder may not
html_copy_source = False
html_show_sourcelink = False
html_domain_indices = False
html_use_index = False  # the search finds names
html_permalinks_icon = "#"


def _inline(translator, node):
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def _block(translator, node):
    translator.body.append(f'<div class="math">{mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.config.html_static_path.append(str(pages.STATIC))
