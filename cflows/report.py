"""How well a flow describes a run, in a row of numbers: the metrics that any run with a central flow has."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import xarray as xr

from . import metrics

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


def _penalty(flow: xr.DataTree) -> float:
    share = metrics.curvature_share(flow)[-50:]
    return float(np.nanmean(share)) if np.isfinite(share).any() else math.nan


#: From the name of a number to what it is, and to how it comes from a run.
STATISTICS: dict[str, tuple[str, Callable[[xr.DataTree], float]]] = {
    "edge": ("step at which the central flow comes to the edge", _of("central", metrics.edge)),
    "trusted": ("share of its steps in which the flow trusts itself", _of("central", _trusted)),
    "locked": ("largest deviation of its locked eigenvalues from 2", _of("central", metrics.locking_error)),
    "midpoint": (
        "mean deviation of the optimizer's top eigenvalue from 2, at midpoints",
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
    "penalty": ("share of the penalty in what holds the eigenvalues at 2, last 50 steps", _of("central", _penalty)),
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
