"""The stable flow and the central flow of an optimizer, one step at a time.

State: weights w, the average ν, and the time t in optimizer steps. With c = (1-β₂)/β₂ and Σ = UXUᵀ the covariance of
the oscillation over the critical eigenvectors U of P⁻¹H (those with eigenvalues near 2),

    dw/dt = -P⁻¹ (∇L + ½ ∇⟨Σ, H⟩)

    dν/dt = c (moment(∇L² + 4p² ⊙ diag Σ) - ν)

(the ansatz of Cohen et al. :cite:yearpar:`cohen2025`). Σ = 0 gives the stable flow. The central flow's Σ keeps every
eigenvalue at or below 2 and is zero where an eigenvalue is below 2. To first order in time the matrix 2P - H seen along
U moves as A + dt (α + B[X]), so that over a step X solves SDCP(A + dt α, dt B). The ablated flow lacks the curvature
penalty ½ ∇⟨Σ, H⟩; ν alone then holds the eigenvalues at 2. For an optimizer with momentum its threshold θ takes the
place of 2, and θ² that of 4: the code says θ.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from . import sdcp
from .critical import Critical, Modes, Pairs, expected, float64
from .errors import DivergenceError
from .objective import Objective
from .optimizers import Optimizer

MAX_DEVIATION = 10.0  # of the oscillation, in lengths of w: far beyond it no second-order expansion means anything
INERT = 1e-6  # share of the largest eigenvalue of B in units of each direction; T is not known that well
TIED = 1e-4  # thresholds: what is so little below, on average, counts as at the threshold
MIN_EXPONENT = 1e-6  # λ dt, in the φ-functions, which lose digits below; negative ones are left to Heun's method


class EndedError(DivergenceError):
    """A flow can't go on: nothing would lower an eigenvalue that is at 2 or above, or it runs away from a saddle."""


class Oscillation(NamedTuple):
    """Σ = UXUᵀ through the two vectors by which it acts on the flow: equation :eq:`eq-mean-gradient`.

    Attributes
    ----------
    diag : Tensor (n,)
        diag Σ.
    penalty : Tensor (n,)
        ½ ∇⟨Σ, H⟩, or zero if the flow has no penalty.
    """

    diag: Float[Tensor, "n"]
    penalty: Float[Tensor, "n"]

    @classmethod
    def of(cls, critical: Critical, X: Float[np.ndarray, "k k"], pairs: Pairs | None = None) -> Oscillation:
        """That of the covariance X (k, k) over the critical eigenvectors."""
        pairs = pairs or Pairs.of(critical)
        x = pairs.weights(X)
        diag = x @ pairs.products
        return cls(diag, x @ pairs.third / 2 if critical.penalised else torch.zeros_like(diag))


class Point(NamedTuple):
    """A state, with what the right-hand side of the flows needs of it, whatever oscillates.

    Attributes
    ----------
    opt : Optimizer
    nu : Tensor (n,) or ()
    t : float
    g : Tensor (n,)
        Gradient.
    p, own : Tensor (n,) or ()
        Preconditioner, and that of the optimizer's own ν (``with_own``).
    dw, dnu : Tensor (n,), and like ν
        Velocity of the stable flow: with momentum that of m, where the penalty acts on m.
    """

    opt: Optimizer
    nu: Tensor
    t: float
    g: Float[Tensor, "n"]
    p: Tensor
    own: Tensor
    dw: Float[Tensor, "n"]
    dnu: Tensor

    @classmethod
    def of(
        cls, opt: Optimizer, nu: Tensor, t: float, g: Float[Tensor, "n"], m: Tensor | None = None, decay: Any = 0
    ) -> Point:
        """Arguments are those of `velocity`; with momentum m, and what a weight decay takes away in a unit of time."""
        own = opt.preconditioner(opt.with_own(nu, g), t)
        dnu = opt.rate * (opt.moment(g.square()) - nu)
        dw = -g / own if m is None else torch.where(opt.moves(nu), -opt.direction(m, g, t) / own, 0.0)
        return cls(opt, nu, t, g, opt.preconditioner(nu, t), own, dw - decay, dnu)

    def velocity(self, sigma: Oscillation | None = None) -> tuple[Float[Tensor, "n"], Tensor]:
        """As of `velocity`."""
        if sigma is None:
            return self.dw, self.dnu
        opt = self.opt
        dw = torch.where(opt.moves(self.nu), self.dw - sigma.penalty / self.own, 0.0)
        return dw, self.dnu + opt.rate * opt.moment(opt.excess(self.p, sigma.diag))

    def drift(self, critical: Critical, span: tuple[float, float], pairs: Pairs | None = None) -> Drift:
        """As of `drift`."""
        pairs, opt, p = pairs or Pairs.of(critical), self.opt, self.p
        slope = opt.dp_dnu(self.nu, self.t)
        ahead, behind = (opt.preconditioner(self.nu, t) for t in reversed(span))
        dp = slope * self.dnu + (ahead - behind) / (span[1] - span[0])
        alpha = opt.threshold * pairs.products @ dp.expand(len(self.g)) - pairs.third @ self.dw
        growth = [(slope * opt.rate * opt.moment(opt.excess(p, x))).expand(len(x)) for x in pairs.products]
        parts = [opt.threshold * torch.stack(growth) @ pairs.products.T]
        parts.append((pairs.third / p) @ pairs.third.T / 2 if critical.penalised else torch.zeros_like(parts[0]))
        at = pairs.at
        grown, curved = (sdcp.symmetric(float64(part)[at][:, :, at]) for part in parts)
        return Drift(float64(alpha)[at], curved, grown)


