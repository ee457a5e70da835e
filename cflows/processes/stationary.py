"""The stationary flow of RMSProp or Adam, with its curvature penalty and without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import stationary
from ..critical import float64
from ..momentum import Adam, AdamW
from ..optimizers import RMSProp
from ..records import Variable
from .base import COMMON, PROCESSES, Observation
from .central import MAX_TRUSTED_SHARPNESS
from .flow import Flow, FlowState

# The classical Runge-Kutta method: time and weight of each evaluation
STAGES = ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6))
MIN_SHARE = 1e-6  # of the largest eigenvalue of V's Gram matrix: directions below it are rounding
MAX_INTERVAL_GROWTH = 2.0  # of the time between solutions, from one to the next
VELOCITY_ERROR = 5.0  # of a flow just before a new solution, in units of the accuracy: on average it is a third
MAX_CHANGE = 2.0  # factor by which an extrapolated p may differ from the last solution


@dataclass(frozen=True)
class Solved:
    """A solution of the convex program.

    Attributes
    ----------
    t : float
        Its time.
    p : Tensor (n,)
        (θ/2) P̄, which the program gives for a threshold of 2.
    penalty : Tensor (n,)
        ½ ∇⟨Σ̄, H⟩.
    """

    t: float
    p: Float[Tensor, "n"]
    penalty: Float[Tensor, "n"]


@dataclass(frozen=True)
class StationaryState(FlowState):
    """State of a stationary flow.

    Attributes
    ----------
    last, before : Solved, optional
        The last two solutions.
    V : Tensor (n, r), optional
        Σ̄ = (η²/4) VVᵀ, of the last one.
    interval : float
        Units of time from the last solution to the next.
    """

    last: Solved | None = None
    before: Solved | None = None
    V: Tensor | None = None
    interval: float = 1.0

    def extrapolated(self, t: float) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """P̄ and ½ ∇⟨Σ̄, H⟩ at a time not long after the last solution."""
        assert self.last is not None
        last, before = self.last, self.before or self.last
        s = (t - last.t) / (last.t - before.t) if last.t > before.t else 0.0
        p = last.p * ((last.p / before.p) ** s).clamp(1 / MAX_CHANGE, MAX_CHANGE)
        return p, last.penalty + s * (last.penalty - before.penalty)


@PROCESSES.register("stationary")
class Stationary(Flow):
    """The stationary flow of RMSProp, equation :eq:`eq-stationary-flow`: w alone, with P̄(w) and Σ̄(w) of the program.

    For Adam, whose threshold is θ, (θ/2) P̄ and Σ̄ are those of the program with the learning rate 2η/θ, and w moves
    with the averaged gradient m.

    P̄ and ½ ∇⟨Σ̄, H⟩ change slowly. They are solved for at some steps, from where they were before, and extrapolated
    from the last two solutions over the steps between, but never below abs(g) / η, which P̄ never is. How far the
    extrapolated velocity is off at the next solution says how long the interval may be. The step that led there is not
    taken back. Over a step the flow is integrated by the classical Runge-Kutta method.
    """

    label = "stationary flow"
    state_type: ClassVar = StationaryState
    default_eig_every = 10
    penalised: ClassVar[bool] = True
    variables = (
        *COMMON,
        Variable("gap", "", "relative duality gap of the stationary preconditioner", None),
        Variable("products", "", "Hessian-vector products that it took", None),
        Variable(
            "extrapolation", "", "relative error of the velocity extrapolated from the two solutions before", None
        ),
    )

    @classmethod
    def needs(cls, branch_step):
        return ("central",) if branch_step else ()

    @classmethod
    def check(cls, opt):
        if type(opt) not in (RMSProp, Adam, AdamW):
            raise ValueError(f"opt is {type(opt).__name__}; the stationary flows are those of RMSProp and Adam")
        super().check(opt)

    def preconditioner(self, state, g):
        return self.bounded(state.extrapolated(state.t)[0], g, state.t)

    def rate(self, t: float) -> float:
        """2η/θ, the learning rate of the program."""
        return self.opt.learning_rate(t) * (2 / self.opt.threshold)

    def bounded(self, p: Float[Tensor, "n"], g: Float[Tensor, "n"], t: float) -> Float[Tensor, "n"]:
        """P̄ of (θ/2) P̄, but no less than abs(g) / η."""
        return torch.maximum(p, g.abs() / self.rate(t)) * (2 / self.opt.threshold)

    def updated(self, state, g):
        return replace(state, nu=(self.opt.learning_rate(state.t) * self.preconditioner(state, g)).square())

    def observe(self, state: StationaryState, i: int, others: Mapping[str, Observation]) -> Observation:
        branch = self.settings.branch_step
        source = others.get("central") if branch and i == branch else None
        if i < branch or state.ended or (source and source.state.ended):
            return Observation(i, replace(state.nowhere(), ended=i >= branch))
        if source:
            at, V = source.state, 2 / self.rate(source.state.t) * source.factor  # type: ignore[attr-defined]
            state = replace(state, w=at.w, m=at.m, t=at.t, V=V)
        row: dict = {}
        if state.last is None or state.t >= state.last.t + state.interval - 1e-9:
            state, row = self.solved(state)
        seen = self.evaluate(state, i, self.due(i - branch))
        if max(seen.row.get("eigenvalues", []), default=0.0) > MAX_TRUSTED_SHARPNESS * self.opt.threshold:
            seen = replace(seen, state=replace(seen.state, interval=1.0))  # what is extrapolated has gone astray
        V, p = seen.state.V, seen.p
        assert p is not None
        X = self.rate(state.t) ** 2 / 4 * float64(V.T @ (p[:, None] * V))
        variances = np.linalg.eigvalsh((X + X.T) / 2)[::-1].clip(min=0)
        row |= {
            "variances": variances.tolist(),
            "predicted_loss": seen.row["loss"] + self.opt.threshold / 2 * float(variances.sum()),
        }
        return replace(seen, row=seen.row | row)

    def solved(self, state: StationaryState) -> tuple[StationaryState, dict[str, float]]:
        """With P̄ at w. How far its extrapolation was off sets when the next solution is due."""
        lr, t = self.rate(state.t), state.t
        _, g, hvp = self.f.linearize(state.w)
        found = stationary.solve(hvp, g, lr, start=state.V)
        X, Q = torch.linalg.eigh(found.factor.T @ (found.p[:, None] * found.factor))
        V = (found.factor @ Q[:, X / X[-1:] > MIN_SHARE]).flip(1)  # the same Σ̄ in as few directions as it has
        penalty, seen = torch.zeros_like(state.w), Observation(0, state, g=g)
        for v in V.T if self.penalised else ():
            size = (found.p * v.square()).sum().sqrt()
            u = (v / size)[:, None]
            T, reach = self.third_derivatives(seen, u, hvp(u), found.p)
            seen = replace(seen, state=replace(seen.state, reach=reach))
            penalty = penalty + lr**2 / 8 * size**2 * T[0, 0]
        state = seen.state
        row: dict[str, float] = {"gap": found.gap, "products": found.hvps}
        if not state.last:  # nothing to extrapolate from
            state = replace(state, interval=1.0)
        else:
            p, expected = state.extrapolated(t)
            velocity = (g + penalty) / found.p
            off = (g + expected) / (self.opt.threshold / 2 * self.bounded(p, g, t)) - velocity
            error = ((found.p * off.square()).sum() / (found.p * velocity.square()).sum()).sqrt().item()
            row["extrapolation"] = error
            growth = min(MAX_INTERVAL_GROWTH, math.sqrt(VELOCITY_ERROR * self.settings.accuracy / max(error, 1e-12)))
            state = replace(state, interval=max(1.0, growth * (t - state.last.t)))
        return replace(state, V=V, last=Solved(t, found.p, penalty), before=state.last), row

    def step(self, seen: Observation) -> StationaryState:
        state, g = seen.state, seen.g
        last = state.last
        if g is None or last is None:  # it has not begun, or ended
            return state
        if state.before is None:  # a first step is tried, to see how the solution changes
            ahead = self.solved(self.advanced(state, g))[0].last
            assert ahead is not None
            before = Solved(last.t - 1, last.p.square() / ahead.p, 2 * last.penalty - ahead.penalty)
            state = replace(state, before=before)
        return self.advanced(state, g)

    def advanced(self, state: StationaryState, g: Float[Tensor, "n"]) -> StationaryState:
        """One unit of time later, with the solution extrapolated."""
        (w, m), t, dt, opt = (state.w, state.m), state.t, 1.0, self.opt
        slopes: list[Tensor] = [torch.zeros_like(w)] * 2
        total = list(slopes)
        for c, share in STAGES:
            here = w + c * dt * slopes[0]
            g = g if c == 0 else self.f.value_and_grad(here)[1]
            p, penalty = state.extrapolated(t + c * dt)
            mean, decay, push = g + penalty, opt.decay(t + c * dt), g + penalty
            if m is not None:
                push = m + c * dt * slopes[1]
                slopes[1] = math.log(1 / opt.memory) * (mean - push)
            slopes[0] = -push / self.bounded(p, g, t + c * dt) - (decay * here if decay else 0.0)
            total = [a + share * b for a, b in zip(total, slopes, strict=True)]
        return replace(state, w=w + dt * total[0], m=None if m is None else m + dt * total[1], t=t + dt)


@PROCESSES.register("ablated_stationary")
class AblatedStationary(Stationary):
    """The stationary flow without its curvature penalty."""

    label = "stationary flow without penalty"
    penalised = False
