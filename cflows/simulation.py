"""Run an optimizer and its flows side by side from one starting point."""

from __future__ import annotations

import io
import json
import math
import operator
import sys
import time
import warnings
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
from .data import digest
from .errors import ConvergenceError, DivergenceError
from .objective import Objective
from .optimizers import GradientDescent, Optimizer, RMSProp
from .processes import KINDS, MAX_STEPS, Central, Flow, Outputs, Process, Stationary

#: What a process records at every step: its dimension besides step, and what it is.
VARIABLES = {
    "loss": ("", "loss L at the process's weights"),
    "grad_norm_sq": ("", "squared norm of the gradient"),
    "nu_sum": ("", "sum of ν over the weights"),
    "p_sum": ("", "trace of the preconditioner P; n / tr P is the harmonic mean of the effective step sizes"),
    "eigenvalues": ("eig", "largest eigenvalues of P⁻¹H, descending"),
    "sharpness": ("", "largest eigenvalue of H itself, at steps at which snapshots are taken"),
    "eig_residual": ("", "largest residual of the eigenvalues, in their units"),
    "grad_sq": ("coord", "squared gradient at some weights"),
    "nu": ("coord", "ν at some weights"),
    "outputs": ("output", "functions of the weights that were asked for"),
    # what the central flow predicts of the optimizer's average
    "predicted_loss": ("", "mean loss: L + tr X (L itself where there is no prediction)"),
    "predicted_grad_norm_sq": ("", "mean squared norm of the gradient: ‖∇L‖² + Σᵢ 4pᵢ²Σᵢᵢ"),
    "predicted_grad_sq": ("coord", "mean squared gradient at some weights: g² + 4p² ⊙ diag Σ"),
    "predicted_outputs": ("output", "mean outputs: f + ½⟨∇²f, Σ⟩"),
    "output_deviations": ("output", "standard deviations of the outputs: (∇fᵀ Σ ∇f)^½"),
    "variances": ("eig", "eigenvalues of X, descending: variances along the P-orthonormal eigenvectors of Σ"),
    "displacements": ("eig", "vᵀP(w_t - w(t)) of the optimizer along these eigenvectors v"),
    "rise": ("", "rate at which the eigenvalues would rise if nothing oscillated: -⟨X, α⟩ / tr X"),
    "trusted": (
        "",
        "1 while what the flow predicts is to be trusted, 0 where an eigenvalue is, or has been, far above 2",
    ),
    "curvature_reduction": ("", "rate at which curvature regularisation lowers them: ⟨X, B₁[X]⟩ / tr X"),
    "nu_growth": ("", "rate at which the growth of ν lowers them: ⟨X, B₂[X]⟩ / tr X"),
    # how the stationary flow found P̄, at the steps at which it looked for it
    "gap": ("", "relative duality gap of the stationary preconditioner"),
    "products": ("", "Hessian-vector products that it took"),
    "extrapolation": ("", "relative error of the velocity extrapolated from the two solutions before"),
}
OWN = {  # variables that only some kinds of process have
    Central: {"predicted_grad_norm_sq", "predicted_grad_sq", "predicted_outputs", "output_deviations",
              "displacements", "rise", "curvature_reduction", "nu_growth", "trusted"},
    Stationary: {"gap", "products", "extrapolation"},
}  # fmt: skip
ROUNDING = 100.0  # a gradient below so many times machine precision, relative to the root mean square, may be rounding
DISTANCES = {
    "distance": "Euclidean distances between the weights of two processes",
    "distance/P": "their distances in the metric of P, that of the second: (δᵀPδ)^½",
}
SNAPSHOTS = {"discrete", "central"}  # processes of which snapshots are taken


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
    outputs: Outputs | None = None,
    branch: int = 0,
    accuracy: float = 0.01,
    snapshot_every: int = 0,
    window: int = 0,
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
    opt : RMSProp, ScalarRMSProp or GradientDescent
        The optimizer.
    steps : int
        Steps to record.
    processes : sequence of str
        "discrete": the optimizer. "midpoint": (w₋ + 2w + w₊) / 4 of three of its steps, which removes oscillations of
        period two (brings "discrete" with it). "stable": the stable flow, stopped where its effective sharpness
        reaches 8, since it is stiff by then. "central": the central flow. "ablated": the central flow without its
        curvature penalty. "stationary": the stationary flow of RMSProp, from step ``branch`` on; eps is neglected in
        it, and its ν is ν̄. "ablated_stationary": without its curvature penalty.
    warmup : int
        Plain optimizer steps taken before the processes part ways.
    eigs : int
        Eigenvalues of the effective Hessian to look at. Flows follow more of them while all are above 1.5. Weights that
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
    branch : int
        Step at which the stationary flows leave the central flow, which must be among the processes (0: they start as
        the others do). They ask for a ν that has all but converged.
    accuracy : float
        Relative error that flows aim at between two steps at which they look at what they steer by, and then go by how
        it was seen to change. For the central flow that is eigenvectors and third derivatives, and the error that of
        the rate at which eigenvalues move, or the sine of the angle between an eigenvector and what it was expected to
        turn to; for the
        stationary flows it is P̄, and the error that of their velocity (their ``extrapolation``). It decides when the
        next look is, not whether the last was in time: eigenvalues may leave 2 by some thousandths in between, and by
        more where they change fast.
    snapshot_every : int
        Steps between two snapshots of all of w, ν and g² of the optimizer and the central flow; 0: none. A snapshot
        takes six vectors (n,) and one for each critical eigenvalue, in memory and in the checkpoint: with 24,860
        weights in float32 and three eigenvalues, 0.9 MB. All else takes less than 2 kB a step in the result.
    window : int
        Number of last steps that `replay` shall be able to compute again: the result holds the state they start from.
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
        ``long_name`` says (`VARIABLES` has them all); what was not computed is NaN. All processes have ``loss``,
        ``predicted_loss``, ``grad_norm_sq``, ``nu_sum``, ``p_sum``, ``eigenvalues``, ``eig_residual``, ``variances``,
        and ``grad_sq``, ``nu`` and ``outputs`` if asked for. "central" also has its other predictions, the optimizer's
        ``displacements`` along the eigenvectors of Σ, and ``rise``, ``curvature_reduction`` and ``nu_growth``.
        Node "distance": Euclidean distances between the weights of processes, named as "central-discrete"; node
        "distance/P": the same in the metric of P, that of the second. Weights whose gradient is nothing but rounding (a
        warning names them) are left out of both. A flow that could not go on, or is not to be trusted, says from which
        step on and why in the attribute ``doubt`` of its node; "central" has ``trusted`` for each step.
        Node "snapshots", with nodes "discrete" and "central": ``weights``, ``nu``, ``grad_sq`` (step, weight), and
        ``factor`` F (step, weight, rank) with Σ = FFᵀ, at the steps at which they were taken.
        Node "state", if there is a window: the state at its start, as bytes.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range; also if a weight's gradient is exactly zero and eps is 0.
    DivergenceError
        If a loss, gradient or product is not finite; ``solution`` holds the tree up to there.
    ConvergenceError
        If an eigenvalue or complementarity problem is not solved; as above.
    """
    integers = {
        "steps": steps, "warmup": warmup, "eigs": eigs, "substeps": substeps, "branch": branch,
        "snapshot_every": snapshot_every, "window": window,
    }  # fmt: skip
    integers, chosen, coords = _check(f, opt, integers, processes, coords)
    steps, warmup, eigs, substeps, branch, snapshot_every, window = integers.values()
    eig_tol, accuracy = _share(eig_tol, "eig_tol"), _share(accuracy, "accuracy")
    every = _intervals(eig_every, chosen)
    path = None if checkpoint is None else files.writable(checkpoint)
    loss, g = f.value_and_grad(f.w0)
    if window > steps:
        raise ValueError(f"window is {window}; the run has no more than {steps} steps")
    told = None if outputs is None else digest(_outputs(outputs, f.w0))
    identity = integers | {
        "optimizer": _signature(opt, warmup + steps + 1), "processes": chosen, "eig_every": every, "eig_tol": eig_tol,
        "accuracy": accuracy, "coords": coords, "outputs": told, "weights": f.dim,
        "dtype": str(f.w0.dtype),
        "loss": loss.item(), "start": sha256(torch.stack([f.w0, g]).cpu().numpy().tobytes()).hexdigest(),
    }  # fmt: skip
    run = _Run(_walkers(f, opt, identity, outputs), identity, path)
    if not run.resume(f):
        run.rounding = _rounding_only(f, g)
        w, nu = _warm_up(f, opt, warmup)
        for name, walker in run.walkers.items():
            with _named(f"{name} at step 0"):
                walker.begin(w, nu, warmup + 1)

    bar = {"disable": not progress, "unit": "step", "mininterval": 0.5 if sys.stderr.isatty() else 30.0}
    try:
        for i in tqdm(range(run.done, steps), initial=run.done, total=steps, **bar):
            run.remember()
            if run.unsaved > checkpoint_every:
                run.save_or_warn()
            run.step(i, outputs)
    except BaseException as error:
        run.save_or_warn()
        if isinstance(error, ConvergenceError):
            error.solution = run.tree()
        raise
    run.remember()
    run.save_or_warn()
    return run.tree()


def replay(f: Objective, opt: Optimizer, tree: xr.DataTree, outputs: Outputs | None = None) -> xr.DataTree:
    """Compute the last steps of a run again, from the state that it holds.

    Eigenvectors are looked for anew, and how they turn is not known before the second look: the first steps of a
    central flow at the edge are less accurate, the others agree to within the tolerances of the run.

    Parameters
    ----------
    f, opt
        As given to `simulate`.
    tree : xarray.DataTree
        Result of `simulate` with ``window`` above 0.
    outputs
        As given to `simulate`.

    Returns
    -------
    xarray.DataTree
        The last ``window`` steps, as of `simulate`.

    Raises
    ------
    ValueError
        If the run holds no state, or is one of another optimizer or objective.
    """
    if "state" not in tree:
        raise ValueError("the run holds no state to go on from; give simulate a window")
    identity = json.loads(tree.attrs["simulation"])
    here = {"optimizer": _signature(opt, identity["warmup"] + identity["steps"] + 1), "weights": f.dim}
    here["dtype"] = str(f.w0.dtype)
    if differ := [name for name, value in here.items() if identity[name] != value]:
        raise ValueError(f"{differ[0]} of the run is {identity[differ[0]]}, here it is {here[differ[0]]}")
    loss = float(f.value_and_grad(f.w0)[0])
    if not math.isclose(loss, identity["loss"], rel_tol=1e-3):
        raise ValueError(f"the loss at the start of the run is {identity['loss']:g}, here it is {loss:g}")
    run = _Run(_walkers(f, opt, identity, outputs), identity, None)
    content = io.BytesIO(tree["state"].to_dataset()["bytes"].values.tobytes())
    for name, state in torch.load(content, map_location=f.w0.device, weights_only=True).items():
        run.walkers[name].load(state)
    run.first = identity["steps"] - identity["window"]
    for i in range(run.first, identity["steps"]):
        run.step(i, outputs)
    return run.tree()


def _walkers(f: Objective, opt: Optimizer, identity: dict, outputs: Outputs | None) -> dict[str, Process]:
    options: dict[str, Any] = {"eigs": min(identity["eigs"], f.dim), "eig_tol": identity["eig_tol"]}
    options["coords"] = torch.as_tensor(identity["coords"], dtype=torch.int64, device=f.w0.device)
    walkers: dict[str, Process] = {}
    for name in identity["processes"]:
        more: dict[str, Any] = {"eig_every": identity["eig_every"][name]}
        if issubclass(KINDS[name], Central):
            more |= {key: identity[key] for key in ("substeps", "accuracy")} | {"outputs": outputs}
        elif issubclass(KINDS[name], Stationary):
            more |= {key: identity[key] for key in ("branch", "accuracy")}
            more["source"] = walkers["central"] if identity["branch"] else None
        first: tuple = (walkers["discrete"],) if name == "midpoint" else (f, opt)
        walkers[name] = KINDS[name](*first, **options, **more)
    return walkers


class _Run:
    """What has been recorded so far, and the checkpoint that it can go on from."""

    first = 0  # step that the records begin with
    window: Tensor | None = None  # state that the last steps start from, as bytes
    rounding: tuple[int, ...] = ()  # weights whose gradient is nothing but rounding

    def __init__(self, walkers: dict[str, Process], identity: dict, path: Path | None):
        self.walkers, self.identity, self.path = walkers, identity, path
        self.records: dict[str, list[dict]] = {name: [] for name in [*walkers, *DISTANCES]}
        self.snapshots: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in walkers if name in SNAPSHOTS}
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

    def step(self, i: int, outputs: Outputs | None) -> None:
        """Record step i of every process, and move on."""
        walkers, every = self.walkers, self.identity["snapshot_every"]
        if i == self.identity["steps"] - self.identity["window"]:
            self.window = _lean(walkers)
        rows = {}
        for name, walker in walkers.items():
            with _named(f"{name} at step {i}"):
                rows[name] = walker.observe(i)
                if outputs is not None and rows[name]:
                    rows[name]["outputs"] = _outputs(outputs, walker.w).tolist()
                if every and i % every == 0 and rows[name]:
                    rows[name]["sharpness"] = walker.curvature()
        if {"discrete", "central"} <= walkers.keys():
            central: Any = walkers["central"]
            rows["central"]["displacements"] = central.displacements(walkers["discrete"].w)
        if every and i % every == 0:
            for name in SNAPSHOTS & walkers.keys():
                self.snapshots[name][i] = walkers[name].snapshot()
        pairs = {f"{a}-{b}": (walkers[a], walkers[b]) for a, b in combinations(reversed(list(walkers)), 2)}
        apart = {name: a.w - b.w for name, (a, b) in pairs.items()}
        for way in apart.values():
            way[list(self.rounding)] = 0.0
        rows["distance"] = {name: torch.linalg.vector_norm(way).item() for name, way in apart.items()}
        rows["distance/P"] = {name: _length(way, pairs[name][1]) for name, way in apart.items()}
        for name, row in rows.items():
            self.records[name].append(row)
        if i + 1 < self.identity["steps"]:
            for name, walker in walkers.items():
                with _named(f"{name} after step {i}"):
                    walker.advance()

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
        content["window"], content["rounding"] = self.window, self.rounding
        content["snapshots"] = {
            name: {i: taken[i] for i in taken if i < self.states_at} for name, taken in self.snapshots.items()
        }
        files.write(self.path, lambda path: torch.save(content, path))
        self.saved = time.monotonic()

    def save_or_warn(self) -> None:
        """Save; failing to must not cost the run its result, nor hide why it ended."""
        try:
            self.save()
        except Exception as error:
            self.saved = time.monotonic()  # tried again when the next is due
            warnings.warn(
                f"the checkpoint {self.path} could not be written ({error}); is the disk full? The run goes on without",
                stacklevel=3,
            )

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
        self.records, self.seconds, self.window = records, content["seconds"], content["window"]
        self.rounding = content["rounding"]
        self.snapshots = {
            name: {i: {key: x.cpu() for key, x in snapshot.items()} for i, snapshot in taken.items()}
            for name, taken in content["snapshots"].items()
        }
        for name, walker in self.walkers.items():
            walker.load(states[name])
        return True

    def tree(self) -> xr.DataTree:
        done, eigs, coords = self.done, self.identity["eigs"], self.identity["coords"]
        outputs = max(len(row.get("outputs", ())) for rows in self.records.values() for row in (rows or [{}]))
        nodes = {
            name: _dataset(name, self.first, rows[:done], {"eig": eigs, "coord": len(coords), "output": outputs})
            for name, rows in self.records.items()
            if name in KINDS
        }
        if coords:
            nodes = {name: node.assign_coords(coord=coords) for name, node in nodes.items()}
        nodes |= {f"snapshots/{name}": _stack(taken) for name, taken in self.snapshots.items() if taken}
        for name, walker in self.walkers.items():
            if doubt := getattr(walker, "doubt", ""):
                nodes[name].attrs["doubt"] = doubt
        for node, meaning in DISTANCES.items():
            rows = self.records[node][:done]
            nodes[node] = xr.Dataset(
                {name: ("step", [row[name] for row in rows]) for name in (rows[0] if rows else ())},
                coords={"step": self.first + np.arange(done)},
                attrs={"long_name": meaning},
            )
        if self.window is not None:
            nodes["state"] = xr.Dataset({"bytes": ("byte", self.window.cpu().numpy())})
        seconds = self.seconds + time.monotonic() - self.clock
        tree = xr.DataTree.from_dict(nodes)
        tree.attrs = {"simulation": json.dumps(self.identity), "seconds": seconds, "torch": str(torch.__version__)}
        return tree


def _lean(walkers: dict[str, Process]) -> Tensor:
    """States of processes, as bytes, without what they remember only to save time."""

    def plain(x: Any) -> Any:
        return (
            x.detach().cpu().clone() if isinstance(x, Tensor) else tuple(map(plain, x)) if isinstance(x, tuple) else x
        )

    content = io.BytesIO()
    kept = {name: {k: plain(v) for k, v in p.state().items() if k not in p.caches} for name, p in walkers.items()}
    torch.save(kept, content)
    return torch.tensor(np.frombuffer(content.getvalue(), np.uint8), device="cpu")


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
    """Weights and ν after some steps of the optimizer."""
    none = torch.as_tensor([], dtype=torch.int64, device=f.w0.device)
    walker = KINDS["discrete"](f, opt, eigs=1, eig_every=0, eig_tol=1, coords=none)
    walker.begin(f.w0, opt.init(f.w0), 1)
    for i in range(steps):
        with _named(f"warm-up at step {i}"):
            walker.observe(i)
            walker.advance()
    return walker.w, walker.nu


def _dataset(process: str, first: int, rows: list[dict], widths: dict[str, int]) -> xr.Dataset:
    """Rows of numbers and lists as arrays of at least these widths, NaN where a row has none."""
    data: dict[str, Any] = {}
    lists = [row[name] for row in rows for name in ("eigenvalues", "variances") if name in row]
    widths = widths | {"eig": max([widths["eig"], *map(len, lists)])}
    for name, (dim, meaning) in VARIABLES.items():
        if (dim and not widths[dim]) or any(
            name in own and not issubclass(KINDS[process], kind) for kind, own in OWN.items()
        ):
            continue
        fill = 0.0 if name == "variances" else np.nan  # of a list that is too short
        values = np.full((len(rows), *([widths[dim]] if dim else [])), np.nan)
        for i, row in enumerate(rows):
            if name in row:
                values[i] = [*row[name], *[fill] * (widths[dim] - len(row[name]))] if dim else row[name]
        data[name] = (("step", dim) if dim else "step", values, {"long_name": meaning})
    return xr.Dataset(data, coords={"step": first + np.arange(len(rows))})


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


def _length(way: Tensor, walker: Process) -> float:
    """Length of a difference of weights in the metric of a process's P."""
    return float((walker.p() * way.square()).sum().sqrt()) if way.isfinite().all() else math.nan


