"""Chapters as notebooks that open anywhere: without outputs, in Markdown that Jupyter and Colab show, and with a first
cell that installs what is missing.

    python book/clean.py FOLDER    writes them into a folder
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
import yaml
from pybtex.database import parse_file

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.md"))

# Each package that is there already is a constraint: pip adds what is missing, or says why it can't be.
INSTALL = """\
# Where cflows is missing, as in Colab: install it, and leave each package that is already there as it is.
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("CFLOWS_URL", "{runs}")  # runs that take long come from here
if importlib.util.find_spec("cflows") is None:
    pip = [sys.executable, "-m", "pip"]
    present = Path(tempfile.mkdtemp()) / "present.txt"
    present.write_bytes(subprocess.check_output([*pip, "list", "--format=freeze"]))
    subprocess.run([*pip, "install", "--quiet", "--constraint", present, "cflows[notebooks] @ {source}"], check=True)
    importlib.invalidate_caches()

import torch

print("computing on", torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU")"""

DIRECTIVE = re.compile(
    r"""^(?P<fence>`{3,}|:{3,})\{(?P<kind>[\w:-]+)\}(?P<title>[^\n]*)\n
    (?P<options>(?::[\w-]+:[^\n]*\n)*)
    (?P<body>.*?)
    ^(?P=fence)[ ]*(?:\n|\Z)""",
    re.M | re.S | re.X,
)


@dataclass(frozen=True)
class Home:
    """Where the book is, derived from the repository's address in `_config.yml`."""

    owner: str
    name: str
    branch: str
    pages = "gh-pages"  # branch of the published site

    @classmethod
    def read(cls) -> Home:
        repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
        if not (found := re.fullmatch(r"https://github\.com/([^/]+)/([^/]+?)/?", repository["url"])):
            raise ValueError(f"Colab and Binder open notebooks of GitHub; repository.url is {repository['url']}")
        return cls(found[1], found[2], repository["branch"])

    @property
    def source(self) -> str:
        return f"git+https://github.com/{self.owner}/{self.name}@{self.branch}"

    @property
    def site(self) -> str:
        return f"https://{self.owner}.github.io/{self.name}"

    @property
    def runs(self) -> str:
        return f"{self.site}/runs"

    def colab(self, notebook: str) -> str:
        path = f"{self.owner}/{self.name}/blob/{self.pages}/notebooks/{notebook}.ipynb"
        return f"https://colab.research.google.com/github/{path}"

    def binder(self, notebook: str) -> str:
        path = f"{self.owner}/{self.name}/{self.branch}?urlpath=lab/tree/notebooks/{notebook}.ipynb"
        return f"https://mybinder.org/v2/gh/{path}"


def labels() -> dict[str, tuple[str, str]]:
    """What the text refers to by a label: the page with its anchor, and what to call it (nothing for a page)."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted((ROOT / "book").glob("*.md")):
        found |= dict.fromkeys(re.findall(r"^\((.+)\)=", path.read_text(), re.M), (f"book/{path.stem}.html", ""))
    for page in ("scorecard", "source-figures", "benchmarks", "status"):
        found[page] = (f"book/executed/{page}.html", "")
    for number, path in enumerate(CHAPTERS, 1):
        text, page = path.read_text(), f"book/executed/{path.stem}.html"
        found |= dict.fromkeys(re.findall(r"^\((.+)\)=", text, re.M), (page, ""))
        for i, label in enumerate(re.findall(r"^:label: (\S+)", text, re.M), 1):
            found[label] = (f"{page}#equation-{label}", f"({number}.{i})")
        for i, label in enumerate(re.findall(r"^ +name: (fig-\S+)", text, re.M), 1):
            found[label] = (f"{page}#{label}", f"Fig. {number}.{i}")
    return found


def citation(keys: str) -> str:
    entries = parse_file(ROOT / "book/references.bib").entries
    shown = []
    for key in keys.split(","):
        first, *others = (str(person.last_names[0]) for person in entries[key.strip()].persons["author"])
        who = f"{first} et al." if len(others) > 1 else " and ".join([first, *others])
        shown.append(f"{who}, {entries[key.strip()].fields['year']}")
    return f"[{'; '.join(shown)}]"


def markdown(text: str, known: dict[str, tuple[str, str]], site: str) -> str:
    """The text of a cell, its MyST roles, directives and labels turned into plain Markdown with links to the site."""

    def link(label: str, text: str = "") -> str:
        page, name = known[label]
        return f"[{text or name or label}]({site}/{page})"

    def directive(match: re.Match) -> str:
        kind, options, body = match["kind"], match["options"] or "", match["body"].strip()
        if kind == "math":
            label = re.search(r":label: (\S+)", options)
            tag = f" \\tag{{{known[label[1]][1].strip('()')}}}" if label else ""
            return f"$$\n{body}{tag}\n$$\n"
        if kind == "raw":  # HTML that lives on the site
            return ""
        if kind == "laboratory":
            return "*On the site a network trains here, live: see the [Laboratory](laboratory).*\n"
        lines = [f"**{match['title'].strip() or kind.capitalize()}**", "", *body.splitlines()]
        return "\n".join(f"> {line}".rstrip() for line in lines) + "\n"

    def role(match: re.Match) -> str:
        kind, content = match["kind"], match["content"]
        if kind in ("eq", "numref", "ref"):
            text, _, target = content.removesuffix(">").rpartition("<")
            return link(target, text.strip())
        if kind.startswith("cite"):
            return citation(content)
        if kind == "in-code":
            return "In code: " + ", ".join(f"`cflows.{name}`" for name in content.split(", "))
        title = re.sub(r"\s*<.*>$", "", content)
        return title if kind in ("term", "abbr") else f"`{title.lstrip('~')}`"

    def to_page(match: re.Match) -> str:
        text, target = match.groups()
        target = target.removesuffix(".md")
        if target in known:
            return link(target, text)
        return match[0] if re.match(r"\w+:|#", target) else f"[{text}]({site}/book/{target}.html)"

    text = re.sub(r"^\([\w-]+\)=\n", "", text, flags=re.M)
    text = DIRECTIVE.sub(directive, text)
    text = re.sub(r"(?<!!)\[([^\]\[]+)\]\(([^)\s]+)\)", to_page, text)
    return re.sub(r"\{(?P<kind>[a-z][\w:-]*)\}`(?P<content>[^`]+)`", role, text).strip()


def clean(path: Path, home: Home, source: str = "") -> nbformat.NotebookNode:
    """A chapter as a clean notebook, which installs cflows from ``source`` (the repository, if none is given)."""
    content, known = jupytext.read(path), labels()
    install = INSTALL.format(runs=home.runs, source=source or home.source)
    cells = []
    for cell in content.cells:
        figure = cell.metadata.pop("mystnb", {}).get("figure", {})
        if cell.cell_type == "markdown":
            cell.source = markdown(cell.source, known, home.site)
        if "hide-input" in cell.metadata.get("tags", []):  # as JupyterLab and Colab call it
            cell.metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}
        cells.append(cell)
        if figure:
            name = f"**{known[figure['name']][1]}** " if "name" in figure else ""
            cells.append(nbformat.v4.new_markdown_cell(name + markdown(figure["caption"], known, home.site)))
    page = f"{home.site}/book/executed/{path.stem}.html"
    title, _, text = cells[0].source.partition("\n")
    about = f"*A chapter of [Central flows of RMSProp]({home.site}). Read it [there]({page}), change it here.*"
    cells[0].source = f"{title}\n\n{about}\n{text}"
    cells.insert(1, nbformat.v4.new_code_cell(install, metadata={"tags": ["install"]}))
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"  # jupytext makes random ones
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": content.metadata["kernelspec"]})


def write(folder: Path, source: str = "") -> None:
    """Write all chapters as clean notebooks into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in CHAPTERS:
        nbformat.write(clean(path, Home.read(), source), folder / f"{path.stem}.ipynb")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
