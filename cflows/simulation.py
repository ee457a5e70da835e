"""Run an optimizer and its flows side by side from one starting point."""

from __future__ import annotations

import json
import math
import operator
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from . import files, records, states
from .data import digest
from .deprecation import renamed
from .errors import ConvergenceError, DivergenceError
from .objective import Objective
from .optimizers import Optimizer
from .processes import PROCESSES, Flow, Observation, Process, Settings
from .processes.base import Outputs
from .processes.stationary import Stationary
from .records import RECORDS, Record

#: Version of the algorithm: raised when a change to the library changes what a run, or what is solved along it, holds.
ALGORITHM = 8
ROUNDING = 100.0  # a gradient below so many times machine precision, relative to the root mean square, may be rounding
DISTANCES = {
    "distance": "Euclidean distances between the weights of two processes",
    "distance/P": "their distances in the metric of P, that of the second: (δᵀPδ)^½",
}


@dataclass(frozen=True)
class Options:
    """Options of `simulate`, checked, as plain numbers; processes are in the order in which they act."""

    steps: int
    processes: tuple[str, ...]
    burn_in: int
    eigs: int
    eig_every: dict[str, int]
    eig_tol: float
    substeps: int
    coords: tuple[int, ...]
    branch_step: int
    accuracy: float
    snapshot_every: int
    replay_steps: int
    replay_from: tuple[int, ...]
    records: tuple[str, ...]


@dataclass(frozen=True)
class Fingerprint:
    """By what a run is recognised besides its options."""

    optimizer: str
    weights: int
    dtype: str
    loss: float
    start: str
    outputs: str | None

    @classmethod
    def of(cls, f: Objective, opt: Optimizer, steps: int, outputs: Outputs | None) -> Fingerprint:
        loss, g = f.value_and_grad(f.w0)
        start = sha256(torch.stack([f.w0, g]).cpu().numpy().tobytes()).hexdigest()
        told = None if outputs is None else digest(_outputs(outputs, f.w0))
        return cls(_signature(opt, steps), f.dim, str(f.w0.dtype), loss.item(), start, told)


