"""Run an optimizer and its flows side by side from one starting point."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from . import files
from .errors import ConvergenceError, DivergenceError
from .objective import Objective
from .optimizers import GradientDescent, Optimizer, RMSProp
from .processes import KINDS, Process


def simulate(
    f: Objective,
    opt: Optimizer,
    steps: int,
    processes: Sequence[str] = ("discrete", "stable", "central"),
    warmup: int = 0,
    *,
    eigs: int = 4,
    eig_every: int | Mapping[str, int] = 1,
    eig_tol: float = 1e-3,
    substeps: int = 1,
    coords: Sequence[int] = (),
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    progress: bool = True,
) -> xr.DataTree:
    """Run an optimizer and its flows side by side.

    Step i of the result is the state before the i-th step is taken; for a flow, the state at time i. A flow starts
    from the optimizer's weights and from its ν *after* the next update, for which ν_t - ν_{t-1} = c (g_t² - ν_t).

    Parameters
    ----------
    f : Objective
        Full-batch objective; its ``w0`` is the starting point and fixes dtype and device.
    opt : RMSProp, ScalarRMSProp or GradientDescent
    steps : int
        Steps to record.
    processes : sequence of str
        "discrete": the optimizer. "midpoint": (w_{t-1} + 2 w_t + w_{t+1}) / 4 of it, which removes oscillations of
        period two (brings "discrete" with it). "stable": the stable flow, stopped where its effective sharpness
        reaches 8, since it is stiff by then. "central": the central flow.
    warmup : int
        Plain optimizer steps taken before the processes part ways.
    eigs : int
        Eigenvalues of the effective Hessian to follow, at least. More are followed while all of them are above 1.5.
    eig_every : int, or mapping from process to int
        Compute them every so many steps; 0: never (not for a flow, which needs them to choose its steps). The central
        flow does so at every step once one is above 1.5.
    eig_tol : float
        Their residuals, relative to the largest (`eigen.top_eigenpairs`; three times that for those below 1.5). An
        eigenvalue's own error is of the order of the square.
    substeps : int
        Steps of the central flow in a unit of time; at least ⌈λ/2.5⌉ are taken. Where an eigenvalue λ is above 2 from
        the start, the oscillation is made such as to lower it by at least 0.2 a unit of time until it is 2.
    coords : sequence of int
        Weights whose squared gradient and ν are recorded at every step.
    checkpoint : path, optional
        File that holds the state of the run; if it is there, the run goes on from it. Written every
        ``checkpoint_every`` seconds, at the end, and whenever an error or an interruption ends the run early.
    progress : bool
        Show a progress bar (at most a line every half minute where there is no terminal).

    Returns
    -------
    xarray.DataTree
        A node a process, with dimensions step, eig and coord:
        ``loss``; ``predicted_loss`` = L + tr X, the time-average a flow predicts (the loss itself for the others);
        ``grad_norm_sq`` = ‖∇L‖²; ``eigenvalues`` of P⁻¹H, descending, NaN where not tracked; ``eig_residual``, the
        largest of their residuals; ``variances``, the eigenvalues of X, descending: predicted variance along each
        P-orthonormal eigenvector of Σ; ``grad_sq`` and ``nu`` at ``coords``.
        Node "distance": Euclidean distances between the weights of processes, named as "central-discrete".

    Raises
    ------
    ValueError, TypeError
        For arguments out of range; also if a weight's gradient is exactly zero and eps is 0.
    DivergenceError
        If a loss, gradient or product is not finite; ``solution`` holds the tree up to there.
    ConvergenceError
        If an eigenvalue or complementarity problem is not solved; as above.
    """
    chosen = _check(f, opt, steps, processes, warmup, eigs, substeps, coords)
    if not 0 < eig_tol < 1:
        raise ValueError(f"eig_tol is {eig_tol}; it must be between 0 and 1")
    every = _intervals(eig_every, chosen)
    identity = {
        "optimizer": repr(opt), "steps": steps, "processes": chosen, "warmup": warmup, "eigs": eigs,
        "eig_every": every, "eig_tol": eig_tol, "substeps": substeps, "coords": list(coords), "weights": f.dim,
        "dtype": str(f.w0.dtype), "start": sha256(f.w0.cpu().numpy().tobytes()).hexdigest(),
    }  # fmt: skip
    options: dict[str, Any] = {"eigs": min(eigs, f.dim), "eig_tol": eig_tol}
    options["coords"] = torch.as_tensor(list(coords), dtype=torch.int64, device=f.w0.device)
    walkers: dict[str, Process] = {}
    for name in chosen:
        more = {"eig_every": every[name]} | ({"substeps": substeps} if name == "central" else {})
        first: tuple = (walkers["discrete"],) if name == "midpoint" else (f, opt)
        walkers[name] = KINDS[name](*first, **options, **more)

    run = _Run(walkers, identity, Path(checkpoint) if checkpoint else None)
    if not run.resume(f):
        w, nu = _warm_up(f, opt, warmup)
        for name, walker in walkers.items():
            with _named(f"{name} at step 0"):
                walker.begin(w, nu, warmup + 1)

    bar = {"disable": not progress, "unit": "step", "mininterval": 0.5 if sys.stderr.isatty() else 30.0}
    try:
        for i in tqdm(range(run.done, steps), initial=run.done, total=steps, **bar):
            run.remember()
            if run.unsaved > checkpoint_every:
                run.save()
            rows = {}
            for name, walker in walkers.items():
                with _named(f"{name} at step {i}"):
                    rows[name] = walker.observe(i)
            rows["distance"] = {
                f"{a}-{b}": torch.linalg.vector_norm(walkers[a].w - walkers[b].w).item()
                for a, b in combinations(reversed(chosen), 2)
            }
            run.add(rows)
            if i + 1 < steps:
                for name, walker in walkers.items():
                    with _named(f"{name} after step {i}"):
                        walker.advance()
    except BaseException as error:
        run.save()
        if isinstance(error, (DivergenceError, ConvergenceError)):
            error.solution = run.tree()
        raise
    run.remember()
    run.save()
    return run.tree()


class _Run:
    """What has been recorded so far, and the checkpoint that it can go on from."""

    def __init__(self, walkers: dict[str, Process], identity: dict, path: Path | None):
        self.walkers, self.identity, self.path = walkers, identity, path
        self.records: dict[str, list[dict]] = {name: [] for name in [*walkers, "distance"]}
        self.states: dict[str, dict] = {}
        self.seconds, self.clock = 0.0, time.monotonic()
        self.saved = self.clock

    @property
    def done(self) -> int:
        """Steps that are recorded for every process."""
        return len(self.records["distance"])

    @property
    def unsaved(self) -> float:
        return time.monotonic() - self.saved

    def add(self, rows: dict[str, dict]) -> None:
        for name, row in rows.items():
            self.records[name].append(row)

    def remember(self) -> None:
        """Keep the states that step `done` starts from."""
        self.states = {name: walker.state() for name, walker in self.walkers.items()}
        self.states_at = self.done

    def save(self) -> None:
        if self.path is None or not self.states:
            return
        records = {name: rows[: self.states_at] for name, rows in self.records.items()}
        seconds = self.seconds + time.monotonic() - self.clock
        content = {"identity": self.identity, "seconds": seconds, "records": records, "states": self.states}
        files.write(self.path, lambda path: torch.save(content, path))
        self.saved = time.monotonic()

    def resume(self, f: Objective) -> bool:
        """Go on from the checkpoint, if there is one."""
        if self.path is None or not self.path.exists():
            return False
        try:
            content = torch.load(self.path, map_location=f.w0.device, weights_only=True)
            identity, records, states = content["identity"], content["records"], content["states"]
        except Exception as error:
            raise ValueError(f"the checkpoint {self.path} can't be read ({error}); delete it to start over") from error
        if identity != self.identity:
            differ = [k for k in self.identity if identity.get(k) != self.identity[k]]
            what = "; ".join(f"{k}: {identity.get(k)} there, {self.identity[k]} here" for k in differ)
            raise ValueError(
                f"the checkpoint {self.path} belongs to another run ({what}); delete it or name another file"
            )
        self.records, self.seconds = records, content["seconds"]
        for name, walker in self.walkers.items():
            walker.load(states[name])
        return True

    def tree(self) -> xr.DataTree:
        nodes = {name: _dataset(rows[: self.done], self.identity["coords"]) for name, rows in self.records.items()}
        seconds = self.seconds + time.monotonic() - self.clock
        tree = xr.DataTree.from_dict(nodes)
        tree.attrs = {"simulation": json.dumps(self.identity), "seconds": seconds, "torch": str(torch.__version__)}
        return tree


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say in which process and at which step an error arose."""
    try:
        yield
    except (DivergenceError, ConvergenceError) as error:
        raise type(error)(f"{where}: {error}", error.solution) from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _warm_up(f: Objective, opt: Optimizer, steps: int) -> tuple[Tensor, Tensor]:
    w, nu = f.w0, opt.init(f.w0)
    for t in range(1, steps + 1):
        loss, g = f.value_and_grad(w)
        if not loss.isfinite():
            raise DivergenceError(f"warm-up at step {t - 1}: the loss is {loss.item()}; try a smaller learning rate")
        nu = opt.update(nu, g)
        w = w - g / opt.preconditioner(nu, t)
    return w, nu


