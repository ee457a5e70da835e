"""Chapters as notebooks that open anywhere, and what the site says of how they ran."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

from cflows import experiments, store

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book"))
import clean  # noqa: E402
import running  # noqa: E402
import status  # noqa: E402

HOME = clean.Home("someone", "something", "trunk")
KNOWN = {
    "eq-a": ("p.html#equation-eq-a", "(3.1)"),
    "fig-a": ("p.html#fig-a", "Fig. 3.2"),
    "chapter": ("q.html", ""),
    "laboratory": ("l.html", ""),
}


@pytest.mark.parametrize("chapter", clean.CHAPTERS, ids=lambda p: p.stem)
def test_a_clean_notebook_is_plain_and_complete(chapter):
    notebook = clean.clean(chapter, HOME)
    nbformat.validate(notebook)
    texts = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    codes = [c.source for c in notebook.cells if c.cell_type == "code"]
    assert texts[0].startswith("# ")
    for text in texts:
        assert not re.search(r"\{[\w:-]+\}`|^\([\w-]+\)=|^(```|:::)\{|^\+\+\+", text, re.MULTILINE), text
    source = chapter.read_text()
    assert sum(text.count(r"\tag{") for text in texts) == len(re.findall("^:label:", source, re.MULTILINE))
    assert sum(text.startswith("**Fig. ") for text in texts) == len(re.findall("^ +name: fig-", source, re.MULTILINE))
    assert '"cflows[notebooks] @ git+https://github.com/someone/something@trunk"' in codes[0]
    assert "https://someone.github.io/something/runs" in codes[0]
    assert len(codes) == 1 + source.count("```{code-cell}")
    assert not any(c.get("outputs") for c in notebook.cells)
    assert clean.clean(chapter, HOME) == notebook  # to the last id


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        ("(top)=\n# Title", "# Title"),
        ("by {eq}`eq-a`,", "by [(3.1)](S/p.html#equation-eq-a),"),
        ("{numref}`fig-a` and {ref}`here <chapter>`", "[Fig. 3.2](S/p.html#fig-a) and [here](S/q.html)"),
        ("[next](chapter), [x](notation.md), [y](https://z)", "[next](S/q.html), [x](S/book/notation.html), [y](https://z)"),
        ("{cite}`cohen2025`", "[Cohen et al., 2025]"),
        ("{py:func}`~cflows.simulate` of {term}`edge <the edge>`", "`cflows.simulate` of edge"),
        ("```{math}\n:label: eq-a\nx .\n```\nThen\n```{math}\ny\n```", "$$\nx . \\tag{3.1}\n$$\nThen\n$$\ny\n$$"),
        (":::{note}\nLook.\n:::\nOn", "> **Note**\n>\n> Look.\nOn"),
        ("```{raw} html\n<video>\n```\nOn", "On"),
        (
            "```{laboratory} Go\n:panels: loss\n```\nOn",
            "*On the site a network trains here, live: see the [Laboratory](S/l.html).*\nOn",
        ),
        ("```python\nx\n```", "```python\nx\n```"),
    ],
)  # fmt: skip
def test_myst_becomes_markdown(myst, plain):
    assert clean.markdown(myst, KNOWN, "S") == plain


def test_a_reference_to_nothing_is_an_error():
    with pytest.raises(KeyError, match="eq-b"):
        clean.markdown("by {eq}`eq-b`", KNOWN, "S")


def test_links_derive_from_the_address(monkeypatch, tmp_path):
    monkeypatch.setattr(clean, "ROOT", tmp_path)
    config = tmp_path / "_config.yml"
    config.write_text("repository: {url: 'https://github.com/someone/something', branch: trunk}")
    home = clean.Home.read()
    assert home == HOME
    assert home.colab("01-a") == (
        "https://colab.research.google.com/github/someone/something/blob/gh-pages/notebooks/01-a.ipynb"
    )
    assert home.binder("01-a") == (
        "https://mybinder.org/v2/gh/someone/something/trunk?urlpath=lab/tree/notebooks/01-a.ipynb"
    )
    config.write_text("repository: {url: 'https://example.org/x/y', branch: trunk}")
    with pytest.raises(ValueError, match=r"example\.org"):
        clean.Home.read()


def test_the_status_page_says_what_notebooks_and_runs_say(monkeypatch, cache, tmp_path):
    small = {
        "width": 2,
        "per_class": 2,
        "size": 8,
        "steps": 6,
        "coords": 2,
        "burn_in": 0,
        "replay_steps": 2,
        "branch_step": 2,
    }
    tree = experiments.run("rmsprop-resnet", "ci", **small)
    name = experiments.get("rmsprop-resnet", "ci", **small).path.name
    metadata = {
        "papermill": {"start_time": "2031-02-03T04:05:06+00:00", "duration": 321.0},
        "cflows": {"runs": [name], "hardware": "An abacus", "versions": {"Python": "3.99", "torch": "9.8"}},
    }
    cells = [nbformat.v4.new_markdown_cell("(label)=\n# Beads")]
    path = tmp_path / "01-beads.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    status.write([path], tmp_path)
    page = (tmp_path / "status.md").read_text()
    for part in (
        "Beads",
        "2031-02-03 04:05",
        "5 min",
        "An abacus",
        "Python 3.99, torch 9.8",
        name,
        store.provenance(tree)["hardware"],
    ):
        assert part in page, part
    assert running.place(name) == cache / "runs" / name
