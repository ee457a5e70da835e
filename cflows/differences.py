"""Third derivatives along a few directions by differences of gradients, with an estimate of their rounding error.

And functions of the weights averaged over an oscillation, by differences as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .errors import DivergenceError
from .objective.derivative_check import Gradients, difference

MAX_HESSIAN_ERROR = 0.01  # of HU by differences, relative: over a longer distance they see another Hessian
MAX_DISTANCE = 0.1  # relative to the weights, or to a step from w = 0
DISCONTINUITY = 1.5  # error of HU by differences, relative, that only a jump of the gradient makes
NO_DECREASE = 0.7  # ratio of two such errors, the second over half the distance: a jump's error stays
MAX_NOISE = 0.1  # share of T, in norm, that may be rounding: along one direction it is far less
MIN_SIGNAL = 3.0  # T over its rounding error, below which T counts as zero
MAX_USES = 16  # of a measured rounding error
PROBES = 1, 1.7  # distances at which rounding is measured, in units of ε^⅔ of the weights: the Hessian changes less
WINDOW = 5  # factor by which the change of the Hessian may miss its aim, ε^¼
MAX_FACTOR = 10  # between two distances
MAX_TRIALS = 12  # distances; two or three suffice, ten go from one end of single precision to the other


class Reach(NamedTuple):
    """The distance of differences at their last use, and what limits it.

    Attributes
    ----------
    length : float
        Distance along P-orthonormal directions; 0 if unknown.
    rounding : float
        Rounding error of a gradient, in the norm of P⁻¹.
    uses : int
        How often it was used since it was measured.
    """

    length: float = 0.0
    rounding: float = 0.0
    uses: int = 0


class Known(NamedTuple):
    """Third derivatives that need not be computed.

    Attributes
    ----------
    T : Tensor (k, k, n)
    pairs : bool array (k, k)
        Of which pairs.
    """

    T: Float[Tensor, "k k n"]
    pairs: Bool[np.ndarray, "k k"]


def central_differences(
    f: Gradients,
    w: Float[Tensor, "n"],
    g: Float[Tensor, "n"],
    U: Float[Tensor, "n k"],
    eps: float,
    known: Known | None = None,
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "k k n"]]:
    """HU and T = ∇(uᵢᵀHuⱼ) by central differences of gradients.

    Costs two gradients for each pair i ≤ j that is not known, k(k+1) in all, and no higher derivative. The error of
    differences is of order eps² in both; that of rounding grows as eps⁻¹ in HU and eps⁻² in T.

    Parameters
    ----------
    f : Objective
        Or another with its ``value_and_grad`` and ``w0``.
    w : Tensor (n,)
    g : Tensor (n,)
        Gradient at w.
    U : Tensor (n, k)
    eps : float
        Differences reach this times the columns of U.
    known : Known, optional
        T of some pairs i < j.

    Returns
    -------
    HU : Tensor (n, k)
    T : Tensor (k, k, n)
    """
    k = U.shape[1]
    HU, T = torch.zeros_like(U), known.T.clone() if known else U.new_zeros(k, k, len(U))
    for i in range(k):
        for j in range(i, -1, -1):  # with i = j first
            if i != j and known and known.pairs[i, j]:
                continue
            u = U[:, i] if i == j else (U[:, i] + U[:, j]) / math.sqrt(2)
            ahead, behind = (f.value_and_grad(w + s * eps * u)[1] for s in (1, -1))
            second = (ahead + behind - 2 * g) / eps**2
            if i == j:
                HU[:, i], T[i, i] = (ahead - behind) / (2 * eps), second
            else:
                T[i, j] = T[j, i] = second - (T[i, i] + T[j, j]) / 2
    return HU, T


def third_derivatives(
    f: Gradients,
    w: Float[Tensor, "n"],
    g: Float[Tensor, "n"],
    U: Float[Tensor, "n k"],
    HU: Float[Tensor, "n k"],
    p: Float[Tensor, "n"],
    reach: Reach,
    known: Known | None = None,
) -> tuple[Float[Tensor, "k k n"], float, Reach]:
    """T = ∇(uᵢᵀHuⱼ) by differences over a distance at which HU changes by ε^¼ of itself, or more if rounding is large.

    At that distance the errors of differences and of rounding are both of order √ε, with machine precision ε, if the
    gradient's rounding error is of order ε times its changes. It is larger near a minimum, where large terms add up to
    a small gradient. The rounding error is therefore measured: a difference over a very short distance, less the
    product HU, is rounding alone. A T that is smaller than its rounding error is returned as zero.

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
        Of the last use.
    known : Known, optional
        T of some pairs i < j.

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

    strength = max(size(HU.T), 1e-30)
    scale = max(size(p * w), size(p * f.w0), size(g)) or 1.0  # of the weights, or a step
    most = MAX_DISTANCE * scale
    length, rounding, uses = reach
    if not rounding or uses >= MAX_USES:
        tries = [c * torch.finfo(U.dtype).eps ** (2 / 3) * scale for c in PROBES]
        rounding = max(size(difference(f, w, c * U[:, 0]) - c * HU[:, 0]) for c in tries) / math.sqrt(2) or 1e-30
        uses = 0
    shortest = torch.finfo(U.dtype).eps ** 0.5 * scale
    length = min(max(length or size(g) / 2, shortest), most)
    off = math.inf
    for _ in range(MAX_TRIALS):
        last = off
        twin, T = central_differences(f, w, g, U, length, known)
        off = size((twin - HU).T) / strength
        if not math.isfinite(off):  # beyond where the loss is defined
            length /= MAX_FACTOR
            continue
        noise = math.sqrt(6) * rounding / length**2  # of ahead + behind - 2g
        lost = noise / max(size(T), 1e-30)
        change = max(length * size(T) / strength, math.sqrt(off) / 2)  # where T vanishes, fourth derivatives do it
        beyond = off / max(MAX_HESSIAN_ERROR, 3 * rounding / (length * strength))  # above 1, HU is of another Hessian
        factor = min(max((2 * lost / MAX_NOISE) ** 0.5, 1.3), MAX_FACTOR, beyond**-0.5 if beyond else MAX_FACTOR)
        if beyond > 1:
            if off > max(DISCONTINUITY, NO_DECREASE * last):
                break
            factor = min(max(beyond**-0.5 / 2, 1 / MAX_FACTOR), 0.5)
        elif lost > max(MAX_NOISE, min(change**2, 1 / MIN_SIGNAL)) and length < most and factor > 1.2:
            pass  # rounding is the largest error
        elif share / WINDOW < change < WINDOW * share or (change < share and length == most) or lost > MAX_NOISE / 4:
            break
        else:
            factor = min(max(share / max(change, 1e-30), (2 * lost / MAX_NOISE) ** 0.5, 1 / MAX_FACTOR), MAX_FACTOR)
        length = min(length * factor, most)
    if not math.isfinite(off):
        raise DivergenceError("gradients are not finite within reach of the weights, however short")
    if lost > 1 / MIN_SIGNAL:
        T = torch.zeros_like(T)
    return T, off, Reach(length, rounding, uses + 1)


