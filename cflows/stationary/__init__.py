"""The stationary preconditioner, at which ν settles while the weights are fixed, as the solution of a convex program.

For fixed H and g, P̄ = diag(√ν̄) / η solves the first of these programs. Its multiplier Z = 2 Σ̄ / η² solves the second,
the dual::

    minimise     tr P + ‖g‖²_{P⁻¹} / η²
    subject to   H ⪯ 2P, P ⪰ 0 diagonal,

    maximise     ⟨Z, H⟩ + (2/η) Σᵢ |gᵢ| √(1 - 2Zᵢᵢ)
    subject to   Z ⪰ 0, Zᵢᵢ ≤ ½.

η = ∞ drops the second term: P̂. A feasible P and a feasible Z certify each other, because the optimum is between their
values. A dense H goes to an interior-point method (``interior_point``). The other method (``low_rank``) needs only
products with H: Z = ½VVᵀ has low rank, the rows (vᵢ, √(1 - ‖vᵢ‖²)) are points on a sphere, and the dual is maximised
over them (Burer and Monteiro :cite:yearpar:`burer2003`). Some solution has no more than √(2n) columns (Barvinok
:cite:yearpar:`barvinok1995`, Pataki :cite:yearpar:`pataki1998`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..errors import ConvergenceError
from .certificate import Array, Solution
from .interior_point import solve_dense
from .low_rank import Hessian, solve_low_rank

__all__ = ["Solution", "reference", "solve", "unconstrained"]
Solution.__module__ = __name__  # its public home

REMEMBERED = 10**7  # numbers in vectors, and as many in their products: 160 MB


def solve(
    hessian: Array | Callable[[Tensor], Tensor],
    grad: Array,
    lr: float,
    *,
    start: Array | None = None,
    tol: float | None = None,
    max_rank: int | None = None,
    max_products: int = 10_000,
    remember: int | None = None,
    throw: bool = True,
) -> Solution:
    """The stationary preconditioner P̄ of RMSProp, or P̂ for ``lr=math.inf``.

    P̄ solves the program of equation :eq:`eq-program`, and so has the ν̄ of :eq:`eq-stationary`; P̂ that of
    :eq:`eq-first-term`.

    Parameters
    ----------
    hessian : array (n, n), or callable Tensor (n, k) -> Tensor (n, k)
        Symmetric, or its products with vectors.
    grad : array (n,)
        Gradient; fixes n, dtype and device. Only its size is used with a finite ``lr``.
    lr : float
        η > 0, possibly infinite.
    start : array (n, r), optional
        Guess of V for products with H, such as (2/η) times the central flow's ``factor``.
    tol : float, optional
        Relative duality gap to reach: by default 1e-7 for a dense H; for products 1e-6, or 1e-4 in float32.
    max_rank : int, optional
        Largest number of columns of V to try with products (default: √(2n) + 10; √(2n) always suffice for Z).
    max_products : int
        Hessian-vector products after which to give up; the round that exceeds them is completed. With up to 1,000
        weights, and no more than these products, all of H is asked for instead, and the dense method takes it.
    remember : int, optional
        Vectors whose products with H are kept, which saves products (default: 10⁷ / n, at least 200). Use 0 where
        products are cheaper than that, as for a diagonal plus a matrix of low rank.
    throw : bool
        Raise if not converged (otherwise see ``converged``).

    Returns
    -------
    `Solution`
        Arrays of the type of ``grad``.

    Raises
    ------
    ValueError, TypeError
        If shapes do not match, H is not symmetric, or a value is not finite.
    DivergenceError
        If products with H are not finite.
    ConvergenceError
        If the gap was not reached; its ``solution`` is the best certified point.

    Notes
    -----
    A dense H is solved by Mehrotra's method :cite:`mehrotra1992` in the direction of Helmberg, Rendl, Vanderbei and
    Wolkowicz :cite:yearpar:`helmberg1996`. Products with H are used in L-BFGS :cite:`liu1989` on the spheres, and in a
    last search from a random vector (Kuczyński and Woźniakowski :cite:yearpar:`kuczynski1992`).
    """
    if not isinstance(grad, (Tensor, np.ndarray)):
        raise TypeError(f"grad is a {type(grad).__name__}; it must be a torch.Tensor or a numpy array")
    g = grad if isinstance(grad, Tensor) else torch.from_numpy(grad)
    if g.ndim != 1 or not len(g):
        raise ValueError(f"grad has shape {tuple(g.shape)}; it must be a vector (n,)")
    if not g.is_floating_point():
        raise TypeError(f"grad is {g.dtype}; convert it to floats")
    if not g.isfinite().all():
        raise ValueError("grad holds values that are not finite")
    lr = float(lr)
    if not lr > 0:
        raise ValueError(f"lr is {lr!r}; a learning rate must be positive (math.inf for the first term alone)")
    if tol is not None and not tol > 0:
        raise ValueError(f"tol is {tol}; it must be positive")
    if remember is not None and remember < 0:
        raise ValueError(f"remember is {remember}; it must not be negative")
    g = g.detach()
    b = g.abs() / lr  # zero if η is infinite
    if tol is None:
        tol = 1e-7 if not callable(hessian) else 1e-4 if g.dtype == torch.float32 else 1e-6
    if callable(hessian):
        V0 = None if start is None else torch.as_tensor(start, dtype=torch.float64, device=g.device)
        if V0 is not None and (V0.ndim != 2 or len(V0) != len(g)):
            raise ValueError(f"start has shape {tuple(V0.shape)}; with {len(g)} weights it must be ({len(g)}, r)")
        if V0 is not None and not V0.isfinite().all():
            raise ValueError("start holds values that are not finite")
        V0 = V0 if V0 is not None and V0.numel() else None
        H = Hessian(hessian, g, tol, max(200, REMEMBERED // len(g)) if remember is None else remember)
        found = solve_low_rank(H, b.double(), V0, tol, max_rank or 10 + math.ceil(math.sqrt(2 * len(g))), max_products)
    else:
        full = torch.as_tensor(hessian, device=g.device)
        if full.shape != (len(g), len(g)):
            raise ValueError(
                f"hessian has shape {tuple(full.shape)}; with {len(g)} weights it must be {(len(g), len(g))}"
            )
        if not full.isfinite().all():
            raise ValueError("hessian holds values that are not finite")
        if (full - full.T).abs().max() > 1e-6 * full.abs().max():
            raise ValueError("hessian is not symmetric; pass (H + H.T) / 2 if that is what is meant")
        found = solve_dense((full + full.T).double() / 2, b.double(), tol)
    p = found.p.to(g.dtype)
    p = torch.where(
        p < found.p, torch.nextafter(p, torch.full_like(p, math.inf)), p
    )  # rounded up, so that it stays feasible
    arrays = {"p": p, "nu": torch.where(p > 0, (lr * p).square(), 0.0), "factor": found.factor.to(g.dtype)}
    if isinstance(grad, np.ndarray):
        arrays = {name: x.numpy() for name, x in arrays.items()}
    solution = replace(found, **arrays)
    if throw and not solution.converged:
        raise ConvergenceError(
            f"the stationary preconditioner has a relative duality gap of {solution.gap:.2g}, wanted {tol:.2g}: "
            f"{solution.message}",
            solution,
        )
    return solution


def unconstrained(H: Array) -> Array:
    """½ Π₊(H): the P of least trace with H ⪯ 2P and P ⪰ 0 if P need not be diagonal (½H for H ⪰ 0).

    Proof: let Π project onto the eigenvectors of H with positive eigenvalues. Any feasible P has tr P ≥ tr ΠPΠ ≥
    ½ tr ΠHΠ, half the sum of H's positive eigenvalues. ½ Π₊(H) is feasible and attains it.

    Parameters
    ----------
    H : array (n, n), symmetric

    Returns
    -------
    array (n, n)
    """
    A = torch.as_tensor(H)
    values, Q = torch.linalg.eigh((A + A.T) / 2)
    P = (Q * values.clamp(min=0) / 2) @ Q.T
    return P.numpy() if isinstance(H, np.ndarray) else P


def reference(H: np.ndarray, g: np.ndarray, lr: float, **options) -> np.ndarray:
    """p from CVXPY :cite:`diamond2016`: equation :eq:`eq-program` as it is written, for a few tens of weights.

    Parameters
    ----------
    H : array (n, n), symmetric
    g : array (n,)
    lr : float
        η > 0, possibly infinite.
    **options
        For ``cvxpy.Problem.solve``.

    Returns
    -------
    array (n,)

    Raises
    ------
    ImportError
        If CVXPY is not installed.
    cvxpy.SolverError
        If its solver fails.
    """
    import cvxpy as cp

    scale = max(np.linalg.eigvalsh(H)[-1], abs(g).max() / lr, 0) or 1.0
    p, b = cp.Variable(len(g), nonneg=True), g / lr / scale  # b = 0 if η is infinite
    cost = cp.sum(p) + sum(cp.quad_over_lin(b[i], p[i]) for i in np.flatnonzero(b))
    problem = cp.Problem(cp.Minimize(cost), [2 * cp.diag(p) - H / scale >> 0])
    problem.solve(**options)
    if p.value is None:
        raise cp.SolverError(f"the solver ended with the status {problem.status!r}")
    return scale * np.asarray(p.value)
