"""What the build does to pages: formulas are typeset, and style sheets lose what no page needs."""

from pathlib import Path

import pytest
import tinycss2


@pytest.fixture(autouse=True)
def extensions(monkeypatch):
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
    html = tidy(page)
    assert "fontawesome" not in html
    assert "THEBE" not in html
    assert "searchindex" not in html
    assert "searchindex" in tidy(page, search=True)
    for kept in (
        'if (a < b && c) f("&nbsp;")',
        '<summary aria-label="pages of this section">',
        "<dt>c</dt><dd></dd></dl>",
        '<div class="pst-scrollable-table-container wide-figure"><img alt="a" src="../_images/a.svg"/></div>',
        '<img alt="b" src="../_images/b.png"/>',
        "1 &lt; 2 &amp; ν",
    ):
        assert kept in html
    assert "role=" not in html
    assert tidy(html) == html
