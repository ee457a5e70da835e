import math

import numpy as np
import pytest
import torch

import cflows
from cflows import files, report, store, survey
from cflows.__main__ import main
from cflows.tasks import CifarMLP

TASK = CifarMLP(per_class=2, size=4, width=3)
SMALL = survey.BASE.change(task=TASK, burn_in=3, steps=6, snapshot_every=3, coords=2)


def test_the_grid():
    runs = survey.runs()
    assert len(runs) == 5 * 2 * 2 * 3 + len(survey.VARIANTS) + 5 * 2 * 2
    assert len({e.path for e in runs}) == len(runs)
    assert survey.path() != survey.path("ci")


def test_a_survey_is_kept_and_goes_on_where_it_was(monkeypatch, cache, capsys):
    monkeypatch.setattr(survey, "runs", lambda preset="laptop": [SMALL, SMALL.change(seed=1, bias_correction=False)])
    table = survey.table(jobs=1)
    assert dict(table.sizes) == {"run": 2}
    assert table["network"].values.tolist() == ["MLP", "MLP"]
    assert table["seed"].values.tolist() == [0, 1]
    assert table["bias_correction"].values.tolist() == [True, False]
    assert {*report.STATISTICS, *survey.PROGRAM, "failure"} == set(table.data_vars)
    assert table["penalty"].attrs["long_name"] == report.STATISTICS["penalty"][0]
    simulate = cflows.experiments.simulate
    monkeypatch.setattr(cflows.experiments, "simulate", None)  # nothing is computed again
    assert survey.table().identical(table)
    survey.path().unlink()
    again = survey.table(jobs=1)
    for name in report.STATISTICS:
        np.testing.assert_array_equal(again[name], table[name])
    monkeypatch.setattr(cflows.experiments, "simulate", simulate)
    assert survey.verify(survey.path(), row=1) == []
    assert main(["verify", str(survey.path())]) == 0
    changed = files.load(survey.path())
    first, second, *_ = (name for name in report.STATISTICS if np.isfinite(table[name][1]))
    changed[first] += 100
    changed[second][1] = math.nan
    files.save(survey.path(), changed)
    one, other = survey.verify(survey.path(), row=1)
    assert "network MLP, loss mse, seed 1, optimizer RMSProp" in one
    assert f"{first} is" in one
    assert f"{second} is" in other
    monkeypatch.setattr(survey, "runs", lambda preset="laptop": [SMALL])
    with pytest.raises(ValueError, match="is not the survey of the present definitions"):
        survey.verify(next(store.cache().glob("survey-table-*")))
    monkeypatch.setattr(survey, "runs", lambda preset="laptop": [SMALL, SMALL.change(seed=1, bias_correction=False)])
    assert main(["survey"]) == 0
    assert capsys.readouterr().out.endswith(f"{survey.path()}\n")


def test_gradient_descent_has_no_nu_that_jumps():
    w = torch.tensor([0.1, 9.7], dtype=torch.float64)
    f = cflows.Objective(lambda w: 0.5 * w[1] * w[0] ** 2 - 0.01 * w[1], w)
    run = cflows.simulate(f, cflows.GradientDescent(0.2), 30, ("discrete", "central"), progress=False)
    said = cflows.summary(run)
    assert math.isnan(said.numbers["jump"])
    assert "nan" not in said.text


def test_a_run_that_fails_has_a_reason(monkeypatch, cache):
    def fail(*_):
        raise cflows.DivergenceError("the loss is nan at step 3")

    monkeypatch.setattr(survey, "runs", lambda preset="laptop": [SMALL])
    monkeypatch.setattr(survey, "measure", fail)
    table = survey.table(jobs=1)
    assert table["failure"].item() == "DivergenceError: the loss is nan at step 3"
    assert math.isnan(table["mean_loss_error"].item())


@pytest.mark.parametrize(
    "processes", [("discrete",), ("discrete", "central"), ("discrete", "stable", "central", "ablated")]
)
def test_a_run_has_the_numbers_of_what_it_holds(processes):
    e = survey.runs("ci")[0]
    run = cflows.simulate(e.objective("cpu"), e.optimizer, 30, processes, e.burn_in, snapshot_every=10, progress=False)
    found = report.numbers(run)
    assert found.keys() == report.STATISTICS.keys()
    assert math.isnan(found["midpoint"])
    assert math.isfinite(found["mean_loss_error"]) == ("central" in processes)
    assert math.isfinite(found["distance"]) == ("stable" in processes)
    assert math.isfinite(found["ablated_loss"]) == ("ablated" in processes)
    if "central" not in processes:
        with pytest.raises(ValueError, match="the run has no central; simulate both processes"):
            cflows.summary(run)
        return
    said = cflows.summary(run)
    assert said.numbers == found
    assert said.text.startswith(f"edge at step {found['edge']:.0f}; 2 eigenvalues at 2 at the end")
    assert f"predicted loss {found['mean_loss_error']:.2%} off" in said.text
    assert said.text.endswith("trustworthy, except at 1 step where an eigenvalue is well above 2")
    assert len(str(said).splitlines()) == 1 + sum(not math.isnan(x) for x in found.values())
    quiet = run.sel(step=slice(0, 4)).copy(deep=True)
    quiet["central"]["variances"][:], quiet["central"]["eigenvalues"][:] = 0, 0.5
    assert (
        "the edge is not reached in 5 steps; the largest eigenvalue of P⁻¹H is 0.5 at the end"
        in cflows.summary(quiet).text
    )
    quiet["central"]["trusted"][:] = 1
    assert cflows.summary(quiet).text.endswith("trustworthy")
    quiet["central"].attrs["doubt"] = "step 3: an eigenvalue is 7.9"
    assert cflows.summary(quiet).text.endswith("not to be trusted from step 3: an eigenvalue is 7.9")
