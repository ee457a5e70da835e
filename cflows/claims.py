"""What the chapter claims, each settled by a number."""

from __future__ import annotations

import math
import operator
import os
from dataclasses import dataclass

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class ClaimError(AssertionError):
    """A claim that was expected to hold does not."""


@dataclass(frozen=True)
class Claim:
    """A statement, the number that settles it, and its verdict. Shown in a notebook as one line."""

    statement: str
    value: float
    comparison: str
    threshold: float
    percent: bool = False

    @property
    def holds(self) -> bool:
        """The verdict; a number that is not finite settles nothing and never holds."""
        return math.isfinite(self.value) and bool(COMPARISONS[self.comparison](self.value, self.threshold))

    def __str__(self) -> str:
        value, threshold = (f"{100 * x:.3g} %" if self.percent else f"{x:.3g}" for x in (self.value, self.threshold))
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return f"{verdict}: {self.statement}: {value} (claimed: {self.comparison} {threshold})"


def settle(statement: str, value: float, comparison: str, threshold: float, percent: bool = False) -> Claim:
    """Print a claim with its verdict.

    With the environment variable CFLOWS_STRICT set, as CI does, a claim that does not hold is an error.

    Raises
    ------
    ClaimError
        As above.
    """
    if comparison not in COMPARISONS:
        raise ValueError(f"comparison is {comparison!r}; it must be one of {', '.join(COMPARISONS)}")
    claim = Claim(statement, float(value), comparison, float(threshold), percent)
    print(claim)
    if os.environ.get("CFLOWS_STRICT") and not claim.holds:
        raise ClaimError(str(claim))
    return claim
