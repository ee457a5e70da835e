"""Five networks of 18,000 to 54,000 weights, and a learning rate at which each reaches the edge of stability soon."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from cflows import Objective, store, tasks

DEVICE = store.device()  # a GPU if there is one


class LSTM(nn.Module):
    """One layer, in both directions, from tokens to tokens."""

    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.embed, self.head = nn.Embedding(tokens, width), nn.Linear(2 * width, tokens)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, length) -> scores (N, length, tokens)."""
        return self.head(self.lstm(self.embed(x))[0])


class SortingLSTM(tasks.SortingTransformer):
    """The same sequences, another network."""

    def module(self) -> nn.Module:
        return LSTM(self.tokens, self.width)


@dataclass(frozen=True)
class Network:
    """How to make an objective, at which learning rate it is trained, and the steps before what is measured."""

    task: tasks.Task
    lr: float
    burn_in: int

    def objective(self) -> Objective:
        """The objective, always from the same weights."""
        return self.task.objective(DEVICE)


NETWORKS = {
    "ResNet, 200 images": Network(tasks.CifarResNet(), 1e-4, 20),
    "ResNet, 1,000 images": Network(tasks.CifarResNet(per_class=250), 1e-4, 50),
    "MLP, 1,000 images": Network(tasks.CifarMLP(per_class=250), 1e-4, 50),
    "GPT, 128 sequences": Network(tasks.SortingTransformer(), 1e-3, 50),
    "LSTM, 128 sequences": Network(SortingLSTM(), 2e-3, 50),
}
