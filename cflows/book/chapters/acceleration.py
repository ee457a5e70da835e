"""The figures of chapter 8: the stationary flow, and what becomes of training without the curvature penalty."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from ... import experiments, metrics
from ...averaging import smooth
from .. import animations, figures
from ..claims import SMALL
from ..figures import COLORS, PROCESSES

FRAMES = 100, 20  # in which a film's curves grow, and for which it then stands still
STATIONARY = {
    "central": "central flow",
    "stationary": "stationary flow",
    "ablated_stationary": "stationary flow without its penalty",
}
PENALTY = {"central": "central flow", "ablated": "the flow without its penalty"}
AVERAGE = {"color": COLORS["average"], "lw": 3.5, "label": "RMSProp, averaged"}
ITSELF = {"color": COLORS["discrete"], "lw": 1, "alpha": 0.8, "label": "RMSProp"}


def stationary_flow(run: xr.DataTree, branch: int):
    """A film of RMSProp, its central flow, and the stationary flow with and without its penalty.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete", "central", "stationary", "ablated_stationary" and ``outputs``.
    branch : int
        Step at which the stationary flows begin.

    Returns
    -------
    IPython.display.HTML
    """
    steps = run["discrete"].sizes["step"]
    shown = run.isel(step=slice(branch - (steps - branch) // 6, None))
    scores = run["central"].to_dataset()["outputs"].values[branch:]
    image = int(np.argmax(np.nanstd(scores, axis=0)))  # the test image whose score changes most
    series = {
        "training loss": lambda d: d["loss"],
        r"sum of $\nu$ over all weights": lambda d: d["nu_sum"],
        "score of the true class of a test image": lambda d: d["outputs"][:, image],
    }
    fig, axes = plt.subplots(3, 1, sharex=True, **animations.size(5.6))
    for ax, (name, of) in zip(axes, series.items(), strict=True):
        _curves(ax, shown, of, {"discrete": ITSELF}, STATIONARY)
        lines = [line for line in ax.lines if line.get_label() != STATIONARY["central"]]
        seen = np.concatenate([line.get_ydata()[line.get_xdata() >= branch] for line in lines])
        margin = 0.06 * np.ptp(seen)
        limits = branch - (steps - branch) // 6, steps
        ax.set(title=name, xlim=limits, ylim=(seen.min() - margin, seen.max() + margin))
    figures.mark(axes, branch)
    words = " the stationary flows start here"
    axes[0].text(branch, 0.05, words, transform=axes[0].get_xaxis_transform(), fontsize=9, color="#555555")
    axes[-1].set(xlabel="step")
    _legend(fig, axes[0])
    said = "Loss, sum of nu and a score: RMSProp, the central flow, the stationary flow with and without penalty."
    return _film(fig, run, shown["discrete"].sizes["step"], "stationary-flow", said)


def stationary_perceptron(run: xr.DataTree, branch: int) -> Figure:
    """RMSProp and the stationary flow with and without its penalty, of a perceptron from the branch on.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete", "stationary", "ablated_stationary" and ``outputs``.
    branch : int
        Step at which the stationary flows begin.

    Returns
    -------
    matplotlib.figure.Figure
    """
    series = {
        "training loss": lambda d: smooth(d["predicted_loss"]),
        r"sum of $\nu$ over all weights": lambda d: smooth(d["nu_sum"]),
        "score of a test image": lambda d: smooth(d["outputs"][:, 0]),
    }
    flows = {name: label for name, label in STATIONARY.items() if name != "central"}
    fig, axes = plt.subplots(1, 3, figsize=(8.2, 3.5))
    for ax, (name, of) in zip(axes, series.items(), strict=True):
        _curves(ax, run.sel(step=slice(branch, None)), of, {"discrete": AVERAGE}, flows)
        ax.set(title=name, xlabel="step")
    _legend(fig, axes[0])
    return fig


def acceleration(run: xr.DataTree):
    """A film of RMSProp and of its central flow with and without the penalty: loss, sharpness, mean step size.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete", "midpoint", "central", "ablated" and snapshots.

    Returns
    -------
    IPython.display.HTML
    """
    steps, n = run["discrete"].sizes["step"], run.attrs["weights"]
    series = {
        "training loss": ("loss", "discrete", lambda d: smooth(d["predicted_loss"])),
        "sharpness, the largest eigenvalue of $H$": ("sharpness", "midpoint", _sharpness),
        "mean step size (harmonic)": ("mean step size", "discrete", lambda d: n / smooth(d["p_sum"])),
    }
    ratios, texts = metrics.ablation(run), []
    fig, axes = plt.subplots(3, 1, sharex=True, **animations.size(5.6))
    for ax, (name, (what, optimizer, of)) in zip(axes, series.items(), strict=True):
        _curves(ax, run, of, {optimizer: AVERAGE if what != "sharpness" else AVERAGE | {"label": None}}, PENALTY)
        ax.set(title=name, xlim=(0, 1.1 * steps), yscale="log" if what == "loss" else "linear")
        ends = [float(line.get_ydata()[np.isfinite(line.get_ydata())][-1]) for line in ax.lines[1:]]
        style = {"arrowstyle": "<->", "color": "#444444", "shrinkA": 0, "shrinkB": 0}
        at = 1.012 * steps
        arrow = ax.annotate("", (at, ends[0]), (at, ends[1]), arrowprops=style)
        middle = np.sqrt(ends[0] * ends[1]) if what == "loss" else np.mean(ends)
        texts += [arrow, ax.text(1.02 * steps, middle, f"×{ratios[what]:.2g}", fontsize=11, va="center")]
    axes[-1].set(xlabel="step", ylim=(0, None))
    axes[1].set(ylim=(0, None))
    figures.plain(axes[0])
    _legend(fig, axes[0])
    said = "Loss, sharpness and mean step size, for RMSProp, the central flow, and the flow without curvature penalty."
    return _film(fig, run, steps, "acceleration", said, texts)


def three_rates(runs: Mapping[float, xr.DataTree]) -> Figure:
    """Sharpness and mean step size of the central flow with and without the penalty, a column for each learning rate.

    Parameters
    ----------
    runs : mapping from learning rate to DataTree
        With "central", "ablated" and snapshots.

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, axes = plt.subplots(2, len(runs), figsize=(8.2, 5.0), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), (lr, run) in zip(axes.T, runs.items(), strict=True):
        burn_in, n = experiments.read(run).burn_in, run.attrs["weights"]
        flows = {name: _in_time(run[name].to_dataset(), lr, burn_in) for name in PENALTY}
        scaled = xr.DataTree.from_dict(flows)
        _curves(upper, scaled, _sharpness, {}, PENALTY)
        _curves(lower, scaled, partial(_mean_step, n), {}, PENALTY)
        upper.set(title=figures.title(lr), yscale="log")
        lower.set(yscale="log", xlabel=r"$\eta t$")
        figures.plain(upper)
        figures.plain(lower)
    axes[0, 0].set_ylabel("sharpness")
    axes[1, 0].set_ylabel("mean step size")
    _legend(fig, axes[0, 0])
    return fig


