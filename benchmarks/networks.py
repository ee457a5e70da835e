"""Five networks of 18,000 to 54,000 weights, and a learning rate at which each reaches the edge of stability soon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflows import Objective, data, models, store

TOKENS, LENGTH, WIDTH = 8, 8, 32
DEVICE = store.device()  # a GPU if there is one


def images(per_class: int) -> tuple[Tensor, Tensor]:
    """CIFAR-10 at 16 x 16 pixels, four classes, one-hot."""
    inputs, labels = data.cifar10(per_class, (0, 1, 2, 3), 16)
    return inputs, F.one_hot(labels, 4).to(inputs.dtype)


def objective(module: nn.Module, inputs: Tensor, targets: Tensor) -> Objective:
    return Objective.from_module(module.to(DEVICE), nn.MSELoss(), inputs.to(DEVICE), targets.to(DEVICE))


def resnet(per_class: int) -> Objective:
    return objective(models.ResNet(8, 1, 4), *images(per_class))


def mlp() -> Objective:
    layers = nn.Linear(768, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)
    return objective(nn.Sequential(nn.Flatten(), *layers), *images(250))


def sorting() -> tuple[Tensor, Tensor]:
    """128 sequences of tokens, and the same in order, one-hot."""
    inputs = torch.randint(TOKENS, (128, LENGTH), generator=torch.Generator().manual_seed(0))
    return inputs, F.one_hot(inputs.sort(1).values, TOKENS).float()


class GPT(nn.Module):
    """Two transformer blocks that see the whole sequence."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, TOKENS)
        self.position = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
                for _ in range(2)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, length) -> scores (N, length, tokens)."""
        return self.head(self.blocks(self.embed(x) + self.position))


class LSTM(nn.Module):
    """One layer, in both directions."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(TOKENS, WIDTH), nn.Linear(2 * WIDTH, TOKENS)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, length) -> scores (N, length, tokens)."""
        return self.head(self.lstm(self.embed(x))[0])


@dataclass(frozen=True)
class Network:
    """How to make an objective, at which learning rate it is trained, and the steps before what is measured."""

    make: Callable[[], Objective]
    lr: float
    burn_in: int

    def objective(self) -> Objective:
        """The objective, always from the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make()


NETWORKS = {
    "ResNet, 200 images": Network(lambda: resnet(50), 1e-4, 20),
    "ResNet, 1,000 images": Network(lambda: resnet(250), 1e-4, 50),
    "MLP, 1,000 images": Network(mlp, 1e-4, 50),
    "GPT, 128 sequences": Network(lambda: objective(GPT(), *sorting()), 1e-3, 50),
    "LSTM, 128 sequences": Network(lambda: objective(LSTM(), *sorting()), 2e-3, 50),
}
