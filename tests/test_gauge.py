"""The gauge against the optimizers of torch themselves, and against dense eigenvalues."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn, optim

from cflows import ConvergenceError, Gauge

LATE, SLOW = 1e8, 1 - 1e-9  # so late in a run, and with so long a memory, that ν stays as it is

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (optim.SGD, {}),
    "sgd-decay": (optim.SGD, {"weight_decay": 0.3}),
    "sgd-momentum": (optim.SGD, {"momentum": 0.9}),
    "sgd-dampening": (optim.SGD, {"momentum": 0.8, "dampening": 0.4}),
    "sgd-nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "sgd-maximize": (optim.SGD, {"momentum": 0.5, "maximize": True, "weight_decay": 0.1}),
    "rmsprop": (optim.RMSprop, {"alpha": SLOW}),
    "rmsprop-centered": (optim.RMSprop, {"alpha": SLOW, "centered": True, "eps": 0.1}),
    "rmsprop-momentum": (optim.RMSprop, {"alpha": SLOW, "momentum": 0.7, "weight_decay": 0.2}),
    "adagrad": (optim.Adagrad, {"lr_decay": 1e-9, "eps": 0.01}),
    "adam": (optim.Adam, {"betas": (0.9, SLOW)}),
    "adam-options": (optim.Adam, {"betas": (0.5, SLOW), "eps": 0.2, "weight_decay": 0.2, "amsgrad": True}),
    "adam-tensor-lr": (optim.Adam, {"betas": (0.8, SLOW), "lr": torch.tensor(0.02), "maximize": True}),
    "adamw": (optim.AdamW, {"betas": (0.9, SLOW), "weight_decay": 5.0}),
    "adam-decoupled": (optim.Adam, {"betas": (0.3, SLOW), "weight_decay": 3.0, "decoupled_weight_decay": True}),
    "nadam": (optim.NAdam, {"betas": (0.9, SLOW)}),
    "nadam-decoupled": (optim.NAdam, {"betas": (0.6, SLOW), "weight_decay": 4.0, "decoupled_weight_decay": True}),
    "adamax": (optim.Adamax, {"betas": (0.9, SLOW), "weight_decay": 0.1}),
}


class Quadratic:
    """½ wᵀHw in three dimensions, and an optimizer of it late in its run, whose ν is given."""

    def __init__(self, kind, options, scale=1.0, groups=1):
        rng = np.random.default_rng(0)
        q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        self.sign = -1 if options.get("maximize") else 1
        self.H = scale * self.sign * torch.tensor(q @ np.diag([3.0, 1.0, 0.5]) @ q.T)
        self.parts = [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in ([3] if groups == 1 else [1, 2])]
        own: list[dict[str, Any]] = [{"params": [part]} for part in self.parts]
        if groups == 2:
            own[1] |= {"lr": 0.07, "betas": (0.5, SLOW)}
        self.optimizer = kind(own, **{"lr": 0.03} | options)
        self.gauge = Gauge(self.optimizer, self.loss)
        for part in self.parts:  # one step makes the state
            part.grad = torch.zeros_like(part)
        self.optimizer.step()
        for i, part in enumerate(self.parts):
            state, some = self.optimizer.state[part], torch.tensor(rng.uniform(0.5, 2, 2 + i)[: part.numel()])
            if part.numel() == 3:
                some = torch.tensor(rng.uniform(0.5, 2, 3))
            for name in ("square_avg", "exp_avg_sq", "max_exp_avg_sq", "sum", "exp_inf"):
                if name in state:
                    state[name].copy_(some)
            if "grad_avg" in state:
                state["grad_avg"].copy_(0.3 * some.sqrt())
            if "step" in state and kind is not optim.RMSprop:
                state["step"].fill_(LATE)
            if "mu_product" in state:
                state["mu_product"].fill_(0.0)

    def loss(self):
        w = torch.cat(self.parts)
        return w @ self.H @ w / 2

    def growth(self, steps=20_000, settle=200):
        """By how much w grows after some steps, at most fivefold either way: a large w would change ν."""
        top = self.gauge._guesses[:, 0]
        with torch.no_grad():
            sizes = [part.numel() for part in self.parts]
            for part, piece in zip(self.parts, (1e-20 * top / top.norm()).split(sizes), strict=True):
                part.copy_(piece)
        first = 0.0
        for t in range(steps):
            self.optimizer.zero_grad()
            self.loss().backward()
            self.optimizer.step()
            size = float(torch.cat(self.parts).detach().norm())
            first = size if t == settle else first
            if t > settle and not 0.2 < size / first < 5:
                break
        return size / first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_torch_is_stable_below_its_threshold_and_not_above(name):
    kind, options = OPTIMIZERS[name]
    options = {key: x.clone() if isinstance(x, torch.Tensor) else x for key, x in options.items()}
    below, above = (scaled_to(kind, options, ratio) for ratio in (0.999, 1.001))
    assert below.growth() < 1 < above.growth()


def scaled_to(kind, options, ratio, groups=1):
    """A quadratic on which the gauge says this ratio."""

    def excess(scale):  # coupled weight decay is added to H, so that the ratio is not proportional to it
        return Quadratic(kind, options, scale, groups).gauge.measure(tol=1e-10).ratio - ratio

    problem = Quadratic(kind, options, brentq(excess, 0.0, 1e4, xtol=1e-13, rtol=1e-14), groups)
    assert problem.gauge.measure(tol=1e-10).ratio == pytest.approx(ratio, rel=1e-8)
    return problem


def test_groups_with_thresholds_of_their_own():
    below, above = (scaled_to(optim.Adam, {"betas": (0.9, SLOW)}, ratio, groups=2) for ratio in (0.999, 1.001))
    assert below.growth() < 1 < above.growth()
    reading = below.gauge.measure()
    assert reading.threshold == 1
    assert reading.max_lr == pytest.approx([0.03 / 0.999, 0.07 / 0.999], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("sgd", 2), ("sgd-momentum", 3.8), ("sgd-nesterov", 3.8 / 2.8), ("rmsprop", 2), ("adagrad", 2),
        ("adam", 38), ("adamax", 38), ("adamw", (2 - 0.03 * 5) * 19),
    ],
)  # fmt: skip
def test_thresholds_of_the_literature(name, threshold):
    kind, options = OPTIMIZERS[name]
    assert Quadratic(kind, options).gauge.measure().threshold == pytest.approx(threshold)


@pytest.mark.parametrize("name", ["sgd-momentum", "adam", "adamw"])
def test_at_the_largest_stable_learning_rate_the_ratio_is_one(name):
    kind, options = OPTIMIZERS[name]
    problem = Quadratic(kind, options)
    for group in problem.optimizer.param_groups:
        group["lr"] = problem.gauge.measure(tol=1e-10).max_lr
    assert problem.gauge.measure(tol=1e-10).ratio == pytest.approx(1, rel=1e-7)
    flat = Quadratic(kind, options, scale=0.0)
    assert flat.gauge.measure().max_lr == pytest.approx(2 / options["weight_decay"] if name == "adamw" else math.inf)


@pytest.fixture
def training():
    """A small network in training, with dropout and batch normalisation."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 2)).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    return module, lambda: nn.functional.mse_loss(module(x), y)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_against_dense_eigenvalues(name, training):
    module, loss = training
    module.eval()
    kind, options = OPTIMIZERS[name]
    options = {"lr": 1e-2} | {
        k: (0.9, 0.99) if k == "betas" else 0.99 if k == "alpha" else x for k, x in options.items()
    }
    optimizer = kind(module.parameters(), **options)
    for _ in range(5):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    gauge = Gauge(optimizer, loss)
    reading = gauge.measure(3, tol=1e-9)
    from cflows.gauge import RULES  # p and θ are those that the tests above prove

    group = optimizer.param_groups[0]
    held = [RULES[kind](group, optimizer.state[p], float(group["lr"])) for p in module.parameters()]
    p = torch.cat([(torch.zeros_like(w) + h.p).flatten() for w, h in zip(module.parameters(), held, strict=True)])
    sizes = [w.numel() for w in module.parameters()]

    def flat(v):
        pieces = [x.view_as(w) for x, w in zip(v.split(sizes), module.parameters(), strict=True)]
        names = [n for n, _ in module.named_parameters()]
        call = dict(zip(names, pieces, strict=True))
        return torch.func.functional_call(Whole(module, loss), {f"module.{n}": x for n, x in call.items()}, ())

    w = torch.cat([x.detach().flatten() for x in module.parameters()])
    H = torch.autograd.functional.hessian(flat, w)
    H = (-H if options.get("maximize") else H) + held[0].decay * torch.eye(len(w))
    expected = torch.linalg.eigvalsh(H / p.sqrt() / p.sqrt()[:, None]).flip(0)[:3]
    torch.testing.assert_close(reading.eigenvalues, expected, rtol=1e-6, atol=1e-9)
    assert reading.ratio == pytest.approx(float(expected[0]) / held[0].threshold)
    assert reading.loss == float(loss().detach())
    assert str(reading).startswith(f"step {reading.step}: largest eigenvalue")
    assert 0 <= reading.eps_share <= 1


