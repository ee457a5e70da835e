"""Preconditioned gradient descent on a quadratic, where everything is known in closed form.

On L(w) = ½ wᵀHw the step w ← w − P⁻¹Hw multiplies the component along each right eigenvector q of the
*effective Hessian* P⁻¹H by 1 − λ. Beyond λ = 2 that component grows and changes sign at every step.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from jaxtyping import Float
from numpy.typing import ArrayLike


def _check(H: ArrayLike, p: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    H, p = np.asarray(H), np.asarray(p)
    for name, value in (("H", H), ("p", p)):
        if not np.issubdtype(value.dtype, np.floating):
            raise TypeError(f"{name} has dtype {value.dtype}; pass floating-point numbers")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} holds values that are not finite: {value}")
    if H.ndim != 2 or H.shape[0] != H.shape[1] or H.size == 0:
        raise ValueError(f"H has shape {H.shape}; it must be a square matrix (n, n), n ≥ 1")
    if p.shape != H.shape[:1]:
        raise ValueError(f"p has shape {p.shape}, H has {H.shape}; p must be the diagonal of P, ({len(H)},)")
    if abs(H - H.T).max() > 100 * np.finfo(H.dtype).eps * abs(H).max():
        raise ValueError(
            f"H is not symmetric: |H - Hᵀ| reaches {abs(H - H.T).max():.3g}; pass the Hessian, or (H + H.T) / 2"
        )
    if not (p > 0).all():
        raise ValueError(f"p must be positive, its smallest entry is {p.min():.3g}")
    return H, p


def effective_eigh(H: Float[np.ndarray, "n n"], p: Float[np.ndarray, "n"]):
    """Eigenvalues and right eigenvectors of the effective Hessian P⁻¹H, P = diag(p).

    Along each, equation :eq:`eq-factor`, a step of gradient descent multiplies by one minus the eigenvalue. Solved as
    the symmetric problem P^{-1/2} H P^{-1/2} y = λ y with q = P^{-1/2} y, which has the same eigenvalues:
    equation :eq:`eq-similar`.

    Parameters
    ----------
    H : array (n, n), symmetric
        Hessian.
    p : array (n,), positive
        Diagonal of the preconditioner, in units of 1 / learning rate.

    Returns
    -------
    eigenvalues : array (n,)
        In descending order, without units: gradient descent is unstable along those above 2.
    Q : array (n, n)
        Right eigenvectors as columns, P-orthonormal: QᵀPQ = I and HQ = PQ diag(eigenvalues).

    Raises
    ------
    ValueError, TypeError
        If shapes disagree, H is not symmetric, p is not positive, or an entry is not a finite float.

    Examples
    --------
    >>> lam, Q = effective_eigh(np.diag([4.0, 9.0]), np.array([1.0, 3.0]))
    >>> lam
    array([4., 3.])
    """
    H, p = _check(H, p)
    root = np.sqrt(p)
    eigenvalues, Y = scipy.linalg.eigh(H / np.outer(root, root))
    return eigenvalues[::-1], (Y / root[:, None])[:, ::-1]


def preconditioned_gd(
    H: Float[np.ndarray, "n n"], p: Float[np.ndarray, "n"], w0: Float[np.ndarray, "n"], steps: int
) -> Float[np.ndarray, "{steps}+1 n"]:
    """Iterates of w ← w − P⁻¹Hw, preconditioned gradient descent on ½ wᵀHw: equation :eq:`eq-pgd`.

    Parameters
    ----------
    H, p : array (n, n), array (n,)
        As in `effective_eigh`.
    w0 : array (n,)
        Starting point.
    steps : int
        Number of steps, 0 or more.

    Returns
    -------
    array (steps + 1, n)
        Row i is the iterate after i steps; row 0 is w0.

    Raises
    ------
    ValueError, TypeError
        As `effective_eigh`; also if w0 has another shape, or steps is negative.

    Examples
    --------
    >>> preconditioned_gd(np.diag([3.0, 1.0]), np.ones(2), np.ones(2), 2)
    array([[ 1.,  1.],
           [-2.,  0.],
           [ 4.,  0.]])
    """
    H, p = _check(H, p)
    w0 = np.asarray(w0, dtype=np.result_type(H, p))
    if not np.isfinite(w0).all():
        raise ValueError(f"w0 holds values that are not finite: {w0}")
    if w0.shape != p.shape:
        raise ValueError(f"w0 has shape {w0.shape}; it must be that of p, {p.shape}")
    if steps < 0:
        raise ValueError(f"steps is {steps}; it must be 0 or more")
    iterates = np.empty((steps + 1, len(p)), dtype=w0.dtype)
    iterates[0] = w0
    for i in range(steps):
        iterates[i + 1] = iterates[i] - H @ iterates[i] / p
    return iterates
