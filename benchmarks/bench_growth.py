"""How the cost of a unit of time grows with weights, examples and critical eigenvalues, and peak memory with examples.

    make bench

Gradient descent with the learning rate at which its first eigenvalue is 2 where it starts: the central flow is at the
edge from its first step on. In single precision; costs in gradients of the same loss.
"""

import time

import pytest
import torch
from bench_flow import OPTIONS
from bench_scale import apart
from torch import nn

from cflows import GradientDescent, Objective, eigen, flows, models, processes

UNITS = 20


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


def unit(width, examples, size, batch_size=None):
    """Cost of a unit of time, the first left out."""
    f = network(width, examples, size, batch_size)
    _, g, hvp = f.linearize(f.w0)
    top = eigen.top_eigenpairs(hvp, torch.ones_like(f.w0), 1, tol=1e-2)
    opt = GradientDescent(2 / float(top.values[0]))
    flow = processes.Central(f, opt, substeps=1, accuracy=0.01, eig_tol=0.01, **OPTIONS)
    flow.begin(f.w0, opt.init(g), 1)
    before, total = gradient(f, f.w0, 5), 0.0
    for i in range(UNITS):
        begin = time.perf_counter()
        flow.observe(i)
        flow.advance()
        total += (time.perf_counter() - begin) if i else 0.0
    each = (before + gradient(f, f.w0, 5)) / 2
    return {"weights": f.dim, "examples": examples, "gradient": each, "gradients": total / (UNITS - 1) / each}


def look_and_step(k):
    """A look at k critical eigenvalues and the next, from where they were, and a step with them."""
    f = network(8, 200, 16)
    w, opt = f.w0, GradientDescent(1.0)
    _, g, hvp = f.linearize(w)
    p, nu = torch.ones_like(w), opt.init(g)
    pairs = eigen.top_eigenpairs(hvp, p, k + 1, tol=1e-2)
    found = {}
    for _ in range(2):  # the first is not counted
        begin = time.perf_counter()
        _, g, hvp = f.linearize(w + 1e-4 * g)
        again = eigen.top_eigenpairs(hvp, p, k + 1, pairs.start, tol=1e-2)
        _, T = f.differences(w, g, again.U[:, :k], 0.01)
        found["look"] = time.perf_counter() - begin
        critical = flows.Critical(flows.float64(0 * torch.eye(k)), again.U[:, :k], T)
        begin = time.perf_counter()
        flows.step(f, opt, w, nu, 1.0, 1.0, g, critical, flows.Modes(again.values, again.U, again.U))
        found["step"] = time.perf_counter() - begin
    each = gradient(f, w, 10)
    return {"k": k, "products": again.products} | {name: seconds / each for name, seconds in found.items()}


@pytest.mark.parametrize("width", [6, 12, 25, 62])
def test_weights(benchmark, width):
    benchmark.extra_info |= benchmark.pedantic(apart, (unit, width, 100, 8), rounds=1)


@pytest.mark.parametrize("examples", [100, 1000, 10_000])
def test_examples(benchmark, examples):
    benchmark.extra_info |= {"batch_size": 100} | benchmark.pedantic(apart, (unit, 6, examples, 8, 100), rounds=1)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7, 10])
def test_critical(benchmark, k):
    benchmark.extra_info |= benchmark.pedantic(look_and_step, (k,), rounds=1)