def velocity(
    opt: Optimizer, nu: Tensor, t: float, g: Float[Tensor, "n"], sigma: Oscillation | None = None
) -> tuple[Float[Tensor, "n"], Tensor]:
    """The right-hand side of the flows, in units of optimizer steps; without momentum and weight decay.

    That of the stable flow, equation :eq:`eq-stable-flow`, if there is no Σ, otherwise that of the central flow:
    :eq:`eq-central-flow` for RMSProp, :eq:`eq-scalar-flow` for Scalar RMSProp, :eq:`eq-gd-flow` for gradient descent.

    Parameters
    ----------
    opt : Optimizer
    nu : Tensor (n,) or ()
        ν.
    t : float
        Time, on which a schedule and a bias correction depend.
    g : Tensor (n,)
        Gradient.
    sigma : Oscillation, optional
        Σ.

    Returns
    -------
    dw : Tensor (n,)
        dw/dt; where ν lags behind g², with the ν that an optimizer would have (``with_own``).
    dnu : Tensor (n,) or ()
        dν/dt, like ν.
    """
    return Point.of(opt, nu, t, g).velocity(sigma)


class Drift(NamedTuple):
    """How fast θP - H changes along U: A' = α + B[X], equation :eq:`eq-drift`.

    B is the sum of two parts, each symmetric and semidefinite.

    Attributes
    ----------
    alpha : array (k, k)
        α, without any oscillation.
    curvature : array (k, k, k, k)
        Part of B, since the oscillation steers w to lower curvature.
    growth : array (k, k, k, k)
        Part of B, since it makes ν grow.
    """

    alpha: Float[np.ndarray, "k k"]
    curvature: Float[np.ndarray, "k k k k"]
    growth: Float[np.ndarray, "k k k k"]

    @property
    def B(self) -> Float[np.ndarray, "k k k k"]:
        """The sum of both parts (k, k, k, k)."""
        return self.curvature + self.growth

    def delayed(self, share: float) -> Drift:
        """Where no more than a share of the penalty reaches w within a step, the rest being in m."""
        return self._replace(curvature=share * self.curvature)


class Balance(NamedTuple):
    """Rates (per unit of time) at which the eigenvalues are moved, averaged over the oscillating directions.

    Each is the mean of an operator's values along the P-orthonormal eigenvectors of Σ, weighted with the variances.
    Where all that oscillates stays at θ, rise = curvature + growth. These are the two brakes of equation
    :eq:`eq-mechanisms`.

    Attributes
    ----------
    rise : float
        By which they would rise if nothing oscillated: -⟨X, α⟩ / tr X.
    curvature : float
        By which curvature regularisation lowers them: ⟨X, B₁[X]⟩ / tr X.
    growth : float
        By which the growth of ν lowers them: ⟨X, B₂[X]⟩ / tr X.
    """

    rise: float
    curvature: float
    growth: float

    @classmethod
    def of(cls, drift: Drift, X: Float[np.ndarray, "k k"]) -> Balance:
        """That of a drift and a covariance X (k, k) other than zero."""
        rates = (np.vdot(X, -drift.alpha), *(np.einsum("ab,abcd,cd", X, B, X) for B in drift[1:]))
        return cls(*(float(rate / np.trace(X)) for rate in rates))


