"""The curvature along single steps of an optimizer, which costs less than eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, optim

from ..objective.terms import within
from .probe import ROUNDINGS, Probe, flat, untouched
from .rules import Step, next_step

METHODS = "eigenvalues", "product", "losses", "gradients"


@dataclass(frozen=True)
class Quotient:
    """What a gauge says of a single step of the optimizer.

    Attributes
    ----------
    ratio : float
        ΔᵀHΔ / (θ ΔᵀPΔ), with the step Δ. The largest eigenvalue over the threshold is no smaller, and where it
        oscillates along one eigenvector they are equal. NaN where ``method`` is "losses" and these are too large for
        their differences to mean anything.
    critical_lr : float
        Learning rate at which such a step would have left the loss as it was, to second order; infinite if there is
        none, NaN unless ``method`` is "losses". For groups with different rates, a factor of all of them.
    method : str
        As of `Gauge.attach`.
    step : int
        The number of the step.
    """

    ratio: float
    critical_lr: float
    method: str
    step: int

    def __str__(self) -> str:
        known = "" if math.isnan(self.critical_lr) else f"; critical learning rate along it {self.critical_lr:.3g}"
        return f"step {self.step}: {self.ratio:.3f} of the threshold along the step, by {self.method}{known}"


class Watch:
    """Hooks around the steps of an optimizer, as `Gauge.attach` says."""

    def __init__(
        self,
        optimizer: optim.Optimizer,
        probe: Probe,
        report: Callable[[Any], object],
        every: int,
        method: str,
    ):
        self.optimizer, self.probe, self.report, self.every, self.method = optimizer, probe, report, every, method
        self.look: Callable[[], Any] | None = None  # instead of what is seen along a step
        self.taken = 0
        self.checked = False  # whether second derivatives are known to be right, or to be wrong
        self.weights: dict[Tensor, Tensor] = {}
        self.gradients: dict[Tensor, Tensor | None] = {}
        self.late: Callable[[], Quotient] | None = None  # what the next gradients are needed for

    def before(self, *_: Any) -> None:
        """Before a step."""
        if self.late is not None:
            self.report(self.late())
            self.late = None
        if (self.taken + 1) % self.every == 0 and self.look is None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            self.weights = {p: p.detach().clone() for p in parameters}
            if self.method == "gradients":
                self.gradients = {p: None if p.grad is None else p.grad.clone() for p in parameters}

    def after(self, *_: Any) -> None:
        """After it."""
        self.taken += 1
        if self.taken % self.every:
            return
        if self.look is not None:
            reading = self.look()
            self.report(replace(reading, step=reading.step or self.taken))
            return
        now, weights, gradients = next_step(self.optimizer), self.weights, self.gradients
        self.weights, self.gradients = {}, {}
        way = flat([weights[p].neg_().add_(p.detach()) for p in now.parameters])
        square = way * way
        width, decay = float(now.edge @ square), float((now.decay * square).sum()) if now.decay.any() else 0.0
        number = now.count or self.taken

        def quotient(curvature: float, critical: float = math.nan) -> Quotient:
            return Quotient((curvature + decay) / width if width else 0.0, critical, self.method, number)

        if self.method == "product":
            self.report(quotient(self._product(now, way)))
        elif self.method == "losses":
            self.report(quotient(*self._three_losses(now, way)))
        else:

            def finish() -> Quotient:
                pairs = [(p.grad, gradients[p], p) for p in now.parameters]
                change = [torch.zeros_like(p) if a is None or b is None else b.neg_().add_(a) for a, b, p in pairs]
                return quotient(float((now.sign * way) @ flat(change)))

            self.late = finish

    def _product(self, now: Step, way: Tensor) -> float:
        """ΔᵀHΔ, by a product."""

        def compute() -> Tensor:
            _, gradient = self.probe.gradient(now.parameters, create_graph=True)
            return self.probe.product(gradient, now.parameters, way)

        with untouched(self.probe.module):
            product = within(None, None, compute)
        if not self.checked and way.any():
            self.checked = True
            with untouched(self.probe.module):  # with the same random numbers
                within(None, None, lambda: self.probe.check(now.parameters, way, product))
        return float((now.sign * way * product).sum())

    def _three_losses(self, now: Step, way: Tensor) -> tuple[float, float]:
        """ΔᵀHΔ and the critical learning rate, from the loss before the step, half-way and after it."""
        kept, losses = [p.detach().clone() for p in now.parameters], []
        pieces = way.split([p.numel() for p in kept])
        try:
            for share in (1.0, 0.5, 0.0):
                for p, new, piece in zip(now.parameters, kept, pieces, strict=True):
                    p.data.copy_(new - share * piece.view_as(new))
                with untouched(self.probe.module), torch.no_grad():
                    losses.append(float(self.probe.loss()) * float(now.sign[0]))
        finally:
            for p, new in zip(now.parameters, kept, strict=True):
                p.data.copy_(new)
        start, middle, end = losses
        bend = 2 * (start - 2 * middle + end)  # the loss at a share s of the step is start + slope s + bend s²
        slope = end - start - bend
        if abs(bend) <= ROUNDINGS * torch.finfo(way.dtype).eps * max(map(abs, losses)):
            return math.nan, math.nan
        return 2 * bend, -slope / bend * now.rates[0][0] if slope < 0 < bend else math.inf
