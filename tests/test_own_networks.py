"""Networks that people have: a few lines, and the flow predicts the averaged loss within 2 %."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cflows import Objective, RMSProp, data, report, simulate


class Forecast(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(1, 12, batch_first=True), nn.Linear(12, 1)

    def forward(self, x):
        return self.out(self.lstm(x)[0])


class LowRank(nn.Module):
    """A frozen layer and a trainable correction of low rank."""

    def __init__(self, layer, rank=2):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) / 8)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x):
        return self.layer(x) + x @ self.a.T @ self.b.T


def lstm():
    times = torch.linspace(0, 6, 16) + torch.arange(12)[:, None] * 0.5
    waves = torch.sin(times)[:, :, None]
    return Objective.from_module(Forecast(), nn.MSELoss(), waves[:, :-1], waves[:, 1:])


def physics():
    """u' = -u with u(0) = 1: the loss holds a derivative of the network."""
    module = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).double()

    def loss(module, x):
        x = x.requires_grad_()
        u = module(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return (slope + u).square().mean() + (module(torch.zeros_like(x[:1])) - 1).square().mean()

    return Objective.from_loss(module, loss, torch.linspace(0, 2, 32, dtype=torch.float64)[:, None])


def low_rank():
    images, labels = data.cifar10(25, (0, 1, 2, 3), 8)
    layers = LowRank(nn.Linear(192, 32)), nn.GELU(), LowRank(nn.Linear(32, 32)), nn.GELU(), nn.Linear(32, 4)
    return Objective.from_module(
        nn.Sequential(nn.Flatten(), *layers), nn.MSELoss(), images, F.one_hot(labels, 4).float()
    )


@pytest.mark.parametrize(("make", "lr"), [(lstm, 8e-3), (physics, 3e-3), (low_rank, 1.5e-3)])
def test_the_flow_of_ones_own_network(make, lr):
    torch.manual_seed(0)
    opt = RMSProp(lr, 0.99, 1e-8, bias_correction=True)
    run = simulate(make(), opt, 200, ("discrete", "stable", "central"), burn_in="auto", progress=False)
    found = report.numbers(run)
    assert found["edge"] < 100
    assert found["locked"] < 0.01
    assert found["mean_loss_error"] < min(0.02, 0.5 * found["loss_error_without"])
    assert found["distance"] < 0.5
    assert found["trusted"] == 1
