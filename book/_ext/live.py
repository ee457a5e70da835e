"""The laboratory in the pages: what it trains, its scripts as one file, and the places where it stands.

Its engine and its page are plain modules in ``book/laboratory``. A page loads them as one script, on a click.
"""

from __future__ import annotations

import json
import math
import re
from html import escape
from pathlib import Path

import torch
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective, SphinxRole
from torch import nn

FOLDER = Path(__file__).resolve().parents[1] / "laboratory"
SCRIPT, STYLE = "laboratory.js", "laboratory.css"
WIDTHS, SEEDS = (8, 20), 3
#: What the networks fit, over 16 points x: PyTorch's expressions, which the page shows to those who repeat a run.
CURVES = {
    "wave": "torch.sin(4 * x)",
    "bump": "torch.exp(-8 * x**2)",
    "corner": "2 * x.abs() - 1",
    "step": "torch.sign(x)",
}
VALLEY = {"slope": 0.01, "start": [0.1, 9.7]}
BOWL = {"hessian": [[2.0, 1.2], [1.2, 1.6]], "start": [0.8, -0.7]}


def network(width: int, seed: int) -> nn.Sequential:
    """A tanh network of one input and one output, drawn in single precision."""
    torch.manual_seed(seed)
    layers = nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    return nn.Sequential(*layers).double()


def data() -> dict:
    """What the laboratory trains: points, curves, weights to begin with, and the problems with two weights."""
    x = torch.linspace(-1, 1, 16, dtype=torch.float64)

    def weights(width: int, seed: int) -> list[float]:
        with torch.random.fork_rng():
            vector = nn.utils.parameters_to_vector(network(width, seed).parameters())
        return [float(f"{v:.9g}") for v in vector.tolist()]  # which is enough to tell single precision

    return {
        "inputs": x.tolist(),
        "fine": [round(-1.1 + 0.02 * i, 2) for i in range(111)],
        "curves": {name: eval(curve, {"torch": torch, "x": x}).tolist() for name, curve in CURVES.items()},
        "expressions": CURVES,
        "weights": {width: [weights(width, seed) for seed in range(SEEDS)] for width in WIDTHS},
        "valley": VALLEY,
        "bowl": BOWL,
    }


IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+)\.js";\n', re.M)
EXPORT = re.compile(r"^export (?=(?:const|function\*?|class) (\w+))", re.M)


def bundle(entry: Path) -> str:
    """A module and all that it imports, as one expression, which also works where a site is a folder of files."""
    done: dict[str, str] = {}

    def visit(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        for _, name in IMPORT.findall(text):
            if name not in done:
                visit(path.with_name(f"{name}.js"))
        names = EXPORT.findall(text)
        text = IMPORT.sub(
            lambda m: f'const {{{m[1].replace(" as ", ": ")}}} = modules["{m[2]}"];\n', EXPORT.sub("", text)
        )
        if re.search(r"^(?:import|export)\b", text, re.M):
            raise ValueError(f"{path} imports or exports in a form that is not known here")
        done[path.stem] = f'modules["{path.stem}"] = (() => {{\n{text}\nreturn {{ {", ".join(names)} }};\n}})();\n'

    visit(entry)
    return f'(() => {{\nconst modules = {{}};\n{"".join(done.values())}return modules["{entry.stem}"];\n}})();\n'


def script() -> str:
    """All that a page loads: the page's side, with the engine and the data as text."""
    parts = {"cflowsEngine": bundle(FOLDER / "engine/worker.js"), "cflowsData": data()}
    head = "".join(f"var {name} = {json.dumps(value, separators=(',', ':'))};\n" for name, value in parts.items())
    return head + bundle(FOLDER / "page/page.js")


class Place(nodes.General, nodes.Element):
    """Where a laboratory stands."""


def poster() -> str:
    """What to expect, lightly drawn: an eigenvalue that rises to 2 and stays, an optimizer that swings about it."""
    flow = [max(40.0, 130 - 0.9 * x) for x in range(0, 401, 5)]
    swing = [20 * math.sin(i / 6) ** 2 * (-1) ** i if y == 40 else 0 for i, y in enumerate(flow)]
    optimizer = [y + away for y, away in zip(flow, swing, strict=True)]
    curves = "".join(
        f'<polyline points="{" ".join(f"{5 * i},{y:.0f}" for i, y in enumerate(curve))}" stroke="{color}"/>'
        for curve, color in ((optimizer, "#0072B2"), (flow, "#111111"))
    )
    edge = '<path d="M0 40H400" stroke="#999999" stroke-dasharray="5 4"/>'
    return f'<svg viewBox="0 0 400 140" preserveAspectRatio="none" aria-hidden="true">{edge}{curves}</svg>'


def place(call: str, script: str, settings: str = "", panels: str = "", controls: str = "") -> str:
    """A poster with a button that loads the script, and asks it to begin here."""
    said = {"laboratory": settings, "panels": panels, "controls": controls, "script": script}
    options = " ".join(f'data-{name}="{escape(value)}"' for name, value in said.items())
    return (
        f'<div class="cflows-laboratory" {options}><div class="poster">{poster()}'
        f'<button type="button" class="load">{escape(call)}</button></div>'
        "<noscript>The laboratory trains in this page and needs JavaScript.</noscript></div>"
    )


def visit_place(self, node):
    top = "../" * self.builder.current_docname.count("/")
    self.body.append(place(script=f"{top}_static/{SCRIPT}", **node["given"]))


class Laboratory(SphinxDirective):
    """``{laboratory} call``: a laboratory, with its settings as they stand in an address, some panels and controls."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = dict.fromkeys(("settings", "panels", "controls"), directives.unchanged)

    def run(self):
        return [Place(given={"call": self.arguments[0], **self.options})]


class Set(SphinxRole):
    """``{set}`text <lr=0.003&penalty=off>```: a button in the text that sets the laboratory of the page."""

    def run(self):
        text, _, settings = self.text.removesuffix(">").rpartition("<")
        html = f'<button type="button" class="cflows-set" data-set="{escape(settings)}">{escape(text.strip())}</button>'
        return [nodes.raw("", html, format="html")], []


def _ship(app, exception):
    if not exception and app.builder.format == "html":
        Path(app.outdir, "_static", SCRIPT).write_text(script(), encoding="utf-8")


def _style(app, pagename, templatename, context, doctree):
    if doctree and next(doctree.findall(Place), None):
        app.add_css_file(STYLE)
        app.add_js_file("laboratory-button.js", loading_method="defer")


def setup(app):
    app.add_node(Place, html=(visit_place, lambda self, node: None))
    app.add_directive("laboratory", Laboratory)
    app.add_role("set", Set())
    app.connect("html-page-context", _style)
    app.connect("build-finished", _ship, priority=100)  # before style sheets lose what no page uses
    return {"parallel_read_safe": True, "parallel_write_safe": True}
