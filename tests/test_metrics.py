import math

import numpy as np
import pytest
import xarray as xr

from cflows import metrics
from cflows.averaging import smooth

STEPS = 100


def series(x, *dims):
    return (("step", *dims), np.asarray(x, dtype=float))


def process(**variables) -> xr.Dataset:
    """A process of `STEPS` steps: what is not given is not there, or NaN as `simulate` has it."""
    blank = np.full((STEPS, 1), np.nan)
    defaults = {"loss": series(np.ones(STEPS)), "eigenvalues": series(blank, "eig"), "variances": series(blank, "eig")}
    return xr.Dataset(defaults | variables, {"step": range(STEPS)})


def tree(**processes) -> xr.DataTree:
    return xr.DataTree.from_dict(processes)


def from_step(step, value=1.0, before=0.0):
    return np.where(np.arange(STEPS) < step, before, value)


def at_edge(step=40, **variables) -> xr.Dataset:
    """A central flow that comes to the edge at a step."""
    return process(variances=series(from_step(step)[:, None], "eig"), **variables)


def test_the_edge():
    rising = np.where(np.arange(STEPS) % 10 == 0, np.linspace(1, 3, STEPS), np.nan)[:, None]  # 2 at step 49.5
    run = tree(central=at_edge(40), midpoint=process(eigenvalues=series(rising, "eig")), quiet=process())
    assert metrics.edge(run["central"]) == 40
    assert metrics.edge(run["midpoint"]) == 50
    run["midpoint"].attrs["threshold"] = 2.9
    assert metrics.edge(run["midpoint"]) == STEPS  # 2.81 at the last one that was seen
    assert metrics.edge(run["quiet"]) == STEPS
    assert metrics.edge(run["central"].isel(step=slice(30, None))) == 10
    above = process(
        eigenvalues=series(from_step(10, 1.9, 3.0)[:, None], "eig"), variances=series(from_step(40)[:, None], "eig")
    )
    assert (
        metrics.edge(tree(central=above)["central"]) == 40
    )  # an eigenvalue above 2 at first that comes down by itself


def test_where_a_flow_was_stopped():
    run = tree(stable=process(loss=series(from_step(60, np.nan, 1.0))), central=process())
    assert metrics.stopped(run["stable"]) == 59
    assert metrics.stopped(run["central"]) == STEPS - 1


def test_an_error_is_that_of_time_averages_at_the_edge():
    wild = 2 + np.cos(np.pi * np.arange(STEPS))  # averages to 2
    loss = from_step(40, 2.2, 100.0)
    run = tree(
        discrete=process(loss=series(wild)), central=at_edge(40, predicted_loss=series(loss), p_sum=series(wild))
    )
    expected = abs(smooth(loss) / smooth(wild) - 1)
    for statistic in (np.mean, np.max):
        assert metrics.error(run, "loss", statistic=statistic) == pytest.approx(statistic(expected[40:]))
    assert metrics.error(run, "loss", predicted="p_sum") == 0
    late = run.isel(step=slice(50, None))
    assert metrics.error(late, "loss") == pytest.approx(0.1, abs=0.02)
    never = tree(discrete=process(), central=process(predicted_loss=series(loss)))
    assert math.isnan(metrics.error(never, "loss"))


def test_an_error_averages_both_sides_over_the_same_steps():
    loss = np.linspace(1, 2, STEPS)
    run = tree(
        discrete=process(loss=series(loss)),
        flow=at_edge(50, loss=series(np.where(np.arange(STEPS) < 50, np.nan, loss))),
    )
    assert metrics.error(run, "loss", "flow", statistic=np.max) == 0