@renamed(warmup="burn_in", branch="branch_step", window="replay_steps")
def simulate(
    f: Objective,
    opt: Optimizer,
    steps: int,
    processes: Sequence[str] = ("discrete", "stable", "central"),
    burn_in: int = 0,
    *,
    eigs: int = 4,
    eig_every: int | Mapping[str, int] = 1,
    eig_tol: float = 1e-3,
    substeps: int = 1,
    coords: Sequence[int] = (),
    outputs: Outputs | None = None,
    records: Sequence[Record | str] = (),
    branch_step: int = 0,
    accuracy: float = 0.01,
    snapshot_every: int = 0,
    replay_steps: int = 0,
    replay_from: Sequence[int] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    progress: bool = True,
) -> xr.DataTree:
    """Run an optimizer and its flows side by side.

    Step i of the result is the state before the i-th step is taken; for a flow, the state at time i. A flow starts from
    the optimizer's weights and from its ν *after* the next update, for which the change of ν in a step is c (g² - ν),
    with g and ν of its end.

    Parameters
    ----------
    f : Objective
        Full-batch objective; its ``w0`` is the starting point and fixes dtype and device.
    opt : Optimizer
        RMSProp, ScalarRMSProp, GradientDescent, or one of your own.
    steps : int
        Steps to record.
    processes : sequence of str
        "discrete": the optimizer. "midpoint": (w₋ + 2w + w₊) / 4 of three of its steps, which removes oscillations of
        period two (brings "discrete" with it). "stable": the stable flow, stopped where its effective sharpness
        reaches 8, since it is stiff by then. "central": the central flow. "ablated": the central flow without its
        curvature penalty. "stationary": the stationary flow of RMSProp, from step ``branch_step`` on; eps is
        neglected in it, and its ν is ν̄. "ablated_stationary": without its curvature penalty. Others can be registered
        in `processes.PROCESSES`.
    burn_in : int
        Plain optimizer steps taken before the processes part ways.
    eigs : int
        Eigenvalues of the effective Hessian to compute. Flows follow more of them while all are above 1.5. Weights that
        have never had a gradient (ν = 0) are at rest, and H is that of the others.
    eig_every : int, or mapping from process to int
        Compute them every so many steps; 0: never (not for a flow, which needs them to choose its steps). A flow also
        does so when the top one may have grown, and the central flow, once that is above 1.5, as ``accuracy`` asks for.
    eig_tol : float
        Their residuals, relative to the largest (`top_eigenpairs`; three times that for those below 1.5), at most;
        the central flow's are no more than a tenth of ``accuracy``. An eigenvalue's own error is of the order of the
        square.
    substeps : int
        Steps of the central flow in a unit of time, at least; more are taken where the flow bends, an eigenvalue λ is
        large (⌈λ/2.5⌉), or one has left 2 by more than 0.01. Where one is above 2 from the start, the oscillation is
        made such as to lower it by at least 0.2 a unit of time until it is 2. The flow ends where nothing would lower
        it (a quadratic loss under gradient descent), or at λ = 1000.
    coords : sequence of int
        Weights whose squared gradient and ν are recorded at every step.
    outputs : callable, Tensor (n,) -> Tensor (m,), optional
        Functions of the weights to record at every step, such as a network's outputs for a few images:
        ``lambda w: f.outputs(w, images).flatten()``. Smooth, if the central flow is among the processes.
    records : sequence of Record or str
        Further quantities to record, those in `records.RECORDS` by their names.
    branch_step : int
        Step at which the stationary flows leave the central flow, which must be among the processes (0: they start as
        the others do). They ask for a ν that has all but converged.
    accuracy : float
        Relative error that flows aim at between two refreshes of what they extrapolate. The central flow extrapolates
        eigenvectors and third derivatives. Its error is that of the rate at which eigenvalues move, or the sine of the
        angle between an eigenvector and its extrapolation. The stationary flows extrapolate P̄. Their error is that of
        their velocity (their ``extrapolation``). The error decides when the next refresh is, not whether the last was
        in time: eigenvalues may leave 2 by some thousandths in between, and by more where they change fast.
    snapshot_every : int
        Steps between two snapshots of all of w, ν and g² of the optimizer and the central flow; 0: none. A snapshot
        takes six vectors (n,) and one for each critical eigenvalue, in memory and in the checkpoint: with 24,860
        weights in float32 and three eigenvalues, 0.9 MB. All else takes less than 2 kB a step in the result.
    replay_steps : int
        Number of steps that `replay` shall be able to compute again, from each of some states that the result holds.
    replay_from : sequence of int, optional
        Steps of these states (default: so many steps before the end).
    checkpoint : path, optional
        File that holds the state of the run; if it is there, the run goes on from it. Written from time to time, at the
        end, and whenever an error or an interruption ends the run early. If its folder can't be written, that is an
        error before anything is computed; if a disk fills up later, a warning.
    checkpoint_every : float
        Seconds between two times.
    progress : bool
        Show a progress bar (at most a line every half minute where there is no terminal).

    Returns
    -------
    xarray.DataTree
        A node a process, with dimensions step, eig, coord and output. What each variable is, its attribute
        ``long_name`` says; what was not computed is NaN. All processes have ``loss``,
        ``predicted_loss``, ``grad_norm_sq``, ``nu_sum``, ``p_sum``, ``eigenvalues``, ``eig_residual``, ``variances``,
        and ``grad_sq``, ``nu`` and ``outputs`` if asked for. "central" also has its other predictions, the optimizer's
        ``displacements`` along the eigenvectors of Σ, and ``rise``, ``curvature_reduction`` and ``nu_growth``.
        Node "distance": Euclidean distances between the weights of processes, named as "central-discrete"; node
        "distance/P": the same in the metric of P, that of the second. Weights whose gradient is nothing but rounding (a
        warning names them) are left out of both. A flow that could not go on, or is not to be trusted, says from which
        step on and why in the attribute ``doubt`` of its node; "central" has ``trusted`` for each step.
        Node "snapshots", with nodes "discrete" and "central": ``weights``, ``nu``, ``grad_sq`` (step, weight), and
        ``factor`` F (step, weight, rank) with Σ = FFᵀ, at the steps at which they were taken.
        Nodes "state/0", ...: the states that `replay` starts from, each a node a process.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range; also if a weight's gradient is exactly zero and eps is 0.
    DivergenceError
        If a loss, gradient or product is not finite; ``solution`` holds the tree up to there.
    ConvergenceError
        If an eigenvalue or complementarity problem is not solved; as above.
    """
    if not isinstance(f, Objective):
        raise TypeError(
            f"f is a {type(f).__name__}; wrap it as cflows.Objective(loss, w0) or Objective.from_module(...)"
        )
    if not isinstance(opt, Optimizer):
        raise TypeError(f"opt is a {type(opt).__name__}; use cflows.RMSProp, ScalarRMSProp or GradientDescent")
    further = [RECORDS[record] if isinstance(record, str) else record for record in records]
    steps = _integer(steps, "steps", 1)
    names = _processes(processes, opt, branch_step, steps)
    options = Options(
        steps,
        names,
        _integer(burn_in, "burn_in", 0),
        _integer(eigs, "eigs", 1),
        _intervals(eig_every, names, opt),
        _share(eig_tol, "eig_tol"),
        _integer(substeps, "substeps", 1),
        _coords(coords, f.dim),
        _integer(branch_step, "branch_step", 0),
        _share(accuracy, "accuracy"),
        _integer(snapshot_every, "snapshot_every", 0),
        *_replays(replay_steps, replay_from, steps),
        tuple(record.variable.name for record in further),
    )
    path = None if checkpoint is None else files.writable(checkpoint)
    fingerprint = Fingerprint.of(f, opt, options.burn_in + steps + 1, outputs)
    run = _Run(f, opt, options, fingerprint, outputs, further, path)
    if not run.resume():
        run.begin(_rounding_only(f))

    bar = {"disable": not progress, "unit": "step", "mininterval": 0.5 if sys.stderr.isatty() else 30.0}
    try:
        for _ in tqdm(range(run.done, steps), initial=run.done, total=steps, **bar):
            if time.monotonic() - run.saved > checkpoint_every:
                run.save_or_warn()
            run.step()
    except BaseException as error:
        run.save_or_warn()
        if isinstance(error, ConvergenceError):
            error.solution = run.tree()
        raise
    run.save_or_warn()
    return run.tree()


