"""Tasks and optimizers from outside the package, definitions with options that come later, and names that changed."""

from dataclasses import dataclass, field, fields, make_dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from cflows import Objective, _definitions, data, experiments, files, store, tasks
from cflows.__main__ import main
from cflows.experiments import PRESETS, Experiment
from cflows.optimizers import OPTIMIZERS, GradientDescent, RMSProp, ScalarRMSProp

RUN = {"steps": 12, "replay_steps": 4, "eig_every": 2, "processes": ("discrete", "central")}


# A task from outside: this much it takes.
@tasks.TASKS.register("valley")
@dataclass(frozen=True)
class Valley(tasks.Task):
    """L = ½ Σᵢ cᵢ xᵢ² (1 + y²) + 1 - y / 5, which sharpens as y grows."""

    dim: int = 3
    steepness: float = 2.0
    """c of the first coordinate"""

    def objective(self, device, batch_size=None):
        curvatures = self.data().to(device)

        def loss(w):
            return (curvatures * w[:-1] ** 2 * (1 + w[-1] ** 2)).sum() / 2 + 1 - 0.2 * w[-1]

        return Objective(loss, torch.ones(self.dim + 1, dtype=torch.float64, device=device) / 4)

    def data(self):
        return self.steepness / torch.arange(1, self.dim + 1, dtype=torch.float64)

    def outputs(self, f):
        return lambda w: w[-1:] ** 2 + w[:1]

    def digest(self):
        return data.digest(self.data())


@pytest.fixture
def valley():
    return Experiment("mine", Valley(dim=2), GradientDescent(0.5), **RUN)


def test_a_task_from_outside_is_run_stored_read_listed_and_verified(valley, tmp_path, monkeypatch, capsys):
    tree = experiments.compute(valley)
    assert float(tree["central"]["eigenvalues"].max()) > 1.9
    assert tree["discrete"]["outputs"].shape == (12, 1)
    assert tree["discrete"]["nu"].shape == (12, 3)  # fewer weights than were asked for
    assert experiments.read(tree) == valley
    assert experiments.describe(tree).startswith(
        "3 weights, valley (dim 2, steepness 2.0), GradientDescent (η = 0.5), 12"
    )
    monkeypatch.setenv("CFLOWS_STORED", str(tmp_path / "runs"))
    assert main(["store", str(valley.path), "--folder", str(tmp_path / "runs")]) == 0
    file = tmp_path / "runs" / valley.path.name
    assert main(["list"]) == 0
    assert f"{file}  3 weights, valley (dim 2" in capsys.readouterr().out
    assert main(["verify", str(file)]) == 0
    valley.path.unlink()
    monkeypatch.setattr(experiments, "simulate", None)
    np.testing.assert_allclose(experiments.compute(valley)["central"]["loss"], tree["central"]["loss"], rtol=1e-4)
    changed = files.load(file)
    changed["central"]["loss"][-2:] *= 1.1
    files.save(file, changed)
    assert main(["verify", str(file)]) == 1
    assert "central: loss is off by" in capsys.readouterr().err


def test_what_is_not_registered_here_is_named(valley, monkeypatch):
    tree = experiments.compute(valley)
    monkeypatch.delitem(tasks.TASKS, "valley")
    with pytest.raises(ValueError, match="there is no task 'valley'; there are cifar-resnet"):
        experiments.read(tree)
    with pytest.raises(TypeError, match=r"task is Valley\(dim=2, .*give one that is registered: cifar-resnet"):
        Experiment(task=Valley(dim=2))
    assert "valley (dim 2" in experiments.describe(tree)  # whoever has the file can see what it is


def extended(cls, **new):
    """The class with further options that have defaults, as a later version may have them."""
    options = [(name, type(value), field(default=value)) for name, value in new.items()]
    return make_dataclass(cls.__name__, options, bases=(cls,), frozen=True)


