"""The central flow, with its curvature penalty and without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import differences, flows
from ..critical import float64
from ..differences import Known, Reach
from ..objective.terms import NO_TF32
from ..records import Variable
from .base import CACHE, COMMON, PROCESSES, Observation
from .flow import EDGE_MARGIN, Flow, FlowState
from .subspace import MAX_REFINEMENT, Refresh, Subspace, correct

# All eigenvalues are in thresholds: 1 is the edge of stability.
CRITICAL_MARGIN = 0.1  # eigenvalues above 1 - this may come to oscillate: they are followed, and the next
MAX_CENTRAL_SHARPNESS = 500.0  # the flow ends there: a unit of time would take hundreds of steps
MAX_START_SHARPNESS = 1.25  # beyond it the user is told that the flow starts far beyond the edge
MAX_START_PAIRS = 8  # eigenpairs that are found as long as a flow is beyond the edge
START_TOL = 0.1  # their residuals
MAX_TRUSTED_SHARPNESS = 1.05  # beyond it what the flow predicts is not to be trusted
MAX_ESCAPE = 0.005  # an eigenvalue that is so far above 1 was not found in time: steps are halved
MAX_EXPONENTIAL_STEP = 2.5  # λ dt: what is left of stiffness once modes are integrated exactly
MAX_ANHARMONICITY = 0.5  # share by which the loss across the oscillation may differ from its leading order
MIN_VARIANCE = 1e-12  # of the largest: what is below is rounding


@dataclass(frozen=True)
class CentralState(FlowState):
    """State of the central flow.

    Attributes
    ----------
    subspace : Subspace, optional
        The eigenvectors that are followed.
    X : Tensor (k, k), optional
        Covariance over the critical ones in the last step.
    axes : Tensor (n, k), optional
        P-orthonormal eigenvectors of Σ, by descending variance.
    settled : bool
        Whether all eigenvalues were at the threshold or below once.
    finer : int
        Factor by which steps are shortened after an eigenvalue has left the threshold.
    checked : float
        The largest variance at which the loss across the oscillation was evaluated.
    """

    subspace: Subspace | None = field(default=None, metadata=CACHE)
    X: Tensor | None = field(default=None, metadata=CACHE)
    axes: Tensor | None = field(default=None, metadata=CACHE)
    settled: bool = False
    finer: int = 1
    checked: float = 0.0


@dataclass(frozen=True)
class CentralObservation(Observation):
    """With the first step of the unit of time, and F (n, k), Σ = FFᵀ, during it."""

    first: Any = None
    factor: Any = None


@PROCESSES.register("central")
class Central(Flow):
    """The central flow: equation :eq:`eq-central-flow`."""

    label = "central flow"
    state_type: ClassVar = CentralState
    snapshots = True
    penalised: ClassVar[bool] = True
    tracks_above = 1 - CRITICAL_MARGIN
    variables = (
        *COMMON,
        Variable("predicted_grad_norm_sq", "", "mean squared norm of the gradient: ‖∇L‖² + Σᵢ θ²pᵢ²Σᵢᵢ", 125),
        Variable("predicted_grad_sq", "coord", "mean squared gradient at some weights: g² + θ²p² ⊙ diag Σ", 125),
        Variable("predicted_outputs", "output", "mean outputs: f + ½⟨∇²f, Σ⟩"),
        Variable("output_deviations", "output", "standard deviations of the outputs: (∇fᵀ Σ ∇f)^½", 125),
        Variable("displacements", "eig", "vᵀP(w_t - w(t)) of the optimizer along the eigenvectors v of Σ", None),
        Variable("rise", "", "rate at which the eigenvalues would rise if nothing oscillated: -⟨X, α⟩ / tr X", 125),
        Variable(
            "curvature_reduction", "", "rate at which curvature regularisation lowers them: ⟨X, B₁[X]⟩ / tr X", 125
        ),
        Variable("nu_growth", "", "rate at which the growth of ν lowers them: ⟨X, B₂[X]⟩ / tr X", 125),
        Variable(
            "trusted",
            "",
            "1 while what the flow predicts is to be trusted, 0 where an eigenvalue is, or has been, far above θ",
        ),
    )

    memory_variables: ClassVar = (
        *Flow.memory_variables,
        Variable(
            "predicted_momentum_norm_sq", "", "mean squared norm of m: ‖m‖² + Σᵢ (rθpᵢ)²Σᵢᵢ, r = (1-β₁)/(1+β₁)", 125
        ),
    )

    def eig_tol(self, state, top):
        """As of `Process`, but no more than a tenth of what eigenvectors may turn: those that are off seem to turn."""
        rounding = 100 * torch.finfo(self.f.w0.dtype).eps
        tol = min(self.settings.eig_tol, max(self.settings.refresh_error / 10, rounding))
        beyond = self.beyond(state) or (not state.settled and top > MAX_TRUSTED_SHARPNESS * self.opt.threshold)
        return max(tol, START_TOL) if beyond else tol

    def most_pairs(self, state):
        return self.f.dim if state.settled else MAX_START_PAIRS

    def beyond(self, state: CentralState) -> bool:
        """Whether the flow began beyond the edge, and has not come down to it."""
        return state.trend is not None and not state.settled

    def start(self, w, nu, t, m=None):
        return replace(super().start(w, nu, t, m), dt=1 / self.settings.substeps)

    def eigenvalues_due(self, state: CentralState, between: bool = False) -> int:
        """How many eigenvalues to compute now, at a whole step or between two; near the edge as the accuracy asks."""
        s, asked, least = state.subspace, self.eig_every or math.inf, min(state.near + 1, self.most_pairs(state))
        if between and self.beyond(state):
            return 0
        if s is None:
            return least if between or not self.eig_every else max(self.settings.eigs, least)
        interval = min(s.interval, asked) if self.near_edge(state) else asked
        if state.t >= s.refreshed + interval - (1e-9 if between else 0.5) and (interval < 1 - 1e-9 or not between):
            return max(self.settings.eigs, least) if state.t >= s.refreshed + asked - 0.5 else least
        return least if not self.near_edge(state) and self.may_exceed(state, 1 - EDGE_MARGIN) else 0

    def flow_step(self, seen, dt, critical=None, modes=None):
        return super().flow_step(seen, dt, critical, modes).least(self.opt.threshold)

    def near_edge(self, state: CentralState) -> bool:
        """Whether an eigenvalue was near the threshold when they were last computed."""
        return state.trend is not None and state.trend.top > (1 - EDGE_MARGIN) * self.opt.threshold

    def observe(self, state: CentralState, i: int, others: Mapping[str, Observation]) -> Observation:
        if state.ended:
            return Observation(i, state)
        nothing = {"predicted_loss": math.nan}
        seen = self.evaluate(state, i, self.eigenvalues_due(state))
        if i == 0:
            seen = replace(seen, message=self.remark(seen))
        seen = self.refreshed(seen)
        state = seen.state
        if state.ended:
            return replace(seen, row=seen.row | nothing)
        subspace = state.subspace
        assert subspace is not None
        top = max(subspace.modes.values.tolist(), default=0.0)
        soon = math.ceil(1 / max(subspace.arrival, 1 / MAX_REFINEMENT)) if self.near_edge(state) else 1
        count = max(self.settings.substeps, self.steps_due(top, MAX_EXPONENTIAL_STEP), math.ceil(self.opt.rate))
        try:
            dt = 1 / max(state.finer * count, soon)
            first, dt = self.first_step(seen, dt, subspace.critical, subspace.modes)
        except flows.EndedError as error:
            return replace(seen, state=state.stopped(i, str(error)), row=seen.row | nothing)
        return self.predict(replace(seen, state=replace(state, dt=dt)), first, top, others)

    def remark(self, seen: Observation) -> str:
        """That the flow starts beyond the edge, and how it could start elsewhere."""
        top = seen.state.trend.top if seen.state.trend else 0.0
        if not MAX_START_SHARPNESS < top / self.opt.threshold < MAX_CENTRAL_SHARPNESS:
            return ""
        corrected = getattr(self.opt, "bias_correction", True)
        more = " or more" if seen.state.near == MAX_START_PAIRS else ""
        return (
            f"the central flow starts with {seen.state.near}{more} eigenvalues of P⁻¹H near or above "
            f"{self.opt.threshold:g}, the largest {top:.3g}: until they are down to {self.opt.threshold:g} it is "
            f"simplified (the {MAX_START_PAIRS} largest are lowered, each by itself) and says little; let the "
            f"optimizer settle first (burn_in), or use {'' if corrected else 'bias_correction=True or '}a smaller lr"
        )

    def predict(
        self, seen: Observation, first: flows.Step, top: float, others: Mapping[str, Observation]
    ) -> CentralObservation:
        """What the oscillation adds to what is seen at the flow's own weights."""
        s, opt, state, g, p = self.settings, self.opt, seen.state, seen.g, seen.p
        assert g is not None
        assert p is not None
        axes, variances = self.principal_axes(state, first.X, p)
        state = self.check_anharmonicity(seen, replace(state, axes=axes), variances)
        factor = axes * torch.as_tensor(np.sqrt(variances), dtype=axes.dtype, device=axes.device)
        extra = opt.excess(p, factor.square().sum(1))
        row = {
            "variances": variances.tolist(),
            "predicted_loss": seen.row["loss"] + opt.threshold / 2 * float(variances.sum()),
            "predicted_grad_norm_sq": seen.row["grad_norm_sq"] + extra.double().sum().item(),
            "trusted": float(not state.doubt and top <= MAX_TRUSTED_SHARPNESS * opt.threshold),
        }
        if state.m is not None:
            both = state.m.square() + opt.momentum_excess(p, factor.square().sum(1))
            row["predicted_momentum_norm_sq"] = both.double().sum().item()
        if len(s.coords):
            row["predicted_grad_sq"] = (g.square() + extra)[s.coords].tolist()
        if s.outputs is not None:
            with NO_TF32():
                mean, deviation = differences.spread(s.outputs, state.w, factor)
            row |= {"predicted_outputs": mean.tolist(), "output_deviations": deviation.tolist()}
        if first.drift is not None and first.X.any():
            rise, curvature, growth = flows.Balance.of(first.drift, first.X)
            row |= {"rise": rise, "curvature_reduction": curvature, "nu_growth": growth}
        if "discrete" in others:
            row["displacements"] = (axes.T @ (p * (others["discrete"].state.w - state.w))).tolist()
        seen = replace(seen, state=state, row=seen.row | row)
        return CentralObservation(**vars(seen), first=first, factor=factor)

    def principal_axes(
        self, state: CentralState, X: Float[np.ndarray, "k k"], p: Float[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n k"], Float[np.ndarray, "k"]]:
        """P-orthonormal eigenvectors of Σ, and the variances along them, descending."""
        critical = state.subspace.critical if state.subspace else None
        U = critical.U if critical else state.w.new_empty(self.f.dim, 0)
        C = np.linalg.cholesky(float64(U.T @ (p[:, None] * U)))  # P has moved on since U was orthonormal
        variances, Q = np.linalg.eigh(C.T @ X @ C)
        variances, Q = variances[::-1], np.linalg.solve(C.T, Q[:, ::-1])
        variances = np.where(variances > MIN_VARIANCE * variances.max(initial=0), variances, 0.0)
        axes = U @ torch.as_tensor(Q, dtype=U.dtype, device=U.device)
        if state.axes is not None:  # keep their directions from step to step
            overlap = state.axes.T @ (p[:, None] * axes)
            if overlap.numel():
                nearest = overlap.gather(0, overlap.abs().argmax(0, keepdim=True))[0]
                axes = torch.where(nearest < 0, -axes, axes)
        return axes, variances

    def check_anharmonicity(
        self, seen: Observation, state: CentralState, variances: Float[np.ndarray, "k"]
    ) -> CentralState:
        """Doubt the flow if the loss across the oscillation is far from quadratic; when it has grown, two losses."""
        if not len(variances) or variances[0] <= 2 * state.checked:
            return state
        assert state.axes is not None
        way, expected = state.axes[:, 0] * float(variances[0]) ** 0.5, self.opt.threshold / 2 * variances[0]
        rise = float(sum(self.f.value_and_grad(state.w + s * way)[0] for s in (1, -1)) / 2) - seen.loss
        rounding = 100 * torch.finfo(state.w.dtype).eps * abs(seen.loss)
        state = replace(state, checked=float(variances[0]))
        if abs(rise - expected) <= MAX_ANHARMONICITY * expected + rounding:
            return state
        return state.doubted(
            seen.i,
            f"across an oscillation of the size that would hold the eigenvalues at {self.opt.threshold:g} the loss "
            f"rises by {rise:.3g} on average, where its second derivatives say {expected:.3g}: too large for them",
        )

    def count_critical(self, state: CentralState, values: Float[Tensor, "m"]) -> int:
        """How many eigenvalues are critical; one that was goes on to be until it is well below the threshold."""
        arrived, staying = (int((values > (1 - c * CRITICAL_MARGIN) * self.opt.threshold).sum()) for c in (1, 2))
        before = state.subspace.critical if state.subspace else None
        return max(arrived, min(len(before.A), staying)) if before else arrived

    def refreshed(self, seen: Observation) -> Observation:
        """With a corrected subspace, if eigenvalues were computed; or with the end of the flow."""
        if seen.pairs is None or seen.p is None:
            return seen
        state, values, i, edge = seen.state, seen.pairs.values, seen.i, self.opt.threshold
        top = max(values.tolist(), default=0.0)
        relative = top / edge
        if relative > MAX_CENTRAL_SHARPNESS:
            why = (
                f"the effective sharpness is {top:.3g}, far beyond the edge, where a unit of time takes very long and "
                "says nothing of the optimizer; let the optimizer settle first (burn_in), or use a larger eps or a "
                "smaller lr"
            )
            return replace(seen, state=state.stopped(i, why))
        state = replace(state, settled=state.settled or relative <= MAX_TRUSTED_SHARPNESS)
        old = state.subspace
        escaped = state.settled and relative > 1 + MAX_ESCAPE
        if self.opt.memory and state.trend and state.trend.slope < 0:  # it is on its way back, as fast as m lets it
            escaped = False
        if escaped and old and state.t - old.refreshed < 1.5:  # more refreshes would not help
            state = replace(state, finer=min(2 * state.finer, MAX_REFINEMENT))
        elif state.finer > 1 and relative < 1 + MAX_ESCAPE / 4:
            state = replace(state, finer=state.finer // 2)
        if state.settled and relative > MAX_TRUSTED_SHARPNESS:
            why = f"the top eigenvalue of P⁻¹H has left {edge:g} and is {top:.3g}, so that its predictions are off"
            state = state.doubted(i, why)
        T, reach, known = state.w.new_zeros(0, 0, self.f.dim), state.reach, None
        P, error = seen.p[:, None], self.settings.refresh_error
        k = min(self.count_critical(state, values), self.most_pairs(state))
        U, HU = seen.pairs.U[:, :k], seen.pairs.HU[:, :k]
        if k:
            Q, known = torch.eye(k, dtype=U.dtype, device=U.device), None
            if old:
                Q, known = old.rotated(U, values[:k], P, state.X)
            U, HU = U @ Q, HU @ Q
            if not state.settled:  # each by itself
                known = Known(U.new_zeros(k, k, len(U)), np.ones((k, k), dtype=bool))
            T, reach = self.third_derivatives(seen, U, HU, seen.p, known)
        found = Refresh(seen.pairs, U, HU, T, known.pairs if known else None)
        subspace, ahead = correct(old, self.opt, state.t, state.dt, found, P, state.X, error, self.penalised, escaped)
        if not state.settled:  # the mixed third derivatives are not known
            subspace = replace(subspace, stale=True)
        if ahead is not None and state.guess is not None:
            state = replace(state, guess=torch.cat([ahead, state.guess[:, ahead.shape[1] :]], dim=1))
        return replace(seen, state=replace(state, subspace=subspace, reach=Reach(*reach)))

    def step(self, seen: Any) -> CentralState:
        state: CentralState = seen.state
        if state.ended:
            return state.nowhere()
        start, count, step = state.t, round(1 / state.dt), seen.first
        for j in range(count):
            if j > 0:
                try:
                    seen = self.refreshed(self.evaluate(state, seen.i, self.eigenvalues_due(state, between=True)))
                    state = seen.state
                    if not state.ended:
                        assert state.subspace is not None
                        step = self.flow_step(seen, state.dt, state.subspace.critical, state.subspace.modes)
                except flows.EndedError as error:
                    state = state.stopped(seen.i, str(error))
                if state.ended:
                    return state.nowhere()
            assert state.subspace is not None
            t, nu, subspace = start + (j + 1) / count, step.nu, state.subspace.predict(step, state.dt)
            if subspace.critical is not None:
                X = torch.as_tensor(step.X, dtype=step.w.dtype, device=step.w.device)
                state = replace(state, X=X)
                subspace, nu = subspace.compensate(self.opt, nu, t)
            state = replace(state, w=step.w, nu=nu, m=step.m, t=t, subspace=subspace)
        return state

    def snapshot(self, seen):
        factor = getattr(seen, "factor", None)  # none where the flow has ended
        return super().snapshot(seen) | {"factor": seen.state.w.new_zeros(self.f.dim, 0) if factor is None else factor}


@PROCESSES.register("ablated")
class Ablated(Central):
    """The central flow without its curvature penalty: ν alone holds the eigenvalues. Equation :eq:`eq-ablated`."""

    label = "flow without penalty"
    penalised = False
    snapshots = False

    @classmethod
    def check(cls, opt):
        super().check(opt)
        if opt.rate == 0:
            raise ValueError(f"{type(opt).__name__} has no ablated flow: its curvature penalty alone holds eigenvalues")
