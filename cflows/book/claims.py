"""What the book claims, each settled by a number. Sentences and limits stand in ``claims.toml`` alone."""

from __future__ import annotations

import json
import math
import operator
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
SIGNS = {"<=": "≤", ">=": "≥"}
#: What a claim may be: one that could have failed; a test of a solver or an identity; or true by how a flow is solved.
KINDS = "prediction", "check", "construction"
KEY = "cflows.claim"  # under which an executed notebook keeps a claim among an output's metadata, for the scorecard
SMALL = "ci"  # a preset that is a test of the code alone: predictions are not asked of so small a run


@dataclass(frozen=True)
class Claim:
    """A statement, the number that settles it, and its verdict. A notebook shows it as one line.

    Attributes
    ----------
    id : str
        Its name in the file of claims, and that of the experiment if several are asked; also the anchor on the page.
    row : int
        Row of the table of what the book shows: ``book/rows.yml``, at the end of the scorecard.
    claim : str
        The statement, in a sentence.
    value : float
        The number that settles it.
    limit : str
        It holds if ``value limit``: a comparison and a number, as "< 5" or ">= 50 %".
    kind : str
        One of `KINDS`.
    statistic : str
        How the number is computed.
    of : str
        The experiment that it is asked of, if any.
    figure : str
        Label of the figure that shows it.
    why : str
        Why it falls short. To be stated where, and only where, that is known: a strict build of the book fails on a
        claim that falls short without a reason, and on one that holds in spite of one.
    detail : str
        More numbers, as the range of what the value is the mean or the share of.
    asked : bool
        Whether the verdict counts: predictions are not asked of the preset that is a test of the code.
    comparison : "<", "<=", ">" or ">="
        That of the limit.
    threshold : float
        Its number.

    Raises
    ------
    ValueError
        If the limit or the kind is none.
    """

    id: str
    row: int
    claim: str
    value: float
    limit: str
    kind: str = "prediction"
    statistic: str = ""
    of: str = ""
    figure: str = ""
    why: str = ""
    detail: str = ""
    asked: bool = True
    comparison: str = field(init=False, repr=False)
    threshold: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        match = re.fullmatch(r"(<=?|>=?) ([-+.e\d]+)( %)?", self.limit)
        if not match:
            raise ValueError(f"limit is {self.limit!r}; it must be a comparison and a number, as '< 5' or '>= 50 %'")
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        comparison, number, percent = match.groups()
        threshold = float(number) / (100 if percent else 1)
        for name, value in (("value", float(self.value)), ("comparison", comparison), ("threshold", threshold)):
            object.__setattr__(self, name, value)

    @property
    def holds(self) -> bool:
        """The verdict; a number that is not finite settles nothing and never holds."""
        return math.isfinite(self.value) and bool(COMPARISONS[self.comparison](self.value, self.threshold))

    @property
    def verdict(self) -> str:
        """In words."""
        return "not asked" if not self.asked else "holds" if self.holds else "falls short"

    @property
    def numbers(self) -> tuple[str, str]:
        """Value and limit as they are shown."""
        percent = self.limit.endswith("%")
        for digits in range(3, 17):  # as many as it takes to tell them apart
            both = (self.value, self.threshold)
            value, threshold = (f"{100 * x:.{digits}g} %" if percent else f"{x:.{digits}g}" for x in both)
            if value != threshold or self.value == self.threshold:
                break
        return value, f"{SIGNS.get(self.comparison, self.comparison)} {threshold}"

    def __str__(self) -> str:
        value, threshold = self.numbers
        of = f" ({self.of})" if self.of else ""
        return f"{self.verdict}{of}: {self.claim}: {value} (claimed: {threshold})" + self._rest()

    def _rest(self) -> str:
        why = self.why if self.asked and not self.holds else ""
        return "".join(f" {more}" for more in (self.detail, why) if more)

    def as_json(self) -> dict:
        """Everything as JSON can hold it; a value that is not finite is null."""
        return asdict(self) | {"holds": self.holds, "value": self.value if math.isfinite(self.value) else None}

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        value, threshold = self.numbers
        look = {"holds": "holds", "falls short": "short", "not asked": "open"}[self.verdict]
        of = f"({escape(self.of)}) " if self.of else ""
        title = f' title="{escape(self.statistic)}"' if self.statistic else ""
        rest = f"<br>{escape(self._rest().strip())}" if self._rest() else ""
        html = (
            f'<p class="claim {look}" id="claim-{escape(self.id)}"{title}>'
            f"<strong>{self.verdict}</strong> {of}{escape(self.claim)}: <strong>{value}</strong> "
            f"<span>(claimed: {escape(threshold)})</span>{rest}</p>"
        )
        return {"text/plain": str(self), "text/html": html}, {KEY: self.as_json()}


#: The claims of the book by name: the fields of `Claim`, ``of`` a list.
CLAIMS: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("claims.toml").read_text("utf-8"))


def names(name: str) -> dict[str, str]:
    """What a claim is called for each of the experiments that it is asked of, or for none ("").

    Parameters
    ----------
    name : str
        One of `CLAIMS`.

    Returns
    -------
    dict
        From experiment to the ``id`` of its `Claim`.
    """
    experiments = CLAIMS[name].get("of", [""])
    return {of: f"{name}-{of}" if len(experiments) > 1 else name for of in experiments}


def settle(
    name: str,
    value: float,
    run: xr.DataTree | xr.Dataset | None = None,
    *,
    figure: str = "",
    why: str = "",
    detail: str = "",
) -> Claim:
    """Show a claim with its verdict, in a notebook as a line that the scorecard links to.

    Parameters
    ----------
    name : str
        One of `CLAIMS`.
    value : float
        The number that settles it.
    run : DataTree or Dataset, optional
        The run, or survey, that it is of, for a claim that is asked of experiments.
    figure, why, detail : str
        As of `Claim`.

    Returns
    -------
    Claim

    Raises
    ------
    ValueError
        If there is no such claim, or it is not asked of the experiment.
    """
    from IPython.display import display

    if name not in CLAIMS:
        raise ValueError(f"there is no claim {name!r} in claims.toml")
    fields = dict(CLAIMS[name])
    experiments, of, preset = fields.pop("of", []), "", ""
    if run is not None:
        of, preset = json.loads(run.attrs["experiment"])["name"], run.attrs["preset"]
    if of not in (experiments or [""]):
        raise ValueError(
            f"claim {name!r} is asked of {', '.join(experiments) or 'no experiment'}, not of {of or 'none'}"
        )
    asked = preset != SMALL or fields["kind"] != "prediction"
    named = f"{name}-{of}" if len(experiments) > 1 else name
    display(claim := Claim(named, value=value, of=of, figure=figure, why=why, detail=detail, asked=asked, **fields))
    return claim


def table(settled: Sequence[Claim], rows: Mapping[str, str], columns: Mapping[str, str]) -> pd.DataFrame:
    """Claims about several experiments: value and verdict of each, ✓ or ✗.

    Parameters
    ----------
    settled : sequence of Claim
    rows, columns : mapping
        What the row of a claim is called, and the column of an experiment.

    Returns
    -------
    DataFrame
        A row for each claim, whose first column is the limit.
    """
    marks = {"holds": "✓", "falls short": "✗", "not asked": "–"}
    found: dict[str, dict[str, str]] = {}
    for claim in settled:
        value, limit = claim.numbers
        row = found.setdefault(rows[claim.id.removesuffix(f"-{claim.of}")], {"claimed": limit})
        row[columns[claim.of]] = f"{value} {marks[claim.verdict]}"
    return pd.DataFrame(found).T