def test_an_option_that_is_added_renames_no_run(valley, monkeypatch):
    path, before = (
        valley.path,
        {valley.path: valley, **{e.path: e for sizes in PRESETS.values() for e in sizes.values()}},
    )
    tree = experiments.compute(valley)
    later = {name: extended(kind, tilt=0.5) for name, kind in tasks.TASKS.items()}
    optimizers = {name: extended(kind, momentum=0.0) for name, kind in OPTIMIZERS.items()}
    for name, kind in later.items():
        monkeypatch.setitem(tasks.TASKS, name, kind)
    for name, kind in optimizers.items():
        monkeypatch.setitem(OPTIMIZERS, name, kind)
    Later = extended(Experiment, precision="single")
    monkeypatch.setattr(_definitions, "Experiment", Later)
    for there, e in before.items():
        task = next(kind for kind in later.values() if issubclass(kind, type(e.task)))(**vars(e.task))
        optimizer = optimizers[type(e.optimizer).__name__](**vars(e.optimizer))
        new = Later(**vars(e) | {"task": task, "optimizer": optimizer})
        assert new.path == there
        assert replace(new, precision="double").path != there
        assert replace(new, task=replace(task, tilt=4)).path != there
        assert replace(new, optimizer=replace(optimizer, momentum=0.9)).path != there
    read = experiments.read(tree)
    assert (read.path, vars(read.task)["tilt"], vars(read)["precision"]) == (path, 0.5, "single")


def test_a_run_of_other_defaults_is_not_taken_for_the_present_one(valley, monkeypatch):
    for tilt in (0.0, 1.0):
        kind = extended(Valley, tilt=tilt)
        monkeypatch.setitem(tasks.TASKS, "valley", kind)
        e = replace(valley, task=kind(valley.task.dim))
        if not tilt:
            path = e.path
            experiments.compute(e)
    assert e.path == path
    with pytest.raises(ValueError, match=r"computed with other defaults .*tilt"):
        experiments.compute(e)


@pytest.mark.parametrize("name", ["a/b", "", "a b"])
def test_a_name_that_no_file_can_have(name):
    with pytest.raises(ValueError, match="it is that of files"):
        Experiment(name)


@pytest.mark.unchecked
def test_options_are_routed_to_the_part_that_has_them():
    e = experiments.get("rmsprop-resnet", "ci", lr=4e-5, seed=1, steps=9)
    assert (e.optimizer.lr, vars(e.task)["seed"], e.steps) == (4e-5, 1, 9)
    assert e == experiments.get("rmsprop-resnet", "ci").change(
        optimizer=RMSProp(4e-5, 0.99, bias_correction=True), task=replace(e.task), steps=9
    )
    assert e.change(optimizer="GradientDescent", lr=0.1).optimizer == GradientDescent(0.1)
    assert e.change(optimizer="ScalarRMSProp", eps=1e-8).optimizer == ScalarRMSProp(4e-5, 0.99, 1e-8, True)
    assert e.change(eig_every={"central": np.int64(3)}).eig_every == {"central": 3}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": "Lion"}, ValueError, "no optimizer 'Lion'; there are RMSProp, ScalarRMSProp, GradientDescent"),
        ({"optimizer": 3}, TypeError, "optimizer is 3; give one that is registered: RMSProp"),
        ({"task": "mnist"}, ValueError, "no task 'mnist'; there are cifar-resnet"),
        ({"optimizer": "RMSProp"}, TypeError, "RMSProp: .*missing .*'beta2'"),
        ({"beta2": 0.9}, ValueError, r"no option \['beta2'\]; they have .*steps.*width.*lr"),
        ({"lr": "x"}, TypeError, "GradientDescent: lr is 'x'; it must be a number"),
        ({"steps": 7.5}, TypeError, r"steps is 7\.5; it must be an integer"),
        ({"eig_every": {"central": "x"}}, ValueError, "eig_every is .*; it must be an integer of at least"),
    ],
)
def test_options_that_are_wrong_are_named(options, error, message):
    with pytest.raises(error, match=message):
        experiments.run("gd-resnet", "ci", **options)


def test_two_options_of_one_name_are_refused(monkeypatch):
    clash = extended(tasks.CifarResNet, steps=3)
    monkeypatch.setitem(tasks.TASKS, "clash", clash)
    with pytest.raises(ValueError, match="two options are called steps"):
        Experiment(task=clash())


def test_old_names_are_taken_with_a_warning():
    with pytest.warns(FutureWarning) as caught:
        old = experiments.get("rmsprop-resnet", "ci", warmup=3, branch=4, window=5)
    assert sorted(str(w.message).split(";")[0] for w in caught) == [
        "branch is now called branch_step", "warmup is now called burn_in", "window is now called replay_steps",
    ]  # fmt: skip
    assert old == experiments.get("rmsprop-resnet", "ci", burn_in=3, branch_step=4, replay_steps=5)
    with pytest.raises(TypeError, match="warmup is the old name of burn_in; give only burn_in"):
        experiments.get("rmsprop-resnet", "ci", warmup=3, burn_in=3)