class Whole(nn.Module):
    def __init__(self, module, loss):
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self):
        return self.loss()


def test_nothing_is_changed(training):
    module, loss = training
    module.register_buffer("calls", torch.zeros(()))

    def assigned(module, *_):
        module.calls = module.calls + 1  # not in place

    module.register_forward_hook(assigned)
    start = {name: x.clone() for name, x in module.state_dict().items()}

    def run(gauged):
        module.load_state_dict(start)
        optimizer = optim.Adam(module.parameters(), lr=0.01)
        gauge = Gauge(optimizer, loss, module)
        torch.manual_seed(1)
        for _ in range(6):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            if gauged:
                gauge.measure(tol=0.1)
        return {name: x.clone() for name, x in module.state_dict().items()}, [p.grad for p in module.parameters()]

    for ours, theirs in zip(run(True), run(False), strict=True):
        for a, b in zip(*(x.values() if isinstance(x, dict) else x for x in (ours, theirs)), strict=True):
            assert torch.equal(a, b)


def test_epsilon_as_a_floor():
    kind, options = OPTIMIZERS["adam"]
    small, large = (Quadratic(kind, options | {"eps": eps}).gauge.measure() for eps in (1e-8, 1e3))
    assert small.eps_share < 1e-6
    assert large.eps_share > 0.99
    assert "ε is 100% of the preconditioner there" in str(large)
    assert "ε" not in str(small)


