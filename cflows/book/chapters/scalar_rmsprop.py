"""The figures of chapter 3: Scalar RMSProp, its step size, and what holds it at the edge."""

from __future__ import annotations

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ... import metrics
from ...averaging import smooth
from .. import animations, figures
from ..figures import COLORS

#: A film of Scalar RMSProp and its flows, drawn as training goes on: a function of the run.
film = partial(animations.beside, optimizer="Scalar RMSProp", name="scalar-central-flow")


def step_size(run: xr.DataTree) -> Figure:
    """The loss, the largest eigenvalues of P⁻¹H at midpoints, and the effective step size beside the largest stable.

    Parameters
    ----------
    run : xarray.DataTree
        Of Scalar RMSProp, with "discrete" and "midpoint".

    Returns
    -------
    matplotlib.figure.Figure
    """
    scalar, midpoint, n = run["discrete"].to_dataset(), run["midpoint"].to_dataset(), run.attrs["weights"]
    step, values = scalar["step"].values, midpoint["eigenvalues"].values
    stable = 2 * n / (values[:, 0] * midpoint["p_sum"].values)  # 2/S, as the eigenvalue is S/p
    there = np.isfinite(stable)
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(8.2, 3))
    left.semilogy(step, scalar["loss"], color=COLORS["discrete"], lw=1)
    left.set(xlabel="step", title="training loss")
    middle.set(xlabel="step", title=r"largest eigenvalues of $P^{-1}H$", ylim=(0, 3.4))
    figures.eigenvalues(middle, step, values, marker=".", ms=4, lw=1)
    figures.threshold(middle, label="2")
    right.semilogy(step, n / scalar["p_sum"], color=COLORS["discrete"], lw=1.2, label="the optimizer's")
    right.semilogy(step[there], stable[there], "o--", color="#767676", ms=2, lw=1, label="largest stable, $2/S$")
    right.set(xlabel="step", title=r"effective step size $\eta/\sqrt{\hat\nu}$")
    right.legend(loc="best")
    return fig


def two_brakes(run: xr.DataTree) -> Figure:
    """Effective step sizes of the optimizer and its flow; what lowers the eigenvalues at 2, as shares of the whole.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete" and "central".

    Returns
    -------
    matplotlib.figure.Figure
    """
    scalar, central, n = run["discrete"].to_dataset(), run.children["central"], run.attrs["weights"]
    step, edge = scalar["step"].values, metrics.edge(central)
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.2))
    left.semilogy(step, n / scalar["p_sum"], color=COLORS["discrete"], lw=1, label="Scalar RMSProp")
    left.semilogy(step, n / central["p_sum"], color=COLORS["central"], lw=2, label="central flow")
    left.set(xlabel="step", title=r"effective step size $\eta/\sqrt{\hat\nu}$")
    left.legend(loc="best")
    share = smooth(metrics.curvature_share(central))
    right.fill_between(step, 0, share, color=COLORS["curvature"], lw=0)
    right.fill_between(step, share, 1, color=COLORS["growth"], lw=0)
    if edge < len(step) - 1:
        at = 0.5 * (step[edge] + step[-1])
        right.text(at, 0.15, "lower curvature", ha="center")
        right.text(at, 0.8, r"larger $\nu$", ha="center", color="white")
    right.set(xlabel="step", title="what holds the eigenvalues at 2, shares", ylim=(0, 1), xlim=(step[0], step[-1]))
    right.grid(False)
    return fig
