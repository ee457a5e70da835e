"""A loss as a sum of terms, and the derivatives of one term by PyTorch's autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..modules import Binding


class Term(NamedTuple):
    """A term of a loss: a function Tensor (n,) -> scalar Tensor, and the module (if any) whose tensors it reads."""

    loss: Callable[[Tensor], Tensor]
    binding: Binding | None = None

    def within(self, w: Float[Tensor, "n"], compute: Callable[[], Any]) -> Any:
        """The result of a computation of the term or its derivatives at w."""
        return within(self.binding, w, compute)

    def value(self, w: Float[Tensor, "n"]) -> Tensor:
        """Value, to be called `within`."""
        value = self.loss(w)
        if not isinstance(value, Tensor) or value.ndim != 0:
            raise ValueError(f"the loss returned {describe(value)}; it must return a scalar tensor (shape ())")
        return value

    def gradient(self, w: Float[Tensor, "n"], create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Value and gradient, to be called `within`; w requires gradients."""
        value = self.value(w)
        if not value.requires_grad:  # a constant term
            return value, torch.zeros_like(w)
        (grad,) = torch.autograd.grad(value, w, create_graph=create_graph, materialize_grads=True)
        return (value, grad) if create_graph else (value.detach(), grad)


def within(binding: Binding | None, w: Float[Tensor, "n"] | None, compute: Callable[[], Any]) -> Any:
    """The result of a computation with gradients enabled, and with the pieces of w as the module's parameters.

    Without kernels that have no second derivatives: fused attention, and cuDNN's recurrent layers.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), exact(bool(binding and binding.recurrent)):
        return binding.within(w, compute) if binding else compute()


@contextmanager
def exact(recurrent: bool) -> Iterator[None]:
    """Without TF32, whose rounding error, 1e-3, would hide third derivatives: GPUs use it for convolutions by default.

    Parameters
    ----------
    recurrent : bool
        Whether to do without cuDNN, too.
    """
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    new = hasattr(cudnn, "conv") and hasattr(cudnn.conv, "fp32_precision")  # since PyTorch 2.9
    name, off = ("fp32_precision", "ieee") if new else ("allow_tf32", False)
    settings = [(x, name, off) for x in ((cudnn.conv, cudnn.rnn, matmul) if new else (cudnn, matmul))]
    settings += [(cudnn, "enabled", False)] if recurrent else []
    before = [(x, key, getattr(x, key)) for x, key, _ in settings]
    try:
        for x, key, value in settings:
            setattr(x, key, value)
        yield
    finally:
        for x, key, value in before:
            setattr(x, key, value)


def value(terms: Sequence[Term], w: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """The sum of the terms, as a function that PyTorch can differentiate."""
    return torch.stack([term.within(w, partial(term.value, w)) for term in terms]).sum()


def gradient(terms: Sequence[Term], w: Float[Tensor, "n"]) -> tuple[Float[Tensor, ""], Float[Tensor, "n"]]:
    """Value and gradient of the sum; memory is that of the largest term."""
    w = w.detach().requires_grad_()
    total, grad = w.new_zeros(()), torch.zeros_like(w)
    for term in terms:
        more = term.within(w, partial(term.gradient, w))
        total, grad = total + more[0], grad + more[1]
    return total, grad


def require_dependence(terms: Sequence[Term], w: Float[Tensor, "n"], grad: Float[Tensor, "n"]) -> None:
    """Raise a ValueError if no term depends on the weights."""
    w = w.detach().requires_grad_()
    if not grad.any() and not any(term.within(w, partial(term.value, w)).requires_grad for term in terms):
        raise ValueError("the loss does not depend on the weights; is there a detach(), item() or no_grad() in it?")


def vjp(y: Tensor, w: Float[Tensor, "n"], v: Tensor | None, create_graph: bool = False) -> Float[Tensor, "n"]:
    """vᵀ ∂y/∂w, zero where y does not depend on w; the graph of y is kept. v has the shape of y (None: a scalar)."""
    if not y.requires_grad:  # constant in w, like the gradient of a linear loss
        return torch.zeros_like(w)
    (g,) = torch.autograd.grad(y, w, v, retain_graph=True, create_graph=create_graph, materialize_grads=True)
    return g


def products(grad: Float[Tensor, "n"], w: Float[Tensor, "n"], V: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """HV, column by column, from a gradient with its graph."""
    return torch.stack([vjp(grad, w, v) for v in V.unbind(1)], dim=1) if V.shape[1] else torch.zeros_like(V)


def nearby(binding: Binding | None, w: Float[Tensor, "n"], share: float = 0.05, seed: int = 0) -> Float[Tensor, "n"]:
    """Weights near w; each parameter moves by a share of its own size, or of the size of all if it is zero."""
    noise = torch.randn(
        w.numel(), generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float64, device="cpu"
    ).to(w)
    sizes = binding.sizes if binding else [w.numel()]
    overall = w.square().mean().sqrt()
    scales = [piece.square().mean().sqrt() if piece.any() else overall for piece in w.split(sizes)]
    scale = torch.cat([s.expand(size) for s, size in zip(scales, sizes, strict=True)])
    moved = w + share * (scale if scale.any() else torch.ones_like(scale)) * noise
    return torch.where(binding.idle, w, moved) if binding else moved


def describe(value: Any) -> str:
    """What a value is, for error messages."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