def replay(
    f: Objective,
    opt: Optimizer,
    tree: xr.DataTree,
    outputs: Outputs | None = None,
    records: Sequence[Record | str] = (),
    start: int | None = None,
) -> xr.DataTree:
    """Compute some steps of a run again, from a state that it holds.

    Eigenvectors are found anew, and how they turn is not known before the second refresh: the first steps of a
    central flow at the edge are less accurate, the others agree to within the tolerances of the run.

    Parameters
    ----------
    f, opt
        As given to `simulate`.
    tree : xarray.DataTree
        Result of `simulate` with ``replay_steps`` above 0.
    outputs, records
        As given to `simulate`.
    start : int, optional
        Step to start from, one of ``replay_from`` (default: the last).

    Returns
    -------
    xarray.DataTree
        ``replay_steps`` steps, as of `simulate`.

    Raises
    ------
    ValueError
        If the run holds no such state, or is one of another optimizer or objective.
    """
    if "state" not in tree:
        raise ValueError("the run holds no state to go on from; give simulate replay_steps")
    options, there = _read(tree)
    here = Fingerprint.of(f, opt, options.burn_in + options.steps + 1, None)
    for name in ("optimizer", "weights", "dtype"):
        if getattr(here, name) != getattr(there, name):
            raise ValueError(f"{name} of the run is {getattr(there, name)}, here it is {getattr(here, name)}")
    if not math.isclose(here.loss, there.loss, rel_tol=1e-3):
        raise ValueError(f"the loss at the start of the run is {there.loss:g}, here it is {here.loss:g}")
    first = options.replay_from[-1] if start is None else start
    if str(first) not in tree["state"]:
        raise ValueError(f"the run holds no state of step {first}; it holds those of {list(options.replay_from)}")
    further = [RECORDS[record] if isinstance(record, str) else record for record in records]
    run = _Run(f, opt, options, there, outputs, further, None)
    run.load(tree, first)
    for _ in range(options.replay_steps):
        run.step()
    return run.tree()


