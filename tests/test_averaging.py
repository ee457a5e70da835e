import numpy as np
import pytest

from cflows.averaging import smooth


def test_constants_stay_and_period_two_goes():
    x = 3 + np.array([1.0, -1.0] * 50)
    np.testing.assert_allclose(smooth(x, 4)[20:-20], 3, atol=1e-4)  # but for where the kernel ends
    np.testing.assert_allclose(smooth(np.full(10, 7.0), 4), 7)


def test_against_the_sum_written_out():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2))
    x[5, 0] = np.nan
    t = np.arange(40)
    k = np.exp(-((t[:, None] - t) ** 2) / (2 * 3.0**2)) * (abs(t[:, None] - t) <= 12)
    for j in range(2):
        there = np.isfinite(x[:, j])
        twin = (k[:, there] @ x[there, j]) / k[:, there].sum(1)
        np.testing.assert_allclose(smooth(x, 3)[there, j], twin[there], atol=1e-12)
    assert np.isnan(smooth(x, 3)[5, 0])


def test_bad_width_is_named():
    with pytest.raises(ValueError, match="width is 0"):
        smooth([1.0], 0)