def test_a_schedule_can_not_name_a_file():
    with pytest.raises(ValueError, match=r"RMSProp .*has no file .*use simulate"):
        _ = experiments.get("rmsprop-resnet", "ci", lr=lambda t: 1e-4).path


def test_states_are_kept_where_the_run_reaches():
    e = experiments.get("rmsprop-resnet", "laptop")
    assert e.change(steps=30).starts == (10,)
    assert e.change(replay_steps=0).starts == ()
    e = e.change(replay_from=(400, 500), steps=600)
    assert e.starts == (400, 500)
    assert e.change(steps=500).starts == (400,)


def test_smaller_learning_rates_begin_at_the_same_time():
    e = experiments.get("rmsprop-rates", "laptop")
    rates = experiments.rates(e)
    assert rates[-1] == e
    assert [r.optimizer.lr for r in rates] == [3e-5, 1e-4, 3e-4]
    assert [r.optimizer.lr * r.burn_in for r in rates] == pytest.approx([e.optimizer.lr * e.burn_in] * 3)


def test_data_are_digested_once(monkeypatch):
    task = tasks.CifarResNet(per_class=3, size=4)
    assert task.digest() == task.digest()
    monkeypatch.setattr(data, "cifar10", None)
    assert replace(task, width=3, seed=1).digest() == task.digest()
    with pytest.raises(TypeError):
        replace(task, per_class=4).digest()


def small(kind, **options):
    sizes = {"per_class": 3, "size": 8, "width": 4, "sequences": 5}
    return kind(**{x.name: sizes[x.name] for x in fields(kind) if x.name in sizes} | options)


@pytest.mark.parametrize("kind", [kind for kind in tasks.TASKS.values() if kind is not Valley])
def test_every_task_has_both_losses_seeds_and_batches(kind):
    f, again, other = (small(kind, seed=seed).objective("cpu") for seed in (0, 0, 1))
    assert torch.equal(f.w0, again.w0)
    assert f.dim == other.dim
    assert not torch.equal(f.w0, other.w0)
    for loss, twin in (
        ("mse", lambda scores, classes: (scores - nn.functional.one_hot(classes, scores.shape[-1])).square().mean()),
        ("cross-entropy", lambda scores, classes: nn.functional.cross_entropy(scores.movedim(-1, 1), classes)),
    ):
        task = small(kind, loss=loss)
        g = task.objective("cpu")
        inputs, classes = task.examples()
        assert float(g(g.w0)) == pytest.approx(float(twin(g.outputs(g.w0, inputs), classes)), rel=1e-5)
        assert float(task.objective("cpu", batch_size=2)(g.w0)) == pytest.approx(float(g(g.w0)), rel=1e-5)
    with pytest.raises(ValueError, match="loss is 'hinge'; it must be one of mse, cross-entropy"):
        small(kind, loss="hinge")
    with pytest.raises(ValueError, match="width is 0; it must be at least 1"):
        small(kind, width=0)


def test_sequences_are_sorted():
    inputs, classes = tasks.SortingTransformer(sequences=4, length=5).examples()
    np.testing.assert_array_equal(classes, np.sort(inputs.numpy(), axis=1))
    assert inputs.unique().numel() > 3


def test_a_patch_divides_the_image():
    with pytest.raises(ValueError, match="patch is 3; it must divide the 16 pixels"):
        tasks.CifarViT(patch=3).objective("cpu")


@pytest.mark.parametrize(("digits", "bits"), [(3, 10), (4, 14)])
def test_values_are_rounded_to_some_bits(digits, bits):
    rng = np.random.default_rng(0)
    x = store.xr.DataArray(
        np.concatenate([10 ** rng.uniform(-30, 3, 1000) * rng.choice([-1, 1], 1000), [0, np.nan, np.inf]])
    )
    rounded = store._rounded(x, digits)
    np.testing.assert_allclose(rounded, x, rtol=10.0**-digits)
    assert (abs(rounded / x - 1)[:1000] > 2.0**-bits / 8).any()
    mantissa = np.frexp(rounded.values[:1000])[0] * 2.0**bits
    assert (mantissa == np.rint(mantissa)).all()
    assert store._rounded(x, store.EXACT) is x