class Step(NamedTuple):
    """A step of a flow: the state at its end, and what happened to the critical eigenvalues on the way.

    Attributes
    ----------
    w : Tensor (n,)
        Weights at its end.
    nu : Tensor (n,) or ()
        ν at its end.
    X : array (k, k)
        Covariance of the oscillation over the critical eigenvectors during the step.
    A : array (k, k)
        θUᵀPU - UᵀHU at its end, as far as the drift tells.
    drift : Drift or None
        Averaged over the step; None if nothing is critical.
    second_order : float
        Its second-order part relative to the first, leaving out the linear force along modes.
    m : Tensor (n,), optional
        Average of gradients at its end, with momentum.
    """

    w: Float[Tensor, "n"]
    nu: Tensor
    X: Float[np.ndarray, "k k"]
    A: Float[np.ndarray, "k k"]
    drift: Drift | None
    second_order: float
    m: Float[Tensor, "n"] | None = None

    def least(self, threshold: float) -> Step:
        """With the least X of all that have the same B[X], if what oscillates then is as good as at the threshold.

        Between directions that do not act on each other X is not determined: errors of A and B would decide on it.
        """
        k, X = len(self.X), self.X
        if k < 2 or self.drift is None or not X.any():
            return self
        B = self.drift.B
        action, Q = np.linalg.eigh(np.einsum("abcb->ac", B))
        if action[0] <= 0:
            return self
        unit = Q * action**-0.25 @ Q.T  # changes X into units in which B acts on all directions about as much
        units, back = np.kron(unit, unit), np.linalg.inv(unit)
        values, V = np.linalg.eigh(units @ B.reshape(k * k, k * k) @ units)
        V = V[:, values > INERT * values[-1]]
        least = unit @ (V @ (V.T @ (back @ X @ back).ravel())).reshape(k, k) @ unit
        least, size = (least + least.T) / 2, np.trace(least)
        tied = np.vdot(least, self.A) <= TIED * threshold * size
        return self._replace(X=least) if tied and np.linalg.eigvalsh(least)[0] >= -sdcp.TOL * size else self


