"""What the low-rank method spends on fixed problems, counted, and that each of its constants matters.

Counts are Hessian-vector products, rounds, and products with the model of H (columns), which are the rest of the work.
"""

import contextlib
import math

import numpy as np
import pytest
import torch
from programs import problem
from torch import nn

from cflows import ConvergenceError, Objective, stationary
from cflows.stationary import certificate, interior_point, low_rank


def low_rank_problem(n=400, scales=(3.0, 2, 1, 1, 1), **options):
    """A diagonal plus a matrix of low rank."""
    rng = np.random.default_rng(0)
    R = torch.from_numpy(rng.standard_normal((n, len(scales)))) * torch.tensor(scales)
    d, g = torch.from_numpy(rng.uniform(0, 1, n)), rng.standard_normal(n)
    return lambda V: d[:, None] * V + R @ (R.T @ V) / n, g, 3.0, options


def clustered():
    """Six eigenvalues within a thousandth at the top, the others over four decades."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((150, 150)))[0]
    spectrum = np.concatenate([2 + 1e-3 * np.arange(6), np.geomspace(1, 1e-4, 144)])
    H = torch.from_numpy((Q * spectrum) @ Q.T)
    return lambda V: H @ V, 0.1 * rng.standard_normal(150), 1.0, {}


def indefinite():
    rng = np.random.default_rng(0)
    A = torch.from_numpy(rng.standard_normal((150, 150)))
    H = (A + A.T) / 2 / math.sqrt(150)
    return lambda V: H @ V, 0.05 * rng.standard_normal(150), 1.0, {}


def negative():
    """Negative semidefinite, with an infinite learning rate: P = 0."""
    rng = np.random.default_rng(0)
    A = torch.from_numpy(rng.standard_normal((100, 20)))
    return lambda V: -A @ (A.T @ V) / 100, rng.standard_normal(100), math.inf, {}


def network(dtype=torch.float32, lr=0.02, tol=1e-4):
    """A small network after a hundred steps of gradient descent."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(60, k, generator=generator, dtype=torch.float64).to(dtype) for k in (8, 3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)
    f = Objective.from_module(module, nn.MSELoss(), x, y, check=False)
    w = f.w0
    for _ in range(100):
        w = w - 0.05 * f.value_and_grad(w)[1]
    _, g, hvp = f.linearize(w)
    return hvp, g, lr, {"tol": tol}


def graded():
    """Weights of very different scales, the first term alone: where P is small, single rows rest on a column of V."""
    rng = np.random.default_rng(0)
    scale = torch.from_numpy(np.geomspace(1, 1e-2, 200))[:, None]
    R = scale * torch.from_numpy(rng.standard_normal((200, 12)) * np.geomspace(1, 0.2, 12))
    return lambda V: R @ (R.T @ V), rng.standard_normal(200), math.inf, {"tol": 1e-4}


PROBLEMS = {
    "low rank": low_rank_problem,
    "low rank, direct": lambda: low_rank_problem(4_000, 20 * [1.0], remember=0),
    "clustered": clustered,
    "indefinite": indefinite,
    "negative": negative,
    "network, float32": network,
    "network, first term": lambda: network(torch.float64, math.inf, 1e-5),
    "graded": graded,
}
LIMITS = {  # products, rounds, products with the model
    "low rank": (51, 12, 800),
    "low rank, direct": (3500, 4, 0),
    "clustered": (93, 11, 2500),
    "indefinite": (150, 14, 4200),
    "negative": (100, 30, 1500),  # 10 to 26 rounds and up to 1,400 products, as the rounding of a processor has it
    "network, float32": (96, 9, 1300),
    "network, first term": (190, 14, 3000),
    "graded": (70, 10, 2200),
}


def costs(name, monkeypatch):
    count = {"rounds": 0, "model": 0}
    ascend, model = low_rank.ascend, low_rank.Hessian.model

    def counted_ascend(*args):
        count["rounds"] += 1
        return ascend(*args)

    def counted_model(H, V):
        count["model"] += V.shape[1]
        return model(H, V)

    hvp, g, lr, options = PROBLEMS[name]()
    with monkeypatch.context() as patch:
        patch.setattr(low_rank, "ascend", counted_ascend)
        patch.setattr(low_rank.Hessian, "model", counted_model)
        s = stationary.solve(hvp, g, lr, **options)
    return s.hvps, count["rounds"], count["model"]


def excess(name, monkeypatch):
    return [a - b for a, b in zip(costs(name, monkeypatch), LIMITS[name], strict=True)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_costs_of_a_converged_solution(name, monkeypatch):
    assert max(excess(name, monkeypatch)) <= 0


@pytest.mark.parametrize(
    ("constant", "value", "name"),
    [
        ("COLUMNS", 1, "clustered"),
        ("COLUMNS", 9, "clustered"),
        ("DIRECT_COLUMNS", 3, "low rank, direct"),
        ("DIRECT_COLUMNS", 72, "low rank, direct"),
        ("NEGLIGIBLE_GAIN", 0.0, "low rank, direct"),
        ("GAP_REDUCTION", 1 / 15, "low rank"),
        ("GAP_REDUCTION", 5 / 3, "network, float32"),
        ("ERROR_SHARE", 0.05, "low rank"),
        ("MIN_NEW_SHARE", 0.0, "low rank, direct"),
        ("MIN_NEW_SHARE", 0.9, "network, first term"),
        ("SMALL_ENTRY", math.inf, "graded"),
        ("MAX_STALLED", 1, "indefinite"),
        ("MAX_STALLED", 30, "negative"),
        ("CYCLE", 4, "network, float32"),
        ("CYCLE", 100, "low rank, direct"),
        ("HISTORY", 20, "low rank, direct"),
        ("MAX_CYCLES", 125, "negative"),
        ("MISSED_SHARE", 2e-7, "network, float32"),
    ],
)
def test_each_constant_earns_its_place(constant, value, name, monkeypatch):
    """With another value a limit is exceeded, or the solution does not converge."""
    monkeypatch.setattr(low_rank, "MAX_DENSE", 0)  # as if there were more weights
    monkeypatch.setattr(low_rank if hasattr(low_rank, constant) else certificate, constant, value)
    with contextlib.suppress(ConvergenceError):
        assert max(excess(name, monkeypatch)) > 0


def dense_costs(monkeypatch):
    """Iterations and Cholesky factorisations of the interior-point method on 24 random problems."""
    count = {"step": 0, "factor": 0}
    step, factor = interior_point.longest_step, torch.linalg.cholesky_ex

    def counted(name, function):
        def call(*args):
            count[name] += 1
            return function(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(interior_point, "longest_step", counted("step", step))
        patch.setattr(torch.linalg, "cholesky_ex", counted("factor", factor))
        for seed in range(24):
            stationary.solve(*problem(seed, 40))
    return count["step"] // 4, count["factor"]


def test_costs_of_the_interior_point_method(monkeypatch):
    iterations, factorisations = dense_costs(monkeypatch)
    assert iterations <= 280
    assert factorisations <= 1850


@pytest.mark.parametrize(
    ("constant", "value"),
    [("MIN_CENTERING", 0.004), ("BOUNDARY_FRACTION", 0.8), ("BACKTRACKING", 0.5), ("BACKTRACKING", 0.95)],
)
def test_each_constant_of_the_interior_point_method_earns_its_place(constant, value, monkeypatch):
    monkeypatch.setattr(interior_point, constant, value)
    iterations, factorisations = dense_costs(monkeypatch)
    assert iterations > 280 or factorisations > 1850
