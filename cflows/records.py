"""What a run records: variables, the rows that processes give at each step, and the datasets that come of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from .registry import Registry


@dataclass(frozen=True)
class Variable:
    """A quantity that a process records at every step.

    Attributes
    ----------
    name : str
    dim : str
        Its dimension besides step; "" for a number.
    meaning : str
        What it is, in a line.
    tolerance : float or None
        How far off it may be when a stored run is verified, relative to its largest value and in units of the run's
        ``accuracy``; None: it is not compared.
    padding : float
        What fills up a list that is shorter than its dimension.
    """

    name: str
    dim: str
    meaning: str
    tolerance: float | None = 15.0
    padding: float = np.nan


@dataclass(frozen=True)
class Record:
    """A further quantity to record of processes: `simulate` takes them as ``records``.

    Attributes
    ----------
    variable : Variable
    of : callable, Observation -> float, list of floats, or None
        Its value, given what a process sees at a step; None: there is none.
    processes : tuple of str
        Processes that it is recorded of; empty: all.
    """

    variable: Variable
    of: Callable[[Any], float | Sequence[float] | None]
    processes: tuple[str, ...] = ()


#: Further quantities by name.
RECORDS: Registry[Record] = Registry("record")


def check(process: str, row: Mapping[str, Any], variables: Iterable[Variable], widths: Mapping[str, int]) -> None:
    """Refuse what a process records without declaring it, or otherwise than it declares it: it would be lost.

    Parameters
    ----------
    process : str
        Its name.
    row : dict
        What it records.
    variables : iterable of Variable
        What it declares.
    widths : dict
        Size of dimensions that are fixed.

    Raises
    ------
    ValueError
        If there is more in the row, or a value that does not have the dimension of its variable.
    """
    declared = {variable.name: variable for variable in variables}
    if unknown := set(row) - set(declared):
        raise ValueError(
            f"{process} records {', '.join(sorted(unknown))} without declaring it; add a Variable to its variables"
        )
    for name, value in row.items():
        dim = declared[name].dim
        try:
            shape = np.asarray(value, dtype=float).shape
        except (TypeError, ValueError) as error:
            raise ValueError(f"{process} records {value!r} as {name}; it must be numbers") from error
        if len(shape) != bool(dim) or shape[:1] > (widths.get(dim, math.inf),):
            what = f"a list over {dim!r}" + (f", {widths[dim]} of them" if dim in widths else "") if dim else "a number"
            raise ValueError(f"{process} records values of shape {shape} as {name}; it must be {what}")


def dataset(
    rows: Sequence[Mapping[str, Any]], variables: Iterable[Variable], first: int, widths: Mapping[str, int]
) -> xr.Dataset:
    """Rows of numbers and lists as arrays over ``step``, NaN where a row has none.

    Parameters
    ----------
    rows : sequence of dict
        One for each step.
    variables : iterable of Variable
    first : int
        Number of the first step.
    widths : dict
        Least size of each dimension; one that is not named, or 0, is as large as the longest list, and a variable that
        has neither is left out.

    Returns
    -------
    xarray.Dataset
    """
    variables = list(variables)
    sizes = dict(widths)
    for variable in variables:
        if variable.dim:
            longest = max((len(row[variable.name]) for row in rows if variable.name in row), default=0)
            sizes[variable.dim] = max(sizes.get(variable.dim, 0), longest)
    data: dict[str, Any] = {}
    for v in variables:
        if v.dim and not sizes[v.dim]:
            continue
        width = sizes.get(v.dim, 0)
        values = np.full((len(rows), width) if v.dim else len(rows), np.nan)
        for i, row in enumerate(rows):
            if v.name in row:
                values[i] = [*row[v.name], *[v.padding] * (width - len(row[v.name]))] if v.dim else row[v.name]
        data[v.name] = (("step", v.dim) if v.dim else "step", values, {"long_name": v.meaning})
    return xr.Dataset(data, coords={"step": first + np.arange(len(rows))})


def rows(data: xr.Dataset) -> list[dict[str, Any]]:
    """The rows of a dataset that `dataset` made, to go on from; NaN is nothing.

    Parameters
    ----------
    data : xarray.Dataset

    Returns
    -------
    list of dict
    """
    found: list[dict[str, Any]] = [{} for _ in range(data.sizes["step"])]
    for name, x in data.data_vars.items():
        for row, value in zip(found, x.values, strict=True):
            if not np.isnan(value).all():
                row[str(name)] = value.tolist()
    return found
