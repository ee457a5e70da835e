"""The loss of a module as its user computes it, as terms: one for each batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset

from ..modules import Binding
from . import module_check
from .terms import Term, describe, gradient, nearby, require_dependence, value, within

Loss = Callable[[nn.Module, Any], Any]


@dataclass
class Part:
    """A batch, and how many examples are in it."""

    batch: Any
    examples: int


def loss_terms(
    binding: Binding, loss: Loss, data: Any, batch_size: int | None, weight_decay: float, check: bool
) -> list[Term]:
    """Terms that sum to the loss over all data, checked as `Objective.from_loss` says."""
    if not callable(loss):
        raise TypeError(f"loss is {loss!r}; it must be a function of the module and a batch")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay is {weight_decay}; it must not be negative")
    device = binding.w0.device
    parts = _parts(data, batch_size, device)
    decay = [Term(lambda w: 0.5 * weight_decay * w.square().sum())] if weight_decay else []
    terms = _terms(binding, loss, parts) + decay
    if not check:
        return terms
    near = nearby(binding, binding.w0)

    def gradient_near(tried: Sequence[Term] = terms) -> Tensor:
        return gradient(tried, near)[1]

    _check_batch(binding, loss, parts[0])
    total = float(value(terms, binding.w0).detach())
    if not math.isfinite(total):
        raise ValueError(f"the loss is {total} at the module's own weights; is there log(0) or 0/0 in it?")
    g = module_check.check_repeats(binding, near, gradient_near, 2)
    if _weights(binding, loss, parts, near) != _weights(binding, loss, parts, binding.w0):
        raise ValueError(
            "the weight that the loss returns beside its sum depends on the module's weights; it must be a count, or a "
            "sum of fixed weights"
        )
    require_dependence(terms, near, g)
    _check_own(binding, loss, parts[0])
    module_check.check_slope(binding, lambda w: value(terms, w).detach(), near, g)
    if len(parts) > 1 and batch_size is not None and batch_size > 1:
        smaller = (batch_size + 1) // 2
        twin = _terms(binding, loss, _parts(data, smaller, device)) + decay
        module_check.check_batches("the loss", g, lambda: gradient_near(twin), smaller)
    return terms


def _terms(binding: Binding, loss: Loss, parts: Sequence[Part]) -> list[Term]:
    weights = _weights(binding, loss, parts, binding.w0)
    if not sum(weights) > 0:
        raise ValueError(f"the weights that the loss returns beside its sums add up to {sum(weights)}; nothing counts")

    def term(part: Part, share: float) -> Term:
        return Term(lambda w: share * _summed(loss(binding.module, part.batch), part)[0], binding)

    return [term(part, 1 / sum(weights)) for part, weight in zip(parts, weights, strict=True) if weight]


def _weights(binding: Binding, loss: Loss, parts: Sequence[Part], w: Tensor) -> list[float]:
    """What the sum over each batch is to be divided by, all together: examples, or what the loss says."""
    results = [within(binding, w, partial(loss, binding.module, part.batch)) for part in parts]
    if len({isinstance(result, tuple) for result in results}) > 1:
        raise TypeError("the loss returned (sum, weight) for some batches and a scalar for others; always return one")
    return [float(_summed(result, part)[1]) for result, part in zip(results, parts, strict=True)]


def _summed(result: Any, part: Part) -> tuple[Tensor, Any]:
    """Sum over a batch, and its weight, from what the loss returned: those, or a mean over the batch's examples."""
    pair = result if isinstance(result, tuple) else (result, None)
    if len(pair) != 2 or not isinstance(pair[0], Tensor) or pair[0].ndim != 0:
        raise ValueError(
            f"the loss returned {describe(result)}; it must return a scalar, the mean over the examples of the batch, "
            "or (sum, weight), a scalar sum and the number of what was summed"
        )
    total, weight = pair
    if weight is None:
        return total * part.examples, part.examples
    return total, weight.detach() if isinstance(weight, Tensor) else weight


def _parts(data: Any, batch_size: int | None, device: torch.device) -> list[Part]:
    """The batches, on the module's device."""
    if isinstance(data, Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        data = next(iter(DataLoader(data, batch_size=max(len(data), 1))), None)  # type: ignore[arg-type]
    if isinstance(data, (DataLoader, torch.utils.data.IterableDataset)):
        if batch_size is not None:
            raise ValueError("data come in batches already; leave batch_size out")
        batches = list(data)
        if not batches:
            raise ValueError("data hold no batch")
        return [Part(_moved(batch, device), _count(batch)) for batch in batches]
    if isinstance(data, Mapping) and not isinstance(data, dict):
        data = dict(data)  # such as the batches of tokenizers
    count = _count(data)
    size = count if batch_size is None else module_check.check_batch_size(batch_size, count)
    data = _moved(data, device)
    return [Part(_sliced(data, slice(a, a + size)), min(size, count - a)) for a in range(0, count, size)]


def _tensors(data: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(data) if isinstance(leaf, Tensor)]


def _count(data: Any) -> int:
    """Examples in data: the length that all tensors have in common."""
    data = dict(data) if isinstance(data, Mapping) else data
    lengths = {len(x) if x.ndim else 0 for x in _tensors(data)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"data hold {'no tensor' if not lengths else f'tensors of lengths {sorted(lengths)}'}; give tensors, or "
            "dicts, lists or tuples of tensors, that have the examples along their first dimension, or a DataLoader"
        )
    return lengths.pop()


def _moved(data: Any, device: torch.device) -> Any:
    data = dict(data) if isinstance(data, Mapping) and not isinstance(data, dict) else data
    return pytree.tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, data)


def _sliced(data: Any, part: slice) -> Any:
    return pytree.tree_map(lambda x: x[part] if isinstance(x, Tensor) else x, data)


def _check_batch(binding: Binding, loss: Loss, part: Part) -> None:
    """Raise an error if the loss changes its batch."""
    kept = [x.clone() for x in _tensors(part.batch)]
    within(binding, binding.w0, lambda: loss(binding.module, part.batch))
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(kept, _tensors(part.batch), strict=True)):
        raise ValueError("the loss changes its batch in place; let it work on a copy (clone)")


def _check_own(binding: Binding, loss: Loss, part: Part) -> None:
    """Raise an error if the loss reads the module's own parameters, or is another without the pieces of one vector."""

    def compute() -> Tensor:
        return _summed(loss(binding.module, part.batch), part)[0]

    ours = within(binding, binding.w0, compute)
    module_check.check_foreign(binding, ours)
    if ours.isfinite():
        module_check.check_plain(binding, compute, partial(within, binding), float(ours.detach()))
