import numpy as np
import pytest

from cflows import quadratic

H = np.array([[2.0, 1.2], [1.2, 1.6]])
P = np.array([2.0, 0.6])


def test_eigenpairs_satisfy_their_definition():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((7, 7))
    A, p = A + A.T, rng.uniform(0.1, 10, 7)
    lam, Q = quadratic.effective_eigh(A, p)
    np.testing.assert_allclose(A @ Q, p[:, None] * Q * lam, atol=1e-12)
    np.testing.assert_allclose(Q.T @ (p[:, None] * Q), np.eye(7), atol=1e-12)
    assert (np.diff(lam) < 0).all()


def test_each_step_multiplies_a_right_eigenvector_by_one_minus_lambda():
    lam, Q = quadratic.effective_eigh(H, P)
    for j in range(2):
        iterates = quadratic.preconditioned_gd(H, P, Q[:, j], 5)
        np.testing.assert_allclose(iterates, np.outer((1 - lam[j]) ** np.arange(6), Q[:, j]), atol=1e-13)


def test_divergence_is_along_the_right_eigenvector_not_that_of_the_hessian():
    p = P * quadratic.effective_eigh(H, P)[0][0] / 2.1
    lam, Q = quadratic.effective_eigh(H, p)
    assert lam[0] == pytest.approx(2.1)
    last = quadratic.preconditioned_gd(H, p, np.array([0.9, 0.5]), 80)[-1]
    top = np.linalg.eigh(H)[1][:, -1]

    def angle(a, b):
        return np.degrees(np.arccos(min(1.0, abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b))))

    assert angle(last, Q[:, 0]) < 1
    assert angle(last, top) > 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((2, 3)), P), ValueError, r"\(2, 3\)"),
        ((H, np.ones(3)), ValueError, r"\(3,\)"),
        ((np.array([[1.0, 2.0], [0.0, 1.0]]), P), ValueError, "not symmetric"),
        ((H, np.array([1.0, -0.5])), ValueError, "-0.5"),
        ((H.astype(int), P), TypeError, "int64"),
        ((np.array([[np.nan, 0], [0, 1.0]]), P), ValueError, "not finite"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        quadratic.effective_eigh(*arguments)


def test_bad_start_and_steps_are_named():
    with pytest.raises(ValueError, match=r"w0 has shape \(3,\)"):
        quadratic.preconditioned_gd(H, P, np.ones(3), 2)
    with pytest.raises(ValueError, match="steps is -1"):
        quadratic.preconditioned_gd(H, P, np.ones(2), -1)
