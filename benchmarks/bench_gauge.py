"""What a report of the gauge costs: time beside a step of training, and memory.

    make bench BENCH=gauge

Perceptrons of growing width under Adam, on one batch of random inputs, the probe batch too. Each method in a process of
its own, since memory is the process's peak.
"""

import multiprocessing
import resource
import statistics
import time

import pytest

WIDTHS, METHODS = (60, 300, 1_000, 3_100), ("none", "gradients", "losses", "product", "eigenvalues")
STEPS, EXAMPLES, INPUTS = 12, 256, 100


def run(width, method):
    """Weights, median seconds of a step with a report (without, for "none"), peak memory in GB."""
    import torch
    from torch import nn

    from cflows import Gauge

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(INPUTS, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
    inputs, targets = torch.randn(EXAMPLES, INPUTS), torch.randn(EXAMPLES, 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    gauge = Gauge(optimizer, lambda: nn.functional.mse_loss(module(inputs), targets))
    if method != "none":
        gauge.attach(lambda reading: None, 1, method)
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.mse_loss(module(inputs), targets).backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return sum(p.numel() for p in module.parameters()), statistics.median(times[STEPS // 3 :]), peak


def measure(width):
    rows = {}
    for method in METHODS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            weights, seconds, memory = pool.apply(run, (width, method))
        rows[method] = {"seconds": seconds, "memory": memory}
    return {"weights": weights, "rows": rows}


@pytest.mark.parametrize("width", WIDTHS)
def test_gauge(benchmark, width):
    benchmark.extra_info |= benchmark.pedantic(measure, (width,), rounds=1)
