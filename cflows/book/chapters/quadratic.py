"""The figures of chapter 1: preconditioned gradient descent on a quadratic with two weights."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...quadratic import effective_eigh, preconditioned_gd
from .. import animations
from ..figures import COLORS, EIGENVALUES

REACH = 1.6  # half the side of the plane that is drawn


def one_eigenvalue(eigenvalues: Sequence[float] = (0.4, 1.6, 1.95, 2.08), steps: int = 25) -> Figure:
    """A component of the iterate, step by step, a panel for each eigenvalue.

    Parameters
    ----------
    eigenvalues : sequence of float
        λ, by which a step multiplies with 1 - λ.
    steps : int
        How many steps to take.

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, axes = plt.subplots(1, len(eigenvalues), figsize=(7.6, 2.3), sharey=True, squeeze=False)
    for ax, lam in zip(axes[0], eigenvalues, strict=True):
        component = preconditioned_gd(np.array([[lam]]), np.ones(1), np.ones(1), steps)[:, 0]
        ax.axhline(0, color=COLORS["threshold"], lw=0.8)
        ax.plot(component, "o-", ms=3, lw=0.9, color=COLORS["discrete"])
        ax.set(title=rf"$\lambda = {lam:g}$", xlabel="step")
    axes[0, 0].set_ylabel("component along $q$")
    return fig


def two_weights(
    H: Float[np.ndarray, "2 2"], p: Float[np.ndarray, "2"], iterates: Float[np.ndarray, "steps 2"], frames: int = 0
):
    """A film of the iterates in the plane of the two weights, and of their components along both eigenvectors.

    Parameters
    ----------
    H : array (2, 2)
        Hessian.
    p : array (2,)
        Diagonal of the preconditioner.
    iterates : array (steps, 2)
        As of `preconditioned_gd`.
    frames : int
        Number of frames; by default one for each iterate.

    Returns
    -------
    IPython.display.HTML
    """
    values, Q = effective_eigh(H, p)
    Q = Q / np.linalg.norm(Q, axis=0)
    components = np.abs(np.linalg.solve(Q, iterates.T))
    fig, (left, right) = plt.subplots(1, 2, width_ratios=(6, 5), **animations.size(2.7))
    _plane(left, H)
    for j in range(2):
        _line(left, Q[:, j], f"$q_{j + 1}$", EIGENVALUES[j])
    _line(left, -np.linalg.eigh(H)[1][:, -1], "top of $H$", "#767676", ":")
    (path,) = left.plot([], [], "-", lw=0.8, color=COLORS["discrete"], alpha=0.7)
    (dot,) = left.plot([], [], "o", ms=6, color=COLORS["discrete"])
    lines = []
    for j, (height, below) in enumerate(((0.2, 14), (2e-3, 0))):  # where a line's name stands, and how far below it
        lines.append(right.plot([], [], color=EIGENVALUES[j], lw=2 - 0.6 * j)[0])
        at = int(np.argmin(abs(np.log(np.maximum(components[j], 1e-300) / height))))
        name = rf"along $q_{j + 1}$, $\lambda_{j + 1} = {values[j]:.2f}$"
        place = {"xytext": (8, -below), "textcoords": "offset points"}
        right.annotate(name, (at, components[j, at]), color=EIGENVALUES[j], **place)
    right.set(xlim=(0, len(iterates)), ylim=(1e-4, 5), yscale="log", xlabel="step", title="size of each component")

    def draw(i: int) -> None:
        path.set_data(*iterates[max(0, i - 15) : i + 1].T)
        dot.set_data(*iterates[i : i + 1].T)
        for line, size in zip(lines, components, strict=True):
            line.set_data(range(i + 1), size[: i + 1])

    alt = "The iterates settle on the line along q1 and jump across the origin, further out each time."
    return animations.animation(fig, draw, frames or len(iterates), "quadratic", alt, fps=8)


def _plane(ax: Axes, H: np.ndarray) -> None:
    """Level lines of the loss."""
    x, y = np.meshgrid(*2 * [np.linspace(-REACH, REACH, 200)])
    height = 0.5 * (H[0, 0] * x**2 + 2 * H[0, 1] * x * y + H[1, 1] * y**2)
    ax.contour(x, y, height, levels=12, colors="#c9c9c9", linewidths=0.8)
    limits = (-REACH, REACH)
    ax.set(xlim=limits, ylim=limits, aspect="equal", xlabel="$w_1$", ylabel="$w_2$", title="iterates")
    ax.grid(False)


def _line(ax: Axes, direction: np.ndarray, label: str, color: str, style: str = "-") -> None:
    """A line through the origin, with its name at one end."""
    end = direction / abs(direction).max()
    ax.axline((0, 0), end, ls=style, lw=1.2, color=color, zorder=2)
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
    ax.annotate(label, 0.8 * REACH * end, color=color, ha="center", va="center", bbox=box)
