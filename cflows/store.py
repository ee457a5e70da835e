"""Run files: where they are, where they come from, and what the repository keeps of them."""

from __future__ import annotations

import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import numpy as np
import pooch
import torch
import xarray as xr

from . import __version__, files
from .processes import PROCESSES
from .records import RECORDS

#: Significant decimal digits that the repository keeps of records, and of values for each weight.
DIGITS, DIGITS_PER_WEIGHT = 4, 2
WEIGHTS = 2000  # about as many have their ν kept at every snapshot
EXACT = math.inf  # of weights and eigenvalues
STATE_DIGITS = {"nu": 3.6, "p": 3, "penalty": 3, "V": 3}  # of fields of states that replays start from: 12 and 10 bits
DEFAULT_TOLERANCE = 15.0  # of a variable that declares none, in units of a run's accuracy
MIN_TOLERANCE, MAX_TOLERANCE = 1e-3, 0.3  # that of rounding; however rough a run is
COSTS = dict.fromkeys(("gap", "products", "rank", "seconds"))  # of convex programs: not compared

asked: set[str] = set()
"""Names of the files that were asked for since the program began."""


def cache() -> Path:
    """Folder of the runs.

    Returns
    -------
    Path
        That in the environment variable ``CFLOWS_CACHE``, or one in the user's cache.
    """
    return Path(os.environ.get("CFLOWS_CACHE") or pooch.os_cache("cflows")) / "runs"


def repository() -> Path | None:
    """Folder of the runs that come with the repository, in which those not in the cache are looked for.

    Returns
    -------
    Path or None
        That in the environment variable ``CFLOWS_STORED`` (None if it is empty), or ``runs`` beside the package.
    """
    folder = os.environ.get("CFLOWS_STORED", str(Path(__file__).parents[1] / "runs"))
    return Path(folder) if folder else None


def registered() -> dict[str, str]:
    """The run files that come with the repository.

    Returns
    -------
    dict
        SHA-256 by name, as `register` lists them.
    """
    lines = resources.files("cflows._data").joinpath("runs.txt").read_text().splitlines()
    return dict(line.split() for line in lines)  # type: ignore[misc]


def register() -> None:
    """List the runs of the repository, with their SHA-256, in the package, which then can fetch them from anywhere."""
    root = Path(__file__).parents[1]
    pooch.make_registry(str(root / "runs"), str(root / "cflows/_data/runs.txt"), recursive=False)


def find(name: str) -> Path | None:
    """Where a run file is: in the cache, in the repository, or fetched into the cache from ``CFLOWS_URL``.

    Parameters
    ----------
    name : str
        Its name without folders.

    Returns
    -------
    Path or None
        None if it is in none of them.

    Warns
    -----
    UserWarning
        If the address has no such file, or another one than was registered.
    """
    asked.add(name)
    folders = [folder for folder in (cache(), repository()) if folder]
    if found := next((folder / name for folder in folders if (folder / name).exists()), None):
        return found
    url, digest = os.environ.get("CFLOWS_URL"), registered().get(name)
    if not (url and digest):
        return None
    try:
        return Path(pooch.retrieve(f"{url}/{name}", digest, name, cache(), progressbar=False))
    except (OSError, ValueError) as error:
        warnings.warn(f"{url}/{name} could not be had ({error}); it is computed instead", stacklevel=3)
        return None


def kept(path: Path, device: str | torch.device, make: Callable[[Path | None], xr.DataTree]) -> xr.DataTree:
    """A result from the store, or made and put into the cache.

    Parameters
    ----------
    path : Path
        Its file in the cache.
    device : str or torch.device
        Where it is made, for its provenance.
    make : callable, Path or None -> DataTree
        Makes it; given a path for its checkpoints. An attribute ``seconds`` says how long it took in all.

    Returns
    -------
    xarray.DataTree

    Warns
    -----
    UserWarning
        If its file can't be written; the result is returned all the same.
    """
    if found := find(path.name):
        return load(found)
    checkpoint: Path | None = None
    try:
        checkpoint = files.writable(path.with_suffix(".ckpt"))
    except ValueError as error:
        warnings.warn(f"the run will not be kept: {error} (environment variable CFLOWS_CACHE)", stacklevel=3)
    begin = time.monotonic()
    tree = make(checkpoint)
    here = {"cflows": __version__, "torch": str(torch.__version__)}
    made = {name: tree.attrs.pop(name, version) for name, version in here.items()}
    made |= {"hardware": hardware(device), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    made["seconds"] = float(tree.attrs.pop("seconds", time.monotonic() - begin))
    tree.attrs["provenance"] = json.dumps(made)
    if checkpoint:
        try:
            files.save(path, tree)
            checkpoint.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"the run is not kept: {path} could not be written ({error})", stacklevel=3)
    return tree


