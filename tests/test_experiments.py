import json
from dataclasses import fields

import numpy as np
import pytest
import torch
import xarray as xr

from cflows import experiments, store
from cflows.__main__ import main
from cflows.tasks import TASKS, CifarResNet

SMALL = {
    "width": 2,
    "per_class": 2,
    "size": 8,
    "steps": 6,
    "coords": 2,
    "burn_in": 0,
    "replay_steps": 2,
    "branch_step": 2,
}


def test_a_run_is_computed_once(monkeypatch, cache):
    tree = experiments.run("rmsprop-resnet", "ci", **SMALL)
    path = experiments.get("rmsprop-resnet", "ci", **SMALL).path
    assert path.parent == cache / "runs"
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no checkpoint, nothing half-written
    monkeypatch.setattr(experiments, "simulate", None)
    again = experiments.run("rmsprop-resnet", "ci", **SMALL)
    for name in tree.children:
        xr.testing.assert_identical(tree[name].dataset, again[name].dataset)
    assert tree.attrs == again.attrs
    assert experiments.read(again) == experiments.get("rmsprop-resnet", "ci", **SMALL)
    assert set(again.attrs) == {
        "options", "fingerprint", "experiment", "summary", "preset", "weights", "data", "algorithm", "provenance",
        "rounding",
    }  # fmt: skip
    assert set(made := store.provenance(again)) == {"cflows", "torch", "hardware", "date", "seconds"}
    assert all(made.values())


def test_convex_programs_are_solved_once(monkeypatch, cache):
    small = SMALL | {"steps": 3, "snapshot_every": 2, "processes": ("discrete", "central")}
    found = experiments.solve_convex_programs(experiments.get("rmsprop-resnet", "ci", **small))
    assert json.loads(found.attrs["experiment"])["task"]["cifar-resnet"]["width"] == 2
    assert found["gap"].max() <= 1e-4
    assert found["step"].values.tolist() == [0, 2]
    monkeypatch.setattr(experiments.preconditioners, "along", None)
    xr.testing.assert_identical(
        found, experiments.solve_convex_programs(experiments.get("rmsprop-resnet", "ci", **small))
    )


def test_every_option_changes_the_file(monkeypatch):
    default = experiments.get("rmsprop-resnet", "ci")
    other = {
        "width": 3, "blocks": 2, "per_class": 5, "classes": (0, 1), "size": 4, "seed": 1, "lr": 2e-3, "beta2": 0.9,
        "loss": "cross-entropy",
        "eps": 1e-8, "bias_correction": False, "burn_in": 5, "steps": 7, "processes": ("discrete",), "eigs": 5,
        "eig_every": 9, "eig_tol": 1e-4, "accuracy": 1e-3, "substeps": 2, "coords": 3, "records": ("x",),
        "snapshot_every": 3, "optimizer": "ScalarRMSProp", "branch_step": 4, "replay_steps": 5, "replay_from": (3,),
        "batch_size": 8, "name": "x", "task": "other",
    }  # fmt: skip
    monkeypatch.setitem(TASKS, "other", type("Other", (CifarResNet,), {}))
    parts = (default, default.task, default.optimizer)
    assert set(other) == {field.name for part in parts for field in fields(part)}
    paths = {default.change(**{k: v}).path for k, v in other.items()}
    assert len(paths | {default.path}) == len(other) + 1


def test_an_interrupted_experiment_leaves_a_checkpoint_and_goes_on(monkeypatch):
    path = experiments.get("rmsprop-resnet", "ci", **SMALL).path
    real = torch.autograd.grad
    calls = 0

    def interrupt(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == 50:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", interrupt)
    with pytest.raises(KeyboardInterrupt):
        experiments.run("rmsprop-resnet", "ci", **SMALL)
    assert [p.name for p in path.parent.iterdir()] == [path.with_suffix(".ckpt").name]
    experiments.run("rmsprop-resnet", "ci", **SMALL)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_seed_alone_decides_the_weights():
    experiment = experiments.get("rmsprop-resnet", "ci")
    torch.manual_seed(5)
    a = experiment.objective().w0
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == after  # and the caller's random numbers are not touched
    torch.testing.assert_close(experiment.objective().w0, a)
    assert (experiments.get("rmsprop-resnet", "ci", seed=1).objective().w0 != a).any()


def test_the_laptop_network():
    f = experiments.get("rmsprop-resnet", "laptop").objective()
    assert f.w0.dtype == torch.float32
    assert f.dim == 19_660
    assert np.isfinite(f.value_and_grad(f.w0)[0].item())


def test_bad_input_is_named(tmp_path, cache):
    with pytest.raises(ValueError, match="no experiment 'adam'; there are rmsprop-resnet"):
        experiments.run("adam")
    with pytest.raises(ValueError, match="no preset 'huge'; it has ci, laptop, paper"):
        experiments.run("rmsprop-resnet", "huge")
    with pytest.raises(ValueError, match="coords is -1"):
        experiments.get("rmsprop-resnet", coords=-1)
    with pytest.raises(ValueError, match=r"no option \['leaning_rate'\]; they have .*lr"):
        experiments.run("rmsprop-resnet", "ci", leaning_rate=1)
    with pytest.raises(ValueError, match=r"no run file .*x\.nc"):
        store.load(tmp_path / "x.nc")
    path = experiments.get("rmsprop-resnet", "ci", **SMALL).path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x89HDF\r\n\x1a\n damaged")
    with pytest.raises(ValueError, match=r"the run file .*\.nc is damaged .*delete it"):
        experiments.run("rmsprop-resnet", "ci", **SMALL)


def test_command_line(capsys):
    options = ["--width", "2", "--per-class", "2", "--size", "8", "--steps", "6", "--coords", "2", "--burn-in", "0"]
    options += ["--replay-steps", "2", "--branch-step", "2"]
    assert main(["run", "rmsprop-resnet:ci", *options]) == 0
    path = capsys.readouterr().out.strip()
    assert path == str(experiments.get("rmsprop-resnet", "ci", **SMALL).path)
    assert main(["list"]) == 0
    assert f"{path}  1,342 weights, 8 images at 8 x 8, RMSProp (η = 0.0001" in capsys.readouterr().out
    assert main(["info", path]) == 0
    shown = capsys.readouterr().out
    assert "lr: 0.0" in shown
    assert "central (step 6" in shown
    assert main(["info", path + "x"]) == 1
    assert "no run file" in capsys.readouterr().err
