"""The stable flow and the central flow of an optimizer, one step at a time.

State: weights w, the average ν, and the time t in optimizer steps. With c = (1-β₂)/β₂ and Σ = UXUᵀ the covariance of
the oscillation over the critical eigenvectors U of P⁻¹H (those with eigenvalues near 2),

    dw/dt = -P⁻¹ (∇L + ½ ∇⟨Σ, H⟩)            dν/dt = c (moment(∇L² + 4p² ⊙ diag Σ) - ν)

(equation "ansatz" of the chapter). Σ = 0 gives the stable flow. The central flow's Σ keeps every eigenvalue at or
below 2 and is zero where an eigenvalue is below 2. To first order in time the matrix 2P - H seen along U moves as
A + dt (α + B[X]), so that over a step X solves SDCP(A + dt α, dt B). The ablated flow lacks the curvature penalty
½ ∇⟨Σ, H⟩; ν alone then holds the eigenvalues at 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from . import sdcp
from .errors import DivergenceError
from .objective import Objective
from .optimizers import Optimizer

RECOVERY = 0.2  # an eigenvalue that is above 2 is lowered by at least this much in a unit of time, until it is 2


class Critical(NamedTuple):
    """What the central flow needs to know at the start of a step about the eigenvalues near 2."""

    A: Float[np.ndarray, "k k"]  # 2UᵀPU - UᵀHU
    U: Float[Tensor, "n k"]  # P-orthonormal right eigenvectors of P⁻¹H
    T: Float[Tensor, "k k n"]  # ∇(uᵢᵀ H uⱼ)
    penalised: bool = True  # False: the flow without its curvature penalty
    missed: np.ndarray | float = 0.0  # rate at which A moves besides, as seen in the past (k, k)


class Modes(NamedTuple):
    """Eigenvectors of P⁻¹H, and P times them as of when they were found: the projection is UPUᵀ even if P moves on."""

    values: Float[Tensor, "m"]
    U: Float[Tensor, "n m"]
    dual: Float[Tensor, "n m"]


class Oscillation(NamedTuple):
    """Σ = UXUᵀ through the two vectors by which it acts on the flow."""

    diag: Float[Tensor, "n"]  # diag Σ
    penalty: Float[Tensor, "n"]  # ½ ∇⟨Σ, H⟩

    @classmethod
    def of(cls, critical: Critical, X: Float[np.ndarray, "k k"]) -> Oscillation:
        x = torch.as_tensor(X, dtype=critical.U.dtype, device=critical.U.device)
        penalty = torch.einsum("ab,abn->n", x, critical.T) / 2
        return cls(((critical.U @ x) * critical.U).sum(1), penalty if critical.penalised else 0 * penalty)


def excess(p: Tensor, diag: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """What the oscillation adds to the mean squared gradient: 4p² ⊙ diag Σ, which is diag HΣH since HΣ = 2PΣ."""
    return 4 * p.square() * diag


def velocity(
    opt: Optimizer, nu: Tensor, t: float, g: Float[Tensor, "n"], sigma: Oscillation | None = None
) -> tuple[Float[Tensor, "n"], Tensor]:
    """dw/dt (n,) and dν/dt (like ν) at a point where the gradient is g; the stable flow's if there is no Σ."""
    p = opt.preconditioner(nu, t)
    if sigma is None:
        return -g / p, opt.rate * (opt.moment(g.square()) - nu)
    return -(g + sigma.penalty) / p, opt.rate * (opt.moment(g.square() + excess(p, sigma.diag)) - nu)


class Drift(NamedTuple):
    """How fast 2P - H changes along U: A' = α + B[X]. B is the sum of two parts, each symmetric and semidefinite."""

    alpha: Float[np.ndarray, "k k"]  # without any oscillation
    curvature: Float[np.ndarray, "k k k k"]  # since the oscillation steers w to lower curvature
    growth: Float[np.ndarray, "k k k k"]  # since it makes ν grow

    @property
    def B(self) -> Float[np.ndarray, "k k k k"]:
        return self.curvature + self.growth


