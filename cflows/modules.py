"""A torch module and its data as terms of an objective: what is exchanged while it is evaluated, what is checked."""

from __future__ import annotations

import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

Criterion = Callable[[Tensor, Tensor], Tensor]
R = TypeVar("R")


class Binding(nn.Module):
    """A module whose trainable parameters are, for the length of a computation, pieces of a flat vector.

    Everything that reads a parameter during that computation sees the piece: the forward pass, a criterion that sums
    over ``module.parameters()``, and code that runs again in a backward pass (activation checkpointing). Buffers are
    copies from construction on. Nothing of the module itself is changed.

    Parameters
    ----------
    module : torch.nn.Module

    Raises
    ------
    ValueError, TypeError
        If it has no trainable parameters, or parameters that can't be handled.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not parameters:
            raise ValueError(f"{type(module).__name__} has no trainable parameters, so there is nothing to optimize")
        _check_layers(module)
        _check_types(parameters)
        self.module = module
        self.names, self.own = list(parameters), list(parameters.values())
        self.shapes, self.sizes = [p.shape for p in self.own], [p.numel() for p in self.own]
        self.w0 = torch.cat([p.detach().reshape(-1) for p in self.own])
        index = {id(p): i for i, p in enumerate(self.own)}
        copied: dict[int, Tensor] = {}
        # A submodule that is reached by two paths comes once, a tensor of two submodules twice.
        self.pieces: dict[str, int] = {}
        self.copies: dict[str, Tensor] = {}
        for prefix, owner in self.named_modules():
            for name, tensor in owner.named_parameters(prefix, recurse=False, remove_duplicate=False):
                if id(tensor) in index:
                    self.pieces[name] = index[id(tensor)]
            for name, tensor in owner.named_buffers(prefix, recurse=False, remove_duplicate=False):
                self.copies[name] = copied.setdefault(id(tensor), tensor.detach().clone())

    def forward(self, compute: Callable[[], R]) -> R:
        """What is computed while the tensors are exchanged."""
        return compute()

    def within(self, w: Float[Tensor, "n"], compute: Callable[[], R]) -> R:
        """The result of a computation during which the parameters are the pieces of w.

        Parameters
        ----------
        w : Tensor (n,)
        compute : callable

        Returns
        -------
        What ``compute()`` returns.
        """
        pieces = [piece.view(shape) for piece, shape in zip(w.split(self.sizes), self.shapes, strict=True)]
        tensors = {name: pieces[i] for name, i in self.pieces.items()} | self.copies
        attributes = [(owner, dict(vars(owner))) for owner in self.modules()]
        try:
            return torch.func.functional_call(self, tensors, (compute,), tie_weights=False)
        finally:
            for owner, before in attributes:  # such as lists of weights that recurrent layers keep
                now = vars(owner)
                if len(now) != len(before) or any(now.get(name) is not value for name, value in before.items()):
                    now.clear()
                    now.update(before)

    def owner(self, i: int) -> str:
        """The parameter that the i-th entry of w belongs to."""
        return self.names[int(np.searchsorted(np.cumsum(self.sizes), i, side="right"))]


def _check_layers(module: nn.Module) -> None:
    """Complain about layers that make a loss random, or dependent on more than its arguments."""
    for name, layer in module.named_modules():
        where = f"layer {name!r} ({type(layer).__name__})"
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.training and layer.p > 0:
            raise ValueError(f"{where} is in training mode, which makes the loss random; call module.eval()")
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
            raise ValueError(
                f"{where} is in training mode, which makes the loss dependent on how the data are batched; use a "
                "normalisation of each example (GroupNorm), or call module.eval() once its running statistics are "
                "those of the data (on a fresh network they are 0 and 1, and the layer then normalises nothing)"
            )
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
            if layer.sparse:
                raise ValueError(f"{where} gives sparse gradients; make it with sparse=False")
            if layer.max_norm is not None:
                raise ValueError(f"{where} changes its weights in the forward pass; make it with max_norm=None")


def _check_types(parameters: dict[str, nn.Parameter]) -> None:
    kinds = {p.dtype: name for name, p in parameters.items()}
    if len(kinds) > 1:
        raise TypeError(f"parameters are {', '.join(map(str, kinds))}; convert all to one type: module.float()")
    ((kind, name),) = kinds.items()
    if kind.is_complex:
        raise TypeError(f"parameter {name!r} is {kind}; write it as a real and an imaginary part, both real parameters")
    if kind not in (torch.float32, torch.float64):
        raise TypeError(
            f"parameters are {kind}, in which second derivatives drown in rounding; use module.float() or .double()"
        )


def check_data(inputs: Any, targets: Any) -> None:
    """Complain about data that no module could be trained on.

    Parameters
    ----------
    inputs, targets
        As given to `Objective.from_module`.

    Raises
    ------
    TypeError, ValueError
    """
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


def check_outputs(
    binding: Binding, outputs: Callable[[Tensor, Tensor], Tensor], criterion: Criterion, inputs: Tensor, targets: Tensor
) -> None:
    """Complain if outputs and targets of the first few examples do not fit each other.

    Parameters
    ----------
    binding : Binding
    outputs : callable
        (w, inputs) -> outputs.
    criterion : callable
        (outputs, targets) -> scalar.
    inputs, targets : Tensor (N, ...)

    Raises
    ------
    TypeError, ValueError
    """
    name, few = type(binding.module).__name__, slice(min(len(inputs), 3))
    if inputs.is_floating_point() and inputs.dtype != binding.w0.dtype:
        raise TypeError(
            f"inputs are {inputs.dtype}, parameters {binding.w0.dtype}; convert all to one type, for example "
            "module.float() and inputs.float()"
        )
    try:
        out = outputs(binding.w0, inputs[few])
    except (RuntimeError, TypeError) as error:
        if inputs.is_floating_point() or ("dtype" not in str(error) and "scalar type" not in str(error)):
            raise
        raise TypeError(
            f"inputs are {inputs.dtype}, with which {name} fails ({error}); if it computes with floats, convert them: "
            "inputs.float()"
        ) from error
    if not isinstance(out, Tensor):
        raise TypeError(
            f"{name} returns a {type(out).__name__}; wrap it in a module that returns the one tensor which the "
            "criterion takes"
        )
    out, target = out.detach(), targets[few]

    def loss(target: Tensor) -> Tensor:
        return binding.within(binding.w0, lambda: criterion(out, target))

    with warnings.catch_warnings():  # PyTorch only warns where shapes are made to match by repetition
        warnings.filterwarnings("error", message="Using a target size")
        try:
            value = loss(target)
        except UserWarning as warning:
            raise ValueError(f"outputs and targets do not match: {warning}") from warning
    if not isinstance(value, Tensor) or value.ndim != 0:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"the criterion returned {what}; it must return a scalar: the mean or sum over examples")
    if len(out) > 1 and out.shape != target.shape and out.numel() == target.numel():
        ones = [slice(i, i + 1) for i in range(len(out))]
        each = torch.stack(binding.within(binding.w0, lambda: [criterion(out[i], target[i]) for i in ones]))
        if not any(torch.allclose(x, value, rtol=1e-3, equal_nan=True) for x in (each.mean(), each.sum())):
            raise ValueError(
                f"outputs and targets do not match: outputs have shape {tuple(out.shape)}, targets "
                f"{tuple(target.shape)}, and the criterion broadcasts one over the other; use targets.reshape(...)"
            )


def nearby(w: Float[Tensor, "n"], sizes: list[int], share: float = 0.05, seed: int = 0) -> Float[Tensor, "n"]:
    """Weights a little away from w, where no gradient vanishes only because a layer starts at zero.

    Parameters
    ----------
    w : Tensor (n,)
    sizes : list of int
        Lengths of the pieces of w; each is moved in proportion to its own size.
    share : float
        How far.
    seed : int
        Of the random direction.

    Returns
    -------
    Tensor (n,)
    """
    noise = torch.randn(
        w.numel(), generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float64, device="cpu"
    ).to(w)
    overall = w.square().mean().sqrt()
    scales = [piece.square().mean().sqrt() if piece.any() else overall for piece in w.split(sizes)]
    scale = torch.cat([s.expand(size) for s, size in zip(scales, sizes, strict=True)])
    return w + share * (scale if scale.any() else torch.ones_like(scale)) * noise


def check_repeats(binding: Binding, gradient: Callable[[], Float[Tensor, "n"]], times: int = 3) -> None:
    """Complain if a gradient is another each time that it is computed, draws random numbers, or changes buffers.

    Parameters
    ----------
    binding : Binding
    gradient : callable
        Computes it over all data.
    times : int
        How often.

    Raises
    ------
    ValueError
    """
    name = type(binding.module).__name__
    before = {key: buffer.clone() for key, buffer in binding.copies.items()}
    first = gradient()
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
        off = (again - first).norm()
        if draws or off > 1e3 * torch.finfo(first.dtype).eps * first.norm():
            what = "draws random numbers" if draws else "gives different gradients for the same weights and data"
            raise ValueError(
                f"{name} or its criterion {what}, so its loss is random or has a memory; call module.eval(), or take "
                "the randomness (dropout, drop path, noise) out of its forward method"
            )
        drawn = now


def _random_states(device: torch.device) -> list[Any]:
    numbers = pickle.dumps(np.random.get_state())  # noqa: NPY002
    states = [torch.get_rng_state().numpy().tobytes(), random.getstate(), numbers]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device).numpy().tobytes())
    return states


def strange(binding: Binding, loss: Callable[[], Tensor], w: Float[Tensor, "n"]) -> int | None:
    """Which of a module's own parameters a loss depends on although others were put in their place; None if on none.

    Parameters
    ----------
    binding : Binding
    loss : callable
        Computes the loss of a batch.
    w : Tensor (n,)
        Weights to put in.

    Returns
    -------
    int or None
        Its position among the parameters.
    """
    value = binding.within(w, loss)
    if not value.requires_grad:
        return None
    slopes = torch.autograd.grad(value, binding.own, allow_unused=True)
    return next((i for i, slope in enumerate(slopes) if slope is not None), None)


def shares(
    binding: Binding,
    w: Float[Tensor, "n"],
    outputs: Callable[[Tensor, Tensor], Tensor],
    criterion: Criterion,
    inputs: Tensor,
    targets: Tensor,
    size: int,
) -> list[float]:
    """Factors a with criterion(all) = Σ a · criterion(batch): 1 for sums, shares of examples or of weights for means.

    They follow from derivatives with respect to the outputs: those of the criterion of a batch are to those of the
    whole as 1 to a. That, and the values, are tried for several outputs.

    Parameters
    ----------
    binding : Binding
    w : Tensor (n,)
        Weights at which modules and criterion are looked at.
    outputs, criterion, inputs, targets
        As of `check_outputs`.
    size : int
        Examples in a batch.

    Returns
    -------
    list of float
        A factor for each batch.

    Raises
    ------
    ValueError
        If the module, or the criterion, mixes examples.
    """
    batches, name = _batches(len(inputs), size), type(binding.module).__name__
    out = [outputs(w, inputs[b]).detach() for b in batches]
    tolerance = torch.finfo(w.dtype).eps ** 0.5
    for together in _parts(batches):
        whole = torch.cat([out[i] for i in together])
        begin, end = batches[together[0]].start, batches[together[-1]].stop
        middle = (begin + end) // 2
        halves = torch.cat([outputs(w, inputs[s]).detach() for s in (slice(begin, middle), slice(middle, end))])
        if len(together) > 1:  # of one example each: are they the same side by side?
            whole, halves = halves, outputs(w, inputs[begin:end]).detach()
        if not torch.allclose(whole, halves, rtol=0, atol=tolerance * float(whole.abs().max()), equal_nan=True):
            off = float((whole - halves).abs().max() / whole.abs().max())
            raise ValueError(
                f"{name} mixes examples: outputs for some of them change by {off:.1g} of the largest with the others "
                "in the batch (batch statistics, attention or means across examples), so that the loss in batches "
                "would be another; use batch_size=None, or a normalisation of each example"
            )

    def value_and_slope(outs: list[Tensor], target: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        outs = [o.detach().requires_grad_() for o in outs]
        value = binding.within(w, lambda: criterion(torch.cat(outs), target))
        return value.detach(), torch.autograd.grad(value, outs, materialize_grads=True)

    trials: list[tuple] = []
    for turn in (0, 1, len(inputs) // 2 + 1):  # outputs of other examples are valid outputs too
        tried = torch.cat(out).roll(turn, 0).split([b.stop - b.start for b in batches])
        parts = [value_and_slope([o], targets[b]) for o, b in zip(tried, batches, strict=True)]
        trials.append((value_and_slope(list(tried), targets), parts))
    regular = [(b.stop - b.start) / len(inputs) for b in batches]
    found: list[float | None] = []
    for i in range(len(batches)):
        pairs = [(whole[1][i].double(), parts[i][1][0].double()) for whole, parts in trials]
        square = sum(float(part.square().sum()) for _, part in pairs)
        # None where no derivative tells, 0 for a batch in which nothing counts: its mean is 0 / 0
        told = sum(float((a * p).sum()) for a, p in pairs) / square if 0 < square < float("inf") else None
        found.append(told if all(bool(parts[i][0].isfinite()) for _, parts in trials) else 0.0)
    for guess in (regular, [1.0] * len(batches)):
        if all(a is None or a == 0 or abs(a - g) <= tolerance / 3 * g for a, g in zip(found, guess, strict=True)):
            found = [0.0 if a == 0 else g for a, g in zip(found, guess, strict=True)]
            break
    factors = [a or 0.0 for a in found]
    for (value, slopes), parts in trials:
        if not value.isfinite():
            raise ValueError(f"the criterion gives {value.item()} on all examples, near the module's own weights")
        total = sum(a * float(part[0]) for a, part in zip(factors, parts, strict=True) if a)
        largest = max(float(s.abs().max()) for s in slopes)
        off = max(
            float((slope - a * part[1][0]).abs().max()) if a else float(slope.abs().max())
            for slope, a, part in zip(slopes, factors, parts, strict=True)
        )
        if not (abs(total - float(value)) <= tolerance / 3 * abs(float(value)) and off <= 3 * tolerance * largest):
            raise ValueError(
                f"the criterion gives {float(value):.6g} on all examples and {total:.6g} from its values on batches: "
                "it mixes examples, so it can't be taken in batches; use a mean or a sum over examples (weighted, if "
                "you like), or batch_size=None"
            )
    return factors


def _batches(count: int, size: int) -> list[slice]:
    return [slice(a, min(a + size, count)) for a in range(0, count, size)]


def _parts(batches: list[slice]) -> Iterator[list[int]]:
    """Batches to be split into halves: each by itself, or two together where they have one example each."""
    if batches[0].stop - batches[0].start > 1:
        yield from ([i] for i, b in enumerate(batches) if b.stop - b.start > 1)
    else:
        yield from ([i, i + 1] for i in range(0, len(batches) - 1, 2))
