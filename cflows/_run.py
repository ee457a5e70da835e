"""A run: the states of its processes, what has been recorded so far, and the checkpoint that it can go on from."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from . import ALGORITHM, __version__, _states, files, records
from ._options import Fingerprint, Options, read, values
from .errors import ConvergenceError, DivergenceError
from .objective import Objective
from .optimizers import Optimizer
from .processes import PROCESSES, Observation, Process, Settings
from .processes.base import Outputs
from .records import Record, Variable
from .torch_optim import Start

ROUNDING = 100.0  # a gradient below so many times machine precision, relative to the root mean square, may be rounding
DISTANCES = {
    "distance": "Euclidean distances between the weights of two processes",
    "distance/P": "their distances in the metric of P, that of the second: (δᵀPδ)^½",
}


class Run:
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

    def begin(self, start: Start, rounding: list[int]) -> None:
        """Let all processes start where the optimizer's burn-in ends."""
        self.rounding = rounding
        none = torch.as_tensor([], dtype=torch.int64, device=self.f.w0.device)
        optimizer = PROCESSES["discrete"](Settings(self.f, self.opt, 1, 1.0, none), 0)
        state = optimizer.start(start.w, start.nu, start.taken + 1, start.m)
        for i in range(self.options.burn_in):
            with named(f"burn-in at step {i}"):
                state = optimizer.step(optimizer.observe(state, i, {}))
        for name, process in self.processes.items():
            with named(f"{name} at step 0"):
                first = process.start(state.w, state.nu, state.t, getattr(state, "m", None))
                self.states[name] = _states.settle(first, process.state_type)

    def step(self) -> None:
        """Record the next step of every process, and move on."""
        i, o, seen = self.done, self.options, dict[str, Observation]()
        if i in o.replay_from:
            self.kept |= {f"state/{i}/{name}": _states.pack(s, caches=False) for name, s in self.states.items()}
        taking = o.snapshot_every and i % o.snapshot_every == 0
        for name, process in self.processes.items():
            with named(f"{name} at step {i}"):
                seen[name] = now = process.observe(self.states[name], i, seen)
                if taking and now.row:
                    seen[name] = now = process.with_sharpness(now)
                if self.outputs is not None and now.row:
                    now.row["outputs"] = values(self.outputs, now.state.w).tolist()
                for record in self.further if now.row else ():
                    if not record.processes or name in record.processes:
                        value = record.of(now)
                        if value is not None:
                            now.row[record.variable.name] = value
                records.check(name, now.row, self.variables(name), {"coord": len(o.coords)})
        rows = {name: now.row for name, now in seen.items()} | self._distances(seen)
        taken = {name: self.processes[name].snapshot(seen[name]) for name in self.snapshots} if taking else {}
        following, last = {}, i + 1 == o.steps
        for name, process in self.processes.items():
            with named(f"{name} after step {i}"):
                following[name] = seen[name].state if last else process.step(seen[name])
                following[name] = _states.settle(following[name], process.state_type)
        # all went well: from here on nothing can fail
        for name, row in rows.items():
            self.rows[name].append(row)
        for name, arrays in taken.items():
            self.snapshots[name][i] = {key: x.cpu() for key, x in arrays.items()}
        before, self.states, self.done = self.states, following, i + 1
        for name, process in self.processes.items():  # a warning may be an error
            _tell(process.label, seen[name].message, before[name], following[name])

    @property
    def status(self) -> str:
        """What a progress bar says: the loss, and what is last known of the central flow's largest eigenvalue."""
        name = next((x for x in ("central", "discrete") if x in self.rows), next(iter(self.processes)))
        said = [f"loss {self.rows[name][-1].get('loss', math.nan):.4g}"]
        known = next((row["eigenvalues"] for row in reversed(self.rows[name][-20:]) if row.get("eigenvalues")), None)
        if known:
            said.append(f"λ {known[0]:.3f}")
        return ", ".join(said)

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
            now = {f"now/{name}": _states.pack(state) for name, state in self.states.items()}
            tree = self.tree()
            tree.update(xr.DataTree.from_dict(now).children)
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
            (options, there), made = read(tree), (tree.attrs["algorithm"], tree.attrs["cflows"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the checkpoint {self.path} can't be read ({error}); delete it to start over") from error
        if made[0] != ALGORITHM:
            raise ValueError(
                f"the checkpoint {self.path} was written by cflows {made[1]}, algorithm {made[0]}, and this is "
                f"{__version__}, algorithm {ALGORITHM}; delete it to start over, or go on with that version"
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
            self.states[name] = _states.unpack(process.state_type, packed, self.f.w0.device)
        self.rounding = json.loads(tree.attrs["rounding"])
        if start is not None:
            self.first = self.done = start
            return
        for name, rows in self.rows.items():
            rows += records.rows(tree[name].to_dataset())
        for name in self.snapshots if "snapshots" in tree else ():
            taken = tree[f"snapshots/{name}"].to_dataset()
            for i in range(taken.sizes["step"]):
                arrays = {str(key): torch.tensor(x.values[i]) for key, x in taken.data_vars.items()}
                self.snapshots[name][int(taken["step"][i])] = arrays
        self.kept = {n.path[1:]: n.to_dataset() for n in tree.subtree if n.path.startswith("/state/") and n.has_data}
        self.done, self.seconds = len(self.rows["distance"]), tree.attrs["seconds"]

    def tree(self) -> xr.DataTree:
        """What there is so far."""
        o = self.options
        rows = [row for name in self.processes for row in self.rows[name]]
        widths = {"eig": o.eigs, "coord": len(o.coords)}
        widths["output"] = max([len(row.get("outputs", ())) for row in rows], default=0)
        nodes: dict[str, xr.Dataset] = {}
        for name in self.processes:
            nodes[name] = records.dataset(self.rows[name], self.variables(name), self.first, widths)
            nodes[name].attrs["threshold"] = self.opt.threshold
            if o.coords:
                nodes[name] = nodes[name].assign_coords(coord=list(o.coords))
            state = self.states.get(name)
            if doubt := "; it ends at ".join(filter(None, (getattr(state, "doubt", ""), getattr(state, "end", "")))):
                nodes[name].attrs["doubt"] = doubt
        nodes |= {f"snapshots/{name}": _stack(taken) for name, taken in self.snapshots.items() if taken}
        steps = {"step": self.first + np.arange(self.done - self.first)}
        for name, meaning in DISTANCES.items():
            pairs = dict.fromkeys(pair for row in self.rows[name] for pair in row)
            series = {pair: ("step", [row.get(pair, math.nan) for row in self.rows[name]]) for pair in pairs}
            nodes[name] = xr.Dataset(series, coords=steps, attrs={"long_name": meaning})
        tree = xr.DataTree.from_dict(nodes | self.kept)
        tree.attrs = {"options": json.dumps(asdict(o)), "fingerprint": json.dumps(asdict(self.fingerprint))}
        tree.attrs |= {"seconds": self.seconds + time.monotonic() - self.clock, "algorithm": ALGORITHM}
        tree.attrs |= {"cflows": __version__, "torch": str(torch.__version__), "rounding": json.dumps(self.rounding)}
        return tree

    def variables(self, name: str) -> list[Variable]:
        """What is recorded of a process."""
        further = [x.variable for x in self.further if not x.processes or name in x.processes]
        return [*self.processes[name].variables, *further]


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
def named(where: str) -> Iterator[None]:
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


def rounding_only(f: Objective) -> list[int]:
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
