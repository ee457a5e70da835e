"""Certificates: primal and dual values, and how a guess of P becomes feasible."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..eigen import Eigenpairs

Array = Any  # torch.Tensor or numpy.ndarray, as the input

# δ: a random unit vector has less than δ/n of its square along a given direction with a probability of about √δ = 1e-3,
# the chance that `largest_unseen` misses an eigenvalue. Steps grow with log(1/δ): a fifth of it costs up to 3 % more.
MISSED_SHARE = 1e-6
MAX_LANCZOS_STEPS = 500  # bounds memory, a vector each; beyond them there is no bound, and no convergence


@dataclass(frozen=True)
class Solution:
    """A feasible preconditioner with its certificate.

    Attributes
    ----------
    p : array (n,)
        Diagonal of P, feasible: H ⪯ 2P. For a dense H a Cholesky factorisation shows it. For products with H it rests
        on the eigenvalues of P⁻¹H that the eigensolver found, each increased by its residual, and, if converged, on a
        bound of all others by a search from a random vector, which fails in one case of a thousand.
    nu : array (n,)
        (ηp)²; infinite where p > 0 if η is.
    factor : array (n, r)
        V with Z = ½VVᵀ, feasible for the dual; Σ̄ = (η²/4) VVᵀ.
    primal, dual : float
        Values at P and Z: the optimum lies between them.
    gap : float
        (primal - dual) / primal; 0 if both are 0.
    hvps : int
        Hessian-vector products spent, certificates included (0 for a dense Hessian).
    converged : bool
        Whether the gap is within the tolerance.
    message : str
        Why it ended.
    """

    p: Array
    nu: Array
    factor: Array
    primal: float
    dual: float
    gap: float
    hvps: int
    converged: bool
    message: str


def certify(
    p: Float[Tensor, "n"], V: Float[Tensor, "n r"], HV: Float[Tensor, "n r"], b: Float[Tensor, "n"], tol: float
) -> Solution:
    """Values and gap of a feasible p and a V with rows of norm at most 1; b = |g| / η."""
    scale = max(p.abs().max().item(), 1e-300)
    primal = float((p + torch.where(b > 0, b.square() / p, 0.0)).sum())
    slack = (1 - V.square().sum(1)).clamp(min=0).sqrt()
    dual = float((V * HV).sum() / 2 + 2 * (b * slack).sum())
    gap = (primal - dual) / max(abs(primal), 1e-12 * scale)
    return Solution(p, p, V, primal, dual, gap, 0, abs(gap) <= tol, "")  # a gap below zero: P is not feasible


def certify_scaled(
    p: Float[Tensor, "n"],
    V: Float[Tensor, "n r"],
    HV: Float[Tensor, "n r"],
    b: Float[Tensor, "n"],
    tol: float,
    pairs: Eigenpairs,
    bound: float,
) -> Solution:
    """The certificate of p, increased until it is feasible, from eigenpairs of P⁻¹H and a bound of all others.

    With P-orthonormal eigenvectors u and z = Pu, H ⪯ 2P + Σ (λ - 2)₊ zzᵀ, and zzᵀ ⪯ ‖z‖₁ diag|z|. The trace of the
    latter, ‖z‖₁², is at most that of P, so that increasing p along z costs no more than increasing all of p evenly.
    Residuals, and a bound above 2, increase p evenly.
    """
    values, residuals = pairs.values, pairs.residuals
    if not b.any() and max(float((values + residuals).max()), bound) <= 0:  # H is negative semidefinite: P = 0
        return certify(0 * p, 0 * V, 0 * HV, b, tol)
    Z = (p[:, None] * pairs.U).abs()
    along = p + (Z * Z.sum(0) * (values - 2).clamp(min=0)).sum(1) / 2
    along = along * max(1.0, float((values.clamp(max=2) + residuals).max()) / 2, bound / 2)
    evenly = p * max(1.0, float((values + residuals).max()) / 2, bound / 2)
    return min((certify(x, V, HV, b, tol) for x in (along, evenly)), key=lambda point: abs(point.gap))


def largest_unseen(
    product: Callable[[Tensor], Tensor],
    p: Float[Tensor, "n"],
    U: Float[Tensor, "n k"],
    limit: float,
    generator: np.random.Generator,
) -> tuple[float, Float[Tensor, "n 1"] | None]:
    """A bound of the eigenvalues of P⁻¹H outside the span of eigenvectors U; a Ritz vector if one exceeds the limit.

    Lanczos from a random vector x of unit length. Let m steps have Ritz values in [a, c], and C be the Chebyshev
    polynomial of degree m - 1 there. Gauss quadrature is exact for its square: ‖C(P^{-½}HP^{-½}) x‖ ≤ 1. An eigenvector
    in which x has the share ω, with eigenvalue λ > c, would make that at least C(λ) √ω. The share is smaller than δ/n
    with a probability of about √δ (`MISSED_SHARE`); else C(λ) ≤ √(n/δ), which bounds λ.
    """
    n, root = len(p), p.sqrt()
    if U.shape[1] >= n:
        return -math.inf, None
    seen = torch.linalg.qr(root[:, None] * U).Q
    w = torch.as_tensor(generator.standard_normal(n), dtype=p.dtype, device=p.device)
    w = w - seen @ (seen.T @ w)
    growth = math.acosh(math.sqrt(n / MISSED_SHARE))  # of C: cosh((m - 1) t) ≤ √(n/δ)
    basis = w.new_empty(8, n)  # rows; twice as many whenever they are full
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        m = len(diagonal) + 1
        if m > len(basis):
            basis = torch.cat([basis, torch.empty_like(basis)])
        basis[m - 1] = w / w.norm()
        known = basis[:m].T
        w = product((known[:, -1] / root)[:, None])[:, 0] / root
        diagonal.append(float(known[:, -1] @ w))
        for _ in range(2):
            w = w - seen @ (seen.T @ w) - known @ (known.T @ w)
        theta, Y = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        low, high = float(theta[0]), float(theta[-1])
        norm = float(w.norm())
        complete = m + U.shape[1] >= n or norm <= 1e-10 * max(abs(low), abs(high), 1e-300)
        if high > limit:
            return high, (known @ torch.as_tensor(Y[:, -1:].copy(), dtype=p.dtype, device=p.device)) / root[:, None]
        bound = high if complete else math.inf
        if not complete and m > 1:
            bound = (low + high) / 2 + (high - low) / 2 * math.cosh(growth / (m - 1))
        if complete or bound <= limit or m >= MAX_LANCZOS_STEPS:
            return bound, None
        beside.append(norm)
