"""Random convex programs, for the tests and the benchmarks."""

import math

import numpy as np

TIGHT = {"solver": "CLARABEL", "tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9}


def problem(seed, size=16):
    """A random H (definite, indefinite, low rank, negative diagonal), g, and η from tiny to infinite."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, size))
    A = rng.standard_normal((n, n))
    H = [A @ A.T / n, (A + A.T) / 2, A[:, :2] @ A[:, :2].T, (A + A.T) / 4 - np.diag(rng.uniform(0, 2, n))][seed % 4]
    g = rng.standard_normal(n) * 10.0 ** rng.uniform(-2, 0, n)
    return H, g, [math.inf, 1e-3, 0.1, 1.0, 10.0, 1e3][seed % 6]


def value(p, g, lr):
    b = g / lr
    return p.sum() + (b[b != 0] ** 2 / p[b != 0]).sum()
