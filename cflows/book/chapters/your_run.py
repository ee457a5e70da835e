"""The figure of chapter 12: a spike of the loss, and the gauge's readings about it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from .. import figures
from ..figures import COLORS

BEFORE = 25  # steps whose median loss a step is compared with
WINDOW = 60  # steps on both sides of a spike that are drawn


def rise(losses: Float[np.ndarray, "steps"]) -> Float[np.ndarray, "steps"]:
    """The loss at each step over the median of the steps before it; 1 where there are too few of them.

    Parameters
    ----------
    losses : array (steps,)

    Returns
    -------
    array (steps,)

    Examples
    --------
    >>> rise(np.array(25 * [2.0] + [6.0]))[-2:]
    array([1., 3.])
    """
    medians = [np.median(losses[t - BEFORE : t]) for t in range(BEFORE, len(losses))]
    return np.concatenate([np.ones(min(BEFORE, len(losses))), losses[BEFORE:] / medians])


def spike(losses: Float[np.ndarray, "steps"], seen: pd.DataFrame) -> Figure:
    """The loss and the eigenvalue over its threshold, in the whole run and about its largest spike.

    Parameters
    ----------
    losses : array (steps,)
        Of the batches.
    seen : pandas.DataFrame
        Readings of a `Gauge`, a row for each; ``ratio`` is drawn, over ``step``, its index.

    Returns
    -------
    matplotlib.figure.Figure
    """
    steps, worst = len(losses), int(rise(losses).argmax()) + 1
    fig, axes = plt.subplots(2, 2, figsize=(8.4, 4.4), sharex="col")
    whole, about = (1, steps), (max(1, worst - WINDOW), min(steps, worst + WINDOW))
    for (above, below), (first, last) in zip(axes.T, (whole, about), strict=True):
        there = seen.loc[first:last]
        t = np.arange(first, last + 1)
        above.semilogy(t, losses[first - 1 : last], color=COLORS["discrete"], lw=0.8)
        below.plot(there.index, there["ratio"], "o-", ms=2.5, lw=1, color=COLORS["average"])
        figures.threshold(below, 1, "1, the edge of stability" if first == 1 else "")
        below.set(xlim=(first, last), xlabel="step")
    for ax in axes[:, 0]:
        ax.axvspan(*about, color="#eeeeee", zorder=0)
    axes[1, 0].set_ylim(0, 1.15 * max(1.0, seen["ratio"].max()))
    axes[0, 0].set(ylabel="loss of a batch", title="the whole run")
    axes[0, 1].set(title="about the largest spike")
    axes[1, 0].set_ylabel("eigenvalue over threshold")
    return fig
