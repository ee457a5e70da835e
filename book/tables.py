"""Tables of the pages that the build writes, and numbers in them."""

from __future__ import annotations

from collections.abc import Sequence

#: Sections by the file of their measurements, in the order of the page.
TITLES = {
    "default": "What a unit of time costs",
    "flow": "Beside the published algorithm",
    "growth": "How the cost grows",
    "gauge": "What a report of the gauge costs",
    "sdcp": "The complementarity problem of a step",
    "stationary": "The stationary preconditioner beside CVXPY",
    "network": "The stationary preconditioner of a network",
    "scale": "Beyond CVXPY's reach",
    "laboratory": "The laboratory",
}


def title(name: str) -> list[str]:
    return [f"## {TITLES[name]}", ""]


def words(pairs: dict[str, str]) -> list[str]:
    """What the columns of a table mean, a line each."""
    return [*(f"- *{name}*: {meaning}" for name, meaning in pairs.items()), ""]


def between(values: Sequence[float], digits: int = 2) -> str:
    low, high = (f"{x:.{digits}g}" for x in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def seconds(x: float) -> str:
    number, unit = (f"{1e3 * x:.0f}", "ms") if x < 1 else (f"{x:.1f}", "s") if x < 100 else (f"{x / 60:.1f}", "min")
    return f"{number}\N{NO-BREAK SPACE}{unit}"


def small(x: float, digits: int = 0) -> str:
    return f"{x:.{digits}e}".replace("e-0", "e-").replace("e+00", "").replace("-", "\N{NON-BREAKING HYPHEN}")
