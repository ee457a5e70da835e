"""The optimizer itself, and the midpoints of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..records import Variable
from .base import CACHE, PROCESSES, Observation, Process, State


@dataclass(frozen=True)
class DiscreteState(State):
    """State of the optimizer.

    Attributes
    ----------
    m : Tensor (n,), optional
        What its momentum remembers.
    previous : Tensor (n,), optional
        Weights before the last step, which only midpoints need.
    """

    m: Float[Tensor, "n"] | None = None
    previous: Float[Tensor, "n"] | None = field(default=None, metadata=CACHE)


@dataclass(frozen=True)
class DiscreteObservation(Observation):
    """With the weights after the step."""

    following: Any = None


@PROCESSES.register("discrete")
class Discrete(Process):
    """The optimizer, step by step."""

    label = "optimizer"
    state_type: ClassVar = DiscreteState
    snapshots = True
    memory_variables: ClassVar = (Variable("momentum_norm_sq", "", "squared norm of m after the step's update"),)

    def start(self, w, nu, t, m=None):
        return DiscreteState(w, nu, t, m=m)

    def updated(self, state, g):
        return replace(state, nu=self.opt.update(state.nu, g))

    def observe(self, state: DiscreteState, i: int, others: Mapping[str, Observation]) -> DiscreteObservation:
        seen = self.evaluate(state, i, self.due(i))
        assert seen.g is not None
        assert seen.p is not None
        m, direction = self.opt.momentum(state.m, seen.g, state.t)
        decay = self.opt.decay(seen.state.t)
        w = (1 - decay) * seen.state.w if decay else seen.state.w
        following = w - direction / seen.p
        if self.opt.memory and m is not None:
            seen.row["momentum_norm_sq"] = m.double().square().sum().item()
        return DiscreteObservation(**vars(replace(seen, state=replace(seen.state, m=m))), following=following)

    def step(self, seen: DiscreteObservation) -> DiscreteState:
        return replace(seen.state, previous=seen.state.w, w=seen.following, t=seen.state.t + 1)


@PROCESSES.register("midpoint")
class Midpoint(Process):
    """Midpoints of the optimizer, (w₋ + 2w + w₊) / 4 of three steps, with the ν of the middle one; from step 1 on.

    They are free of oscillations of period two.
    """

    label = "midpoint"

    @classmethod
    def needs(cls, branch_step):
        return ("discrete",)

    def observe(self, state: State, i: int, others: Mapping[str, Observation]) -> Observation:
        middle: Any = others["discrete"]
        if middle.state.previous is None:
            return Observation(i, replace(state, w=torch.full_like(middle.state.w, math.nan)))
        w = (middle.state.previous + 2 * middle.state.w + middle.following) / 4
        return self.evaluate(replace(state, w=w, nu=middle.state.nu, t=middle.state.t), i, self.due(i))

    def step(self, seen: Observation) -> State:
        w, nu = seen.state.w, seen.state.nu  # the optimizer gives the next ones
        return replace(seen.state, w=torch.full_like(w, math.nan), nu=torch.zeros_like(nu))