def test_bad_input_is_named(training):
    module, loss = training
    with pytest.raises(TypeError, match="the gauge does not know LBFGS; it knows SGD, RMSprop"):
        Gauge(optim.LBFGS(module.parameters()), loss)
    optimizer = optim.Adam(module.parameters(), lr=0.01)
    gauge = Gauge(optimizer, loss)
    with pytest.raises(ValueError, match="the optimizer has taken no step yet"):
        gauge.measure()
    loss().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(ValueError, match="all its learning rates are 0"):
        gauge.measure()
    optimizer.param_groups[0]["lr"] = 0.01
    with pytest.raises(ValueError, match="the loss must return a scalar tensor"):
        Gauge(optimizer, lambda: loss().item()).measure()
    with pytest.raises(ConvergenceError):
        Gauge(optimizer, lambda: loss() * math.nan).measure()
    with pytest.raises(ValueError, match="must not call backward"):
        Gauge(optimizer, lambda: backward(loss())).measure()
    other = copy.deepcopy(module)
    with pytest.raises(ValueError, match="depends on the optimizer's parameters"):
        Gauge(optimizer, lambda: other(torch.ones(2, 3, dtype=torch.float64)).sum()).measure()
    decayed = optim.AdamW(module.parameters(), lr=0.1, weight_decay=25)
    decayed.step()
    with pytest.raises(ValueError, match=r"lr · weight_decay is 2\.5"):
        Gauge(decayed, loss).measure()
    half = nn.Linear(2, 2).bfloat16()
    with pytest.raises(TypeError, match=r"parameters are torch\.bfloat16"):
        Gauge(optim.SGD(half.parameters(), lr=0.1), loss).measure()


def backward(value):
    value.backward(retain_graph=True)
    return value


