"""Runs of the repository, and how it is found out that one of them is wrong."""

from pathlib import Path

import numpy as np
import pytest

from cflows import experiments, files, stored
from cflows.__main__ import main

SMALL = {"width": 2, "per_class": 4, "size": 8, "coords": 2, "warmup": 100, "lr": 1e-4, "steps": 12, "window": 4}
SMALL |= {"branch": 6, "snapshot_every": 5}
RUNS = sorted((Path(__file__).parents[1] / "runs").glob("*.nc"))


@pytest.fixture(scope="module")
def files_of_a_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("computed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFLOWS_CACHE", str(folder))
        patch.setenv("CFLOWS_STORED", "")
        experiments.solve_programs(experiments.get("rmsprop-resnet", "ci", **SMALL))
        path = experiments.path_of(experiments.get("rmsprop-resnet", "ci", **SMALL))
    return path, experiments.programs_of(path)


@pytest.fixture
def run(files_of_a_run, tmp_path, monkeypatch):
    """A small run and its programs, in the repository alone."""
    monkeypatch.setenv("CFLOWS_STORED", str(tmp_path / "runs"))
    for path in files_of_a_run:
        stored.store(path, tmp_path / "runs")
    return tmp_path / "runs" / files_of_a_run[0].name


def test_what_is_stored_is_found_and_reproduced(run, monkeypatch, capsys):
    monkeypatch.setattr(experiments, "simulate", None)
    monkeypatch.setattr(experiments.preconditioners, "along", None)
    tree = experiments.run("rmsprop-resnet", "ci", **SMALL)
    assert experiments.solve_programs(experiments.get("rmsprop-resnet", "ci", **SMALL)).sizes["step"] == 3
    assert tree["central"]["loss"].dtype == np.float32
    weights, nu = (tree["snapshots/central"][name] for name in ("weights", "nu"))
    assert weights[:-1].isnull().all()
    assert weights[-1].notnull().all()
    assert nu[-1].notnull().all()  # of all snapshots for a preset alone
    monkeypatch.undo()
    assert main(["verify", str(run)]) == 0
    assert stored.verify(experiments.programs_of(run)) == []


def test_a_changed_file_is_found_out(run):
    tree = files.load(run)
    tree["central"]["loss"][3] *= 1.01
    tree.attrs["content"] = "that of before"
    tree.to_netcdf(run, engine="h5netcdf")
    with pytest.raises(ValueError, match="was changed after it was written"):
        stored.verify(run)
    with pytest.raises(ValueError, match="was changed"):
        experiments.run("rmsprop-resnet", "ci", **SMALL)


@pytest.mark.parametrize("variable", ["predicted_loss", "nu_sum"])
def test_a_result_that_the_code_does_not_give_is_found_out(run, variable, capsys):
    tree = files.load(run)
    tree["central"][variable][-3:] *= 1.1
    files.save(run, tree)
    assert main(["verify", str(run)]) == 1
    assert f"central: {variable} is off by" in capsys.readouterr().err
    programs = experiments.programs_of(run)
    solved = files.load(programs)
    solved["cosine"][-1] = 0.5
    files.save(programs, solved)
    assert any("cosine is off by" in line for line in stored.verify(programs))


def test_a_file_in_which_nothing_could_be_compared_is_found_out(run):
    tree = files.load(run)
    original = tree.copy(deep=True)
    tree["central"]["loss"][-3:] = np.nan
    files.save(run, tree)
    assert any("loss lacks values" in line for line in stored.verify(run))
    tree = original.copy(deep=True)
    tree["central"].dataset = tree["central"].to_dataset().assign_coords(step=tree["central"]["step"] + 1000)
    files.save(run, tree)
    assert any("there is no" in line for line in stored.verify(run))
    tree = original.copy(deep=True)
    tree.attrs["algorithm"] = 99
    files.save(run, tree)
    with pytest.raises(ValueError, match="another algorithm"):
        stored.verify(run)
    tree = original.copy(deep=True)
    tree["state"]["bytes"][:] = 7
    files.save(run, tree)
    with pytest.raises(ValueError, match="does not hold what its last steps start from"):
        stored.verify(run)


def test_a_run_without_its_programs_says_so(run):
    experiments.programs_of(run).unlink()
    with pytest.raises(ValueError, match="stored without the weights"):
        experiments.solve_programs(experiments.get("rmsprop-resnet", "ci", **SMALL))


def test_a_run_of_another_algorithm_is_not_in_its_place(run, monkeypatch):
    monkeypatch.setattr(experiments, "ALGORITHM", -1)
    with pytest.raises(ValueError, match="is not where its definition"):
        stored.verify(run)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_the_runs_of_the_repository_are_what_the_code_gives(path, monkeypatch):
    monkeypatch.setenv("CFLOWS_STORED", str(path.parent))
    assert stored.verify(path) == []


def test_the_runs_of_the_repository_are_small():
    assert sum(path.stat().st_size for path in RUNS) < 15e6
