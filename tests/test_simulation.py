import numpy as np
import pytest
import torch
import xarray as xr
from conftest import mlp_objective
from torch import nn

import cflows
from cflows import DivergenceError, GradientDescent, Objective, RMSProp, processes, simulate, simulation

OPT = RMSProp(0.01, 0.95, bias_correction=True)
ALL = ("discrete", "midpoint", "stable", "central", "ablated", "stationary", "ablated_stationary")


def quiet(*arguments, **options):
    return simulate(*arguments, progress=False, **options)


def test_the_tree():
    f = mlp_objective()
    tree = quiet(f, OPT, 30, ALL, coords=[0, 5])
    assert isinstance(tree, xr.DataTree)
    assert set(tree.children) == {*ALL, "distance"}
    for name in ALL:
        node = tree[name]
        assert node.sizes["step"] == 30
        assert {"loss", "predicted_loss", "grad_norm_sq", "eigenvalues"} <= set(node.data_vars)
        assert node["eigenvalues"].dims == ("step", "eig")
        assert node["nu"].dims == ("step", "coord")
        gaps = np.diff(node["eigenvalues"].values, axis=1)
        assert (gaps[np.isfinite(gaps)] <= 1e-12).all()
    assert "central-discrete" in tree["distance"]
    central = tree["central"]
    np.testing.assert_allclose(
        central["predicted_loss"] - central["loss"], central["variances"].fillna(0).sum("eig"), atol=1e-15
    )
    assert central["variances"].dims == ("step", "eig")
    assert float(central["eigenvalues"][-10:].max()) < 2.02


def test_a_branch_after_the_end_is_pointed_out():
    with pytest.warns(UserWarning, match="begin at step branch_step, 9, and there are 2 steps"):
        tree = quiet(mlp_objective(), OPT, 2, ("central", "stationary"), branch_step=9)
    assert tree["stationary"]["loss"].isnull().all()


def test_stationary_flows_leave_the_central_flow_at_the_branch():
    chosen = ("central", "stationary", "ablated_stationary")
    tree = quiet(mlp_objective(width=8, examples=20), OPT, 60, chosen, branch_step=30)
    for name in chosen[1:]:
        assert tree[name]["loss"][:30].isnull().all()
        assert tree[name]["loss"][30:].notnull().all()
        apart = tree["distance"][f"{name}-central"]
        assert apart[:30].isnull().all()
        assert float(apart[30]) == 0
        assert float(apart[-1]) > 0
        assert float(tree[name]["gap"].max()) <= 1e-6
        assert float(tree[name]["products"].sum()) > 0


def test_every_variable_says_what_it_is():
    f = mlp_objective(width=8, examples=20)
    tree = quiet(f, OPT, 60, ALL, coords=[3], outputs=lambda w: w[:2], snapshot_every=50)
    seen = {name for node in ALL for name in tree[node].data_vars}
    declared = {variable.name for name in ALL for variable in processes.PROCESSES[name].variables}
    assert seen == declared
    for name in ALL:
        for variable in tree[name].data_vars.values():
            assert variable.attrs["long_name"]


