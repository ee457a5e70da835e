import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import hessian, mlp_objective
from programs import TIGHT, problem, value

from cflows import ConvergenceError, DivergenceError, stationary
from cflows.stationary import low_rank


def feasible(p, H):
    return np.linalg.eigvalsh(2 * np.diag(p) - H)[0] >= -1e-7 * abs(H).max()


@pytest.mark.parametrize("seed", range(24))
def test_against_cvxpy(seed):
    H, g, lr = problem(seed)
    matrix, twin = torch.from_numpy(H), stationary.reference(H, g, lr, **TIGHT)
    for given, tol in ((H, 1e-7), (lambda V: matrix @ V, 1e-6)):
        s = stationary.solve(given, g, lr)
        assert feasible(s.p, H)
        assert s.gap <= tol
        assert s.primal == pytest.approx(value(twin, g, lr), rel=1e-6, abs=1e-7)
        assert s.primal == pytest.approx(value(s.p, g, lr), rel=1e-9)
        Z = s.factor @ s.factor.T / 2
        assert (np.diag(Z) <= 0.5 + 1e-12).all()
        dual = np.vdot(Z, H) + 2 * np.sum(abs(g) / lr * np.sqrt(np.maximum(1 - 2 * np.diag(Z), 0)))
        assert s.dual == pytest.approx(dual, rel=1e-9, abs=1e-12)
    if math.isfinite(lr):  # where (g/η)²/p weighs something, a small gap determines p
        p = stationary.solve(H, g, lr, tol=1e-10).p
        determined = (g / lr) ** 2 / p > 1e-2 * s.primal
        np.testing.assert_allclose(p[determined], twin[determined], rtol=1e-4)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("lr", [0.3, math.inf])
