"""The page that puts each figure of the source beside ours, with the verdict of the claims that belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import clean
import scorecard

#: Rows of `scorecard.ROWS` in the order in which the source has them.
ORDER = (2, 3, 1, 4, 6, 20, *range(7, 20))


def page(rows: Sequence[dict]) -> str:
    """The page in MyST, from the claims that chapters settled."""
    lines = [
        "(source-figures)=",
        "# The source's figures, and ours",
        "",
        "Which figures of the source does this book draw again, on which of its own data, and do they show the same? "
        "The source is the chapter on RMSProp of {cite:t}`cohen2025`. Its figures are in the left column, in its order "
        "and in our words. Beside each is the figure here that answers it, and how many of the claims hold that belong "
        "to it. Where one falls short, the reason stands below. The limits of all claims are on the "
        "{ref}`scorecard <scorecard>`.",
        "",
        "```{raw} html",
        '<div class="scorecard-wrap"><table class="scorecard source">',
        "<thead><tr><th>in the source</th><th>in this book</th><th>verdict</th></tr></thead><tbody>",
        *(line(number, [row for row in rows if row["row"] == number]) for number in ORDER),
        "</tbody></table></div>",
        "```",
        "",
        "What the book shows beyond the source is in the second half of [the table of rows](rows).",
    ]
    return "\n".join(lines) + "\n"


def line(number: int, mine: Sequence[dict]) -> str:
    """A row of the table."""
    row = scorecard.ROWS[number]
    asked = [claim for claim in mine if claim["asked"]]
    short = [claim for claim in asked if not claim["holds"]]
    verdict, look = f"{len(asked) - len(short)} of {len(asked)} hold", "short" if short else "holds"
    if not asked:
        verdict, look = ("no claim" if not mine else "not asked"), "open"
    why = "".join(
        f'<br><span class="why">Falls short{" (" + escape(c["of"]) + ")" if c["of"] else ""}: {escape(c["claim"])}. '
        f"{escape(c['why'] or 'Not explained yet.')}</span>"
        for c in short
    )
    verdict = f'<a href="scorecard.html#row-{number}">{verdict}</a>'
    return (
        f'<tr id="source-{number}"><td>{escape(row["source"])}</td>'
        f"<td>{ours(row, mine)}: {escape(row['shows'])}{why}</td>"
        f'<td class="{look}">{verdict}</td></tr>'
    )


def ours(row: dict, mine: Sequence[dict]) -> str:
    """Links to the figures of a row, with their numbers, or to where its claims are settled."""
    places = dict.fromkeys(f"{c['notebook']}.html#{c['figure']}" for c in mine if c["figure"])
    if "figure" in row:
        places = {row["figure"]: None} | places
    if not places:
        places = dict.fromkeys(f"{c['notebook']}.html#claim-{c['id']}" for c in mine[:1])
    names = {page: name for page, name in clean.labels().values() if name}
    return ", ".join(
        f'<a href="{place}">{escape(names.get(f"book/executed/{place}", "Claim"))}</a>' for place in places
    )


def write(rows: Sequence[dict], folder: Path) -> None:
    """Write `source-figures.md` into a folder."""
    (folder / "source-figures.md").write_text(page(rows))
