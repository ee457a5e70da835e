"""How far an ordinary training run is from its own edge of stability: a gauge for optimizers of ``torch.optim``.

With its state held fixed, an optimizer is a linear recursion near any point: w moves by -m / p, where p contains the
learning rate and the root of the averaged squared gradients, and m is what momentum makes of the gradient. An
oscillation w → -w neither grows nor decays if Hw = θ p ⊙ w, with the threshold θ: 2 without momentum. So the edge is
where the largest eigenvalue of P⁻¹H is θ; beyond, the oscillation grows until ν or the curvature has changed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn, optim

from .eigen import top_eigenpairs
from .objective.terms import within

Group = dict[str, Any]
State = dict[str, Any]


@dataclass(frozen=True)
class Held:
    """An optimizer's step for one parameter, its state held fixed.

    Attributes
    ----------
    p : Tensor, or float
        The step is m / p; like the parameter, or one number for all of it.
    floor : Tensor or float
        The part of p that is ε.
    threshold : float
        θ: the eigenvalue of P⁻¹H at which w → -w is a solution.
    decay : float
        What coupled weight decay adds to H.
    """

    p: Tensor | float
    floor: Tensor | float
    threshold: float
    decay: float = 0.0


def _sgd(group: Group, state: State, lr: float) -> Held:
    """2/η; with momentum μ and dampening δ, 2(1+μ)/((1-δ)η); Nesterov 2(1+μ)/((1+2μ-μδ)η)."""
    mu, damping = group["momentum"], 1 - group["dampening"]
    threshold = 2.0
    if mu:
        share = damping / (1 + mu)  # of the gradient in the buffer, which alternates in sign as it does
        threshold = 2 / (1 + mu * share if group["nesterov"] else share)
    return Held(1 / lr, 0.0, threshold, group["weight_decay"])


def _rmsprop(group: Group, state: State, lr: float) -> Held:
    """2, or 2(1+μ) with momentum."""
    square = state["square_avg"]
    root = (square - state["grad_avg"] ** 2 if group["centered"] else square).clamp(min=0).sqrt()
    return Held((root + group["eps"]) / lr, group["eps"] / lr, 2 * (1 + group["momentum"]), group["weight_decay"])


def _adagrad(group: Group, state: State, lr: float) -> Held:
    lr /= 1 + (float(state["step"]) - 1) * group["lr_decay"]
    return Held((state["sum"].sqrt() + group["eps"]) / lr, group["eps"] / lr, 2.0, group["weight_decay"])


def _adam(group: Group, state: State, lr: float) -> Held:
    """2(1+β₁)/(1-β₁); (2-ηλ)(1+β₁)/(1-β₁) with decoupled weight decay λ."""
    (beta1, beta2), t = group["betas"], float(state["step"])
    square = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    scale = (1 - beta1**t) / lr
    root = square.sqrt() / math.sqrt(1 - beta2**t)
    return _decayed(group, lr, (root + group["eps"]) * scale, group["eps"] * scale, (1 + beta1) / (1 - beta1))


def _nadam(group: Group, state: State, lr: float) -> Held:
    """The step has a part of the gradient itself and one of its average, which is (1-β₁)/(1+β₁) of it."""
    (beta1, beta2), t = group["betas"], float(state["step"])

    def mu(t: float) -> float:
        return beta1 * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"]))

    product = float(state["mu_product"])
    averaged = mu(t + 1) / (1 - product * mu(t + 1)) * (1 - beta1) / (1 + beta1)
    root = (state["exp_avg_sq"] / (1 - beta2**t)).sqrt()
    return _decayed(
        group, lr, (root + group["eps"]) / lr, group["eps"] / lr, 1 / ((1 - mu(t)) / (1 - product) + averaged)
    )


def _adamax(group: Group, state: State, lr: float) -> Held:
    beta1, scale = group["betas"][0], (1 - group["betas"][0] ** float(state["step"])) / lr
    return Held(
        state["exp_inf"] * scale, group["eps"] * scale, 2 * (1 + beta1) / (1 - beta1), group["weight_decay"]
    )  # fmt: skip


def _decayed(group: Group, lr: float, p: Tensor, floor: float, factor: float) -> Held:
    """Weight decay outside of the gradient takes ηλ from the 2 that an iterate has to move to be its opposite."""
    if group.get("decoupled_weight_decay"):
        return Held(p, floor, (2 - lr * group["weight_decay"]) * factor)
    return Held(p, floor, 2 * factor, group["weight_decay"])


#: The optimizers that the gauge knows.
RULES: dict[type, Callable[[Group, State, float], Held]] = {
    optim.SGD: _sgd, optim.RMSprop: _rmsprop, optim.Adagrad: _adagrad, optim.Adam: _adam, optim.AdamW: _adam,
    optim.NAdam: _nadam, optim.Adamax: _adamax,
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What a gauge says at a step.

    Attributes
    ----------
    eigenvalues : Tensor (k,)
        The largest of P⁻¹H; over the threshold, if parameter groups have several thresholds.
    threshold : float
        θ, at which the optimizer oscillates along an eigenvector; 1 if groups have several.
    ratio : float
        The largest eigenvalue over the threshold: above 1 the optimizer is beyond its edge.
    residuals : Tensor (k,)
        Of the eigenpairs, in the units of the eigenvalues, whose own errors are of the order of the squares.
    eps_share : float
        Share of ε in the preconditioner along the first eigenvector. Near 1 it is a floor, and not ν, that holds the
        eigenvalue down.
    max_lr : float, or list of float
        Learning rate, of each group if they differ, at which the ratio would be 1 with ν and weights as they are.
    loss : float
        On the probe batch.
    products : int
        Hessian-vector products spent.
    step : int
        Steps that the optimizer has taken, where it counts them; else 0.
    """

    eigenvalues: Float[Tensor, "k"]
    threshold: float
    ratio: float
    residuals: Float[Tensor, "k"]
    eps_share: float
    max_lr: float | list[float]
    loss: float
    products: int
    step: int

    def __str__(self) -> str:
        rates = self.max_lr if isinstance(self.max_lr, list) else [self.max_lr]
        floor = f"ε is {self.eps_share:.0%} of the preconditioner there; " if self.eps_share >= 0.01 else ""
        return (
            f"step {self.step}: largest eigenvalue {self.eigenvalues[0]:.4g} of {self.threshold:.4g} "
            f"(ratio {self.ratio:.3f}), stable up to a learning rate of {', '.join(f'{x:.3g}' for x in rates)}; "
            f"{floor}{self.products} products"
        )


