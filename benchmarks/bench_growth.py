"""How the cost of the central flow grows with weights, examples and critical eigenvalues, and memory with examples.

    make bench

Measured are its parts, a refresh and a step: how often a refresh is due depends on how fast eigenvectors
turn, which is a matter of the loss. In single precision; costs in gradients of the same loss.
"""

import time

import numpy as np
import pytest
import torch
from bench_scale import apart
from torch import nn

from cflows import GradientDescent, Objective, differences, eigen, flows, models
from cflows.critical import Critical, Modes, float64
from cflows.processes.subspace import Subspace


def network(width, examples, size, batch_size=None):
    torch.manual_seed(0)
    images, labels = torch.randn(examples, 3, size, size), torch.randint(4, (examples,))
    targets = nn.functional.one_hot(labels, 4).float()
    return Objective.from_module(models.ResNet(width, 1, 4), nn.MSELoss(), images, targets, batch_size)


def gradient(f, w, times) -> float:
    """Seconds of a gradient, the first left out."""
    f.value_and_grad(w)
    begin = time.perf_counter()
    for _ in range(times):
        f.value_and_grad(w)
    return (time.perf_counter() - begin) / times


def refresh_and_step(width, examples, size, k, batch_size=None):
    """A refresh of k critical eigenvalues and the next, a small way from the last, and a step with them."""
    f = network(width, examples, size, batch_size)
    w, opt = f.w0, GradientDescent(1.0)
    _, g, hvp = f.linearize(w)
    p, nu = torch.ones_like(w), opt.init(g)
    pairs = eigen.top_eigenpairs(hvp, p, k + 1, tol=1e-2)
    X, known, gradients = torch.diag(torch.arange(k, 0.0, -1)), None, k * (k + 1)
    refreshes, steps = [], []
    critical: Critical | None = None
    for _ in range(4):
        begin = time.perf_counter()
        _, g, hvp = f.linearize(w + 1e-4 * g)
        again = eigen.top_eigenpairs(hvp, p, k + 1, pairs.start, tol=1e-2)
        U = again.U[:, :k]
        if critical:  # the mixed third derivatives of one axis, in turn: the others are known
            past = Subspace(Modes(again.values, critical.U, critical.U), critical, 0.0, 1.0, turn=len(steps))
            Q, known = past.rotated(U, again.values[:k], p[:, None], X)
            U, gradients = U @ Q, 2 * int((~known.pairs[np.tril_indices(k)]).sum())
        T = differences.central_differences(f, w, g, U, 0.01, known)[1]
        refreshes.append(time.perf_counter() - begin)
        critical = Critical(float64(0 * torch.eye(k)), U, T)
        begin = time.perf_counter()
        flows.step(f, opt, w, nu, 1.0, 1.0, g, critical, Modes(again.values, again.U, again.U))
        steps.append(time.perf_counter() - begin)
    each = gradient(f, w, 10)
    costs = {name: sum(times[1:]) / 3 / each for name, times in {"refresh": refreshes, "step": steps}.items()}
    counts = {"products": again.products, "gradients": gradients}
    return {"weights": f.dim, "examples": examples, "k": k, "gradient": each} | counts | costs


@pytest.mark.parametrize("width", [6, 12, 25, 62])
def test_weights(benchmark, width):
    benchmark.extra_info |= benchmark.pedantic(apart, (refresh_and_step, width, 100, 8, 1), rounds=1)


@pytest.mark.parametrize("examples", [100, 1000, 10_000])
def test_examples(benchmark, examples):
    benchmark.extra_info |= {"batch_size": 100} | benchmark.pedantic(
        apart, (refresh_and_step, 6, examples, 8, 1, 100), rounds=1
    )


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7, 10])
def test_critical(benchmark, k):
    benchmark.extra_info |= benchmark.pedantic(refresh_and_step, (8, 200, 16, k), rounds=1)
