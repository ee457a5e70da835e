"""Run an optimizer and its flows side by side from one starting point."""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from tqdm import tqdm

from . import files
from ._deprecation import renamed
from ._options import Fingerprint, Options, chosen, read
from ._run import Run, rounding_only
from .errors import ConvergenceError
from .objective import Objective
from .optimizers import Optimizer
from .processes.base import Outputs
from .records import Record
from .regime import settling_time
from .torch_optim import Start


@renamed(warmup="burn_in", branch="branch_step", window="replay_steps")
def simulate(
    f: Objective,
    opt: Optimizer,
    steps: int,
    processes: Sequence[str] = ("discrete", "stable", "central"),
    burn_in: int | Literal["auto"] = 0,
    *,
    start: Start | None = None,
    eigs: int = 4,
    eig_every: int | Mapping[str, int] | None = None,
    eig_tol: float = 1e-2,
    substeps: int = 1,
    coords: Sequence[int] = (),
    outputs: Outputs | None = None,
    records: Sequence[Record | str] = (),
    branch_step: int = 0,
    accuracy: float = 0.002,
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
        RMSProp, ScalarRMSProp, GradientDescent, Adam, AdamW, NAdam, HeavyBall, Nesterov, or one of your own.
    steps : int
        Steps to record.
    processes : sequence of str
        "discrete": the optimizer. "midpoint": (w₋ + 2w + w₊) / 4 of three of its steps, which removes oscillations of
        period two (brings "discrete" with it). "stable": the stable flow, stopped where its effective sharpness
        reaches 8, since it is stiff by then. "central": the central flow. "ablated": the central flow without its
        curvature penalty. "stationary": the stationary flow of RMSProp, from step ``branch_step`` on; eps is
        neglected in it, and its ν is ν̄. "ablated_stationary": without its curvature penalty. Others can be registered
        in ``processes.PROCESSES``.
    burn_in : int or "auto"
        Plain optimizer steps taken before the processes part ways; "auto": until the optimizer is not beyond its edge
        (`regime.settling_time`).
    start : Start, optional
        Where the optimizer has come to, as of `from_torch`: it goes on from these weights instead of ``f.w0``, and from
        its averages.
    eigs : int
        How many of the largest eigenvalues of the effective Hessian to compute. The central flow follows more of them
        while all are above 1.8. Weights that have never had a gradient (ν = 0) are at rest; H is that of the others.
    eig_every : int, or mapping from process to int, optional
        Steps between two computations of eigenvalues; 0: only where a process needs them itself, as flows do. A mapping
        means 0 for the processes that it leaves out. The default is 10 for the optimizer, its midpoints and stationary
        flows, and 0 for the others. A flow itself computes its largest eigenvalues when the top one may have grown, and
        at least every ten units of time. Once that is above 1.5, the central flow does so as often as ``accuracy``
        demands, and at least every ten.
    eig_tol : float
        Their residuals, relative to the largest (`top_eigenpairs`), at most. The central flow's are no more than 2.5
        times ``accuracy``, three times that for those below 1.8, and 0.1 as long as it is beyond the edge. An
        eigenvalue's own error is of the order of the square.
    substeps : int
        Steps of the central flow in a unit of time, at least, and with momentum of all flows. More are taken where the
        flow bends, an eigenvalue λ is large (⌈λ/2.5⌉), or one has left 2 by more than 0.01 within a unit of time. Where
        one is above 2 from the start, the oscillation is made such as to lower it by at least 0.2 a unit of time until
        it is 2. As long as one has never been below 2.1, the flow is simplified: the eight largest eigenvalues are
        lowered, each by itself. The flow ends where nothing would lower one (a quadratic loss under gradient descent),
        or at λ = 1000.
    coords : sequence of int
        Weights whose squared gradient and ν are recorded at every step.
    outputs : callable, Tensor (n,) -> Tensor (m,), optional
        Functions of the weights to record at every step, such as a network's outputs for a few images:
        ``lambda w: f.outputs(w, images).flatten()``. Smooth, if the central flow is among the processes.
    records : sequence of Record or str
        Further quantities to record, those in ``records.RECORDS`` by their names.
    branch_step : int
        Step at which the stationary flows leave the central flow, which must be among the processes (0: they start as
        the others do). Start them where ν has nearly converged to ν̄.
    accuracy : float
        Relative error that flows aim at: error of the weights after 100 units of time, as a share of the way that they
        have gone. It is no bound: networks differ, and ``make bench BENCH=default`` measures it.
        Between two refreshes the central flow extrapolates eigenvectors and third derivatives; of the mixed ones it
        finds only some anew at each refresh, in turn. It refreshes so often that eigenvectors turn away from their
        extrapolation by no more than 25 times the accuracy (the sine of the angle), and that the rate at which
        eigenvalues move is no further off. The stationary flows extrapolate P̄, so often that their velocity is off by
        no more than 5 times the accuracy (their ``extrapolation``). A refresh that came too late is not redone, the
        error only sets the next interval: at the default eigenvalues may leave 2 by up to 0.02 in between, and by more
        where they change fast. Above 0.02 the central flow does not become coarser.
    snapshot_every : int
        Steps between two snapshots of all of w, ν and g² of the optimizer and the central flow; 0: none. A snapshot
        takes six vectors (n,) and one for each critical eigenvalue, in memory and in the checkpoint: with 19,660
        weights in float32 and three eigenvalues, 0.7 MB. All else takes less than 2 kB a step in the result.
    replay_steps : int
        Number of steps that `replay` shall be able to compute again, from each of some states that the result holds.
    replay_from : sequence of int, optional
        Steps of these states (default: ``replay_steps`` before the end).
    checkpoint : path, optional
        File that holds the state of the run; if it is there, the run goes on from it. Written from time to time, at the
        end, and whenever an error or an interruption ends the run early. If its folder can't be written, that is an
        error before anything is computed; if a disk fills up later, a warning.
    checkpoint_every : float
        Seconds between two times at which it is written.
    progress : bool
        Show a progress bar (at most a line every half minute where there is no terminal).

    Returns
    -------
    xarray.DataTree
        A node a process, with dimensions step, eig, coord and output. What each variable is, its attribute
        ``long_name`` says; what was not computed is NaN. All processes have ``loss``,
        ``predicted_loss``, ``grad_norm_sq``, ``nu_sum``, ``p_sum``, ``eigenvalues``, ``eig_residual``, ``variances``,
        ``sharpness`` (at snapshots), and ``grad_sq``, ``nu`` and ``outputs`` if asked for. "central" also has its other
        predictions, the optimizer's ``displacements`` along the eigenvectors of Σ, and ``rise``,
        ``curvature_reduction`` and ``nu_growth``. Limits of eigenvalues, such as 1.5, 1.8 and 8 above, are stated
        for the threshold θ = 2; for another one they are in proportion.
        Node "distance": Euclidean distances between the weights of processes, named as "central-discrete"; node
        "distance/P": the same in the metric of P, that of the second. Weights whose gradient is nothing but rounding (a
        warning names them) are left out of both. A flow that could not go on, or is not to be trusted, says from which
        step on and why in the attribute ``doubt`` of its node; "central" has ``trusted`` for each step.
        Node "snapshots", with nodes "discrete" and "central": ``weights``, ``nu``, ``grad_sq`` (step, weight), and
        ``factor`` F (step, weight, rank) with Σ = FFᵀ, at the steps at which they were taken.
        Nodes "state/400", ...: the states of the steps ``replay_from``, each a node a process.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range; also if a weight's gradient is exactly zero and eps is 0.
    DivergenceError
        If a loss, gradient or product is not finite; ``solution`` holds the tree up to there.
    ConvergenceError
        If an eigenvalue or complementarity problem is not solved; as above.
    """
    if not (start is None or isinstance(start, Start)):
        raise TypeError(
            f"start is a {type(start).__name__}; it must be what cflows.from_torch returns, or a cflows.Start"
        )
    if isinstance(burn_in, str):
        burn_in = _burn_in(f, opt, burn_in, start, checkpoint, progress)
    further = chosen(records)
    options = Options.of(
        f, opt, steps, processes, eig_every, coords, replay_from, further,
        burn_in=burn_in, eigs=eigs, eig_tol=eig_tol, substeps=substeps, branch_step=branch_step, accuracy=accuracy,
        snapshot_every=snapshot_every, replay_steps=replay_steps, taken=start.taken if start else 0,
    )  # fmt: skip
    path = None if checkpoint is None else files.writable(checkpoint)
    begin = (start or Start(f.w0)).fitted(opt, f.w0)
    if start is not None:
        f = copy.copy(f)
        f.w0 = begin.w
    fingerprint = Fingerprint.of(f, opt, begin, options, outputs, further)
    run = Run(f, opt, options, fingerprint, outputs, further, path)
    if not run.resume():
        run.begin(begin, rounding_only(f))

    shown = {"disable": not progress, "unit": "step", "mininterval": 0.5 if sys.stderr.isatty() else 30.0}
    try:
        bar = tqdm(range(run.done, options.steps), initial=run.done, total=options.steps, **shown)
        for _ in bar:
            if time.monotonic() - run.saved > checkpoint_every:
                run.save_or_warn()
            run.step()
            bar.set_postfix_str(run.status, refresh=False)
    except BaseException as error:
        run.save_or_warn()
        if isinstance(error, ConvergenceError):
            error.solution = run.tree()
        raise
    run.save_or_warn()
    return run.tree()


def _burn_in(
    f: Objective, opt: Optimizer, asked: str, start: Start | None, checkpoint: str | Path | None, progress: bool
) -> int:
    """The burn-in of the run in the checkpoint, or as long as it takes."""
    if asked != "auto":
        raise ValueError(f'burn_in is {asked!r}; it must be a number of steps, or "auto"')
    if not (isinstance(f, Objective) and isinstance(opt, Optimizer)):
        return 0  # refused with the other options
    if checkpoint is not None and Path(checkpoint).exists():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # what is wrong with it is said later
            return read(files.load(checkpoint))[0].burn_in
    return settling_time(f, opt, progress=progress, start=start)


def replay(
    f: Objective,
    opt: Optimizer,
    tree: xr.DataTree,
    outputs: Outputs | None = None,
    records: Sequence[Record | str] = (),
    start: int | None = None,
    steps: int | None = None,
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
    steps : int, optional
        How many, at most ``replay_steps`` (default).

    Returns
    -------
    xarray.DataTree
        These steps, as of `simulate`.

    Raises
    ------
    ValueError
        If the run holds no such state, or is one of another optimizer or objective: losses at the start (unless it was
        that of another run) are compared within a thousandth, those at the state within a hundredth.
    """
    if "state" not in tree:
        raise ValueError("the run holds no state to go on from; give simulate replay_steps")
    options, there = read(tree)
    here = Fingerprint.of(f, opt, Start(f.w0).fitted(opt, f.w0), options, None)
    for name in ("optimizer", "weights", "dtype"):
        if getattr(here, name) != getattr(there, name):
            raise ValueError(f"{name} of the run is {getattr(there, name)}, here it is {getattr(here, name)}")
    if not options.taken and not math.isclose(here.loss, there.loss, rel_tol=1e-3):
        raise ValueError(f"the loss at the start of the run is {there.loss:g}, here it is {here.loss:g}")
    first = options.replay_from[-1] if start is None else start
    if not isinstance(first, (int, np.integer)):
        raise TypeError(f"start is {start!r}; it must be a step, an integer")
    if str(first) not in tree["state"]:
        raise ValueError(f"the run holds no state of step {first}; it holds those of {list(options.replay_from)}")
    run = Run(f, opt, options, there, outputs, chosen(records), None)
    run.load(tree, int(first))
    for name, state in run.states.items():
        loss = float(tree[name]["loss"].sel(step=first))
        found = float(f.value_and_grad(state.w)[0]) if state.w.isfinite().all() else math.nan
        if math.isfinite(loss) and math.isfinite(found) and not math.isclose(found, loss, rel_tol=1e-2):
            raise ValueError(f"the loss of {name} at step {first} of the run is {loss:g}, here it is {found:g}")
    for _ in range(options.replay_steps if steps is None else min(steps, options.replay_steps)):
        run.step()
    return run.tree()
