"""How well a flow describes a run: in a row of numbers, those that any run with a central flow has, and in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr

from . import metrics

HELD = 0.02  # an eigenvalue that is nearer to the threshold, relatively, counts as held there
LEAST = 100  # steps that an eigenvector of Σ has to be there for, for its variance to count


def _of(process: str, metric: Callable[[xr.DataTree], float]) -> Callable[[xr.DataTree], float]:
    return lambda run: metric(run.children[process])


def _distance(run: xr.DataTree) -> float:
    ratio = metrics.distance_ratio(run)
    return float(ratio[-1]) if ratio.size else math.nan


def _variance(flow: xr.DataTree) -> float:
    errors = metrics.variance_error(flow, LEAST)
    return max(errors[np.isfinite(errors)], default=math.nan)


def _trusted(flow: xr.DataTree) -> float:
    return float(flow.to_dataset()["trusted"].mean())


def _jump(optimizer: xr.DataTree) -> float:
    nu = optimizer.to_dataset()["nu_sum"].values.astype(float)
    nu = nu[nu > 0]  # gradient descent has none, and a run that diverges none that is a number at its end
    return float(np.max(nu[1:] / nu[:-1])) if len(nu) > 1 else math.nan


def _penalty(flow: xr.DataTree) -> float:
    share = metrics.curvature_share(flow)[-50:]
    return float(np.nanmean(share)) if np.isfinite(share).any() else math.nan


#: From the name of a number to what it is, and to how it comes from a run.
STATISTICS: dict[str, tuple[str, Callable[[xr.DataTree], float]]] = {
    "edge": ("step at which the central flow comes to the edge", _of("central", metrics.edge)),
    "trusted": ("share of its steps in which the flow trusts itself", _of("central", _trusted)),
    "locked": (
        "largest relative deviation of its locked eigenvalues from the threshold",
        _of("central", metrics.locking_error),
    ),
    "midpoint": (
        "mean relative deviation of the optimizer's top eigenvalue from the threshold, at midpoints",
        _of("midpoint", metrics.hovering_error),
    ),
    "mean_loss_error": ("mean error of the predicted loss", partial(metrics.error, variable="loss", statistic=np.mean)),
    "largest_loss_error": (
        "largest error of the predicted loss",
        partial(metrics.error, variable="loss", statistic=np.max),
    ),
    "loss_error_without": (
        "mean error of the loss without tr X",
        partial(metrics.error, variable="loss", predicted="loss", statistic=np.mean),
    ),
    "nu_error": ("median error of ν over weights and snapshots", metrics.snapshot_error),
    "distance": ("distance to the optimizer over that of the stable flow, where that one was stopped", _distance),
    "variance_error": (
        f"largest error of a variance that there is for more than {LEAST} steps",
        _of("central", _variance),
    ),
    "jump": ("largest factor by which the optimizer's Σν grows in a step", _of("discrete", _jump)),
    "penalty": (
        "share of the penalty in what holds the eigenvalues at the threshold, last 50 steps",
        _of("central", _penalty),
    ),
    "ablated_loss": (
        "loss without the penalty over that with it, at the end",
        lambda run: metrics.ablation(run)["loss"],
    ),
    "ablated_sharpness": ("sharpness, the same ratio", lambda run: metrics.ablation(run)["sharpness"]),
    "ablated_steps": ("harmonic mean step size, the same ratio", lambda run: metrics.ablation(run)["mean step size"]),
}


def numbers(run: xr.DataTree) -> dict[str, float]:
    """Numbers that say how well the flows of a run describe its optimizer.

    Parameters
    ----------
    run : xarray.DataTree
        Result of `simulate`.

    Returns
    -------
    dict
        By name, as `STATISTICS` explains them; NaN where the run lacks a process or a snapshot that a number is of.
    """
    found = {}
    for name, (_, statistic) in STATISTICS.items():
        try:
            found[name] = float(statistic(run))
        except KeyError:
            found[name] = math.nan
    return found


@dataclass(frozen=True)
class Summary:
    """A run in words and numbers; ``print`` shows both.

    Attributes
    ----------
    text : str
        The words.
    numbers : dict
        As of `numbers`.
    """

    text: str
    numbers: dict[str, float]

    def __str__(self) -> str:
        known = {STATISTICS[name][0]: value for name, value in self.numbers.items() if not math.isnan(value)}
        return "\n".join([self.text, *(f"  {value:>8.3g}  {what}" for what, value in known.items())])


def summary(run: xr.DataTree) -> Summary:
    """What a run shows: where the edge is, what is held there, how far predictions are off, whether to trust them.

    Parameters
    ----------
    run : xarray.DataTree
        Result of `simulate` with the processes "discrete" and "central".

    Returns
    -------
    Summary

    Raises
    ------
    ValueError
        If the run has no central flow or no optimizer to compare it with.
    """
    if missing := {"discrete", "central"} - set(run.children):
        raise ValueError(f"the run has no {' and no '.join(sorted(missing))}; simulate both processes")
    flow, found = run.children["central"], numbers(run)
    threshold, name = flow.attrs.get("threshold", 2.0), f"{flow.attrs.get('threshold', 2.0):g}"
    eigenvalues = flow.to_dataset()["eigenvalues"].values
    known = eigenvalues[np.isfinite(eigenvalues).any(axis=1)]
    said = []
    if found["edge"] >= len(eigenvalues):
        top = f"; the largest eigenvalue of P⁻¹H is {np.nanmax(known[-1]):.3g} at the end" if len(known) else ""
        said.append(f"the edge is not reached in {len(eigenvalues)} steps{top}")
    else:
        said.append(f"edge at step {found['edge']:.0f}")
        held = int((abs(known[-1] / threshold - 1) < HELD).sum()) if len(known) else 0
        locked = "" if math.isnan(found["locked"]) else f" (within {found['locked']:.2g} of it)"
        said.append(f"{held} eigenvalue{'' if held == 1 else 's'} at {name} at the end{locked}")
        without = found["loss_error_without"]
        said.append(f"predicted loss {found['mean_loss_error']:.2%} off (without the oscillation {without:.2%})")
    if not math.isnan(found["distance"]):
        said.append(f"distance {found['distance']:.2g} of the stable flow's")
    doubt = flow.attrs.get("doubt")
    beyond = int((flow.to_dataset()["trusted"].values == 0).sum())
    if doubt:
        said.append(f"not to be trusted from {doubt}")
    elif beyond:
        steps = "1 step" if beyond == 1 else f"{beyond} steps"
        said.append(f"trustworthy, except at {steps} where an eigenvalue is well above {name}")
    else:
        said.append("trustworthy")
    return Summary("; ".join(said), found)