def test_snapshots_and_what_follows_from_them():
    """What is recorded at every step agrees with the snapshot of that step."""
    f = mlp_objective(width=8, examples=20)
    coords = [0, 5, 11]
    tree = quiet(f, OPT, 81, ("discrete", "central"), coords=coords, snapshot_every=20, outputs=lambda w: w[:3] * w[1])
    central, taken = tree["central"], tree["snapshots/central"]
    assert taken["step"].values.tolist() == [0, 20, 40, 60, 80]
    assert set(tree["snapshots"].children) == {"discrete", "central"}
    for name in ("discrete", "central"):
        snapshots = tree["snapshots"][name]
        assert snapshots["weights"].shape == (5, f.dim)
        for i in range(5):
            at, step = snapshots.isel(step=i), tree[name].isel(step=20 * i)
            loss, g = f.value_and_grad(torch.from_numpy(at["weights"].values))
            assert loss.item() == pytest.approx(float(step["loss"]), rel=1e-12)
            np.testing.assert_allclose(at["grad_sq"], g.numpy() ** 2, rtol=1e-9)
            np.testing.assert_array_equal(at["nu"][coords], step["nu"])
            assert float(step["nu_sum"]) == pytest.approx(float(at["nu"].sum()), rel=1e-12)
            p = OPT.preconditioner(torch.from_numpy(at["nu"].values), 20 * i + 1).numpy()
            assert float(step["p_sum"]) == pytest.approx(p.sum(), rel=1e-12)
    last, step = taken.isel(step=-1), central.isel(step=80)
    assert int((step["variances"] > 0).sum()) > 0
    F, w, p = last["factor"].values, last["weights"].values, p
    gram = F.T @ (p[:, None] * F)  # axes are P-orthonormal, so this is the diagonal matrix of the variances
    np.testing.assert_allclose(gram, np.diag(step["variances"][: len(gram)]), atol=1e-10 * gram.max())
    extra = 4 * p**2 * (F**2).sum(1)
    np.testing.assert_allclose(step["predicted_grad_sq"], (last["grad_sq"] + extra)[coords], rtol=1e-10)
    assert float(step["predicted_grad_norm_sq"]) == pytest.approx(float((last["grad_sq"] + extra).sum()), rel=1e-10)
    k = int((step["variances"] > 0).sum())
    delta = tree["snapshots/discrete"]["weights"].values[-1] - w
    displacements = (F[:, :k] / np.sqrt(step["variances"].values[:k])).T @ (p * delta)
    np.testing.assert_allclose(step["displacements"][:k], displacements, rtol=1e-8)
    mean, deviation = cflows.differences.spread(lambda w: w[:3] * w[1], torch.from_numpy(w), torch.from_numpy(F))
    np.testing.assert_allclose(step["predicted_outputs"], mean, rtol=1e-12)
    np.testing.assert_allclose(step["output_deviations"], deviation, rtol=1e-10)


@pytest.mark.parametrize(
    ("outputs", "error", "message"),
    [(3, TypeError, "outputs is 3"), (lambda w: w.sum(), ValueError, r"shape \(\); it must return"),
     (lambda w: w.tolist(), ValueError, "a list")],
)  # fmt: skip
def test_bad_outputs_are_named(outputs, error, message):
    with pytest.raises(error, match=message):
        quiet(mlp_objective(), OPT, 2, ("discrete",), outputs=outputs)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3])
def test_a_rescaled_loss_is_the_same_to_rmsprop(scale):
    f = mlp_objective(width=8, examples=20)
    scaled = Objective(lambda w: scale * f(w), f.w0)
    one, other = (quiet(g, OPT, 60, ("central",))["central"] for g in (f, scaled))
    assert float(one["variances"].max()) > 0
    np.testing.assert_allclose(other["predicted_loss"], scale * one["predicted_loss"], rtol=1e-5)


def test_what_is_documented_is_there_even_if_nothing_came_of_it():
    f = mlp_objective()
    tree = quiet(f, OPT, 1, ALL, outputs=lambda w: w[:2])
    for name in ALL:
        assert set(tree[name].data_vars) >= {"loss", "nu_sum", "p_sum", "outputs", "variances"}
    assert np.isnan(tree["central"]["rise"]).all()
    assert np.isnan(tree["midpoint"]["outputs"]).all()


def test_nu_of_scalar_rmsprop_is_summed_over_weights_too():
    f = mlp_objective()
    tree = quiet(f, cflows.ScalarRMSProp(0.01, 0.95), 3, ("discrete",), snapshot_every=1)
    np.testing.assert_allclose(tree["discrete"]["nu_sum"], tree["snapshots/discrete"]["nu"].sum("weight"), rtol=1e-12)


