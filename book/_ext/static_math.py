"""Formulas are typeset while the site is built: MathJax runs here and not in the reader's browser.

A page then holds characters (and MathML for screen readers), and needs a style sheet and fonts but no script.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import mathjax
from docutils import nodes
from py_mini_racer import MiniRacer
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number, wrap_displaymath

SOURCE = Path(next(iter(mathjax.__path__))) / "static/mathjax/es5"
PARTS = ["startup", "core", "adaptors/liteDOM", "input/tex-full"]
PARTS += ["output/chtml", "output/chtml/fonts/tex", "a11y/assistive-mml"]
CONFIG = {
    "loader": {"load": []},
    "startup": {"typeset": False},
    "tex": {"packages": {"[-]": ["noerrors", "noundefined", "autoload", "require"]}},
    "chtml": {"fontURL": ".", "adaptiveCSS": False},
    "options": {"enableAssistiveMml": True},
}
SCROLLS = "pst-scrollable-table-container"  # the theme lets the keyboard reach such an element if it scrolls
logger = logging.getLogger(__name__)


@functools.cache
def engine() -> MiniRacer:
    context = MiniRacer()
    context.eval(
        f"var MathJax = {json.dumps(CONFIG)}; MathJax.startup.ready = () => {{}}; var console = {{log() {{}}}};"
    )
    for part in PARTS:
        context.eval((SOURCE / f"{part}.js").read_text())
    context.eval("MathJax.startup.getComponents(); MathJax.startup.makeMethods(); var html = MathJax.startup.adaptor")
    return context


@functools.cache
def typeset(tex: str, display: bool) -> str:
    return str(
        engine().eval(f"html.outerHTML(MathJax.tex2chtml({json.dumps(tex)}, {{display: {json.dumps(display)}}}))")
    )


def checked(tex: str, display: bool, node: nodes.Node) -> str:
    html = typeset(tex, display)
    if "data-mjx-error" in html:
        logger.warning("formula that MathJax does not understand: %s", tex, location=node)
    return html


def inline(self, node):
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(checked(node.astext(), False, node) + "</span>")
    raise nodes.SkipNode


def block(self, node):
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight " + SCROLLS))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    tex = node.astext() if node["nowrap"] else wrap_displaymath(node.astext(), None, False)
    self.body.append(checked(tex, True, node) + "</div>\n")
    raise nodes.SkipNode


def keep_together(app, doctree, docname):
    """No line begins with the comma that follows a formula."""
    for formula in list(doctree.findall(nodes.math)):
        parent, i = formula.parent, formula.parent.index(formula)
        after = next(iter(parent[i + 1 : i + 2]), None)
        if isinstance(after, nodes.Text) and (mark := re.match(r"[-–,.;:!?)’]+", after)):
            both = nodes.inline("", "", formula, nodes.Text(mark[0]), classes=["together"])
            parent[i : i + 2] = [both, nodes.Text(after[mark.end() :])]


def write_style(app, exception):
    """The style sheet, and the fonts beside it; `slim` takes out what no page needs."""
    folder = Path(app.outdir) / "_static/mathjax"
    if exception or app.builder.format != "html":
        return
    folder.mkdir(exist_ok=True)
    (folder / "mathjax.css").write_text(str(engine().eval("html.textContent(MathJax.chtmlStylesheet())")))
    for font in (SOURCE / "output/chtml/fonts/woff-v2").glob("*.woff"):
        (folder / font.name).write_bytes(font.read_bytes())
    engine().close()
    engine.cache_clear()


def setup(app):
    app.add_html_math_renderer("static", (inline, None), (block, None))
    app.add_css_file("mathjax/mathjax.css")
    app.connect("doctree-resolved", keep_together)
    app.connect("build-finished", write_style, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
