"""The time-average of an oscillating series: one kernel, used wherever an empirical average is drawn."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter1d

#: Width of the book's averages, in steps: oscillations come in bursts of some tens of steps.
WIDTH = 30.0


def smooth(series: ArrayLike, width: float = WIDTH) -> Float[np.ndarray, "steps ..."]:
    """Gaussian-weighted average over neighbouring steps.

    Parameters
    ----------
    series : array (steps, ...)
        One value a step along the first axis. A value that is not finite counts as missing.
    width : float
        Standard deviation of the kernel, in steps (by default `WIDTH`); the kernel ends at four of them.

    Returns
    -------
    array (steps, ...)
        Σ_s k(t-s) x_s / Σ_s k(t-s), summed over the steps that are there: near an edge, or a gap, the weights of those
        that remain are scaled up. NaN where the series is not finite.

    Raises
    ------
    ValueError
        If ``width`` is not positive and finite.

    Examples
    --------
    >>> abs(smooth([1.0, -1.0] * 50, width=5)[50]) < 1e-4  # period two averages out
    np.True_
    """
    x = np.asarray(series, dtype=np.float64)
    if not 0 < width < np.inf:
        raise ValueError(f"width is {width}; the kernel's width must be positive and finite, in steps")
    there = np.isfinite(x)
    options = {"sigma": width, "axis": 0, "mode": "constant"}
    total = gaussian_filter1d(np.where(there, x, 0.0), **options)
    weight = gaussian_filter1d(there.astype(float), **options)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(there, total / weight, np.nan)
