import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from conftest import mlp_objective

import cflows
from cflows.book import figures

mpl.use("agg")


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
    assert bottom.get_title() == "distance to some optimizer"
    plt.close(fig)
    fig = cflows.plot(tree, "some optimizer")
    loss, spectrum, distance, variance = fig.axes
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), trusted)
    assert spectrum.get_ylim() == (0, 2.4)
    np.testing.assert_array_equal(distance.lines[0].get_ydata(), tree["distance"]["stable-discrete"])
    there = central["variances"][:, 0] > 0
    np.testing.assert_array_equal(variance.lines[0].get_ydata()[there], central["displacements"].values[there, 0] ** 2)
    assert [line.get_label() for line in variance.lines] == ["some optimizer", "its time-average", "predicted"]
    assert loss.get_yscale() == "log"
    plt.close(fig)
    tree["central"]["loss"] -= 10  # a log-likelihood, say
    assert cflows.plot(tree).axes[0].get_yscale() == "linear"
    plt.close()
    del tree["central"]
    with pytest.raises(ValueError, match="the run has no central"):
        cflows.plot(tree)


def test_any_process_of_a_run_can_be_drawn():
    gap = np.array([3.0, np.nan, 1.0])
    data = xr.Dataset(
        {"loss": ("step", gap), "eigenvalues": (("step", "eig"), gap[:, None] * [2, 1])}, {"step": range(3)}
    )
    nodes = dict.fromkeys(("discrete", "central", "mine", "yours"), data)
    run = xr.DataTree.from_dict(nodes | {"distance": xr.Dataset({"central-discrete": ("step", gap)})})
    fig = figures.compare(
        run, {"loss": "loss", "top": "eigenvalues", "twice": lambda d: 2 * d["loss"].values}, optimizer="SGD"
    )
    loss, top, twice = ({line.get_label(): line for line in ax.lines} for ax in fig.axes)
    assert list(loss) == ["SGD", "central flow", "mine", "yours"]
    assert loss["central flow"].get_color() == figures.COLORS["central"]
    assert len({line.get_color() for line in loss.values()}) == 4
    np.testing.assert_array_equal(loss["mine"].get_ydata(), [3, 2, 1])  # drawn across the gap
    np.testing.assert_array_equal(top["yours"].get_ydata(), [6, 4, 2])
    np.testing.assert_array_equal(twice["SGD"].get_ydata(), [6, np.nan, 2])
    plt.close(fig)
    figures.compare(run, {"loss": "loss"}, ("mine",), axes=[ax := plt.figure().subplots()])
    assert [line.get_label() for line in ax.lines] == ["mine"]
    plt.close(ax.figure)
