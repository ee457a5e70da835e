"""Do the predictions hold elsewhere? A small run for each network, loss, learning rate and seed, and a table of them.

The settings are the same for all networks: what does not fit one shows in its rows. The learning rates were chosen by
where RMSProp's eigenvalues reach 2, before flows were computed. Adam has the same two.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from . import ALGORITHM, experiments, preconditioners, report, store
from .errors import ConvergenceError
from .experiments import Experiment, Preset
from .optimizers import OPTIMIZERS, RMSProp
from .tasks import CifarCNN, CifarMLP, CifarResNet, CifarViT, SortingTransformer, Task

NETWORKS: dict[str, Task] = {
    "MLP": CifarMLP(per_class=25, size=8, width=32),
    "CNN": CifarCNN(per_class=25, size=8, width=8),
    "ResNet": CifarResNet(per_class=25, size=8, width=4),
    "vision transformer": CifarViT(per_class=25, size=8, width=16, depth=1, patch=2),
    "sequence transformer": SortingTransformer(sequences=32, width=16, depth=1),
}
LOSSES = "mse", "cross-entropy"
RATES = 1e-3, 3e-3
SEEDS = 0, 1, 2
#: Adam in the place of RMSProp, for every network and loss, at both learning rates, with the first seed.
ADAM: dict[str, Any] = {"optimizer": "Adam", "beta1": 0.9}
#: Other settings of RMSProp, tried on the first network and loss.
VARIANTS: tuple[dict[str, Any], ...] = (
    {"bias_correction": False}, {"beta2": 0.9}, {"beta2": 0.95}, {"beta2": 0.98}, {"beta2": 0.995}, {"beta2": 0.999},
)  # fmt: skip
BASE = Experiment(
    "survey",
    optimizer=RMSProp(RATES[0], 0.99, 1e-8, bias_correction=True),
    burn_in=60,
    steps=301,
    processes=("discrete", "midpoint", "stable", "central", "ablated"),
    eig_every={"midpoint": 20},
    snapshot_every=150,
    replay_steps=0,
)
#: By how much rounding can change a number, since an oscillation magnifies it: relatively, and besides.
RELATIVE, ABSOLUTE = 0.3, 0.01
EXTREMES = {"largest_loss_error", "variance_error"}  # which it can change by more
CALM = 1.1  # the largest growth of Σν in a step
PROGRAM = {"cosine": "cosine of ν and ν̄ at the end", "log_correlation": "correlation of their logarithms at the end"}


def runs(preset: Preset = "laptop") -> list[Experiment]:
    """The runs of the survey.

    Parameters
    ----------
    preset : "ci", "laptop" or "paper"
        "ci" has three of them, small and short; the others have all.

    Returns
    -------
    list of Experiment
    """
    if preset == "ci":
        task = CifarMLP(per_class=10, size=8, width=8)
        small = BASE.change(task=task, burn_in=20, steps=40, snapshot_every=20, lr=RATES[1])
        return [small, small.change(loss=LOSSES[1]), small.change(**VARIANTS[0])]
    grid = [
        BASE.change(task=task, loss=loss, lr=lr, seed=seed)
        for task in NETWORKS.values()
        for loss in LOSSES
        for lr in RATES
        for seed in SEEDS
    ]
    adam = [e.change(**ADAM) for e in grid[:: len(SEEDS)]]
    return grid + [grid[0].change(**changes) for changes in VARIANTS] + adam


def measure(experiment: Experiment, device: str | torch.device = "auto", anew: bool = False) -> dict[str, float]:
    """The numbers of a run, which is computed if need be.

    Parameters
    ----------
    experiment : Experiment
        With the processes and snapshots of the survey's.
    device : str or torch.device
        Where to compute.
    anew : bool
        Compute it in any case, and keep nothing of it.

    Returns
    -------
    dict
        Those of `report.numbers`, and two of the convex program at the last snapshot: ``cosine``, ``log_correlation``.
    """
    run = (experiments.simulated if anew else experiments.compute)(experiment, device)
    end = run.copy()
    end["snapshots/central"] = xr.DataTree(run["snapshots/central"].to_dataset().isel(step=[-1]))
    solved = preconditioners.along(experiment.objective(device), experiment.optimizer, end)
    return report.numbers(run) | {name: float(solved[name][-1]) for name in PROGRAM}


def _row(experiment: Experiment, device: str, anew: bool = False) -> tuple[dict[str, float], str]:
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        return measure(experiment, device, anew), ""
    except (ConvergenceError, ValueError) as error:
        return {}, f"{type(error).__name__}: {error}"
    finally:
        torch.set_num_threads(threads)


def table(preset: Preset = "laptop", device: str = "auto", jobs: int | None = None) -> xr.Dataset:
    """The survey: from the cache or the repository, or computed; an interrupted one goes on where it was.

    Parameters
    ----------
    preset : "ci", "laptop" or "paper"
        As of `runs`.
    device : str
        Where to compute; "auto" takes a GPU if there is one.
    jobs : int, optional
        Runs to compute at a time, a thread each; by default as many as there are cores, and one on a GPU.

    Returns
    -------
    xarray.Dataset
        Over ``run``: the numbers of `measure`, each with its ``long_name``; ``failure``, why a run has none.
        Coordinates: ``network``, ``loss``, ``seed``, ``optimizer``, ``lr``, ``beta2``, ``bias_correction``.
    """
    chosen = runs(preset)

    def make(_: Path | None) -> xr.DataTree:
        place = str(store.device(device))
        workers = jobs or (os.cpu_count() or 1 if place == "cpu" else 1)
        row = partial(_row, device=place)
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows = pool.map(row, chosen) if workers > 1 else map(row, chosen)
            return xr.DataTree(_assemble(chosen, list(tqdm(rows, "survey", len(chosen), unit="run")), preset))

    return store.kept(path(preset), device, make).to_dataset()


def path(preset: Preset = "laptop") -> Path:
    """File of the survey in the cache; its name has a digest of those of its runs.

    Parameters
    ----------
    preset : "ci", "laptop" or "paper"
        As of `runs`.

    Returns
    -------
    Path
    """
    digest = sha256(" ".join(e.path.name for e in runs(preset)).encode()).hexdigest()
    return store.cache() / f"{BASE.name}-table-{digest[:12]}.nc"


def verify(file: str | Path, device: str | torch.device = "auto", row: int | None = None) -> list[str]:
    """Compute one run of a stored survey anew.

    Parameters
    ----------
    file : path
        Of a survey.
    device : str or torch.device
        Where to compute.
    row : int, optional
        Which run; by default the date chooses, among those without a large burst, after which rounding decides.

    Returns
    -------
    list of str
        A line for each of its numbers that has changed by more than rounding explains; empty if none has.

    Raises
    ------
    ValueError
        If the file is not that of the present definitions, data and algorithm.
    """
    table = store.load(file).to_dataset()
    if Path(file).name != (name := path(preset := table.attrs.get("preset", "laptop")).name):
        raise ValueError(f"{file} is not the survey of the present definitions and algorithm, which is {name}")
    chosen = runs(preset)
    if row is None:
        calm = np.flatnonzero(table["jump"].values <= CALM).tolist() or range(len(chosen))  # none that failed
        row = calm[date.today().toordinal() % len(calm)]
    found, failure = _row(chosen[row], str(store.device(device)), anew=True)
    stored = {name: float(table[name][row]) for name in (*report.STATISTICS, *PROGRAM) if name not in EXTREMES}
    which = ", ".join(f"{name} {table[name].values[row]}" for name in table.coords)
    why = f" ({failure})" if failure else ""
    return [
        f"{which}: {name} is {now:.4g} now{why}, and {before:.4g} in the file"
        for name, before in stored.items()
        if not np.isclose(now := found.get(name, math.nan), before, RELATIVE, ABSOLUTE, equal_nan=True)
    ]


def _assemble(chosen: list[Experiment], rows: list[tuple[dict[str, float], str]], preset: str) -> xr.Dataset:
    described = {name: text for name, (text, _) in report.STATISTICS.items()} | PROGRAM
    numbers = {
        name: ("run", np.array([values.get(name, math.nan) for values, _ in rows], np.float32), {"long_name": text})
        for name, text in described.items()
    }
    kinds = {type(task): name for name, task in NETWORKS.items()}
    settings = {
        "network": [kinds[type(e.task)] for e in chosen],
        **{name: [getattr(e.task, name) for e in chosen] for name in ("loss", "seed")},
        "optimizer": [OPTIMIZERS.name_of(type(e.optimizer)) for e in chosen],
        **{name: [getattr(e.optimizer, name) for e in chosen] for name in ("lr", "beta2", "bias_correction")},
    }
    return xr.Dataset(
        numbers | {"failure": ("run", [why for _, why in rows])},
        {name: ("run", values) for name, values in settings.items()},
        {
            "experiment": json.dumps(experiments.written(BASE)),
            "summary": f"{len(chosen)} runs of {chosen[0].steps} steps after {chosen[0].burn_in} of burn-in",
            "preset": preset,
            "algorithm": ALGORITHM,
        },
    )
