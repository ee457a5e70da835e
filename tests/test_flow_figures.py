"""The figures of chapters 5 and 6 show the data that they are given."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from conftest import mlp_objective

import cflows
from cflows import metrics
from cflows.averaging import smooth
from cflows.book.chapters import central_flow, predictions

mpl.use("agg")
STEPS = 60


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def run():
    """A small network beyond the edge, with all that the chapters ask of a run."""
    f = mlp_objective(width=8, examples=20)
    tree = cflows.simulate(
        f, cflows.RMSProp(0.01, 0.95, bias_correction=True), STEPS, ("discrete", "stable", "central"), burn_in=60,
        coords=np.arange(10), outputs=lambda w: 1.0 * w[:4], snapshot_every=20, progress=False,
    )  # fmt: skip
    tree.attrs |= {"preset": "ci", "weights": f.dim}
    return tree


def test_the_stable_flow_beside_the_optimizer(run):
    losses, sharpness, distance = central_flow.stable_flow(run).axes
    until = 2 * metrics.stopped(run["stable"]) + 1
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), run["discrete"]["loss"][:until])
    np.testing.assert_array_equal(distance.lines[0].get_ydata(), run["distance"]["stable-discrete"][:until])
    assert sharpness.lines[0].get_ydata()[0] == run["stable"]["eigenvalues"][0, 0]


def test_the_valley_is_crossed_step_by_step(run, film):
    central_flow.valley(run)
    above, left, right = film["fig"].axes
    film["draw"](film["frames"] - 1)
    path, ball = (line for line in above.lines if line.get_color() == central_flow.COLORS["discrete"])
    assert path.get_xdata()[-1] == ball.get_xdata()[0] == 0
    assert ball.get_ydata()[0] == path.get_ydata()[-1] == run["central"]["displacements"].values[-1, 0]
    assert all(ax.lines[-1].get_xdata() == [STEPS - 1] * 2 for ax in (left, right))


def test_the_loss_is_off_by_what_is_left_out(run):
    with_it, without, _ = central_flow.trace(run, run).axes[0].lines
    actual = smooth(run["discrete"]["loss"])[metrics.edge(run["central"]) :]
    difference = (with_it.get_ydata() - without.get_ydata()) * actual
    oscillation = smooth(run["central"]["predicted_loss"]) - smooth(run["central"]["loss"])
    np.testing.assert_allclose(difference, oscillation[-len(difference) :], atol=1e-12)


def test_distances_and_numbers(run):
    resnet, perceptron, _ = central_flow.distance(run, run).axes[0].lines
    np.testing.assert_array_equal(resnet.get_ydata(), metrics.distance_ratio(run))
    assert resnet.get_color() != perceptron.get_color()
    table = central_flow.numbers(run, 3).data
    np.testing.assert_allclose(table["1000 σ1²"], 1e3 * run["central"]["variances"].values[table.index, 0])
    assert "nan" not in central_flow.numbers(run, 3).to_html()


def test_the_whole_flow(run, film):
    central_flow.film(run)
    assert film["frames"] == 5
    assert len(central_flow.beside(run).axes) == 3


def test_variances_and_their_table(run, film):
    predictions.variances(run)
    central = run["central"]
    first = film["fig"].axes[0]
    there = central["variances"].values[:, 0] > 0
    np.testing.assert_array_equal(first.lines[0].get_ydata()[there], central["displacements"].values[there, 0] ** 2)
    table = predictions.variance_table({"small": run}).data
    error = abs(table["off by"])
    expected = metrics.variance_error(central, 0)
    np.testing.assert_allclose(error[:-1], expected[np.isfinite(expected)])
    assert table["steps"].iloc[0] == there.sum()
    assert table.index[-1] == ("small", "all together")


def test_what_is_drawn_comes_to_be_seen(run, film):
    predictions.squared_gradient(run)
    assert len(film["fig"].axes) == 4
    artists = [artist for ax in film["fig"].axes for artist in (*ax.lines, *ax.collections)]
    widths = []
    for i in (0, film["frames"] - 1):
        film["draw"](i)
        widths.append({artist.get_clip_box().width / artist.axes.bbox.width for artist in artists})
    assert max(abs(np.array([*widths[0]]) - 1 / film["frames"])) < 1e-9
    assert max(abs(np.array([*widths[1]]) - 1)) < 1e-9
    predictions.nu(run)
    assert len(film["fig"].axes) == 3


def test_a_curve_that_hardly_moves_is_drawn_larger(run, film):
    still = run.copy(deep=True)
    for name in ("discrete", "central"):
        data = still[name].to_dataset()
        still[name] = xr.DataTree(data.assign(nu=0 * data["nu"] + 1 + 0.01 * data["step"] / STEPS))
    predictions.nu(still)
    low, high = film["fig"].axes[0].get_ylim()
    assert low > 0.9
    assert high - low < 0.05


def test_shares_are_the_metrics(run):
    *_, right = predictions.share(run, run, {3e-5: run, 1e-4: run}).axes
    floor = 1 - metrics.oscillation_share(run["central"])
    np.testing.assert_array_equal(right.lines[0].get_ydata(), floor)
    assert [line.get_label() for line in right.lines] == [r"$\eta = 3\times10^{-5}$", r"$\eta = 10^{-4}$"]
    above, below = predictions.brakes(run).axes
    np.testing.assert_array_equal(above.lines[0].get_ydata(), smooth(run["central"]["rise"]))
    assert [text.get_text() for text in below.texts] == [r"growth of $\nu$", "lower curvature"]


def test_errors_of_the_weights_that_are_kept(run):
    real, flow = (run[f"snapshots/{name}"]["nu"].values for name in ("discrete", "central"))
    some = run.copy(deep=True)
    some["snapshots/discrete"]["nu"].values[:-1, 3:] = np.nan
    for tree, kept in ((run, slice(None)), (some, slice(3))):
        right = predictions.nu_of_all_weights(tree).axes[1]
        expected = np.median(abs(flow / real - 1)[:, kept], axis=1)
        np.testing.assert_allclose(right.lines[0].get_ydata(), expected)


def test_outputs_lie_in_a_band(run):
    ax = predictions.outputs(run).axes[3]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), run["discrete"]["outputs"][:, 3])
    assert ax.get_title() == "cat"