def test_axes_keep_their_direction_when_variances_cross():
    f = mlp_objective(width=8, examples=20)
    tree = quiet(f, OPT, 150, ("central",), snapshot_every=1)
    taken = tree["snapshots/central"]
    for i in range(60, 149):
        (F, p), (G, _) = (
            (s["factor"].values, OPT.preconditioner(torch.from_numpy(s["nu"].values), int(s["step"]) + 1).numpy())
            for s in (taken.isel(step=i), taken.isel(step=i + 1))
        )
        F, G = (X[:, (X**2).sum(0) > 0] for X in (F, G))
        F, G = (X / np.sqrt((p[:, None] * X**2).sum(0)) for X in (F, G))
        overlap = F.T @ (p[:, None] * G)
        if overlap.size:
            nearest = overlap[abs(overlap).argmax(0), np.arange(overlap.shape[1])]
            assert not (nearest < -0.9).any()  # an axis that can be recognised has not turned round


def test_time_is_whole_at_whole_steps():
    times = []

    def lr(t):
        times.append(t)
        return 0.01

    f = mlp_objective()
    quiet(f, RMSProp(lr, 0.9), 12, ("central",), substeps=3, eigs=1)
    assert {1.0, 2.0, 5.0, 11.0} <= set(times)


def test_step_zero_is_before_the_first_step():
    f = mlp_objective()
    tree = quiet(f, OPT, 3, ALL, coords=[0])
    loss, g = f.value_and_grad(f.w0)
    for name in ("discrete", "stable", "central"):
        assert float(tree[name]["loss"][0]) == loss.item()
        assert float(tree[name]["grad_norm_sq"][0]) == pytest.approx((g @ g).item(), rel=1e-14)
        assert float(tree[name]["nu"][0, 0]) == pytest.approx(0.05 * g[0].item() ** 2, rel=1e-12)  # after its update
    assert np.isnan(tree["midpoint"]["loss"][0])
    assert float(tree["distance"]["central-discrete"][0]) == 0


def test_burn_in_is_the_same_optimizer():
    f = mlp_objective()
    long, short = quiet(f, OPT, 12, ("discrete",)), quiet(f, OPT, 5, ("discrete",), burn_in=7)
    np.testing.assert_allclose(short["discrete"]["loss"], long["discrete"]["loss"][7:], rtol=1e-12)


def test_eigenvalues_are_those_of_the_effective_hessian():
    from conftest import hessian

    f = mlp_objective()
    tree = quiet(f, RMSProp(0.01, 0.95), 1, ("discrete",), eigs=3, burn_in=4)
    w, nu = f.w0, OPT.init(f.w0)
    opt = RMSProp(0.01, 0.95)
    for t in range(1, 6):
        g = f.value_and_grad(w)[1]
        nu = opt.update(nu, g)
        last, w = w, w - g / opt.preconditioner(nu, t)
    exact, _ = cflows.quadratic.effective_eigh(hessian(f, last), opt.preconditioner(nu, 5).numpy())
    np.testing.assert_allclose(tree["discrete"]["eigenvalues"][0], exact[:3], rtol=1e-4)


def test_eigenvalues_where_asked():
    tree = quiet(mlp_objective(), OPT, 10, ("discrete", "midpoint"), eig_every={"midpoint": 4})
    assert np.isnan(tree["discrete"]["eigenvalues"]).all()
    assert tree["discrete"]["eigenvalues"].dims == ("step", "eig")
    assert np.isfinite(tree["midpoint"]["eigenvalues"][:, 0]).values.nonzero()[0].tolist() == [4, 8]


def test_the_tracked_set_grows_while_all_are_near_two():
    f = Objective(
        lambda w: (w**2 * torch.arange(10.0, 4.0, -1.0, dtype=w.dtype)).sum() / 2, torch.ones(6, dtype=torch.float64)
    )
    tree = quiet(f, GradientDescent(0.198), 2, ("discrete", "central"), eigs=1)
    np.testing.assert_allclose(tree["central"]["eigenvalues"][0], [1.98, 1.782], rtol=1e-3)
    np.testing.assert_allclose(tree["discrete"]["eigenvalues"][0], [1.98], rtol=1e-3)


