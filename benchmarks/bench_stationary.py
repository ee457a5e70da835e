"""The stationary preconditioner: agreement with CVXPY, time beside CVXPY's.

    make bench

Everything is in double precision. Ratios are taken within one run, on one machine.
"""

import contextlib
import math

import cvxpy as cp
import numpy as np
import pytest
from programs import TIGHT, problem, value

from cflows import stationary

SECONDS = 60  # for one solve of CVXPY


def once(benchmark, function, *args):
    return benchmark.pedantic(function, args, rounds=1, warmup_rounds=0)


def test_agreement_with_cvxpy(benchmark):
    """200 problems of 2 to 60 weights, P̄ with η from 1e-3 to 1e3 and P̂ for each."""

    def worst():
        objective, p = [], []
        for seed in range(200):
            H, g, eta = problem(seed, 61)
            for lr in (eta, math.inf):
                twin = stationary.reference(H, g, lr, **TIGHT)
                best, size = value(twin, g, lr), abs(H).max()  # P̂ = 0 where H has no positive eigenvalue
                objective.append(abs(stationary.solve(H, g, lr).primal - best) / max(best, size))
                p.append(abs(stationary.solve(H, g, lr, tol=1e-10).p - twin).max() / max(twin.max(), size))
        return objective, p

    objective, p = once(benchmark, worst)
    benchmark.extra_info |= {"programs": len(p), "objective": max(objective), "p": max(p)}
    assert max(objective) < 1e-6
    assert max(p) < 1e-4


def random(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    A = rng.standard_normal((n, n))
    return (A + A.T) / 2, rng.standard_normal(n)


def primal(H, b):
    p, q = cp.Variable(len(b)), cp.Variable(len(b))
    cone = [cp.SOC(p + q, cp.vstack([2 * b, p - q]), axis=0)] if b.any() else []  # pq ≥ b²
    return cp.Problem(cp.Minimize(cp.sum(p) + (cp.sum(q) if b.any() else 0)), [2 * cp.diag(p) - H >> 0, *cone])


def dual(H, b):
    Z = cp.Variable(H.shape, PSD=True)
    field = 2 * cp.sum(cp.multiply(b, cp.sqrt(1 - 2 * cp.diag(Z)))) if b.any() else 0
    return cp.Problem(cp.Maximize(cp.sum(cp.multiply(Z, H)) + field), [cp.diag(Z) <= 0.5])


@pytest.mark.parametrize("lr", [1.0, math.inf])
@pytest.mark.parametrize("n", [100, 200])
class TestDense:
    def test_cflows(self, benchmark, n, lr):
        H, g = random(n)
        solution = benchmark(stationary.solve, H, g, lr)
        benchmark.extra_info |= {"n": n, "lr": str(lr), "gap": solution.gap}

    @pytest.mark.parametrize("form", [primal, dual])
    @pytest.mark.parametrize("solver", ["SCS", "CLARABEL"])
    def test_cvxpy(self, benchmark, n, lr, form, solver):
        if solver == "CLARABEL" and n > 100:
            pytest.skip("it needs more than 24 GB of memory")
        H, g = random(n)
        scale = np.linalg.eigvalsh(H)[-1]
        options = {"time_limit": SECONDS} if solver == "CLARABEL" else {"time_limit_secs": SECONDS}
        program = form(H / scale, abs(g) / lr / scale)

        def solve():
            with contextlib.suppress(cp.SolverError):  # the status says it
                program.solve(solver=solver, **options)

        once(benchmark, solve)
        best = stationary.solve(H, g, lr, tol=1e-9).primal
        error = abs(program.value * scale / best - 1) if program.value is not None else math.nan
        benchmark.extra_info |= {"n": n, "lr": str(lr), "objective": error, "status": program.status or "stopped"}
