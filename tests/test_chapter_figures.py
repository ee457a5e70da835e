"""The figures of chapters 1 to 4 show the data that they are given."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import mlp_objective
from matplotlib.text import Annotation

import cflows
from cflows.book import figures
from cflows.book.chapters import adam, gradient_descent, quadratic, rmsprop, scalar_rmsprop

mpl.use("agg")
LAST = {"preset": "ci"}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def run_of(opt, steps: int = 60):
    """An optimizer from beyond its edge, with ten weights recorded."""
    f = mlp_objective(width=8, examples=20)
    options = {"burn_in": 30, "coords": np.arange(10), "progress": False}
    tree = cflows.simulate(f, opt, steps, ("discrete", "midpoint", "stable", "central"), **options)
    tree.attrs |= LAST | {"weights": f.dim}
    return tree


@pytest.fixture(scope="module")
def scalar():
    return run_of(cflows.ScalarRMSProp(0.3, 0.95))


def test_each_eigenvalue_has_its_panel():
    fig = quadratic.one_eigenvalue((0.5, 2.1), steps=10)
    shrinks, grows = (ax.lines[-1].get_ydata() for ax in fig.axes)
    np.testing.assert_allclose(shrinks, 0.5 ** np.arange(11))
    np.testing.assert_allclose(grows, (-1.1) ** np.arange(11))


def test_two_weights_move(film):
    H, p = np.array([[2.0, 1.2], [1.2, 1.6]]), np.array([1.0, 0.5])
    iterates = cflows.quadratic.preconditioned_gd(H, p, np.ones(2), 3)
    assert quadratic.two_weights(H, p, iterates).data == "quadratic"
    film["draw"](3)
    np.testing.assert_array_equal(film["fig"].axes[0].lines[-1].get_data(), iterates[3:].T)


def test_adam_has_a_panel_for_each_eigenvalue(film):
    adam.film(shares=(0.1, 0.5, 1.0, 1.01), steps=20)
    film["draw"](19)
    for ax, share in zip(film["fig"].axes, (0.1, 0.5, 1.0, 1.01), strict=True):
        path = adam.iterates(share * adam.threshold(0.9), 0.9, 20, m=-2.0)
        np.testing.assert_allclose(ax.lines[1].get_ydata(), path)


def test_the_valley_has_its_iterates_and_its_balance():
    f = cflows.Objective(lambda w: 0.5 * w[1] * w[0] ** 2 - 0.01 * w[1], torch.tensor([0.1, 9.7], dtype=torch.float64))
    processes = ("discrete", "central")
    toy = cflows.simulate(
        f, cflows.GradientDescent(0.2), 80, processes, outputs=lambda w: w * 1.0, progress=False
    )  # fmt: skip
    plane, left, right = gradient_descent.valley(toy, 0.2, 0.01).axes
    x, y = toy["discrete"]["outputs"].values.T
    np.testing.assert_array_equal(plane.lines[0].get_data(), [x, y])
    np.testing.assert_array_equal(left.lines[0].get_ydata(), y)
    levels = sorted(float(np.ravel(line.get_ydata())[0]) for line in right.lines[1:])
    assert levels == pytest.approx([-(0.02**0.5), 0.02**0.5])


def test_gradient_descent_at_its_edge(film):
    tree = run_of(cflows.GradientDescent(0.5))
    left, right = gradient_descent.edge_of_stability(tree).axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), tree["discrete"]["loss"])
    there = tree["midpoint"]["eigenvalues"].values[:, 0]
    np.testing.assert_array_equal(right.lines[0].get_ydata(), there[np.isfinite(there)])
    assert gradient_descent.film(tree).data == "gd-central-flow"
    assert len(film["fig"].axes) == 3


def test_one_adaptive_step_size(scalar, film):
    *_, right = scalar_rmsprop.step_size(scalar).axes
    step, limit = right.lines
    n, midpoint = scalar.attrs["weights"], scalar["midpoint"]
    np.testing.assert_allclose(step.get_ydata(), n / scalar["discrete"]["p_sum"])
    S = (midpoint["eigenvalues"][:, 0] * midpoint["p_sum"] / n).values
    np.testing.assert_allclose(limit.get_ydata(), 2 / S[np.isfinite(S)])
    assert scalar_rmsprop.film(scalar).data == "scalar-central-flow"


def test_two_brakes_share_the_work(scalar):
    left, right = scalar_rmsprop.two_brakes(scalar).axes
    assert [line.get_label() for line in left.lines] == ["Scalar RMSProp", "central flow"]
    colors = [mpl.colors.to_hex(area.get_facecolor()[0]).upper() for area in right.collections]
    assert colors == [figures.COLORS["curvature"], figures.COLORS["growth"]]


def test_rmsprop_and_its_bursts():
    tree = run_of(cflows.RMSProp(0.02, 0.95), steps=100)
    data = tree["discrete"]
    assert len(rmsprop.loss(tree).axes) == 1
    axes = rmsprop.squared_gradient(tree).axes
    order = np.argsort(data["nu"].mean("step").values)[::-1]
    for ax, j in zip(axes[:3], order[[1, 4, 7]], strict=True):
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), data["grad_sq"][:, j])
        np.testing.assert_array_equal(ax.lines[1].get_ydata(), data["nu"][:, j])
    steps = axes[4].lines[0].get_xdata()
    assert len(steps) == rmsprop.WINDOW
    late = data["grad_sq"].values[33:, order[4]]
    assert steps[0] <= data["step"].values[33 + late.argmax()] <= steps[-1]
    above, below = rmsprop.edge_of_stability(tree).axes
    np.testing.assert_array_equal(above.lines[0].get_ydata(), data["loss"])
    assert below.get_ylim()[1] > 2


def test_eigenvalues_have_their_names_where_they_are_apart():
    values = np.array([[2.0, 1.9], [2.0, 1.0], [2.0, 0.2], [2.0, 1.5], [2.0, 1.8]])
    ax = plt.figure().subplots()
    figures.eigenvalues(ax, range(5), values)
    assert [(text.xy, text.get_text()) for text in ax.texts if isinstance(text, Annotation)] == [
        ((2, 2.0), r"$\lambda_1$"),
        ((2, 0.2), r"$\lambda_2$"),
    ]
    figures.eigenvalues(ax := plt.figure().subplots(), range(5), np.full((5, 1), np.nan))
    assert not ax.texts
