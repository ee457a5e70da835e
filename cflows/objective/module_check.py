"""Checks of a module, its criterion and its data before they become a loss; the errors are those of `from_module`."""

from __future__ import annotations

import operator
import pickle
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..modules import Binding
from .terms import describe, nearby

Criterion = Callable[[Tensor, Tensor], Tensor]

# In units of machine precision: differences of sums in another order (relative to the sum, or the norm of a gradient).
ROUNDINGS = 1e3
ROUNDINGS_OF_VALUES = 100  # likewise, relative to the sum of absolute values
# Steps for the slope of the loss, relative to the weights: two, since the slope must not depend on them.
STEPS = {torch.float32: (1e-2, 2e-3), torch.float64: (1e-4, 2e-5)}
MAX_SLOPE_ERROR = 0.05  # relative to a typical slope: that of ‖g‖ along a random direction
MAX_SCATTER = 0.2  # of two slopes, relative to their distance from the gradient: beyond, the loss is not smooth


def check_data(criterion: Any, inputs: Any, targets: Any, batch_size: Any) -> int:
    """Examples in a batch; an error for arguments that no module can be trained on."""
    if not callable(criterion):
        raise TypeError(f"criterion is {criterion!r}; it must be a function of outputs and targets")
    for name, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; convert it with torch.as_tensor")
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets) or len(inputs) == 0:
        counts = [len(x) if x.ndim else "one value as" for x in (inputs, targets)]
        raise ValueError(f"{counts[0]} inputs for {counts[1]} targets; they must be as many, and at least one")
    for name, value in (("inputs", inputs), ("targets", targets)):
        bad = value.isnan().reshape(len(value), -1).any(1) if value.is_floating_point() else torch.zeros(1)
        if bad.any():
            raise ValueError(
                f"{name} hold NaN in {int(bad.sum())} of {len(value)} examples, the first of them number "
                f"{int(bad.nonzero()[0])}; leave these examples out, or fill in what is missing"
            )
    return len(inputs) if batch_size is None else check_batch_size(batch_size, len(inputs))


def check_batch_size(batch_size: Any, count: int) -> int:
    """Examples in a batch, no more than there are."""
    try:
        size = operator.index(batch_size)
    except TypeError:
        raise TypeError(f"batch_size is {batch_size!r}; it must be an integer, or None") from None
    if size < 1 or isinstance(batch_size, bool):
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1, or None for all the data at once")
    return min(size, count)


def check_outputs(
    binding: Binding, criterion: Criterion, inputs: Tensor, targets: Tensor, within: Callable, whole: bool
) -> float:
    """The loss; an error if outputs do not fit targets, or the loss reads tensors other than the bound parameters.

    ``whole`` says whether the examples are all: a batch may have no labels, and a loss that is not finite.
    """
    module, name = binding.module, type(binding.module).__name__
    if inputs.is_floating_point() and inputs.dtype != binding.w0.dtype:
        raise TypeError(
            f"inputs are {inputs.dtype}, parameters {binding.w0.dtype}; convert all to one type, for example "
            "module.float() and inputs.float()"
        )
    kept = inputs.clone(), targets.clone()

    def compute() -> tuple[Any, Any]:
        try:
            out = module(inputs)
        except (RuntimeError, TypeError) as error:
            if inputs.is_floating_point() or ("dtype" not in str(error) and "scalar type" not in str(error)):
                raise
            raise TypeError(
                f"inputs are {inputs.dtype}, with which {name} fails ({error}); if it computes with floats, convert "
                "them: inputs.float()"
            ) from error
        if not isinstance(out, Tensor):
            raise TypeError(
                f"{name} returns a {type(out).__name__}; wrap it in a module that returns the one tensor which the "
                "criterion takes"
            )
        return out, criterion(out, targets)

    with warnings.catch_warnings():  # PyTorch only warns where shapes are made to match by repetition
        warnings.filterwarnings("error", message="Using a target size")
        try:
            out, value = within(binding.w0, compute)
        except UserWarning as warning:
            raise ValueError(f"outputs and targets do not match: {warning}") from warning
    if not isinstance(value, Tensor) or value.ndim != 0:
        raise ValueError(
            f"the criterion returned {describe(value)}; it must return a scalar: the mean or sum over examples"
        )
    for what, there, here in zip(("inputs", "targets"), kept, (inputs, targets), strict=True):
        if not torch.equal(there.nan_to_num(), here.nan_to_num()):
            raise ValueError(f"{name} or its criterion changes its {what} in place; let it work on a copy (clone)")
    if whole and not value.isfinite():
        raise ValueError(
            f"the loss is {float(value.detach())} at the module's own weights; is there log(0) or 0/0 in it?"
        )
    check_foreign(binding, value)
    loss = float(value.detach())
    if out.ndim and len(out) > 1 and out.shape != targets.shape and out.numel() == targets.numel():
        _check_broadcast(out.detach(), targets, loss, lambda o, t: within(binding.w0, lambda: criterion(o, t)))
    return loss


