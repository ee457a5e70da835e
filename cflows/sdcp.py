"""The semidefinite complementarity problem that fixes the oscillation covariance of a central flow.

SDCP(A, B): find X ⪰ 0 with Y = A + B[X] ⪰ 0 and ⟨X, Y⟩ = 0, for a symmetric matrix A (k, k) and a symmetric positive
semidefinite operator B on such matrices, ⟨X, B[Z]⟩ = Σ X_ab B_abcd Z_cd. These are the optimality conditions of
minimising ½⟨X, B[X]⟩ + ⟨A, X⟩ over X ⪰ 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.linalg
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg.lapack import dgesv, dpotrf, dpotrs, dsyevd  # NumPy's wrappers cost more than such small problems

from .errors import ConvergenceError

TOL = 1e-9  # residual of an answer that is accepted
AIM = 1e-11  # residual at which the search ends: two digits more cost 3 % more iterations
NEWTON_STEPS = 12  # the interior point takes over after them: 4 are too few for half of the problems, 60 save none
BOUNDARY_FRACTION = (
    0.98  # of the step to the boundary of the cone that is taken: 0.9 costs a third more steps, 0.999 a tenth
)
INTERIOR_STEPS = 100  # some 10 suffice
SINGULAR = 1e-5  # ratio of the pivots of B below which its factor is not used: squared, it is the condition of B
ASYMMETRY = 1e-8  # relative; beyond rounding in double precision it is an error of the caller
INDEFINITENESS = 1e-6  # likewise, of the lowest eigenvalue of B; operators from single precision have 1e-7
RANK = 1e-13  # singular values below, relative to the largest, are rounding


@dataclass(frozen=True)
class Solution:
    """An answer and how good it is.

    Attributes
    ----------
    X : array (k, k), float64
        Symmetric.
    residual : float
        The largest of these, for the problem as given (in the Frobenius norm):
        -λmin(X) / ‖X‖,  -λmin(Y) / ‖A‖,  abs⟨X, Y⟩ / (‖X‖ ‖A‖).
    converged : bool
        residual ≤ 1e-9.
    """

    X: Float[np.ndarray, "k k"]
    residual: float
    converged: bool


def solve(A: ArrayLike, B: ArrayLike, throw: bool = True) -> Solution:
    """Solve SDCP(A, B), equation :eq:`eq-sdcp`, which makes :eq:`eq-complementarity` hold at the end of a step.

    Three cases have closed forms: k = 1; A ⪰ 0, where X = 0; and B[X] = -A with X ⪰ 0, where every critical eigenvalue
    stays locked. Other problems are scaled to unit size. Newton's method for X = Π₊(X - Y) :cite:`sun2002` solves most
    of them. If it does not converge, a primal-dual interior-point method does: Mehrotra's :cite:`mehrotra1992` in the
    scaling of Nesterov and Todd :cite:`nesterov1997`, after Todd, Toh and Tütüncü :cite:yearpar:`todd1998`. The
    residual is that of the problem as given. If B is singular, X need not be unique, but B[X] is; if all eigenvalues
    stay locked, the smallest X is returned, if it is ⪰ 0.

    Parameters
    ----------
    A : array (k, k)
        Symmetric.
    B : array (k, k, k, k)
        Symmetric (B[a,b,c,d] = B[c,d,a,b] = B[b,a,c,d]) and positive semidefinite; may be singular.
    throw : bool
        Raise if the answer misses the tolerance (otherwise see ``converged``).

    Returns
    -------
    `Solution`

    Raises
    ------
    ValueError
        If shapes do not match, an entry is not finite, A or B is not symmetric, or B is indefinite.
    ConvergenceError
        If the residual stays above 1e-9 and ``throw`` is set. It does for a problem without a solution: B singular, and
        A negative on X ⪰ 0 with B[X] = 0.

    Examples
    --------
    >>> solve([[-3.0]], [[[[2.0]]]]).X  # k = 1: max(0, -A / B)
    array([[1.5]])
    """
    A, B, flat, factor = _check(A, B)
    best = _best(A, B, _candidates(A, flat, factor))
    if not best.converged:  # scaling separates directions of different scales only in B's own basis
        V = np.linalg.eigh(np.einsum("abcb->ac", B))[1]
        rotated = V.T @ A @ V, np.einsum("abcd,ai,bj,ck,dl->ijkl", B, V, V, V, V, optimize=True)
        there, _, flat, factor = _check((rotated[0] + rotated[0].T) / 2, symmetric(rotated[1]))
        best = min(best, _best(A, B, (V @ X @ V.T for X in _candidates(there, flat, factor))), key=lambda s: s.residual)
    if throw and not best.converged:
        raise ConvergenceError(
            f"SDCP of size {len(A)} left a relative KKT residual of {best.residual:.2g} (tolerance {TOL:.0e}); it has "
            "no solution if A is negative where B vanishes: is every third derivative and ∂p/∂ν finite and non-zero?",
            best,
        )
    return best


def _best(A: np.ndarray, B: np.ndarray, candidates: Iterator[np.ndarray]) -> Solution:
    """The first candidate with a residual of at most `AIM`, or the best of all."""
    best = Solution(np.zeros_like(A), np.inf, False)
    for X in candidates:
        residual = kkt_residual(A, B, X)
        if residual < best.residual:
            best = Solution(X, residual, residual <= TOL)
        if best.residual <= AIM:
            break
    return best


def symmetric(B: Float[np.ndarray, "k k k k"]) -> Float[np.ndarray, "k k k k"]:
    """B with its symmetries restored after rounding.

    Parameters
    ----------
    B : array (k, k, k, k)

    Returns
    -------
    array (k, k, k, k)
        B[a,b,c,d] = B[c,d,a,b] = B[b,a,c,d].
    """
    for axes in ((1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1)):
        B = (B + B.transpose(axes)) / 2
    return B


def kkt_residual(A: Float[np.ndarray, "k k"], B: Float[np.ndarray, "k k k k"], X: Float[np.ndarray, "k k"]) -> float:
    """Relative violation of the optimality conditions of SDCP(A, B), as ``residual`` of `Solution` states it.

    Parameters
    ----------
    A, B : array (k, k), array (k, k, k, k)
        As of `solve`.
    X : array (k, k)
        A candidate.

    Returns
    -------
    float
    """
    Y = A + (B.reshape(X.size, X.size) @ X.ravel()).reshape(X.shape)
    size = abs(A).max() or 1.0
    nx, na = math.sqrt(np.vdot(X, X)), size * math.sqrt(np.vdot(A / size, A / size))
    if not (math.isfinite(nx) and math.isfinite(Y.sum())):
        return np.inf
    violation = max(0.0, -_lowest((Y + Y.T) / 2)) / (na or 1.0)
    if nx > 0:
        violation = max(violation, -_lowest(X) / nx, abs(np.vdot(X, Y)) / (nx * (na or 1.0)))
    return float(violation)


def _lowest(M: np.ndarray) -> float:
    """Smallest eigenvalue of a symmetric matrix."""
    return dsyevd(M, compute_v=0)[0][0]


def _candidates(A: np.ndarray, B: np.ndarray, L: np.ndarray | None) -> Iterator[np.ndarray]:
    """Candidates, cheapest first, for the caller to check. B is a matrix over the basis, L its Cholesky factor."""
    k = len(A)
    basis = _svec_basis(k)
    if k == 1:
        yield np.maximum(0.0, -A / B) if B[0, 0] > 0 else np.zeros((1, 1))
        return
    if _lowest(A) >= 0:
        yield np.zeros_like(A)
        return
    # Every eigenvalue stays locked: the smallest solution of B[X] = -A.
    if L is None or L.diagonal().min() < SINGULAR * L.diagonal().max():
        x = np.linalg.lstsq(B, -basis.T @ A.ravel(), rcond=RANK)[0]
    else:
        x = dpotrs(L, -basis.T @ A.ravel(), lower=1)[0]
    X = (basis @ x).reshape(k, k)
    if _lowest(X) >= 0:
        yield X
    # Unit scale: X = s D x D with D diagonal such that the scaled operator's entries b_aaaa are 1.
    diagonal = B.diagonal()[np.cumsum(range(1, k + 1)) - 1]
    D = np.where(diagonal > RANK**2 * diagonal.max(), diagonal, diagonal.max() or 1.0) ** -0.25
    a = D[:, None] * A * D
    s = abs(a).max()
    M = _congruence(np.diag(D))
    for method in (_newton, _interior_point):
        for x in method(a / s, M @ B @ M, basis):
            yield s * (D[:, None] * x * D)


def _newton(a: np.ndarray, b: np.ndarray, basis: np.ndarray) -> Iterator[np.ndarray]:
    """Newton's method for X = Π₊(X - Y), Y = a + b[X], which is semismooth :cite:`sun2002`; it may fail to converge."""
    k = len(a)
    x, start, eye, pairs = np.zeros(len(b)), basis.T @ a.ravel(), np.eye(len(b)), _pairs(k)
    for _ in range(NEWTON_STEPS):
        w, Q, _ = dsyevd((basis @ (x - start - b @ x)).reshape(k, k))
        plus = np.maximum(w, 0)
        projected = (Q * plus) @ Q.T
        yield projected
        size = np.maximum(abs(w), 1e-300)
        slope = (plus[:, None] + plus) / (size[:, None] + size)  # of Π₊, pair by pair
        S = _congruence(Q)
        slope = (S * slope[pairs]) @ S.T
        _, _, step, singular = dgesv(eye - slope @ (eye - b), basis.T @ projected.ravel() - x)
        if singular:
            return
        x = x + step


