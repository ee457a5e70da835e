"""Where there are few scales to see by: near minima, at saddles, at rest, beyond the edge."""

import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cflows
from cflows import DivergenceError, GradientDescent, Objective, RMSProp, simulate
from cflows.differences import Reach, third_derivatives
from cflows.eigen import top_eigenpairs
from cflows.processes import Central, Settings

DTYPES = [torch.float32, torch.float64]


def quiet(*arguments, **options):
    return simulate(*arguments, progress=False, **options)


@pytest.mark.parametrize("seed", range(3))
def test_near_a_minimum_single_precision_sees_what_double_precision_sees(seed):
    """The gradient is small there, what it is the sum of is not: differences of it drown in rounding early."""
    torch.manual_seed(seed)
    C, trees = torch.randn(30, 8) / 3, []
    for dtype in DTYPES:
        D = C.to(dtype)
        f = Objective(lambda w, D=D: ((D @ w).tanh() - 0.3).square().mean() + 0.3 * (D @ w).square().mean(),
                      1.5 * torch.ones(8, dtype=dtype))  # fmt: skip
        opt = RMSProp(2e-2, 0.95, bias_correction=True)
        trees.append(quiet(f, opt, 190, ("central",), accuracy=0.0004)["central"])
    for tree in trees:
        assert float(tree["eigenvalues"][60:, 0].max()) < 2.01
    assert float(trees[1]["variances"][-1, 0]) > 0
    np.testing.assert_allclose(trees[0]["predicted_loss"], trees[1]["predicted_loss"], rtol=1e-4)
    np.testing.assert_allclose(trees[0]["variances"][-1, 0], trees[1]["variances"][-1, 0], rtol=0.05)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_third_derivatives_against_autograd_at_any_distance_from_a_minimum(dtype, size, offset):
    """A loss whose gradient is the difference of large parts (an offset adds to them) that vanishes at the minimum."""
    generator = torch.Generator().manual_seed(0)
    C = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    y = torch.tanh(C @ torch.ones(6, dtype=torch.float64)) + offset
    y = y.to(dtype)

    def loss(w):
        out = torch.tanh(C.to(w) @ w) + offset
        return (out - y.to(w)).square().mean()

    w = torch.ones(6, dtype=dtype) + size * torch.randn(6, generator=generator, dtype=torch.float64).to(dtype) / 6**0.5
    f, exact = Objective(loss, w), Objective(loss, w.double())
    p = torch.full_like(w, 0.7)
    U = torch.linalg.qr(torch.randn(6, 2, generator=generator, dtype=torch.float64))[0].to(dtype) / 0.7**0.5
    T, _, reach = third_derivatives(f, w, f.value_and_grad(w)[1], U, f.hvp(w, U), p, Reach())
    wanted = exact.hessian_gradients(w.double(), U.double())
    error = float((T.double() - wanted).norm() / wanted.norm())
    assert error < (
        1e-4 if dtype == torch.float64 else 0.1 if offset < 1e3 else 1.01
    )  # at 1e3 rounding is all there is
    again = third_derivatives(f, w, f.value_and_grad(w)[1], U, f.hvp(w, U), p, reach)
    assert again[2].uses == reach.uses + 1


def rotated(spectrum, seed=0):
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(spectrum), len(spectrum))))[0]
    return torch.as_tensor((Q * spectrum) @ Q.T)


