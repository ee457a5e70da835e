"""What a step of the central flow is told of the eigenvectors of P⁻¹H: those that are critical, and all known ones."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

MIN_RECOVERY_RATE = 0.1  # an eigenvalue above θ falls by this share of θ a unit of time: the optimizer needs about ten


class Critical(NamedTuple):
    """What the central flow needs to know at the start of a step about the eigenvalues near 2.

    Attributes
    ----------
    A : array (k, k)
        θUᵀPU - UᵀHU.
    U : Tensor (n, k)
        P-orthonormal right eigenvectors of P⁻¹H.
    T : Tensor (k, k, n)
        ∇(uᵢᵀ H uⱼ).
    penalised : bool
        False for the flow without its curvature penalty.
    missed : array (k, k) or 0
        Rate at which A moves besides, as seen in the past.
    dU, dT : Tensor (n, k) and (k, k, n), or 0
        Rates at which U turns out of the span of all eigenvectors that are followed, and at which T changes, as seen
        in the past.
    """

    A: Float[np.ndarray, "k k"]
    U: Float[Tensor, "n k"]
    T: Float[Tensor, "k k n"]
    penalised: bool = True
    missed: np.ndarray | float = 0.0
    dU: Tensor | float = 0.0
    dT: Tensor | float = 0.0

    def after(self, dt: float) -> Critical:
        """With U and T as they are expected to be some time later."""
        return self._replace(U=self.U + dt * self.dU, T=self.T + dt * self.dT)


class Modes(NamedTuple):
    """Eigenvectors of P⁻¹H, and P times them as of when they were found: the projection is UPUᵀ even if P moves on.

    Attributes
    ----------
    values : Tensor (m,)
        Eigenvalues.
    U : Tensor (n, m)
        P-orthonormal right eigenvectors.
    dual : Tensor (n, m)
        PU.
    """

    values: Float[Tensor, "m"]
    U: Float[Tensor, "n m"]
    dual: Float[Tensor, "n m"]


class Pairs(NamedTuple):
    """What the critical eigenvectors enter the drift by: one row for each pair a ≤ b of them, m = k (k+1) / 2 in all.

    Attributes
    ----------
    products : Tensor (m, n)
        u_a ⊙ u_b.
    third : Tensor (m, n)
        ∇(u_aᵀ H u_b).
    at : array (k, k)
        The row of each pair.
    """

    products: Float[Tensor, "m n"]
    third: Float[Tensor, "m n"]
    at: Int[np.ndarray, "k k"]

    @classmethod
    def of(cls, critical: Critical) -> Pairs:
        """Those of the critical eigenvectors."""
        a, b, at = _pairs(critical.U.shape[1])
        rows = critical.U.T.contiguous()
        return cls(rows[a] * rows[b], critical.T[a, b], at)

    def weights(self, X: Float[np.ndarray, "k k"]) -> Float[Tensor, "m"]:
        """X as weights of the rows: both orders of a pair are one row."""
        x = np.zeros(len(self.products))
        np.add.at(x, self.at, X)
        return torch.as_tensor(x, dtype=self.products.dtype, device=self.products.device)


def expected(
    critical: Critical, dt: float, threshold: float, recovery: float = 1.0
) -> tuple[Critical, Pairs, Float[np.ndarray, "k k"]]:
    """What is critical as it is expected in the middle of a step, and A at its start, with what the drift misses.

    Parameters
    ----------
    critical : Critical
        At the start.
    dt : float
        Length of the step.
    threshold : float
        θ.
    recovery : float
        Share of an excess over the threshold that the step is to make up for.

    Returns
    -------
    Critical
    Pairs
    array (k, k)
    """
    critical = critical.after(dt / 2)
    a, V = np.linalg.eigh(critical.A)
    a = np.where(a < 0, recovery * a, a)
    A = (V * np.maximum(a, -MIN_RECOVERY_RATE * threshold * dt)) @ V.T  # from beyond the edge, not all at once
    A = A + dt * critical.missed
    return critical, Pairs.of(critical), (A + A.T) / 2


@cache
def _pairs(k: int) -> tuple[list[int], list[int], np.ndarray]:
    """First and second of each pair a ≤ b below k, and the number of each pair."""
    a, b = np.triu_indices(k)
    at = np.zeros((k, k), dtype=int)
    at[a, b] = at[b, a] = np.arange(len(a))
    return a.tolist(), b.tolist(), at


def diagonal(U: Float[Tensor, "n k"], X: Float[Tensor, "k k"]) -> Float[Tensor, "n"]:
    """diag UXUᵀ.

    Parameters
    ----------
    U : Tensor (n, k)
    X : Tensor (k, k)

    Returns
    -------
    Tensor (n,)
    """
    return ((U @ X) * U).sum(1)


def float64(x: Tensor) -> np.ndarray:
    """A small tensor as a NumPy array in double precision.

    Parameters
    ----------
    x : Tensor

    Returns
    -------
    array
        Of the same shape, on the CPU.
    """
    return x.detach().cpu().numpy().astype(np.float64)
