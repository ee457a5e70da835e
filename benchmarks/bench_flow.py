"""What a unit of time of the central flow costs, and how far it strays, beside the published algorithm.

    make bench

On the laptop preset's ResNet, in single precision, where 1, 2 and at least 4 eigenvalues are locked at 2. Costs are
in gradients of the same loss, timed in turn with what is measured. Distances are Euclidean, as a share of the way
that the weights go. The reference takes 16 steps a unit of time, looks at eigenvectors (to 1e-4) and third
derivatives at each, and adds up its steps in double precision: in single precision their rounding is of the size of
what is measured.
"""

import itertools
import time

import numpy as np
import pytest
import torch
from literal import Literal
from torch import nn

from cflows import Objective, data, differences, experiments, models, processes

UNITS = 50
NONE = torch.as_tensor([], dtype=torch.int64)
OPTIONS = {"eigs": 1, "eig_every": 100, "coords": NONE}


def objective(labels):
    """The ResNet on four classes; or on eight random labels at 4η, which takes it to more eigenvalues at 2."""
    e = experiments.get("rmsprop-resnet")
    if labels == "true":
        return experiments.optimizer(e), experiments.objective(e, "cpu")
    images, _ = data.cifar10(e.per_class, e.classes, e.size)
    torch.manual_seed(0)
    targets = nn.functional.one_hot(torch.randint(8, (len(images),)), 8).to(images.dtype)
    f = Objective.from_module(models.ResNet(e.width, e.blocks, 8), nn.MSELoss(), images, targets)
    return experiments.optimizer(experiments.scaled(e, 4)), f


def start(flow, k):
    """Move a flow on until k eigenvalues have been locked for 20 units of time."""
    since = 0
    for i in itertools.count():
        since = since + 1 if sum(v > 0 for v in flow.observe(i)["variances"]) >= k else 0
        if since > 20:
            return flow.w, flow.nu, flow.t
        flow.advance()


class Wide:
    """An objective in double precision, its derivatives from one in single precision."""

    def __init__(self, f):
        self.f, self.dim, self.w0 = f, f.dim, f.w0.double()

    def value_and_grad(self, w):
        return tuple(x.double() for x in self.f.value_and_grad(w.float()))

    def linearize(self, w):
        loss, g, hvp = self.f.linearize(w.float())
        return loss.double(), g.double(), lambda V: hvp(V.float()).double()


class Reference(processes.Central):
    def third_derivatives(self, U, p, known=None):
        HU, T = differences.central_differences(self.f, self.w, self.g, U, self.reach)
        return T, HU


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
    ours = processes.Central(f, opt, substeps=1, accuracy=0.01, eig_tol=0.01, **OPTIONS)
    ours.begin(f.w0, opt.init(f.w0), 1)
    w, nu, t = start(ours, k)
    looks, steps = [], itertools.count(1)

    def unit():
        record = ours.observe(next(steps))
        if "eigenvalues" in record:
            looks.append((ours.pairs.products, record["eig_residual"], record["eigenvalues"][:k]))
        ours.advance()

    found = {"cflows": timed(f, w, unit)}
    products, residuals, locked = zip(*looks, strict=True)
    found["cflows"] |= {
        "looks": len(looks) / UNITS,
        "products": sum(products) / UNITS,
        "residual": max(residuals),
        "off": max(abs(x - 2) for values in locked for x in values) / 2,
    }
    literal = Literal(f, f, opt, w, nu, t, k)
    counts, residuals = [], []

    def unit():
        literal.unit()
        counts.append(literal.products)
        residuals.append(literal.residual)

    found["published"] = timed(f, w, unit)
    found["published"] |= {"products": float(np.mean(counts[1:])), "residual": max(residuals[1:])}

    reference = Reference(Wide(f), opt, substeps=16, accuracy=1e-12, eig_tol=1, **OPTIONS)
    reference.eig_tol, reference.reach = 1e-4, ours.reach
    processes.Process.begin(reference, w.double(), nu.double(), t)
    for i in range(UNITS):
        reference.observe(i)
        reference.advance()
    way, rise = reference.w - w, reference.nu - nu
    for name, other in (("cflows", ours), ("published", literal)):
        found[name]["distance"] = float((other.w - reference.w).norm() / way.norm())
        found[name]["nu"] = float((other.nu - reference.nu).norm() / rise.norm())
    return {"k": k, "labels": labels, "from": t, "weights": f.dim, **found}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by nested forward mode itself
@pytest.mark.parametrize(("labels", "k"), [("true", 1), ("true", 2), ("random", 4)])
def test_unit(benchmark, labels, k):
    benchmark.extra_info |= benchmark.pedantic(compare, (labels, k), rounds=1)
