"""The figures of chapter 6: what the central flow predicts of RMSProp, beside what RMSProp does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ... import averaging, metrics
from ...averaging import smooth
from .. import animations, figures
from ..claims import SMALL
from ..figures import COLORS

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

RANKS = 1, 4, 7  # of the recorded weights by the size of ν, the largest 0: the three that are drawn
FLOOR, WALLS = "#5a5a5a", "#d4d4d4"  # the two parts of the squared gradient that the central flow predicts
CLASSES = "airplane", "automobile", "bird", "cat"


def variances(run: xr.DataTree):
    """A film of the squared displacements along eigenvectors of Σ, and of the variances that the flow predicts.

    Parameters
    ----------
    run : xarray.DataTree
        With "central".

    Returns
    -------
    IPython.display.HTML
    """
    central = run["central"].to_dataset()
    step, variance = central["step"].values, central["variances"].where(central["variances"] > 0).values
    shown = [j for j in range(min(3, variance.shape[1])) if np.isfinite(variance[:, j]).sum() > averaging.WIDTH] or [0]
    squares = np.where(np.isfinite(variance), central["displacements"].values ** 2, np.nan)
    fig, axes = plt.subplots(len(shown), 1, sharex=True, squeeze=False, **animations.size(1.4 * len(shown) + 0.7))
    for j, ax in zip(shown, axes[:, 0], strict=True):
        predicted = smooth(variance[:, j])
        ax.plot(step, squares[:, j], color=COLORS["discrete"], lw=0.6, alpha=0.6, label="RMSProp")
        ax.plot(step, smooth(squares[:, j]), color=COLORS["average"], lw=3, label="its time-average")
        ax.plot(step, predicted, color=COLORS["central"], lw=1.2, label="predicted")
        _scale(ax, f"along eigenvector {j + 1} of Σ", 4 * np.nanmax(predicted, initial=1e-12))
        ax.set_xlim(step[0], step[-1])
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    axes[-1, 0].set(xlabel="step")
    fig.supylabel("squared displacement", fontsize=10)
    return _film(fig, run, "variance", "Squared displacements along eigenvectors, their averages and the predictions.")


def variance_table(runs: Mapping[str, xr.DataTree]) -> Styler:
    """How far predicted variances are off along each eigenvector of Σ, and along all of them together.

    Parameters
    ----------
    runs : mapping from name to xarray.DataTree
        With "central".

    Returns
    -------
    pandas Styler
        Also the number of steps, the share of the busiest 30 of them in all squared displacements, and whether
        `metrics.variance_error` counts the eigenvector.
    """
    import pandas as pd

    rows = []
    for name, run in runs.items():
        central = run["central"].to_dataset()
        variance, displacement = (central[x].values for x in ("variances", "displacements"))
        there = (variance > 0) & np.isfinite(displacement)
        counted = np.isfinite(metrics.variance_error(run["central"]))
        predicted, actual = np.where(there, variance, 0), np.where(there, displacement**2, 0)
        for j in np.flatnonzero(there.any(axis=0)):
            burst = np.convolve(actual[:, j], np.ones(30), "same").max() / actual[:, j].sum()
            error = predicted[:, j].sum() / actual[:, j].sum() - 1
            asked = "yes" if counted[j] else "no"
            rows.append((name, f"eigenvector {j + 1}", there[:, j].sum(), error, burst, asked))
        rows.append(
            (name, "all together", there.any(axis=1).sum(), predicted.sum() / max(actual.sum(), 1e-300) - 1, None, "")
        )
    columns = ["network", "along", "steps", "off by", "in the busiest 30 steps", "in the claim"]
    table = pd.DataFrame(rows, columns=columns).set_index(columns[:2])
    return table.style.format({columns[3]: "{:+.1%}", columns[4]: "{:.0%}"}, na_rep="")


def squared_gradient(run: xr.DataTree):
    """A film of ‖∇L‖² and of g² at three weights: what belongs to the floor, and what to the walls.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete" and "central", and at least eight ``coords``.

    Returns
    -------
    IPython.display.HTML
    """
    rmsprop, central = (run[name].to_dataset() for name in ("discrete", "central"))
    step = rmsprop["step"].values
    names = ("grad_norm_sq", "grad_norm_sq", "predicted_grad_norm_sq"), ("grad_sq", "grad_sq", "predicted_grad_sq")
    fig, axes = plt.subplots(4, 1, sharex=True, **animations.size(6.2))
    for ax, j in zip(axes, (None, *_weights(run)), strict=True):
        at = slice(None) if j is None else (slice(None), j)
        raw, floor, total = (
            node[x].values[at] for node, x in zip((rmsprop, central, central), names[j is not None], strict=True)
        )
        average, floor, total = smooth(raw), smooth(floor), smooth(total)
        ax.fill_between(step, 0, floor, color=FLOOR, lw=0, label="predicted: valley floor")
        ax.fill_between(step, floor, total, color=WALLS, lw=0, label="predicted: walls")
        ax.plot(step, raw, color=COLORS["discrete"], lw=0.5, alpha=0.5, label="RMSProp")
        ax.plot(step, average, color=COLORS["average"], lw=2.5, label="its time-average")
        title = r"all weights, $\|\nabla L\|^2$" if j is None else f"weight {int(rmsprop['coord'][j]):,}"
        _scale(ax, title, 2.2 * np.nanmax(average))
        ax.set_xlim(step[0], step[-1])
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    axes[-1].set(xlabel="step")
    fig.supylabel("squared gradient", fontsize=10)
    return _film(fig, run, "grad-sq", "Squared gradients, their averages, and the shares of floor and walls.")


def share(resnet: xr.DataTree, perceptron: xr.DataTree, rates: Mapping[float, xr.DataTree]) -> Figure:
    """Shares of floor and walls in ‖∇L‖² over training; that of the floor at several learning rates.

    Parameters
    ----------
    resnet, perceptron : xarray.DataTree
        With "central".
    rates : mapping from float to xarray.DataTree
        Runs by their learning rate.

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(8.2, 3.1))
    for ax, run, name in ((left, resnet, "ResNet"), (middle, perceptron, "perceptron")):
        central = run.children["central"]
        step, walls = central.to_dataset()["step"].values, metrics.oscillation_share(central)
        ax.stackplot(step, 1 - walls, walls, colors=[FLOOR, WALLS], lw=0)
        ax.text(0.55, 0.6, "walls", transform=ax.transAxes, ha="center")
        pointer = {"arrowstyle": "-", "color": "black", "shrinkB": 0}
        at = len(step) // 40
        ax.annotate(
            "floor", (step[at], (1 - walls[at]) / 2), (0.3, 0.3), textcoords="axes fraction", arrowprops=pointer
        )
        ax.set(xlabel="step", title=name, ylim=(0, 1), xlim=(step[0], step[-1]))
        ax.yaxis.set_major_formatter("{x:.0%}")
        ax.grid(False)
    left.set_ylabel(r"share in $\|\nabla L\|^2$")
    styles = ("-", "--", ":")
    for (lr, run), style in zip(rates.items(), styles, strict=False):
        central = run.children["central"]
        floor = 1 - metrics.oscillation_share(central)
        right.semilogy(central.to_dataset()["step"], floor, color=FLOOR, ls=style, label=figures.title(lr))
    right.set(xlabel="step", title="floor, at three learning rates")
    right.yaxis.set_major_formatter(lambda x, _: f"{100 * x:g}%")
    right.legend(loc="best")
    return fig


