"""The figures of chapter 5: RMSProp beside the stable flow and the central flow."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ... import metrics
from ...averaging import smooth
from .. import animations, figures
from ..claims import SMALL
from ..figures import COLORS

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

WINDOW = 60  # steps of the optimizer that are seen at once
SECOND = "#767676"  # the second of two networks


#: A film of RMSProp and its flows, drawn as training goes on: a function of the run.
film = partial(animations.beside, optimizer="RMSProp", name="central-flow", frames=120)


def stable_flow(run: xr.DataTree) -> Figure:
    """RMSProp and the stable flow until a while after that was stopped: losses, eigenvalue, distance.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete", "stable" and "central".

    Returns
    -------
    matplotlib.figure.Figure
    """
    rmsprop, stable = (run[name].to_dataset() for name in ("discrete", "stable"))
    step, until = rmsprop["step"].values, 2 * metrics.stopped(run.children["stable"])
    seen = slice(0, until + 1)
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(7.8, 3), sharex=True)
    left.plot(step[seen], rmsprop["loss"][seen], color=COLORS["discrete"], label="RMSProp")
    left.plot(step[seen], stable["loss"][seen], color=COLORS["stable"], label="stable flow")
    left.set(title="training loss")
    left.legend(loc="lower left")
    top = stable["eigenvalues"][:, 0].interpolate_na("step")
    middle.plot(step[seen], top[seen], color=COLORS["stable"])
    figures.threshold(middle, label="2")
    middle.set(title="effective sharpness", ylim=(0, None))
    apart = run["distance"].to_dataset()["stable-discrete"]
    right.plot(step[seen], apart[seen], color=COLORS["stable"])
    right.set(title="distance to RMSProp", ylim=(0, None))
    figures.mark(fig.axes, int(step[min(metrics.edge(run.children["central"]), len(step) - 1)]))
    for ax in fig.axes:
        ax.set(xlabel="step", xlim=(step[0], step[seen][-1]))
    return fig


def valley(run: xr.DataTree):
    """A film of RMSProp as seen from the central flow, along the direction in which it oscillates most.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete" and "central".

    Returns
    -------
    IPython.display.HTML
    """
    rmsprop, central = (run[name].to_dataset() for name in ("discrete", "central"))
    step, frames = rmsprop["step"].values, 5 if run.attrs["preset"] == SMALL else 160
    deviation = np.sqrt(central["variances"].values[:, 0])
    displacement = np.where(deviation > 0, central["displacements"].values[:, 0], np.nan)
    begin = max(metrics.edge(run.children["central"]) - WINDOW // 2, 0)
    limit = 1.1 * np.nanmax(abs(displacement)) if np.isfinite(displacement).any() else 1.0
    fig = plt.figure(**animations.size(4.6))
    grid = fig.add_gridspec(2, 2, height_ratios=(3, 2))
    above, left, right = (fig.add_subplot(grid[place]) for place in ((0, slice(None)), (1, 0), (1, 1)))

    height = np.linspace(-limit, limit, 201)[:, None]
    above.imshow(height**2, extent=(-WINDOW, 6, -limit, limit), aspect="auto", cmap="Greys", alpha=0.4, origin="lower")
    above.axhline(0, color=COLORS["central"], lw=2.5)
    bands = [above.plot([], [], color=COLORS["central"], lw=1.2, ls="--")[0] for _ in range(2)]
    (path,) = above.plot([], [], "o-", color=COLORS["discrete"], ms=3, lw=0.8)
    (ball,) = above.plot([], [], "o", color=COLORS["discrete"], ms=10)
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
    above.text(1 - WINDOW, 0.06 * limit, "central flow", bbox=box)
    above.text(1 - WINDOW, 0.86 * limit, "RMSProp", color=COLORS["discrete"], bbox=box)
    limits = {"xlim": (-WINDOW, 6), "ylim": (-limit, limit)}
    above.set(title="across the valley", xlabel="steps from now", ylabel="displacement", **limits)
    above.grid(False)

    left.semilogy(step, rmsprop["loss"], color=COLORS["discrete"], lw=2.5)
    left.semilogy(step, central["predicted_loss"], color=COLORS["central"], lw=1)
    figures.plain(left, (1, 2, 3, 5))
    left.set(title="training loss", xlabel="step")
    right.set(title=r"eigenvalues of $P^{-1}H$", xlabel="step", ylim=(0, 2.4))
    figures.eigenvalues(right, step, central["eigenvalues"].interpolate_na("step").values, 3, names=False)
    figures.threshold(right, label="")
    marks = [ax.axvline(begin, color=COLORS["discrete"], lw=1) for ax in (left, right)]

    def draw(i: int) -> None:
        now = begin + round((i + 1) / frames * (len(step) - 1 - begin))
        past = slice(max(now - WINDOW, 0), now + 1)
        path.set_data(step[past] - now, displacement[past])
        ball.set_data([0], displacement[now : now + 1])
        for sign, band in zip((-1, 1), bands, strict=True):
            band.set_data(step[past] - now, sign * deviation[past])
        for mark in marks:
            mark.set_xdata([now, now])

    alt = "RMSProp zigzags across the valley about the straight line of the central flow, as training runs."
    return animations.animation(fig, draw, frames, "valley", alt)


def beside(run: xr.DataTree) -> Figure:
    """The same, whole.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete" and "central".

    Returns
    -------
    matplotlib.figure.Figure
    """
    return figures.beside(run, "RMSProp")


def trace(resnet: xr.DataTree, perceptron: xr.DataTree) -> Figure:
    """How far the predicted average of the loss is off at each step, with tr X and without.

    Parameters
    ----------
    resnet, perceptron : xarray.DataTree
        With "discrete" and "central".

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 2.9), sharey=True)
    for ax, run, name in zip(axes, (resnet, perceptron), ("ResNet", "perceptron"), strict=True):
        rmsprop, central = (run[name].to_dataset() for name in ("discrete", "central"))
        actual, at = smooth(rmsprop["loss"]), slice(metrics.edge(run.children["central"]), None)
        for variable, style, label in (("predicted_loss", "-", "with tr X"), ("loss", ":", "without")):
            off = smooth(central[variable]) / actual - 1
            ax.plot(central["step"][at], off[at], color=COLORS["central"], ls=style, label=label)
        ax.axhline(0, color=COLORS["threshold"], lw=1)
        ax.set(title=name, xlabel="step")
    axes[0].yaxis.set_major_formatter("{x:.0%}")
    axes[0].set_ylabel("predicted loss is off by")
    axes[0].legend(loc="lower left")
    return fig


