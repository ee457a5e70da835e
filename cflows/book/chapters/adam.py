"""The figures of chapter 10: Adam's threshold, and Adam beside its central flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ... import metrics
from ...averaging import smooth
from .. import animations, figures
from ..figures import COLORS, EIGENVALUES

#: Rows of the tables of claims.
CLAIMS = {
    "adam-edge": "top eigenvalue from θ",
    "adam-locked": "the flow's from θ",
    "adam-loss": "error of the predicted loss",
    "adam-loss-trace": "that without tr X, over it",
    "adam-nu": "error of Σν",
    "adam-variance": "error of the variance",
    "adam-distance": "distance, of the stable's",
    "adam-ablated-loss": "loss without the penalty",
    "adam-ablated-sharpness": "sharpness, ratio",
    "adam-ablated-steps": "step sizes, ratio",
    "adam-cosine": "cosine of ν and ν̄",
}
NAMES = {"adam-mlp": "perceptron", "adam-cnn": "CNN", "adam-resnet": "ResNet", "adam-transformer": "transformer"}


def threshold(beta1: float) -> float:
    """θ of equation :eq:`eq-adam-threshold`.

    Parameters
    ----------
    beta1 : float
        β₁.

    Returns
    -------
    float
    """
    return 2 * (1 + beta1) / (1 - beta1)


def iterates(eigenvalue: float, beta1: float, steps: int, m: float = 0.0) -> Float[np.ndarray, "steps"]:
    """Adam's iterates along an eigenvector of a fixed P⁻¹H, from w = 1.

    Parameters
    ----------
    eigenvalue : float
        λ.
    beta1 : float
    steps : int
    m : float
        What m is at first, over P.

    Returns
    -------
    array (steps,)
    """
    w, seen = 1.0, []
    for _ in range(steps):
        seen.append(w)
        m = beta1 * m + (1 - beta1) * eigenvalue * w
        w -= m
    return np.array(seen)


def growth(eigenvalue: ArrayLike, beta1: float) -> np.ndarray:
    """By which an oscillation along an eigenvector is multiplied in a step: the size of the larger root.

    Parameters
    ----------
    eigenvalue : array
        λ.
    beta1 : float

    Returns
    -------
    array
        Like ``eigenvalue``.
    """
    b = 1 + beta1 - (1 - beta1) * np.asarray(eigenvalue, dtype=complex)
    root = np.sqrt(b**2 - 4 * beta1)
    return np.maximum(abs(b + root), abs(b - root)) / 2


def film(beta1: float = 0.9, shares: Sequence[float] = (0.1, 0.9, 1.0, 1.0005), steps: int = 80):
    """A film of the iterates along an eigenvector, a panel for each eigenvalue.

    Parameters
    ----------
    beta1 : float
    shares : sequence of float
        The eigenvalues, over θ.
    steps : int
        How many steps to take, a frame for each.

    Returns
    -------
    IPython.display.HTML
    """
    paths = [iterates(share * threshold(beta1), beta1, steps, m=-2.0) for share in shares]  # as if it came from -1
    rows = -(-len(shares) // 2)
    fig, axes = plt.subplots(rows, 2, sharex=True, sharey=True, squeeze=False, **animations.size(1.7 * rows + 0.5))
    lines, dots = [], []
    for ax, share in zip(axes.flat, shares, strict=True):
        ax.axhline(0, color=COLORS["threshold"], lw=0.8)
        lines.append(ax.plot([], [], "-", lw=0.8, color=COLORS["discrete"], alpha=0.7)[0])
        dots.append(ax.plot([], [], "o", ms=5, color=COLORS["discrete"])[0])
        ax.set(title=rf"$\lambda = {share:g}\,\theta$", xlim=(0, steps), ylim=(-3.4, 3.4))
    for ax in axes[-1]:
        ax.set_xlabel("step")
    for ax in axes[:, 0]:
        ax.set_ylabel("iterate")

    def draw(i: int) -> None:
        for line, dot, path in zip(lines, dots, paths, strict=True):
            line.set_data(range(i + 1), path[: i + 1])
            dot.set_data([i], path[i : i + 1])

    alt = "Far below the threshold the iterate swings slowly; near it, from side to side; above it, further each time."
    return animations.animation(fig, draw, steps, "adam", alt, fps=12)


def growth_curves(betas: Sequence[float]) -> Figure:
    """The growth of an oscillation in a step against its eigenvalue over θ, a curve for each β₁.

    Parameters
    ----------
    betas : sequence of float

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, ax = plt.subplots(figsize=(6, 3.4))
    share = np.linspace(0.6, 1.2, 601)
    for beta1, color in zip(betas, EIGENVALUES, strict=False):
        ax.plot(share, growth(share * threshold(beta1), beta1), color=color, label=rf"$\beta_1 = {beta1:g}$")
    ax.axhline(1, color=COLORS["threshold"], lw=1, ls="--")
    ax.axvline(1, color=COLORS["threshold"], lw=1, ls=":")
    ax.set(xlabel=r"eigenvalue of $P^{-1}H$, over $\theta$", ylabel="growth in a step", ylim=(0.2, 2))
    ax.legend(fontsize=8)
    return fig


