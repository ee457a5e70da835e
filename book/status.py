"""The status page: when and on what each notebook ran and each run was computed, as they themselves say."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path

import nbformat
import running
import scorecard

from cflows import experiments, store


def duration(seconds: float) -> str:
    for unit, name, digits in ((3600, "h", 1), (60, "min", 0)):
        if seconds >= 100 * unit / 60:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds:.0f} s"


def day(date: str) -> str:
    return f"{datetime.fromisoformat(date):%Y-%m-%d %H:%M}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """An HTML table, whose cells are HTML."""
    lines = ["```{raw} html", '<div class="scorecard-wrap" tabindex="0"><table class="status">']
    for tag, cells in [("th", head), *(("td", row) for row in rows)]:
        lines.append("<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>")
    return [*lines, "</table></div>", "```", ""]


def number(machines: list[str], machine: str) -> str:
    """Where a machine stands in the list under a table, to which it is added."""
    if machine not in machines:
        machines.append(machine)
    return f"({machines.index(machine) + 1})"


def notes(machines: list[str]) -> list[str]:
    return [f"({i}) {machine}.\n" for i, machine in enumerate(machines, 1)]


def page(notebooks: Sequence[Path]) -> str:
    """The status page, in MyST."""
    chapters: list[list[str]] = []
    processors: list[str] = []
    names: list[str] = []
    took = 0.0
    for path in notebooks:
        ran, record = nbformat.read(path, as_version=4).metadata["papermill"], running.record(path)
        took += ran["duration"]
        versions = ", ".join(" ".join(item) for item in record["versions"].items())
        chapters.append(
            [
                f'<a href="{path.stem}.html">{escape(scorecard._title(path))}</a>',
                day(ran["start_time"]),
                duration(ran["duration"]),
                number(processors, f"{record['hardware']}; {versions}"),
            ]
        )
        names += [name for name in record["runs"] if name not in names]
    runs: list[list[str]] = []
    machines: list[str] = []
    size = spent = 0.0
    for name in names:
        file = running.place(name)
        tree = store.load(file)
        e, a = experiments.read(tree), store.provenance(tree)
        size, spent = size + file.stat().st_size / 1e6, spent + a["seconds"]
        kind = "convex programs of " if name.endswith(".preconditioners.nc") else ""
        what = f"{kind}{type(e.optimizer).__name__}, η = {e.optimizer.lr:g}, {e.steps} steps"
        runs.append(
            [
                f"{'the survey: ' + tree.attrs['summary'] if '-table-' in name else what}<br>"
                f'<a href="../../runs/{name}" download>{escape(name)}</a>',
                day(a["date"]),
                duration(a["seconds"]),
                number(machines, f"{a['hardware']}; cflows {a['cflows']}, torch {a['torch']}"),
                f"{file.stat().st_size / 1e6:.1f} MB",
            ]
        )
    return "\n".join(
        [
            "(status)=",
            "# Status",
            "",
            "Does the present code compute what these pages show? Each chapter is a notebook that was executed "
            "from its first cell to its last when this site was built. The runs that it shows were computed before and "
            "are kept in files. The tests compute parts of them again, steps of each run from states that it holds. "
            "Nothing is published if the code gives something else ([Run it yourself](run-it-yourself)).",
            "",
            f"The {len(chapters)} chapters took {duration(took)} to execute. Their {len(names)} files have {size:.0f} "
            f"MB and took {duration(spent)} to compute.",
            "",
            "## Chapters",
            "",
            *table(["chapter", "executed (UTC)", "took", "on"], chapters),
            *notes(processors),
            "## Runs",
            "",
            "A file holds its definition, its data's digest, and where and when it was computed. `cflows info FILE` "
            "tells it.",
            "",
            *table(["what it holds, and the file", "computed (UTC)", "took", "on", "size"], runs),
            *notes(machines),
        ]
    )


def write(notebooks: Sequence[Path], folder: Path) -> None:
    """Write `status.md` into a folder, from executed notebooks."""
    (folder / "status.md").write_text(page(notebooks))
