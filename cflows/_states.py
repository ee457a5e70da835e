"""States as plain arrays and numbers by name, and back: how they are saved, replayed and moved between devices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import torch
import xarray as xr
from torch import Tensor

#: Version of the form in which states are saved.
FORMAT = 1


def pack(state: Any, caches: bool = True) -> xr.Dataset:
    """A state as a dataset: arrays are variables, numbers and text are in the attribute ``numbers``.

    Parameters
    ----------
    state : dataclass
        Of tensors, NumPy arrays, numbers, text and further such classes, or None.
    caches : bool
        Whether to keep fields that only save time.

    Returns
    -------
    xarray.Dataset
        The field ``b`` of a field ``a`` is named "a.b". Arrays keep their layout in memory.
    """
    arrays: dict[str, Any] = {}
    numbers: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, (Tensor, np.ndarray)):
            kind = "tensor" if isinstance(value, Tensor) else "array"
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
            order = _order(array.strides)
            dims = [f"{prefix}:{axis}" for axis in order]
            arrays[prefix] = (dims, array.transpose(order), {"kind": kind, "order": json.dumps(order)})
        elif names := _fields(type(value)):
            numbers[prefix] = True
            for name, marks in names.items():
                if caches or "cache" not in marks:
                    visit(f"{prefix}.{name}" if prefix else name, getattr(value, name))
        else:
            numbers[prefix] = value

    visit("", state)
    return xr.Dataset(arrays, attrs={"numbers": json.dumps(numbers), "format": FORMAT})


def unpack(cls: type, packed: xr.Dataset, device: torch.device) -> Any:
    """The state of a class that `pack` was given, its tensors on a device.

    Raises
    ------
    ValueError
        If the dataset does not hold what the class needs.
    """
    if packed.attrs.get("format") != FORMAT:
        raise ValueError(f"the state has format {packed.attrs.get('format')}; this version reads format {FORMAT}")
    numbers = json.loads(packed.attrs["numbers"])
    used = {""}

    def build(prefix: str, kind: type) -> Any:
        hints, values = _hints(kind), {}
        for name, marks in _fields(kind).items():
            path = f"{prefix}.{name}" if prefix else name
            used.add(path)
            if path in packed:
                array, attrs = np.array(packed[path].values), packed[path].attrs
                array = array.transpose(np.argsort(json.loads(attrs["order"])))  # rounding depends on the layout
                values[name] = torch.from_numpy(array).to(device) if attrs["kind"] == "tensor" else array
            elif path in numbers:
                nested = [t for t in (hints[name], *get_args(hints[name])) if isinstance(t, type) and _fields(t)]
                there = numbers[path] is not None
                values[name] = build(path, nested[0]) if nested and there else numbers[path]
            elif not marks:
                raise TypeError(f"{path} is missing")
        return kind(**values)

    try:
        state = build("", cls)
        if unused := {*map(str, packed.data_vars), *numbers} - used:
            raise TypeError(f"it has no {', '.join(sorted(unused))}")
    except TypeError as error:
        raise ValueError(f"the state is not one of {cls.__name__} ({error})") from error
    return state


def settle(state: Any, kind: Any) -> Any:
    """The same state, each of its arrays dense in memory, as `unpack` makes them.

    Sums are rounded as the layout of an array has it. So a run goes on from a file as if it had not been interrupted.

    Raises
    ------
    TypeError
        If the state is not of the given type, or has a field that `unpack` could not make again.
    """
    return _settled(state, kind, "the state")


def _settled(state: Any, kind: Any, where: str) -> Any:
    kinds = {get_origin(x) or x for x in (kind, *get_args(kind))}
    if isinstance(state, Tensor):
        if state.is_contiguous():
            return state
        order = _order(state.stride())
        dense = state.permute(order).clone(memory_format=torch.contiguous_format).permute(tuple(np.argsort(order)))
        return state if state.stride() == dense.stride() else dense
    if isinstance(state, np.ndarray):
        order = _order(state.strides)
        return np.array(state.transpose(order), order="C").transpose(np.argsort(order))
    if _fields(type(state)):
        if type(state) not in kinds:
            raise TypeError(f"{where} is a {type(state).__name__}, and declared as {kind}; declare that very class")
        hints = _hints(type(state))  # type: ignore[arg-type]
        return type(state)(
            **{name: _settled(getattr(state, name), hints[name], f"{where}.{name}") for name in _fields(type(state))}
        )
    state = state.item() if isinstance(state, np.generic) else state
    if state is not None and type(state) not in (bool, int, float, str):
        raise TypeError(
            f"{where} is a {type(state).__name__}; states are made of tensors, arrays, bool, int, float, str, None "
            "and dataclasses of these"
        )
    return state


def _order(strides: Sequence[int]) -> list[int]:
    """Axes from the slowest to the fastest."""
    return sorted(range(len(strides)), key=lambda axis: -strides[axis])


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fields(kind: type) -> Mapping[str, Mapping]:
    """Names of a class's fields, and their marks: "cache", if it only saves time; "added", if old files lack it."""
    if is_dataclass(kind):
        return {f.name: f.metadata for f in fields(kind)}
    return {name: {} for name in getattr(kind, "_fields", ())}
