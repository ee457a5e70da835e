"""What is trained: a network, its data and its loss, together a task. Tasks have names, and anyone can add one."""

from __future__ import annotations

import functools
import operator
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data, models
from .objective import Objective
from .registry import Registry


def _intervals(value: Any) -> int | dict[str, int]:
    if isinstance(value, Mapping):
        return {str(name): operator.index(every) for name, every in value.items()}
    return operator.index(value)


class Options:
    """Options, as fields of frozen dataclasses: numbers of any kind become plain ones, and sequences become tuples.

    So options that are equal are written alike. Integers must be positive, or at least 0 if named in ``MAY_BE_ZERO``.
    """

    MAY_BE_ZERO: ClassVar[set[str]] = set()
    KINDS: ClassVar[dict[str, tuple[str, Callable[[Any], Any]]]] = {
        "int": ("an integer", operator.index),
        "float": ("a number", float),
        "bool": ("True or False", bool),
        "tuple[int, ...]": ("a sequence of integers", lambda value: tuple(map(operator.index, value))),
        "tuple[str, ...]": ("names", lambda value: (value,) if isinstance(value, str) else tuple(value)),
        "int | dict[str, int]": ("an integer, or one for each process", _intervals),
    }

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value, kind = getattr(self, field.name), str(field.type).removesuffix(" | None")
            if value is None or kind not in self.KINDS:
                continue
            what, convert = self.KINDS[kind]
            try:
                plain = convert(value)
            except (TypeError, ValueError):
                raise TypeError(f"{field.name} is {value!r}; it must be {what}") from None
            if kind == "int" and plain < (least := 0 if field.name in self.MAY_BE_ZERO else 1):
                what = "it must be at least 1" if least else "it must not be negative"
                raise ValueError(f"{field.name} is {value}; {what}")
            object.__setattr__(self, field.name, plain)


class Task(Options):
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
        options = ", ".join(f"{name} {value}" for name, value in asdict(self).items())  # type: ignore[call-overload]
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
    """of the initial weights, which it alone decides"""
    MAY_BE_ZERO: ClassVar = {"seed"}

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