class _Run:
    """The states of all processes, what has been recorded so far, and the checkpoint that it can go on from."""

    def __init__(
        self,
        f: Objective,
        opt: Optimizer,
        options: Options,
        fingerprint: Fingerprint,
        outputs: Outputs | None,
        further: Sequence[Record],
        path: Path | None,
    ):
        self.f, self.opt, self.options, self.fingerprint, self.path = f, opt, options, fingerprint, path
        self.outputs, self.further, o = outputs, further, options
        settings = Settings(
            f, opt, min(o.eigs, f.dim), o.eig_tol,
            torch.as_tensor(o.coords, dtype=torch.int64, device=f.w0.device),
            o.substeps, o.accuracy, o.branch_step, outputs,
        )  # fmt: skip
        self.processes: dict[str, Process] = {
            name: PROCESSES[name](settings, o.eig_every[name]) for name in o.processes
        }
        self.states: dict[str, Any] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in (*self.processes, *DISTANCES)}
        self.snapshots: dict[str, dict[int, dict[str, Tensor]]] = {
            name: {} for name, process in self.processes.items() if process.snapshots
        }
        self.kept: dict[str, xr.Dataset] = {}  # states to replay from
        self.first = self.done = 0  # the step that the records begin with, and the one that comes next
        self.rounding: list[int] = []  # weights whose gradient is nothing but rounding
        self.seconds, self.clock = 0.0, time.monotonic()
        self.saved = self.clock

    def begin(self, rounding: list[int]) -> None:
        """Let all processes start where the optimizer's burn-in ends."""
        self.rounding, burn_in = rounding, self.options.burn_in
        none = torch.as_tensor([], dtype=torch.int64, device=self.f.w0.device)
        optimizer = PROCESSES["discrete"](Settings(self.f, self.opt, 1, 1.0, none), 0)
        state = optimizer.start(self.f.w0, self.opt.init(self.f.w0), 1)
        for i in range(burn_in):
            with _named(f"burn-in at step {i}"):
                state = optimizer.step(optimizer.observe(state, i, {}))
        for name, process in self.processes.items():
            with _named(f"{name} at step 0"):
                self.states[name] = process.start(state.w, state.nu, burn_in + 1, getattr(state, "m", None))

    def step(self) -> None:
        """Record the next step of every process, and move on."""
        i, o, seen = self.done, self.options, dict[str, Observation]()
        if i in o.replay_from:
            self.kept |= {f"state/{i}/{name}": states.pack(s, caches=False) for name, s in self.states.items()}
        taking = o.snapshot_every and i % o.snapshot_every == 0
        for name, process in self.processes.items():
            with _named(f"{name} at step {i}"):
                seen[name] = now = process.observe(self.states[name], i, seen)
                if taking and now.row:
                    seen[name] = now = process.with_sharpness(now)
                if self.outputs is not None and now.row:
                    now.row["outputs"] = _outputs(self.outputs, now.state.w).tolist()
                for record in self.further if now.row else ():
                    if not record.processes or name in record.processes:
                        value = record.of(now)
                        if value is not None:
                            now.row[record.variable.name] = value
                records.check(name, now.row, (*process.variables, *(record.variable for record in self.further)))
        rows = {name: now.row for name, now in seen.items()} | self._distances(seen)
        taken = {name: self.processes[name].snapshot(seen[name]) for name in self.snapshots} if taking else {}
        following, last = {}, i + 1 == o.steps
        for name, process in self.processes.items():
            with _named(f"{name} after step {i}"):
                following[name] = seen[name].state if last else process.step(seen[name])
        # all went well: from here on nothing can fail
        for name, row in rows.items():
            self.rows[name].append(row)
        for name, arrays in taken.items():
            self.snapshots[name][i] = {key: x.cpu() for key, x in arrays.items()}
        for name, process in self.processes.items():
            _tell(process.label, seen[name].message, self.states[name], following[name])
        self.states, self.done = following, i + 1

    def _distances(self, seen: Mapping[str, Observation]) -> dict[str, dict[str, float]]:
        pairs = {f"{a}-{b}": (seen[a], seen[b]) for a, b in combinations(reversed(list(seen)), 2)}
        apart = {name: a.state.w - b.state.w for name, (a, b) in pairs.items()}
        for way in apart.values():
            way[self.rounding] = 0.0
        return {
            "distance": {name: torch.linalg.vector_norm(way).item() for name, way in apart.items()},
            "distance/P": {name: _length(way, pairs[name][1].p) for name, way in apart.items()},
        }

    def save_or_warn(self) -> None:
        """Write the checkpoint; failing to must not cost the run its result, nor hide why it ended."""
        self.saved = time.monotonic()  # if it fails, it is tried again when the next is due
        if self.path is None or not self.states:
            return
        try:
            now = {f"now/{name}": states.pack(state) for name, state in self.states.items()}
            tree = self.tree()
            tree.update(xr.DataTree.from_dict(now).children)
            tree.attrs["rounding"] = json.dumps(self.rounding)
            files.save(self.path, tree, compress=False)
        except Exception as error:
            warnings.warn(
                f"the checkpoint {self.path} could not be written ({error}); is the disk full? The run goes on without",
                stacklevel=3,
            )

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one."""
        if self.path is None or not self.path.exists():
            return False
        try:
            tree = files.load(self.path, sealed=True)
            (options, there), made = _read(tree), (tree.attrs["algorithm"], tree.attrs["cflows"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the checkpoint {self.path} can't be read ({error}); delete it to start over") from error
        if made[0] != ALGORITHM:
            raise ValueError(
                f"the checkpoint {self.path} was written by cflows {made[1]}, algorithm {made[0]}, and this is "
                f"{version('cflows')}, algorithm {ALGORITHM}; delete it to start over, or go on with that version"
            )
        here, there_all = (asdict(a) | asdict(b) for a, b in ((self.options, self.fingerprint), (options, there)))
        if differ := [name for name, value in here.items() if there_all[name] != value]:
            what = "; ".join(f"{name}: {there_all[name]} there, {here[name]} here" for name in differ)
            raise ValueError(
                f"the checkpoint {self.path} belongs to another run ({what}); delete it or name another file"
            )
        self.load(tree)
        return True

    def load(self, tree: xr.DataTree, start: int | None = None) -> None:
        """Take up the states of a step that a run holds; without one, all that a checkpoint holds."""
        where = "now" if start is None else f"state/{start}"
        for name, process in self.processes.items():
            packed = tree[f"{where}/{name}"].to_dataset()
            self.states[name] = states.unpack(process.state_type, packed, self.f.w0.device)
        if start is not None:
            self.first = self.done = start
            return
        for name, rows in self.rows.items():
            rows += records.rows(tree[name].to_dataset())
        for name in self.snapshots if "snapshots" in tree else ():
            taken = tree[f"snapshots/{name}"].to_dataset()
            for i in range(taken.sizes["step"]):
                arrays = {key: torch.tensor(x.values[i]) for key, x in taken.data_vars.items()}
                self.snapshots[name][int(taken["step"][i])] = arrays
        self.kept = {n.path[1:]: n.to_dataset() for n in tree.subtree if n.path.startswith("/state/") and n.has_data}
        self.done, self.seconds = len(self.rows["distance"]), tree.attrs["seconds"]
        self.rounding = json.loads(tree.attrs["rounding"])

    def tree(self) -> xr.DataTree:
        """What there is so far."""
        o = self.options
        rows = [row for name in self.processes for row in self.rows[name]]
        widths = {"eig": o.eigs, "coord": len(o.coords)}
        widths["output"] = max([len(row.get("outputs", ())) for row in rows], default=0)
        nodes: dict[str, xr.Dataset] = {}
        for name, process in self.processes.items():
            more = [record.variable for record in self.further if not record.processes or name in record.processes]
            nodes[name] = records.dataset(self.rows[name], [*process.variables, *more], self.first, widths)
            if o.coords:
                nodes[name] = nodes[name].assign_coords(coord=list(o.coords))
            state = self.states.get(name)
            if doubt := "; it ends at ".join(filter(None, (getattr(state, "doubt", ""), getattr(state, "end", "")))):
                nodes[name].attrs["doubt"] = doubt
        nodes |= {f"snapshots/{name}": _stack(taken) for name, taken in self.snapshots.items() if taken}
        steps = {"step": self.first + np.arange(self.done - self.first)}
        for name, meaning in DISTANCES.items():
            names = self.rows[name][0] if self.rows[name] else ()
            series = {pair: ("step", [row[pair] for row in self.rows[name]]) for pair in names}
            nodes[name] = xr.Dataset(series, coords=steps, attrs={"long_name": meaning})
        tree = xr.DataTree.from_dict(nodes | self.kept)
        tree.attrs = {"options": json.dumps(asdict(o)), "fingerprint": json.dumps(asdict(self.fingerprint))}
        tree.attrs |= {"seconds": self.seconds + time.monotonic() - self.clock, "algorithm": ALGORITHM}
        tree.attrs |= {"cflows": version("cflows"), "torch": str(torch.__version__)}
        return tree


def _read(tree: xr.DataTree) -> tuple[Options, Fingerprint]:
    """Options and fingerprint of a run."""
    lists = {name: tuple(x) if isinstance(x, list) else x for name, x in json.loads(tree.attrs["options"]).items()}
    return Options(**lists), Fingerprint(**json.loads(tree.attrs["fingerprint"]))


def _tell(label: str, message: str, before: Any, after: Any) -> None:
    """Warn of what a process has to say, and of what became of a flow in a step."""
    new = {name: getattr(after, name, "") for name in ("doubt", "end")}
    said = [message] if message else []
    if new["doubt"] and not before.doubt:
        said.append(f"the {label} is not to be trusted from {new['doubt']}")
    if new["end"] and not before.end:
        said.append(f"the {label} ends at {new['end']}")
    for text in said:
        warnings.warn(text, stacklevel=4)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say in which process and at which step an error arose."""
    try:
        yield
    except (DivergenceError, ConvergenceError) as error:
        raise type(error)(f"{where}: {error}", error.solution) from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _stack(taken: dict[int, dict[str, Tensor]]) -> xr.Dataset:
    """Snapshots as arrays, those of low rank filled up with zeros."""
    data: dict[str, Any] = {}
    for name in next(iter(taken.values())):
        arrays = [snapshot[name].numpy() for snapshot in taken.values()]
        if arrays[0].ndim == 1:
            data[name] = (("step", "weight"), np.stack(arrays))
        else:
            rank = max(a.shape[1] for a in arrays)
            padded = [np.pad(a, ((0, 0), (0, rank - a.shape[1]))) for a in arrays]
            data[name] = (("step", "weight", "rank"), np.stack(padded))
    return xr.Dataset(data, coords={"step": list(taken)})