def test_the_stable_flow_is_stopped_where_it_is_stiff():
    f = Objective(lambda w: 0.5 * w[1] * w[0] ** 2 - w[1], torch.tensor([0.01, 35.0], dtype=torch.float64))
    node = quiet(f, GradientDescent(0.2), 60, ("stable",))["stable"]
    assert np.isnan(node["loss"][-1])
    assert 8 <= float(node["eigenvalues"].max()) < 8.5


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    calls = 0

    def objective(stop_after=None):
        nonlocal calls
        f, calls = mlp_objective(width=8, examples=20), 0

        def loss(w):
            nonlocal calls
            calls += 1
            if calls == stop_after:
                raise KeyboardInterrupt
            return f(w)

        return Objective(loss, f.w0)

    options = {"outputs": lambda w: w[:2] ** 2, "snapshot_every": 16, "branch_step": 20}
    whole = quiet(objective(), OPT, 60, ALL, **options)
    needed = calls
    assert float(whole["central"]["variances"].max()) > 0  # the interesting part is in it
    checkpoint = tmp_path / "run.ckpt"
    with pytest.raises(KeyboardInterrupt):
        quiet(objective(stop_after=round(0.7 * needed)), OPT, 60, ALL, checkpoint=checkpoint, **options)
    assert checkpoint.exists()
    resumed = quiet(objective(), OPT, 60, ALL, checkpoint=checkpoint, **options)
    assert calls < 0.4 * needed
    for name in (*ALL, "distance", "snapshots/discrete", "snapshots/central"):
        xr.testing.assert_identical(whole[name].dataset, resumed[name].dataset)
    again = quiet(
        objective(stop_after=2), OPT, 60, ALL, checkpoint=checkpoint, **options
    )  # finished: but for the loss at the start nothing is computed
    xr.testing.assert_identical(again["central"].dataset, whole["central"].dataset)
    with pytest.raises(ValueError, match=r"another run.*outputs"):
        quiet(objective(), OPT, 60, ALL, checkpoint=checkpoint, **options | {"outputs": lambda w: w[2:4] ** 2})
    with pytest.raises(ValueError, match=r"another run.*steps: 60 there, 61 here"):
        quiet(objective(), OPT, 61, ALL, checkpoint=checkpoint, **options)
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"run\.ckpt can't be read"):
        quiet(objective(), OPT, 60, ALL, checkpoint=checkpoint)


@pytest.mark.parametrize("replay_steps", [8, 40])  # from before and after the stationary flows begin
def test_the_last_steps_can_be_computed_again(tmp_path, replay_steps):
    f = mlp_objective(width=8, examples=20)
    options = {"branch_step": 30, "coords": [1], "outputs": lambda w: w[:2] ** 2, "eig_tol": 1e-6, "accuracy": 4e-8}
    tree = quiet(f, OPT, 60, ALL, replay_steps=replay_steps, eig_every=1, **options)
    tree.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "run.nc", engine="h5netcdf") as stored:
        again = simulation.replay(f, OPT, stored, options["outputs"])
    for name in (*ALL, "distance"):
        there, here = tree[name].to_dataset().isel(step=slice(-replay_steps, None)), again[name].to_dataset()
        assert here.sizes["step"] == replay_steps
        for variable in set(there.data_vars) - {"products", "gap", "eig_residual", "displacements"}:
            a, b = there[variable].values, here[variable].values
            seen = np.isfinite(a) & np.isfinite(b)  # the first refreshes are at other steps
            assert seen.any() or not np.isfinite(a).any()
            # how eigenvectors turn is not known at first: steps of first order, whose errors decay
            rtol = np.broadcast_to(np.where(np.arange(replay_steps) < 3, 0.05, 2e-3), a.T.shape).T
            atol = 1e-6 if name == "distance" else 1e-7  # flows part at the edge, their distances grow from zero
            assert (abs(a - b) <= rtol * abs(b) + atol)[seen].all(), f"{name}, {variable}"
    with pytest.raises(ValueError, match="optimizer of the run is"):
        simulation.replay(f, RMSProp(0.02, 0.95, bias_correction=True), tree)
    other = Objective(lambda w: (w**4).sum() + w.sum(), f.w0)
    with pytest.raises(ValueError, match="loss at the start"):
        simulation.replay(other, OPT, tree)
    with pytest.raises(ValueError, match="holds no state"):
        simulation.replay(f, OPT, quiet(f, OPT, 2))


