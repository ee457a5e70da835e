"""The book's visual language.

One colour a quantity, the same in every chapter, safe for colour-blind readers: the palette of Okabe and Ito
:cite:yearpar:`okabe2008`, wine for what is stationary, olive for what lacks the penalty, and for the spectrum a scale
of its own, from dark to light.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from ..averaging import smooth
from . import media, phone

#: Colours by quantity.
COLORS = {
    "discrete": "#0072B2",  # the optimizer, as it is
    "average": "#56B4E9",  # its time-average
    "stable": "#D55E00",
    "central": "#111111",
    "growth": "#009E73",  # what the growth of ν does
    "curvature": "#CC79A7",  # what curvature regularisation does
    "stationary": "#882255",  # P̄ and its flow
    "first-term": "#E69F00",  # P̂
    "ablated": "#7F7F00",  # a flow without its curvature penalty
    "threshold": "#999999",
}
#: Colours of the leading eigenvalues, the largest first.
EIGENVALUES = ("#2D1160", "#721F81", "#B73779", "#F1605D", "#FEB078")
#: How curves of processes are drawn; any other process has its name for a label, and one of matplotlib's colours.
PROCESSES: dict[str, dict] = {
    "discrete": {"color": COLORS["discrete"], "lw": 2.5, "label": "optimizer"},
    "midpoint": {"color": COLORS["average"], "lw": 1, "label": "midpoints"},
    "stable": {"color": COLORS["stable"], "label": "stable flow"},
    "central": {"color": COLORS["central"], "lw": 1.2, "label": "central flow"},
    "stationary": {"color": COLORS["stationary"], "label": "stationary flow"},
    "ablated": {"color": COLORS["ablated"], "ls": "--", "label": "without penalty"},
    "ablated_stationary": {"color": COLORS["ablated"], "ls": "--", "label": "without penalty"},
}


def use_style() -> None:
    """Set matplotlib's defaults to those of ``style.mplstyle``; in a notebook figures become SVG.

    When the book is built, they are drawn a second time, for phones (`phone`).
    """
    plt.style.use("cflows.book.style")
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg")
        if media.publishing():
            phone.draw_both()
    except (ImportError, AttributeError):  # not in a notebook
        pass


def threshold(ax: Axes, value: float = 2.0, label: str = "2, the edge of stability") -> None:
    """A dashed line at the value beyond which an optimizer oscillates, named at its left end.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    value : float
    label : str
    """
    ax.axhline(value, color=COLORS["threshold"], ls="--", lw=1, zorder=1)
    ax.text(0.01, value, label, transform=ax.get_yaxis_transform(), va="bottom", fontsize=9, color="#666666")


def mark(axes: Sequence[Axes], step: int) -> None:
    """A dotted line at a step: the edge of stability, or where flows part.

    Parameters
    ----------
    axes : sequence of matplotlib.axes.Axes
    step : int
    """
    for ax in axes:
        ax.axvline(step, color=COLORS["threshold"], lw=1, ls=":")


def plain(ax: Axes, digits: Sequence[float] = (1, 2, 5)) -> None:
    """Numbers without powers along a logarithmic axis of values.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    digits : sequence of float
        Which numbers of each decade.
    """
    ax.yaxis.set_major_locator(LogLocator(subs=digits))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter("{x:g}")


def title(name: str | float) -> str:
    r"""What a panel is called: a name, or a learning rate in one notation, as η = 3×10⁻⁵.

    Parameters
    ----------
    name : str or float

    Returns
    -------
    str

    Examples
    --------
    >>> title(3e-5), title(1e-4), title("ResNet")
    ('$\\eta = 3\\times10^{-5}$', '$\\eta = 10^{-4}$', 'ResNet')
    """
    if isinstance(name, str):
        return name
    digits, exponent = f"{name:.1e}".split("e")
    factor = "" if float(digits) == 1 else rf"{float(digits):g}\times"
    return rf"$\eta = {factor}10^{{{int(exponent)}}}$"


def eigenvalues(ax: Axes, steps: ArrayLike, values: np.ndarray, count: int = 4, names: bool = True, **style) -> None:
    """Leading eigenvalues of the effective Hessian over time, each with its name where it is furthest from the others.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    steps : array (steps,)
    values : array (steps, eig)
        Each row in descending order; NaN at steps at which they were not computed, across which lines are drawn.
        Names stand within the limits of the axes, if those are set.
    count : int
        How many of them to draw, at most.
    names : bool
        Whether to write them.
    **style
        Options of matplotlib's ``plot``.
    """
    steps, count = np.asarray(steps), min(count, values.shape[1], len(EIGENVALUES))
    low, high = (-np.inf, np.inf) if ax.get_autoscaley_on() else ax.get_ylim()
    limits = low, high if np.isinf(high) else high - 0.12 * (high - low)  # a name needs room above its point
    for j in range(count):
        seen = np.isfinite(values[:, j])
        ax.plot(steps[seen], values[seen, j], color=EIGENVALUES[j], zorder=10 - j, **style)
        at = _apart(values[:, :count], j, limits) if names else None
        if at is not None:
            place: dict[str, Any] = {
                "xytext": (-2, 3),
                "textcoords": "offset points",
                "ha": "right",
                "va": "bottom",
                "zorder": 20,
            }
            name = ax.annotate(rf"$\lambda_{j + 1}$", (steps[at], values[at, j]), color=EIGENVALUES[j], **place)
            name.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])


def _apart(values: np.ndarray, j: int, limits: tuple[float, float]) -> int | None:
    """Where the j-th of some curves is furthest from the others and not close to an end; None if it is nowhere seen."""
    gaps = np.full(len(values), np.inf)
    for other in (j - 1, j + 1):
        if 0 <= other < values.shape[1]:
            gaps = np.fmin(gaps, abs(values[:, other] - values[:, j]))
    seen = np.flatnonzero((values[:, j] > limits[0]) & (values[:, j] < limits[1]))
    seen = seen[len(seen) // 20 : len(seen) - len(seen) // 20]
    return int(seen[np.argmax(gaps[seen])]) if len(seen) else None


def compare(
    run: xr.DataTree,
    variables: Mapping[str, str | Callable[[xr.Dataset], ArrayLike]],
    processes: Sequence[str] = (),
    optimizer: str = "optimizer",
    axes: Sequence[Axes] = (),
) -> Figure:
    """Processes of a run beside each other over time, a panel for each variable.

    Parameters
    ----------
    run : xarray.DataTree
        As of `simulate`.
    variables : mapping from title to str or callable
        Name of a variable, the first if it has several numbers a step (the largest eigenvalue), or a function of a
        process's data that returns an array (steps,).
    processes : sequence of str
        Which to draw; by default all.
    optimizer : str
        What it is called in the legend.
    axes : sequence of matplotlib.axes.Axes
        Where to draw; by default a row of a new figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    axes = axes or np.ravel(plt.subplots(1, len(variables), figsize=(8.2, 3.3), squeeze=False)[1]).tolist()
    others = cycle(f"C{i}" for i in range(2, 10))
    for name in processes or [name for name in run.children if "loss" in run[name]]:
        data, style = run[name].to_dataset(), PROCESSES.get(name) or {"color": next(others), "label": name}
        style = style | ({"label": optimizer} if name == "discrete" else {})
        for ax, (title, variable) in zip(axes, variables.items(), strict=True):
            values = variable(data) if callable(variable) else data[variable].interpolate_na("step")
            values = np.asarray(values)
            ax.plot(data["step"], values if values.ndim == 1 else values[:, 0], **style)
            ax.set(title=title, xlabel="step")
    axes[0].legend(loc="best", fontsize=8)
    return cast(Figure, axes[0].figure)


