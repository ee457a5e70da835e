"""What flows have in common, and the stable flow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import flows, leapfrog
from ..differences import Known, Reach, third_derivatives
from ..errors import DivergenceError
from ..objective import Objective
from ..objective.derivative_check import Gradients
from ..records import Variable
from .base import ADDED, CACHE, PROCESSES, Observation, Process, State

# All eigenvalues are in thresholds: 1 is the edge of stability.
EDGE_MARGIN = 0.25  # a flow is near the edge once its top eigenvalue is above 1 - this
MAX_STABLE_SHARPNESS = 4.0  # the stable flow is stopped there: it is stiff by then, and far from the optimizer
MAX_HEUN_STEP = 1.5  # λ dt; Heun's method is stable up to 2
MAX_SECOND_ORDER = 0.05  # second-order part of a step over its first: beyond it, the unit is divided anew
MAX_DISCARDED = 0.5  # where it was larger than that, it does not tell how finely to divide
MAX_SUBSTEPS = 400  # in a unit of time
MAX_SMOOTHNESS_ERROR = 0.1  # of HU by differences: beyond it the loss is not smooth
ASSUMED_GROWTH = 2.0  # of the sharpness, in units of how fast it last changed
MIN_GROWTH = 0.02  # of H, a unit of time: it is supposed to grow by that at least, and 1 / P as fast as ν may decay
MAX_UNSEEN = 10.0  # units of time without a look at eigenvalues
MAX_UNSEEN_GROWTH = 2.0  # of the time without, from one look to the next
NO_REACH = Reach()


@dataclass(frozen=True)
class Trend:
    """The top eigenvalue when it was last computed, and its slope since the time before.

    Attributes
    ----------
    t : float
        When it was computed.
    top : float
        The eigenvalue.
    slope : float
        Change in a unit of time; infinite if there was none before.
    age : float
        Units of time from then to now; 0 if unknown.
    """

    t: float
    top: float
    slope: float = math.inf
    age: float = field(default=0.0, metadata=CACHE)


@dataclass(frozen=True)
class FlowState(State):
    """State of a flow.

    Attributes
    ----------
    trend : Trend, optional
    reach : Reach
        How far differences go for third derivatives.
    dt : float
        Length of a step in units of time.
    ended : bool
        Whether there is no flow from here on.
    end, doubt : str
        From which step on there is no flow, or it is not to be trusted, and why.
    m : Tensor (n,), optional
        Average of gradients, of an optimizer with momentum.
    """

    trend: Trend | None = None
    reach: Reach = NO_REACH
    dt: float = 1.0
    ended: bool = False
    end: str = ""
    doubt: str = ""
    m: Float[Tensor, "n"] | None = field(default=None, metadata=ADDED)

    def stopped(self, i: int, why: str) -> Any:
        """Ended at step i: from the next one on all is NaN."""
        return replace(self, ended=True, end=f"step {i}: {why}")

    def doubted(self, i: int, why: str) -> Any:
        """Not to be trusted from step i on, if not before."""
        return self if self.doubt else replace(self, doubt=f"step {i}: {why}")

    def nowhere(self) -> Any:
        """Without weights."""
        return replace(self, w=torch.full_like(self.w, math.nan))


class Moving(NamedTuple):
    """An objective as differences need it, whose gradient is that of the weights that move."""

    f: Objective
    moves: Tensor

    @property
    def w0(self) -> Float[Tensor, "n"]:
        """Its initial weights."""
        return self.f.w0

    def value_and_grad(self, w: Float[Tensor, "n"]) -> tuple[Tensor, Float[Tensor, "n"]]:
        """Its value and gradient."""
        value, g = self.f.value_and_grad(w)
        return value, g * self.moves


class Flow(Process):
    """A flow starts from the ν that the optimizer's next step uses, and from the m between that of the last and it."""

    label = "flow"
    memory_variables: ClassVar[tuple[Variable, ...]] = (
        Variable("grad_norm_sq", "", "squared norm of the gradient, which free swings of the mean are a part of", 125),
    )
    state_type: ClassVar[type[FlowState]] = FlowState
    default_eig_every = 0

    @classmethod
    def check(cls, opt):
        if opt.rate > MAX_SUBSTEPS:  # the rate itself complains if the optimizer has no flow
            raise ValueError(
                f"beta2 is {getattr(opt, 'beta2', None)}: ν follows the gradient all but at once, which takes a flow "
                f"{opt.rate:.0f} steps a unit of time; use beta2 above {1 / (1 + MAX_SUBSTEPS):.1g}"
            )

    def start(self, w, nu, t, m=None):
        g = self.f.value_and_grad(w)[1]
        m = self.opt.between(m, g, t) if self.opt.memory else None
        return self.state_type(w, self.opt.update(nu, g), t, m=m)

    def evaluate(self, state, i, eigs):
        seen = super().evaluate(state, i, eigs)
        if seen.pairs is None:
            return seen
        before, t = state.trend, state.t
        trend = Trend(t, max(seen.pairs.values.tolist(), default=0.0))
        if before and t > before.t:
            trend = replace(trend, slope=(trend.top - before.top) / (t - before.t), age=t - before.t)
        return replace(seen, state=replace(seen.state, trend=trend))

    def may_exceed(self, state: FlowState, limit: float) -> bool:
        """Whether the top eigenvalue may have passed a limit, in thresholds, since it was computed."""
        trend = state.trend
        if trend is None:
            return True
        seen, least = ASSUMED_GROWTH * abs(trend.slope) / max(trend.top, 1e-30), MIN_GROWTH + self.opt.rate
        age, rate = state.t - trend.t, max(seen, least)
        top = trend.top * (self.opt.learning_rate(state.t) / self.opt.learning_rate(trend.t))  # of a schedule
        grown = age > 0 and top * math.exp(min(rate * age, 100)) > limit * self.opt.threshold
        return grown or age >= min(MAX_UNSEEN, MAX_UNSEEN_GROWTH * trend.age)

    def flow_step(self, seen: Observation, dt: float, critical=None, modes=None) -> flows.Step:
        """A step of length dt from an observed state."""
        s: Any = seen.state
        assert seen.g is not None
        if s.m is None:
            step = flows.step(self.f, self.opt, s.w, s.nu, s.t, dt, seen.g, critical, modes)
        else:
            step = leapfrog.step(self.f, self.opt, s.w, s.nu, s.t, dt, seen.g, s.m, critical)
        if MAX_DISCARDED < step.second_order < math.inf and dt * MAX_SUBSTEPS <= 1:
            raise flows.EndedError(
                f"the flow changes faster than {MAX_SUBSTEPS} steps in a unit of time can follow: it runs away from a "
                "saddle, along weights whose gradients were all but zero before; start elsewhere, or use a larger eps"
            )
        return step

    def steps_due(self, top: float, most: float) -> int:
        """Steps in a unit of time that a largest eigenvalue asks for; ``most`` is that of λ dt without momentum."""
        if self.opt.memory:
            least = max(float(self.settings.substeps), 1.0)
            if self.opt.lead:  # of which no more than 2/θ is the gradient itself
                least = max(least, 2 * top / self.opt.threshold / MAX_HEUN_STEP)
            return math.ceil(max(leapfrog.STEPS * max(top / self.opt.threshold, 1.0) ** 0.5, least))
        return math.ceil(top / most)

    def first_step(self, seen: Observation, dt: float, critical=None, modes=None) -> tuple[flows.Step, float]:
        """The first step of a unit of time, and its length: as many fit into the unit as the flow bends in it."""
        step = self.flow_step(seen, dt, critical, modes)
        # infinite: there is no way left to go
        while MAX_SECOND_ORDER < step.second_order < math.inf and dt * MAX_SUBSTEPS > 1:
            settled = step.second_order <= MAX_DISCARDED
            dt = 1 / min(math.ceil(step.second_order / MAX_SECOND_ORDER / dt), MAX_SUBSTEPS)
            step = self.flow_step(seen, dt, critical, modes)
            if settled:
                break
        return step, dt

    def third_derivatives(
        self,
        seen: Observation,
        U: Float[Tensor, "n k"],
        HU: Float[Tensor, "n k"],
        p: Float[Tensor, "n"],
        known: Known | None = None,
    ) -> tuple[Float[Tensor, "k k n"], Reach]:
        """∇(uᵢᵀHuⱼ) by differences of gradients, and how far they reached."""
        s: Any = seen.state
        assert seen.g is not None
        f: Gradients = self.f
        g, moves = seen.g, self.opt.moves(s.nu).expand_as(s.w)
        if not moves.all():
            f, g = Moving(self.f, moves), g * moves
        T, off, reach = third_derivatives(f, s.w, g, U, HU, p, s.reach, known)
        if off > MAX_SMOOTHNESS_ERROR:
            raise DivergenceError(
                f"second derivatives of the loss are off from differences of its gradient by {off:.0%}: it is not "
                "smooth (use GELU or tanh in place of ReLU), a kernel of PyTorch's has them wrong, or the flow was "
                "thrown far off by eigenvalues well above the threshold"
            )
        return T, reach