@pytest.mark.parametrize("top", [2.0, 2.02, 2.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_where_nothing_holds_an_eigenvalue_it_is_said(dtype, top):
    H = rotated(np.r_[top, np.linspace(1.5, 0.1, 9)]).to(dtype)
    f = Objective(lambda w: w @ H @ w / 2, torch.ones(10, dtype=dtype))
    with pytest.warns(
        UserWarning, match="central flow ends at step 0: .*no mechanism lowers it: the loss is quadratic"
    ):
        tree = quiet(f, GradientDescent(1.0), 12, ("discrete", "central"))
    assert "no mechanism" in tree["central"].attrs["doubt"]
    assert tree["central"]["predicted_loss"].isnull().all()
    assert tree["discrete"]["loss"].notnull().all()


def test_just_below_2_a_quadratic_needs_nothing_to_hold_it():
    H = rotated(np.r_[1.97, np.linspace(1.5, 0.1, 9)])
    f = Objective(lambda w: w @ H @ w / 2, torch.ones(10, dtype=torch.float64))
    tree = quiet(f, GradientDescent(1.0), 12, ("central",))
    flow = torch.linalg.matrix_exp(-11 * H) @ f.w0  # dw/dt = -Hw
    assert float(tree["central"]["loss"][-1]) == pytest.approx(float(flow @ H @ flow / 2), rel=2e-2)
    assert (tree["central"]["trusted"] == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-6])
def test_a_start_at_zero_at_the_edge(size, dtype):
    """A logistic loss, whose third derivatives vanish at w = 0 by symmetry."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(40, 6, generator=generator).to(dtype)
    y = (torch.rand(40, generator=generator) > 0.5).to(dtype) * 2 - 1
    f = Objective(lambda w: F.softplus(-y * (X @ w)).mean(), size * torch.ones(6, dtype=dtype))
    opt = GradientDescent(1.97 / float(torch.linalg.eigvalsh(X.T @ X / 160)[-1]))
    tree = quiet(f, opt, 30, ("discrete", "central"))
    np.testing.assert_allclose(tree["central"]["predicted_loss"][-1], tree["discrete"]["loss"][-1], rtol=1e-4)


def test_flows_leave_a_symmetric_saddle_no_sooner_than_the_optimizer():
    """y = 0 has no gradient and -1 as its curvature; there p is eps / η, and -1 is -10⁵ for the effective Hessian."""

    def loss(w):
        return (w[0] - 1).square() / 2 + (w[1:].square() - 1).square().mean() / 4 + (w[0] * w[1:]).square().mean()

    f = Objective(loss, torch.zeros(43, dtype=torch.float64).index_fill(0, torch.tensor([0]), 0.2))
    tree = quiet(f, RMSProp(1e-2, 0.9, eps=1e-8, bias_correction=True), 40, snapshot_every=39)
    for name in ("discrete", "central"):
        assert not tree["snapshots"][name]["weights"].values[-1, 1:].any()
    for name in ("stable", "central"):
        np.testing.assert_allclose(tree[name]["loss"], tree["discrete"]["loss"], atol=0.02)


def test_a_network_that_starts_at_a_saddle():
    """All weights zero but the last bias: a saddle whose curvatures come in pairs of both signs."""
    module = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 1)).double()
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        module[2].bias.fill_(0.5)
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)).double()
    f = Objective.from_module(module, nn.MSELoss(), x, x[:, :1].square() * x[:, 1:2] + x[:, 2:3])
    tree = quiet(f, RMSProp(1e-2, 0.95, eps=1e-8, bias_correction=True), 40)
    for name in ("stable", "central"):
        np.testing.assert_allclose(tree[name]["loss"], tree["discrete"]["loss"], rtol=5e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_negative_eigenvalues_do_not_loosen_tolerances(dtype):
    H = rotated(np.r_[2, 1.5, 1, -1e4, np.random.default_rng(0).uniform(0, 0.5, 196)])
    exact = np.linalg.eigvalsh(H.numpy())[::-1]
    found = top_eigenpairs(lambda V: H.to(dtype) @ V, torch.ones(200, dtype=dtype), 3, tol=1e-3)
    assert found.converged
    np.testing.assert_allclose(found.values, exact[:3], rtol=1e-5 if dtype == torch.float64 else 1e-3)


def test_weights_without_a_gradient_stay_out_of_it():
    """Inputs that are always zero: the optimizer leaves their weights alone, and so do its flows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 10, generator=generator)
    x[:, 5:] = 0
    y = torch.randint(0, 2, (60,), generator=generator)
    for dtype in DTYPES:
        ends = []
        for inputs in (10, 5):  # with them and without
            torch.manual_seed(0)
            module = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 2)).to(dtype)
            module[0].weight = nn.Parameter(module[0].weight.detach()[:, :inputs].clone())
            f = Objective.from_module(module, nn.CrossEntropyLoss(), x[:, :inputs].to(dtype), y)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it starts beyond the edge
                ends.append(quiet(f, RMSProp(2e-3, 0.99, eps=1e-8), 25, ("discrete", "central"), eigs=1, burn_in=60))
        for name in ("discrete", "central"):
            assert ends[0][name]["predicted_loss"].notnull().all()
            np.testing.assert_allclose(ends[0][name]["predicted_loss"], ends[1][name]["predicted_loss"], rtol=1e-3)


