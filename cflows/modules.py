"""A torch module whose parameters are pieces of one flat vector during a computation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

R = TypeVar("R")


class Binding(nn.Module):
    """A module whose trainable parameters are pieces of a flat vector during a computation.

    All code that reads a parameter during that computation reads the piece: the forward pass, a criterion that sums
    over ``module.parameters()``, and code that runs again in a backward pass (activation checkpointing). Buffers are
    copies made at construction, and every layer has the mode (training or not) that it had then. The module itself is
    left unchanged.

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
        if not isinstance(module, nn.Module):
            raise TypeError(f"module is a {type(module).__name__}; it must be a torch.nn.Module")
        parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not parameters:
            raise ValueError(f"{type(module).__name__} has no trainable parameters, so there is nothing to optimize")
        if lazy := [name for name, p in parameters.items() if is_lazy(p)]:
            raise ValueError(f"parameter {lazy[0]!r} has no shape yet; run the module on some inputs first")
        _check_layers(module)
        _check_types(parameters)
        self.module = module
        self.names, self.own = list(parameters), list(parameters.values())
        self.shapes, self.sizes = [p.shape for p in self.own], [p.numel() for p in self.own]
        self.w0 = torch.cat([p.detach().reshape(-1) for p in self.own])
        index = {id(p): i for i, p in enumerate(self.own)}
        copied: dict[int, Tensor] = {}
        # A submodule reached by two paths comes once, a tensor of two submodules twice.
        self.pieces: dict[str, int] = {}
        self.copies: dict[str, Tensor] = {}
        others: dict[str, Tensor] = {}
        self.idle = torch.zeros_like(self.w0, dtype=torch.bool)  # rows of embeddings that get no gradients
        for prefix, owner in self.named_modules():
            for name, tensor in owner.named_parameters(prefix, recurse=False, remove_duplicate=False):
                if id(tensor) in index:
                    self.pieces[name] = index[id(tensor)]
                else:
                    others[name] = tensor
            for name, tensor in owner.named_buffers(prefix, recurse=False, remove_duplicate=False):
                self.copies[name] = copied.setdefault(id(tensor), tensor.detach().clone())
                others[name] = tensor
            if isinstance(owner, nn.Embedding) and owner.padding_idx is not None and id(owner.weight) in index:
                self.idle.split(self.sizes)[index[id(owner.weight)]].view_as(owner.weight)[owner.padding_idx] = True
        _check_memory({**dict(zip(self.names, self.own, strict=True)), **others}, len(self.own))
        self.recurrent = any(isinstance(layer, nn.RNNBase) for layer in module.modules())
        self.modes = [(layer, layer.training) for layer in module.modules()]

    def forward(self, compute: Callable[[], R]) -> R:
        """The result of a computation, called by ``torch.func.functional_call`` with the tensors in place."""
        return compute()

    def within(self, w: Float[Tensor, "n"] | None, compute: Callable[[], R]) -> R:
        """The result of a computation with the pieces of w as parameters.

        Parameters
        ----------
        w : Tensor (n,) or None
            The pieces require gradients, whether w does or not, except inside a transform of ``torch.func``, which does
            without. None: the module's own parameters.
        compute : callable

        Returns
        -------
        What ``compute()`` returns.
        """
        if w is None:
            pieces: Sequence[Tensor] = self.own
        else:
            with suppress(RuntimeError):  # inside such a transform
                w = w if w.requires_grad else w.detach().requires_grad_()
            pieces = [piece.view(shape) for piece, shape in zip(w.split(self.sizes), self.shapes, strict=True)]
        tensors = {name: pieces[i] for name, i in self.pieces.items()} | self.copies
        attributes = [(owner, dict(vars(owner))) for owner in self.modules()]
        try:
            for layer, training in self.modes:
                if layer.training is not training:
                    layer.training = training
            return torch.func.functional_call(self, tensors, (compute,), tie_weights=False)
        finally:
            for owner, before in attributes:  # recurrent layers keep lists of weights
                now = vars(owner)
                if len(now) != len(before) or any(now.get(name) is not value for name, value in before.items()):
                    now.clear()
                    now.update(before)

    def owner(self, i: int) -> str:
        """The parameter that the i-th entry of w belongs to."""
        return self.names[int(np.searchsorted(np.cumsum(self.sizes), i, side="right"))]


def _check_memory(tensors: dict[str, Tensor], own: int) -> None:
    """Raise an error if a parameter (the first ``own`` tensors) shares memory with another tensor."""
    spans = sorted(
        (x.data_ptr(), x.data_ptr() + x.numel() * x.element_size(), i, name)
        for i, (name, x) in enumerate(tensors.items())
        if x.numel() and x.device.type != "meta"
    )
    for (_, end, i, a), (start, _, j, b) in itertools.pairwise(spans):
        if start < end and min(i, j) < own:
            raise ValueError(
                f"{a.removeprefix('module.')!r} and {b.removeprefix('module.')!r} lie in the same memory but are two "
                "tensors: a change of one would not change the other; tie them as one Parameter, or clone one"
            )


def _check_layers(module: nn.Module) -> None:
    """Raise an error for layers that make a loss random, or dependent on more than its arguments."""
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
            if layer.scale_grad_by_freq:
                raise ValueError(f"{where} has gradients that are none; make it with scale_grad_by_freq=False")
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