def _interior_point(a: np.ndarray, b: np.ndarray, basis: np.ndarray) -> Iterator[np.ndarray]:
    """Mehrotra's predictor-corrector on XY = μI; X ⪰ 0 and Y ⪰ 0 hold all along, Y = a + b[X] in the limit.

    Yields for each iterate the solution that it points to, and at last the iterate itself.
    """
    k = len(a)

    def op(x: np.ndarray) -> np.ndarray:
        return (basis @ (b @ (basis.T @ x.ravel()))).reshape(k, k)

    X = np.eye(k)
    Y = np.eye(k) * max(1.0, float(np.linalg.norm(a + op(X))))
    eye = np.eye(len(b))
    for _ in range(INTERIOR_STEPS):
        try:
            G, lam = _nt_scaling(X, Y)
            # In the scaled space X and Y are both diag(lam), the operator is bs, and r is the residual of Y = a + b[X].
            M = _congruence(G)
            bs = M.T @ b @ M
            r = basis.T @ (G.T @ (a + op(X) - Y) @ G).ravel()
            factor = scipy.linalg.cho_factor(eye + (bs + bs.T) / 2, check_finite=False)
        except np.linalg.LinAlgError:  # as close to the boundary as rounding allows
            break
        Ginv = np.linalg.inv(G)
        mu = lam @ lam / k
        sums = lam[:, None] + lam

        def direction(rhs: np.ndarray, factor=factor, r=r) -> tuple[np.ndarray, np.ndarray]:
            """Solve dX + dY = rhs, dY = b[dX] + r in the scaled space."""
            v = basis.T @ rhs.ravel()
            dx = scipy.linalg.cho_solve(factor, v - r, check_finite=False)
            return (basis @ dx).reshape(k, k), (basis @ (v - dx)).reshape(k, k)

        dx, dy = direction(-np.diag(lam))
        step = _longest(lam, dx, dy)
        sigma = max(0.0, 1 - step)
        second_order = (dx @ dy + dy @ dx) / sums
        dx, dy = direction(-np.diag(lam) + sigma * mu * np.diag(1 / lam) - second_order)
        step = min(1.0, BOUNDARY_FRACTION * _longest(lam, dx, dy))
        X = X + step * G @ dx @ G.T
        Y = Y + step * Ginv.T @ dy @ Ginv
        X, Y = (X + X.T) / 2, (Y + Y.T) / 2
        yield _on_face(a, b, X, op(X))
        if mu < 1e-30 or step < 1e-12:
            break
    yield X


