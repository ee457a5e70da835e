import json
import math
import re
import sys
from pathlib import Path

import nbformat
import pytest
import xarray as xr

from cflows import experiments, survey
from cflows.book import claims

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book"))
import scorecard  # noqa: E402


@pytest.fixture
def asked(monkeypatch):
    """A file of claims of its own: a prediction of one network, one of two, and a check of none."""
    entry = {"row": 1, "claim": "a share", "kind": "prediction"}
    monkeypatch.setattr(claims, "CLAIMS", {
        "one": entry | {"limit": "< 0.5 %", "of": ["mine"]},
        "two": entry | {"limit": "> 3", "of": ["mine", "yours"], "statistic": "all of it"},
        "solver": entry | {"limit": "<= 1e-6", "kind": "check"},
    })  # fmt: skip


def run(name, preset="laptop"):
    return xr.DataTree(xr.Dataset(attrs={"experiment": json.dumps({"name": name}), "preset": preset}))


def test_verdicts(asked, capsys):
    assert claims.settle("one", 0.004, run("mine")).holds
    assert capsys.readouterr().out == "holds (mine): a share: 0.4 % (claimed: < 0.5 %)\n"
    assert claims.settle("two", 3, run("yours"), why="It is 3.").id == "two-yours"
    assert capsys.readouterr().out == "falls short (yours): a share: 3 (claimed: > 3) It is 3.\n"
    assert claims.settle("two", 3.1, run("mine"), why="Not shown.").holds
    assert str(claims.settle("two", 3.1, run("mine"), detail="From 3 to 4.")).endswith(") From 3 to 4.")
    assert "Not shown" not in capsys.readouterr().out
    assert claims.settle("solver", 1e-6).holds
    assert not claims.settle("solver", math.nan).holds


def test_predictions_are_not_asked_of_runs_that_test_the_code(asked, capsys):
    small = claims.settle("one", 0.1, run("mine", "ci"), why="Too small.")
    assert not small.asked
    assert capsys.readouterr().out == "not asked (mine): a share: 10 % (claimed: < 0.5 %)\n"
    assert claims.settle("one", 0.1, run("mine", "")).asked  # a definition of the reader's own


def test_a_table_of_claims(asked):
    of_two = [claims.settle("two", x, run(of)) for x, of in ((4, "mine"), (2, "yours"))]
    settled = [claims.settle("one", 0.004, run("mine")), *of_two]
    table = claims.table(settled, {"one": "share", "two": "ratio"}, {"mine": "my network", "yours": "yours"})
    assert table.columns.tolist() == ["claimed", "my network", "yours"]
    assert table.loc["share"].tolist()[:2] == ["< 0.5 %", "0.4 % ✓"]
    assert table.loc["ratio"].tolist() == ["> 3", "4 ✓", "2 ✗"]


def test_claims_are_settled_where_they_are_asked(asked):
    with pytest.raises(ValueError, match="there is no claim 'three'"):
        claims.settle("three", 1)
    with pytest.raises(ValueError, match="'one' is asked of mine, not of yours"):
        claims.settle("one", 1, run("yours"))
    with pytest.raises(ValueError, match="'one' is asked of mine, not of none"):
        claims.settle("one", 1)
    with pytest.raises(ValueError, match="'solver' is asked of no experiment, not of mine"):
        claims.settle("solver", 1, run("mine"))


@pytest.mark.parametrize("limit", ["== 3", "< nan", "<3", "3", "> 5%"])
def test_a_limit_is_a_comparison_and_a_number(limit):
    with pytest.raises(ValueError, match="limit is"):
        claims.Claim("x", 1, "x", 1, limit)


def test_a_kind_is_one_of_three():
    with pytest.raises(ValueError, match="kind is 'guess'; it must be one of prediction, check, construction"):
        claims.Claim("x", 1, "x", 1, "< 1", "guess")