def test_nan_names_process_and_step_and_keeps_what_there_is():
    f = Objective(lambda w: -torch.log(w).sum(), torch.tensor([1.0, 2.0]))
    bad = Objective(lambda w: torch.log(w).sum(), torch.tensor([1.0, 2.0]))
    assert quiet(f, GradientDescent(0.1), 3, ("discrete",))
    with pytest.raises(DivergenceError, match=r"discrete at step [1-9].*loss is nan.*smaller learning rate") as caught:
        quiet(bad, GradientDescent(0.5), 30, ("discrete",))
    assert isinstance(caught.value, ValueError)
    kept = caught.value.solution["discrete"]["loss"].values
    assert len(kept) > 0
    assert np.isfinite(kept).all()
    with pytest.raises(DivergenceError, match="burn-in at step"):
        quiet(bad, GradientDescent(0.5), 3, ("discrete",), burn_in=30)
    start = Objective(lambda w: (w / 0).sum(), torch.tensor([1.0, 2.0]))
    with pytest.raises(DivergenceError, match="step 0"):
        quiet(start, OPT, 3)


def test_weights_without_gradient():
    f = Objective(lambda w: w[0] ** 2, torch.ones(2))
    for burn_in in (0, 2):
        with pytest.raises(ValueError, match=r"at step 0: ν is exactly zero for 1 weights.*set eps above 0"):
            quiet(f, RMSProp(0.1, 0.9), 3, burn_in=burn_in)
    f = Objective(lambda w: 1.25 * w[0] ** 2 * (1 + w[1]) - 0.3 * w[1], torch.tensor([0.1, 0.0, 0.5]))
    tree = quiet(f, RMSProp(0.02, 0.9, eps=1e-8), 60, ("central",))
    assert float(tree["central"]["variances"].max()) > 0
    assert np.isfinite(tree["central"]["predicted_loss"]).all()


def test_unused_weights_have_eigenvalue_zero():
    f = Objective(lambda w: 1.5 * w[0] ** 2, torch.linspace(1, 2, 8, dtype=torch.float64))
    node = quiet(f, GradientDescent(0.1), 12, ("discrete",), eigs=1, eig_every=1)["discrete"]
    np.testing.assert_allclose(node["eigenvalues"], 0.3, rtol=1e-12)


def test_flows_refresh_the_eigenvalues_before_it_is_too_late():
    f = Objective(lambda w: w[1] * w[0] ** 2 / 2 - w[1], torch.tensor([1e-3, 2.0], dtype=torch.float64))
    node = quiet(f, GradientDescent(0.2), 55, ("central", "stable"), eig_every=60)["central"]
    assert float(node["eigenvalues"].max()) < 2.001
    assert float(node["loss"][-1]) == pytest.approx(-10, rel=1e-6)


def norms(norm):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 2)).double()
    x, y = torch.randn(12, 4, dtype=torch.float64), torch.randn(12, 2, dtype=torch.float64)
    return Objective.from_module(module, nn.MSELoss(), x, y)


def test_kernels_whose_third_derivatives_are_wrong_do_not_matter():
    """PyTorch has those of the fused layer normalisation wrong; the flows do without."""
    twins = [quiet(norms(norm), OPT, 40, ("central",))["central"] for norm in (nn.LayerNorm(6), nn.GroupNorm(1, 6))]
    assert float(twins[0]["variances"].max()) > 0
    np.testing.assert_allclose(twins[0]["predicted_loss"], twins[1]["predicted_loss"], rtol=1e-6)