def _rounding_only(f: Objective, g: Tensor) -> tuple[int, ...]:
    """Weights whose gradient is nothing but rounding, here and nearby; says which."""
    binding = f.binding
    gradients = [g, *(f.value_and_grad(f.nearby(f.w0, 0.1, seed))[1] for seed in (1, 2))]
    if not all(x.isfinite().all() for x in gradients):
        return ()
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
            stacklevel=3,
        )
    return tuple(found)


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


def _intervals(eig_every: int | Mapping[str, int], chosen: list[str]) -> dict[str, int]:
    every = dict(eig_every) if isinstance(eig_every, Mapping) else dict.fromkeys(chosen, eig_every)
    if unknown := set(every) - set(KINDS):
        raise ValueError(f"eig_every has {sorted(unknown)}; its keys must be among {', '.join(KINDS)}")
    every = {name: every.get(name, 0) for name in chosen}
    for name, value in every.items():
        least = 1 if issubclass(KINDS[name], Flow) else 0
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"eig_every is {value!r} for {name}; it must be an integer of at least {least}")
    return {name: int(value) for name, value in every.items()}


def _check(
    f: Any, opt: Any, integers: dict[str, Any], processes: Any, coords: Any
) -> tuple[dict[str, int], list[str], list[int]]:
    """Complain about what can't be run; everything as plain integers, processes in the order in which they act."""
    if not isinstance(f, Objective):
        raise TypeError(
            f"f is a {type(f).__name__}; wrap it as cflows.Objective(loss, w0) or Objective.from_module(...)"
        )
    if not isinstance(opt, (RMSProp, GradientDescent)):
        raise TypeError(f"opt is a {type(opt).__name__}; use cflows.RMSProp, ScalarRMSProp or GradientDescent")

    def integer(value: Any, name: str, least: int) -> int:
        try:
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} is {value!r}; it must be an integer") from None
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
        return value

    least = {"steps": 1, "warmup": 0, "eigs": 1, "substeps": 1, "branch": 0, "snapshot_every": 0, "window": 0}
    integers = {name: integer(value, name, least[name]) for name, value in integers.items()}
    names = [processes] if isinstance(processes, str) else list(processes)
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names:
        raise ValueError(f"processes is {processes!r}; choose some of {', '.join(KINDS)}")
    coords = [integer(c, "an entry of coords", 0) for c in coords]
    if outside := [c for c in coords if c >= f.dim]:
        raise ValueError(f"coords has {outside}; with {f.dim} weights they must be from 0 to {f.dim - 1}")
    # the rate complains if the optimizer has no flow
    if any(issubclass(KINDS[name], Flow) for name in names) and opt.rate > MAX_STEPS:
        raise ValueError(
            f"beta2 is {getattr(opt, 'beta2', None)}: ν follows the gradient all but at once, which takes a flow "
            f"{opt.rate:.0f} steps a unit of time; use beta2 above {1 / (1 + MAX_STEPS):.1g}"
        )
    if "ablated" in names and isinstance(opt, GradientDescent):
        raise ValueError("gradient descent has no ablated flow: only its curvature penalty holds eigenvalues at 2")
    if any(issubclass(KINDS[name], Stationary) for name in names):
        if type(opt) is not RMSProp:
            raise ValueError(f"opt is {type(opt).__name__}; the stationary flows are those of RMSProp")
        if integers["branch"] >= integers["steps"]:
            warnings.warn(
                f"the stationary flows begin at step branch, {integers['branch']}, and there are {integers['steps']} "
                "steps: they are empty",
                stacklevel=3,
            )
        if integers["branch"] and "central" not in names:
            raise ValueError('the stationary flows leave the central flow at step branch; add "central" to processes')
    if "midpoint" in names:
        names.append("discrete")
    return integers, [name for name in KINDS if name in names], coords
