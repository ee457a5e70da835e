"""Figures drawn again for a phone, and the film of the first page."""

import os
import re
import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from cflows.book import figures, opening, phone

mpl.use("agg")


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context():
        figures.use_style()
        yield
    plt.close("all")


def boxes(fig):
    fig.canvas.draw()
    return [ax.get_window_extent() for ax in fig.axes]


def test_panels_stand_under_one_another_with_values_of_their_own():
    fig, axes = plt.subplots(1, 3, figsize=(7.8, 2.9), sharey=True)
    for i, ax in enumerate(axes):
        ax.plot([0, 1], [0, i])
    axes[0].set_ylabel("loss")
    assert phone.restack(fig) is fig
    first, second, third = boxes(fig)
    assert first.y0 > second.y1 > second.y0 > third.y1
    assert fig.get_figwidth() == phone.WIDTH
    assert min(box.width for box in (first, second, third)) > 0.7 * fig.bbox.width
    for ax in axes:
        assert ax.get_ylabel() == "loss"
        assert all(label.get_visible() for label in ax.get_yticklabels())


def test_small_panels_stay_beside_each_other_as_many_as_fit():
    fig, _ = plt.subplots(1, 4, figsize=(7.2, 2.1))
    one, two, three, four = boxes(phone.restack(fig))
    assert one.x1 < two.x0
    assert one.y0 > three.y1
    assert three.x1 < four.x0


SHELL = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import matplotlib.pyplot as plt
from cflows.book import figures, phone
figures.use_style()
figures.use_style()
fig, _ = plt.subplots(1, 3, figsize=(7.8, 2.9))
data, _ = shell.display_formatter.format(fig)
print(*(data[kind].split('viewBox="0 0 ')[1].split()[0] for kind in ("image/svg+xml", phone.MIME)))
"""


def test_a_notebook_holds_a_wide_and_a_narrow_drawing(tmp_path):
    env = os.environ | {"CFLOWS_MEDIA": str(tmp_path), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    ran = subprocess.run([sys.executable, "-c", SHELL], env=env, capture_output=True, text=True, check=True)
    wide, narrow = map(float, ran.stdout.split())
    assert wide > 500
    assert narrow < 300


def test_twins_stay_together():
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    twin = left.twinx()
    phone.restack(fig)
    fig.canvas.draw()
    assert twin.get_position().bounds == left.get_position().bounds
    assert right.get_position().y1 < left.get_position().y0


def test_a_panel_with_one_unit_keeps_its_shape_and_one_alone_gets_narrow():
    fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.8))
    for ax in axes:
        ax.set_aspect("equal")
    phone.restack(fig)
    assert fig.get_figheight() == pytest.approx(2 * phone.WIDTH)
    fig, _ = plt.subplots(figsize=(7.2, 3.2))
    phone.restack(fig)
    assert fig.get_figwidth() == phone.WIDTH
    assert fig.get_figheight() < 3.2


def test_a_legend_that_would_cover_its_panel_goes_below():
    fig, axes = plt.subplots(1, 2, figsize=(8, 3))
    axes[0].plot([0, 1], label="short")
    for i in range(6):
        axes[1].plot([0, i], label=f"a name that takes a lot of room {i}")
    for ax in axes:
        ax.legend()
    phone.restack(fig)
    panels = boxes(fig)
    inside, below = (ax.get_legend().get_window_extent() for ax in axes)
    assert inside.y0 >= panels[0].y0
    assert below.y1 <= panels[1].y0


def test_the_film_of_the_first_page(monkeypatch, tmp_path):
    monkeypatch.setenv("CFLOWS_MEDIA", str(tmp_path))
    steps = np.arange(12)
    bounce = np.where(steps > 2, 0.01 * (-1.0) ** steps, np.nan)
    at = np.where(steps > 2, 1e-4, 0.0)
    data = xr.Dataset(
        {
            "loss": ("step", 1 / (1 + steps)),
            "displacements": (("step", "eig"), bounce[:, None]),
            "variances": (("step", "eig"), at[:, None]),
            "eigenvalues": (("step", "eig"), np.where(steps % 2, 2.0, np.nan)[:, None]),
        },
        {"step": steps},
        {"threshold": 2.0},
    )
    run = xr.DataTree.from_dict({"central": data, "discrete": data})
    html = opening.opening(run, frames_per_step=1, steps=4).data
    assert opening.ALT.split(";")[0] in html
    assert (tmp_path / "opening.mp4").stat().st_size > 0


def test_a_wide_legend_of_the_figure_gets_fewer_columns():
    fig, axes = plt.subplots(2, 4, figsize=(9, 4))
    lines = [axes[0, 0].plot([0, i], label=f"a curve with a name, {i}")[0] for i in range(4)]
    fig.legend(handles=lines, loc="outside lower center", ncols=4)
    phone.restack(fig)
    fig.canvas.draw()
    (legend,) = fig.legends
    box = legend.get_window_extent()
    assert box.width <= fig.bbox.width
    assert box.y1 <= min(ax.get_window_extent().y0 for ax in fig.axes)
    assert [text.get_text() for text in legend.get_texts()] == [line.get_label() for line in lines]


def test_a_notebook_holds_both_drawings_of_a_figure(monkeypatch):
    import IPython
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.pylabtools import select_figure_formats

    shell = InteractiveShell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    select_figure_formats(shell, {"svg"})
    phone.draw_both()
    fig, _ = plt.subplots(1, 3, figsize=(8.2, 3.1))
    drawn, _ = shell.display_formatter.format(fig)
    sizes = {}
    for kind in ("image/svg+xml", phone.MIME):
        sizes[kind] = [float(x) for x in re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', drawn[kind]).groups()]  # type: ignore[union-attr]
    assert sizes["image/svg+xml"][0] > 1.8 * sizes[phone.MIME][0]
    assert sizes["image/svg+xml"][1] < sizes[phone.MIME][1]


def test_columns_stay_together_and_share_their_steps():
    fig, axes = plt.subplots(2, 3, figsize=(8.2, 5), sharex="col")
    for j, (above, below) in enumerate(axes.T):
        above.set_title(f"column {j}")
        below.set_xlabel("step")
    axes[0, 0].set_ylabel("loss")
    phone.restack(fig)
    fig.canvas.draw()
    tops = [ax.get_window_extent().y1 for ax in axes.T.ravel()]
    assert tops == sorted(tops, reverse=True)
    assert [ax.get_xlabel() for ax in axes.T.ravel()] == 3 * ["", "step"]
    assert [ax.xaxis.get_tick_params()["labelbottom"] for ax in axes.T.ravel()] == 3 * [False, True]
    assert [ax.get_ylabel() for ax in axes[0]] == 3 * ["loss"]
    assert max(ax.get_window_extent().height for ax in axes.flat) < phone.LOW * fig.dpi


def test_panels_of_a_row_have_one_name_for_their_values_and_one_for_their_steps():
    fig, axes = plt.subplots(2, 4, figsize=(7.6, 5), sharex=True)
    for ax in axes.flat:
        ax.set_title("its own")
    axes[1, 0].set_xlabel("step")
    axes[0, 0].set_ylabel("error")
    phone.restack(fig)
    assert [ax.get_ylabel() for ax in axes.flat] == 4 * ["error", ""]
    assert [ax.get_xlabel() for ax in axes.flat] == 6 * [""] + 2 * ["step"]