class Gauge:
    """The largest eigenvalues of the preconditioned Hessian of a training run, against the optimizer's threshold.

    The gauge reads the optimizer's state and changes nothing: weights, gradients, states and random numbers are those
    of a run without it. The preconditioner is that of the optimizer's last step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        SGD, RMSprop, Adagrad, Adam, AdamW, NAdam or Adamax, with any options, parameter groups and schedules.
    loss : callable () -> scalar Tensor
        Loss on a probe batch, always the same one, as a function of the optimizer's parameters as they are.
    module : torch.nn.Module, optional
        Its buffers are put back as they were, where evaluating the loss changes them (batch normalisation).

    Raises
    ------
    TypeError
        If it is another optimizer, or parameters are not in float32 or float64.

    Examples
    --------
    >>> w = torch.tensor([1.0, 1.0], requires_grad=True)
    >>> optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    >>> gauge = Gauge(optimizer, lambda: (w * w * torch.tensor([1.0, 15.0])).sum())
    >>> print(gauge.measure())
    step 0: largest eigenvalue 3 of 3.8 (ratio 0.789), stable up to a learning rate of 0.127; 2 products
    """

    def __init__(self, optimizer: optim.Optimizer, loss: Callable[[], Tensor], module: nn.Module | None = None):
        if type(optimizer) not in RULES:
            known = ", ".join(kind.__name__ for kind in RULES)
            raise TypeError(f"the gauge does not know {type(optimizer).__name__}; it knows {known}")
        self.optimizer, self.loss, self.module = optimizer, loss, module
        self._guesses: Tensor | None = None

    def measure(self, k: int = 1, tol: float = 1e-2) -> Reading:
        """Find the k largest eigenvalues; the better, the nearer the last measurement is.

        Parameters
        ----------
        k : int
        tol : float
            Residual allowed, relative to the largest eigenvalue.

        Returns
        -------
        Reading

        Raises
        ------
        ValueError
            If the optimizer has taken no step yet, a learning rate is 0, or the loss is no scalar that depends on its
            parameters.
        ConvergenceError
            If eigenpairs do not converge.
        """
        moved = list(self._moved())
        parameters = [parameter for parameter, *_ in moved]
        sizes = [parameter.numel() for parameter in parameters]

        def flat(values: list[Tensor | float]) -> Tensor:
            pieces = [torch.as_tensor(x).to(p).expand_as(p) for x, p in zip(values, parameters, strict=True)]
            return torch.cat([x.detach().reshape(-1) for x in pieces])

        edge = flat([held.p * held.threshold for _, held, _ in moved])
        floor = flat([held.floor * held.threshold for _, held, _ in moved])
        decay = flat([held.decay for _, held, _ in moved])
        sign = flat([-1.0 if group["maximize"] else 1.0 for *_, group in moved])

        def compute() -> Any:
            value = self.loss()
            if not isinstance(value, Tensor) or value.ndim != 0 or not value.requires_grad:
                raise ValueError("the loss must return a scalar tensor that depends on the optimizer's parameters")
            slopes = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
            gradient = torch.cat([slope.reshape(-1) for slope in slopes])

            def hvp(V: Tensor) -> Tensor:
                HV = torch.zeros_like(V)
                for j, v in enumerate(V.unbind(1)):
                    HV[:, j] = self._product(gradient, parameters, v)
                return sign[:, None] * HV + decay[:, None] * V

            guesses = self._guesses if self._guesses is not None and len(self._guesses) == sum(sizes) else None
            return value.detach(), top_eigenpairs(hvp, edge, k, guesses, tol)

        with _untouched(self.module):
            value, pairs = within(None, None, compute)
        self._guesses = pairs.start
        thresholds = {held.threshold for _, held, _ in moved}
        unit = thresholds.pop() if len(thresholds) == 1 else 1.0
        ratio, u = float(pairs.values[0]), pairs.U[:, 0]
        rates = [self._max_lr(group, ratio) for group in self.optimizer.param_groups]
        steps = [int(state["step"]) for state in self.optimizer.state.values() if "step" in state]
        return Reading(
            eigenvalues=unit * pairs.values,
            threshold=unit,
            ratio=ratio,
            residuals=unit * pairs.residuals,
            eps_share=float((u * floor * u).sum() / (u * edge * u).sum()),
            max_lr=rates[0] if len(set(rates)) == 1 else rates,
            loss=float(value),
            products=pairs.products,
            step=max(steps, default=0),
        )

    @staticmethod
    def _product(gradient: Tensor, parameters: list[Tensor], v: Tensor) -> Tensor:
        if not gradient.requires_grad:  # of a linear loss
            return torch.zeros_like(v)
        pieces = torch.autograd.grad(gradient, parameters, v, retain_graph=True, materialize_grads=True)
        return torch.cat([piece.reshape(-1) for piece in pieces])

    @staticmethod
    def _max_lr(group: Group, ratio: float) -> float:
        """η at which the ratio is 1: it is proportional to η / (2 - ηλ), with a decoupled weight decay λ."""
        lr, decay = float(group["lr"]), group["weight_decay"] if group.get("decoupled_weight_decay") else 0.0
        slope = ratio * (2 - lr * decay) / lr
        return 2 / (slope + decay) if slope + decay > 0 else math.inf

    def _moved(self) -> Iterator[tuple[Tensor, Held, Group]]:
        """The parameters that the optimizer moves, and how."""
        rule, found = RULES[type(self.optimizer)], False
        for number, group in enumerate(self.optimizer.param_groups):
            lr = float(group["lr"])
            if not lr > 0:
                raise ValueError(f"the learning rate of group {number} is {lr}; measure where it is above 0")
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter, {})
                if not parameter.requires_grad or (rule is not _sgd and not state):
                    continue  # it has no gradient, so that the optimizer leaves it where it is
                if parameter.dtype not in (torch.float32, torch.float64):
                    raise TypeError(f"parameters are {parameter.dtype}, in which second derivatives drown in rounding")
                found = True
                yield parameter, rule(group, state, lr), group
        if not found:
            raise ValueError("the optimizer has taken no step yet, or none of its parameters is trained; measure later")


@contextmanager
def _untouched(module: nn.Module | None) -> Iterator[None]:
    """Random states, and buffers of a module, are afterwards what they were before."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()] if module else []
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
