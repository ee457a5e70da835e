"""Figures that move: H.264 videos for display in a notebook."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, cast

import imageio_ffmpeg
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image

from . import figures, media
from .claims import SMALL

#: Which of the frames is the poster, as a share of them: early enough that it does not tell how the film ends.
POSTER = 0.3
#: Height that players take for their controls, in pixels. Where there is no script that puts them below the film
#: (book/_static/films.js), the player's own stand in a strip of this height under it.
CONTROLS = 64
#: Of a film, in inches: as wide as a phone's page, type of nine points is nine pixels there (`LEGIBLE`).
WIDTH = 4.9
#: Pixels of a film in an inch, and those that a page shows in their place where it is wide.
DPI, SHOWN = 140, 112
#: The smallest type of a film, in pixels, and how wide it is on a phone with 390.
LEGIBLE, PHONE = 9, 358


def size(height: float) -> dict[str, Any]:
    """Options of a film's figure.

    Parameters
    ----------
    height : float
        In inches.

    Returns
    -------
    dict
        ``figsize`` and ``dpi``.
    """
    return {"figsize": (WIDTH, height), "dpi": DPI}


def animation(
    fig: Figure,
    draw: Callable[[int], object],
    frames: int,
    name: str,
    alt: str,
    fps: int = 25,
    moving: Sequence[Artist] = (),
    crf: int = 26,
):
    """A video of a figure, with one of its first frames as the poster.

    Both are part of the notebook, or files that it links to (`publish`).

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
    moving : sequence of matplotlib.artist.Artist
        All that ``draw`` changes, if only it is to be drawn anew in each frame, over the rest: some times as fast.
    crf : int
        Of the codec: the larger, the smaller is the file.

    Returns
    -------
    IPython.display.HTML
    """
    from IPython.display import HTML

    width, height = (2 * round(x / 2) for x in fig.canvas.get_width_height())  # the codec wants even numbers
    fig.set_size_inches((width + 0.1) / fig.dpi, (height + 0.1) / fig.dpi)
    fig.canvas.draw()
    fig.set_layout_engine("none")  # laying out each frame anew would double the time
    for artist in moving:
        artist.set_animated(True)  # which keeps them out of what is drawn once
    canvas = cast(FigureCanvasAgg, fig.canvas)
    canvas.draw()
    rest = canvas.copy_from_bbox(fig.bbox)
    sources = []
    with tempfile.TemporaryDirectory() as folder:
        video, poster = Path(folder, f"{name}.mp4"), Path(folder, f"{name}.jpg")
        writer = imageio_ffmpeg.write_frames(
            str(video), (width, height), fps=fps, codec="libx264", quality=None, macro_block_size=2,
            output_params=["-crf", str(crf), "-preset", "slow", "-movflags", "+faststart"],
        )  # fmt: skip
        writer.send(None)
        for i in range(frames):
            draw(i)
            if moving:
                canvas.restore_region(rest)
                for artist in sorted(moving, key=lambda artist: artist.get_zorder()):
                    fig.draw_artist(artist)
            else:
                canvas.draw()
            pixels = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
            writer.send(pixels.tobytes())
            if i == int(POSTER * frames):
                Image.fromarray(pixels).save(poster, quality=82)
        writer.close()
        for path, kind in ((video, "video/mp4"), (poster, "image/jpeg")):
            content = path.read_bytes()
            embedded = f"data:{kind};base64,{base64.b64encode(content).decode()}"
            sources.append(media.publish(path.name, content) or embedded)
    plt.close(fig)
    width, height = (round(x * min(1, SHOWN / fig.dpi)) for x in (width, height))
    return HTML(
        f'<video class="film" controls muted playsinline preload="none" width="{width}" height="{height}" '
        f'poster="{sources[1]}" aria-label="{escape(alt)}" style="max-width: 100%; height: auto; '
        f'aspect-ratio: {width} / {height + CONTROLS}; object-fit: contain; object-position: top">'
        f'<source src="{sources[0]}" type="video/mp4">{escape(alt)}</video>'
    )


def training_animation(fig: Figure, steps: int, frames: int, name: str, alt: str, fps: int = 20):
    """An `animation` in which the curves of a figure, and the names beside them, appear as training runs.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
        With whole curves over the step. What has two points or fewer stays as it is.
    steps : int
        Number of steps.
    frames, name, alt, fps
        As of `animation`.

    Returns
    -------
    IPython.display.HTML
    """
    lines = [line for ax in fig.axes for line in ax.lines if np.size(line.get_xdata()) > 2]
    names = [text for ax in fig.axes for text in ax.texts if isinstance(text, Annotation)]
    curves = [np.asarray(line.get_data()) for line in lines]
    whole = next(curve[0] for curve in curves if curve.shape[1] == steps)

    def draw(i: int) -> None:
        now = whole[round((i + 1) / frames * steps) - 1]
        for line, curve in zip(lines, curves, strict=True):
            line.set_data(*curve[:, curve[0] <= now])
        for text in names:
            text.set_visible(text.xy[0] <= now)

    return animation(fig, draw, frames, name, alt, fps, [*lines, *names])


def beside(run: xr.DataTree, optimizer: str, name: str, frames: int = 100):
    """A film of an optimizer and its flows: losses, eigenvalues and distances, drawn as training goes on.

    Parameters
    ----------
    run : xarray.DataTree
        With "discrete", "stable" and "central".
    optimizer : str
        What it is called in the film.
    name : str
        As of `animation`.
    frames : int
        Number of frames of a run that is not of the smallest preset.

    Returns
    -------
    IPython.display.HTML
    """
    alt = f"Loss, eigenvalues and distance of the central flow beside {optimizer}, as training runs."
    fig = figures.beside(run, optimizer, **size(5.6))
    frames = 5 if run.attrs["preset"] == SMALL else frames
    return training_animation(fig, run["discrete"].sizes["step"], frames, name, alt)