def load(path: str | Path) -> xr.DataTree:
    """Read a run file into memory.

    Parameters
    ----------
    path : path
        File of a run, or of solved convex programs.

    Returns
    -------
    xarray.DataTree

    Raises
    ------
    ValueError
        If it is not there, can't be read, or is not what was written.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no run file {path}; `cflows list` names those that there are")
    tree = files.load(path, sealed=True)
    if missing := {"experiment", "provenance"} - set(tree.attrs):
        raise ValueError(f"{path} is not a run of an experiment: it does not state its {', '.join(sorted(missing))}")
    return tree


def provenance(tree: xr.DataTree | xr.Dataset) -> dict:
    """Where a run comes from.

    Parameters
    ----------
    tree : DataTree or Dataset

    Returns
    -------
    dict
        Versions of ``cflows`` and ``torch``, ``hardware``, ``date`` (UTC), and how many ``seconds`` it took.
    """
    return json.loads(tree.attrs["provenance"])


def device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name.

    Parameters
    ----------
    name : str or torch.device
        "auto" takes a GPU if there is one.

    Returns
    -------
    torch.device
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(name)!r} is not to be had here ({reason}); use auto, or cpu") from error


def hardware(name: str | torch.device = "auto") -> str:
    """The name of the processor that computes on a device.

    Parameters
    ----------
    name : str or torch.device
        As of `device`.

    Returns
    -------
    str
    """
    if (place := device(name)).type == "cuda":
        return torch.cuda.get_device_name(place)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{processor}, {threads} thread{'s' if threads > 1 else ''}"


def reduce(run: xr.DataTree) -> xr.DataTree:
    """What the repository keeps of a run: what figures and verification need, to the digits that they need.

    Parameters
    ----------
    run : xarray.DataTree
        A run, or solved convex programs.

    Returns
    -------
    xarray.DataTree
        Of snapshots there is the last, without squared gradients; of earlier ones of a preset there is ν, of some
        weights, evenly spread. Of distances there are those from the optimizer.
    """
    run = run.copy(deep=True)
    for node in run.subtree:
        data, digits = node.to_dataset(inherit=False), {}
        for name, x in data.data_vars.items():
            if node.path.startswith("/state"):
                digits[name] = STATE_DIGITS.get(str(name).rpartition(".")[2], EXACT)
            else:
                rounded = DIGITS_PER_WEIGHT if "weight" in x.dims else DIGITS
                digits[name] = EXACT if name in ("weights", "eigenvalues") else rounded
        if node.path.startswith("/snapshots/"):
            data = data[["nu"]] if node.name == "discrete" else data.drop_vars("grad_sq", errors="ignore")
            last = data["step"] == data["step"][-1]
            apart = max(data.sizes["weight"] // WEIGHTS, 1)
            some = (np.arange(data.sizes["weight"]) % apart == 0) & bool(run.attrs.get("preset"))
            kept = {name: last | xr.DataArray(some, dims="weight") if name == "nu" else last for name in data.data_vars}
            data = data.assign({name: data[name].where(where) for name, where in kept.items()})
        elif node.path.startswith("/distance") and "discrete" in run:
            data = data[[name for name in data.data_vars if str(name).endswith("-discrete")]]
        data = data.assign({name: _rounded(x, digits[name]) for name, x in data.data_vars.items()})
        if not node.path.startswith("/state"):
            data = data.map(lambda x: x.astype(np.float32) if x.dtype.kind == "f" else x, keep_attrs=True)
        node.dataset = data
    return run


def _rounded(x: xr.DataArray, digits: float) -> xr.DataArray:
    """To as many bits as it takes for so many decimal digits, so that it compresses well."""
    if x.dtype.kind != "f" or digits == EXACT:
        return x
    bits = math.ceil(digits * math.log2(10))
    mantissa, exponent = np.frexp(x.values)
    return x.copy(data=np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits))


def put(path: Path, folder: Path) -> Path:
    """Write the reduced form of a run file, or of one of solved convex programs, into a folder.

    Parameters
    ----------
    path : Path
        The file.
    folder : Path
        Where to.

    Returns
    -------
    Path
        File of the same name in the folder.
    """
    files.save(folder / path.name, reduce(load(path)))
    return folder / path.name


def differences(there: xr.DataTree, here: xr.DataTree, accuracy: float) -> list[str]:
    """Where a stored run is not what is computed now.

    Parameters
    ----------
    there : xarray.DataTree
        The stored run, reduced or not.
    here : xarray.DataTree
        Some steps of it, computed again.
    accuracy : float
        Of the run; tolerances are in units of it.

    Returns
    -------
    list of str
        A line for each variable that is not reproduced; empty if all are.
    """
    lines = []
    stored, computed = (
        {node.path.strip("/"): node.to_dataset() for node in reduce(tree).subtree if node.data_vars}
        for tree in (there, here)
    )
    recorded = json.loads(there.attrs["options"])["records"] if "options" in there.attrs else []
    for name in [*stored, *(name for name in computed if name not in stored)]:
        if name.startswith(("state", "snapshots")):
            continue
        process = PROCESSES.get(name)
        further = [RECORDS[x] for x in recorded if x in RECORDS]
        known = [*(x.variable for x in further if name in (x.processes or (name,)))]
        known += (*process.variables, *process.memory_variables) if process else ()
        tolerances = {variable.name: variable.tolerance for variable in known} if process else COSTS
        if name in stored and name in computed:
            found = _differences(stored[name], computed[name], tolerances, accuracy, name)
        else:
            found = ["it is not in the stored run" if name in computed else "it is not in what is computed now"]
        lines += [f"{name or 'solved'}: {line}" for line in found]
    return lines


def _differences(
    there: xr.Dataset, here: xr.Dataset, tolerances: Mapping[str, float | None], accuracy: float, name: str
) -> list[str]:
    lines = []
    for data, where in ((there, "the stored run"), (here, "what is computed now")):
        if missing := sorted({str(x) for x in (*here.data_vars, *there.data_vars)} - set(data.data_vars)):
            return [f"there is no {', '.join(missing)} in {where}"]
    refreshed = {x for x in here.data_vars if "eig" in here[x].dims}
    for x in refreshed:  # a flow that is computed again may find them at other steps: those between count
        if not there[x].notnull().any() and here[x].notnull().any():
            lines.append(f"{x} has no values in the stored run")
        there = there.assign({x: there[x].interpolate_na("step", use_coordinate=True)})
    there = there.sel({dim: index for dim, index in here.indexes.items() if dim != "eig"})
    least = 1e-30
    if name.startswith("distance"):  # of flows that have not parted, it is rounding
        least = max([least, *(0.01 * float(x.max()) for x in here.data_vars.values())])
    for x in sorted(map(str, here.data_vars)):
        if (tolerance := tolerances.get(x, DEFAULT_TOLERANCE)) is None:
            continue
        width = {"eig": slice(min(data.sizes["eig"] for data in (here, there)))} if x in refreshed else {}
        a, b = (data[x].isel(width).values.astype(float) for data in (there, here))
        both = np.isfinite(a) & np.isfinite(b)
        late = int(len(b) > 1 and not np.isfinite(b[0]).any())  # midpoints need the step before the first
        if x in refreshed:  # at least at one step both are known
            differ = not both.any() and (np.isfinite(a[late:]).any() or np.isfinite(b).any())
        else:
            differ = (np.isfinite(a) != np.isfinite(b))[late:].any()
        if differ:
            lines.append(f"{x} is finite at other steps")
        if both.any():
            off = float(abs(a - b)[both].max() / max(abs(b[both]).max(), least))
            if not off <= min(max(tolerance * accuracy, MIN_TOLERANCE), MAX_TOLERANCE):
                lines.append(f"{x} is off by {off:.2g} of its largest value")
    return lines
