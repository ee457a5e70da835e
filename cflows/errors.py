"""What this library raises when a computation does not succeed."""

from __future__ import annotations

from typing import Any


class ConvergenceError(RuntimeError):
    """A solver stopped short of its tolerance. (A ``RuntimeError``.)

    Attributes
    ----------
    solution
        What there is: the best answer found, or the run up to there.
    """

    def __init__(self, message: str, solution: Any = None):
        super().__init__(message)
        self.solution = solution


class DivergenceError(ConvergenceError, ValueError):
    """A number is no longer finite; ``solution`` holds what there was before. (Also a ``ValueError``.)"""