def nu(run: xr.DataTree):
    """A film of ν at three weights.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete" and "central", and at least eight ``coords``.

    Returns
    -------
    IPython.display.HTML
    """
    rmsprop, central = (run[name].to_dataset() for name in ("discrete", "central"))
    step = rmsprop["step"].values
    fig, axes = plt.subplots(3, 1, sharex=True, **animations.size(4.6))
    for ax, j in zip(axes, _weights(run), strict=True):
        ax.plot(step, rmsprop["nu"][:, j], color=COLORS["discrete"], lw=2.4, label="RMSProp")
        ax.plot(step, central["nu"][:, j], color=COLORS["central"], lw=1.2, label="central flow")
        both = np.concatenate([rmsprop["nu"][:, j], central["nu"][:, j]])
        low, high = np.nanmin(both), np.nanmax(both)
        bottom = 0 if low < high / 2 else low - (high - low)  # a curve that hardly moves is drawn larger
        _scale(ax, f"weight {int(rmsprop['coord'][j]):,}", high + 0.1 * (high - bottom), bottom)
        ax.set_xlim(step[0], step[-1])
    axes[0].legend(loc="lower right", ncols=2)
    axes[-1].set(xlabel="step")
    fig.supylabel(r"$\nu$", fontsize=10)
    return _film(fig, run, "nu-flow", "The running average at three weights, RMSProp and central flow.")


def nu_of_all_weights(run: xr.DataTree) -> Figure:
    """ν of every weight at the last snapshot, flow against RMSProp, and the relative error over training.

    Parameters
    ----------
    run : xarray.DataTree
        With snapshots of "discrete" and "central".

    Returns
    -------
    matplotlib.figure.Figure
        The error is that of the weights that are there at all snapshots.
    """
    snapshots = [run[f"snapshots/{name}"].to_dataset() for name in ("discrete", "central")]
    taken, (real, flow) = snapshots[1]["step"].values, (data["nu"].values for data in snapshots)
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.4))
    bins = {"gridsize": 50, "xscale": "log", "yscale": "log", "bins": "log", "mincnt": 1}
    left.hexbin(real[-1], flow[-1], cmap="Blues", lw=0.2, rasterized=True, **bins)
    ends = [np.nanmin([real[-1], flow[-1]]), np.nanmax([real[-1], flow[-1]])]
    left.plot(ends, ends, color=COLORS["threshold"], lw=0.8, ls="--")
    left.set(xlabel=r"$\nu$ of RMSProp", ylabel=r"$\nu$ of the central flow", title=f"all weights, step {taken[-1]}")
    errors = abs(flow / real - 1)
    errors = errors[:, np.isfinite(errors).all(axis=0)]
    low, middle, high = np.quantile(errors, [0.25, 0.5, 0.75], axis=1)
    right.fill_between(taken, low, high, color=COLORS["central"], alpha=0.15, lw=0)
    right.plot(taken, middle, "o-", ms=3, color=COLORS["central"])
    right.set(xlabel="step", title=r"relative error of $\nu$", ylim=(0, 1.15 * high.max()))
    right.yaxis.set_major_formatter("{x:.0%}")
    figures.mark([right], metrics.edge(run.children["central"]))
    return fig


