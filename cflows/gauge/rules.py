"""What one step of an optimizer of ``torch.optim`` does to each parameter, its state held fixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, optim

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
class Step:
    """An optimizer's next step, over all entries (n,) of the parameters that it moves.

    Attributes
    ----------
    parameters : list of Tensor
    edge : Tensor (n,)
        θp: an oscillation along u neither grows nor decays if (H + diag(decay)) u = θp ⊙ u.
    floor : Tensor (n,)
        The part of it that is ε.
    decay : Tensor (n,)
        What coupled weight decay adds to H.
    sign : Tensor (n,)
        -1 where the loss is maximized.
    thresholds : set of float
        The different θ.
    rates : list of (float, float)
        The different learning rates, each with its decoupled weight decay.
    count : int
        Steps taken, where the optimizer counts them; else 0.
    """

    parameters: list[Tensor]
    edge: Float[Tensor, "n"]
    floor: Float[Tensor, "n"]
    decay: Float[Tensor, "n"]
    sign: Float[Tensor, "n"]
    thresholds: set[float]
    rates: list[tuple[float, float]]
    count: int


def next_step(optimizer: optim.Optimizer) -> Step:
    """The next step of an optimizer, as its state says.

    Raises
    ------
    TypeError
        If a parameter is not in float32 or float64.
    ValueError
        If no parameter is moved.
    """
    rule, moved = RULES[type(optimizer)], list[tuple[Tensor, Held, Group]]()
    for group in optimizer.param_groups:
        lr = float(group["lr"])
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            idle = rule is not _sgd and not float(state.get("step", 0))
            if not (lr > 0 and parameter.requires_grad) or idle:
                continue  # the optimizer leaves it where it is
            if parameter.dtype not in (torch.float32, torch.float64):
                raise TypeError(f"parameters are {parameter.dtype}; the gauge needs float32 or float64")
            moved.append((parameter, rule(group, state, lr), group))
    if not moved:
        raise ValueError(
            "the optimizer has taken no step yet, all its learning rates are 0, or no parameter is trained"
        )

    def flat(values: list[Tensor | float]) -> Tensor:
        numbers = [x for x in values if not isinstance(x, Tensor)]
        if len(numbers) == len(values) and len(set(numbers)) == 1:  # no memory for n equal numbers
            each = torch.cat([p.new_full((1,), numbers[0]) for p, *_ in moved])
            return each[:1].expand(sum(p.numel() for p, *_ in moved))
        pieces = [torch.as_tensor(x).to(p).expand_as(p) for x, (p, *_) in zip(values, moved, strict=True)]
        return torch.cat([x.detach().reshape(-1) for x in pieces])

    edge = flat([held.p * held.threshold for _, held, _ in moved])
    floor = flat([held.floor * held.threshold for _, held, _ in moved])
    decay = flat([held.decay for _, held, _ in moved])
    return Step(
        parameters=[parameter for parameter, *_ in moved],
        edge=edge,
        floor=floor,
        decay=decay * (edge > floor) if any(held.decay for _, held, _ in moved) else decay,  # no gradient ever: at rest
        sign=flat([-1.0 if group["maximize"] else 1.0 for *_, group in moved]),
        thresholds={held.threshold for _, held, _ in moved},
        rates=list({float(group["lr"]): held.shrink for _, held, group in moved}.items()),
        count=max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0),
    )