def _on_face(a: np.ndarray, b: np.ndarray, X: np.ndarray, bX: np.ndarray) -> np.ndarray:
    """The solution in the span of those eigenvectors of X along which X is larger than Y.

    An interior point has full rank; the solution is exactly zero along the other eigenvectors.
    """
    k = len(a)
    x, V = np.linalg.eigh(X)
    V = V[:, x > np.einsum("ai,ab,bi->i", V, a + bX, V)]
    face = np.kron(V, V) @ _svec_basis(V.shape[1]) if V.shape[1] else np.zeros((k * k, 0))
    to_svec = _svec_basis(k).T @ face
    m = np.linalg.lstsq(to_svec.T @ b @ to_svec, -face.T @ a.ravel(), rcond=RANK)[0]
    return (face @ m).reshape(k, k)


def _nt_scaling(X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """G and lam with G⁻¹XG⁻ᵀ = GᵀYG = diag(lam)."""
    L, R = np.linalg.cholesky(X), np.linalg.cholesky(Y)
    _, lam, Vt = np.linalg.svd(R.T @ L)
    return L @ Vt.T / np.sqrt(lam), lam


def _longest(lam: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> float:
    """The step, at most 1 / `BOUNDARY_FRACTION`, at which diag(lam) + step · d leaves the cone for one of the two d."""
    root = np.sqrt(lam)
    lowest = min(np.linalg.eigvalsh(d / np.outer(root, root))[0] for d in (dx, dy))
    return 1 / max(-lowest, BOUNDARY_FRACTION)


def _congruence(Q: np.ndarray) -> np.ndarray:
    """The matrix over the basis of X ↦ QXQᵀ."""
    factors, weights = _factors(len(Q))
    a, b, c, d = Q.take(factors)
    return (a * b + c * d) * weights


@cache
def _factors(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices into Q of the entries that make up `_congruence`, and their weights."""
    i, j = _pairs(k)
    weights = np.where(i == j, 0.5**0.5, 1.0)
    return np.stack([k * a[:, None] + b for a, b in ((i, i), (j, j), (i, j), (j, i))]), np.outer(weights, weights)


_pairs = cache(np.tril_indices)  # the order of the basis


@cache
def _svec_basis(k: int) -> np.ndarray:
    """Orthonormal basis (k², k(k+1)/2) of the symmetric matrices among all k x k matrices."""
    columns = []
    for i, j in zip(*_pairs(k), strict=True):
        E = np.zeros((k, k))
        E[i, j] = E[j, i] = 1.0
        columns.append((E / np.linalg.norm(E)).ravel())
    return np.array(columns).T


def _check(A: ArrayLike, B: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """A, B, B as a matrix over the basis and its Cholesky factor, if it has one; an error for invalid input."""
    A, B = np.asarray(A), np.asarray(B)
    for name, value in (("A", A), ("B", B)):
        if value.dtype.kind not in "fiu":
            raise TypeError(f"{name} has dtype {value.dtype}; pass real numbers")
    A, B = A.astype(np.float64), B.astype(np.float64)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or len(A) == 0:
        raise ValueError(f"A has shape {A.shape}; it must be a square matrix (k, k)")
    k = len(A)
    if B.shape != (k, k, k, k):
        raise ValueError(f"B has shape {B.shape}; with A {A.shape} it must be {(k, k, k, k)}")
    matrix = B.reshape(k * k, k * k)
    sizes = abs(A).max(), abs(matrix).max()
    for name, value, size in (("A", A, sizes[0]), ("B", B, sizes[1])):
        if not math.isfinite(size):
            raise ValueError(f"{name} holds {np.sum(~np.isfinite(value))} values that are not finite")
    if (gap := abs(A - A.T).max()) > ASYMMETRY * sizes[0]:
        raise ValueError(f"A is not symmetric: |A - Aᵀ| reaches {gap:.3g}; pass (A + A.T) / 2 if that is rounding")
    basis = _svec_basis(k)
    flat = basis.T @ matrix @ basis
    if abs(matrix - basis @ (flat + flat.T) @ basis.T / 2).max() > ASYMMETRY / 2 * sizes[1]:
        for axes, what in (((2, 3, 0, 1), "B[c,d,a,b]"), ((1, 0, 2, 3), "B[b,a,c,d]")):
            if (gap := abs(B - B.transpose(axes)).max()) > ASYMMETRY * sizes[1]:
                raise ValueError(f"B is not symmetric: |B[a,b,c,d] - {what}| reaches {gap:.3g}; average the two")
    L, singular = dpotrf(flat, lower=1)
    if singular and (spectrum := np.linalg.eigvalsh(flat))[0] < -INDEFINITENESS * max(abs(spectrum)):
        raise ValueError(
            f"B is indefinite: its eigenvalues go from {spectrum[0]:.3g} to {spectrum[-1]:.3g}; as a sum of squares "
            "it must be positive semidefinite"
        )
    return (A + A.T) / 2, B, flat, None if singular else L
