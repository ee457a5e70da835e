"""The scorecard: every claim of the book with the number that settles it, as this build's notebooks computed it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import nbformat
import yaml

from cflows.book.claims import KEY, Claim

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
    """Claims that fall short without a reason being given, and claims that hold although one is."""
    short = [f"{r['notebook']}: {r['id']}: {claim(r)}" for r in rows if not r["holds"] and not r["why"]]
    held = [
        f"{r['notebook']}: {r['id']} holds; take its reason for falling short out"
        for r in rows
        if r["holds"] and r["why"]
    ]
    return short + held


def claim(row: dict) -> Claim:
    fields = {name: row[name] for name in Claim.__dataclass_fields__}
    return Claim(**fields | {"value": float("nan") if row["value"] is None else row["value"]})


def page(rows: Sequence[dict], titles: dict[str, str], preset: str) -> str:
    """The scorecard as a MyST page."""
    held = sum(row["holds"] for row in rows)
    lines = [
        "(scorecard)=",
        "# Scorecard",
        "",
        f"**{held} of {len(rows)} claims hold**, as computed when this page was built, from the runs that the "
        f"chapters name, with the preset `{preset}`. "
        "Each line links to the cell that computes it, to its figure, and to its row in the "
        "[table of what the book sets out to show](rows).",
        "",
    ]
    for notebook, title in titles.items():
        mine = [row for row in rows if row["notebook"] == notebook]
        if not mine:
            continue
        lines += [f"## {title}", "", "```{raw} html", '<div class="scorecard-wrap"><table class="scorecard">']
        lines += ["<thead><tr><th>verdict</th><th>claim</th><th>number</th><th>threshold</th></tr></thead><tbody>"]
        for row in mine:
            value, threshold = claim(row).numbers
            link = f"{notebook}.html#claim-{row['id']}"
            figure = f' <a href="{notebook}.html#{row["figure"]}">figure</a>' if row["figure"] else ""
            place = f'<a href="#row-{row["row"]}" title="{escape(ROWS[row["row"]]["shows"])}">row {row["row"]}</a>'
            why = (
                f'<br><span class="why">{escape(row["why"] or "Not explained yet.")}</span>' if not row["holds"] else ""
            )
            verdict = '<td class="holds">holds</td>' if row["holds"] else '<td class="short">falls short</td>'
            lines.append(
                f'<tr>{verdict}<td><a href="{link}">{escape(row["claim"])}</a>{figure} {place}{why}</td>'
                f"<td>{value}</td><td>{escape(threshold)}</td></tr>"
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
    """What the first page says of the scorecard."""
    held = sum(row["holds"] for row in rows)
    short = "" if held == len(rows) else "; where one falls short, its chapter says why"
    return f"**{held} of {len(rows)} claims hold** on the [scorecard](scorecard){short}.\n"


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