def beside(run: xr.DataTree, optimizer: str, **options) -> Figure:
    """An optimizer and its flows over time: loss, eigenvalues of the effective Hessian, distance to the optimizer.

    Parameters
    ----------
    run : xarray.DataTree
        As of `simulate`, with the processes "discrete" and "central".
    optimizer : str
        What it is called in the figure.
    **options
        Of the figure, such as its size.

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, (top, middle, bottom) = plt.subplots(3, 1, sharex=True, **{"figsize": (7.2, 6.6)} | options)
    _losses(top, run, optimizer)
    _spectrum(middle, run)
    _distances(bottom, run, optimizer)
    bottom.set(xlabel="step", xlim=(0, run["discrete"].sizes["step"]))
    for ax in (top, middle, bottom):  # above, where there is more room for words
        ax.set(title=ax.get_ylabel(), ylabel="")
    return fig


def plot(run: xr.DataTree, optimizer: str = "optimizer") -> Figure:
    """The four figures that say how well a central flow describes an optimizer.

    The loss, as it is and as predicted; the eigenvalues of the effective Hessian along the flow; the distance of flows
    to the optimizer; and the variance along the eigenvector of Σ with the largest one, predicted and as it is.

    Parameters
    ----------
    run : xarray.DataTree
        As of `simulate`, with the processes "discrete" and "central".
    optimizer : str
        What it is called in the figures.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the run lacks one of the two processes.
    """
    if missing := {"discrete", "central"} - set(run.children):
        raise ValueError(f"the run has no {' and no '.join(sorted(missing))}; simulate both processes")
    fig, axes = plt.subplots(2, 2, figsize=(9.6, 6.2), sharex=True, layout="constrained")
    _losses(axes[0, 0], run, optimizer)
    _spectrum(axes[0, 1], run)
    _distances(axes[1, 0], run, optimizer)
    central, ax = run["central"].to_dataset(), axes[1, 1]
    variance = central["variances"].values[:, 0]
    there = variance > 0
    if "displacements" in central and there.any():
        square = np.where(there, central["displacements"].values[:, 0] ** 2, np.nan)
        ax.plot(central["step"], square, color=COLORS["average"], lw=0.6, alpha=0.6, label=optimizer)
        ax.plot(central["step"], smooth(square), color=COLORS["discrete"], lw=2, label="its time-average")
        predicted = smooth(np.where(there, variance, np.nan))
        ax.plot(central["step"], predicted, color=COLORS["central"], label="predicted")
        ax.set_ylim(0, 4 * np.nanmax(predicted))
        ax.legend(loc="best")
    ax.set(ylabel="squared displacement")
    for ax in axes[1]:
        ax.set(xlabel="step", xlim=(0, run["discrete"].sizes["step"]))
    return fig


def _losses(ax: Axes, run: xr.DataTree, optimizer: str) -> None:
    """What the optimizer's loss is, what the central flow predicts of it, and the loss at the flow's weights."""
    discrete, central = (run[name].to_dataset() for name in ("discrete", "central"))
    ax.plot(discrete["step"], discrete["loss"], color=COLORS["discrete"], lw=2.5, label=optimizer)
    predicted = central["predicted_loss"]
    if "trusted" in central:  # what is not to be trusted is not shown as a prediction
        predicted = predicted.where(central["trusted"] > 0)
    ax.plot(central["step"], predicted, color=COLORS["central"], lw=1.2, label="central flow: predicted average")
    label = "central flow: loss at its weights"
    ax.plot(central["step"], central["loss"], color=COLORS["central"], lw=1.2, ls=":", label=label)
    positive = min(float(x.min()) for x in (discrete["loss"], central["loss"])) > 0  # NaN are left out
    ax.set(yscale="log" if positive else "linear", ylabel="training loss")
    ax.legend(loc="lower left")


def _spectrum(ax: Axes, run: xr.DataTree) -> None:
    """The eigenvalues along the central flow."""
    central = run["central"].to_dataset()
    eigenvalues(ax, central["step"], central["eigenvalues"].interpolate_na("step").values)
    edge = central.attrs["threshold"]
    threshold(ax, edge, label=f"{edge:g}")
    ax.set(ylabel=r"eigenvalues of $P^{-1}H$", ylim=(0, 1.2 * edge))


def _distances(ax: Axes, run: xr.DataTree, optimizer: str) -> None:
    """How far the flows are from the optimizer."""
    distance = run["distance"].to_dataset()
    for name, label in (("stable", "stable flow"), ("central", "central flow")):
        if f"{name}-discrete" in distance:
            ax.plot(distance["step"], distance[f"{name}-discrete"], color=COLORS[name], label=label)
    ax.set(ylabel=f"distance to {optimizer}")
    ax.legend(loc="best")
