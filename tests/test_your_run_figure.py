"""The figure of chapter 12 shows the losses and readings that it is given."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from cflows.book.chapters import your_run

mpl.use("agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_the_rise_of_a_loss_is_over_the_median_of_the_steps_before():
    losses = np.random.default_rng(0).uniform(1, 2, 80)
    expected = [losses[t] / np.median(losses[t - 25 : t]) if t >= 25 else 1.0 for t in range(80)]
    np.testing.assert_allclose(your_run.rise(losses), expected)
    np.testing.assert_array_equal(your_run.rise(losses[:10]), np.ones(10))


@pytest.mark.parametrize("worst", [40, 150, 290])
def test_a_spike_and_the_readings_about_it(worst):
    losses = np.linspace(2, 1, 300)
    losses[worst - 1] = 9.0  # steps count from 1
    seen = pd.DataFrame({"ratio": np.linspace(0.1, 1.1, 60)}, index=pd.Index(range(5, 301, 5), name="step"))
    whole, about, ratios, near = your_run.spike(losses, seen).axes
    np.testing.assert_array_equal(whole.lines[0].get_ydata(), losses)
    np.testing.assert_array_equal(ratios.lines[0].get_ydata(), seen["ratio"])
    t, y = (np.asarray(x, dtype=float) for x in about.lines[0].get_data())
    assert t[y.argmax()] == worst
    assert t[0] == max(1, worst - your_run.WINDOW)
    assert t[-1] == min(300, worst + your_run.WINDOW)
    there = np.asarray(near.lines[0].get_xdata(), dtype=float)
    assert t[0] <= there.min() <= there.max() <= t[-1]
    for ax in (ratios, near):
        np.testing.assert_array_equal(np.ravel(ax.lines[1].get_ydata())[:1], [1])
