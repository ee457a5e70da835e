"""Third derivatives along a few directions by differences of gradients, which know how much of them is rounding."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import DivergenceError
from .objective import Objective
from .objective.derivative_check import difference

MAX_OFF = 0.01  # of HU by differences: those over a longer reach see another Hessian
MAX_REACH = 0.1  # of differences, as a share of the length of w, or of a step from w = 0
KINK = 1.5  # error of HU by differences that only a jump of the gradient makes
NOISY = 0.1  # share of T, in norm, that may be rounding: along one direction it is far less
NOISE = 3.0  # a T that is not this many times its rounding error counts as zero
MEASURED = 16  # uses of a rounding error of the gradient before it is measured again


class Reach(NamedTuple):
    """How far differences go, as of their last use, and what limits them.

    Attributes
    ----------
    length : float
        Distance along P-orthonormal directions; 0: not known yet.
    rounding : float
        Rounding error of a gradient, in the norm of P⁻¹.
    uses : int
        How often that was used.
    """

    length: float = 0.0
    rounding: float = 0.0
    uses: int = 0


def central_differences(
    f: Objective, w: Float[Tensor, "n"], g: Float[Tensor, "n"], U: Float[Tensor, "n k"], eps: float
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "k k n"]]:
    """HU and T = ∇(uᵢᵀHuⱼ) by central differences of gradients.

    Costs k(k+1) gradients and no higher derivative. The error of differences is of order ``eps``² in both; that of
    rounding grows as eps⁻¹ in HU and eps⁻² in T.

    Parameters
    ----------
    f : Objective
    w : Tensor (n,)
    g : Tensor (n,)
        Gradient at w.
    U : Tensor (n, k)
    eps : float
        Differences reach this times the columns of U.

    Returns
    -------
    HU : Tensor (n, k)
    T : Tensor (k, k, n)
    """
    k = U.shape[1]
    HU, T = torch.zeros_like(U), U.new_zeros(k, k, len(U))
    for i in range(k):
        for j in range(i, -1, -1):  # with i = j first
            u = U[:, i] if i == j else (U[:, i] + U[:, j]) / math.sqrt(2)
            ahead, behind = (f.value_and_grad(w + s * eps * u)[1] for s in (1, -1))
            second = (ahead + behind - 2 * g) / eps**2
            if i == j:
                HU[:, i], T[i, i] = (ahead - behind) / (2 * eps), second
            else:
                T[i, j] = T[j, i] = second - (T[i, i] + T[j, j]) / 2
    return HU, T


def third_derivatives(
    f: Objective,
    w: Float[Tensor, "n"],
    g: Float[Tensor, "n"],
    U: Float[Tensor, "n k"],
    HU: Float[Tensor, "n k"],
    p: Float[Tensor, "n"],
    reach: Reach,
) -> tuple[Float[Tensor, "k k n"], float, Reach]:
    """∇(uᵢᵀHuⱼ) over a reach across which HU changes by ε^¼ of itself, or further where rounding asks for it.

    There the errors of differences and of rounding, of machine precision ε, are both of the order of √ε, if the
    gradient's rounding error is of the order of ε times its changes. Near a minimum it is larger: what adds up to a
    small gradient is not small. So it is measured, over a distance that is so short that a difference of gradients less
    the product HU is nothing but rounding. Third derivatives that can't be told from rounding are returned as zero.

    Parameters
    ----------
    f : Objective
    w : Tensor (n,)
    g : Tensor (n,)
        Gradient at w.
    U : Tensor (n, k)
        P-orthonormal.
    HU : Tensor (n, k)
        Hessian-vector products.
    p : Tensor (n,)
        Diagonal of P.
    reach : Reach
        As of the last use.

    Returns
    -------
    T : Tensor (k, k, n)
    off : float
        Error of HU by the same differences, relative in the norm of P⁻¹: large if the loss is not smooth.
    reach : Reach

    Raises
    ------
    DivergenceError
        If gradients are not finite nearby.
    """
    share = torch.finfo(U.dtype).eps ** 0.25

    def size(v: Float[Tensor, "... n"]) -> float:
        return float((v.square() / p).sum(-1).max().sqrt())

    known = max(size(HU.T), 1e-30)
    scale = max(size(p * w), size(p * f.w0), size(g)) or 1.0  # of the weights, or a step
    most = MAX_REACH * scale
    length, rounding, uses = reach
    if not rounding or uses >= MEASURED:  # so near by there is nothing else
        tries = [c * torch.finfo(U.dtype).eps ** (2 / 3) * scale for c in (1, 1.7)]
        rounding = max(size(difference(f, w, c * U[:, 0]) - c * HU[:, 0]) for c in tries) / math.sqrt(2) or 1e-30
        uses = 0
    shortest = torch.finfo(U.dtype).eps ** 0.5 * scale
    length = min(max(length or size(g) / 2, shortest), most)
    off = math.inf
    for _ in range(12):
        last = off
        twin, T = central_differences(f, w, g, U, length)
        off = size((twin - HU).T) / known
        if not math.isfinite(off):  # beyond where the loss is defined
            length *= 0.1
            continue
        noise = math.sqrt(6) * rounding / length**2
        lost = noise / max(size(T), 1e-30)
        change = max(length * size(T) / known, math.sqrt(off) / 2)  # where T vanishes, what comes after it counts
        beyond = off / max(MAX_OFF, 3 * rounding / (length * known))  # how far HU sees another Hessian
        factor = min(max((2 * lost / NOISY) ** 0.5, 1.3), 10, beyond**-0.5 if beyond else 10)
        if beyond > 1:
            if off > max(KINK, 0.7 * last):  # over a jump of the gradient a shorter reach sees no less of it
                break
            factor = min(max(beyond**-0.5 / 2, 0.1), 0.5)
        elif lost > max(NOISY, min(change**2, 1 / NOISE)) and length < most and factor > 1.2:
            pass  # rounding is the largest error
        elif share / 5 < change < 5 * share or (change < share and length == most) or lost > NOISY / 4:
            break
        else:
            factor = min(max(share / max(change, 1e-30), (2 * lost / NOISY) ** 0.5, 0.1), 10)
        length = min(length * factor, most)
    if not math.isfinite(off):
        raise DivergenceError("gradients are not finite within reach of the weights, however short")
    if lost > 1 / NOISE:
        T = torch.zeros_like(T)
    return T, off, Reach(length, rounding, uses + 1)
