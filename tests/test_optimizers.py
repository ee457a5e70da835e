import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import mlp_objective
from torch import nn

from cflows import (
    Adam,
    AdamW,
    GradientDescent,
    HeavyBall,
    NAdam,
    Nesterov,
    Objective,
    RMSProp,
    ScalarRMSProp,
    Start,
    from_torch,
    preconditioners,
    regime,
    simulate,
)
from cflows.simulation import replay


def run(f, opt, steps):
    w, nu = f.w0, opt.init(f.w0)
    for t in range(1, steps + 1):
        _, g = f.value_and_grad(w)
        nu = opt.update(nu, g)
        w = w - g / opt.preconditioner(nu, t)
    return w


def run_torch(f, make, steps):
    w = f.w0.clone().requires_grad_()
    opt = make([w])
    for _ in range(steps):
        w.grad = f.value_and_grad(w.detach())[1]
        opt.step()
    return w.detach()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (RMSProp(1e-2, 0.9, 1e-3), lambda w: torch.optim.RMSprop(w, 1e-2, 0.9, 1e-3)),
        (RMSProp(1e-2, 0.9, 1e-3, True), lambda w: torch.optim.Adam(w, 1e-2, (0.0, 0.9), 1e-3)),
        (GradientDescent(1e-2), lambda w: torch.optim.SGD(w, 1e-2)),
    ],
)
def test_same_as_pytorch(ours, theirs):
    f = mlp_objective()
    torch.testing.assert_close(run(f, ours, 20), run_torch(f, theirs, 20), rtol=1e-10, atol=1e-12)


def torch_run(steps=12, kind=torch.optim.RMSprop, **options):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x = torch.randn(16, 3, dtype=torch.float64)
    y = x.prod(1, keepdim=True)
    given = {"lr": 1e-3, "alpha": 0.98, "eps": 1e-6} if kind is torch.optim.RMSprop else {}
    optimizer = kind(module.parameters(), **(given | options))

    def go_on(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.mse_loss(module(x), y).backward()
            optimizer.step()
        return torch.cat([p.detach().reshape(-1) for p in module.parameters()])

    go_on(steps)
    return optimizer, module, Objective.from_module(module, nn.MSELoss(), x, y), go_on


def test_a_run_of_torch_goes_on_here(tmp_path):
    optimizer, module, f, go_on = torch_run()
    opt, start = from_torch(optimizer, module)
    assert opt == RMSProp(1e-3, 0.98, 1e-6)
    checkpoint = tmp_path / "run.ckpt"
    run = simulate(f, opt, 9, start=start, snapshot_every=8, progress=False, checkpoint=checkpoint)
    theirs = go_on(8)
    np.testing.assert_allclose(run["snapshots/discrete"]["weights"][-1], theirs, rtol=1e-12, atol=1e-14)
    assert run["central"]["nu_sum"][0] == pytest.approx(float(run["discrete"]["nu_sum"][0]), rel=1e-6)
    with pytest.raises(ValueError, match="belongs to another run"):  # with another ν
        simulate(f, RMSProp(1e-3, 0.98, 1e-6), 9, snapshot_every=8, progress=False, checkpoint=checkpoint)


@pytest.mark.parametrize("steps", [0, 12])
@pytest.mark.parametrize(
    ("ours", "kind", "options"),
    [
        (Adam, torch.optim.Adam, {"lr": 2e-3, "betas": (0.8, 0.95), "eps": 1e-5}),
        (Adam, torch.optim.Adam, {"lr": torch.tensor(2e-3, dtype=torch.float64)}),
        (AdamW, torch.optim.AdamW, {"lr": 2e-3, "weight_decay": 0.3}),
        (NAdam, torch.optim.NAdam, {"lr": 2e-3, "betas": (0.8, 0.95), "momentum_decay": 0.1}),
        (HeavyBall, torch.optim.SGD, {"lr": 0.02, "momentum": 0.8}),
        (HeavyBall, torch.optim.SGD, {"lr": 0.02, "momentum": 0.8, "dampening": 0.3}),
        (Nesterov, torch.optim.SGD, {"lr": 0.02, "momentum": 0.8, "nesterov": True}),
        (HeavyBall, torch.optim.SGD, {"lr": 0.02}),
    ],
)
def test_a_run_with_momentum_goes_on_here(ours, kind, options, steps):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # in which NAdam keeps its product of momenta
    try:
        optimizer, module, f, go_on = torch_run(steps, kind, **options)
        opt, start = from_torch(optimizer, module)
        assert type(opt) is ours
        run = simulate(f, opt, 101, ("discrete",), start=start, eig_every=0, outputs=lambda w: w * 1.0, progress=False)
        theirs = go_on(100)
    finally:
        torch.set_default_dtype(before)
    np.testing.assert_allclose(run["discrete"]["outputs"][-1], theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop])
