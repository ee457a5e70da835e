import json
import math
import re
import sys
from pathlib import Path

import nbformat
import pytest

from cflows.book import claims

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book"))
import scorecard  # noqa: E402


def test_verdicts(capsys):
    assert claims.settle("a", 1, "a share", 0.004, "<", 0.005, percent=True).holds
    assert capsys.readouterr().out == "holds: a share: 0.4 % (claimed: < 0.5 %)\n"
    assert not claims.settle("b", 1, "a number", 3, ">", 3, why="It is 3.").holds
    assert capsys.readouterr().out == "falls short: a number: 3 (claimed: > 3) It is 3.\n"
    assert claims.settle("c", 1, "a number", 3, ">=", 3, why="Not shown.").holds
    assert "Not shown" not in capsys.readouterr().out
    assert not claims.settle("d", 1, "nothing", math.nan, "<", 1).holds


def test_bad_comparison_is_named():
    with pytest.raises(ValueError, match="'=='"):
        claims.settle("x", 1, "x", 1, "==", 1)
    with pytest.raises(ValueError, match="threshold is nan"):
        claims.settle("x", 1, "x", 1, "<", math.nan)


def notebook(path, *settled):
    bundles = [c._repr_mimebundle_() for c in settled]
    outputs = [nbformat.v4.new_output("display_data", data, metadata=metadata) for data, metadata in bundles]
    cells = [nbformat.v4.new_markdown_cell("(x)=\n# A title"), nbformat.v4.new_code_cell("", outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def claim(id, value, why="", **options):
    return claims.Claim(id, 7, f"<{id}> & more", value, "<", 1.0, options.get("percent", False), "fig-a", why)


def test_the_scorecard_is_what_the_notebooks_computed(tmp_path):
    one = notebook(tmp_path / "01-one.ipynb", claim("a", 0.5), claim("b", 2.0, "Too large."))
    two = notebook(tmp_path / "02-two.ipynb", claim("c", math.nan), claim("d", 0.25, percent=True))
    rows = scorecard.write([one, two], tmp_path, "ci")
    assert json.loads((tmp_path / "scorecard.json").read_text()) == rows
    assert [(r["id"], r["notebook"], r["holds"], r["value"]) for r in rows] == [
        ("a", "01-one", True, 0.5), ("b", "01-one", False, 2.0), ("c", "02-two", False, None),
        ("d", "02-two", True, 0.25),
    ]  # fmt: skip
    assert {"id", "row", "claim", "value", "threshold", "holds", "notebook"} <= rows[0].keys()
    page = (tmp_path / "scorecard.md").read_text()
    assert "**2 of 4 claims hold**" in page
    assert 'href="01-one.html#claim-a">&lt;a&gt; &amp; more</a> <a href="01-one.html#fig-a">figure</a>' in page
    assert "Too large." in page
    assert page.count('<a href="#row-7"') == 4
    (row,) = re.findall('<tr id="row-7">.*', page)
    assert all(f'<a href="{n}.html#claim-{i}">{i}</a>' in row for n, i in (("01-one", "a"), ("02-two", "d")))
    assert "Not shown yet: all of it." in page
    assert "<td>25 %</td><td>&lt; 100 %</td>" in page
    assert '<p class="claim short" id="claim-b">' in claim("b", 2.0)._repr_mimebundle_()[0]["text/html"]


def test_surprises():
    rows = [
        c.as_json() | {"notebook": "n"}
        for c in (claim("fine", 0), claim("fails", 2), claim("known", 2, "Why."), claim("mended", 0, "Why."))
    ]
    short, mended = scorecard.surprises(rows)
    assert short.startswith("n: fails: falls short")
    assert mended.startswith("n: mended holds")


def test_an_id_is_used_once(tmp_path):
    path = notebook(tmp_path / "n.ipynb", claim("a", 0.5), claim("a", 0.5))
    with pytest.raises(ValueError, match=r"share the ids \['a'\]"):
        scorecard.collect([path])


def test_a_row_is_in_the_table(tmp_path):
    path = notebook(tmp_path / "n.ipynb", claims.Claim("a", 99, "a", 0.5, "<", 1.0))
    with pytest.raises(ValueError, match=r"rows \[99\], which book/rows.yml does not have"):
        scorecard.collect([path])


def test_each_row_of_the_table_has_a_claim_or_says_what_is_missing():
    text = "".join(path.read_text() for path in (ROOT / "notebooks").glob("*.md"))
    named = {int(n) for n in re.findall(r'claims\.settle\(\s*f?"[^"]*", (\d+), ', text)}
    for number, row in scorecard.ROWS.items():
        assert row.keys() <= {"of", "shows", "open", "figure"}
        assert row["of"] in ("chapter", "beyond")
        assert (number in named) != (row.get("open") == "all of it" or "figure" in row), number
    assert named <= set(scorecard.ROWS)