def drift(
    opt: Optimizer, nu: Tensor, t: float, g: Float[Tensor, "n"], critical: Critical, span: tuple[float, float]
) -> Drift:
    """How fast θP - H changes along the critical eigenvectors.

    α = θUᵀ diag(ṗ₀) U - ∇H[U, U]·ẇ₀ with the stable flow's ẇ₀ and ṗ₀ = ∂p/∂ν ν̇₀ + ∂p/∂t, and
    B[X, Y] = ½⟨∇H[Y], P⁻¹∇H[X]⟩ + θ⟨diag UYUᵀ, ∂p/∂ν c moment(θ²p² ⊙ diag UXUᵀ)⟩, the first term with the penalty only:
    equation :eq:`eq-mechanisms`.

    Parameters
    ----------
    opt : Optimizer
    nu, t, g
        As of `velocity`.
    critical : Critical
    span : (float, float)
        Interval of time that the step covers; ∂p/∂t, of a schedule or a bias correction, is the mean over it.

    Returns
    -------
    Drift
    """
    return Point.of(opt, nu, t, g).drift(critical, span)


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
    average of the drifts at both fixes the X of the step: equation :eq:`eq-complementarity`. Eigenvectors and third
    derivatives are those expected at the middle of the step; where it is not known how they change (``critical.dU``,
    ``critical.dT``), the step is of first order.

    Parameters
    ----------
    f : Objective
    opt : Optimizer
    w, nu, t
        State: weights (n,), ν, time.
    dt : float
        Step, in optimizer steps.
    g : Tensor (n,)
        Gradient at w.
    critical : Critical, optional
        Eigenvectors with eigenvalues near 2 and their third derivatives.
    modes : Modes, optional
        Eigenvectors of P⁻¹H along which the linear part of the force, -λ, is integrated exactly (ETD2RK of Cox and
        Matthews :cite:yearpar:`cox2002`). Heun's method by itself does not damp an eigenvalue of 2 over a unit of time.

    Returns
    -------
    Step
        State at t + dt; X (k, k) in float64, (0, 0) if nothing is critical; what holds the eigenvalues at 2.

    Raises
    ------
    ConvergenceError
        If the complementarity problem could not be solved.
    DivergenceError
        If a derivative along the critical eigenvectors is not finite, or nothing lowers an eigenvalue.
    """
    X, A, sigma, mean, span = np.zeros((0, 0)), np.zeros((0, 0)), None, None, (t, t + dt)
    start = Point.of(opt, nu, t, g, decay=decayed(opt, t, w))
    p = start.p
    if critical is not None:
        critical, pairs, A = expected(critical, dt, opt.threshold)
        first = start.drift(critical, span, pairs)
        most = MAX_DEVIATION**2 * max(float((p * x.square()).sum()) for x in (w, f.w0, g / p))
        X = covariance(A, dt, first, most, opt.threshold, w.dtype)
        sigma = Oscillation.of(critical, X, pairs)

    none = w.new_empty(w.numel(), 0)
    linear, U, dual = modes or (none[0], none, none)
    z = -(dt * linear.double()).clamp(min=MIN_EXPONENT)
    phi1 = z.expm1() / z
    z, phi1, phi2 = (x.to(w.dtype) for x in (z, phi1, (phi1 - 1) / z))

    def along(factors: Float[Tensor, "m"], v: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return U @ (factors * (dual.T @ v))

    dw, dnu = start.velocity(sigma)
    way = dt * (dw + along(phi1 - 1, dw))
    ahead = w + way
    end = Point.of(
        opt, (nu + dt * dnu).clamp(min=0), t + dt, f.value_and_grad(ahead)[1], decay=decayed(opt, t + dt, ahead)
    )
    if critical is not None:
        mean = Drift(*((a + b) / 2 for a, b in zip(first, end.drift(critical, span, pairs), strict=True)))
        X = covariance(A, dt, mean, most, opt.threshold, w.dtype)
        sigma = Oscillation.of(critical, X, pairs)
        A = critical.A + dt * (critical.missed + mean.alpha + np.einsum("abcd,cd->ab", mean.B, X))
    (dw, dnu), (dw_end, dnu_end) = start.velocity(sigma), end.velocity(sigma)
    change = dw_end - dw + along(-z / dt, way)  # of the velocity, but for its linear part
    w = w + dt * (dw + along(phi1 - 1, dw) + change / 2 + along(phi2 - 1 / 2, change))
    second_order = ((p * change.square()).sum() / (p * dw.square()).sum() / 4).sqrt()
    return Step(w, (nu + dt * (dnu + dnu_end) / 2).clamp(min=0), X, A, mean, float(second_order))


def decayed(opt: Optimizer, t: float, w: Float[Tensor, "n"]) -> Tensor | float:
    """What a decoupled weight decay takes from the weights in a unit of time.

    Parameters
    ----------
    opt : Optimizer
    t : float
    w : Tensor (n,)

    Returns
    -------
    Tensor (n,), or 0 without decay
    """
    share = opt.decay(t)
    return share * w if share else 0.0


def covariance(
    A: np.ndarray, dt: float, drift: Drift, most: float, threshold: float, dtype: torch.dtype
) -> Float[np.ndarray, "k k"]:
    """X of a step, SDCP(A + dt α, dt B), none of whose variances may be expected above ``most``.

    Parameters
    ----------
    A : array (k, k)
    dt : float
    drift : Drift
    most : float
    threshold : float
        θ.
    dtype : torch.dtype
        In which A was computed.

    Returns
    -------
    array (k, k)

    Raises
    ------
    DivergenceError, ConvergenceError
        As of `step`.
    """
    tolerance = torch.finfo(dtype).eps ** 0.5
    if not all(np.isfinite(part).all() for part in (A, *drift)):
        raise DivergenceError("a derivative along the critical eigenvectors is not finite")
    A, B = A + dt * drift.alpha, dt * drift.B
    lacks, V = np.linalg.eigh(A)
    for lack, v in zip(-lacks, V.T, strict=True):
        if lack > -tolerance and max(lack, tolerance) > most * np.einsum("a,b,abcd,c,d", v, v, B, v, v):
            raise EndedError(
                f"an eigenvalue of P⁻¹H is {threshold + max(lack, 0):.6g}, and no mechanism lowers it: the loss is "
                "quadratic along its eigenvector, or nearly so, and the preconditioner does not respond to an "
                "oscillation; the optimizer oscillates there with the amplitude that it has, or diverges, and has no "
                "central flow"
            )
    return sdcp.solve(A, B).X