def test_a_loss_that_is_not_smooth_is_found_out():
    """At a kink the gradient jumps, which its derivatives do not see."""
    f = Objective(lambda w: w[1] * (w[0] ** 2 + 0.1 * w[0].abs()) / 2 - w[1], torch.tensor([1e-3, 9.9]).double())
    with pytest.raises(DivergenceError, match=r"central (at|after) step .*not smooth.*GELU"):
        quiet(f, GradientDescent(0.2), 40, ("central",))


def test_numbers_of_any_kind(tmp_path):
    f = mlp_objective()
    tree = quiet(f, OPT, np.int64(3), coords=torch.arange(2), eigs=np.int32(2), checkpoint=tmp_path / "run")
    assert tree["discrete"]["coord"].values.tolist() == [0, 1]
    assert (tmp_path / "run").exists()


def test_a_checkpoint_knows_its_objective_and_its_schedule(tmp_path):
    def schedule():
        return lambda t: 0.01 / t

    f = mlp_objective()
    quiet(f, GradientDescent(schedule()), 3, checkpoint=tmp_path / "a.ckpt")
    quiet(f, GradientDescent(schedule()), 3, checkpoint=tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="another run"):
        quiet(f, GradientDescent(lambda t: 0.02 / t), 3, checkpoint=tmp_path / "a.ckpt")
    other = Objective(lambda w: w.square().sum(), f.w0)
    with pytest.raises(ValueError, match="another run"):
        quiet(other, GradientDescent(schedule()), 3, checkpoint=tmp_path / "a.ckpt")


def test_a_start_beyond_the_edge_ends_at_the_edge():
    f = mlp_objective()
    with pytest.warns(UserWarning, match="the central flow starts with .* eigenvalues .*burn_in"):
        node = quiet(f, RMSProp(0.01, 0.95, bias_correction=True), 60, ("central",))["central"]
    top = node["eigenvalues"][:, 0].dropna("step").values
    assert top[0] > 8
    assert top[-1] == pytest.approx(2, rel=5e-3)
    assert np.isfinite(node["predicted_loss"]).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"f": nn.Linear(2, 2)}, TypeError, r"f is a Linear.*from_module"),
        ({"opt": torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)}, TypeError, "opt is a SGD"),
        ({"steps": 0}, ValueError, "steps is 0"),
        ({"steps": 1.5}, TypeError, "steps is 1.5"),
        ({"burn_in": -1}, ValueError, "burn_in is -1"),
        ({"eigs": 0}, ValueError, "eigs is 0"),
        ({"substeps": 0}, ValueError, "substeps is 0"),
        ({"eig_every": -1}, ValueError, "eig_every is -1 for discrete"),
        ({"processes": ("discrete", "chaotic")}, ValueError, r"chaotic.*discrete, midpoint, stable, central"),
        ({"processes": ()}, ValueError, r"processes is \(\)"),
        ({"eig_every": {"discret": 1}}, ValueError, r"eig_every has \['discret'\]"),
        ({"eig_tol": 0}, ValueError, "eig_tol is 0"),
        ({"replay_steps": 3}, ValueError, "replay_steps is 3; the run has no more than 2 steps"),
        ({"accuracy": 2}, ValueError, "accuracy is 2"),
        ({"processes": "ablated", "opt": GradientDescent(0.1)}, ValueError, "no ablated flow"),
        ({"branch_step": -1}, ValueError, "branch_step is -1"),
        ({"branch_step": 1, "processes": "stationary"}, ValueError, 'add "central" to processes'),
        ({"processes": "stationary", "opt": GradientDescent(0.1)}, ValueError, "opt is GradientDescent"),
        ({"coords": [1.7]}, TypeError, "coords is 1.7"),
        ({"coords": [44]}, ValueError, r"coords has \[44\]; with 44 weights"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"f": mlp_objective(), "opt": OPT, "steps": 2} | change
    with pytest.raises(error, match=message):
        simulate(**arguments, progress=False)


# Without a GPU: any tensor made on the default device, or in the default type, instead of the weights', breaks here.


