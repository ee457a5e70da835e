"""Optimizers with momentum against PyTorch's, their thresholds on quadratics, and their flows against closed forms."""

import math

import numpy as np
import pytest
import torch
from conftest import mlp_objective

from cflows import Adam, AdamW, GradientDescent, HeavyBall, Objective, RMSProp, simulate

PYTORCH = [
    (HeavyBall(0.05, 0.8), lambda w: torch.optim.SGD(w, 0.05, momentum=0.8)),
    (HeavyBall(0.05, 0.8, 0.8), lambda w: torch.optim.SGD(w, 0.05, momentum=0.8, dampening=0.8)),
    (HeavyBall(0.05, 0.8, 0.3), lambda w: torch.optim.SGD(w, 0.05, momentum=0.8, dampening=0.3)),
    (Adam(0.01, beta1=0.9, beta2=0.99, eps=1e-3), lambda w: torch.optim.Adam(w, 0.01, (0.9, 0.99), 1e-3)),
    (Adam(0.01, beta1=0.5, beta2=0.95), lambda w: torch.optim.Adam(w, 0.01, (0.5, 0.95), 0.0)),
    (
        AdamW(0.01, beta1=0.9, beta2=0.99, eps=1e-3, weight_decay=0.5),
        lambda w: torch.optim.AdamW(w, 0.01, (0.9, 0.99), 1e-3, 0.5),
    ),
]


def run_torch(f, make, steps):
    w = f.w0.clone().requires_grad_()
    opt = make([w])
    for _ in range(steps):
        w.grad = f.value_and_grad(w.detach())[1]
        opt.step()
    return w.detach()


def weights(f, opt, steps):
    """Those of the optimizer, as `simulate` has them."""
    tree = simulate(f, opt, steps + 1, ("discrete",), eig_every=0, outputs=lambda w: w * 1.0, progress=False)
    return tree["discrete"]["outputs"].values


@pytest.mark.parametrize(("ours", "theirs"), PYTORCH)
def test_same_as_pytorch(ours, theirs):
    f = mlp_objective()
    found, twin = weights(f, ours, 100)[-1], run_torch(f, theirs, 100).numpy()
    np.testing.assert_allclose(found, twin, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (Adam(0.01, beta1=0.0, beta2=0.95, eps=1e-6), RMSProp(0.01, 0.95, 1e-6, True)),
        (Adam(0.01, beta1=0.0, beta2=0.95, bias_correction=False), RMSProp(0.01, 0.95)),
        (AdamW(0.01, beta1=0.0, beta2=0.95, weight_decay=0.0), RMSProp(0.01, 0.95, 0.0, True)),
        (HeavyBall(0.2, 0.0), GradientDescent(0.2)),
    ],
)
def test_without_memory_bit_for_bit(ours, plain):
    f = mlp_objective()
    processes = ("discrete", "midpoint", "stable", "central")
    a, b = (
        simulate(f, opt, 25, processes, burn_in=5, outputs=lambda w: w * 1.0, progress=False) for opt in (ours, plain)
    )
    assert ours.threshold == plain.threshold == 2
    for name in processes:
        np.testing.assert_array_equal(a[name]["outputs"], b[name]["outputs"])
        np.testing.assert_array_equal(a[name]["predicted_loss"], b[name]["predicted_loss"])


THRESHOLDS = [
    *((HeavyBall(1.0, b, d), lambda w, eta, b=b, d=d: torch.optim.SGD(w, eta, momentum=b, dampening=d))
      for b, d in ((0.9, 0.0), (0.9, 0.9), (0.5, 0.2))),
]  # fmt: skip


@pytest.mark.parametrize(("share", "grows"), [(0.995, False), (1.005, True)])
@pytest.mark.parametrize(("ours", "theirs"), THRESHOLDS)
def test_threshold_of_pytorch_with_momentum(ours, theirs, share, grows):
    """On ½w² the heavy ball diverges from η = θ (1-δ) / (1-β) on."""
    p = float(ours.preconditioner(torch.zeros((), dtype=torch.float64), 1.0))  # at η = 1
    assert p == pytest.approx((1 - ours.beta) / (1 - ours.dampening))
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    opt = theirs([w], share * ours.threshold * p)
    sizes = []
    for _ in range(3000):
        w.grad = w.detach().clone()
        opt.step()
        sizes.append(abs(w.item()))
    assert (max(sizes[-10:]) > 10) == grows
    assert (max(sizes[-10:]) < 0.1) != grows


@pytest.mark.parametrize(("share", "grows"), [(0.995, False), (1.005, True)])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("beta1", [0.5, 0.9])
def test_threshold_of_pytorch_adam(beta1, decay, share, grows):
    """With ν held by a state of its own: an ε that dwarfs the gradients makes the preconditioner ε / η."""
    eps, eta = 1e6, 1.0
    ours = AdamW(eta, beta1=beta1, beta2=0.99, eps=eps, weight_decay=decay)
    curvature = share * ours.threshold * eps / eta
    w = torch.full((1,), 1e-90, dtype=torch.float64, requires_grad=True)
    opt = torch.optim.AdamW([w], eta, (beta1, 0.99), eps, decay)
    sizes = []
    for _ in range(500):
        w.grad = curvature * w.detach()
        opt.step()
        sizes.append(abs(w.item()))
    assert (max(sizes[-50:]) > max(sizes[200:250])) == grows  # bias correction makes the first steps too long


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(1e-3, beta1=1.0), "beta1 is 1.0"),
        (lambda: Adam(1e-3, beta1=math.nan), "beta1 is nan"),
        (lambda: Adam(-1e-3), "lr is -0.001"),
        (lambda: HeavyBall(0.1, -0.1), "beta is -0.1"),
        (lambda: HeavyBall(0.1, 0.9, 1.0), "dampening is 1.0"),
        (lambda: AdamW(1e-3, weight_decay=-1.0), "weight_decay is -1.0"),
        (lambda: AdamW(0.1, weight_decay=20.0), "lr · weight_decay is 2;"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
