"""A loss as a sum of terms, and the derivatives of one term by PyTorch's autograd."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
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
    plain = NO_CUDNN() if binding and binding.recurrent else nullcontext()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), NO_TF32(), plain:
        return binding.within(w, compute) if binding else compute()


class Held:
    """Settings of the whole process, kept at a value as long as any thread needs that.

    Parameters
    ----------
    *settings : (object, str, value)
        Attributes and what to set them to. Of alternatives in a list the first that can be read is taken.
    """

    def __init__(self, *settings: Sequence[tuple[Any, str, Any]]):
        self.settings, self.lock, self.users = settings, threading.Lock(), 0
        self.before: list[tuple[Any, str, Any]] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.before = [self._set(alternatives) for alternatives in self.settings]
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if not self.users:
                    for owner, name, value in reversed(self.before):
                        setattr(owner, name, value)

    @staticmethod
    def _set(alternatives: Sequence[tuple[Any, str, Any]]) -> tuple[Any, str, Any]:
        for owner, name, value in alternatives:
            with suppress(AttributeError, RuntimeError):  # no such name yet; told of it by others
                before = getattr(owner, name)
                setattr(owner, name, value)
                return owner, name, before
        raise RuntimeError(f"PyTorch's {', '.join(name for _, name, _ in alternatives)} can't be read")


_cudnn: Any = torch.backends.cudnn
_matmul: Any = torch.backends.cuda.matmul
#: TF32, in which GPUs compute convolutions by default, rounds to 1e-3, which would hide third derivatives.
NO_TF32 = Held(
    [(_cudnn, "allow_tf32", False), (getattr(_cudnn, "conv", None), "fp32_precision", "ieee")],
    [(_matmul, "fp32_precision", "ieee"), (_matmul, "allow_tf32", False)],
)
#: cuDNN's recurrent layers have no second derivatives.
NO_CUDNN = Held([(_cudnn, "enabled", False)])


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
