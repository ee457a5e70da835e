"""Numbers that say how well a flow describes an optimizer.

Each is a function of a run, or of one process of it, as `simulate` returns them. A part of a run is a run:
``run.sel(step=slice(600, None))``. The optimizer's threshold is an attribute of each process. Time-averages are those
of `smooth`, on both sides of a comparison and over the same steps. A number is NaN where it is undefined, for example
because the edge is not reached. Steps at which the flow itself is in doubt (its variable ``trusted``) count like all
others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import xarray as xr
from jaxtyping import Float

from .averaging import smooth


def edge(process: xr.DataTree) -> int:
    """Where a process comes to the edge of stability.

    Parameters
    ----------
    process : xarray.DataTree
        Node of a run.

    Returns
    -------
    int
        Position, among the steps that there are, of the first at which the flow's oscillation has a variance: then an
        eigenvalue is at the threshold. For a process without variances (an optimizer, the stable flow) that of the
        first step at which the largest eigenvalue was computed and is not below the threshold. If there is none, the
        number of steps, so that nothing comes after.
    """
    variances, eigenvalues = _arrays(process, "variances", "eigenvalues")
    at = variances[:, 0] > 0
    if not at.any():
        at = eigenvalues[:, 0] >= _threshold(process)
    return int(np.argmax(at)) if at.any() else at.size


def stopped(process: xr.DataTree) -> int:
    """The last step that a process has, as a position: where a flow was stopped, or the end of the run.

    Parameters
    ----------
    process : xarray.DataTree
        Node of a run.

    Returns
    -------
    int
    """
    there = np.flatnonzero(np.isfinite(_arrays(process, "loss")[0]))
    if not len(there):
        raise ValueError(f"{process.name or 'the process'} has no step with a finite loss")
    return int(there[-1])


def error(
    run: xr.DataTree,
    variable: str,
    flow: str = "central",
    *,
    predicted: str = "",
    statistic: Callable[[np.ndarray], float] = np.median,
) -> float:
    """Relative error of a time-average that a flow predicts for the optimizer, from the flow's edge on.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete" and the flow.
    variable : str
        Variable of the optimizer, such as "loss" or "nu_sum".
    flow : str
        Name of the flow.
    predicted : str
        Variable of the flow to compare; by default ``"predicted_" + variable`` if the flow has that, or ``variable``.
    statistic : callable
        What to return of the errors at all steps (and weights).

    Returns
    -------
    float
        Statistic of ``abs(smooth(predicted) / smooth(actual) - 1)``.
    """
    node = run.children[flow]
    if not predicted:
        predicted = f"predicted_{variable}" if f"predicted_{variable}" in node else variable
    (prediction,), (actual,) = _arrays(node, predicted), _arrays(run.children["discrete"], variable)
    off = abs(smooth(prediction) / smooth(np.where(np.isnan(prediction), np.nan, actual)) - 1)
    return _of(statistic, off[edge(node) :])


def variance_error(flow: xr.DataTree, least: int = 300) -> Float[np.ndarray, "eig"]:
    """Relative errors of the variances that a central flow predicts along the eigenvectors of Σ, over all their time.

    Parameters
    ----------
    flow : xarray.DataTree
        Node "central" of a run.
    least : int
        An eigenvector counts that has more steps than these with a variance above zero: a burst or two prove nothing.

    Returns
    -------
    array (eig,)
        By descending variance: ``abs(Σ variance / Σ displacement² - 1)`` over the steps with a variance: a sum over all
        bursts. NaN for eigenvectors with fewer steps.
    """
    variance, displacement = _arrays(flow, "variances", "displacements")
    there = (variance > 0) & np.isfinite(displacement)
    predicted, actual = (np.where(there, x, 0.0).sum(axis=0) for x in (variance, displacement**2))
    enough = there.sum(axis=0) > least
    return abs(np.divide(predicted, actual, where=enough, out=np.full(len(enough), np.nan)) - 1)


def output_error(run: xr.DataTree) -> float:
    """Median relative error of the standard deviation that the central flow predicts for outputs, from its edge on.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete" and "central", and ``outputs``.

    Returns
    -------
    float
        Against deviations of the optimizer's outputs from those at its midpoints, (2f_t - f_{t-1} - f_{t+1}) / 4.
    """
    central = run.children["central"]
    (f,), (deviation,) = _arrays(run.children["discrete"], "outputs"), _arrays(central, "output_deviations")
    swing = np.full_like(f, np.nan)
    swing[1:-1] = (2 * f[1:-1] - f[:-2] - f[2:]) / 4
    actual, predicted = (np.sqrt(smooth(x**2)) for x in (swing, np.where(np.isnan(swing), np.nan, deviation)))
    return _of(np.median, abs(predicted / actual - 1)[edge(central) :])


def snapshot_error(run: xr.DataTree, variable: str = "nu") -> float:
    """Median relative error of the central flow over all weights and all snapshots after its edge.

    Stored runs keep some weights only at snapshots before the last; those count that are there at all of them.

    Parameters
    ----------
    run : xarray.DataTree
        With snapshots of "discrete" and "central".
    variable : str
        One that the snapshots have.

    Returns
    -------
    float
    """
    actual, predicted = (run[f"snapshots/{name}"].to_dataset() for name in ("discrete", "central"))
    off = abs(predicted[variable] / actual[variable] - 1).dropna("step", how="all").dropna("weight")
    (steps,), at = _arrays(run.children["central"], "step"), edge(run.children["central"])
    return _of(np.median, off.values[off["step"].values > steps[0] + at])


def stable_error(run: xr.DataTree) -> float:
    """Largest relative error of the stable flow's loss, after the first step and before the central flow's edge.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete", "stable" and "central".

    Returns
    -------
    float
        Nothing is averaged.
    """
    stable, actual = (_arrays(run.children[name], "loss")[0] for name in ("stable", "discrete"))
    return _of(np.max, abs(stable / actual - 1)[1 : edge(run.children["central"])])


def distance_ratio(run: xr.DataTree) -> Float[np.ndarray, "steps"]:
    """Distance of the central flow to the optimizer over that of the stable flow.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete", "stable" and "central".

    Returns
    -------
    array (steps,)
        From the edge, where both flows are the same and the ratio is about 1, to the last step of the stable flow.
    """
    last = stopped(run.children["stable"])
    apart = run["distance"].to_dataset().isel(step=slice(min(edge(run.children["central"]), last), last + 1))
    return (apart["central-discrete"] / apart["stable-discrete"]).values


def locking_error(flow: xr.DataTree) -> float:
    """How far from the threshold eigenvalues of a central flow are once they have reached it.

    Parameters
    ----------
    flow : xarray.DataTree
        Node "central" of a run.

    Returns
    -------
    float
        Largest relative deviation over the steps at which they were computed, and that of the step before. A flow that
        starts beyond the threshold has reached it when its largest eigenvalue has ceased to fall.
    """
    variances, eigenvalues = _arrays(flow, "variances", "eigenvalues")
    at, off = variances > 0, abs(eigenvalues / _threshold(flow) - 1)
    at[: _descended(eigenvalues[:, 0], _threshold(flow))] = False
    return _of(np.max, off[1:][at[1:] & at[:-1]])


def _descended(top: np.ndarray, threshold: float) -> int:
    """The first step at which an eigenvalue that starts above the threshold has ceased to fall, or is not above."""
    seen = np.flatnonzero(np.isfinite(top))
    for now, following in itertools.pairwise(seen):
        if top[now] <= threshold or top[following] >= top[now]:
            return int(now)
    return int(seen[-1]) if len(seen) else 0


def hovering_error(process: xr.DataTree) -> float:
    """Mean relative deviation of the largest eigenvalue of P⁻¹H from the threshold, from the edge on.

    Parameters
    ----------
    process : xarray.DataTree
        Node of a run; for an optimizer "midpoint", where oscillations have averaged out.

    Returns
    -------
    float
    """
    (eigenvalues,) = _arrays(process, "eigenvalues")
    return _of(np.mean, abs(eigenvalues[edge(process) :, 0] / _threshold(process) - 1))


def step_size_error(process: xr.DataTree, settling: int = 20) -> float:
    """Median relative error of θ/S, S the sharpness, as the effective step size of an optimizer that has only one.

    Parameters
    ----------
    process : xarray.DataTree
        Node of a run, such as "midpoint", under gradient descent or Scalar RMSProp.
    settling : int
        Steps after the edge to leave out.

    Returns
    -------
    float
        With P = pI the eigenvalue λ of P⁻¹H is S/p, and the error ``abs(θ / λ - 1)``, θ the threshold.
    """
    (eigenvalues,) = _arrays(process, "eigenvalues")
    return _of(np.median, abs(_threshold(process) / eigenvalues[edge(process) + settling + 1 :, 0] - 1))


def decreasing(process: xr.DataTree) -> float:
    """Share of steps in which the time-average of the loss decreases.

    Parameters
    ----------
    process : xarray.DataTree
        Node of a run.

    Returns
    -------
    float
    """
    change = np.diff(smooth(_arrays(process, "loss")[0]))
    return _of(np.mean, np.where(np.isnan(change), np.nan, change < 0))


def fluctuation(process: xr.DataTree) -> float:
    """How much more the squared gradient fluctuates than ν does.

    Parameters
    ----------
    process : xarray.DataTree
        Node of a run, with ``coords``.

    Returns
    -------
    float
        Ratio of their standard deviations, relative to their time-averages; median over the recorded weights.
    """
    series = _arrays(process, "grad_sq", "nu")
    square, nu = (np.nanstd(x / smooth(x), axis=0) if len(x) else np.array([]) for x in series)
    return _of(np.median, square / nu)


def oscillation_share(flow: xr.DataTree) -> Float[np.ndarray, "steps"]:
    """Share of the oscillation in the squared norm of the gradient that a central flow predicts.

    Parameters
    ----------
    flow : xarray.DataTree
        Node "central" of a run.

    Returns
    -------
    array (steps,)
        1 - ‖∇L‖² / (‖∇L‖² + Σᵢ 4pᵢ²Σᵢᵢ), of time-averages.
    """
    floor, total = (smooth(x) for x in _arrays(flow, "grad_norm_sq", "predicted_grad_norm_sq"))
    return 1 - floor / total


def curvature_share(flow: xr.DataTree) -> Float[np.ndarray, "steps"]:
    """Share of curvature regularisation in what holds eigenvalues at the threshold; the rest is the growth of ν.

    Parameters
    ----------
    flow : xarray.DataTree
        Node "central" of a run.

    Returns
    -------
    array (steps,)
        ⟨X, B₁[X]⟩ / ⟨X, B[X]⟩; NaN while nothing oscillates.
    """
    curvature, growth = _arrays(flow, "curvature_reduction", "nu_growth")
    return curvature / (curvature + growth)


def smaller_share(flow: xr.DataTree) -> float:
    """The smaller of the two shares of `curvature_share` at the step at which it is least: above 0 if both always help.

    Parameters
    ----------
    flow : xarray.DataTree
        Node "central" of a run.

    Returns
    -------
    float
    """
    share = curvature_share(flow)
    return _of(np.min, np.minimum(share, 1 - share))


def balance_error(flow: xr.DataTree) -> float:
    """Relative difference of what holds eigenvalues at the threshold and what raises them, at the median step.

    Parameters
    ----------
    flow : xarray.DataTree
        Node "central" of a run.

    Returns
    -------
    float
    """
    rise, curvature, growth = _arrays(flow, "rise", "curvature_reduction", "nu_growth")
    return abs(_of(np.median, (curvature + growth) / rise) - 1)


def ablation(run: xr.DataTree) -> dict[str, float]:
    """What the curvature penalty does: values of the flow without it over those of the flow with it.

    Parameters
    ----------
    run : xarray.DataTree
        With "central", "ablated" and snapshots.

    Returns
    -------
    dict
        Ratios of "loss" (the predicted mean), "sharpness" and "mean step size", the harmonic mean n / tr P, each at the
        last step at which both flows have it: a snapshot for the sharpness.
    """
    return {what: without / with_it for what, (with_it, without) in _last(run, "central", "ablated").items()}


def following(run: xr.DataTree) -> dict[str, float]:
    """Whether the optimizer follows the flow with the curvature penalty, or the one without.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete", "central", "ablated" and snapshots; with "midpoint" for the sharpness.

    Returns
    -------
    dict
        For each quantity of `ablation` the optimizer's distance to the central flow over that to the flow without
        penalty, at the last step. Losses and tr P are time-averages; the optimizer's sharpness is that at midpoints,
        since an iterate is up on the wall of its valley.
    """
    last = _last(run, "discrete", "central", "ablated", average=True)
    at_midpoints = "midpoint" in run.children and "sharpness" in run["midpoint"]
    last["sharpness"] = _last(run, "midpoint", "central", "ablated")["sharpness"] if at_midpoints else [math.nan] * 3
    return {what: abs(actual - near) / abs(actual - far) for what, (actual, near, far) in last.items()}


def _last(run: xr.DataTree, *names: str, average: bool = False) -> dict[str, list[float]]:
    """Loss, sharpness and mean step size of some processes, each at the last step at which all of them have it."""
    found = {}
    for what, variable in (("loss", "predicted_loss"), ("sharpness", "sharpness"), ("mean step size", "p_sum")):
        values = np.array([_arrays(run.children[name], variable)[0] for name in names])
        values = values[:, np.isfinite(values).all(axis=0)]
        if average and what != "sharpness":
            values = smooth(values.T).T
        last = values[:, -1] if values.shape[1] else np.full(len(names), np.nan)
        found[what] = (run.attrs.get("weights", 1) / last if variable == "p_sum" else last).tolist()
    return found


def _threshold(process: xr.DataTree) -> float:
    return process.attrs.get("threshold", 2.0)


def _arrays(process: xr.DataTree, *names: str) -> list[np.ndarray]:
    data = process.to_dataset()
    return [data[name].values for name in names]


def _of(statistic: Callable[[np.ndarray], float], values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(statistic(there)) if there.size else math.nan
