"""What is trained: a network, its data and its loss, together a task. Tasks have names, and anyone can add one."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

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


@TASKS.register("cifar-resnet")
@dataclass(frozen=True)
class CifarResNet(Task):
    """A ResNet on CIFAR-10, with mean squared error on one-hot labels."""

    width: int = 8
    """channels of the first stage of the ResNet"""
    blocks: int = 1
    """residual blocks in each of its three stages"""
    per_class: int = 50
    """training images of each class"""
    classes: tuple[int, ...] = (0, 1, 2, 3)
    """CIFAR-10 labels to tell apart"""
    size: int = 16
    """side of the images in pixels"""
    seed: int = 0
    """random seed of the initial weights"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "blocks"):  # `data.cifar10` checks the others
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def objective(self, device: torch.device, batch_size: int | None = None) -> Objective:
        """As of `Task`."""
        images, labels = data.cifar10(self.per_class, self.classes, self.size)
        targets = F.one_hot(labels, len(self.classes)).to(images.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = models.ResNet(self.width, self.blocks, len(self.classes))
        module, images, targets = module.to(device), images.to(device), targets.to(device)
        return Objective.from_module(module, nn.MSELoss(), images, targets, batch_size)

    def outputs(self, f: Objective) -> Callable[[Tensor], Tensor]:
        """Scores of the true class for the first test image of each class."""
        images, labels = (x.to(f.w0.device) for x in data.cifar10(1, self.classes, self.size, "test"))
        return lambda w: f.outputs(w, images).gather(1, labels[:, None]).squeeze(1)

    def digest(self) -> str:
        """That of the training images, and of the test images whose scores are recorded."""
        return _digest(self.per_class, self.classes, self.size)

    def describe(self) -> str:
        """How many images, and their size."""
        return f"{len(self.classes) * self.per_class} images at {self.size} x {self.size}"


@functools.cache
def _digest(per_class: int, classes: tuple[int, ...], size: int) -> str:
    return data.digest(*data.cifar10(per_class, classes, size), *data.cifar10(1, classes, size, "test"))
