"""The figures of chapters 7 and 8 show the data that they are given."""

import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from cflows import experiments, preconditioners, stationary
from cflows.averaging import smooth
from cflows.book import figures
from cflows.book.chapters import acceleration, preconditioner
from cflows.tasks import CifarMLP

mpl.use("agg")
H, G = np.array([[2.0, 0.9], [0.9, 1.2]]), np.array([0.45, 0.6])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small run of all processes, and its programs."""
    task = CifarMLP(per_class=5, size=8, width=4)
    e = experiments.get("rmsprop-mlp", "ci").change(
        task=task, burn_in=50, steps=24, branch_step=12, snapshot_every=6, replay_steps=0, replay_from=()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFLOWS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("CFLOWS_STORED", "")
        run = experiments.compute(e, "cpu")
    run.attrs["preset"] = "ci"
    return run, preconditioners.along(e.objective("cpu"), e.optimizer, run)


def named(ax) -> str:
    return ax.get_title() + ax.get_title(loc="left")


def at(ax, p) -> bool:
    """Whether a point is drawn."""
    points = [np.ravel(line.get_data()) for line in ax.lines if np.size(line.get_xdata()) == 1]
    return any(np.allclose(point, p) for point in points)


def lines_of(ax):
    return {line.get_label(): line for line in ax.lines}


def test_the_program_has_its_solutions():
    fig = preconditioner.program(H, G, [0.2, 1.0, 6.0])
    left, right = fig.axes
    hat = stationary.solve(H, G, np.inf).p
    assert at(left, hat)
    path = next(line for line in right.lines if len(line.get_xdata()) == 3)
    np.testing.assert_allclose(np.array(path.get_data()).T[1], stationary.solve(H, G, 1.0).p)
    # the shade ends where an eigenvalue of P⁻¹H is 2
    x, y = next(line for line in left.lines if len(line.get_xdata()) > 50).get_data()
    for p in (np.array([x[i], y[i]]) for i in (0, len(x) // 2, -1)):
        assert np.linalg.eigvals(H / p[:, None]).real.max() == pytest.approx(2, rel=1e-6)


def test_paths_end_at_rest():
    end = stationary.solve(H, G, 1.0).p
    path = (np.linspace([2.9, 2.7], end, 50)) ** 2
    (ax,) = preconditioner.rest(H, G, 1.0, [path, path]).axes
    assert at(ax, end)


def test_learning_rates_have_one_notation():
    assert [figures.title(x) for x in (1.2e-4, 1e-4, "ResNet")] == [
        r"$\eta = 1.2\times10^{-4}$", r"$\eta = 10^{-4}$", "ResNet"
    ]  # fmt: skip


def test_the_bias_of_nu_is_corrected(made):
    run, solved = made
    nu = preconditioner.corrected(run, "central")
    np.testing.assert_allclose(nu[solved["step"].values], solved["nu"], rtol=1e-4)
    plain = run.copy()
    plain.attrs["experiment"] = run.attrs["experiment"].replace('"bias_correction": true', '"bias_correction": false')
    np.testing.assert_array_equal(preconditioner.corrected(plain, "central"), run["central"]["nu"])


def test_nu_beside_what_it_settles_at(made):
    run, solved = made
    fig = preconditioner.similarity({"a": made, 3e-4: made})
    assert [named(ax) for ax in fig.axes] == ["a", r"$\eta = 3\times10^{-4}$"]
    np.testing.assert_array_equal(lines_of(fig.axes[0])["cosine"].get_ydata(), solved["cosine"])
    fig = preconditioner.ten_weights(run, solved)
    drawn = [np.asarray(lines_of(ax)[preconditioner.SETTLES].get_ydata()) for ax in fig.axes if ax.lines]
    assert sorted(x[-1] for x in drawn) == pytest.approx(sorted(solved["nu_stationary"].values[-1]))
    spans = [np.divide(*ax.get_ylim()[::-1]) for ax in fig.axes]
    np.testing.assert_allclose(spans, spans[0])
    (ax,) = preconditioner.all_weights(solved).axes
    assert named(ax).endswith(f"step {int(solved['step'][-1])}")


def test_speeds_are_in_units_of_gradient_descent(made):
    _, solved = made
    fig = preconditioner.speeds({"a": solved})
    speed = solved["speed"]
    ratio = speed.sel(preconditioner="first-term") / speed.sel(preconditioner="gradient-descent")
    np.testing.assert_array_equal(lines_of(fig.axes[0])[r"$\hat P$"].get_ydata(), ratio)
    (ax,) = preconditioner.limit([1e-4, 1e-3], [0.1, 0.01]).axes
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.1, 0.01])


def test_the_stationary_flow_beside_the_optimizer(made, film):
    run, _ = made
    assert acceleration.stationary_flow(run, 12).data == "stationary-flow"
    film["draw"](film["frames"] - 1)
    loss, nu, _ = film["fig"].axes
    begin = 12 - (24 - 12) // 6
    assert {"RMSProp", "stationary flow", "stationary flow without its penalty"} <= lines_of(loss).keys()
    np.testing.assert_array_equal(lines_of(nu)["RMSProp"].get_ydata(), run["discrete"]["nu_sum"][begin:])
    film["draw"](0)
    assert len(lines_of(nu)["RMSProp"].get_xdata()) < 24 - begin
    loss, *_ = acceleration.stationary_perceptron(run, 12).axes
    averaged = smooth(run["discrete"]["predicted_loss"][12:])
    np.testing.assert_array_equal(lines_of(loss)["RMSProp, averaged"].get_ydata(), averaged)


def test_without_the_penalty(made, film):
    run, _ = made
    acceleration.acceleration(run)
    loss, sharpness, steps = film["fig"].axes
    film["draw"](0)
    assert not any(text.get_visible() for text in loss.texts)
    film["draw"](film["frames"] - 1)
    ratios = [re.search(r"×(.*)", ax.texts[-1].get_text())[1] for ax in (loss, sharpness, steps)]
    assert all(float(x) > 0 for x in ratios)
    at = np.flatnonzero(np.isfinite(run["midpoint"]["sharpness"]))
    np.testing.assert_array_equal(np.asarray(sharpness.lines[0].get_ydata())[at], run["midpoint"]["sharpness"][at])
    fig = acceleration.three_rates({1e-4: run, 3e-4: run})
    assert len(fig.axes) == 4
    np.testing.assert_allclose(fig.axes[2].lines[0].get_ydata(), run.attrs["weights"] / run["central"]["p_sum"].values)
    np.testing.assert_allclose(fig.axes[2].lines[0].get_xdata(), 1e-4 * (run["central"]["step"].values + 50))
