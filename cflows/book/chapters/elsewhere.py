"""The figures of chapter 9: what a survey of networks says, and where eigenvalues are taken."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ... import survey
from .. import figures
from ..figures import COLORS

#: From a number of the survey to its title, the limit that other chapters ask of it, and the range that is shown.
PANELS = {
    "mean_loss_error": ("error of the predicted loss", 0.03, (1e-4, 1)),
    "loss_error_without": ("the same without tr X", 0.03, (1e-4, 1)),
    "nu_error": ("error of ν", 0.1, (3e-3, 1)),
    "distance": ("distance / stable flow", 0.5, (3e-2, 3)),
    "variance_error": ("largest error of a variance", 0.2, (5e-3, 2)),
    "penalty": ("share of the penalty", None, (0, 1)),
    "ablated_loss": ("loss without / with penalty", 1, (0.7, 30)),
    "cosine": ("cosine of ν and ν̄", 0.98, (0, 1)),
}
LOSS_COLORS = dict(zip(survey.LOSSES, (COLORS["discrete"], COLORS["stable"]), strict=True))


def runs(rows: pd.DataFrame) -> Figure:
    """The survey's numbers, a point a run, the networks across.

    Parameters
    ----------
    rows : DataFrame
        Some of the survey's rows.

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, axes = plt.subplots(2, 4, figsize=(7.8, 4.8), sharex=True)
    places = {name: i for i, name in enumerate(survey.NETWORKS)}
    for ax, (name, (title, limit, ends)) in zip(axes.flat, PANELS.items(), strict=True):
        for (network, loss, lr), group in rows.groupby(["network", "loss", "lr"]):
            shift = 0.4 * (survey.LOSSES.index(loss) + 0.5 * survey.RATES.index(lr) - 0.75)
            x = places[network] + shift + 0.05 * (group["seed"] - 1)
            ax.plot(x, group[name].clip(*ends), **_style(loss, lr))
        if limit:
            ax.axhline(limit, color=COLORS["threshold"], ls="--", lw=0.8)
        ax.set(ylim=ends, yscale="linear" if ends[0] == 0 else "log", xlim=(-0.6, len(places) - 0.4))
        ax.set_title(title, fontsize=9)
        ax.set_xticks(range(len(places)), [n.replace(" transformer", "\ntransf.") for n in places], rotation=60)
        ax.tick_params(labelsize=8)
    fig.legend(*_kinds(), loc="outside lower center", ncols=4, fontsize=9)
    return fig


def bursts(rows: pd.DataFrame) -> Figure:
    """The error of the predicted loss against the largest jump of the optimizer's ν.

    Parameters
    ----------
    rows : DataFrame
        Some of the survey's rows.

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, ax = plt.subplots(figsize=(6, 3.6))
    for (loss, lr), group in rows.groupby(["loss", "lr"]):
        ax.plot(group["jump"], group["mean_loss_error"], **_style(loss, lr))
    ax.set(xscale="log", yscale="log", ylabel="error of the predicted loss")
    ax.set_xlabel(r"largest growth of the sum of $\nu$ in one step")
    ticks = [1, 1.2, 1.5, 2, 2.5]
    ax.set_xticks(ticks, map(str, ticks))
    ax.set_xticks([], minor=True)
    ax.axhline(0.03, color=COLORS["threshold"], ls="--", lw=0.8)
    ax.legend(*_kinds(), loc="lower right", fontsize=8)
    return fig


def _style(loss: str, lr: float) -> dict[str, Any]:
    color = LOSS_COLORS[loss]
    return {
        "color": color,
        "mfc": color if lr == survey.RATES[-1] else "none",
        "ls": "",
        "marker": "o",
        "ms": 4,
        "mew": 0.9,
    }


def _kinds() -> tuple[list[Line2D], list[str]]:
    """Handles and labels of a legend."""
    kinds = [(loss, lr) for loss in survey.LOSSES for lr in survey.RATES]
    return [Line2D([], [], **_style(*kind)) for kind in kinds], [f"{loss}, η = {lr:g}" for loss, lr in kinds]


def looks(seen: dict[str, pd.DataFrame]) -> Figure:
    """Top eigenvalues along RMSProp, taken in three ways, and what leaving out the bias correction makes of 2.

    Parameters
    ----------
    seen : dict
        From loss to a table with a column for each way to look, "step" and "factor".

    Returns
    -------
    matplotlib.figure.Figure
    """
    ways = {
        ("iterate", "after", "no"): ("stable", "iterates, not corrected"),
        ("iterate", "after", "yes"): ("discrete", "iterates"),
        ("midpoint", "after", "yes"): ("central", "midpoints"),
    }
    fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.1), sharey=True)
    for ax, (loss, d) in zip(axes, seen.items(), strict=True):
        ax.plot(d["step"], 2 * d["factor"], color=COLORS["average"], lw=4, alpha=0.5, label="2, times the factor")
        for key, (color, label) in ways.items():
            ax.plot(d["step"], d[key], color=COLORS[color], lw=1.2, label=label)
        figures.threshold(ax)
        ax.set(xlabel="step", title=loss)
    axes[0].set_ylabel("top eigenvalue")
    axes[1].legend(loc="upper right", fontsize=8)
    return fig


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Median over the seeds and range, for each network, loss and learning rate.

    Parameters
    ----------
    rows : DataFrame
        Some of the survey's rows.

    Returns
    -------
    DataFrame
    """

    def ranges(x: pd.Series) -> str:
        if not x.notna().any():
            return "–"
        low, middle, high = np.nanmin(x), np.nanmedian(x), np.nanmax(x)
        return (
            f"{middle:.2g} ({low:.2g}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high:.2g})"
            if len(x) > 1
            else f"{middle:.2g}"
        )

    grouped = rows.groupby(["network", "loss", "lr"], sort=False)
    return pd.concat({title: grouped[name].apply(ranges) for name, (title, *_) in PANELS.items()}, axis=1)