def brakes(run: xr.DataTree) -> Figure:
    """What holds the eigenvalues at 2: rates, as areas under what would raise them, and shares.

    Parameters
    ----------
    run : xarray.DataTree
        With "central".

    Returns
    -------
    matplotlib.figure.Figure
    """
    central = run["central"].to_dataset()
    step = central["step"].values
    rise, curvature, growth = (smooth(central[x]) for x in ("rise", "curvature_reduction", "nu_growth"))
    part = smooth(metrics.curvature_share(run.children["central"]))
    colors = [COLORS["growth"], COLORS["curvature"]]
    fig, (above, below) = plt.subplots(2, 1, figsize=(7.2, 4.8), sharex=True, height_ratios=(3, 2))
    above.stackplot(step, np.nan_to_num(growth), np.nan_to_num(curvature), colors=colors, lw=0)
    above.plot(step, rise, color=COLORS["central"], lw=1.4, label="rise without the oscillation")
    above.set(ylabel=r"change of $\lambda$ in a step", ylim=(0, 1.25 * np.nanmax(rise)), xlim=(step[0], step[-1]))
    above.legend(loc="upper right")
    below.stackplot(step, 1 - part, part, colors=colors, lw=0)
    below.set(xlabel="step", ylabel="share", ylim=(0, 1))
    below.yaxis.set_major_formatter("{x:.0%}")
    for ax in (above, below):
        ax.grid(False)
    at = len(step) * 2 // 3
    if np.isfinite(part[at]):
        below.text(step[at], (1 - part[at]) / 2, r"growth of $\nu$", ha="center", va="center", color="white")
        below.text(step[at], 1 - part[at] / 2, "lower curvature", ha="center", va="center")
    return fig


def outputs(run: xr.DataTree) -> Figure:
    """Scores of the true class for four images: of the iterates, and mean and band that the flow predicts.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete" and "central", and four ``outputs``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rmsprop, central = (run[name].to_dataset() for name in ("discrete", "central"))
    step, scores = rmsprop["step"].values, rmsprop["outputs"].values
    mean, deviation = (central[x].values for x in ("predicted_outputs", "output_deviations"))
    fig, axes = plt.subplots(2, 2, figsize=(7.4, 4.6), sharex=True)
    for j, (ax, name) in enumerate(zip(axes.flat, CLASSES, strict=True)):
        band = 2 * np.sqrt(smooth(deviation[:, j] ** 2))
        ax.fill_between(step, mean[:, j] - band, mean[:, j] + band, color=WALLS, lw=0)
        ax.plot(step, scores[:, j], color=COLORS["discrete"], lw=0.5)
        ax.plot(step, mean[:, j], color=COLORS["central"], lw=1.2)
        ax.set(title=name, xlim=(step[0], step[-1]))
    for ax in axes[-1]:
        ax.set(xlabel="step")
    fig.supylabel("score of the true class", fontsize=10)
    return fig


def _weights(run: xr.DataTree) -> np.ndarray:
    """Positions of three of the recorded weights: those with the second, fifth and eighth largest ν."""
    return np.argsort(run["discrete"].to_dataset()["nu"].mean("step").values)[::-1][list(RANKS)]


def _scale(ax: Axes, title: str, top: float, bottom: float = 0.0) -> None:
    """Limits, and tick labels in a power of ten that stands in the title."""
    exponent = math.floor(math.log10(top))
    ax.set_ylim(bottom, top)
    ax.yaxis.set_major_formatter(lambda y, _: f"{y / 10**exponent:g}")
    ax.set_title(title if -2 < exponent < 2 else rf"{title}, in $10^{{{exponent}}}$")
    if -2 < exponent < 2:
        ax.yaxis.set_major_formatter("{x:g}")


def _film(fig: Figure, run: xr.DataTree, name: str, alt: str):
    """An animation in which all that is drawn, areas too, comes to be seen as training runs."""
    frames = 5 if run.attrs["preset"] == SMALL else 120

    def draw(i: int) -> None:
        for ax in fig.axes:
            seen = Rectangle((0, 0), (i + 1) / frames, 1, transform=ax.transAxes)
            for artist in (*ax.lines, *ax.collections):
                artist.set_clip_path(seen)

    return animations.animation(fig, draw, frames, name, alt, fps=20)
