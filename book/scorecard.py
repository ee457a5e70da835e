"""The scorecard: every claim of the book with the number that settles it, as this build's notebooks computed it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import nbformat
import yaml

from cflows.book.claims import CLAIMS, KEY, KINDS, SMALL, Claim, names

#: What the book sets out to show; a claim names its row.
ROWS: dict[int, dict] = yaml.safe_load(Path(__file__).with_name("rows.yml").read_text())


def collect(notebooks: Sequence[Path]) -> list[dict]:
    """The claims that executed notebooks hold, in their order."""
    rows = []
    for path in notebooks:
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                if KEY in output.get("metadata", {}):
                    rows.append(output["metadata"][KEY] | {"notebook": path.stem})
    ids = [row["id"] for row in rows]
    if twice := {i for i in ids if ids.count(i) > 1}:
        raise ValueError(f"claims share the ids {sorted(twice)}; an id must be unique in the book")
    if unknown := {row["row"] for row in rows} - set(ROWS):
        raise ValueError(f"claims are of the rows {sorted(unknown)}, which book/rows.yml does not have")
    return rows


def surprises(rows: Sequence[dict]) -> list[str]:
    """Claims that no chapter settles, that fall short without a reason being given, and that hold although one is."""
    there, asked = {r["id"] for r in rows}, [r for r in rows if r["asked"]]
    missing = [
        f"{i} is asked, and no chapter settles it" for name in CLAIMS for i in names(name).values() if i not in there
    ]
    short = [f"{r['notebook']}: {r['id']}: {claim(r)}" for r in asked if not r["holds"] and not r["why"]]
    held = [
        f"{r['notebook']}: {r['id']} holds; take its reason for falling short out"
        for r in asked
        if r["holds"] and r["why"]
    ]
    return missing + short + held


def claim(row: dict) -> Claim:
    fields = {x.name: row[x.name] for x in dataclasses.fields(Claim) if x.init}
    return Claim(**fields | {"value": float("nan") if row["value"] is None else row["value"]})


def summary(rows: Sequence[dict]) -> str:
    """How many hold, of each kind."""
    parts = []
    for kind, name in zip(KINDS, ("predictions", "checks", "that hold by construction"), strict=True):
        mine = [row for row in rows if row["kind"] == kind and row["asked"]]
        held = sum(row["holds"] for row in mine)
        if mine:
            parts.append(f"{held} of {len(mine)} {name}" + (" hold" if kind == KINDS[0] else ""))
    return "; ".join(parts) or "no claim is asked of such small runs"


def page(rows: Sequence[dict], titles: dict[str, str], preset: str) -> str:
    """The scorecard as a MyST page."""
    lines = [
        "(scorecard)=",
        "# Scorecard",
        "",
        f"**{summary(rows)}**, as computed when this page was built, from the runs that the chapters name, with the "
        f"preset `{preset}`.",
        "",
        "A *prediction* could have failed. A *check* is one of a solver, or of an identity. Some claims hold *by "
        "construction*: the flow is solved such that they do. All limits stand in one file, `cflows/book/claims.toml`; "
        "a limit is set before it is asked of a run, and not moved afterwards."
        + (
            " Predictions are not asked of the runs of this preset, which test the code alone."
            if preset == SMALL
            else ""
        ),
        "",
        "Each line links to the cell that computes it, to its figure, and to its row in the "
        "[table of what the book sets out to show](rows).",
        "",
    ]
    for notebook, title in titles.items():
        mine = [row for row in rows if row["notebook"] == notebook]
        if not mine:
            continue
        lines += [f"## {title}", "", "```{raw} html", '<div class="scorecard-wrap"><table class="scorecard">']
        lines += ["<thead><tr><th>verdict</th><th>claim</th><th>number</th><th>limit</th></tr></thead><tbody>"]
        for row in mine:
            c = claim(row)
            value, limit = c.numbers
            link = f"{notebook}.html#claim-{c.id}"
            figure = f' <a href="{notebook}.html#{c.figure}">figure</a>' if c.figure else ""
            place = f'<a href="#row-{c.row}" title="{escape(ROWS[c.row]["shows"])}">row {c.row}</a>'
            why = c.why or "Not explained yet." if c.asked and not c.holds else ""
            notes = [(c.statistic, "statistic"), (c.detail, "statistic"), (why, "why")]
            below = "".join(f'<br><span class="{name}">{escape(note)}</span>' for note, name in notes if note)
            kind = {"construction": "by construction"}.get(c.kind, c.kind)
            of = f" {escape(c.of)}," if c.of else ""
            look = {"holds": "holds", "falls short": "short", "not asked": "open"}[c.verdict]
            lines.append(
                f'<tr><td class="{look}">{c.verdict}</td><td><a href="{link}">{escape(c.claim)}</a> '
                f'<span class="of">({kind},{of} {place})</span>{figure}{below}</td><td>{value}</td>'
                f"<td>{escape(limit)}</td></tr>"
            )
        lines += ["</tbody></table></div>", "```", ""]
    lines += ["The same as data: {download}`scorecard.json`.", "", *table_of_rows(rows)]
    return "\n".join(lines) + "\n"


def table_of_rows(rows: Sequence[dict]) -> list[str]:
    """What the book sets out to show, with the claims that settle it, as lines of a MyST page."""
    lines = ["(rows)=", "## What the book sets out to show", ""]
    lines += ["```{raw} html", '<div class="scorecard-wrap" tabindex="0"><table class="status">']
    lines += ["<thead><tr><th>row</th><th>what is shown, and the claims that settle it</th></tr></thead><tbody>"]
    for number, row in ROWS.items():
        mine = [f'<a href="{r["notebook"]}.html#claim-{r["id"]}">{r["id"]}</a>' for r in rows if r["row"] == number]
        if "figure" in row:
            mine.append(f'<a href="{row["figure"]}">figure</a>')
        todo = f" <em>Not shown yet: {escape(row['open'])}.</em>" if "open" in row else ""
        beyond = " (Beyond the source.)" if row["of"] == "beyond" else ""
        text = f"{escape(row['shows'])}{beyond}{todo} {', '.join(mine)}"
        lines.append(f'<tr id="row-{number}"><td>{number}</td><td>{text}</td></tr>')
    return [*lines, "</tbody></table></div>", "```"]


def headline(rows: Sequence[dict]) -> str:
    """What the first page says of the scorecard: predictions alone."""
    mine = [row for row in rows if row["kind"] == KINDS[0] and row["asked"]]
    if not mine:
        return "This copy is built from very small runs, which test the code alone.\n"
    held = sum(row["holds"] for row in mine)
    short = "" if held == len(mine) else "; where one falls short, its chapter says why"
    return f"**{held} of {len(mine)} predictions hold** on the [scorecard](scorecard){short}.\n"


def write(notebooks: Sequence[Path], folder: Path, preset: str) -> list[dict]:
    """Write `scorecard.json`, `scorecard.md` and `headline.md` into a folder; returns the rows."""
    rows = collect(notebooks)
    (folder / "scorecard.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    (folder / "headline.md").write_text(headline(rows))
    titles = {path.stem: _title(path) for path in notebooks}
    (folder / "scorecard.md").write_text(page(rows, titles, preset))
    return rows


def _title(notebook: Path) -> str:
    lines = "\n".join(c.source for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "markdown")
    return next(line[2:] for line in lines.splitlines() if line.startswith("# "))