def check_foreign(binding: Binding, value: Tensor) -> None:
    """Raise an error if a loss depends on the module's own parameters, and not on the pieces in their place."""
    if not value.requires_grad:
        return
    slopes = torch.autograd.grad(value, binding.own, allow_unused=True)
    if foreign := [n for n, slope in zip(binding.names, slopes, strict=True) if slope is not None]:
        raise ValueError(
            f"the loss depends on {foreign[0]!r} of the module by another way than its parameters at the time (a "
            "list of parameters made before, a closure): that part would have no gradient; read "
            "module.parameters() inside the criterion, or add a penalty as an objective of the flat weights: "
            "f + cflows.Objective(lambda w: 1e-3 * w.square().sum(), f.w0)"
        )


def check_plain(binding: Binding, compute: Callable[[], Tensor], within: Callable, ours: float) -> None:
    """Raise an error if the loss differs from ``ours`` when the parameters are not pieces of one vector."""
    name = type(binding.module).__name__
    own = float(within(None, compute).detach())
    if abs(own - ours) > ROUNDINGS * torch.finfo(binding.w0.dtype).eps * abs(own):
        raise ValueError(
            f"the loss of {name} is {own:.6g}, and {ours:.6g} once its parameters are the pieces of one vector: "
            "something looks at what they are (isinstance of Parameter), or keeps values of them; read "
            "module.parameters() instead"
        )


