"""The figures of chapter 2: gradient descent on a network, and in the smallest valley that holds it at the edge."""

from __future__ import annotations

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from .. import animations, figures
from ..figures import COLORS

#: A film of gradient descent and its flows, drawn as training goes on: a function of the run.
film = partial(animations.beside, optimizer="gradient descent", name="gd-central-flow")


def edge_of_stability(run: xr.DataTree) -> Figure:
    """The loss, and the largest eigenvalues of ηH at midpoints.

    Parameters
    ----------
    run : xarray.DataTree
        Of gradient descent, with "discrete" and "midpoint".

    Returns
    -------
    matplotlib.figure.Figure
    """
    gd, midpoint = run["discrete"].to_dataset(), run["midpoint"].to_dataset()
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.2))
    left.semilogy(gd["step"], gd["loss"], color=COLORS["discrete"], lw=1)
    left.set(xlabel="step", title="training loss")
    right.set(xlabel="step", title=r"largest eigenvalues of $\eta H$", ylim=(0, 3.2))
    figures.eigenvalues(right, midpoint["step"], midpoint["eigenvalues"].values, marker=".", ms=4, lw=1)
    figures.threshold(right)
    return fig


def valley(run: xr.DataTree, eta: float, b: float) -> Figure:
    """Gradient descent and its central flow in the valley L = ½yx² - by: in its plane, and over time.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete" and "central", whose ``outputs`` are the two weights x and y.
    eta : float
        Learning rate.
    b : float
        Slope of the valley's floor.

    Returns
    -------
    matplotlib.figure.Figure
    """
    (x, y), (_, flow) = (run[name].to_dataset()["outputs"].values.T for name in ("discrete", "central"))
    limit, deviation = 2 / eta, np.sqrt(2 * b)
    fig, (plane, left, right) = plt.subplots(1, 3, figsize=(8.2, 3.1))
    low, high, wide = y.min() - 0.1, y.max() + 0.1, 1.1 * abs(x).max()
    X, Y = np.meshgrid(np.linspace(-wide, wide, 100), np.linspace(low, high, 100))
    plane.contour(X, Y, 0.5 * Y * X**2 - b * Y, levels=9, colors="#c9c9c9", linewidths=0.8)
    plane.plot(x, y, ".", ms=1.8, color=COLORS["discrete"])
    plane.plot(np.zeros_like(flow), flow, color=COLORS["central"], lw=2.5)
    plane.grid(False)
    plane.set(xlabel="$x$", ylabel="sharpness $y$", title="the valley from above", ylim=(low, high))
    left.plot(y, color=COLORS["discrete"], lw=1.2, label="gradient descent")
    left.plot(flow, color=COLORS["central"], lw=2, label="central flow")
    left.set(xlabel="step", title="sharpness $y$", ylim=(low, high + 0.35 * (high - low)))
    left.legend(loc="upper right")
    for ax in (plane, left):
        ax.axhline(limit, color=COLORS["threshold"], ls="--", lw=1)
    left.text(0.01, limit, r"$2/\eta$", transform=left.get_yaxis_transform(), va="bottom", color="#666666")
    right.plot(x, color=COLORS["discrete"], lw=0.6)
    for side in (-1, 1):
        right.axhline(side * deviation, color=COLORS["central"], ls="--", lw=1.2)
    right.text(0.02, deviation, r"$\sqrt{2b}$", transform=right.get_yaxis_transform(), va="bottom")
    right.set(xlabel="step", title="displacement $x$")
    return fig