def test_flows_and_programs_go_on_with_a_run(kind):
    """From its weights and averages, whatever those of the objective: as the same run, burnt in here."""
    optimizer, module, f, _ = torch_run(12, kind)
    opt, start = from_torch(optimizer, module)
    names = ("stable", "central", "stationary")
    options = {"processes": names, "snapshot_every": 4, "replay_steps": 2}
    here = simulate(torch_run(0)[2], opt, 9, burn_in=12, **options, progress=False)
    for g in (f, torch_run(0)[2]):
        there = simulate(g, opt, 9, start=start, **options, progress=False)
        for name in names:
            np.testing.assert_allclose(there[name]["loss"], here[name]["loss"], rtol=1e-6)
            np.testing.assert_allclose(there[name]["nu_sum"], here[name]["nu_sum"], rtol=1e-6)
        again = replay(g, opt, there)
        np.testing.assert_allclose(again["stable"]["loss"], there["stable"]["loss"][-2:], rtol=1e-9)
    ours, theirs = (preconditioners.along(g, opt, run) for g, run in ((f, there), (torch_run(0)[2], here)))
    np.testing.assert_allclose(ours["cosine"], theirs["cosine"], rtol=1e-4)


def test_a_schedule_and_a_burn_in_go_on_from_the_steps_that_were_taken():
    optimizer, module, f, _ = torch_run(12, torch.optim.Adam, lr=1e-3)
    opt, start = from_torch(optimizer, module)
    falling = replace(opt, lr=lambda t: 1e-2 / t)
    outputs = {"processes": ("discrete",), "eig_every": 0, "outputs": lambda w: w * 1.0, "progress": False}
    run = simulate(f, falling, 4, start=start, burn_in=3, **outputs)["discrete"]["outputs"].values
    w, nu, m = start.w, start.nu, start.m
    for t in range(13, 19):
        _, g = f.value_and_grad(w)
        nu, (m, direction) = falling.update(nu, g), falling.momentum(m, g, t)
        w = w - direction / falling.preconditioner(nu, t)
    np.testing.assert_allclose(run[-1], w, rtol=1e-12)
    assert regime.settling_time(f, opt, progress=False, start=start) <= regime.settling_time(f, opt, progress=False)


def test_what_can_not_go_on_is_named():
    optimizer, module, f, _ = torch_run(1)
    with pytest.raises(ValueError, match=r"does not train 2\.weight, 2\.bias; freeze"):
        from_torch(torch.optim.RMSprop(module[0].parameters()), module)
    with pytest.raises(ValueError, match="4 of the optimizer's parameters are no trainable"):
        from_torch(optimizer, module.requires_grad_(False))
    module.requires_grad_(True)
    with pytest.raises(ValueError, match="has momentum and centered, which RMSProp here has not"):
        from_torch(*torch_run(1, momentum=0.9, centered=True)[:2])
    groups = [{"params": module[0].parameters(), "lr": 1e-2}, {"params": module[2].parameters(), "lr": 1e-3}]
    with pytest.raises(ValueError, match=r"lr is 0.001, 0.01 in different groups"):
        from_torch(torch.optim.RMSprop(groups), module)
    with pytest.warns(UserWarning, match=r"weight_decay=0.1; give the objective the same"):
        from_torch(*torch_run(1, weight_decay=0.1)[:2])
    opt, start = from_torch(optimizer, module)
    with pytest.raises(ValueError, match=r"w of start has shape \(26,\); with an objective of \d+ weights and RMSProp"):
        simulate(mlp_objective(), opt, 2, start=start, progress=False)
    with pytest.raises(ValueError, match=r"nu of start has shape \(26,\); .* and ScalarRMSProp it must be \(\)"):
        simulate(f, ScalarRMSProp(1e-3, 0.9), 2, start=start, progress=False)
    with pytest.raises(ValueError, match="w of start holds values that are not finite"):
        simulate(f, opt, 2, start=Start(start.w * math.nan), progress=False)
    with pytest.raises(ValueError, match="taken is -1"):
        simulate(f, opt, 2, start=Start(start.w, taken=-1), progress=False)
    with pytest.raises(TypeError, match=r"start is a tuple; it must be what cflows.from_torch returns"):
        simulate(f, opt, 2, start=(opt, start), progress=False)
    with pytest.raises(TypeError, match="is a Adagrad; it must be RMSprop, SGD, Adam, AdamW or NAdam itself"):
        from_torch(torch.optim.Adagrad(module.parameters()), module)
    with pytest.raises(TypeError, match="is a Other; it must be"):
        from_torch(type("Other", (torch.optim.Adam,), {})(module.parameters()), module)
    with pytest.raises(ValueError, match="has amsgrad and maximize, which Adam here has not"):
        from_torch(*torch_run(1, torch.optim.Adam, amsgrad=True, maximize=True)[:2])
    optimizer, module, *_ = torch_run(2, torch.optim.Adam)
    groups = [{"params": module[0].parameters()}, {"params": module[2].parameters(), "betas": (0.8, 0.999)}]
    with pytest.raises(ValueError, match=r"beta1 is 0.8, 0.9 in different groups"):
        from_torch(torch.optim.Adam(groups), module)
    optimizer.state[module[2].bias]["step"] += 1
    with pytest.raises(ValueError, match="parameters have taken 2, 3 steps"):
        from_torch(optimizer, module)
    del optimizer.state[module[2].bias]
    with pytest.warns(UserWarning, match=r"2\.bias have taken no step, others have"):
        from_torch(optimizer, module)


