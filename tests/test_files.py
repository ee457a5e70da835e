"""What is computed is not lost, and what is said of files is true."""

import re
import resource
import signal
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from test_experiments import SMALL

from cflows import GradientDescent, Objective, RMSProp, experiments, files, simulate, store
from cflows.__main__ import main
from cflows.book import figures, interactive


def objective():
    return Objective(lambda w: w.cosh().sum(), torch.ones(4, dtype=torch.float64))


def run(**options):
    return simulate(objective(), GradientDescent(0.1), 6, progress=False, **options)


def test_a_tree_that_a_user_saved_can_be_looked_at(tmp_path, capsys):
    run().to_netcdf(tmp_path / "mine.nc", engine="h5netcdf")
    assert main(["info", str(tmp_path / "mine.nc")]) == 0
    shown = capsys.readouterr().out
    assert "central (step 6" in shown
    assert "distance/P (step 6" in shown
    assert "accuracy: 0.002" in shown
    xr.testing.assert_identical(files.load(tmp_path / "mine.nc")["central"].dataset, run()["central"].dataset)
    with pytest.raises(ValueError, match="is not a run of an experiment"):
        store.load(tmp_path / "mine.nc")


def test_paths_may_be_strings(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tree = run(checkpoint="~/runs/x.ckpt")
    files.save("~/runs/run.nc", tree)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"x.ckpt", "run.nc"}
    assert not (tmp_path / "~").exists()
    xr.testing.assert_identical(files.load("~/runs/run.nc")["central"].dataset, tree["central"].dataset)


def test_a_place_for_a_checkpoint_that_can_not_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file/run.ckpt", "file/deeper/run.ckpt"):
        with pytest.raises(ValueError, match=r"nothing can be written into .*name another folder"):
            simulate(objective(), GradientDescent(0.1), 3, checkpoint=tmp_path / name, progress=False)


@pytest.fixture
def full_disk():
    """No file may become larger than 2 kB; what writes one all the same is told so, as by a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_checkpoint_on_a_full_disk_costs_nothing_but_itself(tmp_path, full_disk):
    with pytest.warns(UserWarning, match=r"run\.ckpt could not be written .*is the disk full\? The run goes on"):
        tree = run(checkpoint=tmp_path / "run.ckpt", checkpoint_every=0)
    xr.testing.assert_identical(tree["central"].dataset, run()["central"].dataset)
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_on_a_full_disk_returns_its_result(cache, full_disk):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree = experiments.run("rmsprop-resnet", "ci", **SMALL)
    assert np.isfinite(tree["central"]["loss"]).all()
    assert any("the run is not kept" in str(w.message) for w in caught)
    assert [path for path in (cache / "runs").iterdir() if path.suffix != ".ckpt"] == []


def test_a_cache_that_can_not_be_written_is_found_before_and_costs_no_result(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CFLOWS_CACHE", str(tmp_path / "file"))
    small = SMALL | {"steps": 3, "snapshot_every": 2, "processes": ("discrete", "central"), "branch_step": 0}
    with pytest.warns(UserWarning, match="will not be kept: nothing can be written into .*CFLOWS_CACHE"):
        tree = experiments.run("rmsprop-resnet", "ci", **small)
    assert np.isfinite(tree["central"]["loss"]).all()
    with pytest.warns(UserWarning, match="will not be kept"):
        solved = experiments.solve_convex_programs(experiments.get("rmsprop-resnet", "ci", **small))
    assert solved["gap"].max() <= 1e-4


@pytest.mark.parametrize("command", ["verify", "store"])
def test_commands_ask_for_a_path(command, capsys):
    assert main([command]) == 1
    assert "no file was named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["rmsprop-resnet:ci", "--width", "0"], "width is 0; it must be at least 1"),
        (["rmsprop-resnet:ci", "--steps", "0"], "steps is 0"),
        (["--device", "cuda:99", "rmsprop-resnet:ci"], "device 'cuda:99' is not to be had here"),
        (["--device", "gpu", "rmsprop-resnet:ci"], "device 'gpu' is not to be had here"),
    ],
)
def test_bad_options_of_the_command_line_are_named(options, message, capsys):
    try:
        code = main(["run", *options])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert code
    assert message in re.sub(r"[\s│]+", " ", said.err + said.out)


@pytest.mark.unchecked
def test_options_of_any_kind_name_one_run():
    plain = experiments.get("rmsprop-resnet", "ci", lr=0.5, steps=7, classes=(0, 1), bias_correction=True)
    other = experiments.get(
        "rmsprop-resnet",
        "ci",
        lr=np.float32(0.5),
        steps=np.int64(7),
        classes=[np.int64(0), 1],
        bias_correction=np.True_,
    )
    assert plain == other
    assert plain.path == other.path
    with pytest.raises(TypeError, match=r"steps is 7\.5; it must be an integer"):
        experiments.run("rmsprop-resnet", "ci", steps=7.5)


def test_eigenvalues_that_were_looked_at_now_and_then_are_drawn_as_lines():
    import matplotlib.pyplot as plt

    values = np.full((40, 2), np.nan)
    values[::10] = [[2, 1]] * 4
    figures.eigenvalues(ax := plt.figure().subplots(), np.arange(40), values)
    for line, value in zip(ax.lines, (2, 1), strict=True):
        assert line.get_xdata().tolist() == [0, 10, 20, 30]
        assert np.all(line.get_ydata() == value)


def test_a_scrubber_says_what_a_run_lacks():
    with pytest.raises(ValueError, match="the run has no 'midpoint'; simulate with processes"):
        interactive.training(run())
    with pytest.raises(ValueError, match="simulate with coords"):
        interactive.training(run(processes=("discrete", "midpoint", "central")))


@pytest.mark.unchecked
def test_a_kept_optimizer_is_of_plain_numbers():
    assert RMSProp(np.float32(0.5), np.float32(0.5)) == RMSProp(0.5, 0.5)