def _dataset(rows: list[dict], coords: list[int]) -> xr.Dataset:
    """Rows of numbers and lists, some missing, as arrays padded with NaN."""
    dims = {"eigenvalues": "eig", "variances": "eig", "grad_sq": "coord", "nu": "coord"}
    data: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        if name in dims:
            width = max(len(row.get(name, ())) for row in rows)
            values = np.full((len(rows), width), np.nan)
            for i, row in enumerate(rows):
                values[i, : len(row.get(name, ()))] = row.get(name, ())
            data[name] = (("step", dims[name]), values)
        else:
            data[name] = ("step", np.array([row.get(name, np.nan) for row in rows], dtype=np.float64))
    sizes = [v[1].shape[1] for v in data.values() if v[0] == ("step", "eig")]
    for name, (d, values) in data.items():
        if d == ("step", "eig"):
            data[name] = (d, np.pad(values, ((0, 0), (0, max(sizes) - values.shape[1])), constant_values=np.nan))
    dataset = xr.Dataset(data, coords={"step": np.arange(len(rows))})
    return dataset.assign_coords(coord=coords) if any("coord" in v[0] for v in data.values()) else dataset


def _intervals(eig_every: int | Mapping[str, int], chosen: list[str]) -> dict[str, int]:
    every = dict(eig_every) if isinstance(eig_every, Mapping) else dict.fromkeys(chosen, eig_every)
    every = {name: every.get(name, 0) for name in chosen}
    for name, value in every.items():
        least = 1 if name in ("stable", "central") else 0
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"eig_every is {value!r} for {name}; it must be an integer of at least {least}")
    return every


