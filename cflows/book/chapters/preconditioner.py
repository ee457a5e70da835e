"""The figures of chapter 7: where ν settles, the convex program that it solves there, and how good the solution is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ... import experiments, metrics, stationary
from .. import figures
from ..figures import COLORS, PROCESSES

WINDOW = (0.4, 3.2)  # of p₁ and p₂, in the plane of both
BOX = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.9}
SETTLES = r"$\bar\nu$, where $\nu$ would settle"
LABELS = {"rmsprop": "$P$ of the flow", "stationary": r"$\bar P$", "first-term": r"$\hat P$"}
LOOKS = {"rmsprop": "central", "stationary": "stationary", "first-term": "first-term"}


def corrected(run: xr.DataTree, process: str) -> np.ndarray:
    """ν̂ = ν / (1 - β₂ᵗ) of a process at the recorded weights, as its steps use it.

    Parameters
    ----------
    run : xarray.DataTree
        Of RMSProp, with ``coords``.
    process : str
        "discrete" or one of its flows with a ν of its own.

    Returns
    -------
    array (steps, coords)
        ν itself where the run has no bias correction.
    """
    e, data = experiments.read(run), run[process].to_dataset()
    nu = data["nu"].values
    if not e.optimizer.bias_correction:  # type: ignore[attr-defined]
        return nu
    t = data["step"].values + 1 + e.burn_in
    return nu / (1 - e.optimizer.beta2**t)[:, None]  # type: ignore[attr-defined]


def rest(H: np.ndarray, g: np.ndarray, eta: float, paths: Sequence[np.ndarray]) -> Figure:
    """Where ν goes from several starts while the weights stand still, in the plane of p = √ν / η.

    Parameters
    ----------
    H : array (2, 2)
    g : array (2,)
    eta : float
    paths : sequence of array (steps, 2)
        ν over time.

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, ax = plt.subplots(figsize=(5.2, 4.4))
    _plane(ax, H)
    for nu in paths:
        p = np.sqrt(nu) / eta
        ax.plot(*p.T, color=COLORS["central"], lw=1.4)
        ax.plot(*p[0], "o", color=COLORS["central"], mfc="white", ms=6)
        way = np.cumsum(np.hypot(*np.diff(p, axis=0).T))
        for share in (0.3, 0.75):
            at = int(np.searchsorted(way, share * way[-1]))
            ahead = int(np.searchsorted(way, way[at] + 0.04))
            style = {"arrowstyle": "-|>", "color": COLORS["central"], "mutation_scale": 12}
            ax.annotate("", p[min(ahead + 1, len(p) - 1)], p[at], arrowprops=style)
    end = stationary.solve(H, g, eta).p
    ax.plot(*end, "o", color=COLORS["stationary"], ms=9, zorder=5)
    _name(ax, r"$\bar P$", end, (-16, -16), "stationary")
    ax.text(0.43, 0.48, "an eigenvalue of $P^{-1}H$ is above 2", fontsize=9, color="#444444")
    ax.text(1.75, 2.95, "no eigenvalue is above 2", fontsize=9, color="#444444")
    ax.set(ylabel="$p_2$", title=r"ν runs on while the weights stand still")
    return fig


