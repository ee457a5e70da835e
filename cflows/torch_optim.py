"""A run of ``torch.optim`` that goes on here: its optimizer, and where it has come to."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .momentum import Adam, AdamW, HeavyBall, NAdam, Nesterov
from .optimizers import Optimizer, RMSProp


@dataclass(frozen=True, eq=False)
class Start:
    """Where an optimizer has come to, for `simulate` to go on from there.

    Attributes
    ----------
    w : Tensor (n,)
        Weights.
    nu : Tensor, optional
        ν, as `Optimizer.init` gives it; None: that of an optimizer that has taken no step.
    m : Tensor (n,), optional
        Averaged gradient of an optimizer with momentum; None: it has taken no step.
    taken : int
        Steps taken so far. Bias corrections and schedules go on from there.
    """

    w: Float[Tensor, "n"]
    nu: Any = None
    m: Float[Tensor, "n"] | None = None
    taken: int = 0

    def fitted(self, opt: Optimizer, like: Float[Tensor, "n"]) -> Start:
        """With ν, and on the device and in the precision of some weights.

        Parameters
        ----------
        opt : Optimizer
        like : Tensor (n,)

        Returns
        -------
        Start

        Raises
        ------
        ValueError
            If a shape does not match, or a value is not finite.
        """
        nu = opt.init(like)
        found: dict[str, Any] = {"w": self.w, "nu": nu if self.nu is None else self.nu, "m": self.m}
        for (name, x), shape in zip(found.items(), (like.shape, nu.shape, like.shape), strict=True):
            if x is not None and x.shape != shape:
                raise ValueError(
                    f"{name} of start has shape {tuple(x.shape)}; with an objective of {len(like)} weights and "
                    f"{type(opt).__name__} it must be {tuple(shape)}"
                )
            if x is not None and not x.isfinite().all():
                raise ValueError(f"{name} of start holds values that are not finite")
        moved: dict[str, Any] = {name: x if x is None else x.detach().to(like) for name, x in found.items()}
        return Start(**moved, taken=self.taken)


class _Known(NamedTuple):
    """What is known of a kind of optimizer: our options by its own, what it must not have, its averages of g² and g."""

    options: dict[str, str]
    without: tuple[str, ...]
    square: str = ""
    average: str = ""


_ADAM = {"lr": "lr", "beta1": "beta1", "beta2": "beta2", "eps": "eps"}
_ADAM_STATE = ("exp_avg_sq", "exp_avg")
_SGD = {"lr": "lr", "momentum": "beta"}
_KNOWN: dict[type[Optimizer], _Known] = {
    RMSProp: _Known(
        {"lr": "lr", "alpha": "beta2", "eps": "eps"}, ("momentum", "centered", "maximize"), "square_avg"
    ),
    HeavyBall: _Known(_SGD | {"dampening": "dampening"}, ("maximize",), average="momentum_buffer"),
    Nesterov: _Known(_SGD, ("maximize",), average="momentum_buffer"),
    Adam: _Known(_ADAM, ("amsgrad", "maximize"), *_ADAM_STATE),
    AdamW: _Known(_ADAM | {"weight_decay": "weight_decay"}, ("amsgrad", "maximize"), *_ADAM_STATE),
    NAdam: _Known(
        _ADAM | {"momentum_decay": "momentum_decay"}, ("decoupled_weight_decay", "maximize"), *_ADAM_STATE
    ),
}  # fmt: skip


def _kind(optimizer: torch.optim.Optimizer) -> type[Optimizer]:
    """What it is here."""
    theirs, group = type(optimizer), optimizer.param_groups[0]
    if theirs is torch.optim.SGD:
        return Nesterov if group["nesterov"] else HeavyBall
    if theirs is torch.optim.Adam and group.get("decoupled_weight_decay"):
        return AdamW
    ours: dict[type, type[Optimizer]] = {
        torch.optim.RMSprop: RMSProp,
        torch.optim.Adam: Adam,
        torch.optim.AdamW: AdamW,
        torch.optim.NAdam: NAdam,
    }
    if theirs not in ours:
        raise TypeError(f"the optimizer is a {theirs.__name__}; it must be RMSprop, SGD, Adam, AdamW or NAdam itself")
    return ours[theirs]


def from_torch(optimizer: torch.optim.Optimizer, module: nn.Module) -> tuple[Optimizer, Start]:
    """The optimizer here that a running one of ``torch.optim`` is, and where it has come to.

    ``simulate(f, opt, steps, start=start)`` begins with that run's weights, averages and number of steps, and so do the
    flows.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        RMSprop, SGD, Adam, AdamW or NAdam, with the same options for all parameters. With coupled weight decay the
        objective needs it, too (a warning says so).
    module : torch.nn.Module
        All of whose trainable parameters it trains.

    Returns
    -------
    opt : Optimizer
        RMSProp, HeavyBall or Nesterov (SGD), Adam, AdamW or NAdam, with the same options.
    start : Start
        Copies of what the run holds now.

    Raises
    ------
    TypeError, ValueError
        If it is none of these, if it has options that there are none of here, or trains other parameters.

    Examples
    --------
    >>> module = nn.Linear(2, 1)
    >>> opt, start = from_torch(torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9), module)
    >>> opt
    HeavyBall(lr=0.1, beta=0.9, dampening=0.0)
    """
    kind = _kind(optimizer)
    known = _KNOWN[kind]
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
    if not options.get("momentum", 1.0):
        options["dampening"] = 0.0  # which acts on a momentum alone
    if has := [option for option in known.without if options[option]]:
        raise ValueError(f"the optimizer has {' and '.join(has)}, which {kind.__name__} here has not")
    if options["weight_decay"] and "weight_decay" not in known.options:
        decay = options["weight_decay"]
        warnings.warn(f"the optimizer has weight_decay={decay:g}; give the objective the same", stacklevel=2)
    states = [(p, optimizer.state.get(p, {})) for p in module.parameters() if p.requires_grad]
    steps = sorted({float(state["step"]) for _, state in states if "step" in state})
    if known.average and len(steps) > 1:
        counts = ", ".join(f"{x:g}" for x in steps)
        raise ValueError(f"parameters have taken {counts} steps; it must be the same number")

    begun = [state.get(known.average) is not None for _, state in states]
    if any(begun) and not all(begun) and (steps or options.get("dampening")):
        late = [name for name, there in zip(names.values(), begun, strict=True) if not there]
        warnings.warn(
            f"{', '.join(late)} have taken no step, others have: they are taken for weights without gradients. If they "
            "were frozen, or added later, their first steps have another size in PyTorch, which counts from there",
            stacklevel=2,
        )

    def average(of: str) -> Tensor | None:
        if all(state.get(of) is None for _, state in states):
            return None
        found = [torch.zeros_like(p) if state.get(of) is None else state[of] for p, state in states]
        return torch.cat([x.detach().reshape(-1) for x in found])

    m = average(known.average)
    if m is not None and isinstance(optimizer, torch.optim.SGD):  # it keeps a sum of gradients
        m *= (1 - options["momentum"]) / (1 - options.get("dampening", 0.0))
    w = torch.cat([p.detach().reshape(-1) for p, _ in states])
    opt = kind(**{ours: options[theirs] for theirs, ours in known.options.items()})
    return opt, Start(w, average(known.square), m, int(steps[0]) if steps else 0)


def _number(group: dict[str, Any], option: str) -> float:
    """An option of a group, β₁ and β₂ by themselves."""
    if option in ("beta1", "beta2"):
        return float(group["betas"][option == "beta2"])
    return float(group.get(option, 0.0))
