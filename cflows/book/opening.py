"""The film of the first page: a valley, RMSProp between its walls, the central flow on its floor. Drawn from a run."""

from __future__ import annotations

from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from ..metrics import edge
from . import animations
from .figures import COLORS

NAME = "opening"
#: Steps that are seen at once, before and after the present one, and how many the film runs through.
BEFORE, AFTER, STEPS = 34, 9, 84
ALT = (
    "A valley from above. RMSProp bounces between its walls, wider and narrower in turn; the central flow glides along "
    "the floor, downhill."
)


def opening(run: xr.DataTree, frames_per_step: int = 3, steps: int = STEPS):
    """Draw it: the plane of the drift, in steps, and of the first eigenvector of Σ, in the norm of P.

    Contours are those of the loss to second order about the flow: the loss at the flow's weights, and half of the
    eigenvalue times the square of the displacement.

    Parameters
    ----------
    run : xarray.DataTree
        As of `simulate`, with the processes "discrete" and "central".
    frames_per_step : int
        The optimizer jumps in that many frames.
    steps : int
        How many to show from the edge on, at most.

    Returns
    -------
    IPython.display.HTML
        As of `animation`.
    """
    central = run["central"].to_dataset()
    begin = min(edge(cast(xr.DataTree, run["central"])), central.sizes["step"] - 2)
    steps = min(steps, central.sizes["step"] - 1 - begin)
    displacement = np.nan_to_num(central["displacements"].values[begin:, 0])
    deviation = np.sqrt(central["variances"].values[begin:, 0])
    floor = central["loss"].values
    top = central["eigenvalues"].values[:, 0]
    known = np.flatnonzero(np.isfinite(top))
    curvature = np.interp(np.arange(len(top)), known, top[known])
    limit = 1.25 * max(np.abs(displacement[: steps + 1]).max(), 1e-12)

    fig, ax = plt.subplots(figsize=(8, 3.8), dpi=100, layout="none")
    ax.set_position((0, 0, 1, 1))
    ax.axis("off")
    _valley(ax, floor, curvature, begin, steps, limit)
    x = np.arange(len(displacement))
    (band,) = ax.fill(*_tube(x[:1], deviation[:1]), color=COLORS["average"], alpha=0.35, lw=0)
    (path,) = ax.plot([], [], color=COLORS["discrete"], lw=1.6, alpha=0.8)
    (flow,) = ax.plot([], [], color=COLORS["central"], lw=4, solid_capstyle="round")
    (head,) = ax.plot([], [], "o", color=COLORS["central"], ms=11)
    (ball,) = ax.plot([], [], "o", color=COLORS["discrete"], ms=17, mec="white", mew=1.5)
    words: dict[str, Any] = {"fontsize": 19, "fontweight": "bold", "ha": "left", "va": "center"}
    names = [ax.text(0, 0, "RMSProp", color=COLORS["discrete"], **words), ax.text(0, 0, "central flow", **words)]
    for name in names:
        name.set_bbox({"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.75})
    swing = ax.text(0, 0, "predicted swing", fontsize=17, color="#1f6f9f", va="top")
    where = ax.text(0.985, 0.05, "", transform=ax.transAxes, fontsize=16, ha="right", color="#444444")
    ax.text(0.015, 0.05, "downhill →", transform=ax.transAxes, fontsize=16, color="#444444")

    def draw(i: int) -> None:
        t = (i + 1) / frames_per_step
        whole, part = divmod(t, 1)
        jump = min(1.0, 1.6 * part)  # and a short rest where it lands
        past = slice(0, int(whole) + 1)
        here = np.interp(whole + jump, x, displacement)
        path.set_data([*x[past], whole + jump], [*displacement[past], here])
        ball.set_data([whole + jump], [here])
        flow.set_data([min(0, t - BEFORE), t], [0, 0])
        head.set_data([t], [0])
        tube = np.linspace(0, t, 120)
        band.set_xy(np.transpose(_tube(tube, np.interp(tube, x, deviation))))
        ax.set(xlim=(t - BEFORE, t + AFTER), ylim=(-limit, limit))
        names[0].set_position((t - BEFORE + 0.8, 0.82 * limit))
        names[1].set_position((t - BEFORE + 0.8, 0))
        swing.set_position((t - BEFORE + 1.2, -1.1 * np.interp(t - BEFORE + 6, x, deviation)))
        swing.set_visible(t > BEFORE / 3)
        where.set_text(f"step {begin + int(whole)}")

    return animations.animation(fig, draw, frames_per_step * steps - 1, NAME, ALT, fps=20, crf=30)


def _tube(x: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([x, x[::-1]]), np.concatenate([width, -width[::-1]])


def _valley(ax, floor: np.ndarray, curvature: np.ndarray, begin: int, steps: int, limit: float) -> None:
    """Contours, and light: the higher, the darker."""
    first, last = max(begin - BEFORE, 0), min(begin + steps + AFTER + 1, len(floor))
    s, y = np.arange(first, last), np.linspace(-limit, limit, 81)
    smooth = np.polynomial.Polynomial.fit(s, floor[first:last], min(6, last - first - 1))(s)
    loss = smooth + 0.5 * curvature[first:last] * y[:, None] ** 2
    s = s - begin
    if s[0] > -BEFORE:  # before the first step the valley goes on as it begins
        more = np.arange(-BEFORE, s[0])
        loss = np.hstack([loss[:, :1] + (loss[:, :1] - loss[:, 1:2]) * (s[0] - more), loss])
        s = np.concatenate([more, s])
    levels = np.linspace(loss.min(), loss.max(), 60)
    ax.contourf(s, y, loss, levels, cmap="bone_r", alpha=0.55)
    ax.contour(s, y, loss, levels, colors="#7a8a99", linewidths=0.7, alpha=0.8)
