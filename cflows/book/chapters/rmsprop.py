"""The figures of chapter 4: RMSProp on a network, its gradients and the eigenvalues that it trains at."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ... import metrics
from .. import figures
from ..figures import COLORS

RANKS = 1, 4, 7  # of the recorded weights by the size of ν, the largest 0: the three that are drawn
WINDOW = 60  # steps, in which single steps can be seen


def loss(run: xr.DataTree) -> Figure:
    """The training loss of RMSProp.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete".

    Returns
    -------
    matplotlib.figure.Figure
    """
    rmsprop = run["discrete"]
    fig, ax = plt.subplots()
    ax.semilogy(rmsprop["step"], rmsprop["loss"], color=COLORS["discrete"])
    ax.set(xlabel="step", ylabel="training loss")
    return fig


def squared_gradient(run: xr.DataTree) -> Figure:
    """The squared gradient at three weights and its running average ν, over all of training and in a window of it.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete", and at least eight ``coords``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rmsprop = run["discrete"].to_dataset()
    step, squares, nu = (rmsprop[name].values for name in ("step", "grad_sq", "nu"))
    shown = np.argsort(nu.mean(axis=0))[::-1][list(RANKS)]
    window = _window(squares[:, shown])
    fig, axes = plt.subplots(2, 3, figsize=(8.2, 4.6))
    for j, (above, below) in zip(shown, axes.T, strict=True):
        above.plot(step, squares[:, j], color=COLORS["discrete"], lw=0.6, label="$g_i^2$")
        above.plot(step, nu[:, j], color=COLORS["growth"], lw=2, label=r"$\nu_i$")
        above.axvspan(step[window][0], step[window][-1], color="#eeeeee", zorder=0)
        above.set(title=f"weight {int(rmsprop['coord'][j]):,}", ylim=(0, 1.05 * np.quantile(squares[:, j], 0.99)))
        below.vlines(step[window], 0, squares[window, j], color=COLORS["discrete"], lw=1.2)
        below.plot(step[window], nu[window, j], color=COLORS["growth"], lw=2.5)
        below.set(xlabel="step", ylim=(0, None))
    axes[0, 0].set_ylabel("all steps")
    axes[1, 0].set_ylabel(f"{WINDOW} steps")
    axes[0, 1].legend(loc="upper left")
    return fig


def _window(squares: np.ndarray) -> slice:
    """The steps about the highest burst of the second of three weights, from its last third to two thirds of it."""
    middle = squares[:, 1]
    burst = int(np.argmax(np.where(np.arange(len(middle)) >= len(middle) // 3, middle, 0)))
    start = min(max(burst - WINDOW // 2, 0), max(len(middle) - WINDOW, 0))
    return slice(start, start + WINDOW)


def edge_of_stability(run: xr.DataTree) -> Figure:
    """The loss, and the largest eigenvalues of P⁻¹H at midpoints; shaded from where the first one has reached 2.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete" and "midpoint".

    Returns
    -------
    matplotlib.figure.Figure
    """
    rmsprop, midpoint = run["discrete"].to_dataset(), run["midpoint"].to_dataset()
    step, values = rmsprop["step"].values, midpoint["eigenvalues"].values
    edge = metrics.edge(run.children["midpoint"])
    fig, (above, below) = plt.subplots(2, 1, figsize=(7.6, 4.8), sharex=True, height_ratios=(2, 3))
    above.semilogy(step, rmsprop["loss"], color=COLORS["discrete"])
    above.set(ylabel="training loss")
    top = np.nanmax(values, initial=2)
    below.set(xlabel="step", ylabel=r"eigenvalues of $P^{-1}H$", ylim=(0, 1.15 * top), xlim=(step[0], step[-1]))
    figures.eigenvalues(below, step, values)
    figures.threshold(below, label="")
    if edge < len(step):
        for ax in (above, below):
            ax.axvspan(step[edge], step[-1], color="#f3f3f3", zorder=0)
    return fig
