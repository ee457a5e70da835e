"""What anyone can add from outside the package: an optimizer, a flow, a record. (`test_tasks` has a task.)"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import mlp_objective

from cflows import GradientDescent, Objective, RMSProp, processes, records, simulate, simulation
from cflows.optimizers import OPTIMIZERS
from cflows.processes import PROCESSES
from cflows.records import RECORDS, Record, Variable

OPT = RMSProp(0.01, 0.95, bias_correction=True)


@pytest.fixture(autouse=True)
def clean():
    """Registries as they were before."""
    before = [(registry, dict(registry)) for registry in (OPTIMIZERS, PROCESSES, RECORDS)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


@dataclass(frozen=True)
class HeavyBall(GradientDescent):
    """Averaged gradients m ← βm + (1-β)g, w ← w - ηm: its threshold is 2(1+β)/(1-β)."""

    beta: float = 0.5

    @property
    def threshold(self):
        return 2 * (1 + self.beta) / (1 - self.beta)

    def momentum(self, m, g, t):
        m = (1 - self.beta) * g + (0 if m is None else self.beta * m)
        return m, m


@pytest.mark.parametrize(("share", "grows"), [(0.99, False), (1.01, True)])
def test_an_optimizer_with_a_threshold_of_its_own(share, grows):
    f = Objective(lambda w: w.square().sum() / 2, torch.ones(2, dtype=torch.float64))
    opt = HeavyBall(share * HeavyBall(1.0).threshold)
    loss = simulate(f, opt, 400, ("discrete",), eig_every=400, progress=False)["discrete"]["loss"].values
    assert (loss[-50:].mean() > loss[100:150].mean()) == grows


def test_the_central_flow_holds_eigenvalues_at_that_threshold():
    """The valley L = ½yx² - by: y stays at θ/η, and the mean loss is 0 there, so that ½⟨H, Σ⟩ = bθ/η."""
    opt, b = HeavyBall(0.2), 0.01
    top = opt.threshold / 0.2
    f = Objective(lambda w: w[1] * w[0] ** 2 / 2 - b * w[1], torch.tensor([0.01, 0.99 * top], dtype=torch.float64))
    tree = simulate(f, opt, 400, ("central",), replay_steps=20, progress=False)
    end = tree["central"].isel(step=slice(-50, None))
    np.testing.assert_allclose(end["eigenvalues"][:, 0].dropna("step"), opt.threshold, rtol=1e-6)
    np.testing.assert_allclose(end["predicted_loss"], 0, atol=1e-6 * b * top)
    np.testing.assert_allclose(opt.threshold / 2 * end["variances"][:, 0], b * top, rtol=1e-6)
    again = simulation.replay(f, opt, tree)["central"]
    np.testing.assert_allclose(again["loss"], tree["central"]["loss"][-20:], rtol=1e-6)


class Frozen(processes.Stable):
    """The stable flow with the preconditioner that it starts with."""

    label = "frozen flow"
    variables = (*processes.Stable.variables, Variable("speed", "", "‖g‖²_{P⁻¹}"))

    def observe(self, state, i, others):
        seen = super().observe(state, i, others)
        if seen.g is None:
            return seen
        return replace(seen, row=seen.row | {"speed": float((seen.g.square() / seen.p).sum())})

    def step(self, seen):
        after = super().step(seen)
        return replace(after, nu=seen.state.nu)


def test_a_flow(tmp_path):
    from cflows import files

    PROCESSES.register("frozen")(Frozen)
    f = mlp_objective(width=8, examples=20)
    tree = simulate(f, OPT, 12, ("stable", "frozen"), replay_steps=5, progress=False)
    assert tree["frozen"]["speed"].notnull().all()
    assert "frozen-stable" in tree["distance"]
    np.testing.assert_allclose(tree["frozen"]["nu_sum"], float(tree["frozen"]["nu_sum"][0]))
    files.save(tmp_path / "run.nc", tree)
    again = simulation.replay(f, OPT, files.load(tmp_path / "run.nc"))
    for name in ("loss", "speed"):
        np.testing.assert_allclose(again["frozen"][name], tree["frozen"][name][-5:], rtol=1e-9)


def test_what_is_not_declared_is_not_lost_silently():
    class Careless(Frozen):
        variables = processes.Stable.variables

    PROCESSES.register("careless")(Careless)
    with pytest.raises(ValueError, match="careless records speed without declaring it; add a Variable"):
        simulate(mlp_objective(width=8, examples=20), OPT, 2, ("careless",), progress=False)


def test_a_record(tmp_path):
    norm = Record(Variable("norm", "", "‖w‖"), lambda seen: float(seen.state.w.norm()))
    layers = Record(
        Variable("layers", "layer", "‖w‖ of two parts"), lambda seen: [float(x.norm()) for x in seen.state.w.split(30)],
        ("stable",),
    )  # fmt: skip
    RECORDS.register("norm")(norm)
    f = mlp_objective(width=8, examples=20)
    options = {"records": ["norm", layers], "progress": False, "checkpoint": tmp_path / "run.ckpt"}
    tree = simulate(f, OPT, 6, ("discrete", "stable"), **options)
    assert float(tree["stable"]["norm"][0]) == pytest.approx(float(f.w0.norm()), rel=1e-15)
    assert tree["stable"]["layers"].dims == ("step", "layer")
    assert "layers" not in tree["discrete"]
    np.testing.assert_allclose((tree["stable"]["layers"] ** 2).sum("layer"), tree["stable"]["norm"] ** 2, rtol=1e-12)
    again = simulate(f, OPT, 6, ("discrete", "stable"), **options)
    assert again["stable"].to_dataset().identical(tree["stable"].to_dataset())
    with pytest.raises(ValueError, match="there is no record 'nothing'; there are norm"):
        simulate(f, OPT, 2, records=["nothing"], progress=False)
    with pytest.raises(ValueError, match="there is a record 'norm' already"):
        RECORDS.register("norm")(layers)


def test_rows_go_through_a_dataset_and_back():
    variables = [Variable("x", "", "a number"), Variable("v", "eig", "a list", padding=0.0)]
    rows = [{"x": 1.5}, {"v": [3.0, 1.0]}, {}]
    data = records.dataset(rows, variables, 7, {"eig": 1})
    assert data["step"].values.tolist() == [7, 8, 9]
    assert records.rows(data) == rows
    padded = records.dataset([{"v": [3.0]}], variables, 0, {"eig": 2})
    assert padded["v"].values.tolist() == [[3.0, 0.0]]


def wavy():
    return Objective(
        lambda w: w.cosh().sum() + (w[:-1] * w[1:]).sin().sum(), torch.linspace(1, 2, 6, dtype=torch.float64)
    )


def number(name, value=0.0, dim="", of=()):
    return Record(Variable(name, dim, "of a test"), lambda seen: value, of)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ([number("loss")], "discrete has a variable loss already"),
        ([number("a"), number("a", 1.0)], "two records are called a"),
        ([number("a/b")], "called 'a/b'"),
        ([number("step")], "called 'step'"),
        ([number("eig")], "called 'eig'"),
        ([number("a", dim="step")], 'dimension "step"'),
        ([number("a", of=("discret",))], "is of .'discret'"),
        ([number("a", [1.0, 2.0])], r"shape \(2,\) as a; it must be a number"),
        ([number("a", 1.0, "b")], "shape .. as a; it must be a list over 'b'"),
        ([number("a", [1.0] * 3, "coord")], r"shape \(3,\) as a; it must be a list over 'coord', 2"),
        ([number("a", "text")], "'text' as a; it must be numbers"),
    ],
)
def test_records_that_would_be_lost_or_displace_others_are_refused(further, message):
    with pytest.raises(ValueError, match=message):
        simulate(wavy(), OPT, 4, ("discrete",), records=further, coords=[0, 1], progress=False)


@pytest.mark.parametrize("name", ["distance", "snapshots", "state", "now", "a/b", ""])
def test_names_that_runs_use_themselves_are_refused(name):
    with pytest.raises(ValueError, match="can't be called"):
        PROCESSES.register(name)(processes.Stable)


class Interruption(Exception):
    pass


def test_a_run_does_not_go_on_with_another_record_or_optimizer(tmp_path):
    @dataclass(frozen=True)
    class Mine(GradientDescent):
        momentum_share: float = 0.0

        def momentum(self, m, g, t):
            return None, (1 - 0.5 * sign) * g

    def run(opt, *further):
        def stop(seen):
            if seen.i == 3 and not further:
                raise Interruption
            return 0.0

        records = [Record(Variable("stop", "", "nothing"), stop), *further[1:]]
        simulate(wavy(), opt, 6, ("discrete",), records=records, checkpoint=tmp_path / "c", progress=False)

    sign = 0
    with pytest.raises(Interruption):
        run(Mine(0.01))
    with pytest.raises(ValueError, match=r"another run.*records"):
        run(Mine(0.01), None, number("more"))
    sign = 1
    with pytest.raises(ValueError, match=r"another run.*start"):
        run(Mine(0.01), None)
    sign = 0
    run(Mine(0.01), None)


def test_a_flow_that_ends_has_snapshots_all_the_same():
    curvature = torch.tensor([2.4, 1.0], dtype=torch.float64)
    f = Objective(lambda w: (curvature * w**2).sum() / 2, torch.tensor([1e-3, 1.0], dtype=torch.float64))
    with pytest.warns(UserWarning, match="no mechanism lowers it"):
        tree = simulate(f, GradientDescent(0.9), 10, ("discrete", "central"), snapshot_every=4, progress=False)
    assert tree["snapshots/central"]["weights"].isnull()[1:].all()


def test_a_replay_leaves_out_the_same_weights_and_knows_its_objective():
    def shifted(w):
        x = w[:3] + w[3]  # the mean is taken out: the gradient of w[3] is rounding
        return ((x - x.mean()) * torch.tensor([1.0, 2.0, 3.0])).cosh().sum()

    f = Objective(shifted, torch.tensor([1.0, 0.3, -0.7, 0.4]))
    with pytest.warns(UserWarning, match="nothing but rounding"):
        tree = simulate(f, OPT, 40, ("discrete", "stable", "central"), replay_steps=10, progress=False)
    again = simulation.replay(f, OPT, tree)
    there = tree["distance"]["central-discrete"].sel(step=again["distance"]["step"])
    np.testing.assert_allclose(again["distance"]["central-discrete"], there, rtol=0.05)
    tilted = Objective(lambda w: shifted(w) + 3 * (w[0] - 1), f.w0)  # the same loss at the start
    with pytest.raises(ValueError, match="the loss of discrete at step 30 of the run is"):
        simulation.replay(tilted, OPT, tree)
    with pytest.raises(TypeError, match="start is '30'"):
        simulation.replay(f, OPT, tree, start="30")
