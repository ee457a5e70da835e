"""Experiments: a task, an optimizer and options, by name in three sizes; their runs, one NetCDF file each."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
import xarray as xr

from . import ALGORITHM, preconditioners, store
from ._deprecation import renamed
from .objective import Objective
from .optimizers import OPTIMIZERS, GradientDescent, Optimizer, RMSProp, ScalarRMSProp
from .registry import Registry
from .simulation import replay, simulate
from .tasks import TASKS, CifarResNet, Options, Task

Preset = Literal["ci", "laptop", "paper"]
PARTS: dict[str, Registry] = {"task": TASKS, "optimizer": OPTIMIZERS}
OLD_NAMES = {"warmup": "burn_in", "branch": "branch_step", "window": "replay_steps"}
SYMBOLS = {"lr": "η", "beta2": "β₂", "eps": "ε", "bias_correction": "bias correction"}


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
    eig_every: int | dict[str, int] = 10
    """steps, at most, between two refreshes of the eigenvalues, of all processes or of each; 0: never"""
    eig_tol: float = 1e-2
    """their residuals, relative to the largest"""
    accuracy: float = 1e-2
    """relative error that flows aim at between two refreshes"""
    substeps: int = 1
    """steps of the central flow in a unit of time"""
    coords: int = 10
    """number of weights, evenly spread, whose squared gradient and ν are recorded"""
    records: tuple[str, ...] = ()
    """names of further quantities to record"""
    snapshot_every: int = 0
    """steps between two snapshots of all weights and ν"""
    replay_steps: int = 20
    """steps that can be computed again from each state that the run keeps"""
    replay_from: tuple[int, ...] = ()
    """steps of these states; none: so many before the end"""
    batch_size: int | None = None
    """examples at a time (bounds memory)"""

    def __post_init__(self) -> None:
        super().__post_init__()  # `simulate` checks numbers
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
        content = {"data": self.task.digest(), "algorithm": ALGORITHM, **_written(self, changed_only=True)}
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
        raise TypeError(f"{kind.__name__}: {error}") from error


def _written(thing: Any, changed_only: bool = False) -> dict[str, Any]:
    """Options as JSON has them, of a part under its name; all, or those alone that are not defaults."""
    options: dict[str, Any] = {}
    for x in fields(thing):
        value = getattr(thing, x.name)
        if x.name in PARTS and is_dataclass(value):
            options[x.name] = {PARTS[x.name].name_of(type(value)): _written(value, changed_only)}
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
SMALL = {"eig_every": {"midpoint": 10} | dict.fromkeys(FLOWS, 20), "replay_steps": 10}
CI = SMALL | {"task": CifarResNet(2, per_class=25, size=8)}
LAPTOP = {"eig_every": {"midpoint": 5} | dict.fromkeys(FLOWS, 10)}
PAPER = LAPTOP | {"task": CifarResNet(16, 3, 250, size=32), "steps": 3000}
ALL = {"processes": ("discrete", "midpoint", *FLOWS)}
#: The book's experiments, each in three sizes: ``PRESETS[name][preset]``. Others can be added.
PRESETS: Registry[dict[Any, Experiment]] = Registry("experiment")


def _add(name: str, optimizer: type[Optimizer], **sizes: tuple[float, dict[str, Any]]) -> None:
    average = {} if optimizer is GradientDescent else {"beta2": 0.99, "bias_correction": True}
    PRESETS[name] = {
        size: Experiment(name, optimizer=optimizer(lr, **average), **options) for size, (lr, options) in sizes.items()
    }


_add(
    "rmsprop-resnet",
    RMSProp,
    ci=(1e-4, CI | ALL | {"burn_in": 430, "steps": 180, "branch_step": 150, "snapshot_every": 20,
                          "replay_from": (90, 165)}),
    laptop=(3e-5, LAPTOP | ALL | {"branch_step": 600, "snapshot_every": 50, "replay_from": (400, 700)}),
    paper=(2e-5, PAPER | ALL | {"branch_step": 2000, "snapshot_every": 100, "replay_from": (1500, 2500)}),
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


@renamed(**OLD_NAMES)
def get(name: str, preset: Preset = "laptop", **changes) -> Experiment:
    """The definition of an experiment, with some options changed.

    Parameters
    ----------
    name : str
        One of `PRESETS`.
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


