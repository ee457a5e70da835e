"""The loss of a module as its user computes it, as terms: one for each batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..modules import Binding
from . import module_check
from .terms import Term, describe, gradient, nearby, value, within

Loss = Callable[[nn.Module, Any], Any]


@dataclass
class Part:
    """A batch, and how many examples are in it; None if its tensors have no length in common."""

    batch: Any
    examples: int | None


def loss_terms(
    binding: Binding, loss: Loss, data: Any, batch_size: int | None, weight_decay: float, check: bool
) -> list[Term]:
    """Terms that sum to the loss over all data, checked as `Objective.from_loss` says."""
    if not callable(loss):
        raise TypeError(f"loss is {loss!r}; it must be a function of the module and a batch")
    if not (isinstance(weight_decay, (int, float)) and weight_decay >= 0):
        raise ValueError(f"weight_decay is {weight_decay!r}; it must be a number, and not negative")
    parts = _parts(data, batch_size, binding.w0.device)
    terms = _terms(binding, loss, parts)
    decay = [Term(lambda w: 0.5 * weight_decay * w.square().sum())] if weight_decay else []
    if not check:
        return terms + decay
    near = nearby(binding, binding.w0)

    def gradient_near(tried: Sequence[Term] = terms) -> Tensor:
        return gradient(tried, near)[1]

    _check_batch(binding, loss, parts[0])
    total = float(value(terms, binding.w0).detach())
    if not math.isfinite(total):
        raise ValueError(f"the loss is {total} at the module's own weights; is there log(0) or 0/0 in it?")
    g = module_check.check_repeats(binding, near, gradient_near, 2)
    for other in (near, nearby(binding, binding.w0, 1.0), -binding.w0):
        if _weights(binding, loss, parts, other) != _weights(binding, loss, parts, binding.w0):
            raise ValueError(
                "the weight that the loss returns beside its sum depends on the module's weights; it must be a count, "
                "or a sum of fixed weights"
            )
    if not g.any():
        raise ValueError("the loss does not depend on the module's weights: is it that of another module, or detached?")
    _check_own(binding, loss, parts[0])
    module_check.check_slope(binding, lambda w: value(terms, w).detach(), near, g)
    halves = _halves(parts) if len(parts) > 1 or isinstance(data, DataLoader) else []
    if halves:
        twin = _terms(binding, loss, halves)
        module_check.check_batches("the loss", g, lambda: gradient_near(twin), max(p.examples or 0 for p in halves))
    return terms + decay


def _halves(parts: Sequence[Part]) -> list[Part]:
    """The same examples in other batches: halves, or pairs of single ones; none where they can't be made."""
    if any(part.examples is None for part in parts):
        return []
    if all(part.examples == 1 for part in parts):
        half = (len(parts) + 1) // 2
        apart = [part for pair in itertools.zip_longest(parts[:half], parts[half:]) for part in pair if part]
        whole, count = _joined([part.batch for part in apart]), len(parts)
        starts = range(0, count if whole is not None else 0, 2)
        return [Part(_sliced(whole, a, 2, count), min(2, count - a)) for a in starts]
    found = []
    for part in parts:
        count = part.examples or 0
        size = (count + 1) // 2
        found += [Part(_sliced(part.batch, a, size, count), min(size, count - a)) for a in range(0, count, size)]
    return found


def _terms(binding: Binding, loss: Loss, parts: Sequence[Part]) -> list[Term]:
    weights = _weights(binding, loss, parts, binding.w0)
    if not sum(weights) > 0:
        raise ValueError(f"the weights that the loss returns beside its sums add up to {sum(weights)}; nothing counts")

    def term(part: Part, share: float) -> Term:
        return Term(lambda w: share * _summed(loss(binding.module, _fresh(part.batch)), part)[0], binding)

    return [term(part, 1 / sum(weights)) for part, weight in zip(parts, weights, strict=True) if weight]


def _weights(binding: Binding, loss: Loss, parts: Sequence[Part], w: Tensor) -> list[float]:
    """What the sum over each batch is to be divided by, all together: examples, or what the loss says."""
    results = [within(binding, w, partial(loss, binding.module, _fresh(part.batch))) for part in parts]
    if len({isinstance(result, tuple) for result in results}) > 1:
        raise TypeError("the loss returned (sum, weight) for some batches and a scalar for others; always return one")
    return [float(_summed(result, part)[1]) for result, part in zip(results, parts, strict=True)]


def _summed(result: Any, part: Part) -> tuple[Tensor, Any]:
    """Sum over a batch, and its weight, from what the loss returned: those, or a mean over the batch's examples."""
    total, weight = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    number = isinstance(weight, (int, float)) or (isinstance(weight, Tensor) and weight.numel() == 1)
    if not isinstance(total, Tensor) or total.ndim != 0 or not (weight is None or number):
        raise ValueError(
            f"the loss returned {describe(result)}; it must return a scalar, the mean over the examples of the batch, "
            "or (sum, weight), a scalar sum and the number of what was summed"
        )
    if weight is not None:
        return total, weight.detach() if isinstance(weight, Tensor) else weight
    if part.examples is None:
        raise ValueError(f"a batch holds {_describe(part.batch)}, so that a mean has no weight; return (sum, weight)")
    return total * part.examples, part.examples