def spread(
    h: Callable[[Tensor], Float[Tensor, "m"]], w: Float[Tensor, "n"], F: Float[Tensor, "n r"]
) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
    """Mean and standard deviation of h(w + δ) for an oscillation δ of covariance Σ = FFᵀ, to leading order.

    The mean is h(w) + ½⟨∇²h, Σ⟩, the variance ⟨∇h ∇hᵀ, Σ⟩. By central differences over a share ε of each column of F,
    2r + 1 evaluations of h: their errors are of the order of ε² and, from rounding, of machine precision over ε².

    Parameters
    ----------
    h : callable, Tensor (n,) -> Tensor (m,)
        Smooth functions of the weights.
    w : Tensor (n,)
    F : Tensor (n, r)
        Factor of Σ.

    Returns
    -------
    mean, deviation : Tensor (m,)
    """
    eps = torch.finfo(w.dtype).eps ** (1 / 8)
    center = h(w).detach()
    mean, variance = center.clone(), torch.zeros_like(center)
    for v in F.T:
        ahead, behind = h(w + eps * v).detach(), h(w - eps * v).detach()
        mean += (ahead + behind - 2 * center) / (2 * eps**2)
        variance += ((ahead - behind) / (2 * eps)).square()
    return mean, variance.sqrt()