def test_without_momentum_pytorch_ignores_a_dampening():
    optimizer, module, *_ = torch_run(1, torch.optim.SGD, lr=0.1, dampening=0.5)
    assert from_torch(optimizer, module)[0] == HeavyBall(0.1, beta=0.0)


def test_scalar_rmsprop_is_rmsprop_on_the_norm():
    f, opt = mlp_objective(), ScalarRMSProp(1e-2, 0.9, 1e-3, True)
    w, nu = f.w0, 0.0
    for t in range(1, 11):
        g = f.value_and_grad(w)[1]
        nu = 0.9 * nu + 0.1 * float(g @ g)
        w = w - 1e-2 / (math.sqrt(nu / (1 - 0.9**t)) + 1e-3) * g
    torch.testing.assert_close(run(f, opt, 10), w)


@pytest.mark.parametrize(
    "opt", [RMSProp(0.1, 0.9, 1e-2, True), RMSProp(lambda t: 0.1 / t, 0.99), ScalarRMSProp(0.1, 0.9)]
)
def test_slope_of_the_preconditioner(opt):
    nu = (
        torch.tensor([0.3, 2.0], dtype=torch.float64)
        if type(opt) is RMSProp
        else torch.tensor(0.7, dtype=torch.float64)
    )
    eps = 1e-6
    twin = (opt.preconditioner(nu + eps, 3) - opt.preconditioner(nu - eps, 3)) / (2 * eps)
    torch.testing.assert_close(opt.dp_dnu(nu, 3), twin, rtol=1e-7, atol=1e-9)


def test_the_rate_of_the_flow_is_exact():
    opt, nu, g = RMSProp(0.1, 0.95), torch.tensor([0.3]), torch.tensor([2.0])
    after = opt.update(nu, g)
    torch.testing.assert_close(after - nu, opt.rate * (g**2 - after))


@pytest.mark.unchecked
def test_numbers_of_any_kind():
    assert RMSProp(np.float32(0.5), np.float64(0.9)).learning_rate(1) == 0.5
    assert GradientDescent(lambda t: np.float32(0.5)).learning_rate(3) == 0.5


def test_no_slope_where_nothing_moves():
    nu = torch.tensor([0.0, 1.0])
    assert RMSProp(0.5, 0.9, 1e-8).dp_dnu(nu, 1).tolist() == [0.0, 1.0]


def test_a_schedule_is_asked_at_every_step():
    f = mlp_objective()
    constant = simulate(f, GradientDescent(0.1), 5, ("discrete",), progress=False)
    scheduled = simulate(f, GradientDescent(lambda t: 0.1 if t <= 3 else 1e-9), 5, ("discrete",), progress=False)
    a, b = constant["discrete"]["loss"].values, scheduled["discrete"]["loss"].values
    assert (a[:4] == b[:4]).all()
    assert b[4] == pytest.approx(b[3], rel=1e-6)
    assert a[4] < b[4]


@pytest.mark.parametrize("make", [RMSProp, ScalarRMSProp])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lr": -1.0, "beta2": 0.9}, ValueError, "lr is -1.0"),
        ({"lr": math.nan, "beta2": 0.9}, ValueError, "lr is nan"),
        ({"lr": math.inf, "beta2": 0.9}, ValueError, "lr is inf"),
        ({"lr": "0.1", "beta2": 0.9}, TypeError, "'0.1'"),
        ({"lr": 0.1, "beta2": 1.0}, ValueError, "beta2 is 1.0"),
        ({"lr": 0.1, "beta2": -0.1}, ValueError, "beta2 is -0.1"),
        ({"lr": 0.1, "beta2": math.nan}, ValueError, "beta2 is nan"),
        ({"lr": 0.1, "beta2": "x"}, TypeError, "beta2 is 'x'"),
        ({"lr": 0.1, "beta2": 0.9, "bias_correction": "no"}, TypeError, "bias_correction is 'no'"),
        ({"lr": 0.1, "beta2": 0.9, "eps": -1.0}, ValueError, "eps is -1.0"),
    ],
)
def test_bad_input_is_named(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make(**arguments)


def test_bad_schedule_and_rate_are_named():
    with pytest.raises(ValueError, match="lr is 0"):
        GradientDescent(0)
    with pytest.raises(ValueError, match=r"lr\(3\) is -3"):
        GradientDescent(lambda t: -t).learning_rate(3)
    with pytest.raises(ValueError, match="beta2 is 0"):
        simulate(mlp_objective(), RMSProp(0.1, 0.0), 2, progress=False)
