"""What experiments are: a task, an optimizer and options, by name in three sizes."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
import xarray as xr

from . import ALGORITHM, store
from ._deprecation import renamed
from .momentum import Adam
from .objective import Objective
from .optimizers import OPTIMIZERS, GradientDescent, Optimizer, RMSProp, ScalarRMSProp
from .registry import Registry
from .tasks import TASKS, CifarCNN, CifarMLP, CifarResNet, Options, SortingTransformer, Task

Preset = Literal["ci", "laptop", "paper"]
PARTS: dict[str, Registry] = {"task": TASKS, "optimizer": OPTIMIZERS}
OLD_NAMES = {"warmup": "burn_in", "branch": "branch_step", "window": "replay_steps"}


@dataclass(frozen=True)
class Experiment(Options):
    """A task, an optimizer, and the processes that run side by side, with options of `simulate`."""

    name: tyro.conf.Suppress[str] = "rmsprop-resnet"
    """what its run files are called"""
    task: Task = field(default_factory=CifarResNet)
    """what is trained"""
    optimizer: Optimizer = field(default_factory=lambda: RMSProp(3e-5, 0.99, bias_correction=True))
    """by what it is trained"""
    burn_in: int = 0
    """optimizer steps before the processes part ways"""
    steps: int = 800
    """steps to record"""
    processes: tuple[str, ...] = ("discrete", "midpoint", "stable", "central")
    """processes to run side by side"""
    branch_step: int = 0
    """step at which the stationary flows leave the central flow"""
    eigs: int = 4
    """eigenvalues of the effective Hessian to follow, at least"""
    eig_every: int | dict[str, int] | None = None
    """steps between two computations of eigenvalues, of all processes or of each; by default as of `simulate`"""
    eig_tol: float = 1e-2
    """residual allowed of an eigenvalue, relative to the largest"""
    accuracy: float = 2e-3
    """relative error that flows aim at, of the weights after 100 units of time"""
    substeps: int = 1
    """steps of the central flow in a unit of time, at least, and with momentum of all flows"""
    coords: int = 10
    """number of weights, evenly spread, whose squared gradient and ν are recorded"""
    records: tuple[str, ...] = ()
    """names of further quantities to record"""
    snapshot_every: int = 0
    """steps between two snapshots of all weights and ν"""
    replay_steps: int = 20
    """steps that can be computed again from each state that the run keeps"""
    replay_from: tuple[int, ...] = ()
    """steps at which a state is kept for replay (default: `replay_steps` before the end)"""
    batch_size: int | None = None
    """examples at a time (bounds memory)"""

    def __post_init__(self) -> None:
        super().__post_init__()  # `simulate` checks numbers
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(f"name is {self.name!r}; it is that of files, of letters, digits and - _ . alone")
        if self.coords < 0:
            raise ValueError(f"coords is {self.coords}; it must not be negative")
        for part, registry in PARTS.items():
            if type(getattr(self, part)) not in registry.values():
                raise TypeError(
                    f"{part} is {getattr(self, part)!r}; give one that is registered: {', '.join(registry)}"
                )
        names = [x.name for thing in (self, self.task, self.optimizer) for x in fields(thing)]  # type: ignore[arg-type]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two options are called {', '.join(sorted(twice))}; rename that of the task or optimizer")

    @property
    def starts(self) -> tuple[int, ...]:
        """Steps of the states that the run keeps: those of ``replay_from`` that it reaches, or one before its end."""
        inside = tuple(t for t in self.replay_from if t + self.replay_steps <= self.steps)
        return (inside or (self.steps - self.replay_steps,)) if self.replay_steps else ()

    @property
    def path(self) -> Path:
        """File in the cache; its name has a digest of what is not a default, the data and ``cflows.ALGORITHM``."""
        content = {"data": self.task.digest(), "algorithm": ALGORITHM, **written(self, changed_only=True)}
        digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return store.cache() / f"{self.name}-{digest[:12]}.nc"

    @property
    def convex_programs_path(self) -> Path:
        """File of its convex programs, beside that of its run."""
        return self.path.with_suffix(".preconditioners.nc")

    def objective(self, device: str | torch.device = "auto") -> Objective:
        """The training objective; "auto" takes a GPU if there is one."""
        return self.task.objective(store.device(device), self.batch_size)

    @renamed(**OLD_NAMES)
    def change(self, **changes) -> Experiment:
        """The experiment with other options: its own, its task's or its optimizer's, as ``lr=4e-5``.

        A task or an optimizer can be given by its name; it then takes over what options it shares with the present one.
        """
        known = [x.name for x in fields(self)]
        for part, registry in PARTS.items():
            old, new = getattr(self, part), changes.get(part, getattr(self, part))
            source, kind = (old, registry[new]) if isinstance(new, str) else (new, type(new))
            if kind in registry.values():
                names = [x.name for x in fields(kind)]
                values = {name: getattr(source, name) for name in names if hasattr(source, name)}
                changes[part] = _made(kind, values | {name: changes.pop(name) for name in names if name in changes})
                known += names
        if unknown := sorted(set(changes) - set(known)):
            raise ValueError(f"experiments have no option {unknown}; they have {', '.join(known)}")
        return replace(self, **changes)


def _made(kind: type, options: dict[str, Any]) -> Any:
    try:
        return kind(**options)
    except TypeError as error:
        raise TypeError(f"{kind.__name__}: {error}; give its options beside it, as change(lr=...)") from error


def written(thing: Any, changed_only: bool = False) -> dict[str, Any]:
    """Options as JSON has them, of a part under its name; all, or those alone that are not defaults."""
    options: dict[str, Any] = {}
    for x in fields(thing):
        value = getattr(thing, x.name)
        if x.name in PARTS and is_dataclass(value):
            options[x.name] = {PARTS[x.name].name_of(type(value)): written(value, changed_only)}
        elif not changed_only or value != (x.default if x.default_factory is MISSING else x.default_factory()):
            options[x.name] = value
    try:
        return json.loads(json.dumps(options))
    except TypeError as error:
        raise ValueError(f"a {type(thing).__name__} with such options has no file ({error}); use simulate") from error


def read(run: xr.DataTree) -> Experiment:
    """The definition of a run's experiment.

    Parameters
    ----------
    run : xarray.DataTree
        As of `run`.

    Returns
    -------
    Experiment

    Raises
    ------
    ValueError
        If its task or optimizer is not registered here, or it has other options than those that there are here.
    """
    values = Options.plain(json.loads(run.attrs["experiment"]))
    try:
        for part, registry in PARTS.items():
            ((name, options),) = values[part].items()
            values[part] = registry[name](**options)
        return Experiment(**values)
    except TypeError as error:
        raise ValueError(f"the run is of another version of cflows ({error})") from error


FLOWS = ("stable", "central", "ablated", "stationary", "ablated_stationary")
SMALL = {"eig_every": {"midpoint": 10} | dict.fromkeys(FLOWS[3:], 20), "replay_steps": 10}
CI = SMALL | {"task": CifarResNet(width=2, per_class=25, size=8)}
LAPTOP = {"eig_every": {"midpoint": 5} | dict.fromkeys(FLOWS[3:], 10)}
PAPER = LAPTOP | {"task": CifarResNet(width=16, blocks=3, per_class=250, size=32), "steps": 3000}
LARGE = {"task": CifarResNet(per_class=250), "eig_every": {"midpoint": 10} | dict.fromkeys(FLOWS[3:], 10)}
ALL = {"processes": ("discrete", "midpoint", *FLOWS)}
WITHOUT = {"processes": ("discrete", "midpoint", "central", "ablated")}
MLP = LAPTOP | ALL | {"task": CifarMLP(per_class=250), "burn_in": 50, "steps": 800, "branch_step": 400,
                      "snapshot_every": 50, "replay_from": (300,)}  # fmt: skip
#: The book's experiments, each in three sizes: ``PRESETS[name][preset]``. Others can be added.
PRESETS: Registry[dict[Any, Experiment]] = Registry("experiment")


def _add(name: str, optimizer: type[Optimizer], **sizes: tuple[float, dict[str, Any]]) -> None:
    average = {} if optimizer is GradientDescent else {"beta2": 0.99, "bias_correction": True}
    average |= {"eps": 1e-8} if optimizer is Adam else {}
    PRESETS[name] = {
        size: Experiment(name, optimizer=optimizer(lr, **average), **options) for size, (lr, options) in sizes.items()
    }


_add(
    "rmsprop-resnet",
    RMSProp,
    ci=(1e-4, CI | ALL | {"burn_in": 430, "steps": 180, "branch_step": 150, "snapshot_every": 20,
                          "replay_from": (90, 165)}),
    laptop=(1e-4, LARGE | ALL | {"burn_in": 70, "steps": 600, "branch_step": 300, "snapshot_every": 50,
                                 "replay_from": (400,)}),
    paper=(2e-5, PAPER | ALL | {"branch_step": 2000, "snapshot_every": 100, "replay_from": (1500, 2500)}),
)  # fmt: skip
_add(
    "rmsprop-rates",
    RMSProp,
    ci=(4e-4, SMALL | WITHOUT | {"task": CI["task"], "burn_in": 107, "steps": 45, "snapshot_every": 5,
                                 "replay_from": (30,)}),
    laptop=(3e-4, LAPTOP | WITHOUT | {"burn_in": 60, "steps": 600, "snapshot_every": 50, "replay_from": (500,)}),
    paper=(1e-4, PAPER | WITHOUT | {"burn_in": 400, "steps": 2000, "snapshot_every": 100, "replay_from": (1500,)}),
)  # fmt: skip
_add(
    "rmsprop-mlp",
    RMSProp,
    ci=(1e-3, SMALL | ALL | {"task": CifarMLP(per_class=25, size=8, width=8), "burn_in": 50, "steps": 60,
                             "branch_step": 40, "snapshot_every": 10, "replay_from": (30, 45)}),
    laptop=(1e-4, MLP),
    paper=(1e-4, MLP),
)  # fmt: skip
_add(
    "gd-resnet",
    GradientDescent,
    ci=(0.1, CI | {"burn_in": 25, "steps": 50, "substeps": 2, "replay_from": (35,)}),
    laptop=(0.02, LAPTOP | {"steps": 400, "replay_from": (300,)}),
    paper=(0.02, PAPER | {"replay_from": (2000,)}),
)
_add(
    "scalar-rmsprop-resnet",
    ScalarRMSProp,
    ci=(0.02, CI | {"burn_in": 35, "steps": 60, "substeps": 2, "replay_from": (40,)}),
    laptop=(0.01, LAPTOP | {"steps": 400, "replay_from": (300,)}),
    paper=(0.01, PAPER | {"replay_from": (2000,)}),
)

ADAM = {"eig_every": {"midpoint": 5}, "processes": ("discrete", "midpoint", "stable", "central", "ablated")}
ADAM_CI = ADAM | {"eigs": 2, "eig_every": {"midpoint": 6}, "steps": 18, "snapshot_every": 17, "replay_steps": 6,
                  "replay_from": (10,)}  # fmt: skip
for name, (lr, burn_in, steps, task), (small_lr, small_burn_in, small) in (
    ("adam-mlp", (1e-3, 100, 350, CifarMLP(per_class=50, size=8, width=32)),
     (1e-2, 245, CifarMLP(per_class=10, size=8, width=8))),
    ("adam-cnn", (2e-3, 150, 350, CifarCNN(per_class=50, size=8, width=8)),
     (1e-2, 72, CifarCNN(per_class=10, size=8, width=4))),
    ("adam-resnet", (1e-3, 30, 200, CifarResNet(per_class=250)),
     (1e-2, 20, CifarResNet(per_class=5, size=8, width=2))),
    ("adam-transformer", (5e-3, 150, 350, SortingTransformer(sequences=64, width=16, depth=1)),
     (3e-2, 150, SortingTransformer(sequences=16, width=8, depth=1))),
):  # fmt: skip
    times = {"burn_in": burn_in, "steps": steps, "snapshot_every": steps - 1, "replay_from": (steps - 50,)}
    normal = lr, ADAM | times | {"task": task}
    _add(name, Adam, ci=(small_lr, ADAM_CI | {"burn_in": small_burn_in, "task": small}), laptop=normal, paper=normal)


@renamed(**OLD_NAMES)
def get(name: str, preset: Preset = "laptop", **changes) -> Experiment:
    """The definition of an experiment, with some options changed.

    Parameters
    ----------
    name : str
        One of ``PRESETS``.
    preset : "ci", "laptop" or "paper"
    **changes
        As of `Experiment.change`.

    Returns
    -------
    Experiment

    Raises
    ------
    ValueError, TypeError
        If there is no such experiment, preset or option, or its value is wrong.
    """
    if preset not in PRESETS[name]:
        raise ValueError(f"{name} has no preset {preset!r}; it has {', '.join(PRESETS[name])}")
    return PRESETS[name][preset].change(**changes)


def rates(experiment: Experiment) -> list[Experiment]:
    """The experiment at a tenth and a third of its learning rate, and as it is.

    A burn-in that is as much longer brings all of them to the same time ηt.

    Parameters
    ----------
    experiment : Experiment

    Returns
    -------
    list of Experiment
        The smallest learning rate first.
    """
    lr = experiment.optimizer.learning_rate(1)
    smaller = [experiment.change(lr=float(f"{lr / k:.3g}"), burn_in=k * experiment.burn_in) for k in (10, 3)]
    return [*smaller, experiment]
