import base64
import re

import imageio_ffmpeg
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from cflows.book import animations

mpl.use("agg")


def draw(name):
    fig, ax = plt.subplots(figsize=(2, 1), dpi=100)
    (line,) = ax.plot([], [])
    return animations.animation(fig, lambda i: line.set_data([0, i], [0, 1]), 5, name, alt="a <line>").data


def frames(path):
    assert b"avc1" in path.read_bytes()  # H.264
    return imageio_ffmpeg.count_frames_and_secs(str(path))[0]


def test_an_animation_is_a_file_that_the_page_links_to_where_there_is_a_folder_for_it(monkeypatch, tmp_path):
    monkeypatch.setenv("CFLOWS_MEDIA", str(tmp_path))
    assert f'src="{tmp_path}/demo.mp4"' in draw("demo")
    monkeypatch.setenv("CFLOWS_MEDIA_URL", "../some/where")
    html = draw("demo")
    assert 'src="../some/where/demo.mp4"' in html
    assert 'poster="../some/where/demo.jpg"' in html
    assert "a &lt;line&gt;" in html
    assert frames(tmp_path / "demo.mp4") == 5
    assert (tmp_path / "demo.jpg").stat().st_size > 0


def test_an_animation_is_part_of_the_notebook_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("CFLOWS_MEDIA", raising=False)
    html = draw("demo")
    content = re.search(r"data:video/mp4;base64,([^\"]+)", html).group(1)
    (tmp_path / "video.mp4").write_bytes(base64.b64decode(content))
    assert frames(tmp_path / "video.mp4") == 5


def test_an_odd_size_is_made_even(monkeypatch, tmp_path):
    monkeypatch.setenv("CFLOWS_MEDIA", str(tmp_path))
    fig = plt.figure(figsize=(2.01, 1.03), dpi=100)
    assert 'width="200" height="104"' in animations.animation(fig, lambda i: None, 2, "odd", alt="").data
    assert frames(tmp_path / "odd.mp4") == 2


def test_a_training_animation_draws_the_curves_over_steps_and_nothing_else(monkeypatch):
    fig, ax = plt.subplots()
    (curve,), (line,) = ax.plot(range(10), range(10)), ax.plot([0, 9], [1, 1])
    (sparse,) = ax.plot([3, 6, 9], [0, 1, 2])  # at some of the steps alone
    name = ax.annotate("name", (6, 1))
    seen = []
    monkeypatch.setattr(animations, "animation", lambda fig, draw, frames, *rest: seen.extend((draw, frames)))
    animations.training_animation(fig, 10, 5, "name", "alt")
    draw, count = seen
    lengths, few, named = [], [], []
    for i in range(count):
        draw(i)
        lengths.append(len(curve.get_xdata()))
        few.append(len(sparse.get_xdata()))
        named.append(name.get_visible())
    assert lengths == [2, 4, 6, 8, 10]
    assert few == [0, 1, 1, 2, 3]
    assert named == [False, False, False, True, True]
    assert len(line.get_xdata()) == 2


def test_a_poster_does_not_show_the_end(monkeypatch, tmp_path):
    monkeypatch.setenv("CFLOWS_MEDIA", str(tmp_path))
    fig = plt.figure(figsize=(2, 1), dpi=100)
    patch = fig.patch
    html = animations.animation(fig, lambda i: patch.set_facecolor(str(i / 9)), 10, "film", alt="").data
    assert " loop" not in html  # it stands at its end
    assert f"aspect-ratio: 200 / {100 + animations.CONTROLS}" in html
    shade = np.asarray(Image.open(tmp_path / "film.jpg").convert("L")).mean() / 255
    assert abs(shade - 3 / 9) < 0.02
