"""What is trained: a network, its data and its loss, together a task. Tasks have names, and anyone can add one."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data, models
from .objective import Objective
from .registry import Registry


@dataclass(frozen=True)
class Options:
    """Options, in which numbers of NumPy become plain ones and lists become tuples: equal ones are written alike."""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, self.plain(getattr(self, field.name)))

    @classmethod
    def plain(cls, value: Any) -> Any:
        """The value of an option, or of many by name, without lists and numbers of NumPy."""
        if isinstance(value, Mapping):
            return {name: cls.plain(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return tuple(map(cls.plain, value))
        return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class Task(Options, ABC):
    """A network, its data and its loss: a frozen dataclass, registered in `TASKS`.

    Its fields are its options: numbers, text and tuples of these. They are part of the definition of a run.
    """

    @abstractmethod
    def objective(self, device: torch.device, batch_size: int | None = None) -> Objective:
        """The training objective on a device; ``batch_size`` examples at a time (None: all) bound memory."""

    @abstractmethod
    def digest(self) -> str:
        """Digest of the data (`data.digest`): runs on other data are other runs."""

    def outputs(self, f: Objective) -> Callable[[Tensor], Tensor] | None:
        """Functions of the weights to record, Tensor (n,) -> Tensor (m,), as of `simulate`; None: there are none."""

    def describe(self) -> str:
        """What it is, in a few words."""
        options = ", ".join(f"{name} {value}" for name, value in asdict(self).items())
        return f"{TASKS.name_of(type(self))} ({options})"


#: Tasks by name.
TASKS: Registry[type[Task]] = Registry("task")


Loss = Literal["mse", "cross-entropy"]


def _cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean over examples and positions; targets are one-hot."""
    return F.cross_entropy(scores.flatten(0, -2), targets.flatten(0, -2))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": nn.MSELoss(), "cross-entropy": _cross_entropy}


@dataclass(frozen=True)
class _Supervised(Task):
    """A classifier and its data, with one-hot targets."""

    loss: Loss = "mse"
    """mean squared error on one-hot targets, or cross-entropy"""
    seed: int = 0
    """random seed of the initial weights"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}; it must be one of {', '.join(LOSSES)}")
        for name, value in vars(self).items():
            if name != "seed" and isinstance(value, int) and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    @abstractmethod
    def module(self) -> nn.Module:
        """The network, at its initial weights."""

    @abstractmethod
    def examples(self) -> tuple[Tensor, Tensor]:
        """All training examples, and the class of each, or of each of its positions."""

    @property
    @abstractmethod
    def labels(self) -> int:
        """Number of classes."""

    @property
    @abstractmethod
    def amount(self) -> str:
        """How many examples there are, in words."""

    def describe(self) -> str:
        """How many examples, and the loss if it is not the mean squared error."""
        return self.amount if self.loss == "mse" else f"{self.amount}, {self.loss}"

    def objective(self, device: torch.device, batch_size: int | None = None) -> Objective:
        """As of `Task`."""
        inputs, classes = self.examples()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)  # that of the CPU alone
            module = self.module()
        targets = F.one_hot(classes, self.labels).to(next(module.parameters()).dtype)
        module, inputs, targets = module.to(device), inputs.to(device), targets.to(device)
        return Objective.from_module(module, LOSSES[self.loss], inputs, targets, batch_size)


@dataclass(frozen=True)
class _Cifar(_Supervised):
    """A network on some images of CIFAR-10."""

    per_class: int = 50
    """training images of each class"""
    classes: tuple[int, ...] = (0, 1, 2, 3)
    """CIFAR-10 labels to tell apart"""
    size: int = 16
    """side of the images in pixels"""

    @property
    def labels(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def examples(self) -> tuple[Tensor, Tensor]:
        """Images and their classes."""
        return data.cifar10(self.per_class, self.classes, self.size)

    def outputs(self, f: Objective) -> Callable[[Tensor], Tensor]:
        """Scores of the true class for the first test image of each class."""
        images, labels = (x.to(f.w0.device) for x in data.cifar10(1, self.classes, self.size, "test"))
        return lambda w: f.outputs(w, images).gather(1, labels[:, None]).squeeze(1)

    def digest(self) -> str:
        """That of the training images, and of the test images whose scores are recorded."""
        return _digest(self.per_class, self.classes, self.size)

    @property
    def amount(self) -> str:
        """How many images, and their size."""
        return f"{len(self.classes) * self.per_class} images at {self.size} x {self.size}"


@functools.cache
def _digest(per_class: int, classes: tuple[int, ...], size: int) -> str:
    return data.digest(*data.cifar10(per_class, classes, size), *data.cifar10(1, classes, size, "test"))


@TASKS.register("cifar-resnet")
@dataclass(frozen=True)
class CifarResNet(_Cifar):
    """A ResNet on CIFAR-10."""

    width: int = 8
    """channels of the first stage of the ResNet"""
    blocks: int = 1
    """residual blocks in each of its three stages"""

    def module(self) -> nn.Module:
        """A `models.ResNet`."""
        return models.ResNet(self.width, self.blocks, self.labels)


@TASKS.register("cifar-mlp")
@dataclass(frozen=True)
class CifarMLP(_Cifar):
    """An MLP with two hidden layers on CIFAR-10."""

    width: int = 64
    """units of each hidden layer"""

    def module(self) -> nn.Module:
        """A `models.MLP`."""
        return models.MLP(3 * self.size**2, self.width, self.labels)


@TASKS.register("cifar-cnn")
@dataclass(frozen=True)
class CifarCNN(_Cifar):
    """A convolutional network without normalisation on CIFAR-10."""

    width: int = 16
    """channels of the first convolution"""

    def module(self) -> nn.Module:
        """A `models.CNN`."""
        return models.CNN(self.width, self.labels)


@TASKS.register("cifar-vit")
@dataclass(frozen=True)
class CifarViT(_Cifar):
    """A vision transformer on CIFAR-10."""

    width: int = 32
    """size of the vector of a patch"""
    depth: int = 2
    """blocks"""
    patch: int = 4
    """side of a patch in pixels"""

    def module(self) -> nn.Module:
        """A `models.VisionTransformer`."""
        return models.VisionTransformer(self.size, self.patch, self.width, self.depth, self.labels)


@TASKS.register("sorting-transformer")
@dataclass(frozen=True)
class SortingTransformer(_Supervised):
    """A transformer that sorts sequences of random tokens."""

    sequences: int = 128
    """how many"""
    tokens: int = 8
    """different tokens"""
    length: int = 8
    """tokens in a sequence"""
    width: int = 32
    """size of the vector of a token"""
    depth: int = 2
    """blocks"""

    @property
    def labels(self) -> int:
        """Number of classes."""
        return self.tokens

    @property
    def amount(self) -> str:
        """How many sequences, and of what."""
        return f"{self.sequences} sequences of {self.length} of {self.tokens} tokens"

    def module(self) -> nn.Module:
        """A `models.SequenceTransformer`."""
        return models.SequenceTransformer(self.tokens, self.length, self.width, self.depth)

    def examples(self) -> tuple[Tensor, Tensor]:
        """Sequences, always the same, and the same in order."""
        rng = np.random.default_rng(0)
        inputs = torch.from_numpy(rng.integers(self.tokens, size=(self.sequences, self.length)))
        return inputs, inputs.sort(1).values

    def digest(self) -> str:
        """That of the sequences."""
        return data.digest(*self.examples())
