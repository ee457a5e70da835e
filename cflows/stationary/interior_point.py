"""A primal-dual interior-point method for a dense Hessian."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from .certificate import Solution, certify

MIN_CENTERING = (
    0.02  # of μ, after a full predictor step: a fifth of it, or none, costs a tenth to a third more iterations
)
BOUNDARY_FRACTION = (
    0.95  # of the step to the boundary that is taken: 0.8 costs a tenth more iterations, 0.99 saves none
)
BACKTRACKING = 0.8  # ratio of the steps tried: 0.5 costs a third more iterations, 0.95 a tenth more factorisations


def dual_factor(H: Tensor, Z: Float[Tensor, "n n"], tol: float) -> tuple[Float[Tensor, "n r"], Float[Tensor, "n r"]]:
    """V with Z ≈ ½VVᵀ, rows of norm at most 1 and only the columns that matter; and HV."""
    values, Q = torch.linalg.eigh((Z + Z.T) / 2)
    keep = values > tol / len(values) * values[-1]
    V = (Q[:, keep] * (2 * values[keep]).sqrt()).flip(1)
    V = V / V.square().sum(1, keepdim=True).sqrt().clamp(min=1)
    return V, H @ V


def solve_dense(H: Float[Tensor, "n n"], b: Float[Tensor, "n"], tol: float) -> Solution:
    """Mehrotra's predictor and corrector along the central path, in the direction of Helmberg et al. (see `solve`).

    With S = 2P - H and multipliers Z, y of S ⪰ 0, p ≥ 0, the path is ZS = μI, py = μ, 1 - b²/p² = 2 diag Z + y.
    """
    n = len(b)
    scale = max(H.abs().sum(1).max().item(), b.max().item())
    if scale == 0 or (not b.any() and torch.linalg.eigvalsh(H)[-1] <= 1e-14 * scale):  # P = 0
        return replace(certify(0 * b, b.new_zeros(n, 0), b.new_zeros(n, 0), b, tol), gap=0.0, converged=True)
    H, b = H / scale, b / scale
    eye = torch.eye(n, dtype=b.dtype, device=b.device)
    p = torch.maximum(H.abs().sum(1), b) + 0.1  # diagonally dominant: feasible, and well inside at unit scale
    S, Z, y = 2 * torch.diag(p) - H, torch.diag(0.1 / p), 0.1 / p
    best = certify(p, b.new_zeros(n, 0), b.new_zeros(n, 0), b, tol)
    length = 0.5

    def change(Z: Tensor, dp: Tensor) -> Tensor:
        """What dS = 2 diag(dp) takes from Z, for ZS to stay the same to first order."""
        X = Z @ (2 * dp[:, None] * inverse)
        return (X + X.T) / 2

    def direction(mu: float, dZdS: Tensor, dpdy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dp, dZ, dy towards μ, with the second-order parts of ZS (times S⁻¹) and py (over p)."""
        slope = 1 - (b / p).square() - 2 * (mu * inverse - dZdS).diagonal() - (mu / p - dpdy)
        dp = -torch.cholesky_solve(slope[:, None], factor)[:, 0]
        return dp, mu * inverse - dZdS - Z - change(Z, dp), mu / p - dpdy - y - y * dp / p

    for _ in range(100):  # some 20 suffice; rounding ends the others
        L, singular = torch.linalg.cholesky_ex(S)
        gap = float((Z * S).sum() + y @ p)
        if singular or gap < 1e-8 * tol * float(p.sum()):  # no smaller gap can help: the dual factor is the limit
            break
        if gap <= tol * float(p.sum()):
            point = certify(p, *dual_factor(H, Z, tol), b, tol)
            best = point if point.gap < best.gap else best
            if best.converged:
                break
        inverse = torch.cholesky_solve(eye, L)
        M = 4 * Z * inverse + torch.diag(2 * b.square() / p**3 + y / p)
        factor, singular = torch.linalg.cholesky_ex(M)
        if singular:
            break
        dp, dZ, dy = direction(0.0, 0 * S, 0 * y)
        mu = max(MIN_CENTERING, 1 - length) * gap / (2 * n)
        dp, dZ, dy = direction(mu, change(dZ, dp), dp * dy / p)
        primal = min(longest_step(S, 2 * torch.diag(dp)), longest_step(torch.diag(p), torch.diag(dp)))
        dual = min(longest_step(Z, dZ), longest_step(torch.diag(y), torch.diag(dy)))
        length = min(primal, dual)
        primal, dual = (length, length) if b.any() else (primal, dual)  # the terms b²/p couple them
        p, Z, y = p + primal * dp, Z + dual * dZ, y + dual * dy
        S = 2 * torch.diag(p) - H
    message = "" if best.converged else "rounding errors prevent a smaller one"
    return replace(best, p=best.p * scale, primal=best.primal * scale, dual=best.dual * scale, message=message)


def longest_step(X: Float[Tensor, "n n"], dX: Float[Tensor, "n n"]) -> float:
    """A step, at most 1, that keeps X + step dX positive definite with some distance to the boundary."""
    step = 1.0
    while step > 1e-10 and torch.linalg.cholesky_ex(X + step * dX)[1]:
        step *= BACKTRACKING
    return step if step == 1.0 else BOUNDARY_FRACTION * step
