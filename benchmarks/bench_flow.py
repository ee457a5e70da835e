"""What a unit of time of the central flow costs, and how far it strays, beside the published algorithm.

    make bench

On a ResNet with 200 images, in single precision, where 1, 2 and at least 4 eigenvalues are locked at 2. Costs are
in gradients of the same loss, timed in turn with what is measured. Distances are Euclidean, as a share of the way
that the weights go. The reference takes 16 steps a unit of time, finds eigenvectors (to 1e-4) and third
derivatives anew at each, and adds up its steps in double precision: in single precision their rounding is as large as
what is measured.
"""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from literal import Literal
from torch import nn

from cflows import Objective, RMSProp, data, differences, models
from cflows.processes import Central, Settings
from cflows.tasks import CifarResNet

UNITS = 50
NONE = torch.as_tensor([], dtype=torch.int64)


def objective(labels):
    """The ResNet on four classes; or on eight random labels at 4η, which takes it to more eigenvalues at 2."""
    task, opt = CifarResNet(), RMSProp(3e-5, 0.99, bias_correction=True)
    if labels == "true":
        return opt, task.objective(torch.device("cpu"))
    images, _ = data.cifar10(task.per_class, task.classes, task.size)
    torch.manual_seed(0)
    targets = nn.functional.one_hot(torch.randint(8, (len(images),)), 8).to(images.dtype)
    f = Objective.from_module(models.ResNet(task.width, task.blocks, 8), nn.MSELoss(), images, targets)
    return replace(opt, lr=4 * opt.lr), f


def start(flow, state, k):
    """The state of a flow where k eigenvalues have been locked for 20 units of time."""
    since = 0
    for i in itertools.count():
        seen = flow.observe(state, i, {})
        since = since + 1 if sum(v > 0 for v in seen.row["variances"]) >= k else 0
        if since > 20:
            return state
        state = flow.step(seen)


class Wide:
    """An objective in double precision, its derivatives from one in single precision."""

    def __init__(self, f):
        self.f, self.dim, self.w0 = f, f.dim, f.w0.double()

    def value_and_grad(self, w):
        return tuple(x.double() for x in self.f.value_and_grad(w.float()))

    def linearize(self, w):
        loss, g, hvp = self.f.linearize(w.float())
        return loss.double(), g.double(), lambda V: hvp(V.float()).double()


class Reference(Central):
    """With differences over the reach that single precision asked for."""

    def eig_tol(self, state, top):
        return 1e-4

    def third_derivatives(self, seen, U, HU, p, known=None):
        s = seen.state
        return differences.central_differences(self.f, s.w, seen.g, U, s.reach.length)[1], s.reach


def timed(f, w, unit):
    """Seconds and gradients' time of each of `UNITS` units of time, the first left out; a gradient is timed at each."""
    units, gradients = [], []
    for _ in range(UNITS):
        for times, work in ((units, unit), (gradients, lambda: f.value_and_grad(w))):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
    return {"seconds": float(np.mean(units[1:])), "gradients": float(np.mean(units[1:]) / np.mean(gradients[1:]))}


def compare(labels, k):
    opt, f = objective(labels)
    ours = Central(Settings(f, opt, 4, 0.01, NONE), 0)  # the defaults of `simulate`
    state = begun = start(ours, ours.start(f.w0, opt.init(f.w0), 1), k)
    w, nu, t = state.w, state.nu, state.t
    refreshes, steps = [], itertools.count(1)

    def unit():
        nonlocal state
        seen = ours.observe(state, next(steps), {})
        if seen.pairs is not None:
            refreshes.append((seen.pairs.products, seen.row["eig_residual"], seen.row["eigenvalues"][:k]))
        state = ours.step(seen)

    found = {"cflows": timed(f, w, unit)}
    products, residuals, locked = zip(*refreshes, strict=True)
    found["cflows"] |= {
        "refreshes": len(refreshes) / UNITS,
        "products": sum(products) / UNITS,
        "residual": max(residuals),
        "off": max(abs(x - 2) for values in locked for x in values) / 2,
    }
    literal = Literal(f, f, opt, w, nu, t, k)
    counts, remaining = [], []

    def published():
        literal.unit()
        counts.append(literal.products)
        remaining.append(literal.residual)

    found["published"] = timed(f, w, published)
    found["published"] |= {"products": float(np.mean(counts[1:])), "residual": max(remaining[1:])}

    reference = Reference(Settings(Wide(f), opt, 1, 1e-4, NONE, substeps=16, accuracy=1e-12), 1)
    exact = reference.state_type(w.double(), nu.double(), t, reach=begun.reach, dt=1 / 16)
    for i in range(UNITS):
        exact = reference.step(reference.observe(exact, i, {}))
    way, rise = exact.w - w, exact.nu - nu
    for name, other in (("cflows", state), ("published", literal)):
        found[name]["distance"] = float((other.w - exact.w).norm() / way.norm())
        found[name]["nu"] = float((other.nu - exact.nu).norm() / rise.norm())
    return {"k": k, "labels": labels, "from": t, "weights": f.dim, **found}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by nested forward mode itself
@pytest.mark.parametrize(("labels", "k"), [("true", 1), ("true", 2), ("random", 4)])
def test_unit(benchmark, labels, k):
    benchmark.extra_info |= benchmark.pedantic(compare, (labels, k), rounds=1)
