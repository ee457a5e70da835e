"""Runs of the repository, and how it is found out that one of them is wrong."""

import math
import threading
import warnings
from dataclasses import replace
from datetime import date
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from test_tasks import Valley

from cflows import RMSProp, _definitions, experiments, files, store, survey
from cflows.__main__ import main
from cflows.experiments import Experiment
from cflows.processes import Observation
from cflows.processes.central import Central
from cflows.records import RECORDS, Record, Variable
from cflows.simulation import replay

SMALL = Experiment(
    "mine", task=Valley(dim=1), optimizer=RMSProp(0.01, 0.95, bias_correction=True), burn_in=100, steps=60,
    processes=("discrete", "midpoint", "central"),
    eig_every=1, coords=2, snapshot_every=30, replay_steps=4, replay_from=(30, 50),
)  # fmt: skip
RUNS = sorted((Path(__file__).parents[1] / "runs").glob("*.nc"))


@pytest.fixture(scope="module")
def files_of_a_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("computed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFLOWS_CACHE", str(folder))
        patch.setenv("CFLOWS_STORED", "")
        experiments.solve_convex_programs(SMALL)
        return SMALL.path, SMALL.convex_programs_path


def solved_beside(path):
    return path.with_suffix(".preconditioners.nc")


@pytest.fixture
def run(files_of_a_run, tmp_path, monkeypatch):
    """A small run and its programs, in the repository alone."""
    monkeypatch.setenv("CFLOWS_STORED", str(tmp_path / "runs"))
    for path in files_of_a_run:
        store.put(path, tmp_path / "runs")
    return tmp_path / "runs" / files_of_a_run[0].name


def test_what_is_stored_is_found_and_reproduced(run, monkeypatch, capsys):
    monkeypatch.setattr(experiments, "simulate", None)
    monkeypatch.setattr(experiments.preconditioners, "along", None)
    tree = experiments.compute(SMALL)
    assert experiments.solve_convex_programs(SMALL).sizes["step"] == 2
    assert tree["central"]["loss"].dtype == np.float32
    assert set(tree["distance"].data_vars) == {"midpoint-discrete", "central-discrete"}
    weights, nu = (tree["snapshots/central"][name] for name in ("weights", "nu"))
    assert weights[:-1].isnull().all()
    assert weights[-1].notnull().all()
    assert nu[-1].notnull().all()  # of all snapshots for a preset alone
    monkeypatch.undo()
    assert main(["verify", str(run)]) == 0
    assert experiments.verify(run, steps=2) == []
    assert experiments.verify(solved_beside(run)) == []


@pytest.fixture
def served(run, monkeypatch):
    """The small run and its programs, on the web alone, where the package knows of them."""
    monkeypatch.setenv("CFLOWS_STORED", "")
    digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in run.parent.iterdir()}
    monkeypatch.setattr(store, "registered", lambda: digests)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=run.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("CFLOWS_URL", f"http://127.0.0.1:{server.server_port}")
        yield run
        server.shutdown()


