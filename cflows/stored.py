"""Runs that come with the repository: reduced to what figures need, and proved by computing their end again."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pooch
import xarray as xr

from . import experiments, files, preconditioners, simulation

# How far off the present code may be, relative to the largest value of a variable in the window. Flows look for
# eigenvectors and third derivatives anew, with the tolerances of the run; what depends on them most may be off by more.
TOLERANCE = 0.03
LOOSE = 0.25
SENSITIVE = {
    "variances", "output_deviations", "grad_sq", "predicted_grad_sq", "predicted_grad_norm_sq", "rise",
    "curvature_reduction", "nu_growth", "extrapolation", "p_first_term_all",
}  # fmt: skip
NOT_COMPARED = {"displacements", "eig_residual", "gap", "products", "rank", "seconds"}  # signs, errors and costs


def reduce(run: xr.DataTree) -> xr.DataTree:
    """A run in single precision, without what figures do not need.

    Parameters
    ----------
    run : xarray.DataTree
        As of `experiments.run`.

    Returns
    -------
    xarray.DataTree
        Of its snapshots there is the last, and ν of all of them if it is a preset.
    """
    run = run.copy(deep=True)
    experiment = experiments.read(run)
    kept = {"nu"} if experiment in experiments.PRESETS[experiment.name].values() else set()
    for node in run.subtree:
        data = node.to_dataset()
        if node.path.startswith("/snapshots/"):
            last = data["step"] == data["step"][-1]
            data = data.assign({name: data[name].where(last) for name in set(data.data_vars) - kept})
        double = [name for name, x in data.data_vars.items() if x.dtype == np.float64]
        node.dataset = data.assign({name: data[name].astype(np.float32) for name in double})
    return run


def store(path: Path, folder: Path) -> Path:
    """Write the reduced form of a run file, or of one of solved programs, into a folder.

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
    files.save(folder / path.name, reduce(experiments.load(path)))
    return folder / path.name


def register() -> None:
    """List the runs of the repository, with their SHA-256, in the package, which then can fetch them from anywhere."""
    root = Path(__file__).parents[1]
    pooch.make_registry(str(root / "runs"), str(root / "cflows/_data/runs.txt"), recursive=False)


def verify(path: Path, device: str = "auto") -> list[str]:
    """Compute the last steps of a stored run again, or the last of its solved programs, and say what differs.

    Parameters
    ----------
    path : path
        File of a run that has a window, or of programs beside such a run.
    device : str
        Where to compute; "auto" takes a GPU if there is one.

    Returns
    -------
    list of str
        A line for each variable that the present code would not reproduce; empty if it would.

    Raises
    ------
    ValueError
        If the file was changed after it was written, or its run can't be computed again.
    """
    there = experiments.load(path)
    experiment = experiments.read(there)
    f, opt = experiments.objective(experiment, device), experiments.optimizer(experiment)
    home = experiments.path_of(experiment)
    if path.name not in (home.name, experiments.programs_of(home).name):
        raise ValueError(f"{path} is not where its definition, data and the present algorithm would put it")
    present = {"algorithm": experiments.ALGORITHM, "data": experiments.data_digest(experiment)}
    if differ := [name for name, value in present.items() if there.attrs.get(name) != value]:
        raise ValueError(f"{path} has another {differ[0]} than the present one: {there.attrs.get(differ[0])}")
    if path.name != home.name:
        run = experiments.load(path.with_name(home.name))
        taken = run["snapshots/central"].to_dataset().isel(step=[-1])
        run["snapshots/central"] = xr.DataTree(taken)
        again = xr.DataTree.from_dict(
            {"programs": preconditioners.along(f, opt, run).drop_vars("log_correlation_past")}
        )
        there = xr.DataTree.from_dict({"programs": there.to_dataset()})
    else:
        try:
            again = simulation.replay(f, opt, there, experiments.test_outputs(f, experiment))
        except (KeyError, AttributeError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} does not hold what its last steps start from ({error!r})") from error
        if (steps := again["distance"].sizes["step"]) != experiment.window:
            raise ValueError(f"{path} holds {steps} last steps, not {experiment.window}")
    return [
        line
        for name in (node.path.strip("/") for node in again.subtree if node.data_vars)
        if not name.startswith(("state", "snapshots"))
        for line in _differences(name, there[name].to_dataset(), again[name].to_dataset())
    ]


def _differences(node: str, there: xr.Dataset, here: xr.Dataset) -> list[str]:
    lines = []
    if missing := sorted(map(str, set(here.data_vars) - set(there.data_vars))):
        return [f"{node}: there is no {', '.join(missing)}"]
    looks = [name for name in here.data_vars if "eig" in here[name].dims]
    for name in looks:  # a flow that is computed again may look at other steps: near ones count
        looked = there[name].dropna("step", how="all")
        if not looked.size and here[name].notnull().any():
            lines.append(f"{node}: {name} has no values")
        there = there.assign({name: looked.reindex(step=there["step"], method="nearest", tolerance=2)})
    try:
        there = there.sel({name: x for name, x in here.indexes.items() if name != "eig"})
    except KeyError as error:
        return [f"{node}: there is no {error}"]
    least = 1e-30
    if node.startswith("distance"):  # of flows that have not parted, it is rounding
        least = max([least, *(0.01 * float(x.max()) for x in here.data_vars.values())])
    for name in sorted(set(map(str, here.data_vars)) - NOT_COMPARED):
        width = {"eig": slice(min(x.sizes["eig"] for x in (here, there)))} if name in looks else {}
        a, b = (x[name].isel(width).values.astype(float) for x in (there, here))
        seen = np.isfinite(a) & np.isfinite(b)
        if name not in looks and (seen != np.isfinite(b)).any():
            lines.append(f"{node}: {name} lacks values, or has ones that are not finite")
        if not seen.any():
            continue
        off = float(abs(a - b)[seen].max() / max(abs(b[seen]).max(), least))
        if not off <= (LOOSE if name in SENSITIVE else TOLERANCE):
            lines.append(f"{node}: {name} is off by {off:.2g} of its largest value")
    return lines
