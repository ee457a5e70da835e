import math

import numpy as np
import pytest
import torch
from conftest import hessian, mlp_objective

import cflows
from cflows import preconditioners, stationary


@pytest.fixture(scope="module")
def run():
    f, opt = mlp_objective(), cflows.RMSProp(0.02, 0.9, bias_correction=True)
    tree = cflows.simulate(
        f, opt, 60, ("discrete", "central"), snapshot_every=20, coords=[0, 3], eig_tol=1e-6, progress=False
    )
    return f, opt, tree


def test_along_against_dense_hessians(run):
    f, opt, tree = run
    found = preconditioners.along(f, opt, tree, tol=1e-8)
    taken = tree["snapshots/central"]
    assert (found["step"] == taken["step"]).all()
    assert (found["gap"] <= 1e-8).all()
    lag = before = 0.0
    for i in range(found.sizes["step"]):
        w = torch.tensor(taken["weights"].values[i])
        H, g = hessian(f, w), f.value_and_grad(w)[1].numpy()
        bar, hat = (stationary.solve(H, g, lr, tol=1e-10) for lr in (opt.lr, math.inf))
        nu = taken["nu"].values[i] / (1 - 0.9 ** (found["step"].values[i] + 1))
        S = np.linalg.eigvalsh(H)[-1]
        speeds = [sum(g**2 / p) for p in (np.sqrt(nu) / opt.lr, bar.p, hat.p, np.full(f.dim, S / 2))]
        np.testing.assert_allclose(found["speed"][i, [0, 3]], np.array(speeds)[[0, 3]], rtol=1e-4)
        np.testing.assert_allclose(
            found["speed"][i, 1:3], speeds[1:3], rtol=0.02
        )  # p is known less well than its value
        np.testing.assert_allclose(found["sharpness"][i], S, rtol=1e-4)
        assert found["cosine"][i] == pytest.approx(nu @ bar.nu / np.linalg.norm(nu) / np.linalg.norm(bar.nu), abs=1e-3)
        np.testing.assert_allclose(found["nu"][i], nu[[0, 3]], rtol=1e-10)
        lag = nu if i == 0 else 0.9**20 * lag + (1 - 0.9**20) * (bar.nu + before) / 2
        before = bar.nu
    expected = np.corrcoef(np.log(nu), np.log(lag))[0, 1]
    assert float(found["log_correlation_past"][-1]) == pytest.approx(expected, abs=0.01)


def test_a_run_without_recorded_weights(run):
    f, opt, _ = run
    tree = cflows.simulate(f, opt, 3, ("central",), snapshot_every=2, progress=False)
    assert preconditioners.along(f, opt, tree)["nu"].shape == (2, 0)


def test_it_says_what_it_cannot_do(run):
    f, opt, tree = run
    with pytest.raises(ValueError, match="no snapshots"):
        preconditioners.along(f, opt, cflows.simulate(f, opt, 2, progress=False))
    with pytest.raises(ValueError, match="ScalarRMSProp"):
        preconditioners.along(f, cflows.ScalarRMSProp(0.1, 0.9), tree)
