"""What the flows spend on fixed problems, counted, at a stated error; and that each constant of theirs matters.

Counts are evaluations of the loss with its gradient, and refreshes of the eigenvectors.
"""

import contextlib
import importlib

import numpy as np
import pytest
import torch
from cost import PROBLEMS, measure, values

from cflows import DivergenceError, GradientDescent, Objective, simulate

#: Predicted losses at four steps and sums of ν at the same, as of `Problem.reference`.
REFERENCES = {
    "network": [0.484922, 0.388896, 0.334174, 0.259371, 0.625074, 0.254951, 0.0992973, 0.0412092],
    "beyond the edge": [0.786823, 0.521191, 0.423589, 0.356246, 0.396577, 0.296009, 0.171031, 0.0921192],
    "turning": [-0.540383, -0.736461, -3.18564, -13.8202, 0.0, 0.0, 0.0, 0.0],
    "growing": [-5.1423, -10.2304, -15.5898, -20.6041, 7.74524, 8.85893, 9.42564, 11.4567],
    "stable": [0.70148, 0.485044, 0.421992, 0.391447, 0.703131, 0.625416, 0.436476, 0.268259],
}
LIMITS = {  # evaluations, refreshes, relative error
    "network": (311, 50, 1.9e-3),
    "beyond the edge": (183, 24, 3e-3),
    "turning": (175, 34, 1e-2),
    "growing": (230, 40, 1.1e-3),
    "stable": (158, 14, 2e-4),
}
MODULES = [f"cflows.{name}" for name in ("flows", "processes.base", "processes.flow", "processes.subspace",
                                         "processes.central", "processes.stationary")]  # fmt: skip


def excess(name):
    """By how much each limit is exceeded."""
    return [a - b for a, b in zip(measure(PROBLEMS[name], REFERENCES[name]).values(), LIMITS[name], strict=True)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_costs_at_a_stated_error(name):
    assert max(excess(name)) <= 0


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_references(name):
    problem = PROBLEMS[name]
    assert values(problem, problem.reference()) == pytest.approx(REFERENCES[name], rel=1e-4)


def changed(constant, value, monkeypatch):
    for module in map(importlib.import_module, MODULES):
        if hasattr(module, constant):
            monkeypatch.setattr(module, constant, value)


@pytest.mark.parametrize(
    ("constant", "value", "name"),
    [
        ("MIN_EXPONENT", 0.5, "growing"),
        ("EDGE_MARGIN", 0.05, "growing"),
        ("EDGE_MARGIN", 0.75, "stable"),
        ("MAX_HEUN_STEP", 0.3, "stable"),
        ("MAX_SECOND_ORDER", 0.01, "network"),
        ("MAX_SECOND_ORDER", 0.25, "turning"),
        ("ASSUMED_GROWTH", 0.4, "growing"),
        ("ASSUMED_GROWTH", 10.0, "beyond the edge"),
        ("MAX_INTERVAL_GROWTH", 1.0, "beyond the edge"),
        ("MAX_INTERVAL_GROWTH", 10.0, "growing"),
        ("MIN_INTERVAL_GROWTH", 2.0, "growing"),
        ("ASSUMED_RISE", 0.1, "network"),
        ("ASSUMED_RISE", 10.0, "network"),
        ("CRITICAL_MARGIN", 0.005, "growing"),
        ("CRITICAL_MARGIN", 0.25, "beyond the edge"),
        ("MAX_ESCAPE", 0.001, "network"),
        ("MIN_DRIFT", 1.0, "growing"),
        ("MAX_INTERVAL", 2.0, "network"),
        ("MAX_UNSEEN", 2.0, "stable"),
        ("MAX_UNSEEN_GROWTH", 1.0, "network"),
        ("MIN_GROWTH", 0.2, "stable"),
        ("MIN_RISE", 0.1, "network"),
        ("MAX_EXPONENTIAL_STEP", 0.5, "network"),
        ("MAX_EXPONENTIAL_STEP", 12.5, "beyond the edge"),
    ],
)
def test_each_constant_earns_its_place(constant, value, name, monkeypatch):
    """With another value a limit is exceeded, or the flow ends."""
    changed(constant, value, monkeypatch)
    with contextlib.suppress(DivergenceError):
        assert max(excess(name)) > 0


@pytest.mark.parametrize(("longest", "accurate"), [(1.5, True), (7.5, False)])
def test_a_stiff_direction_costs_the_stable_flow_no_accuracy(longest, accurate, monkeypatch):
    """Steps of Heun's method that would be unstable are not left to the measure of how much a step bends."""
    changed("MAX_HEUN_STEP", longest, monkeypatch)
    curvatures = torch.tensor([3.8, 0.1], dtype=torch.float64)
    f = Objective(lambda w: (curvatures * w**2).sum() / 2, torch.tensor([1e-4, 1.0], dtype=torch.float64))
    loss = simulate(f, GradientDescent(1.0), 40, ("stable",), progress=False)["stable"]["loss"].values
    exact = 0.05 * np.exp(-0.2 * np.arange(40))
    assert (abs(loss / exact - 1).max() < 2e-3) == accurate
