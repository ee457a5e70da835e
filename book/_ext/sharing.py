"""What search engines and other sites show of a page: its address, a description, a picture, and a map of the site.

`sphinxext.opengraph` and `sphinx_sitemap` do it; here they learn where the site is, which follows from the repository's
address in `_config.yml`. A page with a film has its poster for a picture, every other page a card with its title.
"""

from __future__ import annotations

import re
from pathlib import Path

import clean
from docutils import nodes
from PIL import Image

POSTER = re.compile(r'poster="[^"]*?_static/media/([\w-]+\.jpg)"')


def _address(app, config):
    config.html_baseurl = config.ogp_site_url = f"{clean.Home.read().site}/"


def description(doctree: nodes.document, length: int = 200) -> str:
    """The first paragraphs of a page, without what is no sentence, as many words as there is room for."""
    words: list[str] = []
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section | nodes.document):
            words += plain(paragraph).split()
        if len(" ".join(words)) >= length // 2:
            break
    text = " ".join(words)
    if len(text) <= length:
        return text
    return text[: text.rfind(" ", 0, length - 1)].rstrip(" ,;:") + "…"


#: What stands for a formula in plain text: its Greek letters and signs, without commands that only shape it.
SIGNS = {
    "nu": "ν", "eta": "η", "beta": "β", "Sigma": "Σ", "theta": "θ", "lambda": "λ", "varepsilon": "ε", "nabla": "∇",
    "bar": "", "hat": "", "sqrt": "√", "odot": "⊙", "top": "ᵀ", "tfrac": "", "partial": "∂", "to": "→", "times": "×",
}  # fmt: skip


def plain(node: nodes.Node) -> str:
    """Its text; formulas as characters."""
    if isinstance(node, nodes.math):
        text = re.sub(r"\\([A-Za-z]+) ?", lambda m: SIGNS.get(m[1], m[1]), node.astext())
        return re.sub(r"[{}$\\]", "", text)
    if isinstance(node, nodes.Text):
        return str(node)
    return "".join(plain(child) for child in node.children)


def _describe(app, pagename, templatename, context, doctree):
    """Before `sphinxext.opengraph` looks: a poster of the page's own, and its description where it would take TeX."""
    if not doctree:
        return
    context["meta"] = meta = dict(context.get("meta") or {})
    text = description(doctree)
    if len(text) < 60:
        text = (
            f"{text} ({app.config.project}: a book whose numbers are computed when it is built, and a library.)".strip()
        )
    meta.setdefault("og:description", text)
    context["metatags"] += f'<meta name="description" content="{text.replace(chr(34), "&quot;")}" />\n'
    html = context.get("body", "")
    if found := POSTER.search(html):
        path = Path(app.srcdir, "book/_static/media", found[1])
        meta["og:image"] = f"{app.config.html_baseurl}_static/media/{found[1]}"
        meta["og:image:alt"] = text
        if path.exists():
            width, height = Image.open(path).size
            meta |= {"og:image:width": str(width), "og:image:height": str(height)}


def setup(app):
    app.connect("config-inited", _address, priority=100)
    app.connect("html-page-context", _describe, priority=400)  # before sphinxext.opengraph
    return {"parallel_read_safe": True, "parallel_write_safe": True}
