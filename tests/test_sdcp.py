import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cflows import ConvergenceError, sdcp


def random_psd_operator(rng, k, rank):
    M = rng.standard_normal((rank, k, k))
    M = M + M.transpose(0, 2, 1)
    return np.einsum("rab,rcd->abcd", M, M)


def problem(rng, k, kind):
    """A random problem that has a solution."""
    B = random_psd_operator(rng, k, int(rng.integers(1, k * k + 1)) if kind == "singular" else 2 * k * k)
    A = rng.standard_normal((k, k))
    A = A + A.T
    if kind in ("singular", "locked"):  # built around a solution of given rank
        Q = np.linalg.qr(rng.standard_normal((k, k)))[0]
        m = k if kind == "locked" else int(rng.integers(0, k + 1))
        x, y = rng.uniform(0.1, 2, k), rng.uniform(0.1, 2, k)
        x[m:], y[:m] = 0, 0
        A = (Q * y) @ Q.T - np.einsum("abcd,cd->ab", B, (Q * x) @ Q.T)
        A = (A + A.T) / 2
    if kind == "ten decades":
        D = 10 ** rng.uniform(-2.5, 2.5, k)
        A, B = A * np.outer(D, D), B * np.einsum("a,b,c,d->abcd", D, D, D, D) * 10 ** rng.uniform(-5, 5)
    return A, B


def independent_residual(A, B, X):
    """Optimality conditions, written again and more strictly scaled."""
    Y = A + np.tensordot(B, X, axes=2)
    scale = np.linalg.norm(A, 2) or 1.0
    size = np.linalg.norm(X, 2) or 1.0
    return max(
        -np.linalg.eigvalsh(X).min() / size, -np.linalg.eigvalsh(Y).min() / scale, abs(np.sum(X * Y)) / (size * scale)
    )


