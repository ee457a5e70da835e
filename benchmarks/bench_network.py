"""The stationary preconditioner of a network: products and seconds, from the central flow and from nothing.

    make bench

On the stored runs of a ResNet at three learning rates, at the last snapshot of the central flow, in single precision,
to a gap of 1e-4; certificates included. A search from nothing knows the gradient and H by its products alone.
"""

import math
import time

import pytest
import torch

from cflows import experiments, stationary


def timed(*args, **options):
    begin = time.perf_counter()
    s = stationary.solve(*args, **options)
    return s, {"products": s.hvps, "seconds": time.perf_counter() - begin, "gap": s.gap, "rank": s.factor.shape[1]}


RATES = experiments.rates(experiments.get("rmsprop-rates"))


def solve(e):
    last = experiments.compute(e, "cpu")["snapshots/central"].isel(step=-1)
    f = e.objective("cpu")
    w, covariance = (torch.tensor(last[name].values).to(f.w0) for name in ("weights", "factor"))
    _, g, hvp = f.linearize(w)
    warm, found = timed(hvp, g, e.optimizer.lr, start=2 / e.optimizer.lr * covariance[:, covariance.any(0)])
    rows = {"P̄, warm": found}
    _, rows["P̄, from nothing"] = timed(hvp, g, e.optimizer.lr)
    _, rows["P̂, warm"] = timed(hvp, g, math.inf, start=warm.factor)
    _, rows["P̂, from nothing"] = timed(hvp, g, math.inf)
    return {"lr": e.optimizer.lr, "step": int(last["step"]), "weights": f.dim, "rows": rows}


@pytest.mark.parametrize("e", RATES, ids=lambda e: f"{e.optimizer.lr:g}")
def test_network(benchmark, e):
    benchmark.extra_info |= benchmark.pedantic(solve, (e,), rounds=1)
