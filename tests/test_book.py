"""What the pages say can be done, can be done."""

import re
from pathlib import Path

import jupytext
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "book/run-it-yourself.md"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_code_on_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    names: dict = {}
    exec(compile(code, page.name, "exec"), names)
    assert float(names["tree"]["central"]["predicted_loss"][-1]) > 0
    assert "nan" not in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_on_a_page_exist(page):
    text, makefile = page.read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z]+)", text))
    assert {"book", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    from cflows.__main__ import DEFINITIONS, main

    assert DEFINITIONS
    for command in set(re.findall(r"^(?:\.venv/bin/)?cflows (\w+)", text, re.MULTILINE)):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_can_be_parametrised_and_is_in_the_book(notebook):
    cells = jupytext.read(notebook).cells
    parameters = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters) == 1
    assert 'preset = "laptop"' in parameters[0].source
    assert f"book/executed/{notebook.stem}" in (ROOT / "_toc.yml").read_text()
    for cell in cells:
        options = cell.metadata.get("mystnb", {})
        drawn = "plt.show()" in cell.source or ("figure" in options and cell.source.endswith(";"))
        if cell.cell_type == "code" and drawn:
            assert options.get("figure", {}).get("caption"), cell.source
            assert options.get("image", {}).get("alt"), cell.source


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_chapter_opens_with_its_question_and_ends_with_the_answer(notebook):
    text = "\n\n".join(c.source for c in jupytext.read(notebook).cells if c.cell_type == "markdown")
    first = re.split(r"\n\s*\n", text.split("\n# ", 1)[-1].split("\n", 1)[1].strip())[0]
    assert "?" in first
    sections = [name for name in re.findall(r"^## (.+)$", text, re.MULTILINE) if name != "Try it"]
    assert sections[-1] == "In short"


def test_the_address_of_the_repository_has_one_home():
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert url.startswith("https://")
    texts = (
        "notebooks/*.md",
        "book/*.md",
        "book/**/*.py",
        "cflows/**/*.py",
        "tests/*.py",
        "*.yml",
        ".github/*/*.yml",
    )
    for path in (path for pattern in texts for path in ROOT.glob(pattern)):
        if path.name != "_config.yml":
            assert url.removeprefix("https://") not in path.read_text(), path


# Numbers in the text that are not results: sizes and settings that the code fixes, or facts from the literature.
KNOWN = {
    "intro.md": {"2410.24206"},  # the paper's number on arXiv
    "run-it-yourself.md": {"3.11", "1,000"},  # Python; images in the package
}


@pytest.mark.parametrize("page", [*NOTEBOOKS, *sorted((ROOT / "book").glob("*.md"))], ids=lambda p: p.name)
def test_no_result_is_typed_into_the_text(page):
    """Results in the book come from code that ran; the text has no decimals, percentages or large numbers."""
    texts = []
    for cell in jupytext.read(page, fmt="md:myst").cells:
        if cell.cell_type == "markdown":
            texts.append(cell.source)
        options = cell.metadata.get("mystnb", {})
        texts += [options.get("figure", {}).get("caption", ""), options.get("image", {}).get("alt", "")]
    text = "\n".join(texts)
    for pattern in (r"```(\{math\}|\{raw\}|\{laboratory\}|\w*\n).*?```", r"`[^`\n]*`", r"\$[^$]*\$"):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    found = re.findall(r"\d+\.\d+|\d+(?:\.\d+)?\s?(?:%|per cent)|\d[\d,]{3,}", text)
    assert set(found) <= KNOWN.get(page.name, set())


def test_a_typed_result_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("The loss falls to 0.0045, by 3 %, in `0.5` of $0.1$.\n")
    with pytest.raises(AssertionError):
        test_no_result_is_typed_into_the_text(page)