def test_nu_of_denormal_size_has_a_finite_slope():
    nu = torch.tensor([1e-45, 1e-20, 1.0, 0.0])
    slope = RMSProp(1e-3, 0.99, eps=1e-8).dp_dnu(nu, 1)
    assert slope.isfinite().all()
    assert slope[3] == 0
    assert float(slope[2]) == pytest.approx(500)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.head = (nn.Linear(6, m) for m in (6, 6, 6, 2))

    def forward(self, x):
        heads = (project(x)[:, None] for project in (self.query, self.key, self.value))
        return self.head(F.scaled_dot_product_attention(*heads)[:, 0].mean(1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_whose_gradient_is_rounding_are_named_and_left_out_of_distances(dtype):
    torch.manual_seed(0)
    f = Objective.from_module(
        Attention().to(dtype), nn.MSELoss(), torch.randn(30, 5, 6).to(dtype), torch.randn(30, 2).to(dtype)
    )
    assert f.binding.owner(42) == "key.weight"
    eps = 1e-8 if dtype == torch.float32 else 1e-19
    with pytest.warns(UserWarning, match=r"the gradient of \d weights of 140 \(key.bias\) is nothing but rounding"):
        tree = quiet(f, RMSProp(3e-3, 0.99, eps=eps, bias_correction=True), 60, eigs=1, eig_every=10, snapshot_every=59)
    a, b = (tree["snapshots"][name] for name in ("discrete", "central"))
    way = (a["weights"] - b["weights"]).values[-1]
    whole = np.linalg.norm(way)
    way[78:84] = 0
    assert float(tree["distance"]["central-discrete"][-1]) == pytest.approx(np.linalg.norm(way), rel=1e-4)
    assert whole > 1.01 * np.linalg.norm(way) or dtype == torch.float32
    p = (
        RMSProp(3e-3, 0.99, eps=eps, bias_correction=True)
        .preconditioner(torch.as_tensor(a["nu"].values[-1]), 60)
        .numpy()
    )
    assert float(tree["distance/P"]["central-discrete"][-1]) == pytest.approx(np.sqrt(p @ way**2), rel=1e-3)


def test_ordinary_networks_have_no_such_weights():
    torch.manual_seed(0)
    for dtype in DTYPES:
        module = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 2)).to(dtype)
        f = Objective.from_module(module, nn.MSELoss(), torch.randn(30, 6).to(dtype), torch.randn(30, 2).to(dtype))
        quiet(f, RMSProp(1e-3, 0.99), 1, ("discrete",))  # a warning would be an error


def bent():
    """Eigenvectors that turn faster and faster: see `test_while_eigenvectors_rotate_fast`."""

    def loss(w):
        c, s = torch.cos(20 * w[3]), torch.sin(20 * w[3])
        u, v = c * w[0] + s * w[1], c * w[1] - s * w[0]
        return (w[2] * u**2 + 3 * v**2) / 2 - 0.05 * w[2] - w[3].square()

    return Objective(loss, torch.tensor([1e-2, 1e-2, 9.9, 0.1], dtype=torch.float64))


