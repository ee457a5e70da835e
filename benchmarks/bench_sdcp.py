"""The complementarity problem of a step beside a compiled, parametrised CVXPY program. Double precision.

make bench
"""

import time

import cvxpy as cp
import numpy as np
import pytest

from cflows import sdcp

PROBLEMS = 40


def problem(k: int, seed: int, locked: bool) -> tuple[np.ndarray, np.ndarray]:
    """As along a flow: A small, B a sum of few squares; or with some eigenvalues that leave 2."""
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((k * (k + 1) // 2 + 3, k, k))
    M = M + M.transpose(0, 2, 1)
    B = np.einsum("mab,mcd->abcd", M, M) / len(M)
    if locked:
        X = rng.standard_normal((k, k))
        A = -np.einsum("abcd,cd->ab", B, X @ X.T)
    else:
        A = rng.standard_normal((k, k)) - 0.3 * k * np.eye(k)
    return (A + A.T) / 2, B


def parametrised(k: int):
    """minimise ½⟨X, B[X]⟩ + ⟨A, X⟩ over X ⪰ 0, with a root of B as a parameter; CVXPY compiles it once."""
    X, A, root = cp.Variable((k, k), PSD=True), cp.Parameter((k, k), symmetric=True), cp.Parameter((k * k, k * k))
    program = cp.Problem(cp.Minimize(cp.sum_squares(root @ cp.vec(X, order="C")) / 2 + cp.sum(cp.multiply(A, X))))

    def solve(a, b):
        values, Q = np.linalg.eigh(b.reshape(k * k, k * k))
        A.value, root.value = a, (Q * values.clip(min=0) ** 0.5).T
        program.solve(solver="CLARABEL")
        return X.value

    return solve


def both(k: int, locked: bool) -> dict:
    twin, found = parametrised(k), {"cflows": ([], []), "cvxpy": ([], [])}
    twin(*problem(k, 0, locked))
    for seed in range(PROBLEMS):
        A, B = problem(k, seed, locked)
        for name, solve in (("cflows", lambda A, B: sdcp.solve(A, B).X), ("cvxpy", twin)):
            begin = time.perf_counter()
            X = solve(A, B)
            found[name][0].append(time.perf_counter() - begin)
            found[name][1].append(sdcp.kkt_residual(A, B, (X + X.T) / 2))
    return {
        f"{name} {what}": float(f(values))
        for name, (seconds, residuals) in found.items()
        for what, f, values in (("median", np.median, seconds), ("residual", max, residuals))
    }


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 6, 12])
def test_sdcp(benchmark, k, locked):
    benchmark.extra_info |= {"k": k, "locked": locked} | benchmark.pedantic(both, (k, locked), rounds=1)
