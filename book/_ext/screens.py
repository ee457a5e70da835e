"""Figures for every screen: the drawings for phones beside the wide ones, and a script for films."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from cflows.book.phone import MIME

WIDE = "image/svg+xml"


def narrow(name: str) -> str:
    """What the drawing for a phone is called, from the name of the wide one."""
    return name.replace(".svg", ".phone.svg")


def drawings(notebook: Path) -> dict[str, str]:
    """The drawings for phones that an executed notebook holds, by the name that MyST-NB gives to the wide one."""
    found = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if {WIDE, MIME} <= output.get("data", {}).keys():
                wide, phone = ("".join(output["data"][kind]) for kind in (WIDE, MIME))
                content = os.linesep.join(wide.splitlines()).encode()
                found[f"{hashlib.sha256(content).hexdigest()}.svg"] = phone
    return found


def _ship(app, exception):
    if exception or app.builder.format != "html":
        return
    images = Path(app.outdir, "_images")
    for notebook in Path(app.srcdir, "book/executed").glob("*.ipynb"):
        for name, phone in drawings(notebook).items():
            if (images / name).exists():
                (images / narrow(name)).write_text(phone, encoding="utf-8")


def _films(app, pagename, templatename, context, doctree):
    if '<video class="film"' in context.get("body", ""):
        app.add_js_file("films.js", loading_method="defer")


def setup(app):
    app.connect("html-page-context", _films)
    app.connect("build-finished", _ship, priority=800)  # before `slim`, which links to them
    return {"parallel_read_safe": True, "parallel_write_safe": True}
