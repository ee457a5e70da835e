"""A page loads what it uses: what no page of the site needs is taken out of style sheets and fonts."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

import tinycss2
from bs4 import BeautifulSoup
from drawings import light
from fontTools import subset
from screens import narrow

NAMES = re.compile(r"\.((?:[\w-]|\\.)+)")
ASIDE = re.compile(r":not\([^)]*\)|\[[^]]*\]")
WOFF2 = re.compile(r'url\([^)]*\.woff2\) format\("woff2"\),')  # needs brotli; each font comes in another format, too
# Scripts that no page uses: icons, 1.5 MB, which come from fonts; sphinx-thebe's, which come twice, an error.
UNUSED = "script[src*='scripts/fontawesome.js'], script:-soup-contains('thebe', 'THEBE'), script[src*='thebe']"
# The index of all words, 100 kB: the field for a search leads to the page that needs it.
SEARCH = "script[src*='searchtools.js'], script[src*='language_data.js'], script[src*='searchindex.js']"


def purge(rules: list, used: set[str]) -> str:
    """The rules of a style sheet whose selectors name used classes only."""
    kept = []
    for rule in rules:
        if rule.type == "qualified-rule":
            selectors = tinycss2.serialize(rule.prelude)
            wanted = [
                s for s in re.split(r",(?![^(\[]*[)\]])", selectors)
                if {n.replace("\\", "") for n in NAMES.findall(ASIDE.sub("", s))} <= used
            ]  # fmt: skip
            if wanted:
                kept.append(f"{','.join(wanted)}{{{tinycss2.serialize(rule.content)}}}")
        elif rule.type == "at-rule" and rule.at_keyword in ("media", "supports", "layer") and rule.content:
            inside = purge(tinycss2.parse_rule_list(rule.content, True, True), used)
            if inside:
                kept.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inside}}}")
        else:
            kept.append(rule.serialize())
    return "".join(kept)


def shrink(font: Path, characters: set[int]) -> None:
    """Keep some characters of a font."""
    flavor = "woff" if font.suffix == ".woff" else None
    options = subset.Options(flavor=flavor, layout_features=[], hinting=False)
    options.drop_tables += ["FFTM"]
    program = subset.load_font(font, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=characters)
    subsetter.subset(program)
    subset.save_font(program, font, options)


def tidy(page: str, search: bool = False, phone: Container[str] = ()) -> str:
    """A page without scripts that it does not use, with what its readers' assistive devices and phones need.

    ``phone`` has the names of figures that were drawn for a phone, too.
    """
    soup = BeautifulSoup(page, "html.parser")
    for script in soup.select(UNUSED if search else f"{UNUSED}, {SEARCH}"):
        script.decompose()
    for summary in soup.select("summary:has(> .toctree-toggle)"):
        summary["aria-label"] = "pages of this section"
    for entry in soup.select("[role=doc-biblioentry], .citation-list[role=list]"):
        del entry["role"]  # a list without items, an item of none
    for term in soup.select("dl > dt:last-child"):  # a list of definitions must not end with a term
        term.insert_after(soup.new_tag("dd"))
    for twice in soup.select("meta[name=viewport]")[1:]:  # from Sphinx and from the theme
        twice.decompose()
    if (title := soup.title) and len(set(parts := title.get_text().split(" — "))) < len(parts):
        title.string = parts[0]  # of the first page, which is called as the book
    heading, brand = soup.select_one("h1"), soup.select_one(".navbar-brand")
    if heading and brand and heading.get_text().rstrip("#").strip() == brand.get_text().strip():
        brand.decompose()
    for figure in soup.select("img[src*='_images/'][src$='.svg']:not(picture > img)"):
        picture = figure.wrap(soup.new_tag("picture"))
        if narrow(Path(str(figure["src"])).name) in phone:
            source = {"media": "(max-width: 600px)", "srcset": narrow(str(figure["src"]))}
            picture.insert(0, soup.new_tag("source", attrs=source))
    return str(soup)


def slim(app, exception):
    if exception or app.builder.format != "html":
        return
    site = Path(app.outdir)
    phone = {figure.name for figure in site.glob("_images/*.phone.svg")}
    for page in site.rglob("*.html"):
        page.write_text(tidy(page.read_text(), page.name == "search.html", phone))
    for unused in {*site.rglob("*.map"), *site.rglob("*.woff2"), *site.glob("_static/scripts/fontawesome.js*")}:
        unused.unlink()
    texts = [file.read_text() for kind in ("html", "js") for file in site.rglob(f"*.{kind}")]
    used = set(re.findall(r"[\w-]+", " ".join(texts)))
    characters: set[int] = set()
    for sheet in site.rglob("*.css"):
        text = WOFF2.sub("", sheet.read_text())
        style = purge(tinycss2.parse_stylesheet(text, True, True), used)
        sheet.write_text(style)
        characters |= {int(code, 16) for code in re.findall(r'"\\([0-9a-fA-F]{1,6}) ?"', style)}
        characters |= {ord(c) for text in re.findall(r'(?:content|--fa): ?"([^"\\]+)"', style) for c in text}
    for font in {*site.rglob("*.woff"), *site.rglob("*.ttf")} - {*site.rglob("*_Zero.woff")}:
        shrink(font, characters)
    for figure in site.glob("_images/*.svg"):
        figure.write_text(light(figure.read_text()))


def setup(app):
    app.connect("build-finished", slim, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
