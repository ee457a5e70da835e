"""Whether PyTorch's second and third derivatives of a loss are right, and the central differences that replace them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from . import Objective

# Distances of differences, relative to the weights: a middle one, a short one for losses that bend, a long one for
# losses with much rounding.
DISTANCES = {torch.float32: (1e-2, 1e-3, 1e-1), torch.float64: (1e-4, 1e-6, 1e-2)}
MAX_ERROR = 0.02  # of a derivative, relative, parameter by parameter; wrong kernels are off by tens of percent
FLOOR = {torch.float32: 1e-3, torch.float64: 1e-5}  # error of differences, relative to all parameters together
ROUNDINGS = 30  # rounding error of a gradient or a product, in units of machine precision
MAX_SCATTER = 0.3  # of two differences, relative to them and to their distance from the derivative: beyond, they err
MAX_SKEW = 1e-3  # of a Hessian that counts as symmetric, relative to the derivative


def fault(f: Objective, w: Float[Tensor, "n"], third: bool) -> str:
    """What is wrong with PyTorch's Hessian-vector products or third derivatives near w; empty if nothing is."""
    binding = f.binding
    sizes = binding.sizes if binding else [f.dim]
    near = f.nearby(w)
    g = f.value_and_grad(near)[1]
    w = near if g.isfinite().all() else w
    away = [f.nearby(w, 1.0, seed) - w for seed in (1, 2)]
    size = float(away[0].norm())
    U = torch.stack([v / (v.norm() or 1.0) for v in away], 1)
    try:
        if third:
            (lower,), (ours, other) = f.hvp(w, U[:, :1]).T, f._hessian_gradients(w.clone().requires_grad_(), U)[0]
        else:
            lower, (ours, other) = g, f._linearize(w.clone().requires_grad_())[2](U).T
    except (RuntimeError, NotImplementedError) as failure:
        return f"can't be computed ({str(failure).splitlines()[0]})"
    if not ours.isfinite().all():
        return ""  # what uses them will say so
    twins = []
    for share in DISTANCES[w.dtype]:
        v = share * size * U[:, 0]
        if third:
            twin = (f.hvp(w + v, U[:, :1]) - f.hvp(w - v, U[:, :1]))[:, 0] / (2 * share * size)
        else:
            twin = difference(f, w, v) / (share * size)
        off = [float(x.norm()) for x in (ours - twin).split(sizes)]
        rounding = ROUNDINGS * torch.finfo(w.dtype).eps * float(lower.norm()) / (share * size)
        floor = FLOOR[w.dtype] * float(twin.norm()) + rounding
        allowed = [MAX_ERROR * float(x.norm()) + floor for x in twin.split(sizes)]
        if all(a <= b for a, b in zip(off, allowed, strict=True)) or not twin.isfinite().all():
            return ""
        twins.append(twin)
    error = ours - twins[0]
    if (twins[0] - twins[1]).norm() > MAX_SCATTER * min(error.norm(), twins[0].norm()):
        return ""
    worst = max(range(len(sizes)), key=lambda i: float(error.split(sizes)[i].norm()))
    where = f", most of all for {binding.names[worst]!r}" if binding else ""
    skew = abs(float(ours @ U[:, 1] - other @ U[:, 0]))
    symmetric = "" if skew <= MAX_SKEW * float(ours.norm()) else ", and not symmetric"
    return f"are off from differences by {float(error.norm() / twins[0].norm()):.1%}{symmetric}{where}"


@runtime_checkable
class Gradients(Protocol):
    """What differences of gradients need of an objective."""

    @property
    def w0(self) -> Float[Tensor, "n"]:
        """Initial weights."""

    def value_and_grad(self, w: Float[Tensor, "n"]) -> tuple[Tensor, Float[Tensor, "n"]]:
        """Value () and gradient (n,)."""


def difference(f: Gradients, w: Float[Tensor, "n"], v: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """(∇L(w + v) - ∇L(w - v)) / 2, which is H(w)v with an error of third order in v."""
    return (f.value_and_grad(w + v)[1] - f.value_and_grad(w - v)[1]) / 2


def products(f: Objective, w: Float[Tensor, "n"], V: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """H(w)V by central differences of gradients; ε^⅓ of the size of the weights balances rounding and bending."""
    distance = torch.finfo(w.dtype).eps ** (1 / 3) * (float(w.norm()) or 1.0)
    HV = torch.zeros_like(V)
    for j, v in enumerate(V.T):
        if size := float(v.norm()):
            HV[:, j] = difference(f, w, v * (distance / size)) * (size / distance)
    return HV


def hessian_gradients(f: Objective, w: Float[Tensor, "n"], U: Float[Tensor, "n k"]) -> Float[Tensor, "k k n"]:
    """∇(uᵢᵀHuⱼ) by central differences of products, over ε^¼ of the size of the weights."""
    distance = torch.finfo(w.dtype).eps ** (1 / 4) * (float(w.norm()) or 1.0)
    k = U.shape[1]
    T = w.new_zeros(k, k, f.dim)
    for j, u in enumerate(U.T):
        if size := float(u.norm()):
            ahead, behind = (f.hvp(w + s * distance / size * u, U) for s in (1, -1))
            T[:, j] = (ahead - behind).T * (size / (2 * distance))
    return (T + T.transpose(0, 1)) / 2