def _length(way: Tensor, p: Tensor | None) -> float:
    """Length of a difference of weights in the metric of P."""
    return float((p * way.square()).sum().sqrt()) if p is not None and way.isfinite().all() else math.nan


def _rounding_only(f: Objective) -> list[int]:
    """Weights whose gradient is nothing but rounding, here and nearby; says which."""
    binding, g = f.binding, f.value_and_grad(f.w0)[1]
    gradients = [g, *(f.value_and_grad(f.nearby(f.w0, 0.1, seed))[1] for seed in (1, 2))]
    if not all(x.isfinite().all() for x in gradients):
        return []
    limit = ROUNDING * torch.finfo(g.dtype).eps
    tiny = torch.stack([x.abs() <= limit * x.double().square().mean().sqrt() for x in gradients]).all(0)
    small = tiny & torch.stack(gradients).any(0)
    if small.any():  # however small, a gradient does not change much over a few roundings of the weights
        eps = 10 * torch.finfo(g.dtype).eps
        moved = [f.value_and_grad(f.w0 + eps * (f.nearby(f.w0, 1.0, seed) - f.w0))[1] for seed in (3, 4)]
        small &= torch.stack([(x - g).abs() > 0.1 * g.abs() for x in moved]).any(0)
    found = small.nonzero().flatten().tolist()
    if found:
        owners = sorted({binding.owner(i) for i in found}) if binding else []
        names = ", ".join(owners[:5]) + (" and others" if len(owners) > 5 else "") if binding else str(found[:5])[1:-1]
        warnings.warn(
            f"the gradient of {len(found)} weights of {f.dim} ({names}) is nothing but rounding, and an adaptive "
            "optimizer makes full steps of it in random directions; they change nothing in the loss (key biases of an "
            "attention, for example) and are left out of distances; freeze them, or set eps above their gradients, "
            f"{float(g[found].abs().max()):.1g}",
            stacklevel=4,
        )
    return found


