"""How long an optimizer takes to settle, and at which learning rates it comes to its edge."""

import json
import math

import pytest
import torch
from torch import nn

from cflows import ConvergenceError, GradientDescent, Objective, RMSProp, regime, simulate, suggest_lr

QUADRATIC = Objective(lambda w: 1 + (w * w).sum() / 2, torch.ones(2, dtype=torch.float64))  # sharpness 1


def network(width: int = 8) -> Objective:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    ).double()
    x = torch.linspace(-1, 1, 16, dtype=torch.float64)[:, None]
    return Objective.from_module(module, nn.MSELoss(), x, torch.sin(3 * x))


def burn_in(tree):
    return json.loads(tree.attrs["options"])["burn_in"]


def test_an_optimizer_below_its_edge_has_settled_after_three_looks():
    assert regime.settling_time(QUADRATIC, GradientDescent(1.9), progress=False) == 15


def test_the_first_ratios_are_those_of_midpoints():
    seen = list(regime.ratios(QUADRATIC, GradientDescent(1.2), 40))
    assert [i for i, *_ in seen] == [5, 10, 15, 20, 25, 30, 36, 40]
    assert all(math.isclose(ratio, 0.6) for _, ratio, _ in seen)


def test_one_that_does_not_settle_is_told_so():
    with pytest.raises(ConvergenceError, match=r"does not settle: .* is 2.2, the threshold 2 .* smaller learning rate"):
        regime.settling_time(QUADRATIC, GradientDescent(2.2), longest=60, progress=False)
    thrown = Objective(lambda w: torch.log1p(w * w).sum(), torch.ones(1, dtype=torch.float64))
    with pytest.raises(ConvergenceError, match=r"does not settle: .* the loss 7.67 \(at the start 0.693\)"):
        regime.settling_time(thrown, GradientDescent(100.0), longest=60, progress=False)  # eigenvalues are small there


def test_a_run_starts_where_the_optimizer_has_settled_and_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    f, opt = network(), RMSProp(3e-3, 0.99)  # without bias correction it starts far beyond the edge
    options = {"processes": ("discrete",), "progress": False}
    tree = simulate(f, opt, 3, burn_in="auto", checkpoint=tmp_path / "run", **options)
    assert burn_in(tree) == regime.settling_time(f, opt, progress=False)
    assert tree["discrete"].equals(simulate(f, opt, 3, burn_in=burn_in(tree), **options)["discrete"])
    monkeypatch.setattr("cflows.simulation.settling_time", None)  # the checkpoint says it
    assert burn_in(simulate(f, opt, 3, burn_in="auto", checkpoint=tmp_path / "run", **options)) == burn_in(tree)


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="burn_in is 'never'; it must be a number of steps, or \"auto\""):
        simulate(QUADRATIC, GradientDescent(0.1), 3, burn_in="never")


def test_of_a_quadratic_every_stable_learning_rate_stays_below_the_edge():
    found = suggest_lr(QUADRATIC, GradientDescent(0.45), 60, progress=False)
    assert found.never == found.largest == 1.8
    assert math.isnan(found.early)
    assert math.isnan(found.tried[3.6].edge)
    assert set(found.tried) == {0.45, 0.9, 1.8, 3.6}
    assert suggest_lr(QUADRATIC, GradientDescent(14.4), 60, progress=False).largest == 1.8  # from above


def test_suggested_learning_rates_do_what_is_said():
    f, steps = network(), 240
    found = suggest_lr(f, RMSProp(4e-3, 0.99, bias_correction=True), steps, progress=False)
    assert found.never < found.early <= found.largest
    opt = RMSProp(found.early, 0.99, bias_correction=True)
    top = simulate(f, opt, steps + 1, ("midpoint",), eig_every=1, progress=False)["midpoint"]["eigenvalues"].max("eig")
    assert float(top[: steps // 2 + 1].max()) > 1.97
    slow = RMSProp(found.never, 0.99, bias_correction=True)
    top = simulate(f, slow, steps + 1, ("midpoint",), eig_every=1, progress=False)["midpoint"]["eigenvalues"].max("eig")
    assert float(top.max()) < 2
    assert f"edge in the first half of {steps} steps: lr {found.early:.2g}" in str(found)


def test_a_schedule_or_too_few_steps_are_refused():
    with pytest.raises(TypeError, match="schedule"):
        suggest_lr(QUADRATIC, GradientDescent(lambda t: 0.1 / t))
    with pytest.raises(ValueError, match="steps is 10"):
        suggest_lr(QUADRATIC, GradientDescent(0.1), 10)


@pytest.mark.parametrize("offset", [1.0, -5.0])
def test_a_constant_in_the_loss_changes_nothing(offset):
    f = Objective(lambda w: offset + (w * w).sum() / 2, torch.ones(1, dtype=torch.float64))
    assert suggest_lr(f, GradientDescent(0.7), 60, progress=False).largest == 1.4


def test_the_loss_of_all_processes_is_compared(monkeypatch):
    """As if another process held the other half of the loss."""
    f = Objective(lambda w: (1 + (w * w).sum() / 2) / 2, torch.ones(2, dtype=torch.float64))
    f._split = True
    monkeypatch.setattr("torch.distributed.all_reduce", lambda x: x.mul_(2))
    assert regime.settling_time(f, GradientDescent(0.5), progress=False) == 15
