"""What this library raises when a computation does not succeed."""

from __future__ import annotations

from typing import Any


class ConvergenceError(RuntimeError):
    """A solver stopped short of its tolerance; ``solution`` holds what there is."""

    def __init__(self, message: str, solution: Any = None):
        super().__init__(message)
        self.solution = solution


class DivergenceError(ConvergenceError, ValueError):
    """A number is no longer finite; ``solution`` holds what there was before."""
