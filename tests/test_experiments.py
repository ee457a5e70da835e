import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import cflows
from cflows import experiments
from cflows.__main__ import main

SMALL = {"width": 2, "per_class": 2, "size": 8, "steps": 6, "coords": 2, "warmup": 0, "window": 2, "branch": 2}


def test_a_run_is_computed_once(monkeypatch, cache):
    tree = experiments.run("rmsprop-resnet", "ci", **SMALL)
    path = experiments.path_of(experiments.get("rmsprop-resnet", "ci", **SMALL))
    assert path.parent == cache / "runs"
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no checkpoint, nothing half-written
    monkeypatch.setattr(experiments, "simulate", None)
    again = experiments.run("rmsprop-resnet", "ci", **SMALL)
    for name in tree.children:
        xr.testing.assert_identical(tree[name].dataset, again[name].dataset)
    assert tree.attrs == again.attrs
    assert json.loads(again.attrs["experiment"])["width"] == 2
    for key in ("data", "algorithm", "cflows", "torch", "hardware", "date", "seconds", "weights"):
        assert again.attrs[key]


def test_programs_are_solved_once(monkeypatch, cache):
    small = SMALL | {"steps": 3, "snapshot_every": 2, "processes": ("discrete", "central")}
    found = experiments.solve_programs(experiments.get("rmsprop-resnet", "ci", **small))
    assert json.loads(found.attrs["experiment"])["width"] == 2
    assert found["gap"].max() <= 1e-4
    assert found["step"].values.tolist() == [0, 2]
    monkeypatch.setattr(experiments.preconditioners, "along", None)
    xr.testing.assert_identical(found, experiments.solve_programs(experiments.get("rmsprop-resnet", "ci", **small)))


def test_every_option_changes_the_file():
    default = experiments.get("rmsprop-resnet", "ci")
    other = {
        "width": 3, "blocks": 2, "per_class": 5, "classes": (0, 1), "size": 4, "seed": 1, "lr": 2e-3, "beta2": 0.9,
        "eps": 1e-8, "bias_correction": not default.bias_correction, "warmup": 5, "steps": 7,
        "processes": ("discrete",), "eigs": 5, "eig_every": 9, "eig_tol": 1e-4, "substeps": 2, "coords": 3,
        "snapshot_every": 3, "optimizer": "ScalarRMSProp", "branch": 4, "window": 5,
        "batch_size": 8, "name": "x",
    }  # fmt: skip
    assert set(other) == set(vars(default))
    paths = {experiments.path_of(replace(default, **{k: v})) for k, v in other.items()}
    assert len(paths | {experiments.path_of(default)}) == len(other) + 1


def test_an_interrupted_experiment_leaves_a_checkpoint_and_goes_on(monkeypatch):
    path = experiments.path_of(experiments.get("rmsprop-resnet", "ci", **SMALL))
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
    a = experiments.objective(experiment).w0
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == after  # and the caller's random numbers are not touched
    torch.testing.assert_close(experiments.objective(experiment).w0, a)
    assert (experiments.objective(experiments.get("rmsprop-resnet", "ci", seed=1)).w0 != a).any()


def test_the_laptop_network():
    f = experiments.objective(experiments.get("rmsprop-resnet", "laptop"))
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
        experiments.load(tmp_path / "x.nc")
    path = experiments.path_of(experiments.get("rmsprop-resnet", "ci", **SMALL))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x89HDF\r\n\x1a\n damaged")
    with pytest.raises(ValueError, match=r"the run file .*\.nc is damaged .*delete it"):
        experiments.run("rmsprop-resnet", "ci", **SMALL)


def test_command_line(capsys):
    options = ["--width", "2", "--per-class", "2", "--size", "8", "--steps", "6", "--coords", "2", "--warmup", "0"]
    options += ["--window", "2", "--branch", "2"]
    assert main(["run", "rmsprop-resnet:ci", *options]) == 0
    path = capsys.readouterr().out.strip()
    assert path == str(experiments.path_of(experiments.get("rmsprop-resnet", "ci", **SMALL)))
    assert main(["list"]) == 0
    assert f"{path}  lr 0.0001, 6 steps, width 2" in capsys.readouterr().out
    assert main(["info", path]) == 0
    shown = capsys.readouterr().out
    assert "lr: 0.0" in shown
    assert "central (step 6" in shown
    assert main(["info", path + "x"]) == 1
    assert "no run file" in capsys.readouterr().err


def test_every_public_name_is_documented():
    for name in cflows.__all__:
        thing = getattr(cflows, name)
        assert thing.__doc__, name
        if isinstance(thing, type(cflows)):  # a module
            members = [getattr(thing, n) for n in dir(thing) if not n.startswith("_")]
            members = [m for m in members if getattr(m, "__module__", None) == thing.__name__ and callable(m)]
        else:
            members = (
                [m for n, m in vars(thing).items() if not n.startswith("_") and callable(m)]
                if isinstance(thing, type)
                else []
            )
        for member in members:
            assert member.__doc__, f"{name}: {member}"
