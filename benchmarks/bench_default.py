"""What the default call costs, by counts, and how far it strays: five networks, several values of ``accuracy``.

    make bench BENCH=default

Each flow runs for 100 units of time, ν's memory, from where eigenvalues have been at 2 for 20 units. Gradients,
linearisations and Hessian-vector products are counted; the last two count as many gradients as they take the time of.
Errors are those at the end against steps of half, refreshed as often as ``accuracy`` 1e-4 asks for: of the weights
and of ν as shares of the way that they go, of the predicted loss relative to it.
"""

import copy
import itertools
import time

import numpy as np
import pytest
import torch
from networks import NETWORKS

from cflows import Objective, RMSProp, simulate
from cflows.processes import Central, Settings

UNITS = 100
NONE = torch.as_tensor([], dtype=torch.int64)
ACCURACIES = 5e-4, 2e-3, 1e-2  # the second is the default


class Tally(Objective):
    """An objective that counts what it is asked for."""

    gradients = linearisations = products = 0

    @classmethod
    def of(cls, f):
        tally = copy.copy(f)
        tally.__class__ = cls
        return tally

    def value_and_grad(self, w):
        self.gradients += 1
        return super().value_and_grad(w)

    def linearize(self, w):
        self.linearisations += 1
        loss, g, hvp = super().linearize(w)

        def counted(V):
            self.products += V.shape[1]
            return hvp(V)

        return loss, g, counted


def central(f, opt, **options):
    defaults = {"eigs": 4, "eig_tol": 0.01} | options
    return Central(Settings(f, opt, coords=NONE, **defaults), 0)


def seconds(work, times=8):
    work()
    begin = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begin) / times


def start(network, f, opt):
    """Weights, ν and time of a flow that has been at the edge for 20 units of time."""
    run = simulate(
        f, opt, network.burn_in + 2, ("discrete",), progress=False, eig_every=0, replay_steps=1,
        replay_from=(network.burn_in,),
    )  # fmt: skip
    at = run[f"state/{network.burn_in}/discrete"]
    flow, since = central(f, opt), 0
    state = flow.start(
        *(torch.tensor(at[name].values, device=f.w0.device) for name in ("w", "nu")), network.burn_in + 1
    )
    for i in itertools.count():
        seen = flow.observe(state, i, {})
        since = since + 1 if any(v > 0 for v in seen.row["variances"]) else 0
        if since > 20:
            return state.w, state.nu, state.t
        state = flow.step(seen)


def follow(flow, begin):
    """State at the end, predicted losses, and the most eigenvalues that were locked at once."""
    state, losses, locked = flow.state_type(*begin), [], 0
    for i in range(UNITS):
        seen = flow.observe(state, i, {})
        losses.append(seen.row["predicted_loss"])
        locked = max(locked, sum(v > 0 for v in seen.row["variances"]))
        state = flow.step(seen)
    return state, losses, locked


def compare(name):
    network = NETWORKS[name]
    f, opt = network.objective(), RMSProp(network.lr, 0.99, eps=1e-8, bias_correction=True)
    begin = start(network, f, opt)
    w, nu, _ = begin
    exact, losses, _ = follow(central(f, opt, eig_tol=1e-3, accuracy=1e-4, substeps=2), begin)
    gradient = seconds(lambda: f.value_and_grad(w))
    hvp, V = f.linearize(w)[2], torch.randn(f.dim, 4).to(w)
    linearisation, product = seconds(lambda: f.linearize(w)) / gradient, seconds(lambda: hvp(V)) / 4 / gradient
    rows = []
    for accuracy in ACCURACIES:
        tally = Tally.of(f)
        took = time.perf_counter()
        state, found, locked = follow(central(tally, opt, accuracy=accuracy), begin)
        took = time.perf_counter() - took
        counts = np.array([tally.gradients, tally.linearisations, tally.products]) / UNITS
        rows.append({
            "accuracy": accuracy,
            "locked": locked,
            **dict(zip(("gradients", "linearisations", "products"), counts.tolist(), strict=True)),
            "cost": float(counts @ [1, linearisation, product]),
            "seconds": took / UNITS,
            "weights": float((state.w - exact.w).norm() / (exact.w - w).norm()),
            "nu": float((state.nu - exact.nu).norm() / (exact.nu - nu).norm()),
            "loss": float(abs(np.array(found) / losses - 1).mean()),
        })  # fmt: skip
    return {
        "network": name, "size": f.dim, "lr": network.lr, "gradient": gradient,
        "linearisation": linearisation, "product": product, "rows": rows,
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:the gradient of:UserWarning")  # of the GPT's key biases
@pytest.mark.parametrize("name", NETWORKS)
def test_default(benchmark, name):
    benchmark.extra_info |= benchmark.pedantic(compare, (name,), rounds=1)
