"""Interactive figures that need no kernel: what they show, and the page's side of it (interactive.js, interactive.css).

Plotly is part of the notebook, and the figure is there at once. If Plotly is a file to link to (`publish`), the figure
is a poster with a button that loads it.
"""

from __future__ import annotations

import json
from html import escape
from importlib import resources

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import ArrayLike

from .. import stationary
from ..quadratic import effective_eigh, preconditioned_gd
from . import figures, media


def quadratic(H: Float[np.ndarray, "2 2"], p: Float[np.ndarray, "2"], w0: Float[np.ndarray, "2"], steps: int = 60):
    """An explorer of preconditioned gradient descent on ½ wᵀHw, with two weights.

    The reader changes η, the eigenvalues of H, the angle of its top eigenvector to the first axis, and p₂/p₁, where
    P = diag(1, p₂/p₁)/η, and sees iterates, right eigenvectors of P⁻¹H and their factors 1 - λ.

    Parameters
    ----------
    H, p, w0
        Where the explorer begins: as in `preconditioned_gd`, with shapes (2, 2), (2,), (2,).
    steps : int
        Number of steps to draw.

    Returns
    -------
    IPython.display.HTML

    Raises
    ------
    ValueError, TypeError
        If there are not two weights, or as `preconditioned_gd`.
    """
    data = quadratic_data(H, p, w0, steps)
    values, vectors = np.linalg.eigh(H)
    turn = np.linspace(0, 2 * np.pi, 60)
    ellipse = vectors @ (np.array([np.cos(turn), np.sin(turn)]) / np.sqrt(np.maximum(values, 0.1))[:, None])
    curves = [(*(size * ellipse), "threshold") for size in np.linspace(0.15, 1.25, 7)]
    curves.append((*preconditioned_gd(H, p, w0, steps).T, "discrete"))
    return _html("quadratic", data, curves, (-4.8, 4.8, -1.6, 1.6), "Move the learning rate and the curvatures")


def quadratic_data(
    H: Float[np.ndarray, "2 2"], p: Float[np.ndarray, "2"], w0: Float[np.ndarray, "2"], steps: int
) -> dict:
    """What the explorer begins with.

    Parameters
    ----------
    H, p, w0, steps
        As of `quadratic`.

    Returns
    -------
    dict
        Positions of its sliders, angles in degrees.
    """
    effective_eigh(H, p)  # for its checks
    if np.shape(H) != (2, 2):
        raise ValueError(f"H has shape {np.shape(H)}; the explorer draws two weights, pass (2, 2)")
    (low, top), vectors = np.linalg.eigh(H)
    x, y = vectors[:, 1] * (1 if vectors[0, 1] >= 0 else -1)
    controls = {"lr": 1 / p[0], "top": top, "low": low, "angle": np.degrees(np.arctan2(y, x)), "ratio": p[1] / p[0]}
    return {"steps": steps, "w0": _rounded(w0), "controls": {k: _rounded(v) for k, v in controls.items()}}


def program(H: Float[np.ndarray, "2 2"], g: Float[np.ndarray, "2"], eta: float):
    """An explorer of the convex program of `stationary.solve`, with two weights.

    The reader changes η, the gradient and the Hessian's entry h₁₂, and sees P̂, P̄ and the path of P̄ over all η in the
    plane of p₁ and p₂, the speeds of both, and what ν̄ is made of. The page solves the program itself.

    Parameters
    ----------
    H, g : array (2, 2), array (2,)
        Hessian and gradient that it begins with. Only the size of the gradient's entries matters.
    eta : float
        Learning rate that it begins with.

    Returns
    -------
    IPython.display.HTML

    Raises
    ------
    ValueError
        If there are not two weights.
    """
    if np.shape(H) != (2, 2) or np.shape(g) != (2,):
        raise ValueError(f"H has shape {np.shape(H)}, g {np.shape(g)}; the explorer draws two weights")
    (h11, h12), (_, h22) = np.asarray(H, dtype=float)
    controls = {"lr": eta, "g1": abs(g[0]), "g2": abs(g[1]), "off": h12}
    data = {"H": _rounded(H), "window": [0, 3], "controls": {k: _rounded(v) for k, v in controls.items()}}
    x = h11 / 2 + np.geomspace(0.02, 20, 200)
    edge = x, (h22 + h12**2 / (2 * x - h11)) / 2
    bar = np.array([stationary.solve(np.asarray(H), np.asarray(g), r).p for r in np.geomspace(0.1, 10, 30)])
    window = (h11 / 2 - 1.2, h11 / 2 + 4.8, 0.2, 2.2)
    return _html("program", data, [(*edge, "threshold"), (*bar.T, "stationary")], window, "Move η and the gradient")


