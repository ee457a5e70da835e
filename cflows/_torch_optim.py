"""The state of a run of ``torch.optim``, as optimizers here understand it."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn


def rmsprop_state(optimizer: torch.optim.RMSprop, module: nn.Module) -> tuple[dict[str, float], Float[Tensor, "n"]]:
    """The options lr, beta2 and eps of a ``torch.optim.RMSprop``, and its ν, as `RMSProp.from_torch` needs them."""
    if not isinstance(optimizer, torch.optim.RMSprop):
        raise TypeError(f"the optimizer is a {type(optimizer).__name__}; it must be a torch.optim.RMSprop")
    names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    if missing := [name for i, name in names.items() if i not in group_of]:
        raise ValueError(f"the optimizer does not train {', '.join(missing)}; freeze what it does not train")
    if strange := sum(id(p) not in names for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(f"{strange} of the optimizer's parameters are no trainable parameters of the module")
    options = dict.fromkeys(("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize"), 0.0)
    for name in options:
        values = sorted({float(group_of[i][name]) for i in names})
        if len(values) > 1:
            raise ValueError(f"{name} is {', '.join(map(str, values))} in different groups; it must be the same")
        options[name] = values[0]
    if has := [name for name in ("momentum", "centered", "maximize") if options[name]]:
        raise ValueError(f"the optimizer has {' and '.join(has)}, which RMSProp here has not")
    if options["weight_decay"]:
        decay = options["weight_decay"]
        warnings.warn(f"the optimizer has weight_decay={decay:g}; give the objective the same", stacklevel=3)
    trained = [p for p in module.parameters() if p.requires_grad]
    squares = [optimizer.state.get(p, {}).get("square_avg", torch.zeros_like(p)) for p in trained]
    nu = torch.cat([square.detach().reshape(-1) for square in squares])
    return {"lr": options["lr"], "beta2": options["alpha"], "eps": options["eps"]}, nu
