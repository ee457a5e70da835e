"""Fixed small problems, and what it costs to follow them: losses evaluated and refreshes, counted, and the error."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from conftest import mlp_objective

from cflows import GradientDescent, Objective, RMSProp, simulate


class Counted(Objective):
    """An objective that counts how often its loss is evaluated, and how often it is linearised (each refresh)."""

    evaluations = 0
    refreshes = 0

    @classmethod
    def of(cls, f: Objective) -> Counted:
        def loss(w):
            counted.evaluations += 1
            return f(w)

        counted = cls(loss, f.w0)
        counted.evaluations = 0
        return counted

    def linearize(self, w):
        self.refreshes += 1
        return super().linearize(w)


def bent() -> Objective:
    """The valley L = ½yx² - by in axes that turn faster and faster."""

    def loss(w):
        c, s = torch.cos(3 * w[3]), torch.sin(3 * w[3])
        u, v = c * w[0] + s * w[1], c * w[1] - s * w[0]
        return (w[2] * u**2 + 3 * v**2) / 2 - 0.05 * w[2] - w[3].square()

    return Objective(loss, torch.tensor([1e-2, 1e-2, 9.8, 0.1], dtype=torch.float64))


def growing() -> Objective:
    """Curvature and P grow by 5 % a step."""
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return Objective(lambda w: torch.exp(w[1] / 2) * w[0] ** 2 / 2 - 3 * w[1], start)


@dataclass
class Problem:
    """A run of one flow."""

    objective: Callable[[], Objective]
    opt: object
    steps: int
    flow: str = "central"
    options: dict = field(default_factory=dict)

    def run(self, **options):
        f = Counted.of(self.objective())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = simulate(f, self.opt, self.steps, (self.flow,), progress=False, **self.options | options)
        return tree[self.flow].to_dataset(), f

    def reference(self):
        """With many small steps, each with a refresh."""
        finer = {"substeps": 8} if self.flow == "central" else {}
        return self.run(accuracy=4e-09, eig_tol=1e-7, eig_every=1, **finer)[0]


PROBLEMS = {
    "network": Problem(
        lambda: mlp_objective(width=8, examples=20), RMSProp(0.01, 0.95, bias_correction=True), 80,
        options={"eigs": 1, "eig_every": 20, "eig_tol": 1e-2},
    ),
    "beyond the edge": Problem(
        mlp_objective, RMSProp(0.01, 0.95, bias_correction=True), 60, options={"eigs": 1, "eig_every": 20},
    ),
    "turning": Problem(bent, GradientDescent(0.2), 10, options={"eigs": 1, "eig_every": 20}),
    "growing": Problem(
        growing, RMSProp(0.1, 0.9, bias_correction=True), 70,
        options={"eigs": 1, "eig_every": 20, "accuracy": 0.0004},
    ),
    "stable": Problem(
        lambda: mlp_objective(width=8, examples=20), RMSProp(0.01, 0.95, bias_correction=True), 40, "stable",
        options={"eigs": 1, "eig_every": 20},
    ),
}  # fmt: skip


#: Steps at which a run is compared with its reference, as shares of the run.
SHARES = (1 / 4, 1 / 2, 3 / 4, 1)


def values(problem: Problem, node) -> list[float]:
    """Predicted losses and sums of ν at some steps."""
    at = [round(share * (problem.steps - 1)) for share in SHARES]
    return [x for name in ("predicted_loss", "nu_sum") for x in node[name].values[at].tolist()]


def measure(problem: Problem, reference: list[float]) -> dict[str, float]:
    """Counts of a run, and its largest relative error at the steps of the reference."""
    node, f = problem.run()
    off = abs(np.subtract(values(problem, node), reference)) / np.maximum(np.abs(reference), 1e-300)
    return {"evaluations": f.evaluations, "refreshes": f.refreshes, "error": float(off.max())}
