"""What the build does to pages: formulas are typeset, and style sheets lose what no page needs."""

import io
import json
import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tinycss2
from PIL import Image


@pytest.fixture(autouse=True)
def extensions(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "book")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "book/_ext")


def test_a_formula_becomes_characters():
    from static_math import engine, typeset

    html = typeset(r"\boldsymbol{x} \odot \operatorname{diag}(\nu)", False)
    assert "data-mjx-error" not in html
    for part in ("<mjx-container", "mjx-c1D708", "<mi>ν</mi>"):
        assert part in html
    assert 'display="true"' in typeset("x", True)
    assert "data-mjx-error" in typeset(r"\nonsense", False)
    assert ".mjx-c1D708.TEX-I::before" in engine().eval("html.textContent(MathJax.chtmlStylesheet())")


@pytest.mark.parametrize(
    ("style", "kept"),
    [
        (".a{x:1}.b{x:2}", ".a{x:1}"),
        ("p,.b>i,.a:not(.c,.b){x:1}", "p,.a:not(.c,.b){x:1}"),
        ("@media print{.b{x:1}}@media screen{.a .b{x:1}.a{x:2}}", "@media screen{.a{x:2}}"),
        ('.a[href$=".b"]{x:1}@font-face{src:url(b.woff)}', '.a[href$=".b"]{x:1}@font-face{src:url(b.woff)}'),
        (r".a\:b{x:1}.\32 b{x:1}", r""),
    ],
)
def test_rules_for_absent_classes_go(style, kept):
    from slim import purge

    assert purge(tinycss2.parse_stylesheet(style, True, True), {"a"}) == kept


def test_a_page_loses_what_it_does_not_use_and_can_be_read_by_everyone():
    from slim import tidy

    page = """<script src="a/_static/scripts/fontawesome.js?digest=1"></script><script src="searchindex.js"></script>
    <script>const THEBE_JS_URL = "x"</script><script src="kept.js">if (a < b && c) f("&nbsp;")</script>
    <details><summary><span class="toctree-toggle"></span></summary></details>
    <div class="citation-list" role="list"><div role="doc-biblioentry">x</div></div>
    <dl><dt>a</dt><dd>b</dd><dt>c</dt></dl>
    <p>1 &lt; 2 &amp; ν</p><img alt="a" src="../_images/a.svg"/><img alt="b" src="../_images/b.png"/>"""
    page = f'<meta content="a" name="viewport"/><meta content="b" name="viewport"/>{page}'
    html = tidy(page)
    assert "fontawesome" not in html
    assert "THEBE" not in html
    assert "searchindex" not in html
    assert "searchindex" in tidy(page, search=True)
    for kept in (
        'if (a < b && c) f("&nbsp;")',
        '<summary aria-label="pages of this section">',
        "<dt>c</dt><dd></dd></dl>",
        '<picture><img alt="a" src="../_images/a.svg"/></picture>',
        '<img alt="b" src="../_images/b.png"/>',
        "1 &lt; 2 &amp; ν",
    ):
        assert kept in html
    assert "role=" not in html
    assert html.count("viewport") == 1
    phone = '<source media="(max-width: 600px)" srcset="../_images/a.phone.svg"/><img alt="a" src="../_images/a.svg"/>'
    assert phone in tidy(page, phone={"a.phone.svg"})
    assert tidy(html) == html


def test_what_is_called_as_the_book_says_so_once():
    from slim import tidy

    page = "<title>A book — A book</title><a class='navbar-brand'><p>A book</p></a><h1>{}<a>#</a></h1>"
    html = tidy(page.format("A book"))
    assert "<title>A book</title>" in html
    assert "navbar-brand" not in html
    assert "navbar-brand" in tidy(page.format("A chapter"))


def test_the_drawing_for_a_phone_is_found_by_the_name_of_the_wide_one(tmp_path):
    from hashlib import sha256

    from screens import MIME, WIDE, drawings, narrow

    outputs = [{"data": {WIDE: ["<svg>\n", "</svg>"], MIME: "narrow"}}, {"data": {WIDE: "alone"}}, {"text": "x"}]
    notebook = tmp_path / "notebook.ipynb"
    notebook.write_text(json.dumps({"cells": [{"outputs": outputs}, {}]}))
    name = f"{sha256(b'<svg>' + os.linesep.encode() + b'</svg>').hexdigest()}.svg"
    assert drawings(notebook) == {name: "narrow"}
    assert narrow(f"_images/{name}") == f"_images/{name[:-4]}.phone.svg"


def test_a_description_is_plain_text_of_the_first_sentences():
    from docutils import nodes
    from sharing import description

    first = nodes.paragraph("", "", nodes.Text("Where does "), nodes.math("", r"\bar\nu"), nodes.Text(" come from?"))
    caption = nodes.container("", nodes.paragraph("", "A caption."))
    long = nodes.paragraph("", "word " * 80)
    document = nodes.document("", "", "", nodes.section("", nodes.title("", "Title"), first, caption, long))
    text = description(document)
    assert text.startswith("Where does ν come from? word word")
    assert text.endswith("word…")
    assert len(text) <= 200


def test_a_path_goes_on_from_where_it_is():
    from drawings import short

    assert short("M 1.5 2 \nL 1.75 2.5 \nL 0.5 2 \n") == "m1.5 2 .25 .5-1.25-.5"
    assert short("M 1 1 H 3 V 2 z M 0 0 Q 1 1 2 0") == "m1 1 2 0 0 1zm-1-1q1 1 2 0"
    points = np.random.default_rng(0).uniform(0, 300, (90, 2))
    path = short("".join(f"{'L' if i else 'M'} {x:.6f} {y:.6f} \n" for i, (x, y) in enumerate(points)))
    steps = np.array(re.findall(r"-?\d*\.?\d+", path), dtype=float).reshape(-1, 2)
    np.testing.assert_allclose(np.cumsum(steps, axis=0), points, atol=0.051)  # no error adds up


def test_a_lighter_drawing_looks_the_same(browser, tmp_path):
    from drawings import light

    fig, (left, right) = plt.subplots(1, 2, figsize=(6, 3))
    rng = np.random.default_rng(0)
    left.plot(rng.standard_normal(500).cumsum(), label=r"$\frac{1}{2} \hat\nu_i$")
    left.legend()
    left.set_title(r"a title with $10^{-3}$, turned", rotation=10)
    right.hexbin(*rng.standard_normal((2, 500)), gridsize=20, rasterized=True)
    right.plot([0, 1], [0, 1], "o--", color="red", clip_on=False)
    file = io.StringIO()
    fig.savefig(file, format="svg")
    plt.close(fig)
    heavy, page = file.getvalue(), browser.new_page(viewport={"width": 600, "height": 300})
    assert len(light(heavy)) < 0.7 * len(heavy)
    seen = []
    for i, drawing in enumerate((heavy, light(heavy))):
        (tmp_path / f"{i}.svg").write_text(drawing)
        page.goto((tmp_path / f"{i}.svg").as_uri())
        seen.append(np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), dtype=float))
    page.close()
    assert seen[0].std() > 10
    assert abs(seen[1] - seen[0]).mean() < 0.5
