import base64
import re

import imageio_ffmpeg
import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from cflows import figures

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


def test_odd_sizes_are_refused():
    fig = plt.figure(figsize=(2.01, 1), dpi=100)
    with pytest.raises(ValueError, match="201 x 100"):
        figures.film(fig, lambda i: None, 2, "odd", alt="")
