"""The dual over matrices of low rank, for a Hessian that is known by its products with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..eigen import Eigenpairs, orthonormalise, top_eigenpairs
from ..errors import DivergenceError
from .certificate import Solution, certify_scaled, largest_unseen
from .interior_point import solve_dense

COLUMNS = 3  # of a random start
DIRECT_COLUMNS = 24  # where no products are remembered: 3 miss directions at first, 72 cost more than they find
NEGLIGIBLE_GAIN = 0.01  # share of the gap below which a gain of the dual ends an ascent and a column is dropped
SMALL_ENTRY = 0.1  # a column with a larger one stays, whatever it gains: where P is small, single rows rest on it
GAP_REDUCTION = 1 / 3  # residual of eigenpairs over the last gap: a fifth costs products, five times it rounds
ERROR_SHARE = 0.25  # of the tolerance, for residuals and for unseen eigenvalues each; half of it is left to the ascent
ROUNDINGS = 100  # rounding error of residuals, in units of machine precision
MIN_P = 1e-6  # relative to the mean: keeps P positive where g and HV vanish; any small value does
MIN_NEW_SHARE = 0.5  # of an eigenvector outside the span of V, for it to become a column; 0.9 starves V, 0 floods it
MAX_STALLED = 5  # rounds without a smaller gap: 1 ends too early, 30 cost rounds and find nothing
MAX_GAP_GROWTH = 2.0  # where a new direction is found: beyond it earlier gaps had missed the direction
MAX_ROUNDS = 100  # some 10 suffice
MAX_DENSE = 1_000  # weights for which all of H is asked for where nothing else helps: the dense method takes seconds
CYCLE = 20  # iterations between two evaluations of the gain: 4 end ascents too early, 100 too late
HISTORY = 3  # of L-BFGS: 20 save nothing and take memory
MAX_CYCLES = 25  # of an ascent, for those to P = 0 that do not end


class Hessian:
    """Products with a fixed H, of which up to ``most`` are remembered, so that only new directions cost products.

    ``product`` is H. ``model`` is H less its block on the complement of the remembered directions; it is free.
    """

    def __init__(self, hvp: Callable[[Tensor], Tensor], like: Tensor, tol: float, most: int):
        self.hvp, self.like, self.most, self.spent = hvp, like, most, 0
        self.negligible = max(1e-3 * tol, 0.3 * ROUNDINGS * torch.finfo(like.dtype).eps)  # share of a vector
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
            self.A = symmetric(torch.cat([torch.cat([self.A, known]), A], dim=1))
            inside = self.Q.T @ V
        return self.HQ @ inside

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


def symmetric(A: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """A without rounding, or an error if it is not symmetric."""
    if (A - A.T).abs().max() > 0.01 * A.abs().max():  # float32 products of networks are within 1e-4
        raise ValueError("hessian(V) is not symmetric: u · Hv and v · Hu differ by more than a hundredth")
    return (A + A.T) / 2


def solve_low_rank(
    H: Hessian, b: Float[Tensor, "n"], start: Float[Tensor, "n r"] | None, tol: float, max_rank: int, max_products: int
) -> Solution:
    """Maximise ½⟨V, HV⟩ + 2 Σ bᵢ sᵢ over rows (vᵢ, sᵢ) on the sphere, in rounds, until a certificate holds.

    A round maximises with the model of H, then spends products: on the V that it found, and on the eigenvalues of P⁻¹H
    that certify it. At a critical point p = √(b² + ¼ (HV)ᵢ²) is the multiplier. An eigenvector of P⁻¹H with an
    eigenvalue above 2 is a direction of ascent and becomes a new column.
    """
    n = len(b)
    generator = np.random.default_rng(n)
    columns = min(COLUMNS if H.most else DIRECT_COLUMNS, max_rank)
    random = torch.as_tensor(generator.standard_normal((n, columns + 1)), dtype=b.dtype, device=b.device)
    V, spare = random[:, :columns], random[:, columns:]
    V = (V / V.norm(dim=1, keepdim=True) / 2 if start is None else start)[:, :n]
    residual = max(tol * ERROR_SHARE, ROUNDINGS * torch.finfo(H.like.dtype).eps)
    best: Solution | None = None
    gap, stalled, rounds = 1.0, 0, 0

    def multiplier(HV: Tensor) -> Tensor:
        p = (b.square() + HV.square().sum(1) / 4).sqrt()
        return p.clamp(min=MIN_P * float(p.mean()) or 1.0)

    def eigenpairs(guess: Tensor, tol: float) -> Eigenpairs:
        """As many as V has columns: at the optimum P⁻¹H has the eigenvalue 2 along each."""
        return top_eigenpairs(H.product, p, min(V.shape[1], n), guess, tol, throw=False)

    HV = H.product(V)
    symmetric(V.T @ HV)
    p = multiplier(HV)
    while True:
        negligible = NEGLIGIBLE_GAIN * max(abs(gap), tol)
        V = ascend(H.product if H.full else H.model, V, b, p, negligible)
        if not stalled:
            gains, Q = torch.linalg.eigh(V.T @ (p[:, None] * V))  # what each column of VQ adds to the dual
            worth = gains > negligible * float((p + b.square() / p).sum())
            V = V @ Q
            V = V[:, worth | (V.abs().amax(0) > SMALL_ENTRY) | (gains == gains[-1])]
        HV = H.product(V)
        p = multiplier(HV)
        pairs = eigenpairs(torch.cat([V, spare], dim=1), max(gap * GAP_REDUCTION, residual))
        point = certify_scaled(p, V, HV, b, tol, pairs, float(pairs.values[-1]))  # provisional: others may hide
        hidden, checked = None, point.converged
        if checked:
            pairs = eigenpairs(pairs.start, residual)
            bound, hidden = largest_unseen(H.product, p, pairs.U, 2 + 2 * tol * ERROR_SHARE, generator)
            point = certify_scaled(p, V, HV, b, tol, pairs, bound)
            point = replace(point, converged=point.converged and hidden is None)
            best = best if point.converged else None  # earlier gaps were too small: they missed an eigenvalue
        spare, gap, rounds = pairs.spare, point.gap, rounds + 1
        top = float(pairs.values[0])
        basis = torch.linalg.qr(p.sqrt()[:, None] * V).Q
        U = pairs.U[:, pairs.values > 2]
        outside = 1 - (basis.T @ (p.sqrt()[:, None] * U)).square().sum(0)  # the share of each that V does not span
        U = U[:, outside > MIN_NEW_SHARE] if hidden is None else hidden
        missed = best is not None and U.shape[1] > 0 and abs(gap) > MAX_GAP_GROWTH * abs(best.gap)
        best = None if missed else best  # as above
        stalled = int(missed) if best is None or abs(gap) < abs(best.gap) else stalled + 1
        best = point if best is None or point.converged or abs(gap) < abs(best.gap) else best
        full = U.shape[1] > 0 and V.shape[1] >= max_rank
        ended = stalled >= MAX_STALLED or rounds >= MAX_ROUNDS
        known, left = H.Q.shape[1] == n, max_products - H.spent
        if point.converged:
            message = ""
        elif full and (stalled or left <= 0):
            message = f"λ_max(P⁻¹H) is still {top:.6g} at rank {max_rank}, the largest allowed; allow more (max_rank)"
        elif (known and ended) or (n <= min(MAX_DENSE, max_products) and (ended or left <= 0)):
            dense = solve_dense(H.product(torch.eye(n, dtype=b.dtype, device=b.device)), b, tol)
            return replace(dense if dense.gap < abs(best.gap) else best, hvps=H.spent, message=dense.message)
        elif left <= 0:
            message = f"{H.spent} Hessian-vector products were spent; allow more (max_products), or start nearer"
        elif not ended:
            U = U[:, : max(max_rank - V.shape[1], 0)]
            V = torch.cat([V, min(1.0, math.sqrt(abs(gap))) * U / U.abs().amax(0)], dim=1)
            continue
        else:
            message = f"it no longer improves, and λ_max(P⁻¹H) is {top:.6g}; {H.like.dtype} may not allow more"
        return replace(best, hvps=H.spent, message=message)


def ascend(
    product: Callable[[Tensor], Tensor],
    V: Float[Tensor, "n r"],
    b: Float[Tensor, "n"],
    p: Float[Tensor, "n"],
    tol: float,
) -> Float[Tensor, "n r"]:
    """L-BFGS over the rows (vᵢ, sᵢ), normalised, until a cycle of iterations adds at most a share ``tol`` to the dual.

    A row of norm c turns by its gradient over c². With c = √pᵢ this preconditions the ascent: the dual has a curvature
    of pᵢ along row i.
    """
    s = (1 - V.square().sum(1)).clamp(min=1e-12).sqrt()  # at s = 0 the dual has no gradient
    unit = float(p.mean())  # L-BFGS has absolute tolerances
    Y = (torch.cat([V.T, s[None]]) * (p / unit).sqrt()).requires_grad_()  # a column for each weight: fast on whole rows
    Y.grad = slope = torch.empty_like(Y)
    optimizer = torch.optim.LBFGS(
        [Y], max_iter=CYCLE, history_size=HISTORY, line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=0
    )
    N, b = torch.empty_like(Y), b / unit

    @torch.no_grad()
    def closure() -> Tensor:
        """Fills `slope`; V = 0 has the value 0. In place: with many weights fresh memory takes most of the time."""
        v2 = torch.einsum("ri,ri->i", Y[:-1], Y[:-1])
        norm = (v2 + Y[-1].square()).sqrt_()
        torch.div(Y, norm, out=N)
        V, s = N[:-1], N[-1]
        torch.mul(product(V.T).T, -1 / unit, out=slope[:-1])
        along = torch.einsum("ri,ri->i", slope[:-1], V)
        lost = torch.where(s > 0, v2 / norm.square() / (1 + s.abs()), 1 - s)  # 1 - s, exact where s is near 1
        value = along.sum() / 2 + 2 * (b * lost).sum()
        slope[-1] = -2 * b
        slope.addcmul_(N, along - 2 * b * s, value=-1).div_(norm)
        return value

    before = math.inf
    for _ in range(MAX_CYCLES):
        optimizer.step(closure)
        after = float(closure())
        if before - after <= tol * (2 * float(b.sum()) - after):
            break
        before = after
    return (Y.detach() / Y.detach().norm(dim=0))[:-1].T.clone()