@PROCESSES.register("stable")
class Stable(Flow):
    """The stable flow, until its effective sharpness reaches ``MAX_STABLE_SHARPNESS``: equation :eq:`eq-stable-flow`.

    It takes as many steps a unit of time as its effective sharpness asks for.
    """

    label = "stable flow"

    def observe(self, state: FlowState, i: int, others: Mapping[str, Observation]) -> Observation:
        if state.ended:
            return Observation(i, state)
        near = 1 - EDGE_MARGIN
        limit = near if state.trend is None else max(near, 1.3 * state.trend.top / self.opt.threshold)
        seen = self.evaluate(state, i, self.due(i) or int(self.may_exceed(state, limit)))
        trend = seen.state.trend
        ended = bool(trend and trend.top >= MAX_STABLE_SHARPNESS * self.opt.threshold)
        return replace(seen, state=replace(seen.state, ended=ended), row=seen.row | {"variances": []})

    def step(self, seen: Observation) -> FlowState:
        state = seen.state
        if state.ended:
            return state.nowhere()
        top = state.trend.top if state.trend else 0.0
        dt = 1 / max(1, self.steps_due(top, MAX_HEUN_STEP), math.ceil(self.opt.rate))
        start = state.t
        try:
            step, dt = self.first_step(seen, dt)
            count = round(1 / dt)
            for j in range(count):
                if j > 0:
                    seen = replace(seen, state=state, g=self.f.value_and_grad(state.w)[1])
                    step = self.flow_step(seen, dt)
                state = replace(state, w=step.w, nu=step.nu, m=step.m, t=start + (j + 1) / count, dt=dt)
        except flows.EndedError as error:
            return state.stopped(seen.i, str(error)).nowhere()
        return state