def _check_broadcast(out: Tensor, targets: Tensor, value: float, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Raise an error if the criterion gives another value for outputs and targets of equal shapes."""
    tried = []
    for o, t in ((out, targets.reshape(out.shape)), (out.reshape(targets.shape), targets)):
        try:
            tried.append(float(loss(o, t).detach()))
        except Exception:  # a criterion that wants them as they are
            return
    if np.isclose(tried[0], tried[1], rtol=1e-4) and not np.isclose(tried[0], value, rtol=1e-4):
        raise ValueError(
            f"outputs and targets do not match: outputs have shape {tuple(out.shape)}, targets {tuple(targets.shape)}, "
            "and the criterion broadcasts one over the other; use targets.reshape(...)"
        )


def check_repeats(
    binding: Binding, w: Float[Tensor, "n"], gradient: Callable[[], Float[Tensor, "n"]], times: int = 3
) -> Float[Tensor, "n"]:
    """The gradient at w; an error if it varies from call to call, draws random numbers, or changes tensors."""
    name = type(binding.module).__name__
    before, start = {key: buffer.clone() for key, buffer in binding.copies.items()}, w.clone()
    first = gradient()
    if not torch.equal(w, start):
        raise ValueError(
            f"the forward pass of {name} changes its own weights in place; let it compute with others, such as "
            "weight * mask, or use torch.nn.utils.parametrize"
        )
    drawn = _random_states(first.device)
    for _ in range(times - 1):
        again = gradient()
        for key, buffer in binding.copies.items():
            if not torch.equal(buffer.nan_to_num(), before[key].nan_to_num()):
                raise ValueError(
                    f"the forward pass of {name} changes the buffer {key.removeprefix('module.')!r}, so that its loss "
                    "depends on how often it was computed; call module.eval(), or take the change out of it"
                )
        now = _random_states(first.device)
        draws = any(a != b for a, b in zip(drawn, now, strict=True))
        if draws or _far(first, again):
            what = "draws random numbers" if draws else "gives different gradients for the same weights and data"
            raise ValueError(
                f"{name} or its criterion {what}, so its loss is random or has a memory; call module.eval(), or take "
                "the randomness (dropout, drop path, noise) out of its forward method"
            )
        drawn = now
    return first


def _far(a: Tensor, b: Tensor) -> bool:
    """Whether two gradients differ by more than rounding."""
    return bool((a - b).norm() > ROUNDINGS * torch.finfo(a.dtype).eps * a.norm())


def _random_states(device: torch.device) -> list[Any]:
    numbers = pickle.dumps(np.random.get_state())  # noqa: NPY002
    states = [torch.get_rng_state().numpy().tobytes(), random.getstate(), numbers]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device).numpy().tobytes())
    return states


def check_slope(
    binding: Binding, loss: Callable[[Float[Tensor, "n"]], Tensor], w: Float[Tensor, "n"], g: Float[Tensor, "n"]
) -> None:
    """Warn if the gradient g at w is not the slope of the loss along a random direction."""
    v = nearby(binding, w, 1.0, 3) - w
    expected, typical = float(g @ v), float(g.norm() * v.norm()) / len(v) ** 0.5
    slopes = []
    for share in STEPS[w.dtype]:
        ahead, behind = (float(loss(w + s * share * v)) for s in (1, -1))
        slopes.append((ahead - behind) / (2 * share))
        rounding = ROUNDINGS_OF_VALUES * torch.finfo(w.dtype).eps * (abs(ahead) + abs(behind)) / share
        if not abs(slopes[-1] - expected) > MAX_SLOPE_ERROR * typical + rounding:
            return
    if abs(slopes[0] - slopes[1]) < MAX_SCATTER * abs(slopes[0] - expected):
        warnings.warn(
            f"the gradient of {type(binding.module).__name__} is not that of its loss: along a random direction the "
            f"loss changes at a rate of {slopes[0]:.3g}, the gradient says {expected:.3g}; is there a detach() in it, "
            "a straight-through estimator, or checkpoint(use_reentrant=True)? What follows is of the gradient",
            stacklevel=4,
        )


def shares(
    loss: Callable[[Tensor, Tensor], Tensor], out: Sequence[Tensor], targets: Tensor, batches: Sequence[slice]
) -> list[float]:
    """Factors a with criterion(all) = Σ a · criterion(batch): 1 for sums, shares of examples or of weights for means.

    They follow from derivatives of the criterion with respect to outputs: those of all examples are a times those of a
    batch. The factors, and the values, are then checked on several outputs. ``out`` are the outputs of each batch. A
    criterion that mixes examples is an error.
    """

    def value_and_slope(outs: Sequence[Tensor], target: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        outs = [o.detach().requires_grad_() for o in outs]
        try:
            value = loss(torch.cat(outs), target)
        except Exception as error:
            raise ValueError(
                f"the criterion can't be tried on outputs of batches by themselves ({error}): it needs what the "
                "forward pass leaves behind, or the first dimension of outputs is not that of examples; use "
                "batch_size=None"
            ) from error
        if not value.requires_grad:  # such as of a batch without labels
            return value.detach(), tuple(map(torch.zeros_like, outs))
        return value.detach(), torch.autograd.grad(value, outs, materialize_grads=True)

    count, rows = len(targets), sum(len(o) for o in out)
    eps = torch.finfo(out[0].dtype).eps
    trials: list[tuple] = []
    for turn in (0, 1, count // 2 + 1):  # outputs of other examples are valid outputs too
        tried = torch.cat(list(out)).roll(turn * (rows // count), 0).split([len(o) for o in out])
        parts = [value_and_slope([o], targets[b]) for o, b in zip(tried, batches, strict=True)]
        trials.append((value_and_slope(tried, targets), parts))
    regular = [(b.stop - b.start) / count for b in batches]
    found: list[float | None] = []
    for i in range(len(batches)):
        pairs = [(whole[1][i].double(), parts[i][1][0].double()) for whole, parts in trials]
        square = sum(float(part.square().sum()) for _, part in pairs)
        # None where no derivative tells, 0 for a batch in which nothing counts: its mean is 0 / 0
        told = sum(float((a * p).sum()) for a, p in pairs) / square if 0 < square < float("inf") else None
        found.append(told if all(bool(parts[i][0].isfinite()) for _, parts in trials) else 0.0)
    for guess in (regular, [1.0] * len(batches)):
        if all(a is None or a == 0 or abs(a - g) <= eps**0.5 / 3 * g for a, g in zip(found, guess, strict=True)):
            found = [0.0 if a == 0 else g for a, g in zip(found, guess, strict=True)]
            break
    factors = [a or 0.0 for a in found]
    for (value, slopes), parts in trials:
        if not value.isfinite():
            raise ValueError(f"the criterion gives {value.item()} on all examples, near the module's own weights")
        values = [a * float(part[0]) for a, part in zip(factors, parts, strict=True) if a]
        largest = max(float(s.abs().max()) for s in slopes)
        off = max(
            float((slope - a * part[1][0]).abs().max()) if a else float(slope.abs().max())
            for slope, a, part in zip(slopes, factors, parts, strict=True)
        )
        if (
            abs(sum(values) - float(value)) > ROUNDINGS_OF_VALUES * eps * sum(map(abs, values))
            or off > 3 * ROUNDINGS * eps * largest
        ):
            raise ValueError(
                f"the criterion gives {float(value):.8g} on all examples and {sum(values):.8g} from its values on "
                "batches: it mixes examples, so it can't be taken in batches; use a mean or a sum over examples "
                "(weighted, if you like), or batch_size=None"
            )
    return factors


def check_batches(name: str, ours: Float[Tensor, "n"], other: Callable[[], Float[Tensor, "n"]], size: int) -> None:
    """Raise an error if the gradient ``ours`` changes in batches of another size; ``other`` computes that."""
    try:
        theirs = other()
        off = f"the gradient changes by {float((theirs - ours).norm() / ours.norm()):.1g} of itself"
    except (RuntimeError, ValueError) as error:
        theirs, off = torch.full_like(ours, torch.inf), f"it fails ({error})"
    if not theirs.isfinite().all() or _far(ours, theirs):
        raise ValueError(
            f"{name} mixes examples: in batches of {size} {off} (batch statistics, attention or means across "
            "examples), so that the loss in batches would be another; use batch_size=None, or a normalisation of each "
            "example"
        )
