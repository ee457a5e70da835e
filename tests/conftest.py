import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from beartype._check.code import codemain
from jaxtyping import config
from torch import nn

# Annotations are checked by beartype, which picks entries of lists at random: with numbers of its own, since objectives
# watch those of `random`.
codemain.getrandbits = random.Random(0).getrandbits  # type: ignore[attr-defined]
import cflows  # noqa: E402

torch.set_num_threads(1)  # tests run side by side, and small problems gain nothing from more


def pytest_collection_modifyitems(items):
    """Runs that are computed again come first: one of them takes minutes, which should not be the last ones."""
    items.sort(key=lambda item: "runs_of_the_repository" not in item.name)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test reads or leaves anything outside its own folder."""
    monkeypatch.setenv("CFLOWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CFLOWS_STORED", "")
    monkeypatch.delenv("CFLOWS_DATA", raising=False)
    monkeypatch.delenv("CFLOWS_URL", raising=False)
    return tmp_path / "cache"


def missing(why: str):
    (pytest.fail if os.environ.get("CFLOWS_PAGES") == "required" else pytest.skip)(why)


@pytest.fixture(scope="session")
def site():
    """The folder of the site that `make book` left."""
    folder = Path(__file__).parents[1] / "book/_build/html"
    if not (folder / "index.html").exists():
        missing("no site was built: make book")
    return folder


@pytest.fixture(scope="session")
def browser():
    """Chromium."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    if not (program := next(filter(None, map(shutil.which, names)), None)):
        missing("no Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-quic"])
        yield browser
        browser.close()


class RaisesUnchecked(pytest.RaisesExc):
    """`pytest.raises`, in which annotations are not checked: the test is of what the library itself says."""

    def __enter__(self):
        config.update("jaxtyping_disable", True)
        return super().__enter__()

    def __exit__(self, *exception):
        config.update("jaxtyping_disable", False)
        return super().__exit__(*exception)


@pytest.fixture(autouse=True)
def annotations(request, monkeypatch):
    """Annotations are checked at every call, which doubles the time of small problems: not in slow tests.

    Nor are they where the test passes wrong types on purpose.
    """
    monkeypatch.setattr(pytest, "raises", RaisesUnchecked)
    config.update("jaxtyping_disable", any(map(request.node.get_closest_marker, ("slow", "unchecked"))))
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def film(monkeypatch):
    """The figure of the last film, and its function that draws a frame; all that it says can be read on a phone."""
    from IPython.display import HTML
    from matplotlib.text import Text

    from cflows.book import animations

    kept: dict = {}

    def animation(fig, draw, frames, name, alt, fps=25, moving=(), crf=26):
        fig.canvas.draw()
        for text in fig.findobj(lambda x: isinstance(x, Text) and x.get_visible() and x.get_text().strip()):
            size = text.get_fontsize() / 72 / fig.get_figwidth() * animations.PHONE
            assert size >= animations.LEGIBLE, f"{text.get_text()!r} has {size:.1f} pixels"
        kept.update(fig=fig, draw=draw, frames=frames)
        return HTML(name)

    monkeypatch.setattr(animations, "animation", animation)
    return kept


def mlp_objective(dtype=torch.float64, width=6, seed=0, examples=12, batch_size=None) -> cflows.Objective:
    """A small network whose Hessian can be written out."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 4, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randn(examples, 2, generator=generator, dtype=torch.float64).to(dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2)).to(dtype)
    return cflows.Objective.from_module(module, nn.MSELoss(), x, y, batch_size)


def hessian(f: cflows.Objective, w: torch.Tensor) -> np.ndarray:
    """Dense Hessian, by PyTorch's own double differentiation of the value (a twin of `hvp`)."""
    return torch.autograd.functional.hessian(f, w).numpy()