def test_a_flow_that_loses_an_eigenvalue_says_so():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            flow = quiet(bent(), GradientDescent(0.2), 40, ("central",))["central"]
        except DivergenceError as ended:
            flow = ended.solution["central"]
    first = int((flow["trusted"].values == 0).argmax())
    assert flow["eigenvalues"][:first, 0].max() < 2.1 < flow["eigenvalues"][first, 0]
    assert not (flow["trusted"].values[first:] == 1).any()
    (said,) = [str(w.message) for w in caught if "not to be trusted from step" in str(w.message)]
    assert re.search(rf"from step ({first - 1}|{first}): the top eigenvalue", said)  # seen there, or on the way there
    assert flow.attrs["doubt"] in said


def test_figures_do_not_show_as_a_prediction_what_is_not_to_be_trusted():
    from cflows.book import figures

    f = Objective(lambda w: w[1] * w[0] ** 2 / 2 + (w[1] - 20).square(), torch.tensor([1e-3, 2.0], dtype=torch.float64))
    tree = quiet(f, GradientDescent(0.02), 30)
    tree["central"]["trusted"][20:] = 0
    line = figures.beside(tree, "GD").axes[0].lines[1]
    assert np.isnan(line.get_ydata()[20:]).all()
    assert np.isfinite(line.get_ydata()[:20]).all()