def notebook(path, *settled):
    bundles = [c._repr_mimebundle_() for c in settled]
    outputs = [nbformat.v4.new_output("display_data", data, metadata=metadata) for data, metadata in bundles]
    cells = [nbformat.v4.new_markdown_cell("(x)=\n# A title"), nbformat.v4.new_code_cell("", outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def claim(id, value, why="", limit="< 1", **options):
    return claims.Claim(id, 7, f"<{id}> & more", value, limit, figure="fig-a", why=why, **options)


def test_the_scorecard_is_what_the_notebooks_computed(tmp_path, monkeypatch):
    monkeypatch.setitem(scorecard.ROWS, 99, {"of": "beyond", "shows": "nothing yet", "open": "all of it"})
    one = notebook(tmp_path / "01-one.ipynb", claim("a", 0.5), claim("b", 2.0, "Too large."))
    two = notebook(
        tmp_path / "02-two.ipynb",
        claim("c", math.nan),
        claim("d", 0.25, limit="< 100 %", kind="check"),
        claim("e", 2, asked=False),
    )
    rows = scorecard.write([one, two], tmp_path, "ci")
    assert json.loads((tmp_path / "scorecard.json").read_text()) == rows
    assert [(r["id"], r["notebook"], r["holds"], r["value"]) for r in rows] == [
        ("a", "01-one", True, 0.5), ("b", "01-one", False, 2.0), ("c", "02-two", False, None),
        ("d", "02-two", True, 0.25), ("e", "02-two", False, 2.0),
    ]  # fmt: skip
    assert {"id", "row", "claim", "value", "threshold", "holds", "notebook", "kind", "statistic"} <= rows[0].keys()
    page = (tmp_path / "scorecard.md").read_text()
    assert "**1 of 3 predictions hold; 1 of 1 checks**" in page
    assert "**1 of 3 predictions hold**" in (tmp_path / "headline.md").read_text()
    assert 'href="01-one.html#claim-a">&lt;a&gt; &amp; more</a>' in page
    assert '<a href="01-one.html#fig-a">figure</a>' in page
    assert "not asked" in page
    assert "Too large." in page
    assert page.count('<a href="#row-7"') == 5
    (row,) = re.findall('<tr id="row-7">.*', page)
    assert all(f'<a href="{n}.html#claim-{i}">{i}</a>' in row for n, i in (("01-one", "a"), ("02-two", "d")))
    assert "Not shown yet: all of it." in page
    assert "<td>25 %</td><td>&lt; 100 %</td>" in page
    assert '<p class="claim short" id="claim-b">' in claim("b", 2.0)._repr_mimebundle_()[0]["text/html"]


def test_a_copy_of_small_runs_has_no_headline_of_predictions():
    assert "very small runs" in scorecard.headline([claim("a", 2, asked=False).as_json()])


def test_surprises(monkeypatch):
    monkeypatch.setattr(scorecard, "CLAIMS", {})
    rows = [
        c.as_json() | {"notebook": "n"}
        for c in (
            claim("fine", 0),
            claim("fails", 2),
            claim("known", 2, "Why."),
            claim("mended", 0, "Why."),
            claim("small", 2, asked=False),
        )
    ]
    short, mended = scorecard.surprises(rows)
    assert short.startswith("n: fails: falls short")
    assert mended.startswith("n: mended holds")


def test_a_claim_that_no_chapter_settles_is_a_surprise(asked, monkeypatch):
    monkeypatch.setattr(scorecard, "CLAIMS", claims.CLAIMS)
    rows = [claims.Claim(i, 1, "x", 0, "< 1").as_json() | {"notebook": "n"} for i in ("one", "two-mine")]
    found = [line.split()[0] for line in scorecard.surprises(rows)]
    assert found == ["two-yours", "solver"]


def test_an_id_is_used_once(tmp_path):
    path = notebook(tmp_path / "n.ipynb", claim("a", 0.5), claim("a", 0.5))
    with pytest.raises(ValueError, match=r"share the ids \['a'\]"):
        scorecard.collect([path])


def test_a_row_is_in_the_table(tmp_path):
    path = notebook(tmp_path / "n.ipynb", claims.Claim("a", 99, "a", 0.5, "< 1"))
    with pytest.raises(ValueError, match=r"rows \[99\], which book/rows.yml does not have"):
        scorecard.collect([path])


def settled() -> set[str]:
    text = "".join(path.read_text() for path in (ROOT / "notebooks").glob("*.md"))
    return set(re.findall(r'\bsettle\(\s*"([^"]*)"', text))


def test_the_file_of_claims_is_in_order_and_chapters_settle_it():
    for name, fields in claims.CLAIMS.items():
        claim = claims.Claim(name, value=0, **fields | {"of": ""})
        assert claim.row in scorecard.ROWS
        assert set(fields.get("of", [])) <= {*experiments.PRESETS, survey.BASE.name}
    assert settled() == {name for name in claims.CLAIMS if claims.names(name)}


def test_each_row_of_the_table_has_a_claim_or_says_what_is_missing():
    named = {claims.CLAIMS[name]["row"] for name in settled()}
    for number, row in scorecard.ROWS.items():
        assert row.keys() <= {"of", "shows", "open", "figure", "source"}
        assert ("source" in row) == (row["of"] == "chapter")
        assert row["of"] in ("chapter", "beyond")
        assert (number in named) != (row.get("open") == "all of it" or "figure" in row), number
