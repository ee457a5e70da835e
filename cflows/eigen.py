"""Top eigenpairs of the effective Hessian P⁻¹H, from Hessian-vector products and a good guess.

Eigenvectors move slowly along a trajectory, so each solve starts from the last answer. The method is block Lanczos as
Rayleigh-Ritz in a growing basis (Davidson's method without a preconditioner): the residuals of pairs that have not
converged extend the basis, and a basis that is full restarts from its best Ritz vectors
(Davidson :cite:yearpar:`davidson1975`; Golub and Underwood :cite:yearpar:`golub1977`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ConvergenceError, DivergenceError

LOOSE_FACTOR = 3  # between the residuals allowed below ``loose_below`` and above: saves 6 % of the products on a path
KEPT_PER_PAIR = 2  # Ritz vectors kept at a restart, beside the spare: k alone costs a fifth more, 3k saves a twentieth
COLD_PAIRS = 4  # of H, where there is no guess: the two random vectors of a search for one can miss the larger of two
EXPANSION = 16  # vectors between restarts: half as many cost twice the products on a cluster; more is memory
ROUNDINGS = 10  # rounding error of a residual, in units of machine precision times the largest abs(λ)
MAX_ROUNDING = 0.05  # a residual above this share of the eigenvalue is not accepted as rounding


@dataclass(frozen=True)
class Eigenpairs:
    """Leading eigenpairs of P⁻¹H, Hu = λPu, in descending order.

    Attributes
    ----------
    values : Tensor (k,)
        Eigenvalues (Ritz values: never above the true ones, and short of them by at most residual² / gap).
    U : Tensor (n, k)
        Right eigenvectors, P-orthonormal: UᵀPU = I.
    HU : Tensor (n, k)
        Their Hessian-vector products.
    residuals : Tensor (k,)
        ‖P^{-1/2}(Hu - λPu)‖, in the units of the eigenvalues.
    spare : Tensor (n, 1), or (n, 0) if k = n
        The next Ritz vector, for the start of the next solve alone.
    products : int
        Hessian-vector products spent.
    converged : bool
        Whether every residual met the tolerance.
    """

    values: Float[Tensor, "k"]
    U: Float[Tensor, "n k"]
    HU: Float[Tensor, "n k"]
    residuals: Float[Tensor, "k"]
    spare: Float[Tensor, "n s"]
    products: int
    converged: bool

    @property
    def start(self) -> Float[Tensor, "n m"]:
        """Guesses for the next solve."""
        return torch.cat([self.U, self.spare], dim=1)


def top_eigenpairs(
    hvp: Callable[[Float[Tensor, "n k"]], Float[Tensor, "n k"]],
    p: Float[Tensor, "n"],
    k: int,
    start: Float[Tensor, "n j"] | None = None,
    tol: float = 1e-2,
    loose_below: float = -np.inf,
    max_products: int | None = None,
    throw: bool = True,
) -> Eigenpairs:
    """The k largest eigenvalues of P⁻¹H and their right eigenvectors, P = diag(p).

    The effective Hessian is that of equation :eq:`eq-effective-hessian`.

    Parameters
    ----------
    hvp : callable (n, j) -> (n, j)
        Products with the symmetric matrix H.
    p : Tensor (n,), positive
        Diagonal of the preconditioner; fixes dtype and device.
    k : int
        Pairs wanted, 1 to n.
    start : Tensor (n, j), optional
        Guesses of the eigenvectors, such as `Eigenpairs.start` at the last point; random vectors fill them up to k + 1.
        The last one, a spare, takes a step at every call, even if the others have converged: over several calls it
        finds eigenvectors that are orthogonal to all guesses.
    tol : float
        A pair has converged when its residual ‖P^{-1/2}(Hu - λPu)‖ is at most tol times the largest abs(λ) of the k, or
        rounding error: ten times machine precision times the largest abs(λ) seen, and at most a twentieth of the
        largest of the k. The eigenvalue's own error is of the order of the residual's square, or of rounding.
    loose_below : float
        Pairs with eigenvalues below this may have three times that residual.
    max_products : int, optional
        Give up after this many products (default 50 k + 200).
    throw : bool
        Raise if not converged (otherwise see ``converged``).

    Returns
    -------
    Eigenpairs

    Raises
    ------
    ValueError
        If k is out of range or p is not positive.
    DivergenceError
        If H gives values that are not finite.
    ConvergenceError
        If the products are spent and ``throw`` is set; its ``solution`` holds the pairs reached.

    Notes
    -----
    The block is never smaller than the number of pairs that have not converged. A multiple eigenvalue is therefore
    found with all its directions, if the starting block and the residuals span them.
    """
    n = p.numel()
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; with {n} weights it must be from 1 to {n}")
    if not (p > 0).all():
        raise ValueError(
            f"p must be positive, {int((p <= 0).sum())} of its {n} entries are not (smallest {p.min().item():.3g}): a "
            "weight whose gradient is exactly zero has no step size; set the optimizer's eps above 0"
        )
    root = p.sqrt()[:, None]
    limit = 50 * k + 200 if max_products is None else max_products
    keep = min(n, KEPT_PER_PAIR * k + 1)
    widest = min(n, keep + EXPANSION)

    have = 0 if start is None else start.shape[1]
    random = np.random.default_rng(n).standard_normal((n, max(0, k + 1 - have)))
    block: Tensor = torch.as_tensor(random, dtype=p.dtype, device=p.device)
    if start is not None:
        block = torch.cat([start * root, block], dim=1)
    Q = p.new_empty(n, 0)
    MQ = p.new_empty(n, 0)
    products, searched = 0, False
    while True:
        block = orthonormalise(block, Q)[:, : n - Q.shape[1]]
        exhausted = block.shape[1] == 0  # the basis spans an invariant subspace
        Q = torch.cat([Q, block], dim=1)
        MQ = torch.cat([MQ, hvp(block / root) / root], dim=1)
        products += block.shape[1]
        gram = (Q.T @ MQ).double().cpu().numpy()
        if not np.isfinite(gram).all():
            raise DivergenceError(
                "Hessian-vector products are not finite; the loss has overflowed or is NaN at these weights"
            )
        theta, vectors = np.linalg.eigh((gram + gram.T) / 2)
        theta, S = theta[::-1], torch.as_tensor(vectors[:, ::-1].copy(), dtype=p.dtype, device=p.device)
        j, extra = min(k, len(theta)), min(k + 1, len(theta))
        Y, MY = Q @ S[:, :extra], MQ @ S[:, :extra]
        values = torch.as_tensor(theta[:extra].copy(), dtype=p.dtype, device=p.device)
        R = MY - Y * values
        residuals = R.norm(dim=0)[:j]
        wanted, rounding = abs(theta[:j]).max(), ROUNDINGS * torch.finfo(p.dtype).eps * abs(theta).max()
        scale = max(tol * wanted, min(rounding, MAX_ROUNDING * wanted), 1e-30)
        allowed = scale * np.where(theta[:j] < loose_below, LOOSE_FACTOR, 1)
        bad = residuals > torch.as_tensor(allowed, dtype=p.dtype, device=p.device)
        complete = Q.shape[1] == n
        converged = complete or (searched and j == k and not bool(bad.any()))
        if converged or exhausted or products >= limit:
            U = Y / root
            pairs = Eigenpairs(values[:j], U[:, :j], MY[:, :j] * root, residuals, U[:, j:], products, converged)
            if throw and not converged:
                raise ConvergenceError(
                    f"{k} eigenpairs of the effective Hessian did not converge in {products} products: residuals "
                    f"{residuals.max().item():.2g}, wanted {scale:.2g}; allow more products or a "
                    "larger tol (float32 can't do better than about 1e-5)",
                    pairs,
                )
            return pairs
        if Q.shape[1] + int(bad.sum()) + 1 > widest:
            Q, MQ = Q @ S[:, :keep], MQ @ S[:, :keep]
        # The spare's residual searches for eigenvectors that are orthogonal to all guesses.
        block = torch.cat([R[:, :j][:, bad], R[:, j:]], dim=1)
        searched = True


def sharpness(
    hvp: Callable[[Float[Tensor, "n k"]], Float[Tensor, "n k"]],
    like: Float[Tensor, "n"],
    start: Float[Tensor, "n j"] | None = None,
    tol: float = 1e-2,
) -> tuple[float, Float[Tensor, "n m"]]:
    """The largest eigenvalue of H itself.

    Parameters
    ----------
    hvp : callable (n, j) -> (n, j)
        Products with the symmetric matrix H.
    like : Tensor (n,)
        Of the size, type and device of the weights.
    start : Tensor (n, j), optional
        Guesses: what this function returned at the last point.
    tol : float
        As of `top_eigenpairs`.

    Returns
    -------
    value : float
    start : Tensor (n, m)
        Guesses for the next point.
    """
    k = 1 if start is not None else min(COLD_PAIRS, len(like))
    found = top_eigenpairs(hvp, torch.ones_like(like), k, start, tol)
    return float(found.values[0]), found.start[:, :2]


def orthonormalise(block: Tensor, Q: Tensor) -> Tensor:
    """Orthonormal basis of the part of a block of vectors that is outside the span of Q.

    It projects twice, which is enough :cite:`giraud2005`.

    Parameters
    ----------
    block : Tensor (n, j)
    Q : Tensor (n, m)
        Orthonormal columns.

    Returns
    -------
    Tensor (n, i)
        Orthonormal columns, and orthogonal to those of Q; i ≤ j.
    """
    block = torch.linalg.qr(block - Q @ (Q.T @ block)).Q
    block = block - Q @ (Q.T @ block)
    outside = torch.linalg.vector_norm(block, dim=0) > 0.5  # QR invents columns where the block is dependent
    return torch.linalg.qr(block[:, outside]).Q