def edges(runs: Mapping[str, xr.DataTree], names: Sequence[str] = ("adam-resnet", "adam-cnn")) -> Figure:
    """Eigenvalues over θ, at Adam's midpoints and along its central flow.

    Parameters
    ----------
    runs : mapping from name to DataTree
    names : sequence of str
        Which of them.

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, axes = plt.subplots(1, len(names), figsize=(8.4, 3.3), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        ax.set(xlabel="step", title=NAMES[name], ylim=(0, 1.3))
        for process, width in (("midpoint", 0.8), ("central", 2.0)):
            node = runs[name][process]
            values = node["eigenvalues"].values / node.attrs["threshold"]
            figures.eigenvalues(ax, node["step"], values, names=process == "central", lw=width)
        figures.threshold(ax, 1.0, label=r"$\theta$")
    axes[0].set_ylabel(r"eigenvalues of $P^{-1}H$, over $\theta$")
    return fig


def losses(runs: Mapping[str, xr.DataTree]) -> Figure:
    """Averages over time, over Adam's own: predicted loss, loss at the flow's weights, the stable flow's, and Σν.

    Parameters
    ----------
    runs : mapping from name to DataTree

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, axes = plt.subplots(1, len(runs), figsize=(9.6, 2.9), sharey=True)
    for ax, (name, run) in zip(axes, runs.items(), strict=True):
        adam, central, stable = (run[x].to_dataset() for x in ("discrete", "central", "stable"))
        curves: dict[str, tuple[xr.DataArray, xr.DataArray, dict[str, Any]]] = {
            "predicted loss": (central["predicted_loss"], adam["loss"], {"color": COLORS["central"], "lw": 2}),
            "without tr X": (central["loss"], adam["loss"], {"color": COLORS["central"], "ls": ":"}),
            "stable flow": (stable["loss"], adam["loss"], {"color": COLORS["stable"]}),
            r"sum of $\nu$": (central["nu_sum"], adam["nu_sum"], {"color": COLORS["growth"]}),
        }  # fmt: skip
        for label, (prediction, actual, style) in curves.items():
            there = np.where(np.isnan(prediction), np.nan, actual)
            ax.plot(adam["step"], smooth(prediction) / smooth(there), label=label, **style)
        figures.mark([ax], metrics.edge(run.children["central"]))
        ax.axhline(1, color=COLORS["threshold"], lw=1, zorder=1)
        ax.set(title=NAMES[name], xlabel="step", ylim=(0, 1.6))
    axes[0].set_ylabel("over Adam's")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return fig


def momenta(family: Mapping[float, xr.DataTree]) -> Figure:
    """Top eigenvalue over θ, and the error of the predicted loss, for several β₁.

    Parameters
    ----------
    family : mapping from β₁ to DataTree

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2))
    for (beta1, run), color in zip(family.items(), EIGENVALUES, strict=False):
        adam, central = (run.children[x].to_dataset() for x in ("discrete", "central"))
        step, start = adam["step"].values, metrics.edge(run.children["central"])
        left.plot(step, top(run), color=color, label=rf"$\beta_1 = {beta1:g}$")
        off = smooth(central["predicted_loss"].values) / smooth(adam["loss"].values) - 1
        right.plot(step[start:], off[start:], color=color)
    for ax in (left, right):
        ax.axhline(float(ax is left), color=COLORS["threshold"], lw=1, ls="--")
        ax.set_xlabel("step")
    left.set(title=r"top eigenvalue over $\theta$", ylim=(0, 1.4))
    right.set(title="predicted loss over the actual, less 1")
    left.legend(fontsize=8)
    return fig


def top(run: xr.DataTree) -> Float[np.ndarray, "steps"]:
    """The optimizer's largest eigenvalue over θ, at midpoints, averaged over time.

    Parameters
    ----------
    run : xarray.DataTree

    Returns
    -------
    array (steps,)
    """
    middle = run["midpoint"]
    return smooth(middle["eigenvalues"].interpolate_na("step")[:, 0].values / middle.attrs["threshold"])
