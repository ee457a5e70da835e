"""The state of a run of ``torch.optim``, as optimizers here understand it."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import nn


class Known(NamedTuple):
    """What is known of a kind of optimizer: our options by its own, what it must not have, its averages of g² and g."""

    options: dict[str, str]
    without: tuple[str, ...]
    square: str = ""
    average: str = ""


ADAM = {"lr": "lr", "beta1": "beta1", "beta2": "beta2", "eps": "eps"}
ADAM_STATE = ("exp_avg_sq", "exp_avg")
SGD = {"lr": "lr", "momentum": "beta"}
#: By the name that it has here.
KNOWN = {
    "RMSProp": Known(
        {"lr": "lr", "alpha": "beta2", "eps": "eps"}, ("momentum", "centered", "maximize"), "square_avg"
    ),
    "HeavyBall": Known(SGD | {"dampening": "dampening"}, ("maximize",), average="momentum_buffer"),
    "Nesterov": Known(SGD, ("maximize",), average="momentum_buffer"),
    "Adam": Known(ADAM, ("amsgrad", "maximize"), *ADAM_STATE),
    "AdamW": Known(ADAM | {"weight_decay": "weight_decay"}, ("amsgrad", "maximize"), *ADAM_STATE),
    "NAdam": Known(
        ADAM | {"momentum_decay": "momentum_decay"}, ("decoupled_weight_decay", "maximize"), *ADAM_STATE
    ),
}  # fmt: skip


def _name(optimizer: torch.optim.Optimizer) -> str:
    """What it is called here."""
    group = optimizer.param_groups[0]
    if isinstance(optimizer, torch.optim.SGD):
        return "Nesterov" if group["nesterov"] else "HeavyBall"
    if isinstance(optimizer, torch.optim.AdamW):
        return "AdamW"
    if isinstance(optimizer, torch.optim.Adam):
        return "AdamW" if group.get("decoupled_weight_decay") else "Adam"
    for kind, name in ((torch.optim.RMSprop, "RMSProp"), (torch.optim.NAdam, "NAdam")):
        if isinstance(optimizer, kind):
            return name
    raise TypeError(f"the optimizer is a {type(optimizer).__name__}; it must be RMSprop, SGD, Adam, AdamW or NAdam")


def running(optimizer: torch.optim.Optimizer, module: nn.Module) -> tuple[str, dict[str, float], dict[str, Any]]:
    """Name and options of an optimizer here, and the averages and steps with which it goes on, for its `from_torch`."""
    name = _name(optimizer)
    known = KNOWN[name]
    names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    if missing := [name for i, name in names.items() if i not in group_of]:
        raise ValueError(f"the optimizer does not train {', '.join(missing)}; freeze what it does not train")
    if strange := sum(id(p) not in names for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(f"{strange} of the optimizer's parameters are no trainable parameters of the module")
    options: dict[str, float] = {}
    for option in (*known.options, *known.without, "weight_decay"):
        values = sorted({_number(group_of[i], option) for i in names})
        if len(values) > 1:
            raise ValueError(f"{option} is {', '.join(map(str, values))} in different groups; it must be the same")
        options[option] = values[0]
    if has := [option for option in known.without if options[option]]:
        raise ValueError(f"the optimizer has {' and '.join(has)}, which {name} here has not")
    if options["weight_decay"] and "weight_decay" not in known.options:
        decay = options["weight_decay"]
        warnings.warn(f"the optimizer has weight_decay={decay:g}; give the objective the same", stacklevel=3)
    states = [(p, optimizer.state.get(p, {})) for p in module.parameters() if p.requires_grad]
    steps = sorted({float(state["step"]) for _, state in states if "step" in state})
    if known.average and len(steps) > 1:
        counts = ", ".join(f"{x:g}" for x in steps)
        raise ValueError(f"parameters have taken {counts} steps; it must be the same number")

    def average(of: str) -> torch.Tensor | None:
        if not any(of in state for _, state in states):
            return None
        return torch.cat([state.get(of, torch.zeros_like(p)).detach().reshape(-1) for p, state in states])

    m = average(known.average)
    if m is not None and isinstance(optimizer, torch.optim.SGD):  # it keeps a sum of gradients
        m *= (1 - options["momentum"]) / (1 - options.get("dampening", 0.0))
    found = {"_nu": average(known.square), "_m": m, "_taken": int(steps[0]) if steps else 0}
    return name, {ours: options[theirs] for theirs, ours in known.options.items()}, found


def _number(group: dict[str, Any], option: str) -> float:
    """An option of a group, β₁ and β₂ by themselves."""
    if option in ("beta1", "beta2"):
        return float(group["betas"][option == "beta2"])
    return float(group.get(option, 0.0))
