"""How far an ordinary training run is from its own edge of stability: a gauge for optimizers of ``torch.optim``.

With its state held fixed, an optimizer is a linear recursion near any point: w moves by -m / p, where p contains the
learning rate and the root of the averaged squared gradients, and m is what momentum makes of the gradient. An
oscillation w → -w neither grows nor decays if Hw = θ p ⊙ w, with the threshold θ: 2 without momentum. So the edge is
where the largest eigenvalue of P⁻¹H is θ; beyond, the oscillation grows until ν or the curvature has changed.
"""

from __future__ import annotations

import math
import random
import warnings
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

STEPS = {torch.float32: 3e-3, torch.float64: 1e-5}  # of the check of second derivatives, relative to the weights
MAX_ERROR = 0.2  # of theirs, relative
ROUNDINGS = 100  # in units of machine precision

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
    shrink : float
        Decoupled weight decay λ: what a step takes from the weights, over ηw.
    """

    p: Tensor | float
    floor: Tensor | float
    threshold: float
    decay: float = 0.0
    shrink: float = 0.0


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
    (beta1, beta2), t = map(float, group["betas"]), float(state["step"])
    square = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    scale = (1 - beta1**t) / lr
    root = square.sqrt() / math.sqrt(1 - beta2**t)
    return _decayed(group, lr, (root + group["eps"]) * scale, group["eps"] * scale, (1 + beta1) / (1 - beta1))


def _adamw(group: Group, state: State, lr: float) -> Held:
    return _adam(group | {"decoupled_weight_decay": True}, state, lr)  # older versions of torch have no such key


def _nadam(group: Group, state: State, lr: float) -> Held:
    """The step has a part of the gradient itself and one of its average, which is (1-β₁)/(1+β₁) of it."""
    (beta1, beta2), t = map(float, group["betas"]), float(state["step"])

    def mu(t: float) -> float:
        return beta1 * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"]))

    product = float(state["mu_product"])
    averaged = mu(t + 1) / (1 - product * mu(t + 1)) * (1 - beta1) / (1 + beta1)
    root = (state["exp_avg_sq"] / (1 - beta2**t)).sqrt()
    return _decayed(
        group, lr, (root + group["eps"]) / lr, group["eps"] / lr, 1 / ((1 - mu(t)) / (1 - product) + averaged)
    )


def _adamax(group: Group, state: State, lr: float) -> Held:
    beta1 = float(group["betas"][0])
    scale = (1 - beta1 ** float(state["step"])) / lr
    return Held(
        state["exp_inf"] * scale, group["eps"] * scale, 2 * (1 + beta1) / (1 - beta1), group["weight_decay"]
    )  # fmt: skip


def _decayed(group: Group, lr: float, p: Tensor, floor: float, factor: float) -> Held:
    """Weight decay outside of the gradient takes ηλ from the 2 that an iterate has to move to be its opposite."""
    if group.get("decoupled_weight_decay"):
        shrink = lr * group["weight_decay"]
        if not shrink < 2:
            raise ValueError(f"lr · weight_decay is {shrink:.3g}; from 2 on the decay alone is unstable")
        return Held(p, floor, (2 - shrink) * factor, shrink=group["weight_decay"])
    return Held(p, floor, 2 * factor, group["weight_decay"])


#: The optimizers that the gauge knows.
RULES: dict[type, Callable[[Group, State, float], Held]] = {
    optim.SGD: _sgd, optim.RMSprop: _rmsprop, optim.Adagrad: _adagrad, optim.Adam: _adam, optim.AdamW: _adamw,
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
        eigenvalue down; or the eigenvector is of weights that the probe batch moves and training does not.
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
    of a run without it (and buffers, if it is given the module). The preconditioner is that of the optimizer's last
    step, with the learning rate that the groups have now. Groups with a learning rate of 0 count as frozen.

    Parameters
    ----------
    optimizer
        Of ``torch.optim``: SGD, RMSprop, Adagrad, Adam, AdamW, NAdam or Adamax, with any options, parameter groups
        and schedules.
    loss : callable () -> scalar Tensor
        Loss on a probe batch, always the same one, as a function of the optimizer's parameters as they are. Its
        gradient must be in the units of those that the optimizer is given: where these are clipped, or sums of several
        batches, multiply the loss by the same factor. It must not call ``backward()``.
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
        self._checked = False

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
            If the optimizer has taken no step yet, or the loss is no scalar that depends on its parameters.
        ConvergenceError
            If eigenpairs do not converge.

        Warns
        -----
        UserWarning
            At the first measurement, if PyTorch's second derivatives of the loss are wrong.
        """
        moved = list(self._moved())
        parameters = [parameter for parameter, *_ in moved]
        sizes = [parameter.numel() for parameter in parameters]

        def flat(values: list[Tensor | float]) -> Tensor:
            pieces = [torch.as_tensor(x).to(p).expand_as(p) for x, p in zip(values, parameters, strict=True)]
            return torch.cat([x.detach().reshape(-1) for x in pieces])

        edge = flat([held.p * held.threshold for _, held, _ in moved])
        floor = flat([held.floor * held.threshold for _, held, _ in moved])
        decay = flat([held.decay for _, held, _ in moved]) * (edge > floor)  # without gradients ever: at rest
        sign = flat([-1.0 if group["maximize"] else 1.0 for *_, group in moved])

        def compute() -> Any:
            value, gradient = self._gradient(parameters, create_graph=True)

            def hvp(V: Tensor) -> Tensor:
                HV = torch.zeros_like(V)
                for j, v in enumerate(V.unbind(1)):
                    HV[:, j] = self._product(gradient, parameters, v)
                return sign[:, None] * HV + decay[:, None] * V

            guesses = self._guesses if self._guesses is not None and len(self._guesses) == sum(sizes) else None
            return value.detach(), top_eigenpairs(hvp, edge, k, guesses, tol)

        grads = [(p.grad, None if p.grad is None else p.grad._version) for p in parameters]
        with _untouched(self.module):
            value, pairs = within(None, None, compute)
        if not self._checked:
            Hu = sign * (pairs.HU[:, 0] - decay * pairs.U[:, 0])
            with _untouched(self.module):  # with the same random numbers
                within(None, None, lambda: self._check(parameters, pairs.U[:, 0], Hu))
            self._checked = True
        if grads != [(p.grad, None if p.grad is None else p.grad._version) for p in parameters]:
            raise ValueError(
                "the loss has changed the gradients of the optimizer's parameters; it must not call backward()"
            )
        self._guesses = pairs.start
        thresholds = {held.threshold for _, held, _ in moved}
        unit = thresholds.pop() if len(thresholds) == 1 else 1.0
        ratio, u = float(pairs.values[0]), pairs.U[:, 0]
        rates = [
            self._max_lr(lr, shrink, ratio) for lr, shrink in {float(g["lr"]): h.shrink for _, h, g in moved}.items()
        ]
        steps = [int(state["step"]) for state in self.optimizer.state.values() if "step" in state]
        return Reading(
            eigenvalues=unit * pairs.values,
            threshold=unit,
            ratio=ratio,
            residuals=unit * pairs.residuals,
            eps_share=float((u * floor * u).sum() / (u * edge * u).sum()),
            max_lr=rates[0] if len(rates) == 1 else rates,
            loss=float(value),
            products=pairs.products,
            step=max(steps, default=0),
        )

    def _gradient(self, parameters: list[Tensor], create_graph: bool = False) -> tuple[Tensor, Tensor]:
        value = self.loss()
        slopes: Any = [None]
        if isinstance(value, Tensor) and value.ndim == 0 and value.requires_grad:
            slopes = torch.autograd.grad(value, parameters, create_graph=create_graph, allow_unused=True)
        if all(slope is None for slope in slopes):
            raise ValueError("the loss must return a scalar tensor that depends on the optimizer's parameters")
        pieces = [torch.zeros_like(p) if s is None else s for s, p in zip(slopes, parameters, strict=True)]
        return value, torch.cat([piece.reshape(-1) for piece in pieces])

    def _check(self, parameters: list[Tensor], u: Tensor, Hu: Tensor) -> None:
        """Warn if Hu is not what a difference of gradients says. The parameters are afterwards what they were."""
        kept, sizes = [p.detach().clone() for p in parameters], [p.numel() for p in parameters]
        size = torch.cat([p.reshape(-1) for p in kept]).norm()
        h = STEPS[u.dtype] * max(float(size), 1.0) / float(u.norm())
        found = []
        try:
            for step in (h, -h):
                for p, old, piece in zip(parameters, kept, u.split(sizes), strict=True):
                    p.data.copy_(old + step * piece.view_as(old))
                with torch.random.fork_rng(_devices()):
                    found.append(self._gradient(parameters)[1])
        finally:
            for p, old in zip(parameters, kept, strict=True):
                p.data.copy_(old)
        rounding = ROUNDINGS * torch.finfo(u.dtype).eps * float(found[0].norm() + found[1].norm()) / h
        off = float(((found[0] - found[1]) / (2 * h) - Hu).norm())
        if off > MAX_ERROR * float(Hu.norm()) + rounding:
            warnings.warn(
                "PyTorch's second derivatives of this loss are not those of its gradient (a fused kernel, a function "
                f"with a backward of its own): along the first eigenvector they are off by {off / float(Hu.norm()):.0%}"
                " from a difference of gradients, so that the eigenvalues are wrong",
                stacklevel=3,
            )

    @staticmethod
    def _product(gradient: Tensor, parameters: list[Tensor], v: Tensor) -> Tensor:
        if not gradient.requires_grad:  # of a linear loss
            return torch.zeros_like(v)
        pieces = torch.autograd.grad(gradient, parameters, v, retain_graph=True, materialize_grads=True)
        return torch.cat([piece.reshape(-1) for piece in pieces])

    @staticmethod
    def _max_lr(lr: float, shrink: float, ratio: float) -> float:
        """η at which the ratio is 1: it is proportional to η / (2 - ηλ), with a decoupled weight decay λ."""
        slope = ratio * (2 - lr * shrink) / lr
        return 2 / (slope + shrink) if slope + shrink > 0 else math.inf

    def _moved(self) -> Iterator[tuple[Tensor, Held, Group]]:
        """The parameters that the optimizer moves, and how."""
        rule, found = RULES[type(self.optimizer)], False
        for group in self.optimizer.param_groups:
            lr = float(group["lr"])
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter, {})
                idle = rule is not _sgd and not float(state.get("step", 0))
                if not (lr > 0 and parameter.requires_grad) or idle:
                    continue  # the optimizer leaves it where it is
                if parameter.dtype not in (torch.float32, torch.float64):
                    raise TypeError(f"parameters are {parameter.dtype}; the gauge needs float32 or float64")
                found = True
                yield parameter, rule(group, state, lr), group
        if not found:
            raise ValueError(
                "the optimizer has taken no step yet, all its learning rates are 0, or no parameter is trained"
            )


@contextmanager
def _untouched(module: nn.Module | None) -> Iterator[None]:
    """Random states, and buffers of a module, are afterwards what they were before."""
    owners = [(owner, name) for owner in module.modules() for name in owner._buffers] if module else []
    buffers = [(owner, name, owner._buffers[name]) for owner, name in owners]
    copies = [None if buffer is None else buffer.clone() for *_, buffer in buffers]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(_devices()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            for (owner, name, buffer), before in zip(buffers, copies, strict=True):
                owner._buffers[name] = buffer
                if buffer is not None and before is not None:
                    buffer.copy_(before)


def _devices() -> list[int]:
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
