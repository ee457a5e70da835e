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