def _check(f, opt, steps, processes, warmup, eigs, substeps, coords) -> list[str]:
    """Complain about what can't be run; the processes in the order in which they look at the world."""
    if not isinstance(f, Objective):
        raise TypeError(
            f"f is a {type(f).__name__}; wrap it as cflows.Objective(loss, w0) or Objective.from_module(...)"
        )
    if not isinstance(opt, (RMSProp, GradientDescent)):
        raise TypeError(f"opt is a {type(opt).__name__}; use cflows.RMSProp, ScalarRMSProp or GradientDescent")
    minima = {"steps": 1, "warmup": 0, "eigs": 1, "substeps": 1}
    for name, value in zip(minima, (steps, warmup, eigs, substeps), strict=True):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}; it must be an integer")
        if value < minima[name]:
            raise ValueError(f"{name} is {value}; it must be at least {minima[name]}")
    processes = [processes] if isinstance(processes, str) else list(processes)
    if unknown := [p for p in processes if p not in KINDS] or not processes:
        raise ValueError(f"processes has {unknown}; choose from {', '.join(KINDS)}")
    if outside := [c for c in coords if not 0 <= c < f.dim]:
        raise ValueError(f"coords has {outside}; with {f.dim} weights they must be from 0 to {f.dim - 1}")
    if {"stable", "central"} & set(processes):
        _ = opt.rate  # complains if the optimizer has no flow
    if "midpoint" in processes:
        processes.append("discrete")
    return [name for name in KINDS if name in processes]
