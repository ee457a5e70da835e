import numpy as np
import pytest
import torch
from conftest import hessian, mlp_objective

import cflows
from cflows import GradientDescent, Objective, RMSProp, ScalarRMSProp, flows

OPTIMIZERS = [
    RMSProp(0.05, 0.9, 1e-3),
    RMSProp(0.05, 0.95, bias_correction=True),
    RMSProp(lambda t: 0.05 / (1 + 0.1 * t), 0.9),
    ScalarRMSProp(0.05, 0.9),
    GradientDescent(0.05),
]


def setting(opt, seed=0, k=3):
    """A point of a small network, any ν, and any P-orthonormal U: what `drift` and `velocity` say holds for each."""
    f = mlp_objective()
    rng = np.random.default_rng(seed)
    nu = opt.moment(torch.from_numpy(rng.uniform(0.5, 2, f.dim)))
    t = 4.0
    p = opt.preconditioner(nu, t).expand(f.dim)
    U = np.linalg.qr(rng.standard_normal((f.dim, k)))[0] / np.sqrt(p.numpy())[:, None]
    U = torch.from_numpy(U)
    X = rng.standard_normal((k, k))
    X = X @ X.T / 50
    g = f.value_and_grad(f.w0)[1]
    A = 2 * U.T @ (p[:, None] * U) - U.T @ f.hvp(f.w0, U)
    return f, nu, t, g, flows.Critical(A.numpy(), U, f.hessian_gradients(f.w0, U)), X


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_drift_against_differences_along_the_flow(opt):
    """A' = α + B[X]: let time pass for a little while, and look how 2UᵀPU - UᵀHU has changed."""
    f, nu, t, g, critical, X = setting(opt)
    _, U, _ = critical
    dt = 1e-5
    alpha, B = flows.drift(opt, nu, t, g, critical, (t - dt, t + dt))
    dw, dnu = flows.velocity(opt, nu, t, g, flows.Oscillation.of(critical, X))

    def seen(s):
        p = opt.preconditioner(nu + s * dnu, t + s).expand(f.dim)
        return (2 * U.T @ (p[:, None] * U) - U.T @ f.hvp(f.w0 + s * dw, U)).numpy()

    twin = (seen(dt) - seen(-dt)) / (2 * dt)
    np.testing.assert_allclose(alpha + np.einsum("abcd,cd->ab", B, X), twin, rtol=1e-6, atol=1e-7 * abs(twin).max())


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_B_is_symmetric_and_positive_semidefinite(opt):
    _, nu, t, g, critical, _ = setting(opt)
    _, B = flows.drift(opt, nu, t, g, critical, (t, t + 1))
    for axes in ((2, 3, 0, 1), (1, 0, 2, 3), (0, 1, 3, 2)):
        np.testing.assert_array_equal(B, B.transpose(axes))
    spectrum = np.linalg.eigvalsh(B.reshape(9, 9))
    assert spectrum[0] >= -1e-12 * spectrum[-1]
    assert spectrum[-1] > 0


def test_velocity_against_the_equations_written_out():
    opt = RMSProp(0.05, 0.9)
    f, nu, t, g, critical, X = setting(opt)
    eps = 1e-5
    Sigma = critical.U.numpy() @ X @ critical.U.numpy().T
    dw, dnu = flows.velocity(opt, nu, t, g, flows.Oscillation.of(critical, X))
    penalty = np.zeros(f.dim)
    for i in range(f.dim):  # ½ ∂⟨Σ, H(w)⟩ / ∂wᵢ with the dense Hessian
        e = torch.zeros_like(f.w0)
        e[i] = eps
        penalty[i] = 0.5 * np.vdot(Sigma, hessian(f, f.w0 + e) - hessian(f, f.w0 - e)) / (2 * eps)
    np.testing.assert_allclose(dw.numpy(), -0.05 / np.sqrt(nu.numpy()) * (g.numpy() + penalty), rtol=1e-6, atol=1e-9)
    twin = (0.1 / 0.9) * (g.numpy() ** 2 + 4 * nu.numpy() / 0.05**2 * np.diag(Sigma) - nu.numpy())
    np.testing.assert_allclose(dnu.numpy(), twin, rtol=1e-12)


