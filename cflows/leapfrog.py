"""A step of the flows of an optimizer with momentum, whose m is a state beside w and ν.

The optimizer m ← β₁m + (1-β₁)g, w ← w - m / p is a leapfrog: its m is the velocity half a step later than w. So it is
the step of length 1 of the flow

    dw/dt = -P⁻¹m

    dm/dt = κ (∇L + ½ ∇⟨Σ, H⟩ - m),  κ = ln(1/β₁)

with the equation for ν as without momentum. Friction is integrated exactly, and all is of second order in the length of
a step. Σ acts on m, as the mean gradient that it is. It is such that no eigenvalue of P⁻¹H is above θ at the end of
the step: the leapfrog with constraints of molecular dynamics :cite:`ryckaert1977`, with inequalities.

Where the gradient itself has a share s in the optimizer's step, as with Nesterov's momentum,

    dw/dt = -P⁻¹ (s (∇L + ½ ∇⟨Σ, H⟩) + (1-s) m)

and its part is the mean of both ends of a step (Heun's method). A step of 1 is then near the optimizer, not the same.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .critical import Critical, expected
from .flows import MAX_DEVIATION, Drift, Oscillation, Point, Step, covariance, decayed
from .objective import Objective
from .optimizers import Optimizer

STEPS = 1.9  # in a unit of time, times (λ / θ)^½: the leapfrog is stable from 1 on; 2 steps up to an excess of a tenth


def step(
    f: Objective,
    opt: Optimizer,
    w: Float[Tensor, "n"],
    nu: Tensor,
    t: float,
    dt: float,
    g: Float[Tensor, "n"],
    m: Float[Tensor, "n"],
    critical: Critical | None = None,
) -> Step:
    """Advance a flow with momentum by dt: m by half a step, w by a step, m by the other half. Costs one gradient.

    The penalty of a step acts on m at its start, where it stops what would raise an eigenvalue beyond θ. If it went on
    at the end, what has been stopped would be thrown back. An excess over θ it makes up for no faster than m forgets:
    so far does it coast.

    Without ``critical`` it is the stable flow, otherwise the central flow, equation :eq:`eq-adam-flow`.

    Parameters
    ----------
    f : Objective
    opt : Optimizer
        With ``memory`` above 0.
    w, nu, t
        State: weights (n,), ν, time.
    dt : float
        Step, in optimizer steps.
    g : Tensor (n,)
        Gradient at w.
    m : Tensor (n,)
        Average of gradients at t, without half of the penalty of this step.
    critical : Critical, optional
        Eigenvectors with eigenvalues near θ and their third derivatives.

    Returns
    -------
    Step
        As of `flows.step`. Its drift is told as if the penalty acted on w at once: what m holds of past penalties is
        in the part of curvature.

    Raises
    ------
    ConvergenceError
        If the complementarity problem could not be solved.
    DivergenceError
        If a derivative along the critical eigenvectors is not finite, or nothing lowers an eigenvalue.
    """
    X, A, mean, half = np.zeros((0, 0)), np.zeros((0, 0)), None, opt.memory ** (dt / 2)
    felt, span, still = 1 - half**2, (t, t + dt), torch.zeros_like(w)
    own, averaged = opt.shares(t + dt / 2)
    whole, reach = own + averaged, own + averaged * felt  # of the penalty, what moves w in the end, and in this step
    start, sigma = Point.of(opt, nu, t, g), Oscillation(still, still)
    kicked = half * m + (1 - half) * g
    pushed = opt.direction(kicked, g, t + dt / 2)
    decay = decayed(opt, t + dt / 2, w - dt / 2 * pushed / start.own)

    def middle(g: Tensor) -> Point:
        grown = start.dnu + opt.rate * opt.moment(opt.excess(start.p, sigma.diag))
        return Point.of(opt, (nu + dt / 2 * grown).clamp(min=0), t + dt / 2, g, kicked, decay)

    def moved(at: Point) -> Tensor:
        return w + dt * (at.dw - reach * sigma.penalty / at.own)

    if critical is not None:
        critical, pairs, A = expected(critical, dt, opt.threshold, reach / whole)
        first = middle(g).drift(critical, span, pairs)
        most = MAX_DEVIATION**2 * max(float((start.p * x.square()).sum()) for x in (w, f.w0, g / start.p))
        X = covariance(A, dt, first.delayed(reach), most, opt.threshold, w.dtype)
        sigma = Oscillation.of(critical, X, pairs)
    end = f.value_and_grad(moved(middle(g)))[1]
    if critical is not None:
        ends = middle(g), middle(end)
        mean = Drift(*((a + b) / 2 for a, b in zip(*(x.drift(critical, span, pairs) for x in ends), strict=True)))
        seen = mean.delayed(reach)
        X = covariance(A, dt, seen, most, opt.threshold, w.dtype)
        sigma = Oscillation.of(critical, X, pairs)
        A = critical.A + dt * (critical.missed + seen.alpha + np.einsum("abcd,cd->ab", seen.B, X))
        mean = mean.delayed(whole)
        remembered = np.einsum("abcd,cd->ab", mean.curvature - seen.curvature, X)
        mean = mean._replace(alpha=mean.alpha - remembered)
    at = middle((g + end) / 2 if opt.lead else g)
    square = opt.moment((g.square() + end.square()) / 2 + opt.excess(at.p, sigma.diag))
    nu_end = (nu + dt * opt.rate * (square - at.nu)).clamp(min=0)
    m = half * (kicked + felt * sigma.penalty) + (1 - half) * end
    bent = opt.preconditioner(nu_end, t + dt) / start.p - 1
    second_order = ((start.p * (bent * at.dw).square()).sum() / (start.p * at.dw.square()).sum() / 4).sqrt()
    return Step(moved(at), nu_end, X, A, mean, float(second_order), m)