def _parts(data: Any, batch_size: int | None, device: torch.device) -> list[Part]:
    """The batches, on the module's device."""
    if isinstance(data, torch.utils.data.IterableDataset):
        raise TypeError("data are an IterableDataset, which has examples and no batches; give a DataLoader of it")
    if isinstance(data, Dataset):
        with torch.random.fork_rng(devices=[]):  # a loader draws a number
            data = next(iter(DataLoader(data, batch_size=max(len(data), 1))), None)  # type: ignore[arg-type]
    if isinstance(data, DataLoader):
        if batch_size is not None:
            raise ValueError("data come in batches already; leave batch_size out")
        parts = [Part(_moved(batch, device), _count(batch)) for batch in data]
        if not parts:
            raise ValueError("data hold no batch")
        return parts
    count = _count(data)
    if count is None:
        raise ValueError(
            f"data hold {_describe(data)}; give tensors, or dicts, lists or tuples of tensors, that have the examples "
            "along their first dimension, or a DataLoader"
        )
    if batch_size is None:
        return [Part(_moved(data, device), count)]
    size = module_check.check_batch_size(batch_size, count)
    data = _moved(data, device)
    return [Part(_sliced(data, a, size, count), min(size, count - a)) for a in range(0, count, size)]


def _map(data: Any, change: Callable[[Any], Any]) -> Any:
    """A structure of dicts, lists and tuples with its leaves changed; a list or tuple without tensors is a leaf."""
    if isinstance(data, Mapping):
        return {key: _map(x, change) for key, x in data.items()}
    if isinstance(data, (list, tuple)) and any(isinstance(x, (Tensor, np.ndarray, Mapping, list, tuple)) for x in data):
        changed = [_map(x, change) for x in data]
        return type(data)(*changed) if hasattr(data, "_fields") else type(data)(changed)
    return change(data)


def _leaves(data: Any) -> list[Any]:
    found: list[Any] = []
    _map(data, found.append)
    return found


def _fresh(data: Any) -> Any:
    """New dicts and lists around the same tensors, which a loss may change."""
    return _map(data, lambda x: x)


def _moved(data: Any, device: torch.device) -> Any:
    return _map(data, lambda x: x.to(device) if isinstance(x, Tensor) else x)


def _count(data: Any) -> int | None:
    """Examples in data: the length that all tensors have in common."""
    lengths = _lengths(data)
    return lengths.pop() if len(lengths) == 1 and 0 not in lengths else None


def _lengths(data: Any) -> set[int]:
    return {len(x) for x in _leaves(data) if isinstance(x, (Tensor, np.ndarray)) and x.ndim}


def _describe(data: Any) -> str:
    return f"tensors of lengths {sorted(_lengths(data))}" if _lengths(data) else "no tensor with examples"


def _sliced(data: Any, start: int, size: int, count: int) -> Any:
    """Some of the examples: of tensors, arrays, lists and tuples of their number; numbers and None are of all."""

    def part(x: Any) -> Any:
        scalar = isinstance(x, (Tensor, np.ndarray)) and not x.ndim
        if scalar or x is None or isinstance(x, (bool, int, float)):
            return x
        if isinstance(x, (Tensor, np.ndarray, list, tuple)) and len(x) == count:
            return x[start : start + size]
        raise TypeError(
            f"data hold a {type(x).__name__} that can't be divided into batches; give tensors or lists with an entry "
            "for each example"
        )

    return _map(data, part)


def _joined(batches: list[Any]) -> Any:
    """One batch of several; None if they do not hold tensors alone."""
    columns = [_leaves(batch) for batch in batches]
    if not all(isinstance(x, Tensor) for column in columns for x in column):
        return None
    joined = iter([torch.cat(list(pieces)) for pieces in zip(*columns, strict=True)])
    return _map(batches[0], lambda _: next(joined))


def _tensors(part: Part) -> list[Tensor]:
    return [x for x in _leaves(part.batch) if isinstance(x, Tensor)]


def _check_batch(binding: Binding, loss: Loss, part: Part) -> None:
    """Raise an error if the loss changes its batch."""
    kept = [x.clone() for x in _tensors(part)]
    within(binding, binding.w0, lambda: loss(binding.module, _fresh(part.batch)))
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(kept, _tensors(part), strict=True)):
        raise ValueError("the loss changes its batch in place; let it work on a copy (clone)")


def _check_own(binding: Binding, loss: Loss, part: Part) -> None:
    """Raise an error if the loss reads the module's own parameters, or is another without the pieces of one vector."""

    def compute() -> Tensor:
        return _summed(loss(binding.module, _fresh(part.batch)), part)[0]

    ours = within(binding, binding.w0, compute)
    module_check.check_foreign(binding, ours)
    if ours.isfinite():
        module_check.check_plain(binding, compute, partial(within, binding), float(ours.detach()))