def test_variances():
    """Over all their time, in which bursts come and go; only where there is enough of it."""
    bursts = from_step(50) * np.where(np.arange(STEPS) % 2, 3.2, 0.0)
    both = np.stack([from_step(50, 2.0), from_step(90, 2.0)], axis=1)
    central = process(
        eigenvalues=series(both, "eig"),
        variances=series(both, "eig"),
        displacements=series(np.sqrt(np.stack([bursts, bursts], axis=1)), "eig"),
    )
    found = metrics.variance_error(tree(central=central)["central"], least=20)
    np.testing.assert_allclose(found, [0.25, np.nan])
    assert np.isnan(metrics.variance_error(tree(central=central)["central"])).all()


def test_outputs():
    t = np.arange(STEPS)
    f = (0.5 * t + 3 * (-1.0) ** t)[:, None]  # a trend, and an oscillation of standard deviation 3
    central = at_edge(20, output_deviations=series(np.full((STEPS, 1), 3.3), "output"))
    run = tree(discrete=process(outputs=series(f, "output")), central=central)
    assert metrics.output_error(run) == pytest.approx(0.1)


def test_snapshots():
    nodes = {"discrete": process(), "central": at_edge(40)}
    nu = np.array([[1.0, 1.0], [2.0, 4.0], [2.0, 4.0]])
    for name, x in (("discrete", nu), ("central", nu * [[9, 9], [1.1, 0.9], [1.1, 1.1]])):
        nodes[f"snapshots/{name}"] = xr.Dataset({"nu": (("step", "weight"), x)}, {"step": [40, 60, 80]})
    run = xr.DataTree.from_dict(nodes)
    assert metrics.snapshot_error(run) == pytest.approx(0.1)
    run["central"] = process()
    assert math.isnan(metrics.snapshot_error(run))


def test_the_stable_flow_before_the_edge():
    run = tree(discrete=process(), stable=process(loss=series(from_step(40, 5.0, 1.03))), central=at_edge(40))
    assert metrics.stable_error(run) == pytest.approx(0.03)


def test_distances_where_the_stable_flow_was_stopped():
    distance = xr.Dataset(
        {"central-discrete": series(np.full(STEPS, 2.0)), "stable-discrete": series(1.0 + np.arange(STEPS))}
    )
    run = tree(stable=process(loss=series(from_step(10, np.nan, 1.0))), central=at_edge(4), distance=distance)
    np.testing.assert_allclose(metrics.distance_ratio(run), [2 / (1 + t) for t in range(4, 10)])
    run["central"] = at_edge(40)
    np.testing.assert_allclose(metrics.distance_ratio(run), [0.2])  # the edge comes later


def test_eigenvalues_at_the_threshold():
    eigenvalues = from_step(50, 2.02, 1.0)
    eigenvalues[[50, 60]] = 3, np.nan  # 50: no step before it at the threshold
    flow = process(eigenvalues=series(eigenvalues[:, None], "eig"), variances=series(from_step(50)[:, None], "eig"))
    assert metrics.locking_error(tree(f=flow)["f"]) == pytest.approx(0.01)
    assert metrics.locking_error(tree(f=flow.assign_attrs(threshold=2.02))["f"]) == 0
    assert math.isnan(metrics.locking_error(tree(f=process())["f"]))
    beyond = np.full(STEPS, np.nan)
    beyond[[0, 1, 2, 4, 6, 8]] = 2.9, 2.3, 2.04, 2.006, 2.008, 2.0  # it comes down to 2, and is 0.4 % off at worst
    flow = process(eigenvalues=series(beyond[:, None], "eig"), variances=series(np.ones((STEPS, 1)), "eig"))
    assert metrics.locking_error(tree(f=flow)["f"]) == pytest.approx(0.004)
    hovering = tree(m=process(eigenvalues=series(from_step(50, 2.2, 1.0)[:, None], "eig")))["m"]
    assert metrics.hovering_error(hovering) == pytest.approx(0.1)
    assert metrics.step_size_error(hovering) == pytest.approx(1 - 2 / 2.2)
    assert math.isnan(metrics.step_size_error(hovering, settling=60))


