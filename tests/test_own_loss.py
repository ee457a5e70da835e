import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cflows import Objective

N = 6


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


@pytest.fixture
def data():
    torch.manual_seed(1)
    return {"x": torch.randn(N, 3, dtype=torch.float64), "y": torch.randn(N, 2, dtype=torch.float64)}


def mse(module, batch):
    return F.mse_loss(module(batch["x"]), batch["y"])


def same(f, g):
    """Value, gradient and products of two objectives."""
    w, v = f.w0 + 0.1, torch.randn(f.dim, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for ours, theirs in zip((*f.value_and_grad(w), f.hvp(w, v)), (*g.value_and_grad(w), g.hvp(w, v)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("batch_size", [None, 4, 3, 1, 100])
def test_a_mean_over_examples(module, data, batch_size):
    f = Objective.from_loss(module, mse, data, batch_size)
    same(f, Objective.from_module(module, nn.MSELoss(), data["x"], data["y"]))


def test_data_come_in_many_forms(module, data):
    expected = Objective.from_module(module, nn.MSELoss(), data["x"], data["y"])

    def pairs(module, batch):
        x, y = batch
        return F.mse_loss(module(x), y)

    dataset = TensorDataset(data["x"], data["y"])
    for form in ((data["x"], data["y"]), [data["x"], data["y"]], dataset, DataLoader(dataset, 4)):
        same(Objective.from_loss(module, pairs, form), expected)
    same(Objective.from_loss(module, pairs, dataset, 4), expected)
    nested = {"in": (data["x"], {"more": None}), "out": [data["y"]]}
    same(Objective.from_loss(module, lambda m, b: F.mse_loss(m(b["in"][0]), b["out"][0]), nested, 4), expected)


def test_a_mean_over_tokens_in_batches(data):
    """Sequences with different numbers of tokens that count: the mean of batch means would be another loss."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)).double()
    tokens = torch.randint(5, (N, 7))
    targets = torch.where(torch.arange(7) < torch.arange(1, N + 1)[:, None], tokens.flip(1), -100)

    def summed(module, batch):
        logits = module(batch["tokens"])
        total = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="sum")
        return total, (batch["targets"] != -100).sum()

    both = {"tokens": tokens, "targets": targets}
    whole = Objective.from_loss(module, lambda m, b: F.cross_entropy(m(b["tokens"]).mT, b["targets"]), both)
    for batch_size in (None, 1, 4):
        same(Objective.from_loss(module, summed, both, batch_size), whole)
    everything = targets.new_full(targets.shape, -100)
    everything[-1, 0] = 1
    same(
        Objective.from_loss(module, summed, both | {"targets": everything}, 2),  # batches in which nothing counts
        Objective.from_loss(module, summed, {"tokens": tokens[-1:], "targets": everything[-1:]}),
    )
    with pytest.raises(ValueError, match="add up to 0"):
        Objective.from_loss(module, summed, both | {"targets": torch.full_like(targets, -100)})


def test_the_loss_may_hold_derivatives_of_the_module(module, data):
    """A physics-informed loss: the residual of a differential equation, in batches and at once."""
    module = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def residual(module, t):
        t = t.detach().requires_grad_()
        u = module(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        return (slope + u).square().mean() + (module(torch.zeros_like(t[:1])) - 1).square().mean()

    t = torch.linspace(0, 1, N, dtype=torch.float64)[:, None]
    same(Objective.from_loss(module, residual, t), Objective.from_loss(module, residual, t, 2))


def test_weight_decay_is_that_of_torch(module, data):
    f = Objective.from_loss(module, mse, data, 4, weight_decay=0.1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5, weight_decay=0.1)
    mse(module, data).backward()
    before = f.w0
    optimizer.step()
    after = torch.cat([p.detach().flatten() for p in module.parameters()])
    torch.testing.assert_close(before - 0.5 * f.value_and_grad(before)[1], after)


def test_objectives_add(module, data):
    f = Objective.from_loss(module, mse, data)
    penalty = Objective(lambda w: 0.05 * w.square().sum(), f.w0)
    same(f + penalty, Objective.from_loss(module, mse, data, weight_decay=0.1))


def test_outputs_and_the_module_as_it_was(module, data):
    before = {name: x.clone() for name, x in module.state_dict().items()}
    f = Objective.from_loss(module, mse, data, 2)
    torch.testing.assert_close(f.outputs(f.w0, data["x"]), module(data["x"]).detach())
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def noisy(module, batch):
    return mse(module, batch) * (1 + 1e-3 * torch.rand(()))


def centred(module, batch):
    out = module(batch["x"])
    return F.mse_loss(out - out.mean(0), batch["y"])


def changing(module, batch):
    batch["x"] *= 1.01
    return mse(module, batch)


def mixed(module, batch):
    return mse(module, batch) if len(batch["x"]) == 4 else (mse(module, batch), 1)


def of_weights(module, batch):
    return mse(module, batch), 1 + module[0].weight.square().sum()


@pytest.mark.parametrize(
    ("loss", "batch_size", "error", "message"),
    [
        (noisy, None, ValueError, "draws random numbers"),
        (centred, 4, ValueError, "mixes examples"),
        (changing, None, ValueError, "changes its batch in place"),
        (mixed, 4, TypeError, r"\(sum, weight\) for some batches and a scalar for others"),
        (of_weights, None, ValueError, "depends on the module's weights"),
        (lambda m, b: m(b["x"]), None, ValueError, "it must return a scalar, the mean over the examples"),
        (lambda m, b: (m(b["x"]).sum(), 1, 2), None, ValueError, r"or \(sum, weight\)"),
        (lambda m, b: mse(m, b) * math.nan, None, ValueError, "the loss is nan at the module's own weights"),
        (lambda m, b: b["y"].square().mean(), None, ValueError, "does not depend on the module's weights"),
        (mse, 0, ValueError, "batch_size is 0; it must be at least 1"),
        (mse, 2.5, TypeError, "batch_size is 2.5; it must be an integer"),
        ("mse", None, TypeError, "loss is 'mse'; it must be a function"),
    ],
)
def test_what_is_no_loss(module, data, loss, batch_size, error, message):
    with pytest.raises(error, match=message):
        Objective.from_loss(module, loss, data, batch_size)


def test_batches_of_one_are_checked_too(module, data):
    weights = torch.tensor([10.0, 1.0], dtype=torch.float64)

    def weighted(module, batch):
        return F.cross_entropy(module(batch["x"]), batch["y"].argmax(1), weight=weights)

    for loss, message in ((weighted, "mixes examples"), (centred, "does not depend on the module's weights")):
        with pytest.raises(ValueError, match=message):
            Objective.from_loss(module, loss, data, 1)


def test_batches_of_a_loader_are_checked_too(module, data):
    loader = DataLoader(TensorDataset(data["x"], data["y"]), 4)

    def wrong(module, batch):
        return F.mse_loss(module(batch[0]), batch[1]), len(batch[0])  # a mean, not a sum

    with pytest.raises(ValueError, match="mixes examples"):
        Objective.from_loss(module, wrong, loader)


def test_what_goes_with_examples_is_divided_with_them(module, data):
    whole = Objective.from_module(module, nn.MSELoss(), data["x"], data["y"])
    more = data | {"y": data["y"].numpy(), "names": list("abcdef"), "factor": torch.tensor(1.0), "mode": None}

    def loss(module, batch):
        assert len(batch.pop("names")) == len(batch["x"])  # a loss may change the dict
        return batch["factor"] * F.mse_loss(module(batch["x"]), torch.as_tensor(batch["y"]))

    for batch_size in (None, 4, 1):
        same(Objective.from_loss(module, loss, more, batch_size), whole)
    with pytest.raises(TypeError, match="data hold a str that can't be divided"):
        Objective.from_loss(module, mse, data | {"mode": "train"}, 4)


def test_graphs_have_a_sum_and_a_number(module):
    graphs = [{"nodes": torch.randn(n, 3, dtype=torch.float64), "edges": torch.zeros(2, 2 * n)} for n in (3, 5)]
    loader = DataLoader(graphs, batch_size=None)
    f = Objective.from_loss(module, lambda m, b: (m(b["nodes"]).square().sum(), len(b["nodes"])), loader)
    nodes = torch.cat([graph["nodes"] for graph in graphs])
    same(f, Objective.from_loss(module, lambda m, x: m(x).square().sum(1).mean(), nodes))
    with pytest.raises(ValueError, match=r"a mean has no weight; return \(sum, weight\)"):
        Objective.from_loss(module, lambda m, b: m(b["nodes"]).square().mean(), loader)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([torch.ones(3)])


def test_what_is_no_data(module, data):
    for wrong, message in (
        ({"x": data["x"], "y": data["y"][:4]}, r"lengths \[4, 6\]"),
        ({"x": 3}, "no tensor with examples"),
        (torch.tensor(1.0), "no tensor with examples"),
    ):
        with pytest.raises(ValueError, match=message):
            Objective.from_loss(module, mse, wrong)
    loader = DataLoader(TensorDataset(data["x"]), 2)
    with pytest.raises(ValueError, match="data come in batches already; leave batch_size out"):
        Objective.from_loss(module, mse, loader, 2)
    with pytest.raises(ValueError, match="weight_decay is -1"):
        Objective.from_loss(module, mse, data, weight_decay=-1)
    with pytest.raises(TypeError, match="give a DataLoader of it"):
        Objective.from_loss(module, mse, Stream())
    other = copy.deepcopy(module)
    with pytest.raises(ValueError, match="is it that of another module"):
        Objective.from_loss(module, lambda m, b: mse(other, b), data, weight_decay=0.1)
    own = list(module.parameters())
    with pytest.raises(ValueError, match="by another way than its parameters"):
        Objective.from_loss(module, lambda m, b: mse(m, b) + own[0].square().sum(), data)