def _in_time(data: xr.Dataset, lr: float, burn_in: int) -> xr.Dataset:
    """With ηt in the place of steps."""
    return data.assign_coords(step=lr * (data["step"] + burn_in))


def _mean_step(n: int, data: xr.Dataset) -> np.ndarray:
    """The harmonic mean of n step sizes 1/p."""
    return (n / data["p_sum"]).values


def _sharpness(data: xr.Dataset) -> np.ndarray:
    """That of snapshots, and between them on straight lines."""
    return data["sharpness"].interpolate_na("step").values


def _curves(
    ax: Axes,
    run: xr.DataTree,
    of: Callable[[xr.Dataset], np.ndarray],
    optimizer: Mapping[str, dict],
    flows: Mapping[str, str],
) -> None:
    """A series of the optimizer and of some flows, by their names and looks."""
    looks = {name: PROCESSES[name] | {"lw": 1.6, "label": label} for name, label in flows.items()}
    for name, look in {**optimizer, **looks}.items():
        data = run[name].to_dataset()
        ax.plot(data["step"].values, np.asarray(of(data)), **look)


def _legend(fig: Figure, ax: Axes) -> None:
    """What a panel's lines are, above all panels."""
    lines = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    fig.legend(handles=lines, loc="outside upper left", ncols=2, fontsize=9)


def _film(fig: Figure, run: xr.DataTree, steps: int, name: str, alt: str, last: Sequence[Text] = ()):
    """A film in which curves grow as training runs; it ends with some words, and stands still for a moment."""
    grow, still = FRAMES if run.attrs["preset"] != SMALL else (4, 1)
    lines = [line for ax in fig.axes for line in ax.lines if np.size(line.get_xdata()) == steps]
    curves = [np.asarray(line.get_data()) for line in lines]

    def draw(i: int) -> None:
        until = min(round((i + 1) / grow * steps), steps)
        for line, curve in zip(lines, curves, strict=True):
            line.set_data(*curve[:, :until])
        for text in last:
            text.set_visible(i >= grow - 1)

    return animations.animation(fig, draw, grow + still, name, alt, fps=20)