def test_a_loss_that_decreases():
    falling = np.linspace(2, 1, STEPS) + 0.05 * np.cos(np.pi * np.arange(STEPS))
    assert metrics.decreasing(tree(d=process(loss=series(falling)))["d"]) > 0.97
    assert metrics.decreasing(tree(d=process(loss=series(-falling)))["d"]) < 0.03
    stopped = np.where(np.arange(STEPS) < STEPS // 2, falling, np.nan)
    assert metrics.decreasing(tree(d=process(loss=series(stopped)))["d"]) > 0.95


def test_nothing_is_made_of_nothing():
    run = tree(discrete=process(), stable=process(), central=at_edge(1))
    assert math.isnan(metrics.stable_error(run))  # at the first step they are the same
    assert math.isnan(metrics.error(run.isel(step=slice(0)), "loss"))
    with pytest.raises(ValueError, match="no step with a finite loss"):
        metrics.stopped(tree(d=process(loss=series(np.full(STEPS, np.nan))))["d"])


def test_an_ablation_that_ends_is_compared_where_it_was():
    flows = {}
    for name, factor, end in (("central", 1.0, STEPS), ("ablated", 3.0, 60)):
        there = np.where(np.arange(STEPS) < end, factor * (1.0 + np.arange(STEPS)), np.nan)
        flows[name] = process(predicted_loss=series(there), sharpness=series(there), p_sum=series(there))
    ratios = metrics.ablation(tree(**flows))
    assert ratios == {"loss": 3, "sharpness": 3, "mean step size": pytest.approx(1 / 3)}


def test_fluctuations_are_relative():
    t = np.arange(STEPS)[:, None]
    wave = (-1.0) ** t
    run = tree(d=process(grad_sq=series(10 + 6 * wave, "coord"), nu=series(1 + 0.1 * wave, "coord")))
    assert metrics.fluctuation(run["d"]) == pytest.approx(6, rel=0.01)
    assert math.isnan(metrics.fluctuation(run["d"].isel(step=slice(STEPS, None))))


def test_shares():
    rates = {
        "rise": from_step(50, 5.0, np.nan),
        "curvature_reduction": from_step(50, 1.0, np.nan),
        "nu_growth": from_step(50, 3.0, np.nan),
    }
    norms = {"grad_norm_sq": from_step(0, 1.0), "predicted_grad_norm_sq": from_step(0, 4.0)}
    flow = tree(c=at_edge(50, **{name: series(x) for name, x in (rates | norms).items()}))["c"]
    share = metrics.curvature_share(flow)
    assert np.isnan(share[:50]).all()
    np.testing.assert_allclose(share[50:], 0.25)
    assert metrics.smaller_share(flow) == 0.25
    assert metrics.balance_error(flow) == pytest.approx(0.2)
    np.testing.assert_allclose(metrics.oscillation_share(flow), 0.75)
    assert math.isnan(metrics.smaller_share(flow.isel(step=slice(50))))


def test_what_the_penalty_does_and_which_flow_the_optimizer_follows():
    flows, wild = {}, np.cos(np.pi * np.arange(STEPS))  # averages to 0
    for name, (loss, sharpness, p) in {
        "central": (2.0, 10.0, 4.0), "ablated": (3.0, 12.0, 5.0), "midpoint": (9.0, 10.5, 9.0),
        "discrete": (2.1 + 0.1 * wild, 50.0, 1 / 0.24 + 0.1 * wild),
    }.items():  # fmt: skip
        seen = np.full(STEPS, np.nan)
        seen[80] = sharpness
        flows[name] = process(
            predicted_loss=series(np.full(STEPS, loss)), sharpness=series(seen), p_sum=series(np.full(STEPS, p))
        )
    run = tree(**flows)
    assert metrics.ablation(run) == pytest.approx({"loss": 1.5, "sharpness": 1.2, "mean step size": 0.8})
    expected = {"loss": 0.1 / 0.9, "sharpness": 0.5 / 1.5, "mean step size": 0.01 / 0.04}
    assert metrics.following(run) == pytest.approx(expected, rel=0.1)