class Cube(torch.autograd.Function):
    """A kernel whose backward is not differentiable."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach()
        return x**3

    @staticmethod
    def backward(ctx, g):
        return g * 3 * ctx.x**2


def test_wrong_second_derivatives_are_found():
    w = torch.ones(3, requires_grad=True)
    with pytest.warns(UserWarning, match="not those of its gradient"):
        Gauge(optim.SGD([w], lr=0.1), lambda: (Cube.apply(w) + 0.1 * w**2).sum()).measure()
    assert torch.equal(w.detach(), torch.ones(3))
    optimizer, found = optim.SGD([w], lr=0.1), []
    gauge = Gauge(optimizer, lambda: (Cube.apply(w) + 0.1 * w**2).sum())
    gauge.attach(found.append, 1, "product")
    (w**2).sum().backward()
    with pytest.warns(UserWarning, match="not those of its gradient"):
        optimizer.step()
    assert len(found) == 1


def test_weights_at_rest_do_not_count():
    """Rows of padding, parameters without gradients, groups that are held: what the optimizer does not move."""
    torch.manual_seed(0)
    embedding, unused = nn.Embedding(6, 2, padding_idx=0), nn.Linear(2, 2)
    for kind in (optim.Adam, optim.Adagrad, optim.RMSprop):
        optimizer = kind([*embedding.parameters(), *unused.parameters()], lr=0.01, weight_decay=1e-2)
        gauge = Gauge(optimizer, lambda: embedding(torch.arange(6)).square().sum())
        for _ in range(3):
            optimizer.zero_grad()
            gauge.probe.loss().backward()
            optimizer.step()
        assert gauge.measure().ratio < 0.5
    held = optim.SGD([{"params": embedding.parameters()}, {"params": unused.parameters(), "lr": 0.0}], lr=0.01)
    assert Gauge(held, gauge.probe.loss).measure().max_lr == pytest.approx(1.0)


def test_weights_that_are_not_trained_are_left_out(training):
    module, loss = training
    module.eval()[0].weight.requires_grad_(False)
    optimizer = optim.RMSprop(module.parameters(), lr=0.01)
    loss().backward()
    optimizer.step()
    gauge = Gauge(optimizer, loss)
    first = gauge.measure(tol=1e-6)
    again = gauge.measure(tol=1e-6)
    assert again.products <= first.products  # it begins where it was
    assert again.ratio == pytest.approx(first.ratio, rel=1e-6)


def oscillating(name, method, steps=400, scale=None):
    """What is reported of steps along the top eigenvector, where a quadratic is at its edge."""
    kind, options = OPTIMIZERS[name]
    problem, found = scaled_to(kind, options, 1.0) if scale is None else Quadratic(kind, options, scale), []
    with torch.no_grad():
        top = problem.gauge._guesses[:, 0] if scale is None else torch.tensor([1.0, 0.3, -0.5], dtype=torch.float64)
        problem.parts[0].copy_(1e-3 * top / top.norm())
    with problem.gauge.attach(found.append, every=steps // 4, method=method):
        for _ in range(steps + 1):
            problem.optimizer.zero_grad()
            problem.loss().backward()
            problem.optimizer.step()
    return found, problem


@pytest.mark.parametrize("method", ["product", "losses", "gradients"])
@pytest.mark.parametrize("name", ["sgd", "sgd-momentum", "sgd-maximize", "rmsprop", "adam", "adamw"])
def test_along_an_oscillation_at_the_edge_the_ratio_is_one(name, method):
    found, _ = oscillating(name, method)
    assert len(found) == 4
    assert [x.ratio for x in found[2:]] == pytest.approx([1, 1], rel=1e-3)


@pytest.mark.parametrize("method", ["product", "losses", "gradients"])
def test_elsewhere_it_is_a_quotient_of_the_step(method):
    """The same by all three, below the largest eigenvalue, and what the definition says."""
    ((first, *_), problem) = oscillating("sgd", method, 4, scale=2.0)
    w = torch.tensor([1.0, 0.3, -0.5], dtype=torch.float64)
    g = problem.H @ (1e-3 * w / w.norm())  # the first step goes along it
    assert first.ratio == pytest.approx(float(0.03 / 2 * (g @ problem.H @ g) / (g @ g)), rel=1e-5)
    assert first.ratio < problem.gauge.measure().ratio
    if method == "losses":  # where the parabola along the step is at its start's height again
        assert first.critical_lr == pytest.approx(0.03 / first.ratio, rel=1e-5)
        assert "critical learning rate along it" in str(first)
    else:
        assert math.isnan(first.critical_lr)
    assert first.method == method


def test_reports_change_nothing_and_end(training):
    module, loss = training
    start = {name: x.clone() for name, x in module.state_dict().items()}

    def run(method=None):
        module.load_state_dict(start)
        optimizer, found = optim.Adam(module.parameters(), lr=0.01), []
        gauge = Gauge(optimizer, loss, module)
        reports = gauge.attach(found.append, 2, method) if method else None
        torch.manual_seed(1)
        for i in range(9):
            if i == 6 and reports:
                reports.close()
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        return found, {name: x.clone() for name, x in module.state_dict().items()}

    _, plain = run()
    for method, steps in {
        "eigenvalues": [2, 4, 6],
        "product": [2, 4, 6],
        "losses": [2, 4, 6],
        "gradients": [2, 4],
    }.items():
        found, weights = run(method)
        assert [reading.step for reading in found] == steps
        assert all(torch.equal(weights[name], plain[name]) for name in plain)


def test_steps_are_counted_where_the_optimizer_does_not(training):
    module, loss = training
    optimizer, found = optim.SGD(module.parameters(), lr=0.01), []
    Gauge(optimizer, loss).attach(found.append, 3)
    for _ in range(6):
        loss().backward()
        optimizer.step()
    assert [reading.step for reading in found] == [3, 6]


def test_losses_too_large_for_their_differences():
    w = nn.Parameter(torch.ones(2))
    optimizer, found = optim.SGD([w], lr=1e-6), []
    Gauge(optimizer, lambda: 1e4 + (w * w).sum()).attach(found.append, 1, "losses")
    (w * w).sum().backward()
    optimizer.step()
    assert math.isnan(found[0].ratio)
    assert math.isnan(found[0].critical_lr)


def test_reports_asked_for_wrongly(training):
    module, loss = training
    gauge = Gauge(optim.SGD(module.parameters(), lr=0.01), loss)
    with pytest.raises(ValueError, match="method is 'exact'; it must be one of eigenvalues, product"):
        gauge.attach(print, method="exact")
    with pytest.raises(ValueError, match="every is 0"):
        gauge.attach(print, 0)