def program(H: np.ndarray, g: np.ndarray, etas: ArrayLike) -> Figure:
    """Both programs with two weights: lines of equal trace and P̂, lines of equal speed and P̄ by learning rate.

    Parameters
    ----------
    H : array (2, 2)
    g : array (2,)
    etas : array (rates,)
        Learning rates, from small to large.

    Returns
    -------
    matplotlib.figure.Figure
    """
    bar = np.array([stationary.solve(H, g, eta).p for eta in np.ravel(etas)])
    hat = stationary.solve(H, g, np.inf).p
    x, y = np.meshgrid(*[np.linspace(*WINDOW, 300)] * 2)
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 4.2), sharex=True, sharey=True)
    for ax, level in ((left, x + y), (right, g[0] ** 2 / x + g[1] ** 2 / y)):
        _plane(ax, H)
        ax.contour(x, y, level, levels=12, colors="#8a8a8a", linewidths=0.8, linestyles=":")
        ax.plot(*hat, "o", color=COLORS["first-term"], ms=8, zorder=5)
    left.axline(hat, slope=-1, color=COLORS["first-term"], lw=1.4)
    _name(left, r"$\hat P$", hat, (9, 9), "first-term")
    _name(left, "least trace", np.add(hat, [-0.62, 0.62]), (5, 4), "first-term", 9)
    _name(right, r"$\hat P$", hat, (-17, -12), "first-term")
    _toward(left, "longer steps")
    _toward(right, "loss falls faster")
    right.plot(*bar.T, "-", color=COLORS["stationary"], lw=2)
    right.plot(*bar[:: max(len(bar) // 8, 1)].T, "o", color=COLORS["stationary"], ms=4)
    seen = np.flatnonzero((bar < WINDOW[1]).all(1))
    _name(right, r"$\bar P$, small $\eta$", bar[seen[0]], (-62, -3), "stationary", 9)
    _name(right, r"$\bar P$, large $\eta$", bar[-1], (12, 2), "stationary", 9)
    left.set(ylabel="$p_2$", title=r"first term: $\operatorname{tr} P$ is minimised")
    right.set_title(r"second term: speed is minimised, too")
    return fig


def similarity(shown: Mapping[str | float, tuple[xr.DataTree, xr.Dataset]]) -> Figure:
    """How alike ν and ν̄ are over training: log-correlation over all weights, cosine, and with the past of ν̄.

    Parameters
    ----------
    shown : mapping from str or float to (DataTree, Dataset)
        By the name or the learning rate of a panel, runs and their programs as of `cflows.preconditioners.along`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, axes = plt.subplots(1, len(shown), figsize=(8.2, 3.2), sharey=True, squeeze=False)
    wine, lowest = COLORS["stationary"], 0.0
    for ax, (name, (run, s)) in zip(axes[0], shown.items(), strict=True):
        ax.axhline(1, color=COLORS["threshold"], lw=1)
        ax.plot(s["step"], s["log_correlation"], "o-", ms=3.5, color=wine, label="correlation of logarithms")
        ax.plot(s["step"], s["log_correlation_past"], ls="--", lw=1.2, color=wine, label=r"the same, past $\bar\nu$")
        ax.plot(s["step"], s["cosine"], "s-", ms=3, lw=1, color="#777777", label="cosine")
        edge = metrics.edge(run.children["central"])
        figures.mark([ax], edge)
        ax.text(edge, 0.03, " edge", transform=ax.get_xaxis_transform(), fontsize=8.5, color="#666666")
        ax.set(xlabel="step", title=figures.title(name))
        lowest = min(lowest, *(float(s[what].min()) for what in ("log_correlation", "cosine")))
    axes[0, 0].set(ylabel=r"likeness of $\hat\nu$ and $\bar\nu$", ylim=(lowest, 1.04))
    axes[0, -1].legend(loc="lower right", fontsize=8)
    return fig


def ten_weights(run: xr.DataTree, solved: xr.Dataset) -> Figure:
    """ν̂ of RMSProp and of its central flow, and ν̄, at each recorded weight; all panels span the same factor.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete", "central" and ``coords``.
    solved : xarray.Dataset
        Its programs, as of `cflows.preconditioners.along`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    real, flow = (corrected(run, name) for name in ("discrete", "central"))
    bar, edge = solved["nu_stationary"].values, metrics.edge(run.children["central"])
    order = np.argsort(flow[-1])[::-1]
    fig, axes = plt.subplots(2, -(-len(order) // 2), figsize=(8.2, 4.0), sharex=True, squeeze=False)
    factor: float = 1.0
    middles: list[float] = []
    for j in order:  # what is seen from the edge on, and where its middle is
        late = [x[x > 0] for x in (flow[edge:, j], bar[solved["step"].values >= edge, j])]
        low, high = min(x.min() for x in late if len(x)), max(x.max() for x in late if len(x))
        factor, middles = max(factor, np.sqrt(high / low)), [*middles, np.sqrt(high * low)]
    for ax, j, middle in zip(axes.flat, order, middles, strict=False):
        style = PROCESSES["discrete"] | {"lw": 2.5, "label": "RMSProp"}
        ax.plot(run["discrete"]["step"], real[:, j], **style)
        ax.plot(run["central"]["step"], flow[:, j], **PROCESSES["central"])
        ax.plot(solved["step"], bar[:, j], "o", ms=4, color=COLORS["stationary"], label=SETTLES, zorder=4)
        ax.set(yscale="log", ylim=(middle / factor / 1.5, middle * factor * 1.5))
        ax.set_title(f"weight {int(solved['coord'][j]):,}", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.minorticks_off()
    figures.mark(axes.ravel().tolist(), edge)
    for ax in axes.flat[len(order) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set(xlabel="step")
    for ax in axes[:, 0]:
        ax.set_ylabel(r"$\hat\nu$, $\bar\nu$")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=9)
    return fig


def all_weights(solved: xr.Dataset) -> Figure:
    """ν̂ of the central flow against ν̄ for all weights at the last snapshot.

    Parameters
    ----------
    solved : xarray.Dataset
        As of `cflows.preconditioners.along`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    end = solved.isel(step=-1)
    x, y = end["nu_stationary_all"].values, end["nu_all"].values
    there = (x > 0) & (y > 0)
    low, high = np.quantile(np.concatenate([x[there], y[there]]), [1e-4, 1]) * [0.5, 2]
    fig, ax = plt.subplots(figsize=(5.2, 4.6))
    style: dict[str, Any] = {"xscale": "log", "yscale": "log", "bins": "log", "mincnt": 1, "cmap": "Greys", "lw": 0.2}
    ax.hexbin(x[there], y[there], gridsize=60, rasterized=True, vmin=0.3, **style)
    for factor in (0.5, 1, 2):
        look = {"lw": 1.5} if factor == 1 else {"lw": 0.9, "ls": ":"}
        ax.plot([low, high], [factor * low, factor * high], color=COLORS["stationary"], **look)
    count = f"{int(there.sum()):,} weights, step {int(end['step'])}"
    ax.set(xlabel=r"$\bar\nu$", ylabel=r"$\hat\nu$ of the central flow", title=count)
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    return fig


def speeds(panels: Mapping[str | float, xr.Dataset]) -> Figure:
    """Speed of P̂, P̄ and the flow's own P along training, in units of gradient descent's best.

    Parameters
    ----------
    panels : mapping from str or float to Dataset
        By the name or the learning rate of a panel, programs as of `cflows.preconditioners.along`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(8.2, 3.3), sharey=True, squeeze=False)
    for ax, (name, s) in zip(axes[0], panels.items(), strict=True):
        ax.axhline(1, color="#555555", ls="--", lw=1.2, label="gradient descent's best")
        for which in ("first-term", "stationary", "rmsprop"):
            ratio = s["speed"].sel(preconditioner=which) / s["speed"].sel(preconditioner="gradient-descent")
            ax.plot(s["step"], ratio, "o-", ms=2.5, lw=1.3, color=COLORS[LOOKS[which]], label=LABELS[which])
        ax.set(xlabel="step", yscale="log")
        ax.set_title(figures.title(name), fontsize=9.5)
        figures.plain(ax)
    axes[0, 0].set_ylabel("relative speed")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=9)
    return fig


def limit(etas: ArrayLike, distances: ArrayLike) -> Figure:
    """Distance of P̄ from P̂ by the learning rate in the program.

    Parameters
    ----------
    etas : array (rates,)
    distances : array (rates,)
        Relative to the norm of P̂.

    Returns
    -------
    matplotlib.figure.Figure
    """
    etas, distances = np.ravel(etas), np.ravel(distances)
    fig, ax = plt.subplots(figsize=(5.6, 3.2))
    ax.loglog(etas, distances, "o-", color=COLORS["stationary"])
    words = "learning rate of the run"
    ax.annotate(words, (etas[0], distances[0]), (12, 0), textcoords="offset points", fontsize=9, va="center")
    ax.set(xlabel="learning rate η in the program", title=r"distance of $\bar P$ from $\hat P$")
    ax.yaxis.set_major_formatter(lambda x, _: f"{100 * x:g} %")
    return fig


def _plane(ax: Axes, H: np.ndarray) -> None:
    """The plane of (p₁, p₂), shaded where an eigenvalue of P⁻¹H exceeds 2."""
    x = np.linspace(*WINDOW, 400)
    above = 2 * x > H[0, 0]
    least = np.full_like(x, WINDOW[1])
    least[above] = (H[1, 1] + H[0, 1] ** 2 / (2 * x[above] - H[0, 0])) / 2
    least = np.minimum(least, WINDOW[1])
    ax.fill_between(x, WINDOW[0], least, color="#dedede", lw=0)
    ax.plot(x[least < WINDOW[1]], least[least < WINDOW[1]], color="#777777", lw=1)
    ax.grid(False)
    ax.set(xlabel="$p_1$", aspect="equal", xlim=WINDOW, ylim=WINDOW)


def _name(ax: Axes, words: str, at: ArrayLike, offset: tuple[float, float], color: str, size: float = 12) -> None:
    """Words beside a point, in its colour, on white."""
    style: dict[str, Any] = {
        "textcoords": "offset points",
        "color": COLORS[color],
        "fontsize": size,
        "bbox": BOX,
        "zorder": 6,
    }
    ax.annotate(words, tuple(np.ravel(at)), offset, **style)


def _toward(ax: Axes, words: str) -> None:
    """An arrow to small p, which is where steps are long."""
    style = {"arrowstyle": "-|>", "color": "#555555", "mutation_scale": 12}
    ax.annotate("", (0.55, 0.55), (0.95, 0.95), arrowprops=style)
    ax.text(1.0, 0.5, words, fontsize=9, color="#444444")
