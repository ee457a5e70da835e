"""The loss of a module over all its data, as terms: one for each batch."""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from ..modules import Binding
from . import module_check
from .terms import Term, gradient, nearby, require_dependence, value, within


def batch_terms(
    binding: Binding,
    criterion: module_check.Criterion,
    inputs: Tensor,
    targets: Tensor,
    batch_size: int | None,
    split: bool,
    check: bool,
) -> list[Term]:
    """Terms that sum to criterion(module(inputs), targets), checked as `Objective.from_module` says."""
    size = module_check.check_data(criterion, inputs, targets, batch_size)
    count, w0 = len(inputs), binding.w0
    if split and not dist.is_initialized():
        raise ValueError("split is set, but torch.distributed.init_process_group was not called in this process")
    if split and count < 2:
        raise ValueError("a process has fewer than two examples as its share; use fewer processes")
    module, bound = binding.module, partial(within, binding)

    def batched(size: int) -> list[slice]:
        return [slice(a, min(a + size, count)) for a in range(0, count, size)]

    def terms(batches: list[slice], factors: list[float]) -> list[Term]:
        def term(x: Tensor, y: Tensor, share: float) -> Term:
            return Term(lambda w: share * criterion(module(x), y), binding)

        return [term(inputs[b], targets[b], a) for b, a in zip(batches, factors, strict=True) if a]

    def even(batches: list[slice]) -> list[float]:
        return [(b.stop - b.start) / count for b in batches]

    def batch_factors(outputs: list[Tensor], batches: list[slice]) -> list[float]:
        return module_check.shares(lambda o, t: bound(near, lambda: criterion(o, t)), outputs, targets, batches)

    def gradient_near() -> Tensor:
        return gradient(trial, near)[1]

    some = (binding, criterion, inputs[:size], targets[:size], bound)
    loss = module_check.check_outputs(*some, whole=size == count) if check else 0.0
    near, factors = nearby(binding, w0), [1.0]
    trial_size = size if size < count or not split else (count + 1) // 2  # split data are tried in batches always
    batches, smaller = batched(trial_size), batched(trial_size // 2 or 2)
    trial = terms(batches, even(batches))
    if trial_size < count:
        outputs = [bound(near, lambda b=b: module(inputs[b])).detach() for b in batches]  # type: ignore[misc]
        try:
            factors = batch_factors(outputs, batches)
        except ValueError:
            module_check.check_repeats(binding, near, gradient_near)  # the reason may be that the loss is random
            raise
        trial = terms(batches, factors)
    if check:
        times = 3 if trial_size == count else 2  # smaller batches repeat it once more
        g = module_check.check_repeats(binding, near, gradient_near, times)
        if not g.isfinite().all():
            near = w0
            g = module_check.check_repeats(binding, near, gradient_near, times)
        require_dependence(trial, near, g)
        module_check.check_plain(binding, lambda: criterion(module(inputs[:size]), targets[:size]), bound, loss)
        module_check.check_slope(binding, lambda w: value(trial, w).detach(), near, g)
    if check and trial_size < count:
        rows = sum(map(len, outputs)) // count
        pieces = list(torch.cat(outputs).split([(b.stop - b.start) * rows for b in smaller]))
        twin = terms(smaller, batch_factors(pieces, smaller))
        module_check.check_batches(type(module).__name__, g, lambda: gradient(twin, near)[1], trial_size // 2 or 2)
    if split:
        total, first = torch.tensor(count, device=w0.device), w0.clone()
        dist.all_reduce(total)
        dist.broadcast(first, 0)
        if not torch.equal(first, w0):
            raise ValueError("the processes start from different weights; make the module with the same seed in each")
        mean = factors == even(batches)
        if not mean and factors != [1.0] * len(factors):
            raise ValueError(
                "the criterion is a weighted mean, whose weights other processes do not know; use a sum over "
                "examples divided by a number, or split=False"
            )
        batches = batched(size)
        factors = [(b.stop - b.start) / int(total) if mean else 1.0 for b in batches]
    return terms(batches, factors)