class Balance(NamedTuple):
    """Rates (per unit of time) at which the eigenvalues are moved, averaged over the oscillating directions.

    Each is the mean of an operator's values along the P-orthonormal eigenvectors of Σ, weighted with the variances.
    Where all that oscillates stays at 2, rise = curvature + growth.
    """

    rise: float  # by which they would rise if nothing oscillated: -⟨X, α⟩ / tr X
    curvature: float  # by which curvature regularisation lowers them: ⟨X, B₁[X]⟩ / tr X
    growth: float  # by which the growth of ν lowers them: ⟨X, B₂[X]⟩ / tr X

    @classmethod
    def of(cls, drift: Drift, X: Float[np.ndarray, "k k"]) -> Balance:
        rates = (np.vdot(X, -drift.alpha), *(np.einsum("ab,abcd,cd", X, B, X) for B in drift[1:]))
        return cls(*(float(rate / np.trace(X)) for rate in rates))


class Step(NamedTuple):
    """A step of a flow: the state at its end, and what happened to the critical eigenvalues on the way."""

    w: Float[Tensor, "n"]
    nu: Tensor
    X: Float[np.ndarray, "k k"]  # covariance of the oscillation over the critical eigenvectors during the step
    A: Float[np.ndarray, "k k"]  # 2UᵀPU - UᵀHU at its end, as far as the drift tells
    drift: Drift | None  # averaged over the step; None if nothing is critical
    bend: float  # its second-order part relative to the first, leaving out the linear force along modes


def drift(
    opt: Optimizer, nu: Tensor, t: float, g: Float[Tensor, "n"], critical: Critical, span: tuple[float, float]
) -> Drift:
    """How fast 2P - H changes along the critical eigenvectors.

    α = 2Uᵀ diag(ṗ₀) U - ∇H[U, U]·ẇ₀ with the stable flow's ẇ₀ and ṗ₀ = ∂p/∂ν ν̇₀ + ∂p/∂t, and
    B[X, Y] = ½⟨∇H[Y], P⁻¹∇H[X]⟩ + 2⟨diag UYUᵀ, ∂p/∂ν c moment(4p² ⊙ diag UXUᵀ)⟩, the first term with the penalty only.
    ∂p/∂t, of a schedule or a bias correction, is the mean over ``span``, the interval of time that the step covers.
    """
    U, T = critical.U, critical.T
    k, n = U.shape[1], U.shape[0]
    dw, dnu = velocity(opt, nu, t, g)
    p, slope = opt.preconditioner(nu, t), opt.dp_dnu(nu, t)
    dp = slope * dnu + (opt.preconditioner(nu, span[1]) - opt.preconditioner(nu, span[0])) / (span[1] - span[0])
    alpha = 2 * U.T @ (dp.expand(n)[:, None] * U) - T @ dw

    third = T.reshape(k * k, n)
    pairs = (U[:, :, None] * U[:, None, :]).reshape(n, k * k).T
    growth = [(slope * opt.rate * opt.moment(excess(p, pair))).expand(n) for pair in pairs]
    a, parts = float64(alpha), []
    for part in (critical.penalised * third @ (third / p).T / 2, 2 * pairs @ torch.stack(growth).T):
        b = float64(part).reshape(k, k, k, k)
        for axes in ((1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1)):  # symmetric but for rounding
            b = (b + b.transpose(axes)) / 2
        parts.append(b)
    return Drift((a + a.T) / 2, *parts)