def scaled(experiment: Experiment, k: int) -> Experiment:
    """The experiment at a larger learning rate, for as much fewer steps, without what only it is asked for.

    Parameters
    ----------
    experiment : Experiment
    k : int
        How many times its learning rate.

    Returns
    -------
    Experiment
    """
    e = experiment
    return e.change(
        lr=k * e.optimizer.learning_rate(1),
        burn_in=e.burn_in // k,
        steps=e.steps // k,
        snapshot_every=2 * e.snapshot_every // k,
        replay_steps=min(e.replay_steps, e.steps // k),
        replay_from=tuple(t // k for t in e.replay_from[-1:]),
        processes=("discrete", "central", "ablated"),
        branch_step=0,
    )


@renamed(**OLD_NAMES)
def run(name: str, preset: Preset = "laptop", device: str | torch.device = "auto", **changes) -> xr.DataTree:
    """The result of an experiment: from the cache, or computed and put there.

    Runs that come with the repository are found in it (`store.repository`), or fetched from the address in the
    environment variable ``CFLOWS_URL``. A run is one NetCDF file, named by the digest of what in its definition differs
    from defaults, of its data and of ``cflows.ALGORITHM``. An interrupted run leaves a checkpoint beside the place of
    its file, and goes on from there when it is asked for again.

    Parameters
    ----------
    name : str
        One of `PRESETS`.
    preset : "ci", "laptop" or "paper"
    device : str or torch.device
        Where to compute; "auto" takes a GPU if there is one.
    **changes
        Options to change, as of `Experiment.change`: ``lr=4e-5``.

    Returns
    -------
    xarray.DataTree
        As of `simulate`; ``outputs`` are those of the task. Attributes: ``experiment``, the definition (JSON, see
        `read`); ``provenance`` (JSON, see `store.provenance`); ``summary``; ``preset``, empty for a definition of one's
        own; ``weights``, their number; ``data``, a digest; ``algorithm``.

    Raises
    ------
    ValueError, TypeError
        If there is no such experiment, preset or option, or the run's file is damaged.
    """
    return compute(get(name, preset, **changes), device)


def compute(experiment: Experiment, device: str | torch.device = "auto") -> xr.DataTree:
    """As `run`, for a definition that you made yourself.

    Parameters
    ----------
    experiment : Experiment
    device : str or torch.device
        Where to compute; "auto" takes a GPU if there is one.

    Returns
    -------
    xarray.DataTree
        As of `run`.
    """
    e = experiment

    def make(checkpoint: Path | None) -> xr.DataTree:
        f = e.objective(device)
        coords = min(e.coords, f.dim)
        tree = simulate(
            f,
            e.optimizer,
            e.steps,
            e.processes,
            e.burn_in,
            eigs=e.eigs,
            eig_every=e.eig_every,
            eig_tol=e.eig_tol,
            accuracy=e.accuracy,
            substeps=e.substeps,
            coords=[i * f.dim // coords for i in range(coords)],
            outputs=e.task.outputs(f),
            records=e.records,
            branch_step=e.branch_step,
            snapshot_every=e.snapshot_every,
            replay_steps=e.replay_steps,
            replay_from=e.starts,
            checkpoint=checkpoint,
        )
        tree.attrs |= _attributes(e, f)
        return tree

    return store.kept(e.path, device, make)


def solve_convex_programs(experiment: Experiment, device: str | torch.device = "auto") -> xr.Dataset:
    """`preconditioners.along` of an experiment's run, from the cache or computed and put there, beside the run.

    Parameters
    ----------
    experiment : Experiment
        One of RMSProp with snapshots.
    device : str or torch.device
        Where to compute; "auto" takes a GPU if there is one.

    Returns
    -------
    xarray.Dataset
        As of `preconditioners.along`.
    """

    def make(_: Path | None) -> xr.DataTree:
        f = experiment.objective(device)
        solved = preconditioners.along(f, experiment.optimizer, compute(experiment, device))
        return xr.DataTree(solved.assign_attrs(_attributes(experiment, f)))

    return store.kept(experiment.convex_programs_path, device, make).to_dataset()


def _attributes(e: Experiment, f: Objective) -> dict[str, Any]:
    options = ", ".join(f"{SYMBOLS.get(name, name)} = {value}" for name, value in asdict(e.optimizer).items())
    optimizer = f"{OPTIMIZERS.name_of(type(e.optimizer))} ({options})"
    return {
        "experiment": json.dumps(_written(e)),
        "summary": f"{f.dim:,} weights, {e.task.describe()}, {optimizer}, {e.steps} steps after {e.burn_in} of burn-in",
        "preset": next((size for size, other in PRESETS.get(e.name, {}).items() if other == e), ""),
        "weights": f.dim,
        "data": e.task.digest(),
        "algorithm": ALGORITHM,
    }


def describe(run: xr.DataTree) -> str:
    """What a run is and where it comes from, in two lines.

    Parameters
    ----------
    run : xarray.DataTree
        As of `run`.

    Returns
    -------
    str
    """
    p = store.provenance(run)
    return (
        f"{run.attrs['summary']}\n"
        f"computed on {p['date'][:10]} in {p['seconds']:.0f} s: {p['hardware']}, torch {p['torch']}"
    )


def verify(path: str | Path, device: str | torch.device = "auto") -> list[str]:
    """Compute parts of a stored run again, from the states that it keeps, or the last of its convex programs.

    Parameters
    ----------
    path : path
        File of a run that keeps states, or of convex programs beside such a run.
    device : str or torch.device
        Where to compute; "auto" takes a GPU if there is one.

    Returns
    -------
    list of str
        A line for each variable that the present code does not reproduce to within the run's accuracy; empty if it
        reproduces all.

    Raises
    ------
    ValueError
        If the file was changed after it was written, or its run can't be computed again.
    """
    path = Path(path)
    there = store.load(path)
    e = read(there)
    if path.name not in (e.path.name, e.convex_programs_path.name):
        raise ValueError(f"{path} is not where its definition, data and the present algorithm would put it")
    for name, value in {"algorithm": ALGORITHM, "data": e.task.digest()}.items():
        if there.attrs.get(name) != value:
            raise ValueError(f"{path} has another {name} than the present one: {there.attrs.get(name)}")
    f = e.objective(device)
    try:
        if path.name == e.path.name:
            outputs = e.task.outputs(f)
            again = [replay(f, e.optimizer, there, outputs, e.records, start) for start in e.starts]
        else:
            tree = store.load(path.with_name(e.path.name))
            tree["snapshots/central"] = xr.DataTree(tree["snapshots/central"].to_dataset().isel(step=[-1]))
            solved = preconditioners.along(f, e.optimizer, tree)
            again = [xr.DataTree(solved.drop_vars("log_correlation_past"))]  # a single snapshot has no past
    except KeyError as error:
        raise ValueError(f"{path} does not hold what it could be computed again from ({error})") from error
    return [line for part in again for line in store.differences(there, part, e.accuracy)]