def test_diagonal_hessian(products, lr):
    h, g = np.array([2.0, 0.5, -1.0, 0.0, 3.0]), np.array([0.1, 0.5, 0.2, 0.3, 0.0])
    H = torch.diag(torch.from_numpy(h))
    s = stationary.solve((lambda V: H @ V) if products else H.numpy(), g, lr)
    np.testing.assert_allclose(s.p, np.maximum(g / lr, np.maximum(h, 0) / 2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(s.primal, value(np.maximum(g / lr, np.maximum(h, 1e-300) / 2), g, lr), rtol=1e-6)


def test_two_weights():
    """tr P̂ = (h₁₁ + h₂₂) / 2 + |h₁₂| if both diagonal entries are at least |h₁₂|."""
    for off in (-0.7, 0.0, 0.3):
        s = stationary.solve(np.array([[1.0, off], [off, 2.0]]), np.ones(2), math.inf)
        assert s.p.sum() == pytest.approx(1.5 + abs(off), rel=1e-6)


def test_it_is_where_nu_stands_still():
    """ν̄ = g² + 4p² ⊙ diag Σ̄ with Σ̄ = (η²/4) VVᵀ, and HΣ̄ = 2PΣ̄, on a small network."""
    f, lr = mlp_objective(), 0.02
    g = f.value_and_grad(f.w0)[1].numpy()
    H = hessian(f, f.w0)
    s = stationary.solve(H, g, lr, tol=1e-11)
    Sigma = lr**2 / 4 * s.factor @ s.factor.T
    np.testing.assert_allclose(g**2 + 4 * s.p**2 * np.diag(Sigma), s.nu, rtol=1e-3)
    np.testing.assert_allclose(H @ Sigma, 2 * s.p[:, None] * Sigma, atol=1e-4 * abs(H @ Sigma).max())


@pytest.mark.parametrize("products", [False, True])
def test_degenerate_cases(products):
    def solve(H, g, lr):
        matrix = torch.from_numpy(H)
        return stationary.solve((lambda V: matrix @ V) if products else H, g, lr)

    g = np.array([0.1, 0.0, 0.2])
    none = solve(np.zeros((3, 3)), g, math.inf)
    assert (none.p == 0).all()
    assert none.gap == 0
    assert (none.nu == 0).all()
    alone = solve(np.zeros((3, 3)), g, 0.5)
    np.testing.assert_allclose(alone.p, g / 0.5, atol=1e-6)
    assert (solve(-np.eye(3), g, math.inf).p == 0).all()
    one = solve(np.array([[3.0]]), np.array([0.1]), 1.0)
    np.testing.assert_allclose(one.p, [1.5], rtol=1e-6)
    mixed = solve(np.diag([-1.0, 2.0, 0.0]), g, 0.1)
    np.testing.assert_allclose(mixed.p, [1.0, 1.0, 2.0], rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_follows_the_gradient(dtype):
    H = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=dtype)
    for given in (H, lambda V: H @ V):
        s = stationary.solve(given, torch.ones(2, dtype=dtype), 1.0)
        assert s.p.dtype == s.nu.dtype == s.factor.dtype == dtype
    assert isinstance(stationary.solve(H.double().numpy(), np.ones(2), 1.0).p, np.ndarray)


def test_products_of_an_objective():
    """`Objective.hvp` differentiates anew at each call, and has to be allowed to."""
    f, lr = mlp_objective(), 0.02
    g = f.value_and_grad(f.w0)[1]
    s = stationary.solve(lambda V: f.hvp(f.w0, V), g, lr)
    dense = stationary.solve(hessian(f, f.w0), g.numpy(), lr)
    assert s.primal == pytest.approx(dense.primal, rel=1e-6)
    assert feasible(s.p.numpy(), hessian(f, f.w0))


def test_low_rank_at_some_size():
    rng = np.random.default_rng(0)
    n = 3000
    R = torch.from_numpy(rng.standard_normal((n, 5))) * torch.tensor([3.0, 2, 1, 1, 1])
    d = torch.from_numpy(rng.uniform(0, 1, n))
    g = rng.standard_normal(n)
    products = 0

    def hvp(V):
        nonlocal products
        products += V.shape[1]
        return d[:, None] * V + R @ (R.T @ V) / n

    s = stationary.solve(hvp, g, 3.0, tol=1e-6)
    assert s.gap <= 1e-6
    assert s.hvps == products < 100
    again = stationary.solve(hvp, g, 3.0, start=s.factor, tol=1e-6)
    assert again.hvps < s.hvps / 2
    direct = stationary.solve(hvp, g, 3.0, tol=1e-6, remember=0)  # H itself in place of what is known of it
    assert direct.gap <= 1e-6
    assert direct.primal == pytest.approx(s.primal, rel=2e-6)
    np.testing.assert_allclose(direct.p, s.p, rtol=0.02)


@pytest.mark.parametrize(("seed", "lr"), [(10, math.inf), (26, 30.0)])
def test_where_the_ascents_stall_all_of_a_small_hessian_is_asked_for(seed, lr):
    """Top eigenvalues of a negative semidefinite P⁻¹H, a millionth of its lowest, are never found exactly enough."""
    rng, n = np.random.default_rng(seed), 150
    A, g = torch.from_numpy(rng.standard_normal((n, n))), rng.standard_normal(n)
    s = stationary.solve(lambda V: -A @ (A.T @ V) / n, g, lr, remember=0)
    assert s.primal == pytest.approx(stationary.solve(-(A @ A.T) / n, torch.from_numpy(g), lr).primal, rel=1e-6)


@pytest.mark.parametrize("v", [[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
def test_nothing_holds_down_where_nothing_curves_up(v):
    """-vvᵀ has the largest eigenvalue 0, but for rounding."""
    assert not stationary.solve(-np.outer(v, v), np.ones(3), math.inf).p.any()


@pytest.mark.parametrize("tol", [1e-6, 1e-7, 1e-8, 1e-10])
@pytest.mark.parametrize("seed", [127, 133, 139])
def test_small_learning_rates_converge_to_any_gap(seed, tol):
    """Where g/η is a thousand times H, P is all but |g|/η, and little is left for the duals to agree on."""
    H, g, lr = problem(seed, 61)
    assert lr == 1e-3
    assert stationary.solve(H, g, lr, tol=tol).gap <= tol


def test_what_is_not_success_is_said():
    H = torch.from_numpy(problem(1)[0])
    g = torch.ones(len(H), dtype=torch.float64)
    with pytest.raises(ConvergenceError, match="products were spent") as caught:
        stationary.solve(lambda V: H @ V, g, 1.0, max_products=5, tol=1e-12)
    s = caught.value.solution
    assert not s.converged
    assert 0 < s.gap < math.inf
    assert feasible(s.p.numpy(), H.numpy())
    assert not stationary.solve(lambda V: H @ V, g, 1.0, max_products=5, tol=1e-12, throw=False).converged
    with pytest.raises(DivergenceError, match="not finite"):
        stationary.solve(lambda V: V * math.nan, g, 1.0)


def test_rounding_of_p_leaves_it_feasible():
    H = torch.diag(torch.tensor([1.0, 0.3, 0.7])) / 3
    p = stationary.solve(H, torch.ones(3) * 1e-3, math.inf).p
    assert (2 * p.double() >= H.double().diagonal()).all()


@pytest.mark.parametrize("lr", [np.float32(0.5), torch.tensor(0.5)])
def test_a_learning_rate_may_be_a_scalar_of_any_kind(lr):
    assert stationary.solve(torch.eye(2), torch.ones(2), lr).p[0] == pytest.approx(2.0)


def test_rank_cap_is_named():
    A = np.random.default_rng(0).standard_normal((300, 300))
    H = torch.from_numpy(A + A.T)
    with pytest.raises(ConvergenceError, match=r"λ_max.* is still [23]\.\d+ at rank 2, the largest.*max_rank"):
        stationary.solve(
            lambda V: H @ V, torch.full((len(H),), 1e-3).double(), 1.0, start=torch.ones(len(H), 1), max_rank=2
        )


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_products_at_any_scale(scale):
    H, g, _ = problem(3, 61)
    matrix = scale * torch.from_numpy(H)
    s, dense = stationary.solve(lambda V: matrix @ V, scale * g, 1.0), stationary.solve(H, g, 1.0)
    assert s.primal / scale == pytest.approx(dense.primal, rel=2e-6)


def test_random_problems_by_products_and_dense():
    """Among them are saddles of the dual over low ranks, and eigenvalues just above 2 that hide from a guess."""
    for seed in range(24):
        H, g, lr = problem(seed, 120)
        matrix = torch.from_numpy(H)
        s, dense = stationary.solve(lambda V, H=matrix: H @ V, g, lr), stationary.solve(H, g, lr)
        assert s.primal == pytest.approx(dense.primal, rel=2e-6, abs=1e-9), seed
        assert feasible(s.p, H), seed


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize(
    ("n", "few", "b", "h"),
    [(600, 80, 1e-2, 2.3), (1500, 3, 1e-4, 3.0), (400, 3, 0.1, 3.0), (200, 40, 1e-2, 2.3)],
)
def test_what_hides_in_few_weights_is_found(n, few, b, h, cold):
    """A diagonal H: λ_max(P⁻¹H) > 2 in a few weights that weigh next to nothing in a guess or a random vector."""
    size, curvature = np.ones(n), 1.2 * np.ones(n)
    size[:few], curvature[:few] = b, b * h
    H = torch.from_numpy(curvature)[:, None]
    s = stationary.solve(lambda V: H * V, size, 1.0, start=None if cold else np.zeros((n, 1)))
    best = np.maximum(size, curvature / 2)
    assert s.primal == pytest.approx((best + size**2 / best).sum(), rel=1e-6)
    assert (curvature / s.p).max() <= 2 + 2e-6


def test_an_eigenvalue_that_the_guess_does_not_see():
    """The guess solves the problem of one block; the other has eigenvalues beyond 2 for the P that comes of it."""
    n = 400
    H = torch.zeros(n, n, dtype=torch.float64)
    H[: n // 2, : n // 2] = 1.0
    H[n // 2 :, n // 2 :] = 0.05
    start = torch.cat([torch.ones(n // 2), torch.zeros(n // 2)])[:, None].double()
    s = stationary.solve(lambda V: H @ V, torch.full((n,), 0.1).double(), 1.0, start=start)
    assert s.primal == pytest.approx(stationary.solve(H, np.full(n, 0.1), 1.0).primal, rel=1e-6)
    assert feasible(s.p.numpy(), H.numpy())


@pytest.mark.parametrize(
    ("hessian", "grad", "lr", "error", "message"),
    [
        (np.eye(2), np.ones(2), 0.0, ValueError, "lr is 0.0"),
        (np.eye(2), np.ones(2), math.nan, ValueError, "lr is nan"),
        (np.eye(3), np.ones(2), 1.0, ValueError, r"hessian has shape \(3, 3\)"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), np.ones(2), 1.0, ValueError, "not symmetric"),
        (np.eye(2) * math.nan, np.ones(2), 1.0, ValueError, "hessian holds"),
        (np.eye(2), np.array([1.0, math.inf]), 1.0, ValueError, "grad holds"),
        (np.eye(2), np.array([1, 2]), 1.0, TypeError, "convert it to floats"),
        (np.eye(2), [1.0, 2.0], 1.0, TypeError, "grad is a list"),
        (lambda V: V[:, 0], np.ones(2), 1.0, ValueError, r"hessian\(V\) gave"),
        (lambda V: None, np.ones(2), 1.0, ValueError, "gave NoneType"),
        (lambda V: V.cumsum(0), torch.ones(4), 1.0, ValueError, "not symmetric"),
    ],
)
def test_bad_input_is_named(hessian, grad, lr, error, message):
    with pytest.raises(error, match=message):
        stationary.solve(hessian, grad, lr)
    with pytest.raises(ValueError, match="remember is -1"):
        stationary.solve(np.eye(2), np.ones(2), 1.0, remember=-1)
    with pytest.raises(ValueError, match="not symmetric"):
        stationary.solve(lambda V: V.cumsum(0), torch.ones(4), 1.0, remember=0)


def test_unconstrained_against_cvxpy():
    import cvxpy as cp

    A = np.random.default_rng(0).standard_normal((5, 5))
    for H in ((A + A.T) / 2, A @ A.T):
        P = cp.Variable((5, 5), PSD=True)
        cp.Problem(cp.Minimize(cp.trace(P)), [2 * P - H >> 0]).solve(solver="CLARABEL")
        np.testing.assert_allclose(stationary.unconstrained(H), P.value, atol=1e-6 * abs(H).max())
    np.testing.assert_allclose(stationary.unconstrained(A @ A.T), A @ A.T / 2, rtol=1e-10, atol=1e-12)
    assert isinstance(stationary.unconstrained(torch.eye(2)), torch.Tensor)


def test_an_eigenvalue_that_was_missed_at_first_does_not_end_the_search(monkeypatch):
    """An early certificate is then far too good, and none of the next can do better for a while."""
    rng, n, calls = np.random.default_rng(0), 300, 0
    R = rng.standard_normal((n, 30)) * np.geomspace(3, 2, 30)
    H, pairs = torch.from_numpy(R @ R.T), low_rank.top_eigenpairs

    def seeing_little(product, p, k, guess, tol, **options):
        nonlocal calls
        calls += 1
        found = pairs(product, p, k, guess, tol, **options)
        if calls > 1:
            return found
        return replace(found, values=found.values.clamp(max=2), residuals=0 * found.residuals)

    monkeypatch.setattr(low_rank, "top_eigenpairs", seeing_little)
    start = torch.from_numpy(np.sign(R[:, :1])) * 0.99
    solution = stationary.solve(lambda V: H @ V, rng.standard_normal(n), math.inf, start=start, throw=False)
    assert calls > 5
    assert solution.converged, solution.message
