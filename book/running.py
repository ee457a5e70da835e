"""From each chapter to running code: Colab, Binder, the notebook without outputs, data of the runs that it shows."""

from __future__ import annotations

import json
import shutil
from html import escape
from pathlib import Path

import clean
from sphinx.errors import ExtensionError

from cflows import store


def record(notebook: Path) -> dict:
    """What `book/build.py` wrote down when it executed a notebook."""
    return json.loads(notebook.read_text())["metadata"].get("cflows", {})


def place(name: str) -> Path:
    """Where a run file is that a notebook was given."""
    return next(p for p in (store.cache() / name, clean.ROOT / "runs" / name) if p.exists())


def _chapter(app, pagename: str) -> Path | None:
    path = Path(app.srcdir, f"{pagename}.ipynb")
    return path if any(path.stem == chapter.stem for chapter in clean.CHAPTERS) else None


def _links(app, pagename, templatename, context, doctree):
    if not (chapter := _chapter(app, pagename)) or not doctree:
        return
    home, top = clean.Home.read(), "../" * pagename.count("/")
    notebook = f"{top}notebooks/{chapter.stem}.ipynb"
    links = [
        f'<a class="run-main" href="{home.colab(chapter.stem)}">Open in Colab</a>',
        f'<a href="{home.binder(chapter.stem)}">Binder</a>',
        f'<a href="{notebook}" download>Notebook</a>',
    ]
    if names := record(chapter).get("runs"):
        files = [f'<li><a href="{top}runs/{name}" download>{escape(name)}</a></li>' for name in names]
        links.append(f"<details><summary>Data (NetCDF)</summary><ul>{''.join(files)}</ul></details>")
    nav = f'<nav class="run-links" aria-label="Run this chapter">{"".join(links)}</nav>'
    context["body"] = context["body"].replace("</h1>", f"</h1>{nav}", 1)
    for group in context["header_buttons"]:
        for button in group.get("buttons", []):
            if button.get("label") == "download-source-button":
                button["url"] = notebook


def _check_numbers(env) -> None:
    """Equations and figures have the numbers in the notebooks that they have on the pages."""
    for label, (page, name) in clean.labels().items():
        document, _, anchor = page.partition(".html#")
        kinds = env.toc_fignumbers.get(document, {}).values()
        numbers = [".".join(map(str, kind[anchor])) for kind in kinds if anchor in kind]
        if name and name.strip("()").removeprefix("Fig. ") not in numbers:
            raise ExtensionError(f"{label} is {name} in the notebooks, and {' or '.join(numbers)} on {document}")


def _ship(app, exception):
    """Put the clean notebooks and the runs beside the pages."""
    if exception or app.builder.format != "html":
        return
    _check_numbers(app.env)
    clean.write(Path(app.outdir, "notebooks"))
    folder = Path(app.outdir, "runs")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    executed = [Path(app.srcdir, "book/executed", f"{chapter.stem}.ipynb") for chapter in clean.CHAPTERS]
    for name in {name for notebook in executed for name in record(notebook).get("runs", [])}:
        if (source := place(name)).parent == store.cache():
            store.put(source, folder)
        else:
            shutil.copy(source, folder)


def setup(app):
    app.add_css_file("running.css")
    app.connect("html-page-context", _links, priority=900)  # after the theme has made its buttons
    app.connect("build-finished", _ship)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
