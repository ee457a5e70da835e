"""The reference is complete, and what it says of equations, terms and sources leads somewhere."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
import tomllib
import types
from pathlib import Path

import pytest
import yaml
from numpydoc.docscrape import ClassDoc
from numpydoc.validate import validate
from sphinx.pycode import ModuleAnalyzer

import cflows
from cflows.optimizers import Optimizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book"))
import clean  # noqa: E402


def modules(package: types.ModuleType) -> list[str]:
    """Public modules, without "cflows."; a package that has names of its own stands for all of its modules."""
    found = []
    for m in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if "._" not in m.name:
            home = importlib.import_module(m.name)
            found += modules(home) if m.ispkg and not hasattr(home, "__all__") else [m.name.removeprefix("cflows.")]
    return found


MODULES = modules(cflows)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.md"))
PAGES = [*NOTEBOOKS, *sorted((ROOT / "book").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"executed", "_build"} & set(page.parts)]
SOURCES = [*PAGES, *sorted((ROOT / "cflows").rglob("*.py"))]

# Equations that no code has: an expansion, and what follows from others.
NOT_IN_CODE = {"eq-taylor", "eq-cubic", "eq-valley", "eq-gd-variance", "eq-scalar-nu"}


def module(name: str) -> types.ModuleType:
    return importlib.import_module(f"cflows.{name}")


def public(name: str) -> dict[str, object]:
    """Functions and classes that a module defines for others, or a package in `__all__`."""
    home = module(name)
    if hasattr(home, "__path__"):
        return {n: getattr(home, n) for n in home.__all__}
    found = {n: x for n, x in vars(home).items() if not n.startswith("_") and inspect.isroutine(x) | inspect.isclass(x)}
    return {n: x for n, x in found.items() if inspect.getmodule(x) is home}


def members(cls: type) -> dict[str, object]:
    """Public methods and properties of a class, those of private classes of ours that it comes from included."""
    ours = [c for c in cls.__mro__ if c.__module__.startswith("cflows") and (c is cls or c.__name__.startswith("_"))]
    found = {n: x for c in reversed(ours) for n, x in vars(c).items() if not n.startswith("_")}
    kinds = (types.FunctionType, classmethod, staticmethod, property)
    return {n: x for n, x in found.items() if isinstance(x, kinds)}


def lacking(name: str, x: object) -> list[str]:
    """What the docstring of a function lacks, or of a class: sections, parameters, fields."""
    if not inspect.isclass(x):
        codes = {"GL08", "PR01", "PR02", "PR03", "RT01", "YD01"}
        return [f"{name}: {text}" for code, text in validate(name)["errors"] if code in codes]
    doc = ClassDoc(x, config={"show_class_members": False})
    told = {n for section in ("Parameters", "Attributes") for names, *_ in doc[section] for n in names.split(", ")}
    if "Parameters" not in inspect.getdoc(x) and (
        of := re.search(r"parameters are those of `(\w+)`", inspect.getdoc(x))
    ):
        return lacking(f"{name} ({of[1]})", vars(inspect.getmodule(x))[of[1]])
    wanted = set(getattr(x, "_fields", ()))
    if dataclasses.is_dataclass(x):
        told |= {n for c, n in ModuleAnalyzer.for_module(x.__module__).find_attr_docs() if c == x.__name__}
        wanted |= {f.name for f in dataclasses.fields(x)} & vars(x).get("__annotations__", {}).keys()
    elif "__init__" in vars(x) and not issubclass(x, BaseException):
        wanted |= {n.lstrip("*") for n in inspect.signature(x).parameters} - {"options"}
    return [f"{name}: {n} is not described" for n in sorted(wanted - {n.lstrip("*") for n in told})]


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_documented(name):
    assert inspect.getdoc(module(name))
    top = {getattr(cflows, n) for n in cflows.__all__}
    missing = []
    for n, x in public(name).items():
        full = f"cflows.{name}.{n}"
        missing += [] if inspect.getdoc(x) else [f"{full}: no docstring"]
        missing += lacking(full, x)
        for m in members(x) if inspect.isclass(x) else ():
            missing += [] if inspect.getdoc(getattr(x, m)) else [f"{full}.{m}: no docstring"]
            if x in top and not issubclass(x, Optimizer):  # whose methods take and return what it says
                missing += lacking(f"{full}.{m}", members(x)[m])
    assert not missing, "\n".join(missing)


def test_what_is_not_documented_would_be_found(monkeypatch):
    def bare(x):
        return x

    def told(x):
        """Something.

        Parameters
        ----------
        y : int
        """
        return x

    @dataclasses.dataclass
    class Fields:
        """Something.

        Attributes
        ----------
        a : int
        """

        a: int
        b: int

    home = module("errors")
    for x in (bare, told, Fields):
        monkeypatch.setattr(home, x.__name__, x, raising=False)
        monkeypatch.setattr(x, "__module__", home.__name__)
    with pytest.raises(AssertionError) as found:
        test_every_public_name_is_documented("errors")
    for text in (
        "bare: no docstring",
        "{'x'} not documented",
        "Unknown parameters {'y'}",
        "No Returns",
        "b is not described",
    ):
        assert text in str(found.value)
    assert "a is not described" not in str(found.value)


def test_every_public_module_has_its_place():
    text = "\n".join(page.read_text() for page in (ROOT / "book/api").glob("*.md"))
    assert sorted(re.findall(r"^\.\. automodule:: cflows\.([\w.]+)$", text, re.MULTILINE)) == sorted(MODULES)
    toc = (ROOT / "_toc.yml").read_text()
    for page in (ROOT / "book/api").glob("*.md"):
        assert f"file: book/api/{page.stem}\n" in toc
    index = (ROOT / "book/api/index.md").read_text()
    assert set(re.findall(r"{mod}`cflows\.([\w.]+)`", index)) == set(MODULES)
    named = {n for n in cflows.__all__ if n not in MODULES}
    assert named <= set(re.findall(r"`(?:cflows\.)?(\w+) <cflows", index))


def in_code() -> set[tuple[str, str]]:
    """(equation, name) of each line under an equation of the chapters."""
    pairs = set()
    for notebook in NOTEBOOKS:
        blocks = r"^```\{math\}\n:label: (\S+)\n(?:.*\n)*?```\n(?:\n\{in-code\}`(.*)`\n)?"
        for label, names in re.findall(blocks, notebook.read_text(), re.MULTILINE):
            pairs |= {(label, name) for name in names.split(", ")}
    return pairs


def in_docstrings() -> set[tuple[str, str]]:
    return {
        (label, f"{name}.{n}")
        for name in MODULES
        for n, x in public(name).items()
        for label in re.findall(r":eq:`([^`]+)`", inspect.getdoc(x) or "")
    }


def test_equations_lead_to_code_and_back():
    pairs = in_code()
    assert pairs - {(label, "") for label in NOT_IN_CODE} == in_docstrings()
    assert {label for label, name in pairs if not name} == NOT_IN_CODE
    lines = sum(page.read_text().count("{in-code}`") for page in NOTEBOOKS)
    assert lines == len({label for label, name in pairs if name}), "a line that is not under an equation with a label"


def test_every_displayed_equation_has_a_label():
    for notebook in NOTEBOOKS:
        text = notebook.read_text()
        assert len(re.findall(r"^```\{math\}$", text, re.MULTILINE)) == len(
            re.findall(r"^:label: eq-", text, re.MULTILINE)
        )
        assert not re.search(
            r"^\$\$|^\\\[|^\\begin", re.sub(r"```\{math\}.*?```", "", text, flags=re.DOTALL), re.MULTILINE
        )


def test_every_term_is_explained_and_used():
    entries = set(re.findall(r"^(\S.*)\n  \S", (ROOT / "book/glossary.md").read_text(), re.MULTILINE))
    text = "\n".join(page.read_text() for page in PAGES if page.name != "glossary.md")
    used = set(re.findall(r"{term}`(?:[^`<]*<)?([^`>]*)>?`", text))
    assert used == entries


def test_every_source_is_cited_and_every_citation_has_one():
    entries = set(re.findall(r"^@\w+\{(\S+),$", (ROOT / "book/references.bib").read_text(), re.MULTILINE))
    cited = set()
    for source in SOURCES:
        for keys in re.findall(r"(?:\{cite[\w:]*\}|:cite(?::\w+)*:)`([^`]+)`", source.read_text()):
            cited |= set(re.split(r",\s*", keys))
    assert cited == entries
    named = re.compile(r"\b[A-Z][a-zü]+(?: et al\.| and [A-Z][a-zü]+)?,? \(?(?:19|20)\d\d\b")  # and not by a key
    for source in sorted((ROOT / "cflows").rglob("*.py")):
        assert not named.search(source.read_text()), source


def test_the_companion_is_cited_as_its_file_says():
    file = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    entry = re.search(r"@misc\{cflows,\n(.*?)\n\}", (ROOT / "book/references.bib").read_text(), re.DOTALL)[1]
    fields = {k: re.sub(r"[{}]", "", v) for k, v in re.findall(r"^  (\w+) += \{(.*)\},?$", entry, re.MULTILINE)}
    assert fields["title"] == file["title"]
    assert fields["note"] == f"Version {file['version']}"
    assert fields["url"] == f"{clean.Home.read().site}/book/intro.html"
    assert fields["author"] == " and ".join(a["name"] for a in file["authors"])
    assert file["version"] == cflows.__version__
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    assert urls["Source"] == repository["url"]
    assert urls["Changelog"] == f"{repository['url']}/blob/{repository['branch']}/CHANGELOG.md"
    assert urls["Homepage"] == clean.Home.read().site
    paper = file["references"][0]
    text = (ROOT / "book/references.bib").read_text()
    for value in (paper["title"], str(paper["year"]), *(a["family-names"] for a in paper["authors"])):
        assert value in text