def _outputs(outputs: Outputs, w: Tensor) -> Tensor:
    """The outputs (m,) at some weights."""
    if not callable(outputs):
        raise TypeError(f"outputs is {outputs!r}; it must be a function of the weights, Tensor (n,) -> Tensor (m,)")
    values = outputs(w.clone())  # may hold derivatives with respect to inputs
    if not isinstance(values, Tensor) or values.ndim != 1 or not len(values):
        what = (
            f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        )
        raise ValueError(f"outputs returned {what}; it must return a tensor of shape (m,): flatten it")
    return values.detach()


def _signature(opt: Optimizer, steps: int) -> str:
    """What an optimizer is, a schedule by its values."""
    options = {k: v for k, v in vars(opt).items() if k != "lr"}
    lr = [opt.learning_rate(t) for t in range(1, steps + 1)] if callable(opt.lr) else opt.learning_rate(1)
    return json.dumps({"name": type(opt).__name__, "lr": lr} | options, default=float)


def _share(value: Any, name: str) -> float:
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; it must be a number between 0 and 1") from None
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value!r}; it must be between 0 and 1")
    return value


def _integer(value: Any, name: str, least: int) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it must be an integer") from None
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
    return value


def _coords(coords: Sequence[int], dim: int) -> tuple[int, ...]:
    chosen = tuple(_integer(c, "an entry of coords", 0) for c in coords)
    if outside := [c for c in chosen if c >= dim]:
        raise ValueError(f"coords has {outside}; with {dim} weights they must be from 0 to {dim - 1}")
    return chosen


