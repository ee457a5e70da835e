"""The stationary preconditioner: what ν settles at if the weights stand still, as the solution of a convex program.

With H and g frozen, P̄ = diag(√ν̄) / η solves the first of these, and its multiplier Z = 2 Σ̄ / η² the second, its
dual::

    minimise     tr P + ‖g‖²_{P⁻¹} / η²
    subject to   H ⪯ 2P, P ⪰ 0 diagonal,

    maximise     ⟨Z, H⟩ + (2/η) Σᵢ |gᵢ| √(1 - 2Zᵢᵢ)
    subject to   Z ⪰ 0, Zᵢᵢ ≤ ½.

η = ∞ drops the second term: P̂. Whatever way a point is found, a feasible P and a feasible Z certify it: the optimum is
between their values. A dense H goes to an interior-point method. Products with H alone suffice for the other method: Z
has low rank, Z = ½VVᵀ, and the rows (vᵢ, √(1 - ‖vᵢ‖²)) are points on a sphere, over which the dual is maximised
(Burer and Monteiro :cite:yearpar:`burer2003`). Some solution has no more than √(2n) columns, as Barvinok
:cite:yearpar:`barvinok1995` and Pataki :cite:yearpar:`pataki1998` proved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .eigen import Eigenpairs, orthonormalise, top_eigenpairs
from .errors import ConvergenceError, DivergenceError

Array = Any  # torch.Tensor or numpy.ndarray, as the input


@dataclass(frozen=True)
class Solution:
    """A feasible preconditioner with its certificate.

    Attributes
    ----------
    p : array (n,)
        Diagonal of P, feasible: H ⪯ 2P. For products with H this rests on the eigenvalues of P⁻¹H that the
        eigensolver found, each taken to be larger by its residual, and, if converged, on a
        search from a random vector that bounds the others but for one case in a thousand; for a dense H on a Cholesky
        factorisation.
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
        Hessian-vector products after which to give up (looked at between rounds, so that more may be spent).
    remember : int, optional
        Vectors whose products with H are kept, so that H is asked for few new ones (default: at least 200, and up to
        10⁷ / n). 0 where products cost less than computing with those, as for a diagonal plus a matrix of low rank.
        Eigenvectors are then sought to 1e-3 or better in each round.
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
    For a dense H the method is Mehrotra's :cite:`mehrotra1992`, in the direction of Helmberg, Rendl, Vanderbei and
    Wolkowicz :cite:yearpar:`helmberg1996`. For products with H it is L-BFGS :cite:`liu1989` on the spheres, with a
    search from a random vector at the end, as Kuczyński and Woźniakowski :cite:yearpar:`kuczynski1992` analyse it.
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
        if V0 is not None and V0.ndim == 2 and not V0.shape[1]:
            V0 = None
        if V0 is not None and not V0.isfinite().all():
            raise ValueError("start holds values that are not finite")
        if V0 is not None and (V0.ndim != 2 or len(V0) != len(g)):
            raise ValueError(f"start has shape {tuple(V0.shape)}; with {len(g)} weights it must be ({len(g)}, r)")
        H = _Hessian(hessian, g, 1e-3 * tol, max(200, 10**7 // len(g)) if remember is None else remember)
        found = _low_rank(H, b.double(), V0, tol, max_rank or 10 + math.ceil(math.sqrt(2 * len(g))), max_products)
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
        found = _dense((full + full.T).double() / 2, b.double(), tol)
    p = found.p.to(g.dtype)
    p = torch.where(p < found.p, torch.nextafter(p, torch.full_like(p, math.inf)), p)  # rounded up: it stays feasible
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

    The reason: let Π project onto the eigenvectors of H with positive eigenvalues. For any feasible P, tr P ≥ tr ΠPΠ ≥
    ½ tr ΠHΠ, which is the sum of H's positive eigenvalues over two; ½ Π₊(H) is feasible and attains that.

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
    """p as CVXPY :cite:`diamond2016` finds it: equation :eq:`eq-program` as it is written, for a few tens of weights.

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
        If it finds nothing.
    """
    import cvxpy as cp

    scale = max(np.linalg.eigvalsh(H)[-1], abs(g).max() / lr, 0) or 1.0
    p, b = cp.Variable(len(g), nonneg=True), g / lr / scale  # b = 0 if η is infinite
    cost = cp.sum([p[i] + (cp.quad_over_lin(b[i], p[i]) if b[i] else 0) for i in range(len(g))])
    problem = cp.Problem(cp.Minimize(cost), [2 * cp.diag(p) - H / scale >> 0])
    problem.solve(**options)
    if p.value is None:
        raise cp.SolverError(f"the solver ended with the status {problem.status!r}")
    return scale * np.asarray(p.value)


def _certified(p: Tensor, V: Tensor, HV: Tensor, b: Tensor, tol: float, hvps: int = 0) -> Solution:
    """Values and gap of a feasible p and a V with rows of norm at most 1."""
    scale = max(p.abs().max().item(), 1e-300)
    primal = float((p + torch.where(b > 0, b.square() / p, 0.0)).sum())
    slack = (1 - V.square().sum(1)).clamp(min=0).sqrt()
    dual = float((V * HV).sum() / 2 + 2 * (b * slack).sum())
    gap = (primal - dual) / max(abs(primal), 1e-12 * scale)
    return Solution(p, p, V, primal, dual, gap, hvps, abs(gap) <= tol, "")  # below zero, P is not feasible


# An interior-point method for dense H.


def _dual_factor(H: Tensor, Z: Float[Tensor, "n n"], tol: float) -> tuple[Float[Tensor, "n r"], Float[Tensor, "n r"]]:
    """V with Z ≈ ½VVᵀ, its rows no longer than 1 and without columns that do not matter; and HV."""
    values, Q = torch.linalg.eigh((Z + Z.T) / 2)
    keep = values > 1e-2 * tol / len(values) * values[-1]
    V = (Q[:, keep] * (2 * values[keep]).sqrt()).flip(1)
    V = V / V.square().sum(1, keepdim=True).sqrt().clamp(min=1)
    return V, H @ V


def _dense(H: Float[Tensor, "n n"], b: Float[Tensor, "n"], tol: float) -> Solution:
    """A primal-dual interior-point method with Mehrotra's predictor and corrector.

    With S = 2P - H and multipliers Z, y of S ⪰ 0, p ≥ 0 it follows the path ZS = μI, py = μ, 1 - b²/p² = 2 diag Z + y
    to small μ, in the direction of Helmberg, Rendl, Vanderbei and Wolkowicz (`solve` cites them).
    """
    n = len(b)
    scale = max(H.abs().sum(1).max().item(), b.max().item())
    if scale == 0 or (not b.any() and torch.linalg.eigvalsh(H)[-1] <= 1e-14 * scale):  # P = 0
        return replace(_certified(0 * b, b.new_zeros(n, 0), b.new_zeros(n, 0), b, tol), gap=0.0, converged=True)
    H, b = H / scale, b / scale
    eye = torch.eye(n, dtype=b.dtype, device=b.device)
    p = torch.maximum(H.abs().sum(1), b) + 0.1
    S, Z, y = 2 * torch.diag(p) - H, torch.diag(0.1 / p), 0.1 / p
    best = _certified(p, b.new_zeros(n, 0), b.new_zeros(n, 0), b, tol)
    length = 0.5

    def turn(Z: Tensor, dp: Tensor) -> Tensor:
        """How Z turns with S, so that ZS is what it was to first order."""
        X = Z @ (2 * dp[:, None] * inverse)
        return (X + X.T) / 2

    def direction(mu: float, bend: Tensor, curl: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dp, dZ, dy towards μ; ``bend`` and ``curl`` are the second-order parts of ZS and yp."""
        slope = 1 - (b / p).square() - 2 * (mu * inverse - bend).diagonal() - (mu / p - curl)
        dp = -torch.cholesky_solve(slope[:, None], factor)[:, 0]
        return dp, mu * inverse - bend - Z - turn(Z, dp), mu / p - curl - y - y * dp / p

    for _ in range(100):
        L, singular = torch.linalg.cholesky_ex(S)
        gap = float((Z * S).sum() + y @ p)
        if singular or gap < 1e-8 * tol * float(p.sum()):
            break
        if gap <= tol * float(p.sum()):
            point = _certified(p, *_dual_factor(H, Z, tol), b, tol)
            best = point if point.gap < best.gap else best
            if best.converged:
                break
        inverse = torch.cholesky_solve(eye, L)
        M = 4 * Z * inverse + torch.diag(2 * b.square() / p**3 + y / p)
        factor, singular = torch.linalg.cholesky_ex(M)
        if singular:
            break
        dp, dZ, dy = direction(0.0, 0 * S, 0 * y)
        mu = max(0.02, 1 - length) * gap / (2 * n)
        dp, dZ, dy = direction(mu, turn(dZ, dp), dp * dy / p)
        primal = min(_longest(S, 2 * torch.diag(dp)), _longest(torch.diag(p), torch.diag(dp)))
        dual = min(_longest(Z, dZ), _longest(torch.diag(y), torch.diag(dy)))
        length = min(primal, dual)
        primal, dual = (length, length) if b.any() else (primal, dual)  # the terms b²/p couple them
        p, Z, y = p + primal * dp, Z + dual * dZ, y + dual * dy
        S = 2 * torch.diag(p) - H
    message = "" if best.converged else "rounding errors stand in the way of a smaller one"
    return replace(best, p=best.p * scale, primal=best.primal * scale, dual=best.dual * scale, message=message)


def _longest(X: Float[Tensor, "n n"], dX: Float[Tensor, "n n"]) -> float:
    """A step, at most 1, that stays well inside of where X + step dX is positive definite."""
    step = 1.0
    while step > 1e-10 and torch.linalg.cholesky_ex(X + step * dX)[1]:
        step *= 0.8
    return step if step == 1.0 else 0.95 * step


# For products with H: the dual over points on spheres.


class _Hessian:
    """Products with H that are remembered: H stands still, so only what is outside their span costs anything.

    ``product`` is H. ``model`` is what is known of it, H less its block on the complement of that span; it is free.
    """

    def __init__(self, hvp: Callable[[Tensor], Tensor], like: Tensor, negligible: float, most: int):
        self.hvp, self.like, self.spent = hvp, like, 0
        self.most = most  # vectors to remember
        self.negligible = max(negligible, 30 * torch.finfo(like.dtype).eps)
        self.Q = self.HQ = torch.zeros(len(like), 0, dtype=torch.float64, device=like.device)
        self.A = self.Q.T @ self.HQ

    @property
    def full(self) -> bool:
        return self.most <= self.Q.shape[1] < len(self.Q)

    def product(self, V: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        if self.full:
            return self._new(V)
        inside = self.Q.T @ V
        outside = V - self.Q @ inside
        new = outside[:, outside.norm(dim=0) > self.negligible * V.norm(dim=0)]
        new = orthonormalise(new / new.norm(dim=0), self.Q)[:, : len(V) - self.Q.shape[1]]
        if new.shape[1]:
            known = new.T @ self.HQ
            self.Q, self.HQ = torch.cat([self.Q, new], dim=1), torch.cat([self.HQ, self._new(new)], dim=1)
            A = self.Q.T @ self.HQ[:, -new.shape[1] :]
            A = torch.cat([torch.cat([self.A, known]), A], dim=1)
            self.A = self.symmetric(A)
            inside = self.Q.T @ V
        return self.HQ @ inside

    @staticmethod
    def symmetric(A: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
        if (A - A.T).abs().max() > 0.01 * A.abs().max():
            raise ValueError("hessian(V) is not symmetric: u · Hv and v · Hu differ by more than a hundredth")
        return (A + A.T) / 2

    def model(self, V: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        inside = self.Q.T @ V
        return self.HQ @ inside + self.Q @ (self.HQ.T @ V - self.A @ inside)

    def _new(self, V: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        self.spent += V.shape[1]
        HV = self.hvp(V.to(self.like.dtype))
        if not isinstance(HV, Tensor) or HV.shape != V.shape:
            what = tuple(HV.shape) if isinstance(HV, Tensor) else type(HV).__name__
            raise ValueError(f"hessian(V) gave {what} for V of shape {tuple(V.shape)}; it must give H @ V, (n, k)")
        HV = HV.detach().to(V.dtype)
        if not HV.isfinite().all():
            raise DivergenceError("a product with the Hessian is not finite: the loss has overflowed at these weights")
        return HV


def _low_rank(
    H: _Hessian,
    b: Float[Tensor, "n"],
    start: Tensor | None,
    tol: float,
    max_rank: int,
    limit: int,
) -> Solution:
    """Maximise ½⟨V, HV⟩ + 2 Σ bᵢ sᵢ over rows (vᵢ, sᵢ) on the sphere with L-BFGS, until a certificate holds.

    What is known of H stands in for it while V is sought; H is asked for products with that V, then with what the
    eigensolver wants to certify it. At a critical point p = √(b² + ¼ (HV)ᵢ²) is the multiplier. Where P⁻¹H has an
    eigenvalue above 2, its eigenvector is a direction of ascent and becomes a further column.
    """
    n = len(b)
    generator = np.random.default_rng(n)
    random = torch.as_tensor(generator.standard_normal((n, 4)), dtype=b.dtype, device=b.device)
    V = random[:, :3] / random[:, :3].norm(dim=1, keepdim=True) / 2 if start is None else start
    V, spare = V[:, :n], random[:, 3:]
    best: Solution | None = None
    gap, stalled, grown, rounds = 1.0, 0, True, 0

    def multiplier(HV: Tensor) -> Tensor:
        p = (b.square() + HV.square().sum(1) / 4).sqrt()
        return p.clamp(min=1e-6 * float(p.mean()) or 1.0)

    HV = H.product(V)
    H.symmetric(V.T @ HV)
    p = multiplier(HV)
    while True:
        precision = 0.02 * max(abs(gap), tol) / (1 if grown else 10**stalled)
        V = _ascend(H.product if H.full else H.model, V, b, p, precision)
        adds, Q = torch.linalg.eigh(V.T @ (p[:, None] * V))  # what columns add to the dual
        least = 0.01 * max(abs(gap), tol) * float((p + b.square() / p).sum())
        if not stalled:
            V = V @ Q[:, (adds > least) | (adds >= 0.1 * adds[-1])]
        HV = H.product(V)
        p = multiplier(HV)
        k = min(V.shape[1], n)
        tight = max(tol / 4, 100 * torch.finfo(H.like.dtype).eps)
        loose = gap / 3 if H.most else min(gap / 3, 1e-3)  # where products are cheap, hidden ones are sought at once
        pairs = _eigenpairs(H, p, k, torch.cat([V, spare], dim=1), max(loose, tight))
        point = _certificate(p, V, HV, b, tol, pairs, k, float(pairs.values[-1]))  # the others are below the last
        hidden, checked = None, point.converged
        if checked:  # all pairs near 2, then a search for what they leave out
            pairs = _eigenpairs(H, p, k, torch.cat([V, pairs.spare], dim=1), 0.1)
            pairs = _eigenpairs(H, p, max(int((pairs.values > 1.9).sum()), 1), pairs.start, tight)
            bound, hidden = _search(H, p, pairs.U, 2 + tol / 2, generator)
            point = _certificate(p, V, HV, b, tol, pairs, len(pairs.values), bound)
            point = replace(point, converged=point.converged and hidden is None)
        before, spare, gap, rounds = gap, pairs.spare, point.gap, rounds + 1
        if checked and not point.converged:  # earlier gaps did not know of what was found
            best = None
        stalled = 0 if best is None or gap < 0.99 * (before if grown else best.gap) else stalled + 1
        best = point if best is None or point.converged or abs(gap) < abs(best.gap) else best
        top = float(pairs.values[0])
        basis = torch.linalg.qr(p.sqrt()[:, None] * V).Q
        U = pairs.U[:, pairs.values > 2]
        outside = 1 - (basis.T @ (p.sqrt()[:, None] * U)).square().sum(0)  # share of each that the columns of V lack
        U = U[:, (outside > 0.5) | (stalled > 2)] if hidden is None else hidden
        capped = U.shape[1] > 0 and V.shape[1] >= max_rank
        if point.converged:
            message = ""
        elif capped and (stalled > 2 or H.spent >= limit):
            message = f"λ_max(P⁻¹H) is still {top:.6g} at rank {max_rank}, the largest allowed; allow more (max_rank)"
        elif H.spent >= limit:
            message = f"{H.spent} Hessian-vector products were spent; allow more (max_products), or start nearer"
        elif stalled < 10 and rounds < 100:
            U = U[:, : max(max_rank - V.shape[1], 0)]
            grown = U.shape[1] > 0
            V = torch.cat([V, 0.3 * min(1.0, math.sqrt(abs(gap))) * U / U.abs().amax(0)], dim=1)
            continue
        elif H.Q.shape[1] == n:  # all of H is known
            dense = _dense(H.product(torch.eye(n, dtype=b.dtype, device=b.device)), b, tol)
            return replace(dense if dense.gap < abs(best.gap) else best, hvps=H.spent, message=dense.message)
        else:
            message = f"it does not get better, and λ_max(P⁻¹H) is {top:.6g}; {H.like.dtype} may not allow more"
        return replace(best, hvps=H.spent, message=message)


def _eigenpairs(H: _Hessian, p: Float[Tensor, "n"], k: int, guess: Float[Tensor, "n j"], tol: float) -> Eigenpairs:
    return top_eigenpairs(H.product, p, k, guess, tol, max_products=100 + 10 * k, throw=False)


def _search(
    H: _Hessian, p: Float[Tensor, "n"], U: Float[Tensor, "n k"], limit: float, generator: np.random.Generator
) -> tuple[float, Float[Tensor, "n 1"] | None]:
    """A bound of the eigenvalues of P⁻¹H outside the span of eigenvectors U; and a vector, if one is above the limit.

    Lanczos from a random vector x of unit length. Let m steps have Ritz values in [a, c], and C be the Chebyshev
    polynomial of degree m - 1 there. Gauss quadrature is exact for its square: ‖C(P^{-½}HP^{-½}) x‖ ≤ 1. An eigenvector
    in which x has the share ω, with eigenvalue λ > c, would make that at least C(λ) √ω. The share is smaller than δ/n
    with a probability of about √δ, one in a thousand; else C(λ) ≤ √(n/δ), which bounds λ.
    """
    n, delta, root = len(p), 1e-6, p.sqrt()
    known = torch.linalg.qr(root[:, None] * U).Q
    vectors = known.new_zeros(32, n)
    diagonal: list[float] = []
    beside: list[float] = []
    reach = math.log(2 * math.sqrt(n / delta))
    w = torch.as_tensor(generator.standard_normal(n), dtype=p.dtype, device=p.device)
    w = w - known @ (known.T @ w)
    norm = float(w.norm())
    if U.shape[1] >= n:
        return -math.inf, None
    while True:
        q, m = w / norm, len(diagonal) + 1
        if m > len(vectors):
            vectors = torch.cat([vectors, torch.zeros_like(vectors)])
        vectors[m - 1] = q
        basis = vectors[:m].T
        w = H.product((q / root)[:, None])[:, 0] / root
        diagonal.append(float(q @ w))
        for _ in range(2):
            w = w - known @ (known.T @ w) - basis @ (basis.T @ w)
        norm = float(w.norm())
        theta, Y = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        low, high = float(theta[0]), float(theta[-1])
        scale = max(abs(low), abs(high), 1e-300)
        complete = norm <= 1e-10 * scale or m + U.shape[1] >= n
        if high > limit and (complete or m > 3):
            return high, (basis @ torch.as_tensor(Y[:, -1:].copy(), dtype=p.dtype, device=p.device)) / root[:, None]
        bound = high if complete else math.inf
        if not complete and m > 1:
            bound = (low + high) / 2 + (high - low) / 2 * math.cosh(reach / (m - 1))
        if complete or bound <= limit or m >= 500:
            return bound, None
        beside.append(norm)


def _certificate(
    p: Float[Tensor, "n"],
    V: Float[Tensor, "n r"],
    HV: Float[Tensor, "n r"],
    b: Float[Tensor, "n"],
    tol: float,
    pairs: Eigenpairs,
    k: int,
    bound: float,
) -> Solution:
    """That of p, raised until it is feasible, by the first k eigenpairs of P⁻¹H and a bound of the other eigenvalues.

    With P-orthonormal eigenvectors u, H ⪯ 2P + Σ (λ - 2)₊ zzᵀ, z = Pu. And zzᵀ ⪯ ‖z‖₁ diag|z|, whose trace ‖z‖₁² is at
    most that of P: raising p where z is, costs no more than raising all of it. Residuals, and what is not known to be
    below 2, are left to that.
    """
    values, residuals = pairs.values[:k], pairs.residuals[:k]
    if not b.any() and max(float((values + residuals).max()), bound) <= 0:  # nothing to hold down
        return _certified(0 * p, 0 * V, 0 * HV, b, tol)
    Z = (p[:, None] * pairs.U[:, :k]).abs()
    raised = p + (Z * Z.sum(0) * (values - 2).clamp(min=0)).sum(1) / 2
    raised = raised * max(1.0, float((values.clamp(max=2) + residuals).max()) / 2, bound / 2)
    evenly = p * max(1.0, float((values + residuals).max()) / 2, bound / 2)
    return min((_certified(x, V, HV, b, tol) for x in (raised, evenly)), key=lambda point: abs(point.gap))


def _ascend(
    product: Callable[[Tensor], Tensor],
    V: Float[Tensor, "n r"],
    b: Float[Tensor, "n"],
    p: Float[Tensor, "n"],
    tol: float,
) -> Float[Tensor, "n r"]:
    """L-BFGS over the rows (vᵢ, sᵢ), normalised, until some iterations add no more than a share ``tol`` to the dual.

    A row turns by its gradient over the square of the norm that it is held at. With norms √pᵢ that is a preconditioned
    ascent, for the dual bends with pᵢ.
    """
    s = (1 - V.square().sum(1, keepdim=True)).clamp(min=1e-12).sqrt()
    unit = p.mean()  # L-BFGS knows absolute limits
    Y = (torch.cat([V, s], dim=1) * (p / unit).sqrt()[:, None]).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [Y], max_iter=20, history_size=5, line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=0
    )

    def closure() -> Tensor:
        norm = Y.detach().norm(dim=1, keepdim=True)
        N = Y.detach() / norm
        V, s = N[:, :-1], N[:, -1]
        HV = product(V)
        slope = -torch.cat([HV, 2 * b[:, None]], dim=1) / unit
        Y.grad = (slope - N * (slope * N).sum(1, keepdim=True)) / norm
        lost = torch.where(s > 0, V.square().sum(1) / (1 + s.abs()), 1 - s)  # 1 - s, exact where s is near 1
        return -((V * HV).sum() / 2 - 2 * (b * lost).sum()) / unit  # the dual less its value at V = 0

    before = math.inf
    for _ in range(25):
        optimizer.step(closure)
        after = float(closure())
        if before - after <= tol * (2 * float(b.sum() / unit) - after):
            break
        before = after
    return (Y.detach() / Y.detach().norm(dim=1, keepdim=True))[:, :-1].clone()