def test_what_is_on_the_web_is_fetched_once(served, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(experiments, "simulate", None)
        patch.setattr(experiments.preconditioners, "along", None)
        experiments.solve_convex_programs(SMALL)
        experiments.compute(SMALL)
        names = {served.name, solved_beside(served).name}
        assert {p.name for p in (cache / "runs").iterdir()} == names <= store.asked
        patch.delenv("CFLOWS_URL")
        experiments.compute(SMALL)


@pytest.mark.parametrize("harm", [lambda p: p.write_bytes(b"other"), lambda p: p.unlink()], ids=["other", "missing"])
def test_what_is_on_the_web_but_not_what_was_stored_is_computed(served, cache, monkeypatch, harm):
    def simulate(*arguments, **options):
        raise RuntimeError("computing")

    monkeypatch.setattr(experiments, "simulate", simulate)
    harm(served)
    with (
        pytest.warns(UserWarning, match="could not be had .* it is computed instead"),
        pytest.raises(RuntimeError, match="computing"),
    ):
        experiments.compute(SMALL)
    assert not list((cache / "runs").glob("*"))


def test_what_the_repository_does_not_have_is_not_sought_on_the_web(monkeypatch):
    monkeypatch.setenv("CFLOWS_URL", "http://127.0.0.1:1")
    assert store.find("another.nc") is None


def test_the_package_knows_the_runs_of_the_repository():
    found = {path.name: sha256(path.read_bytes()).hexdigest() for path in RUNS}
    assert store.registered() == found, "`cflows store` lists them; so does cflows.store.register()"


def test_a_changed_file_is_found_out(run):
    tree = files.load(run)
    tree["central"]["loss"][3] *= 1.01
    tree.attrs["content"] = "that of before"
    tree.to_netcdf(run, engine="h5netcdf")
    with pytest.raises(ValueError, match="was changed after it was written"):
        experiments.verify(run)
    with pytest.raises(ValueError, match="was changed"):
        experiments.compute(SMALL)


@pytest.mark.parametrize(("variable", "steps"), [("predicted_loss", slice(50, 54)), ("nu_sum", slice(31, 33))])
def test_a_result_that_the_code_does_not_give_is_found_out(run, variable, steps, capsys):
    tree = files.load(run)
    tree["central"][variable][steps] *= 1.1
    files.save(run, tree)
    assert main(["verify", str(run)]) == 1
    assert f"central: {variable} is off by" in capsys.readouterr().err
    assert any(f"{variable} is off by" in line for line in experiments.verify(run, steps=3))
    programs = solved_beside(run)
    solved = files.load(programs)
    solved["cosine"][-1] = 0.5
    files.save(programs, solved)
    assert any("cosine is off by" in line for line in experiments.verify(programs))


def test_distances_of_flows_that_have_not_parted_are_rounding():
    def distances(noise):
        data = xr.Dataset({"a-b": ("step", [1.0, 1.0]), "a-c": ("step", [noise, noise])}, {"step": [0, 1]})
        return xr.DataTree.from_dict({"distance": data})

    assert store.differences(distances(1e-7), distances(2e-7), accuracy=0.01) == []
    assert len(store.differences(distances(0.5), distances(0.6), accuracy=0.01)) == 1
    assert store.differences(distances(0.5), distances(0.501), accuracy=0.01) == []
    assert len(store.differences(distances(0.5), distances(0.501), accuracy=1e-4)) == 1


def test_a_file_in_which_nothing_could_be_compared_is_found_out(run):
    tree = files.load(run)
    original = tree.copy(deep=True)
    tree["central"]["loss"][50:] = np.nan
    files.save(run, tree)
    assert any("loss is finite at other steps" in line for line in experiments.verify(run))
    tree = original.copy(deep=True)
    tree["central"].dataset = tree["central"].to_dataset().assign_coords(step=tree["central"]["step"] + 1000)
    files.save(run, tree)
    with pytest.raises(ValueError, match="does not hold what it could be computed again from"):
        experiments.verify(run)
    tree = original.copy(deep=True)
    tree.attrs["algorithm"] = 99
    files.save(run, tree)
    with pytest.raises(ValueError, match="another algorithm"):
        experiments.verify(run)
    tree = original.copy(deep=True)
    tree["state/50/central"].orphan()
    files.save(run, tree)
    with pytest.raises(ValueError, match="does not hold what it could be computed again from"):
        experiments.verify(run)


def test_a_run_without_its_programs_says_so(run):
    solved_beside(run).unlink()
    with pytest.raises(ValueError, match="stored without the weights"):
        experiments.solve_convex_programs(SMALL)


def test_a_run_of_another_algorithm_is_not_in_its_place(run, monkeypatch):
    monkeypatch.setattr(_definitions, "ALGORITHM", -1)
    with pytest.raises(ValueError, match="is not where its definition"):
        experiments.verify(run)


def again(path: Path) -> bool:
    """Whether a file is computed again here: of three learning rates the date chooses one."""
    rates = sorted({p.name.split(".")[0] for p in RUNS if p.match("rmsprop-rates-*")})
    return path.name.split(".")[0] not in rates or path.name.startswith(rates[date.today().toordinal() % len(rates)])


@pytest.mark.parametrize("path", [path for path in RUNS if again(path)], ids=lambda path: path.name)
def test_the_runs_of_the_repository_are_what_the_code_gives(path, monkeypatch):
    """Of a run the first steps tell, up to the second eigenvalues of each process; of a survey one run."""
    monkeypatch.setenv("CFLOWS_STORED", str(path.parent))
    if "-table-" in path.name:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what a run says of its network
            assert survey.verify(path) == []
        return
    steps = experiments.read(store.load(path)).eig_every["midpoint"] + 1
    assert experiments.verify(path, steps=steps) == []


def test_the_runs_of_the_repository_are_small():
    sizes = {path.name: path.stat().st_size for path in RUNS}
    assert sum(sizes.values()) < 1.3e7  # of 15 MB that the repository may give to runs
    tables = {name for name in sizes if "-table-" in name}
    assert sum(sizes[name] for name in tables) < 3e5
    assert sum(size for name, size in sizes.items() if name not in tables and not name.startswith("adam")) < 8e6


@pytest.mark.parametrize(("preset", "kept"), [("laptop", 2000), ("", 0)])
def test_of_many_weights_some_are_kept_at_every_snapshot(preset, kept):
    nu = np.random.default_rng(0).uniform(1, 2, (3, 20_000))
    data = xr.Dataset({"weights": (("step", "weight"), nu), "nu": (("step", "weight"), nu)}, {"step": [0, 10, 20]})
    tree = xr.DataTree.from_dict({"snapshots/central": data})
    tree.attrs["preset"] = preset
    reduced = store.reduce(tree)["snapshots/central"]
    assert reduced["nu"].notnull().sum("weight").values.tolist() == [kept, kept, 20_000]
    assert reduced["weights"].notnull().sum("weight").values.tolist() == [0, 0, 20_000]


def test_what_a_flow_no_longer_gives_is_found_out(run, monkeypatch):
    """No values, a flow that ends, a process or a variable that is not there."""
    observe = Central.observe

    def ended(self, state, i, others):
        return Observation(i, observe(self, state, i, others).state.stopped(i, "broken"))

    def empty(self, state, i, others):
        seen = observe(self, state, i, others)
        return replace(seen, row={k: math.nan if isinstance(x, float) else x for k, x in seen.row.items()})

    for broken in (ended, empty):
        monkeypatch.setattr(Central, "observe", broken)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            lines = experiments.verify(run)
        assert any("central: loss is finite at other steps" in line for line in lines)
    monkeypatch.undo()
    tree, e = store.load(run), experiments.read(store.load(run))
    again = replay(e.objective("cpu"), e.optimizer, tree, e.task.outputs(e.objective("cpu")))
    assert store.differences(tree, again, e.accuracy) == []
    lacking = again.copy(deep=True)
    lacking["midpoint"].orphan()
    lacking["central"] = xr.DataTree(lacking["central"].to_dataset().drop_vars("nu_sum"))
    lines = store.differences(tree, lacking, e.accuracy)
    assert "midpoint: it is not in what is computed now" in lines
    assert any("central: there is no nu_sum in what is computed now" in line for line in lines)
    doubled = again.copy(deep=True)
    doubled["central"]["loss"] = doubled["central"]["loss"] * 2
    RECORDS.register("of another run")(Record(Variable("loss", "", "", None), lambda seen: 0.0))
    try:  # neither a record of that name nor a rough run excuses it
        assert any("central: loss is off by" in line for line in store.differences(tree, doubled, 0.9))
    finally:
        del RECORDS["of another run"]


def test_a_run_that_keeps_no_state_can_not_be_verified(monkeypatch, tmp_path):
    monkeypatch.setenv("CFLOWS_CACHE", str(tmp_path))
    e = replace(SMALL, burn_in=0, steps=4, replay_steps=0, replay_from=(), snapshot_every=0)
    experiments.compute(e)
    with pytest.raises(ValueError, match="keeps no state"):
        experiments.verify(e.path)
