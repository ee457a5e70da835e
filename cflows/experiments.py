"""The runs of experiments, one NetCDF file each: found, computed, described and verified."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from . import ALGORITHM, preconditioners, store
from ._definitions import OLD_NAMES, PRESETS, Experiment, Preset, get, rates, read, written
from ._deprecation import renamed
from .objective import Objective
from .optimizers import OPTIMIZERS
from .processes import PROCESSES, Flow
from .simulation import replay, simulate

__all__ = [
    "PRESETS", "Experiment", "compute", "describe", "get", "rates", "read", "run", "simulated",
    "solve_convex_programs", "verify", "written",
]  # fmt: skip
SYMBOLS = {"lr": "η", "beta2": "β₂", "eps": "ε", "bias_correction": "bias correction"}


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
        One of ``PRESETS``.
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
    make = partial(simulated, experiment, device)
    return _checked(store.kept(experiment.path, device, make), experiment)


def simulated(
    experiment: Experiment, device: str | torch.device = "auto", checkpoint: Path | None = None
) -> xr.DataTree:
    """As `compute`, but always computed.

    Parameters
    ----------
    experiment : Experiment
    device : str or torch.device
        Where to compute; "auto" takes a GPU if there is one.
    checkpoint : path, optional
        As of `simulate`.

    Returns
    -------
    xarray.DataTree
        As of `run`.
    """
    e, f = experiment, experiment.objective(device)
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


def _checked(tree: xr.DataTree, e: Experiment) -> xr.DataTree:
    """A result of an experiment, unless it is of other defaults, which names of files do not tell."""
    there, here = json.loads(tree.attrs["experiment"]), written(e)
    if differ := [name for name, value in here.items() if name in there and not _agree(there[name], value)]:
        what = "; ".join(f"{name}: {there[name]} there, {here[name]} here" for name in differ)
        raise ValueError(f"{store.find(e.path.name)} was computed with other defaults ({what}); delete it")
    return tree


def _agree(there: Any, here: Any) -> bool:
    """Whether options have the same values, as far as both have them."""
    if isinstance(there, dict) and isinstance(here, dict) and there and here:
        common = there.keys() & here.keys()
        return bool(common) and all(_agree(there[name], here[name]) for name in common)
    return there == here


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

    return _checked(store.kept(experiment.convex_programs_path, device, make), experiment).to_dataset()


def _attributes(e: Experiment, f: Objective) -> dict[str, Any]:
    options = ", ".join(f"{SYMBOLS.get(name, name)} = {value}" for name, value in asdict(e.optimizer).items())
    optimizer = f"{OPTIMIZERS.name_of(type(e.optimizer))} ({options})"
    return {
        "experiment": json.dumps(written(e)),
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


def verify(path: str | Path, device: str | torch.device = "auto", steps: int | None = None) -> list[str]:
    """Compute parts of a stored run again, from the states that it keeps, or the last of its convex programs.

    Parameters
    ----------
    path : path
        File of a run that keeps states, or of convex programs beside such a run.
    device : str or torch.device
        Where to compute; "auto" takes a GPU if there is one.
    steps : int, optional
        How many from each state, at most as many as the run can be computed again from it (default).

    Returns
    -------
    list of str
        A line for each variable that the present code does not reproduce to within the run's accuracy; empty if it
        reproduces all. With momentum, the first step of each flow is left out, which `replay` gets least accurately.

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
            if not e.starts:
                raise ValueError(f"{path} keeps no state to compute anything from; give the experiment replay_steps")
            more = steps and steps + bool(e.optimizer.memory)
            again = [replay(f, e.optimizer, there, outputs, e.records, start, more) for start in e.starts]
        else:
            tree = store.load(path.with_name(e.path.name))
            tree["snapshots/central"] = xr.DataTree(tree["snapshots/central"].to_dataset().isel(step=[-1]))
            solved = preconditioners.along(f, e.optimizer, tree)
            past = "log_correlation_past"  # a single snapshot has none
            there, again = xr.DataTree(there.to_dataset().drop_vars(past)), [xr.DataTree(solved.drop_vars(past))]
    except KeyError as error:
        raise ValueError(f"{path} does not hold what it could be computed again from ({error})") from error
    if e.optimizer.memory:  # a flow's first unit after a new start is off, since how eigenvectors turn is not known
        for name, node in (pair for part in again for pair in part.children.items()):
            if name in PROCESSES and issubclass(PROCESSES[name], Flow):
                node.dataset = node.to_dataset().isel(step=slice(1, None))
    return [line for part in again for line in store.differences(there, part, e.accuracy)]