def test_a_thousand_random_problems():
    rng = np.random.default_rng(2024)
    kinds = ("plain", "singular", "locked", "ten decades")
    worst = worst_twin = 0.0
    for i in range(1000):
        A, B = problem(rng, 1 + i % 8, kinds[(i // 8) % 4])
        s = sdcp.solve(A, B)
        worst, worst_twin = max(worst, s.residual), max(worst_twin, independent_residual(A, B, s.X))
    assert worst <= 1e-9
    assert worst_twin <= 1e-8  # spectral instead of Frobenius norms: larger by up to √k each


def test_agrees_with_cvxpy():
    rng = np.random.default_rng(1)
    for k in (1, 2, 3, 4, 6, 8):
        A, B = problem(rng, k, "plain")
        X = cp.Variable((k, k), PSD=True)
        L = np.linalg.cholesky(B.reshape(k * k, k * k) + 1e-12 * np.eye(k * k))
        cost = 0.5 * cp.sum_squares(L.T @ cp.vec(X, order="C")) + cp.trace(A @ X)
        tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-10)  # its default is good for 1e-4 of X
        cp.Problem(cp.Minimize(cost)).solve(solver=cp.CLARABEL, **tight)
        s = sdcp.solve(A, B)

        def value(Z, A=A, B=B):
            return 0.5 * np.einsum("ab,abcd,cd", Z, B, Z) + np.vdot(A, Z)

        assert value(s.X) <= value(X.value) + 1e-7 * abs(value(s.X))
        np.testing.assert_allclose(s.X, X.value, atol=1e-4 * max(1e-3, abs(s.X).max()))


@pytest.mark.parametrize("a", [-3.0, 0.0, 2.0])
def test_one_eigenvalue_is_a_division(a):
    assert sdcp.solve([[a]], [[[[2.0]]]]).X[0, 0] == pytest.approx(max(0.0, -a / 2), rel=1e-14)


def test_identity_operator_gives_the_projection_on_the_cone():
    rng = np.random.default_rng(3)
    for k in range(2, 9):
        A = rng.standard_normal((k, k))
        A = A + A.T
        identity = np.einsum("ac,bd->abcd", np.eye(k), np.eye(k))
        identity = (identity + identity.transpose(1, 0, 2, 3)) / 2
        lam, V = np.linalg.eigh(-A)
        np.testing.assert_allclose(sdcp.solve(A, identity).X, (V * np.maximum(lam, 0)) @ V.T, atol=1e-8)


def test_stable_means_no_oscillation():
    rng = np.random.default_rng(4)
    B = random_psd_operator(rng, 3, 9)
    s = sdcp.solve(np.diag([1.0, 0.1, 1e-9]), B)
    assert not s.X.any()
    assert s.residual == 0


def test_a_tiny_negative_eigenvalue_is_handled():
    rng = np.random.default_rng(5)
    B = random_psd_operator(rng, 3, 18)
    assert sdcp.solve(np.diag([1.0, 0.1, -1e-12]), B).residual <= 1e-9


def test_what_is_not_oscillating_is_exactly_zero():
    rng = np.random.default_rng(7)
    for k in (2, 3, 5):
        Q = np.linalg.qr(rng.standard_normal((k, k)))[0]
        B = random_psd_operator(rng, k, 2 * k * k)
        x, y = np.zeros(k), rng.uniform(0.5, 1, k)
        x[0], y[0] = 1.0, 0.0
        A = (Q * y) @ Q.T - np.einsum("abcd,cd->ab", B, (Q * x) @ Q.T)
        found = np.linalg.eigvalsh(sdcp.solve((A + A.T) / 2, B).X)
        np.testing.assert_allclose(found[-1], 1, rtol=1e-6)
        assert abs(found[:-1]).max() < 1e-15


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(2, 6), st.floats(-6, 6), st.floats(-6, 6), st.integers(0, 10**6))
def test_units_do_not_matter(k, a, b, seed):
    A, B = problem(np.random.default_rng(seed), k, "plain")
    X = sdcp.solve(A, B).X
    scaled = sdcp.solve(10**a * A, 10**b * B).X
    np.testing.assert_allclose(scaled, 10 ** (a - b) * X, atol=1e-6 * 10 ** (a - b) * abs(X).max())


def test_a_rotation_of_the_problem_rotates_the_answer():
    rng = np.random.default_rng(8)
    Q = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    B = np.zeros((3, 3, 3, 3))
    B[range(3), range(3), range(3), range(3)] = 1, 2, 5  # singular: says nothing of what is off the diagonal
    A = -np.eye(3)
    rotated = np.einsum("ai,bj,ck,dl,ijkl->abcd", Q, Q, Q, Q, B)
    np.testing.assert_allclose(sdcp.solve(A, B).X, np.diag([1, 0.5, 0.2]), atol=1e-12)
    np.testing.assert_allclose(sdcp.solve(Q @ A @ Q.T, rotated).X, Q @ np.diag([1, 0.5, 0.2]) @ Q.T, atol=1e-12)


def test_no_solution_is_said_not_returned():
    B = np.zeros((2, 2, 2, 2))
    B[0, 0, 0, 0] = 1.0
    A = np.diag([1.0, -1.0])  # unbounded along the second direction
    with pytest.raises(ConvergenceError, match="no solution") as caught:
        sdcp.solve(A, B)
    assert not caught.value.solution.converged
    s = sdcp.solve(A, B, throw=False)
    assert not s.converged
    assert s.residual > 1e-3


GOOD = random_psd_operator(np.random.default_rng(6), 2, 4)


@pytest.mark.parametrize(
    ("A", "B", "error", "message"),
    [
        (np.array([[1.0, 2.0], [0.0, 1.0]]), GOOD, ValueError, "A is not symmetric"),
        (np.eye(2), GOOD + np.arange(16.0).reshape(2, 2, 2, 2), ValueError, "B is not symmetric"),
        (np.eye(2), -GOOD, ValueError, "B is indefinite"),
        (np.eye(3), GOOD, ValueError, r"\(2, 2, 2, 2\).*\(3, 3, 3, 3\)"),
        (np.ones(2), GOOD, ValueError, r"A has shape \(2,\)"),
        (np.full((2, 2), np.nan), GOOD, ValueError, "A holds 4 values that are not finite"),
        (np.eye(2, dtype=complex), GOOD, TypeError, "complex128"),
    ],
)
def test_bad_input_is_named(A, B, error, message):
    with pytest.raises(error, match=message):
        sdcp.solve(A, B)


def test_the_residual_at_any_scale():
    A, B = -np.eye(2), np.eye(4).reshape(2, 2, 2, 2)
    B = (B + B.transpose(1, 0, 2, 3)) / 2
    assert sdcp.kkt_residual(A, B, np.eye(2)) == 0
    for scale in (1e-200, 1e160):  # squares of A leave the range of floats
        assert sdcp.kkt_residual(scale * A, scale * B, np.eye(2)) == 0
        assert sdcp.kkt_residual(scale * A, scale * B, 7 * np.eye(2)) > 1
    assert sdcp.kkt_residual(A, np.nan * B, np.eye(2)) == np.inf


@pytest.fixture
def iterations(monkeypatch):
    """Newton's and interior-point iterations, counted by the linear systems that each of them solves."""
    count = {"newton": 0, "interior": 0}

    def counted(name, function):
        def call(*args, **options):
            count[name] += 1
            return function(*args, **options)

        return call

    monkeypatch.setattr(sdcp, "dgesv", counted("newton", sdcp.dgesv))
    monkeypatch.setattr(sdcp.scipy.linalg, "cho_factor", counted("interior", sdcp.scipy.linalg.cho_factor))
    return count


COSTS = [  # (problems, iterations): unit scaling, a closed form, Newton's method and the interior point at their work
    ("plain", 230, 0),
    ("singular", 340, 100),  # as rounding has it: 320 and 84, or 322 and 92
    ("locked", 0, 0),
    ("ten decades", 196, 0),
]


def solve_all(kind):
    rng = np.random.default_rng(0)
    return max(sdcp.solve(*problem(rng, 2 + i % 7, kind)).residual for i in range(60))


@pytest.mark.parametrize(("kind", "newton", "interior"), COSTS)
def test_iterations_at_a_stated_residual(kind, newton, interior, iterations):
    assert solve_all(kind) <= sdcp.AIM
    assert iterations["newton"] <= newton
    assert iterations["interior"] <= interior


@pytest.mark.parametrize(
    ("name", "value", "newton", "interior"),
    [("NEWTON_STEPS", 4, 170, 400), ("NEWTON_STEPS", 60, 500, 60), ("BOUNDARY_FRACTION", 0.9, 300, 95)],
)
def test_each_constant_earns_its_place(name, value, newton, interior, iterations, monkeypatch):
    monkeypatch.setattr(sdcp, name, value)
    solve_all("singular")
    assert iterations["newton"] > newton
    assert iterations["interior"] > interior


def test_directions_of_very_different_scales_that_are_mixed():
    """Five decades of scales in a rotated basis: scaling fails there, and works in the basis of B."""
    rng = np.random.default_rng(5)
    for i in range(47):
        k = 2 + i % 4
        A, B = problem(rng, k, "plain")
        D = 10 ** rng.uniform(-2.5, 2.5, k)
        Q = np.linalg.qr(rng.standard_normal((k, k)))[0] * D
    A, B = Q @ A @ Q.T, np.einsum("ai,bj,ck,dl,ijkl->abcd", Q, Q, Q, Q, B, optimize=True)
    assert sdcp.solve((A + A.T) / 2, sdcp.symmetric(B)).converged