def test_stable_flow_is_of_fourth_order():
    opt, f = RMSProp(0.02, 0.9), mlp_objective()
    nu = torch.full_like(f.w0, 0.5)

    def end(m):
        w, v = f.w0, nu
        for j in range(m):
            w, v, X = flows.step(f, opt, w, v, 1 + j * 8 / m, 8 / m, f.value_and_grad(w)[1])
            assert X.size == 0
        return w

    errors = [(end(m) - end(64)).norm().item() for m in (2, 4, 8)]
    assert errors[0] / errors[1] > 10
    assert errors[1] / errors[2] > 10


def valley(eta=0.2, b=0.01):
    """Case with a known answer: L = ½yx² - by. The sharpness is y, and descent along y raises it."""
    start = torch.tensor([0.1, 0.97 * 2 / eta], dtype=torch.float64)
    return Objective(lambda w: 0.5 * w[1] * w[0] ** 2 - b * w[1], start), GradientDescent(eta), b


def test_gradient_descent_in_the_valley_has_the_known_central_flow():
    (f, opt, b), eta = valley(), 0.2
    central = cflows.simulate(f, opt, 400, ("central",), progress=False)["central"].isel(step=slice(-100, None))
    np.testing.assert_allclose(central["eigenvalues"][:, 0], 2, atol=1e-9)  # y stays at 2 / η
    np.testing.assert_allclose(central["loss"], -b * 2 / eta, rtol=1e-9)  # x = 0
    np.testing.assert_allclose(eta * central["variances"][:, 0], 2 * b, rtol=1e-9)  # Σ = uXuᵀ with u = √η e₁
    np.testing.assert_allclose(central["predicted_loss"], 0, atol=1e-9)


def test_gradient_descent_in_the_valley_has_the_known_time_average():
    """From dy/dt = η(b - ½x²): as long as y stays where it is, the time-average of ½x² is b."""
    eta, b = 0.2, 0.001
    f = Objective(
        lambda w: 0.5 * w[1] * w[0] ** 2 - b * w[1], torch.tensor([(2 * b) ** 0.5, 2 / eta], dtype=torch.float64)
    )
    loss = cflows.simulate(f, GradientDescent(eta), 2000, ("discrete",), coords=[1], progress=False)["discrete"][
        "grad_sq"
    ]
    slope = np.sqrt(loss.values[:, 0])  # |½x² - b|
    w, half_squares = f.w0, []
    for _ in range(2000):
        half_squares.append(0.5 * float(w[0]) ** 2)
        w = w - eta * torch.stack([w[0] * w[1], 0.5 * w[0] ** 2 - b])
    np.testing.assert_allclose(slope, abs(np.array(half_squares) - b), atol=1e-12)
    assert np.mean(half_squares) == pytest.approx(b - (float(w[1]) - 2 / eta) / eta / 2000, rel=1e-12)
    assert np.mean(half_squares) == pytest.approx(b, rel=1e-3)


def test_scalar_rmsprop_at_the_edge_has_the_known_nu():
    """At the edge the effective step size η / √ν is 2 / S, so ν = (ηS/2)²."""
    b = 0.01
    f = Objective(lambda w: 0.5 * w[1] * w[0] ** 2 - b * w[1], torch.tensor([0.1, 5.0], dtype=torch.float64))
    opt = ScalarRMSProp(0.02, 0.95, bias_correction=True)
    central = cflows.simulate(f, opt, 600, ("central",), coords=[0], progress=False)["central"]
    locked = central["variances"][:, 0] > 0
    assert int(locked.sum()) > 100
    last = central.isel(step=-1)
    sharpness = -float(last["loss"]) / b  # x = 0: L = -by, S = y
    nu = float(last["nu"][0]) / (1 - 0.95**600)
    assert nu == pytest.approx((0.02 * sharpness / 2) ** 2, rel=1e-6)


def test_halving_the_substep_moves_the_central_flow_by_less_each_time():
    f = mlp_objective(width=8, examples=20)
    opt = RMSProp(0.01, 0.95, bias_correction=True)
    ends = {}
    for m in (1, 2, 4, 8):
        tree = cflows.simulate(f, opt, 80, ("central",), substeps=m, eigs=3, eig_tol=1e-7, progress=False)
        locked = (tree["central"]["variances"] > 0).any("eig")
        assert int(locked.sum()) > 30  # it is the central flow that is tested
        ends[m] = tree["central"]["predicted_loss"].values[-20:]
    moves = [np.linalg.norm(ends[2 * m] - ends[m]) for m in (1, 2, 4)]
    assert moves[0] > 1.8 * moves[1] > 1.8**2 * moves[2]