@pytest.mark.parametrize("start", [0.0, 1e-30, 1e-12])
def test_a_start_at_a_minimum_ends_soon(start):
    f = Objective(lambda w: w.square().sum() / 2 + (w**4).sum(), torch.full((3,), start, dtype=torch.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = quiet(f, RMSProp(1e-3, 0.9, eps=1e-8), 6)
    assert float(tree["discrete"]["loss"][-1]) < 1e-4
    if start:
        assert "far beyond the edge" in tree["central"].attrs["doubt"]
    else:
        assert (tree["central"]["loss"] == 0).all()


def test_gradients_whose_squares_overflow_are_named():
    f = Objective(lambda w: 1e25 * w.square().sum(), torch.ones(3))
    with pytest.raises(DivergenceError, match=r"squares of gradients \(up to 2e\+25\) overflow torch.float32; scale"):
        quiet(f, RMSProp(1e-3, 0.9), 3)


def test_the_optimizer_follows_as_many_eigenvalues_as_asked_for():
    f = Objective(lambda w: (w**2).sum(), torch.ones(20, dtype=torch.float64))
    tree = quiet(f, GradientDescent(0.95), 3, ("discrete", "midpoint"), eigs=1)
    assert tree["discrete"].sizes["eig"] == 1


def test_advice_is_not_what_is_done_already():
    f = Objective(lambda w: w.cosh().sum(), torch.linspace(0.5, 1, 6, dtype=torch.float64))
    for corrected in (True, False):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            quiet(f, RMSProp(2.0, 0.9, bias_correction=corrected), 1, ("central",))
        (message,) = {str(w.message) for w in caught if "starts with" in str(w.message)}
        assert ("bias_correction" in message) != corrected


@pytest.mark.parametrize("kind", [np.float32, np.float64, lambda x: torch.tensor(x)])
def test_options_of_any_kind_are_plain_numbers(tmp_path, kind):
    opt = RMSProp(kind(1e-2), kind(0.999), kind(0.0), np.bool_(True))
    assert {type(value) for value in vars(opt).values()} == {float, bool}
    if kind is np.float32:
        assert opt._correction(1) == 1 - float(np.float32(0.999))  # in double precision
    f = Objective(lambda w: w.cosh().sum(), torch.ones(2))
    for _ in range(2):  # the second goes on from the checkpoint of the first
        tree = quiet(f, opt, 3, accuracy=kind(0.0004), eig_tol=kind(1e-3), checkpoint=tmp_path / "run.ckpt")
    assert tree["central"].sizes["step"] == 3
    assert cflows.GradientDescent(lambda t: kind(0.1)).learning_rate(1) == float(kind(0.1))


def log_cosh(x):
    return x.cosh().log()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", [1e-4, 1e-8, 1e-14, 1e-18])
def test_flows_leave_a_saddle_at_the_pace_of_the_optimizer(start, dtype):
    """p is eps / η there until ν has followed: an exponential of 10⁶ a unit of time, which no optimizer follows."""
    f = Objective(lambda w: (w[0] ** 2 - 1) ** 2 / 4 + w[1] ** 2 / 2, torch.tensor([start, 0.3], dtype=dtype))
    tree = quiet(f, RMSProp(0.05, 0.9, eps=1e-8, bias_correction=True), 12)
    for name in ("stable", "central"):
        np.testing.assert_allclose(tree[name]["loss"], tree["discrete"]["loss"], atol=0.05)
        assert tree[name]["loss"].diff("step").max() < 0


def test_third_derivatives_of_eigenvectors_of_very_different_scales():
    f = Objective(
        lambda w: w[2] * log_cosh(10 * w[0]) / 100 + 1e-6 * w[2] * log_cosh(10 * (w[1] - 0.3)) / 100 - 0.01 * w[2],
        torch.tensor([0.3, 0.6, 1.0], dtype=torch.float64),
    )
    flow = quiet(f, RMSProp(0.02, 0.95, bias_correction=True), 160, ("central",), eigs=2, eig_every=1)["central"]
    second = flow["eigenvalues"].values[120:, 1]
    assert 1.98 < second.min() <= second.max() < 2.005


VALLEYS = {  # a first reach that other weights make too long, and a loss that is not defined everywhere
    "saturated": (lambda w: w[1] * 4 * log_cosh(w[0] / 2) - 0.002 * w[1] - 1e3 * w[2], 200),
    "barrier": (lambda w: -w[1] * torch.log(1 - w[0] ** 2) / 2 - 0.01 * w[1] - 1e3 * w[2], 60),
}


@pytest.mark.parametrize("name", VALLEYS)
def test_a_valley_beside_a_steep_slope(name):
    """x²y/2 - by to leading order: GD's curvature stays at 2 / η with variance 2b/η in the norm of P."""
    loss, steps = VALLEYS[name]
    f = Objective(loss, torch.tensor([1e-3, 1.9, 0.0], dtype=torch.float64))
    flow = quiet(f, GradientDescent(1.0), steps, ("central",), eig_every=1)["central"]
    b = 0.002 if name == "saturated" else 0.01
    assert float(flow["eigenvalues"][-1, 0]) == pytest.approx(2, abs=1e-3)
    assert float(flow["variances"][-1, 0]) == pytest.approx(2 * b, rel=0.02)


def test_an_exact_minimum_is_reached():
    f = Objective(lambda w: (w[0] ** 2 - 1) ** 2 / 4 + w[1] ** 2 / 2, torch.tensor([0.5, 0.3], dtype=torch.float64))
    flow = quiet(f, RMSProp(0.05, 0.99, eps=1e-8, bias_correction=True), 300, ("central",))["central"]
    assert float(flow["loss"].min()) < 1e-30
    assert float(flow["eigenvalues"].max()) < 2.01


def test_a_double_eigenvalue_whose_eigenvectors_mix_scales():
    f = Objective(
        lambda w: w[2] * log_cosh(w[0]) + 1e-6 * w[2] * log_cosh(w[1] - 0.3) - 0.01 * w[2],
        torch.tensor([0.3, 0.6, 1.0], dtype=torch.float64),
    )
    flow = quiet(f, RMSProp(0.02, 0.95, bias_correction=True), 90, ("central",), eigs=2)["central"]
    assert float(flow["eigenvalues"].max()) < 2.005


def test_an_oscillation_beyond_leading_order_is_questioned():
    f = Objective(lambda w: (30 * w.square()).exp().sum() - 2, torch.tensor([0.01, 0.02], dtype=torch.float64))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flow = quiet(f, GradientDescent(1.1 / 30), 12, ("central",))["central"]
    (said,) = [str(w.message) for w in caught if "not to be trusted" in str(w.message)]
    assert "too large for them" in said
    assert flow["trusted"][int((flow["predicted_loss"] > 0.5).values.argmax())] == 0


def test_gradients_that_are_small_but_exact_count():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(4, 8), nn.Sigmoid()]
        for _ in range(8):
            layers += [nn.Linear(8, 8), nn.Sigmoid()]
        x, module = torch.randn(40, 4), nn.Sequential(*layers, nn.Linear(8, 1))
    f = Objective.from_module(module, nn.MSELoss(), x, x[:, :1].sign())
    quiet(f, RMSProp(1e-3, 0.9, eps=1e-8), 1, ("discrete",))  # a warning would be an error


def test_rounding_is_no_excuse_for_a_wrong_eigenvalue():
    H = rotated(np.r_[2.5, 1.9, -1e6, np.random.default_rng(0).uniform(0, 0.5, 197)]).float()
    found = top_eigenpairs(lambda V: H @ V, torch.ones(200), 1, tol=1e-3, throw=False)
    assert not found.converged or abs(float(found.values[0]) - 2.5) < 0.05


def test_a_beta2_that_no_flow_can_follow_is_named():
    f = Objective(lambda w: w.cosh().sum(), torch.ones(2))
    with pytest.raises(ValueError, match=r"beta2 is 1e-05: ν follows the gradient .*use beta2 above 0\.002"):
        quiet(f, RMSProp(1e-2, 1e-5), 2)


def test_differences_leave_weights_at_rest_out():
    """Behind a head that starts at zero nothing has a gradient yet, and ν is 0 there: such weights do not move."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    nn.init.zeros_(module[2].weight)
    nn.init.zeros_(module[2].bias)
    x = torch.randn(30, 3, dtype=torch.float64)
    f = Objective.from_module(module, nn.MSELoss(), x, torch.sin(2 * x[:, :1]) + 0.3)
    none = torch.as_tensor([], dtype=torch.int64)
    for eps in (1e-8, 1e-2, 1.0):
        opt = RMSProp(1.5 * eps + 0.02, 0.95, eps, True)
        flow = Central(Settings(f, opt, 1, 1e-3, none), 0)
        state = flow.start(f.w0, opt.init(f.w0), 1)
        moves = opt.moves(state.nu)
        assert 0 < moves.sum() < f.dim
        seen = flow.evaluate(state, 0, 1)
        T, _ = flow.third_derivatives(seen, seen.pairs.U, seen.pairs.HU, seen.p)
        torch.testing.assert_close(T, f.hessian_gradients(f.w0, seen.pairs.U) * moves, rtol=1e-3, atol=1e-6)


def test_a_jump_of_the_learning_rate_is_seen_at_once():
    f = Objective(lambda w: w[1] * w[0] ** 2 / 2 - 0.02 * w[1] + 0.05 * w[0] ** 4,
                  torch.tensor([0.1, 8.0], dtype=torch.float64))  # fmt: skip
    opt = GradientDescent(lambda t: 0.26 if t > 20.5 else 0.1)
    found = quiet(f, opt, 25, ("central",))["central"]["eigenvalues"][:, 0].dropna("step")
    assert float(found.sel(step=slice(20, 21))[0]) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("far", [1e3, 1e4, 1e5])
def test_weights_of_very_different_sizes_do_not_make_right_derivatives_wrong(far):
    """Differences over a share of all weights together say nothing there."""

    def loss(w):
        return 10 * torch.cosh(w[1] / 10) * (1 - torch.cos(w[0])) - w[1] / 2 + 1e-3 * torch.log1p((w[2] - far) ** 2)

    w0 = torch.tensor([0.3, 10.0, far])
    H = Objective(loss, w0).hvp(w0, torch.eye(3))
    torch.testing.assert_close(H, Objective(loss, w0, check=False).hvp(w0, torch.eye(3)), rtol=0, atol=0)
