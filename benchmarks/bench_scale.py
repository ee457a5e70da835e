"""The stationary preconditioner beyond CVXPY's reach: time and peak memory, each in a process of its own.

    make bench

Everything is in double precision.
"""

import math
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from cflows import stationary


def measured(function, args) -> dict:
    begin = time.perf_counter()
    found = function(*args)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak GB": peak / 1e6, **found}


def apart(function, *args) -> dict:
    """Time and peak memory in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, function, args).result()


def report(solution) -> dict:
    return {"gap": solution.gap, "products": solution.hvps, "rank": solution.factor.shape[1]}


def dense(n, lr):
    rng = np.random.default_rng(n)
    A = rng.standard_normal((n, n))
    return report(stationary.solve((A + A.T) / 2, rng.standard_normal(n), lr))


def diagonal_and_rank_20(n, lr):
    """H = diag(d) + RRᵀ/n: either part asks for about as much of P as the other."""
    rng = np.random.default_rng(0)
    R, d, g = (
        torch.from_numpy(x) for x in (rng.standard_normal((n, 20)), rng.uniform(0, 1, n), rng.standard_normal(n))
    )

    def hvp(V):
        return torch.addmm(d[:, None] * V, R, R.T @ V, alpha=1 / n)

    return report(stationary.solve(hvp, g, lr, tol=1e-6, max_products=50_000, remember=0))


@pytest.mark.parametrize("lr", [1.0, math.inf])
def test_dense_1000(benchmark, lr):
    benchmark.extra_info |= {"n": 1000, "lr": str(lr)} | benchmark.pedantic(apart, (dense, 1000, lr), rounds=1)


@pytest.mark.parametrize("lr", [3.0, math.inf])
def test_million(benchmark, lr):
    n = 1_000_000
    benchmark.extra_info |= {"n": n, "lr": str(lr)} | benchmark.pedantic(apart, (diagonal_and_rank_20, n, lr), rounds=1)
