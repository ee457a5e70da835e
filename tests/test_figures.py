import base64
import re

import imageio_ffmpeg
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import mlp_objective

import cflows
from cflows import claims, figures

mpl.use("agg")


def draw_film(name):
    fig, ax = plt.subplots(figsize=(2, 1), dpi=100)
    (line,) = ax.plot([], [])
    return figures.film(fig, lambda i: line.set_data([0, i], [0, 1]), 5, name, alt="a <line>").data


def frames(path):
    assert b"avc1" in path.read_bytes()  # H.264
    return imageio_ffmpeg.count_frames_and_secs(str(path))[0]


def test_a_film_is_a_file_beside_the_page_while_the_book_is_built(monkeypatch, tmp_path):
    monkeypatch.setenv("CFLOWS_MEDIA", str(tmp_path))
    html = draw_film("demo")
    assert 'src="../../_static/media/demo.mp4"' in html
    assert 'poster="../../_static/media/demo.jpg"' in html
    assert "a &lt;line&gt;" in html
    assert frames(tmp_path / "demo.mp4") == 5
    assert (tmp_path / "demo.jpg").stat().st_size > 0


def test_a_film_is_part_of_the_notebook_anywhere_else(monkeypatch, tmp_path):
    monkeypatch.delenv("CFLOWS_MEDIA", raising=False)
    html = draw_film("demo")
    content = re.search(r"data:video/mp4;base64,([^\"]+)", html).group(1)
    (tmp_path / "film.mp4").write_bytes(base64.b64decode(content))
    assert frames(tmp_path / "film.mp4") == 5


def test_an_odd_size_is_made_even(monkeypatch, tmp_path):
    monkeypatch.setenv("CFLOWS_MEDIA", str(tmp_path))
    fig = plt.figure(figsize=(2.01, 1.03), dpi=100)
    assert 'width="200" height="104"' in figures.film(fig, lambda i: None, 2, "odd", alt="").data
    assert frames(tmp_path / "odd.mp4") == 2


def test_a_training_film_draws_the_curves_over_steps_and_nothing_else(monkeypatch):
    fig, ax = plt.subplots()
    (curve,), (line,) = ax.plot(range(10), range(10)), ax.plot([0, 9], [1, 1])
    seen = []
    monkeypatch.setattr(figures, "film", lambda fig, draw, frames, *rest: seen.extend((draw, frames)))
    figures.training_film(fig, 10, 5, "name", "alt")
    draw, count = seen
    lengths = []
    for i in range(count):
        draw(i)
        lengths.append(len(curve.get_xdata()))
    assert lengths == [2, 4, 6, 8, 10]
    assert len(line.get_xdata()) == 2


def test_an_optimizer_beside_its_flows():
    tree = cflows.simulate(
        mlp_objective(width=8, examples=20), cflows.RMSProp(0.01, 0.95), 40, burn_in=60, progress=False
    )
    fig = figures.beside(tree, "some optimizer")
    top, _, bottom = fig.axes
    central = tree["central"]  # which starts beyond the edge
    trusted = central["predicted_loss"].where(central["trusted"] == 1)
    assert trusted.notnull().any()
    np.testing.assert_array_equal(top.lines[1].get_ydata(), trusted)
    np.testing.assert_array_equal(bottom.lines[1].get_ydata(), tree["distance"]["central-discrete"])
    assert bottom.get_ylabel() == "distance to some optimizer"
    off = abs(tree["central"]["eigenvalues"].values / 2 - 1)[1:]
    there = tree["central"]["variances"].values > 0
    assert claims.locking_error(tree["central"]) == pytest.approx(off[there[1:] & there[:-1]].max())
    plt.close(fig)
