"""A loss on a probe batch and its derivatives, at the weights of a run that must not notice."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

STEPS = {torch.float32: 3e-3, torch.float64: 1e-5}  # of the check of second derivatives, relative to the weights
MAX_ERROR = 0.2  # of theirs, relative
ROUNDINGS = 100  # in units of machine precision


class Probe:
    """A loss as a function of parameters as they are.

    Parameters
    ----------
    loss : callable () -> scalar Tensor
    module : torch.nn.Module, optional
        Whose buffers are put back.
    """

    def __init__(self, loss: Callable[[], Tensor], module: nn.Module | None):
        self.loss, self.module = loss, module

    def gradient(self, parameters: list[Tensor], create_graph: bool = False) -> tuple[Tensor, Tensor]:
        value = self.loss()
        slopes: Any = [None]
        if isinstance(value, Tensor) and value.ndim == 0 and value.requires_grad:
            slopes = torch.autograd.grad(value, parameters, create_graph=create_graph, allow_unused=True)
        if all(slope is None for slope in slopes):
            raise ValueError("the loss must return a scalar tensor that depends on the optimizer's parameters")
        pieces = [torch.zeros_like(p) if s is None else s for s, p in zip(slopes, parameters, strict=True)]
        return value, flat(pieces)

    @staticmethod
    def product(gradient: Tensor, parameters: list[Tensor], v: Tensor) -> Tensor:
        if not gradient.requires_grad:  # of a linear loss
            return torch.zeros_like(v)
        pieces = torch.autograd.grad(gradient, parameters, v, retain_graph=True, materialize_grads=True)
        return flat(pieces)

    def check(self, parameters: list[Tensor], u: Tensor, Hu: Tensor, removed: float = 0.0) -> None:
        """Warn if Hu is not what a difference of gradients says. The parameters are afterwards what they were.

        ``removed``: size of what Hu was a sum with, whose rounding it has.
        """
        kept, sizes = [p.detach().clone() for p in parameters], [p.numel() for p in parameters]
        size = flat(kept).norm()
        h = STEPS[u.dtype] * max(float(size), 1.0) / float(u.norm())
        found = []
        try:
            for step in (h, -h):
                for p, old, piece in zip(parameters, kept, u.split(sizes), strict=True):
                    p.data.copy_(old + step * piece.view_as(old))
                with torch.random.fork_rng(_devices()):
                    found.append(self.gradient(parameters)[1])
        finally:
            for p, old in zip(parameters, kept, strict=True):
                p.data.copy_(old)
        rounding = ROUNDINGS * torch.finfo(u.dtype).eps * (float(found[0].norm() + found[1].norm()) / h + removed)
        off = float(((found[0] - found[1]) / (2 * h) - Hu).norm())
        if off > MAX_ERROR * float(Hu.norm()) + rounding:
            warnings.warn(
                "PyTorch's second derivatives of this loss are not those of its gradient (a fused kernel, a function "
                f"with a backward of its own): where it was looked they are off by {off / float(Hu.norm()):.0%} "
                "from a difference of gradients, so that the curvature is wrong",
                stacklevel=3,
            )


def flat(pieces: Sequence[Tensor]) -> Tensor:
    return torch.cat([piece.reshape(-1) for piece in pieces])


@contextmanager
def untouched(module: nn.Module | None) -> Iterator[None]:
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
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