def _replays(length: int, start: Sequence[int] | None, steps: int) -> tuple[int, tuple[int, ...]]:
    length = _integer(length, "replay_steps", 0)
    if length > steps:
        raise ValueError(f"replay_steps is {length}; the run has no more than {steps} steps")
    if start is None:
        return length, (steps - length,) if length else ()
    chosen = tuple(sorted({_integer(i, "an entry of replay_from", 0) for i in start}))
    if late := [i for i in chosen if i + length > steps]:
        raise ValueError(f"replay_from has {late}; {length} steps from there are after the end, step {steps}")
    return length, chosen


def _processes(processes: Any, opt: Optimizer, branch_step: int, steps: int) -> tuple[str, ...]:
    """Names of processes, with those that they need, in the order in which they act."""
    names = [processes] if isinstance(processes, str) else list(processes)
    if not names or any(name not in PROCESSES for name in names):
        raise ValueError(f"processes is {processes!r}; choose some of {', '.join(PROCESSES)}")
    if any(issubclass(PROCESSES[name], Stationary) for name in names):
        if branch_step >= steps:
            warnings.warn(
                f"the stationary flows begin at step branch_step, {branch_step}, and there are {steps} steps: they are "
                "empty",
                stacklevel=4,
            )
        if branch_step and "central" not in names:
            raise ValueError(
                'the stationary flows leave the central flow at step branch_step; add "central" to processes'
            )
    names += [other for name in names for other in PROCESSES[name].needs(branch_step)]
    return tuple(name for name in PROCESSES if name in names)


def _intervals(eig_every: int | Mapping[str, int], names: Sequence[str], opt: Optimizer) -> dict[str, int]:
    every = dict(eig_every) if isinstance(eig_every, Mapping) else dict.fromkeys(names, eig_every)
    if unknown := set(every) - set(PROCESSES):
        raise ValueError(f"eig_every has {sorted(unknown)}; its keys must be among {', '.join(PROCESSES)}")
    chosen = {}
    for name in names:
        least = 1 if issubclass(PROCESSES[name], Flow) else 0
        value = every.get(name, 0)
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"eig_every is {value!r} for {name}; it must be an integer of at least {least}")
        PROCESSES[name].check(opt)
        chosen[name] = int(value)
    return chosen
