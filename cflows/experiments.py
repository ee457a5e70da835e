"""Named experiments in three sizes, and the runs that come of them: one NetCDF file each."""

from __future__ import annotations

import json
import operator
import os
import platform
import time
import warnings
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pooch
import torch
import torch.nn.functional as F
import tyro
import xarray as xr
from torch import nn

from . import data, files, models, optimizers, preconditioners
from .objective import Objective
from .processes import Outputs
from .simulation import simulate

#: Version of the algorithm: raised when a change to the library changes what a run, or its programs, contain.
ALGORITHM = 7
Preset = Literal["ci", "laptop", "paper"]


PROCESSES = ("discrete", "midpoint", "stable", "central")


@dataclass(frozen=True)
class Experiment:
    """An optimizer on a ResNet and CIFAR-10 with mean squared error on one-hot labels, beside its flows."""

    name: tyro.conf.Suppress[str] = "rmsprop-resnet"
    """which of `PRESETS` it is a variant of"""
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
    """of the initial weights"""
    optimizer: Literal["RMSProp", "ScalarRMSProp", "GradientDescent"] = "RMSProp"
    """name of the optimizer"""
    lr: float = 3e-5
    """its learning rate η"""
    beta2: float = 0.99
    """decay β₂ of its average"""
    eps: float = 0.0
    """constant ε in its denominator"""
    bias_correction: bool = True
    """whether the average is corrected for its start at zero"""
    warmup: int = 0
    """optimizer steps before the processes part ways"""
    steps: int = 800
    """steps to record"""
    processes: tuple[str, ...] = (*PROCESSES, "ablated", "stationary", "ablated_stationary")
    """processes to run side by side"""
    branch: int = 600
    """step at which the stationary flows leave the central flow"""
    eigs: int = 4
    """eigenvalues of the effective Hessian to follow, at least"""
    eig_every: int = 5
    """steps between two looks at them at the optimizer's midpoints; twice as many, at most, for flows"""
    eig_tol: float = 1e-2
    """their residuals, relative to the largest"""
    substeps: int = 1
    """steps of the central flow in a unit of time"""
    coords: int = 10
    """number of weights, evenly spread, whose squared gradient and ν are recorded"""
    snapshot_every: int = 50
    """steps between two snapshots of all weights, ν and g²"""
    window: int = 20
    """last steps that can be computed again by themselves"""
    batch_size: int | None = None
    """images at a time (bounds memory)"""

    def __post_init__(self) -> None:
        for field in fields(self):  # numbers of any kind as plain ones, so that equal definitions are equal
            value = getattr(self, field.name)
            if field.type in ("int", "float", "bool", "int | None") and not isinstance(value, (str, type(None))):
                object.__setattr__(self, field.name, _plain(field.name, value, str(field.type)))
        for name in ("classes", "processes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "classes", tuple(_plain("classes", c, "int") for c in self.classes))
        least = {"coords": 0, "warmup": 0, "branch": 0, "snapshot_every": 0, "window": 0, "seed": 0, "eig_every": 0}
        for name in ("width", "blocks", "per_class", "size", "steps", "eigs", "substeps", "batch_size", *least):
            value = getattr(self, name)
            if value is not None and value < least.get(name, 1):
                what = "it must not be negative" if name in least else "it must be at least 1"
                raise ValueError(f"{name} is {value}; {what}")


def _plain(name: str, value: Any, kind: str) -> int | float | bool:
    try:
        return {"float": float, "bool": bool}.get(kind, operator.index)(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; it must be {'a number' if kind == 'float' else 'an integer'}") from None


TINY = Experiment(width=2, per_class=25, size=8, eig_every=10, window=10)
LARGE = Experiment(width=16, blocks=3, per_class=250, size=32)
GD: dict[str, Any] = {"optimizer": "GradientDescent", "processes": PROCESSES, "branch": 0, "snapshot_every": 0}
SCALAR = GD | {"optimizer": "ScalarRMSProp"}
#: The book's experiments, each in three sizes: ``PRESETS[name][preset]``.
PRESETS: dict[str, dict[Any, Experiment]] = {
    "rmsprop-resnet": {
        "ci": replace(TINY, lr=1e-4, warmup=430, steps=180, branch=150, snapshot_every=20),
        "laptop": Experiment(),
        "paper": replace(LARGE, lr=2e-5, steps=3000, branch=2000, snapshot_every=100),
    },
    "gd-resnet": {
        "ci": replace(TINY, **GD, lr=0.1, warmup=25, steps=50, substeps=2),
        "laptop": replace(Experiment(), **GD, lr=0.02, steps=400),
        "paper": replace(LARGE, **GD, lr=0.02, steps=3000),
    },
    "scalar-rmsprop-resnet": {
        "ci": replace(TINY, **SCALAR, lr=0.02, warmup=35, steps=60, substeps=2),
        "laptop": replace(Experiment(), **SCALAR, lr=0.01, steps=400),
        "paper": replace(LARGE, **SCALAR, lr=0.01, steps=3000),
    },
}
PRESETS = {name: {size: replace(e, name=name) for size, e in sizes.items()} for name, sizes in PRESETS.items()}


def get(name: str, preset: Preset = "laptop", **changes) -> Experiment:
    """The definition of an experiment, with some options changed.

    Parameters
    ----------
    name : str
        One of `PRESETS`.
    preset : "ci", "laptop" or "paper"
    **changes
        Options of `Experiment` to change.

    Returns
    -------
    Experiment

    Raises
    ------
    ValueError
        If there is no such experiment, preset or option.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no experiment {name!r}; there are {', '.join(PRESETS)}")
    if preset not in PRESETS[name]:
        raise ValueError(f"{name} has no preset {preset!r}; it has {', '.join(PRESETS[name])}")
    experiment = PRESETS[name][preset]
    if unknown := set(changes) - set(asdict(experiment)):
        raise ValueError(f"experiments have no option {sorted(unknown)}; they have {', '.join(asdict(experiment))}")
    return replace(experiment, **changes)


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
    return replace(
        e,
        lr=k * e.lr,
        warmup=e.warmup // k,
        steps=e.steps // k,
        snapshot_every=2 * e.snapshot_every // k,
        window=min(e.window, e.steps // k),
        processes=("discrete", "central", "ablated"),
        branch=0,
    )


def objective(experiment: Experiment, device: str | torch.device = "auto") -> Objective:
    """The training objective of an experiment.

    Parameters
    ----------
    experiment : Experiment
    device : str or torch.device
        Where it lives; "auto" takes a GPU if there is one.

    Returns
    -------
    Objective
    """
    device = _device(device)
    images, labels = data.cifar10(experiment.per_class, experiment.classes, experiment.size)
    targets = F.one_hot(labels, len(experiment.classes)).to(images.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        module = models.ResNet(experiment.width, experiment.blocks, len(experiment.classes))
    module, images, targets = module.to(device), images.to(device), targets.to(device)
    return Objective.from_module(module, nn.MSELoss(), images, targets, experiment.batch_size)


def optimizer(experiment: Experiment) -> optimizers.Optimizer:
    """The optimizer of an experiment.

    Parameters
    ----------
    experiment : Experiment

    Returns
    -------
    RMSProp, ScalarRMSProp or GradientDescent
    """
    e = experiment
    if e.optimizer == "GradientDescent":
        return optimizers.GradientDescent(e.lr)
    return getattr(optimizers, e.optimizer)(e.lr, e.beta2, e.eps, e.bias_correction)


def run(name: str, preset: Preset = "laptop", device: str | torch.device = "auto", **changes) -> xr.DataTree:
    """The result of an experiment: from the cache, or computed and put there.

    Those that come with the repository are found in it (`experiments.stored`), or fetched from the address in the
    environment variable ``CFLOWS_URL``. A run is one NetCDF file, named by the digest of its configuration, its data
    and `ALGORITHM`. An interrupted run leaves a checkpoint beside the place of its file, and goes on from there when it
    is asked for again.

    Parameters
    ----------
    name : str
        One of `PRESETS`.
    preset : "ci", "laptop" or "paper"
    device : str or torch.device
        Where to compute; "auto" takes a GPU if there is one.
    **changes
        Options of `Experiment` to change, as ``lr=4e-5``.

    Returns
    -------
    xarray.DataTree
        As of `simulate`; ``outputs`` are the scores of the true class for the first test image of each class. The
        attributes state configuration, digests, versions, hardware, date and duration.

    Raises
    ------
    ValueError
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
    path = path_of(experiment)
    if found := _find(path.name):
        return load(found)
    checkpoint = _kept(path)
    f, opt = objective(experiment, device), optimizer(experiment)
    tree = simulate(
        f,
        opt,
        experiment.steps,
        experiment.processes,
        experiment.warmup,
        eigs=experiment.eigs,
        eig_every={
            name: (1 if name == "midpoint" else 2) * experiment.eig_every
            for name in experiment.processes
            if name != "discrete"
        },
        eig_tol=experiment.eig_tol,
        substeps=experiment.substeps,
        outputs=test_outputs(f, experiment),
        branch=experiment.branch,
        snapshot_every=experiment.snapshot_every,
        window=experiment.window,
        coords=[i * f.dim // experiment.coords for i in range(experiment.coords)],
        checkpoint=checkpoint,
    )
    tree.attrs |= _provenance(experiment, f)
    if checkpoint and _keep(path, tree):
        checkpoint.unlink(missing_ok=True)
    return tree


def _kept(path: Path) -> Path | None:
    """Where the checkpoint of a run is kept; None, and a warning, if nothing can be written there."""
    try:
        return files.writable(path.with_suffix(".ckpt"))
    except ValueError as error:
        warnings.warn(f"the run will not be kept: {error} (environment variable CFLOWS_CACHE)", stacklevel=4)
        return None


def _keep(path: Path, tree: xr.DataTree) -> bool:
    """Write a result; if that fails the caller has it all the same."""
    try:
        files.save(path, tree)
    except OSError as error:
        warnings.warn(f"the run is not kept: {path} could not be written ({error})", stacklevel=4)
        return False
    return True


def test_outputs(f: Objective, experiment: Experiment) -> Outputs:
    """The outputs that an experiment records: scores of the true class for the first test image of each class.

    Parameters
    ----------
    f : Objective
        That of the experiment.
    experiment : Experiment

    Returns
    -------
    callable, Tensor (n,) -> Tensor (m,)
        Weights to the scores of m classes, as `simulate` takes it.
    """
    images, labels = (x.to(f.w0.device) for x in data.cifar10(1, experiment.classes, experiment.size, "test"))
    return lambda w: f.outputs(w, images).gather(1, labels[:, None]).squeeze(1)


def solve_programs(experiment: Experiment, device: str | torch.device = "auto") -> xr.Dataset:
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
    path = programs_of(path_of(experiment))
    if found := _find(path.name):
        return load(found).to_dataset()
    run, kept = compute(experiment, device), _kept(path)
    f, begin = objective(experiment, device), time.monotonic()
    solved = preconditioners.along(f, optimizer(experiment), run)
    solved.attrs = _provenance(experiment, f) | {"seconds": time.monotonic() - begin, "torch": str(torch.__version__)}
    if kept:
        _keep(path, xr.DataTree(solved))
    return solved


def _provenance(experiment: Experiment, f: Objective) -> dict:
    device = f.w0.device
    return {
        "experiment": json.dumps(asdict(experiment)),
        "weights": f.dim,
        "data": data_digest(experiment),
        "algorithm": ALGORITHM,
        "cflows": version("cflows"),
        "hardware": hardware(device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
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
    e, a = json.loads(run.attrs["experiment"]), run.attrs
    average = f"β₂ = {e['beta2']:g}, bias correction {'on' if e['bias_correction'] else 'off'}, "
    hardware = a["hardware"].replace(" 1 threads", " 1 thread")
    return (
        f"{a['weights']:,} weights, {len(e['classes']) * e['per_class']} images at {e['size']} x {e['size']}, "
        f"η = {e['lr']:g}, {'' if e['optimizer'] == 'GradientDescent' else average}"
        f"{e['steps']} steps after {e['warmup']} of warm-up\n"
        f"computed on {a['date'][:10]} in {a['seconds']:.0f} s: {hardware}, torch {a['torch']}"
    )


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
        If it has other options than those of `Experiment`.
    """
    values = json.loads(run.attrs["experiment"])
    try:
        return Experiment(**{name: tuple(x) if isinstance(x, list) else x for name, x in values.items()})  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"the run is of another version of cflows ({error})") from error


def cache() -> Path:
    """Folder of the runs.

    Returns
    -------
    Path
        That in the environment variable ``CFLOWS_CACHE``, or one in the user's cache.
    """
    return Path(os.environ.get("CFLOWS_CACHE") or pooch.os_cache("cflows")) / "runs"


def stored() -> Path | None:
    """Folder of the runs that come with the repository, in which those not in the cache are looked for.

    Returns
    -------
    Path or None
        That in the environment variable ``CFLOWS_STORED`` (None if it is empty), or ``runs`` beside the package.
    """
    folder = os.environ.get("CFLOWS_STORED", str(Path(__file__).parents[1] / "runs"))
    return Path(folder) if folder else None


def registry() -> dict[str, str]:
    """The run files that come with the repository.

    Returns
    -------
    dict
        SHA-256 by name, as `stored.register` lists them.
    """
    lines = resources.files("cflows._data").joinpath("runs.txt").read_text().splitlines()
    return dict(line.split() for line in lines)  # type: ignore[misc]


asked: set[str] = set()
"""Names of the files that were asked for since the program began."""


def _find(name: str) -> Path | None:
    """Where a file is: in the cache, in the repository, or fetched into the cache from CFLOWS_URL."""
    asked.add(name)
    folders = [folder for folder in (cache(), stored()) if folder]
    if found := next((folder / name for folder in folders if (folder / name).exists()), None):
        return found
    url, digest = os.environ.get("CFLOWS_URL"), registry().get(name)
    if not (url and digest):
        return None
    try:
        return Path(pooch.retrieve(f"{url}/{name}", digest, name, cache(), progressbar=False))
    except (OSError, ValueError) as error:  # no network, no such file, or another one than was stored
        warnings.warn(f"{url}/{name} could not be had ({error}); it is computed instead", stacklevel=3)
        return None


def path_of(experiment: Experiment) -> Path:
    """Where in the cache the run of an experiment is, or will be.

    Parameters
    ----------
    experiment : Experiment

    Returns
    -------
    Path
        Its name has the digest of the definition, the data and `ALGORITHM`.
    """
    content = {"experiment": asdict(experiment), "data": data_digest(experiment), "algorithm": ALGORITHM}
    digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return cache() / f"{experiment.name}-{digest[:12]}.nc"


def programs_of(path: Path) -> Path:
    """Where the solved programs of a run are.

    Parameters
    ----------
    path : Path
        File of the run.

    Returns
    -------
    Path
        A file beside it.
    """
    return path.with_suffix(".programs.nc")


def load(path: str | Path) -> xr.DataTree:
    """Read a run file into memory.

    Parameters
    ----------
    path : path
        File of a run, or of solved programs.

    Returns
    -------
    xarray.DataTree

    Raises
    ------
    ValueError
        If it is not there, can't be read, or is not what was written.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no run file {path}; `cflows list` names those that there are")
    tree = files.load(path, sealed=True)
    if missing := {"experiment", "date", "seconds"} - set(tree.attrs):
        raise ValueError(f"{path} is not a run of an experiment: it does not state its {', '.join(sorted(missing))}")
    return tree


def data_digest(experiment: Experiment) -> str:
    """Digest of the training images and of the test images whose outputs are recorded.

    Parameters
    ----------
    experiment : Experiment

    Returns
    -------
    str
        As of `data.digest`.
    """
    classes, size = experiment.classes, experiment.size
    return data.digest(*data.cifar10(experiment.per_class, classes, size), *data.cifar10(1, classes, size, "test"))


def hardware(device: str | torch.device = "auto") -> str:
    """The name of the processor that computes on a device.

    Parameters
    ----------
    device : str or torch.device
        "auto": a GPU if there is one.

    Returns
    -------
    str
    """
    device = _device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(device)!r} is not to be had here ({reason}); use auto, or cpu") from error
