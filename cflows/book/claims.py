"""What the chapter claims, each settled by a number."""

from __future__ import annotations

import math
import operator
from dataclasses import asdict, dataclass
from html import escape

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
SIGNS = {"<=": "≤", ">=": "≥"}
KEY = "cflows.claim"  # under which an executed notebook keeps a claim among an output's metadata, for the scorecard


@dataclass(frozen=True)
class Claim:
    """A statement, the number that settles it, and its verdict. A notebook shows it as one line.

    Attributes
    ----------
    id : str
        Short name, unique in the book; also the anchor on the page.
    row : int
        Row of the table of what the book shows: ``book/rows.yml``, at the end of the scorecard.
    claim : str
        The statement, in a sentence.
    value : float
        The number that settles it.
    comparison : "<", "<=", ">" or ">="
    threshold : float
        It holds if ``value comparison threshold``.
    percent : bool
        Whether both numbers are shown in per cent.
    figure : str
        Label of the figure that shows it.
    why : str
        Why it falls short. To be stated where, and only where, that is known: a strict build of the book fails on a
        claim that falls short without a reason, and on one that holds in spite of one.

    Raises
    ------
    ValueError
        If there is no such comparison, or ``threshold`` is not finite.
    """

    id: str
    row: int
    claim: str
    value: float
    comparison: str
    threshold: float
    percent: bool = False
    figure: str = ""
    why: str | None = ""

    def __post_init__(self) -> None:
        if self.comparison not in COMPARISONS:
            raise ValueError(f"comparison is {self.comparison!r}; it must be one of {', '.join(COMPARISONS)}")
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold is {self.threshold}; it must be a finite number")
        for name, value in (
            ("value", float(self.value)),
            ("threshold", float(self.threshold)),
            ("why", self.why or ""),
        ):
            object.__setattr__(self, name, value)

    @property
    def holds(self) -> bool:
        """The verdict; a number that is not finite settles nothing and never holds."""
        return math.isfinite(self.value) and bool(COMPARISONS[self.comparison](self.value, self.threshold))

    @property
    def numbers(self) -> tuple[str, str]:
        """Value and threshold as they are shown."""
        for digits in range(3, 17):  # as many as it takes to tell them apart
            both = (self.value, self.threshold)
            value, threshold = (f"{100 * x:.{digits}g} %" if self.percent else f"{x:.{digits}g}" for x in both)
            if value != threshold or self.value == self.threshold:
                break
        return value, f"{SIGNS.get(self.comparison, self.comparison)} {threshold}"

    def __str__(self) -> str:
        value, threshold = self.numbers
        verdict = "holds" if self.holds else "falls short"
        return f"{verdict}: {self.claim}: {value} (claimed: {threshold})" + self._reason()

    def _reason(self) -> str:
        return f" {self.why}" if self.why and not self.holds else ""

    def as_json(self) -> dict:
        """Everything as JSON can hold it; a value that is not finite is null."""
        return asdict(self) | {"holds": self.holds, "value": self.value if math.isfinite(self.value) else None}

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        value, threshold = self.numbers
        verdict, kind = ("holds", "holds") if self.holds else ("falls short", "short")
        html = (
            f'<p class="claim {kind}" id="claim-{escape(self.id)}"><strong>{verdict}</strong> {escape(self.claim)}: '
            f"<strong>{value}</strong> <span>(claimed: {escape(threshold)})</span>{escape(self._reason())}</p>"
        )
        return {"text/plain": str(self), "text/html": html}, {KEY: self.as_json()}


def settle(*fields, **options) -> Claim:
    """Show a claim with its verdict, in a notebook as a line that the scorecard links to.

    Parameters
    ----------
    *fields, **options
        As of `Claim`; from ``percent`` on by keyword.

    Returns
    -------
    Claim
    """
    from IPython.display import display

    display(claim := Claim(*fields, **options))
    return claim