@pytest.fixture
def meta_by_default():
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("opt", [OPT, cflows.ScalarRMSProp(0.05, 0.95, bias_correction=True), GradientDescent(0.05)])
def test_nothing_is_made_on_the_default_device(opt, request):
    f = mlp_objective(width=8, examples=20)
    chosen = ALL if type(opt) is RMSProp else ALL[:4]
    expected = quiet(f, opt, 40, chosen, coords=[1, 2])
    request.getfixturevalue("meta_by_default")
    tree = quiet(f, opt, 40, chosen, coords=[1, 2])
    for name in chosen:
        xr.testing.assert_identical(tree[name].dataset, expected[name].dataset)


def test_data_are_loaded_on_the_cpu_whatever_the_default(meta_by_default):
    images, labels = cflows.data.cifar10(2)
    assert images.device.type == labels.device.type == "cpu"


@pytest.mark.parametrize(("dtype", "default"), [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_the_type_is_that_of_the_weights(dtype, default):
    network = mlp_objective(dtype, width=8, examples=20)
    seen = set()

    def loss(w):
        seen.add(w.dtype)
        return network(w)

    f = Objective(loss, network.w0)
    expected = quiet(mlp_objective(torch.float64, width=8, examples=20), OPT, 40, ALL)
    torch.set_default_dtype(default)
    try:
        tree = quiet(f, OPT, 40, ALL)
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen == {dtype}
    for name in ("discrete", "stable", "central"):
        np.testing.assert_allclose(
            tree[name]["loss"], expected[name]["loss"], rtol=1e-12 if dtype == torch.float64 else 2e-3
        )


@pytest.mark.parametrize(
    ("opt", "loss", "start"),
    [
        (GradientDescent(1.0), lambda w: 0.99 * w.square().sum(), [1.0, 2.0]),  # nothing drifts
        (GradientDescent(1.0), lambda w: 0.7 * w.square().sum(), [0.5, 1.0]),  # converges until squares underflow
        (RMSProp(0.02, 0.9, bias_correction=True), lambda w: (w * w.new([3, 2, 1])).cosh().log().sum(), [0.5, 0.4, 2]),
        (
            RMSProp(0.05, 0.9, bias_correction=True),
            lambda w: w[0] ** 2 / 2 + w[0] ** 4 + (w[1] / 10 - 100) ** 2,
            [0.3, 10],
        ),
    ],
)
def test_flows_come_to_rest(opt, loss, start):
    """With a minimum at zero, or third derivatives that vanish by symmetry, there is no scale to see by."""
    f = Objective(loss, torch.tensor(start, dtype=torch.float64))
    tree = quiet(f, opt, 300, ("stable", "central"))
    # on the way, between refreshes, it may pass 2 by hundredths
    assert tree["central"]["eigenvalues"][-50:].max() < 2 + 1e-6
    assert np.isfinite(tree["central"]["loss"]).all()


def test_eigenvalues_are_recorded_at_steps_whatever_the_substeps():
    opt = cflows.ScalarRMSProp(0.3, 0.95, bias_correction=True)
    flow = quiet(mlp_objective(), opt, 40, ("central",), burn_in=10, substeps=4, eig_every=1)["central"]
    assert flow["variances"][:, 0].max() > 0
    assert flow["eigenvalues"][:, 0].notnull().mean() > 0.9


def test_the_sharpness_without_a_guess_is_that_with_one():
    """Two near eigenvalues; the two random vectors of a search for one lack the larger one's eigenvector."""
    rng = np.random.default_rng(200)
    start = rng.standard_normal((200, 2))
    Q = np.linalg.qr(np.concatenate([start, rng.standard_normal((200, 198))], axis=1))[0]
    values = np.concatenate([[2.0, 25.7], np.linspace(0, 9, 197), [27.3]])
    H = torch.from_numpy(Q * values @ Q.T)
    f = Objective(lambda w: (w @ H @ w) / 2, torch.ones(200).double())
    run = simulate(f, RMSProp(1e-3, 0.99), 2, ("discrete",), snapshot_every=1, replay_steps=0, progress=False)
    np.testing.assert_allclose(run["discrete"]["sharpness"], 27.3, rtol=1e-2)
