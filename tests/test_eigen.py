import numpy as np
import pytest
import scipy.linalg
import torch

from cflows import ConvergenceError, eigen
from cflows.eigen import top_eigenpairs


def matrix(spectrum, seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((len(spectrum), len(spectrum))))[0]
    return (Q * spectrum) @ Q.T


def solve(H, p, k, **options):
    H, p = torch.from_numpy(H), torch.from_numpy(p)
    return top_eigenpairs(lambda V: H @ V, p, k, **options)


SPECTRA = {
    "separated": np.concatenate([[9, 7, 5, 3, 2.5], np.linspace(1, -2, 75)]),
    "cluster": np.concatenate([[2, 2, 2, 1.999, 1.998], np.linspace(1, 0, 75)]),
    "condition 1e5": np.geomspace(1e5, 1, 80),
    "negative": -np.linspace(1, 80, 80),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_against_scipy(name):
    n, k = 80, 5
    rng = np.random.default_rng(1)
    p = rng.uniform(0.5, 2, n)
    H = np.sqrt(p)[:, None] * matrix(SPECTRA[name]) * np.sqrt(p)  # so that P⁻¹H has the given spectrum
    s = solve(H, p, k, tol=1e-7, max_products=3000)
    exact = scipy.linalg.eigh(H, np.diag(p), eigvals_only=True)[::-1]
    scale = abs(exact).max()
    np.testing.assert_allclose(s.values.numpy(), exact[:k], atol=1e-9 * scale)
    U, HU = s.U.numpy(), s.HU.numpy()
    np.testing.assert_allclose(U.T @ (p[:, None] * U), np.eye(k), atol=1e-10)
    np.testing.assert_allclose(HU, H @ U, atol=1e-9 * scale)
    twin = np.linalg.norm((H @ U - p[:, None] * U * s.values.numpy()) / np.sqrt(p)[:, None], axis=0)
    np.testing.assert_allclose(s.residuals.numpy(), twin, atol=1e-9 * scale)
    assert (twin <= 1.01e-7 * scale).all()


def test_a_good_start_saves_products():
    H, p = matrix(SPECTRA["separated"]), np.ones(80)
    cold = solve(H, p, 4, tol=1e-4)
    moved = H + 1e-3 * matrix(np.linspace(-1, 1, 80), seed=2)
    warm = solve(moved, p, 4, start=cold.start, tol=1e-3)
    assert warm.products <= 12 < cold.products


def test_a_new_eigenvector_orthogonal_to_every_guess_is_found():
    p = np.ones(30)
    H = np.diag(np.concatenate([[3.0, 2.0], np.linspace(1, 0, 28)]))
    pairs = solve(H, p, 2, tol=1e-8)
    for rise in np.linspace(0, 5, 20):  # decoupled: the residuals of the tracked pairs never point there
        H[29, 29] = rise
        pairs = solve(H, p, 2, start=pairs.start, tol=1e-3)
    np.testing.assert_allclose(pairs.values.numpy(), [5.0, 3.0], atol=1e-4)


def test_all_pairs_of_a_tiny_problem():
    H = np.array([[2.0, 1.0], [1.0, -1.0]])
    s = solve(H, np.array([1.0, 4.0]), 2)
    np.testing.assert_allclose(s.values.numpy(), scipy.linalg.eigh(H, np.diag([1.0, 4.0]))[0][::-1], atol=1e-12)
    assert solve(np.zeros((3, 3)), np.ones(3), 2).converged


def test_exact_eigenvectors_as_a_start_leave_no_residual_to_follow():
    H, p = np.diag(np.arange(40.0)), np.ones(40)
    start = torch.eye(40, dtype=torch.float64)[:, [39, 38, 37, 0]]  # the spare is an eigenvector too: no direction left
    s = top_eigenpairs(lambda V: torch.from_numpy(H) @ V, torch.from_numpy(p), 3, start, tol=1e-8)
    np.testing.assert_allclose(s.values.numpy(), [39, 38, 37], atol=1e-12)
    np.testing.assert_allclose((s.U.T @ s.U).numpy(), np.eye(3), atol=1e-12)


def test_float32():
    H, p = matrix(SPECTRA["separated"]).astype(np.float32), np.ones(80, dtype=np.float32)
    s = solve(H, p, 3, tol=1e-4)
    assert s.U.dtype == torch.float32
    np.testing.assert_allclose(s.values.numpy(), [9, 7, 5], rtol=1e-5)


def test_looser_where_asked():
    H, p = matrix(SPECTRA["condition 1e5"]), np.ones(80)
    strict, loose = (solve(H, p, 4, tol=1e-5, loose_below=x, max_products=2000) for x in (-np.inf, 9e4))
    assert loose.products <= strict.products
    assert (strict.residuals <= 1e-5 * 1e5).all()
    assert loose.residuals[0] <= 1e-5 * 1e5
    assert (loose.residuals <= 3e-5 * 1e5).all()


def test_outcomes_that_are_not_success():
    H, p = matrix(np.geomspace(1e5, 1, 80)), np.ones(80)
    with pytest.raises(ConvergenceError, match=r"3 eigenpairs .* in \d+ products: residuals") as caught:
        solve(H, p, 3, tol=1e-10, max_products=10)
    assert not caught.value.solution.converged
    assert not solve(H, p, 3, tol=1e-10, max_products=10, throw=False).converged


@pytest.mark.parametrize(
    ("H", "p", "k", "message"),
    [
        (np.eye(3), np.ones(3), 0, "k is 0"),
        (np.eye(3), np.ones(3), 4, "k is 4; with 3 weights"),
        (np.eye(3), np.array([1.0, 0.0, 1.0]), 1, r"1 of its 3 entries.*eps"),
        (np.full((3, 3), np.nan), np.ones(3), 1, "not finite"),
    ],
)
def test_bad_input_is_named(H, p, k, message):
    with pytest.raises(ValueError, match=message):
        solve(H, p, k)


def path(spectrum, k, **options):
    """Products on a path along which the eigenvectors turn by a few thousandths a step, and the largest error."""
    n = len(spectrum)
    H, A = matrix(spectrum), np.random.default_rng(1).standard_normal((n, n))
    R = scipy.linalg.expm(0.003 * (A - A.T) / np.sqrt(n))
    start, products, error = None, 0, 0.0
    for _ in range(12):
        s = solve(H, np.ones(n), k, start=start, tol=1e-3, **options)
        start, products = s.start, products + s.products
        error = max(error, abs(s.values.numpy() - np.sort(np.linalg.eigvalsh(H))[::-1][:k]).max())
        H = R @ H @ R.T
    return products, error


NEAR_2 = np.concatenate([[2.05, 2, 1.98, 1.9, 1.5, 1.3], np.geomspace(1, 1e-3, 194)])
CLUSTER = np.concatenate([2 * np.ones(6), np.linspace(1.9, 0, 194)])


def test_costs_along_a_path(monkeypatch):
    assert path(NEAR_2, 4)[0] <= 150  # from random vectors at each step: 456
    products, error = path(NEAR_2, 6, loose_below=1.6)
    assert products <= 195
    assert error <= 1e-4
    assert path(NEAR_2, 6)[0] > 195
    monkeypatch.setattr(eigen, "LOOSE_FACTOR", 15)
    assert path(NEAR_2, 6, loose_below=1.6)[1] > 1e-4


@pytest.mark.parametrize(("constant", "value"), [("KEPT_PER_PAIR", 1), ("EXPANSION", 3), ("EXPANSION", 8)])
def test_costs_of_a_cold_start_with_restarts(constant, value, monkeypatch):
    def products():
        return [
            solve(matrix(s), np.ones(200), 4, tol=1e-6, max_products=5000).products
            for s in (np.geomspace(1e5, 1, 200), CLUSTER)
        ]

    first, second = products()
    assert first <= 80
    assert second <= 185
    monkeypatch.setattr(eigen, constant, value)
    assert products()[0] > 80
    assert products()[1] > 185