def training(run: xr.DataTree):
    """A scrubber over the run of an optimizer and its central flow: any step of it, by a slider.

    Parameters
    ----------
    run : xarray.DataTree
        As of `simulate`, with the processes discrete, midpoint and central, and ``coords``.

    Returns
    -------
    IPython.display.HTML

    Raises
    ------
    ValueError
        If the run lacks one of them.
    """
    if missing := [name for name in ("discrete", "midpoint", "central") if name not in run.children]:
        raise ValueError(f"the run has no {missing[0]!r}; simulate with processes=('discrete', 'midpoint', 'central')")
    if "nu" not in run["discrete"]:
        raise ValueError("the run has no ν of single weights; simulate with coords, some positions in w")
    data = training_data(run)
    columns = np.array(data["eigenvalues"], dtype=float).T
    curves = [(data["refreshes"], column, color) for column, color in zip(columns, figures.EIGENVALUES, strict=False)]
    curves.append(([0, data["steps"]], [2, 2], "threshold"))
    return _html("training", data, curves, (0, data["steps"], 0, 2.8), "Move through training, step by step")


def training_data(run: xr.DataTree) -> dict:
    """What the scrubber draws, rounded to what can be seen.

    Parameters
    ----------
    run : xarray.DataTree
        As of `training`.

    Returns
    -------
    dict
        As below; None where the run has no number.

    Notes
    -----
    ``loss`` and ``predicted`` have a number for each step, ``displacements`` and ``deviations`` as many for each
    direction in which the run oscillates. At ``refreshes``, the steps at which eigenvalues at the midpoints were
    computed, there are ``eigenvalues`` and ``flow_eigenvalues`` (between the flow's own refreshes, interpolated), and
    ``nu`` and ``flow_nu`` for each of ``weights``. ``start`` is the step of the largest displacement.
    """
    count = len(figures.EIGENVALUES)  # of colors to tell eigenvalues, or directions, apart
    discrete, midpoint, central = (run[name].to_dataset() for name in ("discrete", "midpoint", "central"))
    refreshes = np.flatnonzero(np.isfinite(midpoint["eigenvalues"][:, 0].values))
    displacements = central["displacements"].values.T[:count]
    displacements = displacements[np.isfinite(displacements).any(1)]
    deviations = np.sqrt(central["variances"].values.T[: len(displacements)])
    size = abs(np.nan_to_num(displacements)).max(0, initial=0)
    return {
        "steps": discrete.sizes["step"],
        "start": int(size.argmax()) if size.any() else int(discrete.sizes["step"] // 2),
        "loss": _rounded(discrete["loss"], 4),
        "predicted": _rounded(central["predicted_loss"], 4),
        "refreshes": refreshes.tolist(),
        "eigenvalues": _rounded(midpoint["eigenvalues"][refreshes, :count], 4),
        "flow_eigenvalues": _rounded(central["eigenvalues"].interpolate_na("step")[refreshes, :count], 4),
        "displacements": _rounded(displacements),
        "deviations": _rounded(deviations),
        "weights": discrete["coord"].values.tolist(),
        "nu": _rounded(discrete["nu"][refreshes]),
        "flow_nu": _rounded(central["nu"][refreshes]),
    }


def _rounded(x: ArrayLike, digits: int = 3):
    """Numbers, or nested lists of them, with so many significant digits; None for those that are not finite."""
    x = np.asarray(x, dtype=float)
    if x.ndim:
        return [_rounded(row, digits) for row in x]
    return float(f"{x:.{digits}g}") if np.isfinite(x) else None


def _html(name: str, data: dict, curves: list[tuple], window: tuple[float, float, float, float], call: str):
    from IPython.display import HTML
    from plotly.offline import get_plotlyjs

    files = resources.files(__package__)
    script, style = (files.joinpath(f"interactive.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    plotly = get_plotlyjs()
    address = media.publish("plotly.min.js", plotly.encode())
    embedded = "" if address else f"<script>{plotly}</script>"
    data |= {"colors": figures.COLORS, "palette": figures.EIGENVALUES}
    return HTML(
        f'<div class="cflows-interactive" data-interactive="{name}" data-plotly="{address}">'
        f"<style>{style}</style>{_poster(curves, window, call)}"
        f'<script type="application/json">{json.dumps(data, separators=(",", ":"))}</script></div>'
        f"{embedded}<script>{script}</script>"
    )


def _poster(curves: list[tuple], window: tuple[float, float, float, float], call: str) -> str:
    """Curves (x, y, color), drawn light, under a button."""
    left, right, bottom, top = window
    lines = []
    for x, y, color in curves:
        x = 600 * (np.asarray(x, dtype=float) - left) / (right - left)
        y = 200 * (top - np.asarray(y, dtype=float)) / (top - bottom)
        points = " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(x, y, strict=True) if np.isfinite(a + b))
        lines.append(f'<polyline points="{points}" stroke="{figures.COLORS.get(color, color)}"/>')
    return (
        f'<div class="poster"><svg viewBox="0 0 600 200" preserveAspectRatio="xMidYMid slice" aria-hidden="true">'
        f'{"".join(lines)}</svg><button type="button" class="load">{escape(call)}</button></div>'
    )