def step(
    f: Objective,
    opt: Optimizer,
    w: Float[Tensor, "n"],
    nu: Tensor,
    t: float,
    dt: float,
    g: Float[Tensor, "n"],
    critical: Critical | None = None,
    modes: Modes | None = None,
) -> Step:
    """Advance a flow by dt with Heun's method, exponential along known eigenvectors of P⁻¹H. Costs one gradient.

    Without ``critical`` this is the stable flow, and of second order in dt. With it, X is constant over the step and
    such that complementarity holds at its end: a first X from the drift at the start leads to a first end, then the
    average of the drifts at both fixes the X of the step. Since the eigenvectors stand still over a step, this is of
    first order.

    Parameters
    ----------
    w, nu, t
        State; g is the gradient at w.
    dt : float
        Step, in optimizer steps.
    critical : Critical, optional
        Eigenvectors with eigenvalues near 2 and their third derivatives.
    modes : Modes, optional
        Eigenvectors of P⁻¹H along which the linear part of the force, -λ, is integrated exactly (ETD2RK of Cox and
        Matthews, 2002). Heun's method by itself does not damp an eigenvalue of 2 over a unit of time.

    Returns
    -------
    Step
        State at t + dt; X (k, k) in float64, (0, 0) if nothing is critical; what holds the eigenvalues at 2.

    Raises
    ------
    ConvergenceError
        If the complementarity problem could not be solved.
    """
    X, A, sigma, mean, span = np.zeros((0, 0)), np.zeros((0, 0)), None, None, (t, t + dt)
    if critical is not None:
        a, V = np.linalg.eigh(critical.A)
        A = (V * np.maximum(a, -RECOVERY * dt)) @ V.T  # a start beyond the edge is not mended all at once
        A = (A + A.T) / 2 + dt * critical.missed
        first = drift(opt, nu, t, g, critical, span)
        X = _covariance(A, dt, first)
        sigma = Oscillation.of(critical, X)

    none = w.new_empty(w.numel(), 0)
    linear, U, dual = modes or (none[0], none, none)
    p, z = opt.preconditioner(nu, t), -dt * linear.clamp(min=0.1)
    phi1 = z.expm1() / z
    phi2 = (phi1 - 1) / z

    def along(factors: Float[Tensor, "m"], v: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return U @ (factors * (dual.T @ v))

    dw, dnu = velocity(opt, nu, t, g, sigma)
    way = dt * (dw + along(phi1 - 1, dw))
    end = (nu + dt * dnu, t + dt, f.value_and_grad(w + way)[1])
    if critical is not None:
        last = drift(opt, *end, critical, span)
        mean = Drift(*((a + b) / 2 for a, b in zip(first, last, strict=True)))
        X = _covariance(A, dt, mean)
        sigma = Oscillation.of(critical, X)
        A = critical.A + dt * (critical.missed + mean.alpha + np.einsum("abcd,cd->ab", mean.B, X))
    (dw, dnu), (dw_end, dnu_end) = velocity(opt, nu, t, g, sigma), velocity(opt, *end, sigma)
    change = dw_end - dw + along(-z / dt, way)  # of the velocity, but for its linear part
    w = w + dt * (dw + along(phi1 - 1, dw) + change / 2 + along(phi2 - 1 / 2, change))
    bend = (p * change.square()).sum() / (p * dw.square()).sum() / 4
    return Step(w, nu + dt * (dnu + dnu_end) / 2, X, A, mean, float(bend.sqrt()))


def _covariance(A: np.ndarray, dt: float, drift: Drift) -> np.ndarray:
    if not all(np.isfinite(part).all() for part in (A, *drift)):
        raise DivergenceError("a derivative along the critical eigenvectors is not finite")
    return sdcp.solve(A + dt * drift.alpha, dt * drift.B).X


def spread(
    h: Callable[[Tensor], Float[Tensor, "m"]], w: Float[Tensor, "n"], F: Float[Tensor, "n r"]
) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
    """Mean and standard deviation of h(w + δ) for an oscillation δ of covariance Σ = FFᵀ, to leading order.

    The mean is h(w) + ½⟨∇²h, Σ⟩, the variance ⟨∇h ∇hᵀ, Σ⟩. By central differences over a share ε of each column of F,
    2r + 1 evaluations of h: their errors are of the order of ε² and, from rounding, of machine precision over ε².
    """
    eps = torch.finfo(w.dtype).eps ** (1 / 8)
    with torch.no_grad():
        center = h(w)
        mean, variance = center.clone(), torch.zeros_like(center)
        for v in F.T:
            ahead, behind = h(w + eps * v), h(w - eps * v)
            mean += (ahead + behind - 2 * center) / (2 * eps**2)
            variance += ((ahead - behind) / (2 * eps)).square()
    return mean, variance.sqrt()


def float64(x: Tensor) -> np.ndarray:
    """A small tensor as a NumPy array in double precision."""
    return x.detach().cpu().numpy().astype(np.float64)