def distance(resnet: xr.DataTree, perceptron: xr.DataTree) -> Figure:
    """Distance of the central flow to RMSProp over that of the stable flow.

    Parameters
    ----------
    resnet, perceptron : xarray.DataTree
        With "discrete", "stable" and "central".

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, ax = plt.subplots(figsize=(6.4, 2.9))
    for run, color, name in ((resnet, COLORS["central"], "ResNet"), (perceptron, SECOND, "perceptron")):
        ax.semilogy(metrics.distance_ratio(run), color=color, label=name)
    ax.axhline(0.2, color=COLORS["threshold"], ls="--", lw=1)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="steps since the edge", ylabel="ratio of distances")
    ax.legend()
    return fig


def numbers(run: xr.DataTree, count: int = 8) -> Styler:
    """Losses, eigenvalues of P⁻¹H and variances at some steps, from the edge to the last refresh.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete" and "central".
    count : int
        Number of steps.

    Returns
    -------
    pandas Styler
    """
    import pandas as pd

    rmsprop, central = (run[name].to_dataset() for name in ("discrete", "central"))
    edge = metrics.edge(run.children["central"])
    values = central["eigenvalues"].interpolate_na("step").values
    rows = np.linspace(edge, np.flatnonzero(np.isfinite(values[:, 0]))[-1], count).astype(int)
    loss = {"loss": smooth(rmsprop["loss"])[rows], "predicted": smooth(central["predicted_loss"])[rows]}
    spectrum = {f"λ{j + 1}": values[rows, j] for j in range(3)}
    variances = {f"1000 σ{j + 1}²": 1e3 * central["variances"].values[rows, j] for j in range(3)}
    table = pd.DataFrame(loss | spectrum | variances, index=pd.Index(rows, name="step"))
    digits = dict.fromkeys(loss, "{:.5f}") | dict.fromkeys(spectrum, "{:.4f}") | dict.fromkeys(variances, "{:.3f}")
    return table.style.format(digits, na_rep="–")
