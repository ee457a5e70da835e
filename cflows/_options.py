"""The arguments of `simulate`, checked, and the fingerprint by which a run is recognised."""

from __future__ import annotations

import json
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .data import digest
from .objective import Objective
from .optimizers import Optimizer
from .processes import PROCESSES
from .processes.base import Outputs
from .processes.stationary import Stationary
from .records import RECORDS, Record
from .torch_optim import Start

DIMENSIONS = ("eig", "coord", "output", "weight", "rank")


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
    taken: int = 0  # steps of an optimizer that goes on

    @property
    def first(self) -> int:
        """Number of the optimizer's step at step 0."""
        return self.taken + self.burn_in + 1

    @classmethod
    def of(
        cls,
        f: Any,
        opt: Any,
        steps: Any,
        processes: Any,
        eig_every: Any,
        coords: Any,
        replay_from: Any,
        records: Sequence[Record],
        **numbers: Any,
    ) -> Options:
        """Those of arguments of any kind.

        Raises
        ------
        ValueError, TypeError
            For what can't be run.
        """
        if not isinstance(f, Objective):
            raise TypeError(
                f"f is a {type(f).__name__}; wrap it as cflows.Objective(loss, w0) or Objective.from_module(...)"
            )
        if not isinstance(opt, Optimizer):
            raise TypeError(
                f"opt is a {type(opt).__name__}; use cflows.RMSProp, Adam or another of cflows.optimizers.OPTIMIZERS"
            )
        steps = _integer(steps, "steps", 1)
        shares: dict[str, Any] = {name: _share(numbers.pop(name), name) for name in ("eig_tol", "accuracy")}
        least = {"eigs": 1, "substeps": 1}
        integers: dict[str, Any] = {name: _integer(value, name, least.get(name, 0)) for name, value in numbers.items()}
        names = _processes(processes, opt, integers["branch_step"], steps)
        _check_records(records, names)
        return cls(
            steps=steps,
            processes=names,
            eig_every=_intervals(eig_every, names, opt),
            coords=_coords(coords, f.dim),
            replay_from=_replays(integers["replay_steps"], replay_from, steps),
            records=tuple(record.variable.name for record in records),
            **shares,
            **integers,
        )


@dataclass(frozen=True)
class Fingerprint:
    """By what a run is recognised besides its options."""

    optimizer: str
    weights: int
    dtype: str
    loss: float
    start: str
    outputs: str | None
    records: str

    @classmethod
    def of(
        cls,
        f: Objective,
        opt: Optimizer,
        start: Start,
        options: Options,
        outputs: Outputs | None,
        records: Sequence[Record] = (),
    ) -> Fingerprint:
        (loss, g), t = f.value_and_grad(f.w0), options.taken + 1
        p = opt.preconditioner(opt.update(start.nu, g), t).expand_as(g)
        begin = torch.stack([f.w0, g, p, opt.momentum(start.m, g, t)[1]]).cpu().numpy().tobytes()
        told = None if outputs is None else digest(values(outputs, f.w0))
        further = json.dumps([asdict(record.variable) | {"processes": record.processes} for record in records])
        signature = _signature(opt, range(t, options.first + options.steps + 1))
        return cls(signature, f.dim, str(f.w0.dtype), loss.item(), sha256(begin).hexdigest(), told, further)


def chosen(records: Sequence[Record | str] | str) -> list[Record]:
    """Records, those in the registry by their names."""
    records = [records] if isinstance(records, str) else records
    return [RECORDS[record] if isinstance(record, str) else record for record in records]


def _check_records(records: Sequence[Record], processes: Sequence[str]) -> None:
    """Refuse records whose values would be lost, or would take the place of others."""
    names = [record.variable.name for record in records]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two records are called {', '.join(twice)}; rename one")
    for record in records:
        variable, of = record.variable, record.processes or processes
        if unknown := sorted(set(of) - set(PROCESSES)):
            raise ValueError(f"the record {variable.name} is of {unknown}; processes are {', '.join(PROCESSES)}")
        if not variable.name or "/" in variable.name or variable.name in {"step", variable.dim, *DIMENSIONS}:
            raise ValueError(f"a record is called {variable.name!r}, as a dimension, or with a slash; rename it")
        if variable.dim == "step":
            raise ValueError(f'the record {variable.name} has the dimension "step", which all have; choose another')
        if taken := [name for name in of if variable.name in {known.name for known in PROCESSES[name].variables}]:
            raise ValueError(f"{', '.join(taken)} has a variable {variable.name} already; rename the record")


def read(tree: xr.DataTree) -> tuple[Options, Fingerprint]:
    """Options and fingerprint of a run."""
    there = json.loads(tree.attrs["options"])
    lists: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in there.items()}
    return Options(**lists), Fingerprint(**json.loads(tree.attrs["fingerprint"]))


def values(outputs: Outputs, w: Tensor) -> Tensor:
    """The outputs (m,) of a function of the weights that a user gave, at some weights."""
    if not callable(outputs):
        raise TypeError(f"outputs is {outputs!r}; it must be a function of the weights, Tensor (n,) -> Tensor (m,)")
    found = outputs(w.clone())  # may hold derivatives with respect to inputs
    if not isinstance(found, Tensor) or found.ndim != 1 or not len(found):
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(f"outputs returned {what}; it must return a tensor of shape (m,): flatten it")
    return found.detach()


def _signature(opt: Optimizer, steps: Sequence[int]) -> str:
    """What an optimizer is, a schedule by its values."""
    options = {name: value for name, value in vars(opt).items() if name != "lr"}
    lr = [opt.learning_rate(t) for t in steps] if callable(opt.lr) else opt.learning_rate(1)
    kind = type(opt)
    name = kind.__name__ if kind.__module__.startswith("cflows.") else f"{kind.__module__}.{kind.__qualname__}"
    try:
        return json.dumps({"name": name, "lr": lr, "threshold": opt.threshold} | options)
    except TypeError as error:
        raise TypeError(f"an option of {kind.__name__} is not a plain number or text ({error}); make it one") from error


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


def _replays(length: int, start: Sequence[int] | None, steps: int) -> tuple[int, ...]:
    if length > steps:
        raise ValueError(f"replay_steps is {length}; the run has no more than {steps} steps")
    if start is None:
        return (steps - length,) if length else ()
    chosen = tuple(sorted({_integer(i, "an entry of replay_from", 0) for i in start}))
    if late := [i for i in chosen if i + length > steps]:
        raise ValueError(f"replay_from has {late}; {length} steps from there are after the end, step {steps}")
    return chosen


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


def _intervals(eig_every: int | Mapping[str, int] | None, names: Sequence[str], opt: Optimizer) -> dict[str, int]:
    if eig_every is None:
        eig_every = {name: PROCESSES[name].default_eig_every for name in names}
    every = dict(eig_every) if isinstance(eig_every, Mapping) else dict.fromkeys(names, eig_every)
    if unknown := set(every) - set(PROCESSES):
        raise ValueError(f"eig_every has {sorted(unknown)}; its keys must be among {', '.join(PROCESSES)}")
    chosen = {}
    for name in names:
        value = every.get(name, 0)
        if not isinstance(value, (int, np.integer)) or value < 0:
            raise ValueError(f"eig_every is {value!r} for {name}; it must be an integer of at least 0")
        PROCESSES[name].check(opt)
        chosen[name] = int(value)
    return chosen
