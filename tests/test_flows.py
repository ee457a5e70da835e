from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import hessian, mlp_objective

import cflows
from cflows import GradientDescent, Objective, RMSProp, ScalarRMSProp, differences, flows, sdcp
from cflows.critical import Critical, Modes
from cflows.eigen import Eigenpairs
from cflows.processes import subspace

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
    return f, nu, t, g, Critical(A.numpy(), U, f.hessian_gradients(f.w0, U)), X


@pytest.mark.parametrize("penalised", [True, False])
@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_drift_against_differences_along_the_flow(opt, penalised):
    """A' = α + B[X]: let time pass for a little while, and see how 2UᵀPU - UᵀHU has changed."""
    f, nu, t, g, critical, X = setting(opt)
    critical, U = critical._replace(penalised=penalised), critical.U
    dt = 1e-5
    drift = flows.drift(opt, nu, t, g, critical, (t - dt, t + dt))
    alpha, B = drift.alpha, drift.B
    dw, dnu = flows.velocity(opt, nu, t, g, flows.Oscillation.of(critical, X))

    def seen(s):
        p = opt.preconditioner(nu + s * dnu, t + s).expand(f.dim)
        return (2 * U.T @ (p[:, None] * U) - U.T @ f.hvp(f.w0 + s * dw, U)).numpy()

    twin = (seen(dt) - seen(-dt)) / (2 * dt)
    np.testing.assert_allclose(alpha + np.einsum("abcd,cd->ab", B, X), twin, rtol=1e-6, atol=1e-7 * abs(twin).max())


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_B_is_symmetric_and_positive_semidefinite(opt):
    _, nu, t, g, critical, _ = setting(opt)
    drift = flows.drift(opt, nu, t, g, critical, (t, t + 1))
    for B in (drift.B, drift.curvature, drift.growth):
        for axes in ((2, 3, 0, 1), (1, 0, 2, 3), (0, 1, 3, 2)):
            np.testing.assert_array_equal(B, B.transpose(axes))
        spectrum = np.linalg.eigvalsh(B.reshape(9, 9))
        assert spectrum[0] >= -1e-12 * spectrum[-1]
        assert (spectrum[-1] > 0) == (B is not drift.growth or opt.rate > 0)


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_balance_against_each_mechanism_by_itself(opt):
    """Let only w, or only ν, feel the oscillation, and see how fast the eigenvalues fall along its axes."""
    f, nu, t, g, critical, X = setting(opt)
    balance = flows.Balance.of(flows.drift(opt, nu, t, g, critical, (t, t + 1)), X)
    sigma = flows.Oscillation.of(critical, X)
    (dw, dnu), (dw0, dnu0) = flows.velocity(opt, nu, t, g, sigma), flows.velocity(opt, nu, t, g)
    x, Q = np.linalg.eigh(X)
    V = critical.U @ torch.from_numpy(Q)

    def seen(w, v):
        p = opt.preconditioner(v, t).expand(f.dim)
        return ((2 * p[:, None] * V - f.hvp(w, V)) * V).sum(0).numpy()  # 2 - λ along each axis

    h = 1e-5
    twins = [
        (seen(f.w0 + h * (dw - dw0), nu) - seen(f.w0 - h * (dw - dw0), nu)) / (2 * h),
        (seen(f.w0, nu + h * (dnu - dnu0)) - seen(f.w0, nu - h * (dnu - dnu0))) / (2 * h),
    ]
    for rate, twin in zip((balance.curvature, balance.growth), twins, strict=True):
        assert rate == pytest.approx(np.average(twin, weights=x), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("opt", [opt for opt in OPTIMIZERS if not callable(opt.lr)])  # the schedule alone holds them
@pytest.mark.parametrize("dt", [1.0, 0.1])
def test_shares_sum_to_one_where_eigenvalues_are_held_at_two(opt, dt):
    """⟨X, A + dt (α + B[X])⟩ = 0 at the end of a step; from A = 0 what lowers them is what would raise them."""
    f, nu, t, g, critical, _ = setting(opt)
    at_two = critical._replace(A=np.zeros((3, 3)))
    step = flows.step(f, opt, f.w0, nu, t, dt, g, at_two)
    assert step.drift is not None
    rise, curvature, growth = flows.Balance.of(step.drift, step.X)
    assert min(curvature, growth) >= 0
    assert (growth == 0) == (opt.rate == 0)
    assert (curvature + growth) / rise == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("rank", [1, 3])
def test_squared_gradient_of_the_oscillation_against_the_dense_hessian(rank):
    """4p² ⊙ diag Σ = diag HΣH: on a small network at the edge, and for any H with a triple eigenvalue of P⁻¹H at 2."""
    rng = np.random.default_rng(0)
    f = mlp_objective()
    p, H = rng.uniform(0.5, 2, f.dim), hessian(f, f.w0)
    values, Q = cflows.quadratic.effective_eigh(H, p)
    if rank == 1:
        p = p * values[0] / 2
        Q = Q / np.sqrt(values[0] / 2)
    else:
        values[:rank] = 2
        H = (p[:, None] * Q * values) @ (p[:, None] * Q).T
    X = rng.standard_normal((rank, rank))
    X = X @ X.T
    Sigma = Q[:, :rank] @ X @ Q[:, :rank].T
    twin = np.diag(H @ Sigma @ H)
    extra = RMSProp(0.1, 0.9).excess(torch.from_numpy(p), torch.from_numpy(np.diag(Sigma).copy())).numpy()
    np.testing.assert_allclose(extra, twin, rtol=1e-10, atol=1e-12 * twin.max())


def test_predictions_against_gaussian_oscillations_on_a_quadratic():
    """Loss and ‖∇L‖² averaged over δ ~ N(0, Σ), by Monte Carlo, at a point where two eigenvalues are locked at 2."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((8, 8))
    H = torch.from_numpy(root @ root.T)
    f = Objective(lambda w: w @ H @ w / 2, torch.ones(8, dtype=torch.float64))
    opt = RMSProp(0.1, 0.95, bias_correction=True)
    tree = cflows.simulate(
        f, opt, 120, ("central",), eig_tol=1e-9, accuracy=4e-08, snapshot_every=1, coords=[2], progress=False
    )
    central, end = tree["central"].isel(step=-1), tree["snapshots/central"].isel(step=-1)
    assert int((central["variances"] > 0).sum()) >= 2
    np.testing.assert_allclose(central["eigenvalues"][:2], 2, rtol=1e-4)
    F, w = end["factor"].values, end["weights"].values
    at = w + rng.standard_normal((400_000, F.shape[1])) @ F.T
    losses, gradients = np.einsum("ij,jk,ik->i", at, H.numpy(), at) / 2, at @ H.numpy()
    for name, samples in (
        ("predicted_loss", losses),
        ("predicted_grad_norm_sq", (gradients**2).sum(1)),
        ("predicted_grad_sq", gradients[:, 2] ** 2),
    ):
        error = samples.std() / np.sqrt(len(samples))
        plain = float(np.ravel(central[name.replace("predicted_", "")])[0])
        predicted = float(np.ravel(central[name])[0])
        assert abs(predicted - samples.mean()) < 4 * error
        assert abs(predicted - plain) > 40 * error  # it is the oscillation that is tested


def test_spread_of_outputs_against_derivatives():
    rng = np.random.default_rng(0)
    w, F = torch.from_numpy(rng.standard_normal(5)), torch.from_numpy(rng.standard_normal((5, 2)) / 100)

    def h(w):
        return torch.stack([(w**3).sum(), w.exp().prod(), w[0]])

    mean, deviation = differences.spread(h, w, F)
    jacobian = torch.autograd.functional.jacobian(h, w)
    bends = [torch.autograd.functional.hessian(lambda w, i=i: h(w)[i], w) for i in range(3)]
    np.testing.assert_allclose(
        mean - h(w), [((F.T @ bend @ F).trace() / 2).item() for bend in bends], rtol=1e-6, atol=1e-12
    )
    np.testing.assert_allclose(deviation, (jacobian @ F).norm(dim=1), rtol=1e-6)
    still, none = differences.spread(h, w, F[:, :0])
    assert torch.equal(still, h(w))
    assert not none.any()


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
    ablated = flows.velocity(opt, nu, t, g, flows.Oscillation.of(critical._replace(penalised=False), X))
    np.testing.assert_array_equal(ablated[0].numpy(), (-g / opt.preconditioner(nu, t)).numpy())
    np.testing.assert_array_equal(ablated[1].numpy(), dnu.numpy())


@pytest.mark.parametrize("exponential", [False, True])
def test_the_stable_flow_is_of_second_order(exponential):
    """Whatever is given as its linear part; that decides how large the error is."""
    opt, f = RMSProp(0.02, 0.9), mlp_objective()
    nu = torch.full_like(f.w0, 0.5)
    p = opt.preconditioner(nu, 1)
    pairs = cflows.eigen.top_eigenpairs(lambda V: f.hvp(f.w0, V), p, 2, tol=1e-8)
    modes = Modes(2 * pairs.values, pairs.U, p[:, None] * pairs.U) if exponential else None

    def end(m):
        w, v = f.w0, nu
        for j in range(m):
            w, v, X, *_ = flows.step(f, opt, w, v, 1 + j * 8 / m, 8 / m, f.value_and_grad(w)[1], modes=modes)
            assert X.size == 0
        return w

    errors = [(end(m) - end(256)).norm().item() for m in (4, 8, 16)]
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


@pytest.mark.parametrize("dt", [0.3, 1.0])
def test_a_step_is_exact_along_known_eigenvectors(dt):
    """On a quadratic, with the right linear part, gradient descent's flow is e^{-λt}; without it, it is Heun's."""
    h = torch.tensor([2.0, 7.0, 0.5], dtype=torch.float64)
    w0 = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    f, opt = Objective(lambda w: (h * w.square()).sum() / 2, w0), GradientDescent(1.0)
    modes = Modes(h, torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    g, nu = f.value_and_grad(w0)[1], torch.zeros((), dtype=torch.float64)
    np.testing.assert_allclose(flows.step(f, opt, w0, nu, 1, dt, g, modes=modes).w, w0 * torch.exp(-h * dt), rtol=1e-12)
    heun = w0 * (1 - h * dt + (h * dt) ** 2 / 2)
    np.testing.assert_allclose(flows.step(f, opt, w0, nu, 1, dt, g).w, heun, rtol=1e-12)


def valley(eta=0.2, b=0.01):
    """Case with a known answer: L = ½yx² - by. The sharpness is y, and descent along y raises it."""
    start = torch.tensor([0.1, 0.97 * 2 / eta], dtype=torch.float64)
    return Objective(lambda w: 0.5 * w[1] * w[0] ** 2 - b * w[1], start), GradientDescent(eta), b


def test_gradient_descent_in_the_valley_has_the_known_central_flow():
    (f, opt, b), eta = valley(), 0.2
    central = cflows.simulate(f, opt, 400, ("central",), eig_every=1, progress=False)["central"].isel(
        step=slice(-100, None)
    )
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
    central = cflows.simulate(f, opt, 600, ("central",), substeps=2, coords=[0], accuracy=4e-08, progress=False)[
        "central"
    ]
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
        tree = cflows.simulate(
            f, opt, 80, ("central",), substeps=m, eigs=3, accuracy=4e-08, eig_every=1, progress=False
        )
        locked = (tree["central"]["variances"] > 0).any("eig")
        assert int(locked.sum()) > 30  # it is the central flow that is tested
        ends[m] = tree["central"]["predicted_loss"].values[-20:]
    moves = [np.linalg.norm(ends[2 * m] - ends[m]) for m in (1, 2, 4)]
    assert moves[0] > 2.5 * moves[1] > 2.5**2 * moves[2]


def test_while_p_grows_fast():
    """Curvature and P grow by 5 % a step: eigenvectors of the last refresh are then no longer of unit length."""
    f = Objective(lambda w: torch.exp(w[1] / 2) * w[0] ** 2 / 2 - 3 * w[1], torch.tensor([1.0, 0.0]).double())
    opt = RMSProp(0.1, 0.9, bias_correction=True)
    rough = cflows.simulate(f, opt, 70, ("central",), eigs=1, eig_every=4, accuracy=4e-05, progress=False)["central"]
    tight = cflows.simulate(f, opt, 70, ("central",), eigs=1, substeps=4, accuracy=4e-07, eig_every=1, progress=False)[
        "central"
    ]
    means = [float(flow["variances"][50:, 0].mean()) for flow in (rough, tight)]
    assert means[0] == pytest.approx(means[1], rel=0.01)
    seldom = cflows.simulate(f, opt, 80, ("central",), eigs=1, eig_every=20, accuracy=0.0002, progress=False)["central"]
    assert float(seldom["eigenvalues"][36:].max()) < 2.05


def test_while_eigenvectors_rotate_fast():
    """The valley of a known answer, seen in axes that turn: what oscillates keeps its variance 2b, T its size."""
    eta, b = 0.2, 0.05

    def loss(w):
        c, s = torch.cos(w[3]), torch.sin(w[3])
        u, v = c * w[0] + s * w[1], c * w[1] - s * w[0]
        return (w[2] * u**2 + 3 * v**2) / 2 - b * w[2] - w[3] / 2

    f = Objective(loss, torch.tensor([1e-3, 1e-3, 9.8, 0.0], dtype=torch.float64))
    tree = cflows.simulate(f, GradientDescent(eta), 80, ("central",), eigs=1, eig_every=20, progress=False)["central"]
    assert float(abs(tree["eigenvalues"][40:, 0] - 2).max()) < 1e-9
    np.testing.assert_allclose(tree["variances"][40:, 0], 2 * b / eta, rtol=1e-9)  # in the norm of P = 1/η


def test_nu_makes_up_for_a_bend_of_an_eigenvector():
    """Expected where it would be had it gone on turning as between the last two refreshes, it turns faster."""
    opt, age, x, nu = RMSProp(0.1, 0.99), 5.0, 0.3, torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    p = opt.preconditioner(nu, 1 + age)

    def eigenvector(t):
        angle = torch.as_tensor(0.8 + 0.002 * t + 0.0005 * t**2, dtype=torch.float64)
        return torch.stack([angle.cos(), angle.sin(), 0 * angle])[:, None] / p.sqrt()[:, None]

    start, turning = eigenvector(0), (eigenvector(0) - eigenvector(-age)) / age
    times = np.linspace(0, age, 1001)
    lacking = [eigenvector(t).square() - (start + t * turning).square() for t in times]
    wanted = torch.stack([opt.rate * 4 * p.square() * x * each[:, 0] for each in lacking]).mean(0) * age
    T = torch.zeros(1, 1, 3, dtype=torch.float64)
    critical = Critical(np.zeros((1, 1)), start + age * turning, T)
    modes = Modes(p.new_full((1,), 2.0), start, p[:, None] * start)
    known = subspace.Subspace(modes, critical, refreshed=1.0, interval=age)
    X = torch.tensor([[x]], dtype=torch.float64)
    deficit = known.missed(opt, p[:, None], eigenvector(age), X, 1 + age)
    np.testing.assert_allclose(deficit[:2], wanted[:2], rtol=0.05)
    assert deficit[2] == 0
    assert abs(deficit[:2]).min() > 1e-6
    after, mended = replace(known, deficit=deficit).compensate(opt, nu, 1 + age)
    torch.testing.assert_close(mended, nu + wanted, rtol=1e-3, atol=0)
    ahead = critical.U.T @ ((opt.preconditioner(mended, 1 + age) - p)[:, None] * critical.U)
    np.testing.assert_allclose(after.critical.A, 2 * ahead, rtol=1e-12)
    assert after.deficit is None
    large = replace(known, deficit=-nu).compensate(opt, nu, 1 + age)[1]  # not a correction of first order
    torch.testing.assert_close(large, 0.99 * nu)  # a hundredth at most


@pytest.mark.parametrize(("sin2", "recognised"), [(0.05, True), (0.2, False)])
def test_an_eigenvector_that_has_turned_far_is_a_new_one(sin2, recognised):
    """Its rate of turning is then unknown: zero."""
    opt, P, age = GradientDescent(1.0), torch.ones(3, 1, dtype=torch.float64), 2.0

    def found(sin):
        U = torch.tensor([[(1 - sin**2) ** 0.5], [sin], [0.0]], dtype=torch.float64)
        return subspace.Refresh(
            Eigenpairs(U.new_full((1,), 2.0), U, 2 * U, U.new_zeros(1), U[:, :0], 0, True), U, 2 * U, T
        )

    T, options = torch.zeros(1, 1, 3, dtype=torch.float64), {"error": 0.01, "penalised": True, "escaped": False}
    known = subspace.correct(None, opt, 1.0, 1.0, found(0.0), P, None, **options)[0]
    later = subspace.correct(known, opt, 1.0 + age, 1.0, found(sin2**0.5), P, None, **options)[0]
    assert later.critical is not None
    turning = torch.as_tensor(later.critical.dU).norm()
    assert turning == pytest.approx(sin2**0.5 / age if recognised else 0.0)


def test_an_eigenvalue_from_beyond_the_edge_falls_by_a_tenth_of_the_threshold_in_a_unit_of_time():
    """The valley L = ½yx² - by, from λ = ηy = 3."""
    f = Objective(lambda w: w[1] * w[0] ** 2 / 2 - 0.01 * w[1], torch.tensor([1e-3, 3.0], dtype=torch.float64))
    with pytest.warns(UserWarning, match="starts with 1 eigenvalues|not to be trusted"):
        tree = cflows.simulate(f, GradientDescent(1.0), 9, ("central",), eig_every=1, progress=False)
    np.testing.assert_allclose(tree["central"]["eigenvalues"][:6, 0], 3 - 0.2 * np.arange(6), atol=1e-3)
    np.testing.assert_allclose(tree["central"]["eigenvalues"][6:, 0], 2, rtol=1e-6)


def test_an_accuracy_beyond_single_precision_is_no_error():
    f = Objective(lambda w: (w**2).sum() + (w**4).sum(), torch.tensor([1.0, 2.0]))
    tree = cflows.simulate(f, GradientDescent(0.02), 3, ("central",), accuracy=4e-08, progress=False)
    assert tree["central"]["loss"].notnull().all()


def test_the_ablated_flow_leaves_the_central_flow_at_the_edge():
    """Without its curvature penalty ν alone holds the eigenvalues at 2, and it has to be larger."""
    f, opt = mlp_objective(width=8, examples=20), RMSProp(0.01, 0.95, bias_correction=True)
    tree = cflows.simulate(f, opt, 160, ("central", "ablated"), eig_every=1, progress=False)
    central, ablated = tree["central"], tree["ablated"]
    edge = int((central["variances"].values[:, 0] > 0).argmax())
    assert 0 < edge < 60
    np.testing.assert_array_equal(central["loss"][:edge], ablated["loss"][:edge])
    assert float(tree["distance"]["ablated-central"][-1]) > 0.01
    locked = ablated["variances"][edge + 5 :, 0] > 0
    assert locked.all()
    np.testing.assert_allclose(ablated["eigenvalues"][edge + 5 :, 0], 2, rtol=5e-3)
    assert (ablated["curvature_reduction"][edge + 1 :] == 0).all()
    assert float(ablated["nu_sum"][-1]) > 1.02 * float(central["nu_sum"][-1])


def test_the_stationary_flow_on_a_diagonal_quadratic_is_known():
    """p̄ = max(|g| / η, h / 2): it goes down at η while |g| / η > h / 2, that is |w| > η / 2, then w falls as e⁻²ᵗ."""
    h, w0, eta = np.array([1.0, 3.0, 0.2]), np.array([0.4, 0.31, 0.003]), 0.01
    f = Objective(lambda w: (torch.from_numpy(h) * w.square()).sum() / 2, torch.from_numpy(w0))
    tree = cflows.simulate(f, RMSProp(eta, 0.9), 50, ("stationary",), accuracy=4e-05, progress=False)["stationary"]
    straight = np.maximum(w0 - eta / 2, 0) / eta  # for so long
    t = np.arange(50.0)[:, None]
    w = np.where(t < straight, w0 - eta * t, np.minimum(w0, eta / 2) * np.exp(-2 * np.maximum(t - straight, 0)))
    loss = (h * w**2).sum(1) / 2
    np.testing.assert_allclose(tree["loss"], loss, atol=0.01 * loss[0])


@pytest.mark.parametrize("name", ["stationary", "ablated_stationary"])
def test_the_stationary_flow_against_a_naive_twin(name):
    """Small explicit steps with dense H, solved for at each, and ∇⟨Σ̄, H⟩ by differences of dense Hessians."""
    f, opt = mlp_objective(width=8, examples=20), RMSProp(0.01, 0.95)
    options = {"burn_in": 60, "progress": False, "eig_every": 100}
    run = cflows.simulate(f, opt, 6, ("discrete", name), accuracy=4e-06, snapshot_every=100, **options)
    w, m = torch.from_numpy(run["snapshots/discrete"]["weights"].values[0]), 50
    losses = [float(f.value_and_grad(w)[0])]
    for i in range(5 * m):
        g, H = f.value_and_grad(w)[1], hessian(f, w)
        s = cflows.stationary.solve(H, g.numpy(), 0.01)
        penalty = np.zeros(f.dim)
        for v in s.factor.T * (name == "stationary"):
            v = torch.from_numpy(v)
            change = f.hvp(w + 1e-4 * v, v[:, None]) - f.hvp(w - 1e-4 * v, v[:, None])
            penalty += 0.01**2 / 8 * change[:, 0].numpy() / 2e-4
        w = w - torch.from_numpy((g.numpy() + penalty) / s.p) / m
        if (i + 1) % m == 0:
            losses.append(float(f.value_and_grad(w)[0]))
    fall = losses[0] - losses[-1]
    np.testing.assert_allclose(run[name]["loss"], losses, atol=0.02 * fall)


def test_the_stationary_flow_far_from_the_edge():
    """Where P̄ is all but |g| / η it changes as fast as g does, and extrapolation must not run ahead of that."""
    f, opt = mlp_objective(width=3, examples=8), RMSProp(0.002, 0.95)
    tree = [
        cflows.simulate(f, opt, 60, ("stationary",), accuracy=accuracy, progress=False)["stationary"]
        for accuracy in (0.004, 1e-9)  # the second is solved for at every step
    ]
    assert int(tree[0]["gap"].notnull().sum()) < 50
    assert int(tree[1]["gap"].notnull().sum()) == 60
    np.testing.assert_allclose(tree[0]["loss"], tree[1]["loss"], atol=0.02 * float(tree[1]["loss"][0]))


def held(B, A, X):
    """A step whose drift and end are known."""
    zero = torch.zeros(1)
    return flows.Step(zero, zero, X, A, flows.Drift(np.zeros_like(A), B, np.zeros_like(B)), 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_where_directions_do_not_act_on_each_other_they_oscillate_independently(seed):
    """In any basis, at very different scales, and with errors of A and B of the size of rounding."""
    rng = np.random.default_rng(seed)
    k, Q = 4, np.linalg.qr(rng.standard_normal((4, 4)))[0]
    strength, x = 10 ** rng.uniform(-4, 0, k), rng.uniform(1, 2, k)
    x[0] = 0  # one that does not oscillate
    B = np.einsum("a,ia,ja,ka,la->ijkl", strength, Q, Q, Q, Q)
    S = rng.standard_normal((k * k, k * k))
    B += sdcp.symmetric((1e-11 * strength.min() * S @ S.T).reshape(B.shape))
    noise = 1e-9 * rng.standard_normal((k, k))
    A = Q @ np.diag(-strength * x + np.eye(k)[0] * 0.1) @ Q.T + strength.min() * (noise + noise.T)
    X = sdcp.solve(A, B).X
    step = held(B, A + np.einsum("abcd,cd", B, X), X)
    np.testing.assert_allclose(Q.T @ step.least(2.0).X @ Q, np.diag(x), atol=1e-3)
    assert abs(Q.T @ X @ Q - np.diag(x)).max() > 0.1  # as it would be otherwise


def test_an_eigenvalue_below_the_threshold_gets_no_variance_from_a_larger_one():
    """B[X] = tr X: it says nothing of who oscillates, and A does."""
    eye = np.eye(2)
    B = np.einsum("ab,cd->abcd", eye, eye)
    for gap, expected in ((0.01, [1.0, 0.0]), (1e-6, [0.5, 0.5])):
        A = np.diag([-1.0, gap - 1])
        X = sdcp.solve(A, B).X
        step = held(B, A + np.einsum("abcd,cd", B, X), X)
        np.testing.assert_allclose(step.least(2.0).X, np.diag(expected), atol=1e-5)
