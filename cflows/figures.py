"""The book's visual language, and films.

One colour a quantity, the same in every chapter, safe for colour-blind readers: the palette of Okabe and Ito
:cite:yearpar:`okabe2008`, wine for what is stationary, and for the spectrum a scale of its own, from dark to light.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path

import imageio_ffmpeg
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike

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
    "ablated": "#CC79A7",  # a flow without its curvature penalty
    "threshold": "#999999",
}
#: Colours of the leading eigenvalues, the largest first.
EIGENVALUES = ("#2D1160", "#721F81", "#B73779", "#F1605D", "#FEB078")


def use_style() -> None:
    """Set matplotlib's defaults; in a notebook figures become SVG."""
    mpl.rcParams.update(
        {
            "figure.figsize": (7.2, 3.2),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "savefig.bbox": "standard",
            "svg.fonttype": "path",
            "font.size": 10,
            "axes.titlesize": 10.5,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e8e8e8",
            "grid.linewidth": 0.7,
            "axes.axisbelow": True,
            "lines.linewidth": 1.6,
            "legend.frameon": False,
            "legend.fontsize": 9,
        }
    )
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg")
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
    ax.text(0.01, value, label, transform=ax.get_yaxis_transform(), va="bottom", fontsize=8.5, color="#666666")


def eigenvalues(ax: Axes, steps: ArrayLike, values: np.ndarray, count: int = 4, **style) -> None:
    """Leading eigenvalues of the effective Hessian over time, the largest on top.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    steps : array (steps,)
    values : array (steps, eig)
        Each row in descending order; NaN at steps at which they were not looked at, across which lines are drawn.
    count : int
        How many of them to draw, at most.
    **style
        Options of matplotlib's ``plot``.
    """
    for j in range(min(count, values.shape[1], len(EIGENVALUES))):
        seen = np.isfinite(values[:, j])
        ax.plot(np.asarray(steps)[seen], values[seen, j], color=EIGENVALUES[j], zorder=10 - j, **style)


def beside(run: xr.DataTree, optimizer: str) -> Figure:
    """An optimizer and its flows over time: loss, eigenvalues of the effective Hessian, distance to the optimizer.

    Parameters
    ----------
    run : xarray.DataTree
        As of `simulate`, with the processes "discrete", "stable" and "central".
    optimizer : str
        What it is called in the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    discrete, central, distance = (run[name].to_dataset() for name in ("discrete", "central", "distance"))
    step, color = discrete["step"].values, COLORS["central"]
    fig, (top, middle, bottom) = plt.subplots(3, 1, figsize=(7.2, 6.6), sharex=True)
    top.plot(step, discrete["loss"], color=COLORS["average"], lw=3.5, label=optimizer)
    predicted = central["predicted_loss"]
    if "trusted" in central:  # what is not to be trusted is not shown as a prediction
        predicted = predicted.where(central["trusted"] > 0)
    top.plot(step, predicted, color=color, lw=1.2, label="central flow: predicted average")
    top.plot(step, central["loss"], color=color, lw=1.2, ls=":", label="central flow: loss at its weights")
    top.set(yscale="log", ylabel="training loss")
    top.legend(loc="lower left")
    eigenvalues(middle, step, central["eigenvalues"].interpolate_na("step").values)
    threshold(middle, label="2")
    middle.set(ylabel=r"eigenvalues of $P^{-1}H$", ylim=(0, 2.4))
    bottom.plot(step, distance["stable-discrete"], color=COLORS["stable"], label="stable flow")
    bottom.plot(step, distance["central-discrete"], color=color, label="central flow")
    bottom.set(ylabel=f"distance to {optimizer}", xlabel="step", xlim=(0, len(step)))
    bottom.legend(loc="upper left")
    return fig


def film(fig: Figure, draw: Callable[[int], object], frames: int, name: str, alt: str, fps: int = 25):
    """An H.264 film of a figure, for display in a notebook.

    While the book is built (environment variable ``CFLOWS_MEDIA``, a folder) the film and its poster, the last frame,
    become files beside the page; anywhere else they are part of the notebook.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
        Closed afterwards.
    draw : callable
        ``draw(i)`` changes the figure into its i-th frame.
    frames : int
        Number of frames.
    name : str
        Name of the files, without what follows the dot.
    alt : str
        What is to be seen, for those who can't.
    fps : int
        Frames a second.

    Returns
    -------
    IPython.display.HTML
    """
    from IPython.display import HTML

    folder = Path(os.environ.get("CFLOWS_MEDIA") or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    film, poster = folder / f"{name}.mp4", folder / f"{name}.jpg"
    width, height = (2 * round(x / 2) for x in fig.canvas.get_width_height())  # the codec wants even numbers
    fig.set_size_inches((width + 0.1) / fig.dpi, (height + 0.1) / fig.dpi)
    if isinstance(engine := fig.get_layout_engine(), ConstrainedLayoutEngine):
        engine.set(rect=(0, 45 / height, 1, 1 - 45 / height))  # room for the player's controls
    fig.canvas.draw()
    fig.set_layout_engine("none")  # laying out each frame anew would double the time
    with mpl.rc_context({"savefig.bbox": "standard"}):
        writer = imageio_ffmpeg.write_frames(
            str(film), (width, height), fps=fps, codec="libx264", quality=None, macro_block_size=2,
            output_params=["-crf", "26", "-preset", "slow", "-movflags", "+faststart"],
        )  # fmt: skip
        writer.send(None)
        for i in range(frames):
            draw(i)
            fig.canvas.draw()
            pixels = np.asarray(fig.canvas.buffer_rgba())  # type: ignore[attr-defined]
            writer.send(np.ascontiguousarray(pixels[:, :, :3]).tobytes())
        writer.close()
        fig.savefig(poster, dpi=fig.dpi, pil_kwargs={"quality": 82})
    plt.close(fig)
    if os.environ.get("CFLOWS_MEDIA"):
        sources = [f"../../_static/media/{path.name}" for path in (film, poster)]
    else:
        kinds = ("video/mp4", "image/jpeg")
        sources = [
            f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
            for kind, path in zip(kinds, (film, poster), strict=True)
        ]
    return HTML(
        f'<video controls muted loop playsinline preload="none" width="{width}" height="{height}" '
        f'poster="{sources[1]}" aria-label="{escape(alt)}" '
        f'style="max-width: 100%; height: auto; --tall: {height / width:.3f}">'
        f'<source src="{sources[0]}" type="video/mp4">{escape(alt)}</video>'
    )


def training_film(fig: Figure, steps: int, frames: int, name: str, alt: str, fps: int = 20):
    """A `film` in which the curves of a figure that have a point for each step are drawn as training runs.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
        With whole curves.
    steps : int
        Number of points of the curves that grow; others stay as they are.
    frames, name, alt, fps
        As of `film`.

    Returns
    -------
    IPython.display.HTML
    """
    lines = [line for ax in fig.axes for line in ax.lines if np.size(line.get_xdata()) == steps]
    curves = [np.asarray(line.get_data()) for line in lines]

    def draw(i: int) -> None:
        until = round((i + 1) / frames * steps)
        for line, curve in zip(lines, curves, strict=True):
            line.set_data(*curve[:, :until])

    return film(fig, draw, frames, name, alt, fps)
