"""On a GPU all is the same. `benchmarks/gpu.py` runs these tests; without a GPU they are skipped."""

import copy
import itertools

import numpy as np
import pytest
import torch
from conftest import mlp_objective
from torch import nn

from cflows import GradientDescent, Objective, RMSProp, ScalarRMSProp, experiments, preconditioners, simulate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
OPT = RMSProp(0.01, 0.95, bias_correction=True)


def there(width=8, examples=20):
    """The objective of the tests, on the GPU."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(examples, m, generator=generator, dtype=torch.float64) for m in (4, 2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2)).double()
    return Objective.from_module(module.cuda(), nn.MSELoss(), x.cuda(), y.cuda())


def run(f, opt, steps=60, processes=("discrete", "midpoint", "stable", "central", "ablated"), **options):
    return simulate(f, opt, steps, processes, coords=(0, 5), progress=False, **options)


@pytest.mark.parametrize("opt", [OPT, ScalarRMSProp(0.2, 0.95, bias_correction=True), GradientDescent(0.6)])
def test_processes_agree_with_those_on_a_processor(opt):
    processes = ("discrete", "stable", "central") + (("ablated",) if opt.rate else ())
    trees = [run(f, opt, processes=processes) for f in (mlp_objective(width=8, examples=20), there())]
    for name in processes:
        for variable in ("predicted_loss", "nu_sum", "variances"):
            here, gpu = (tree[name][variable].values for tree in trees)
            np.testing.assert_allclose(gpu, here, rtol=1e-6, atol=1e-9, err_msg=f"{name} {variable}")
    assert float(trees[1]["central"]["variances"].max()) > 0


def test_stationary_flows_and_convex_programs():
    options = {"branch_step": 30, "snapshot_every": 20, "processes": ("discrete", "central", "stationary")}
    trees, solved = [], []
    for f in (mlp_objective(width=8, examples=20), there()):
        trees.append(run(f, OPT, 50, **options))
        solved.append(preconditioners.along(f, OPT, trees[-1]))
    here, gpu = (tree["stationary"]["nu_sum"].values for tree in trees)
    np.testing.assert_allclose(gpu, here, rtol=1e-4)
    np.testing.assert_allclose(solved[1]["speed"], solved[0]["speed"], rtol=1e-4)


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.LSTM(3, 4, batch_first=True), (5, 6, 3)), (nn.Conv2d(3, 4, 3), (5, 3, 8, 8))]
)
def test_derivatives_in_single_precision(layer, shape):
    """cuDNN has no second derivatives of recurrent layers, and rounds convolutions to TF32."""

    def first(y):
        return y[0] if isinstance(y, tuple) else y

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = copy.deepcopy(layer)

        def forward(self, x):
            return first(self.layer(x)).tanh()

    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y, found = torch.zeros_like(first(layer(x)).detach()), []
    for device in ("cpu", "cuda"):
        f = Objective.from_module(Wrapped().to(device), nn.MSELoss(), x.to(device), y.to(device))
        V = torch.linspace(-1, 1, f.dim, device=device)[:, None]
        found.append([v.cpu() for v in (f.value_and_grad(f.w0)[1], f.hvp(f.w0, V))])
    for here, gpu in zip(*found, strict=True):
        torch.testing.assert_close(gpu, here, rtol=0, atol=2e-5 * float(here.abs().max()))


def test_a_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    whole, path, update = run(there(), OPT, snapshot_every=10), tmp_path / "run.ckpt", RMSProp.update
    calls = itertools.count()

    def interrupted(self, nu, g):
        if next(calls) == 40:
            raise KeyboardInterrupt
        return update(self, nu, g)

    with monkeypatch.context() as patch:
        patch.setattr(RMSProp, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(there(), OPT, snapshot_every=10, checkpoint=path)
    assert path.exists()
    again = run(there(), OPT, snapshot_every=10, checkpoint=path)
    for name in ("discrete", "central"):
        np.testing.assert_allclose(again[name]["loss"], whole[name]["loss"], rtol=1e-9)


def test_an_experiment_runs_there_and_is_verified_here(tmp_path):
    e = experiments.get("rmsprop-resnet", "ci", burn_in=5, steps=12, branch_step=6, replay_from=(2,))
    tree = experiments.compute(e)
    assert "NVIDIA" in tree.attrs["provenance"]
    assert experiments.verify(e.path, "cuda") == []
    lines = experiments.verify(e.path, "cpu")
    assert not [line for line in lines if "central" in line], lines
