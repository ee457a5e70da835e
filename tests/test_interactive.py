import json
import math
import re
from importlib import resources

import numpy as np
import pytest
from conftest import mlp_objective
from py_mini_racer import MiniRacer

import cflows
from cflows import stationary
from cflows.book import figures, interactive

H, P, W0 = np.array([[2.0, 1.2], [1.2, 1.6]]), np.array([3.0, 0.9]), np.array([0.8, -0.7])


@pytest.fixture(scope="module")
def run():
    steps, coords = 60, [0, 10, 20]
    f, opt = mlp_objective(width=8, examples=20), cflows.RMSProp(0.01, 0.95)
    processes = ("discrete", "midpoint", "central")
    return cflows.simulate(f, opt, steps, processes, burn_in=60, coords=coords, eig_every=5, progress=False)


def data_of(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL).group(1))


def test_the_explorer_begins_with_the_given_quadratic():
    data = interactive.quadratic_data(H, P, W0, 7)
    c = data["controls"]
    turn = np.radians(c["angle"])
    u, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    np.testing.assert_allclose(c["top"] * np.outer(u, u) + c["low"] * np.outer(across, across), H, rtol=0.01)
    np.testing.assert_allclose(np.array([1, c["ratio"]]) / c["lr"], P, rtol=0.01)
    assert (data["steps"], data["w0"]) == (7, [0.8, -0.7])


def test_the_explorer_draws_two_weights():
    with pytest.raises(ValueError, match=r"\(3, 3\); the explorer draws two weights"):
        interactive.quadratic(np.eye(3), np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="not symmetric"):
        interactive.quadratic(np.array([[1.0, 2.0], [0.0, 1.0]]), P, W0)


@pytest.mark.parametrize("hessian", [H, np.diag([1.0, 3.0]), np.array([[0.5, -2.0], [-2.0, 1.0]])])
def test_the_page_solves_the_eigenproblem_that_the_library_solves(hessian):
    script = resources.files("cflows.book").joinpath("interactive.js").read_text()
    function = re.search(r"  function effective.*?\n  }\n", script, re.DOTALL).group(0)
    result = json.loads(MiniRacer().eval(f"{function} JSON.stringify(effective({hessian.tolist()}, {P.tolist()}))"))
    eigenvalues, Q = cflows.quadratic.effective_eigh(hessian, P)
    np.testing.assert_allclose(result["values"], eigenvalues)
    np.testing.assert_allclose(abs(np.array(result["vectors"]).T), abs(Q / np.linalg.norm(Q, axis=0)), atol=1e-12)


PROGRAMS = [
    (H, [0.45, 0.6], 1.0),
    (H, [0.45, 0.6], 0.15),  # off the boundary: no eigenvalue is at 2
    (H, [0.0, 0.6], 0.4),
    (H, [0.3, 0.2], math.inf),
    (np.array([[2.0, -1.5], [-1.5, 1.2]]), [1.2, 0.01], 0.5),
    (np.diag([2.0, 1.2]), [0.1, 1.0], 0.5),
    (np.array([[-0.5, 0.9], [0.9, 1.2]]), [0.2, 0.3], 0.8),
    (np.array([[-2.0, 0.9], [0.9, 1.2]]), [0.0, 0.0], math.inf),  # p₁ is held at zero
]


@pytest.mark.parametrize(("hessian", "g", "eta"), PROGRAMS)
def test_the_page_solves_the_program_that_the_library_solves(hessian, g, eta):
    script = resources.files("cflows.book").joinpath("interactive.js").read_text()
    function = re.search(r"  function settled.*?\n  }\n", script, re.DOTALL).group(0)
    b = (np.abs(g) / eta).tolist()
    p = json.loads(MiniRacer().eval(f"{function} JSON.stringify(settled({hessian.tolist()}, {b}))"))
    np.testing.assert_allclose(p, stationary.solve(hessian, np.array(g), eta).p, rtol=1e-4, atol=1e-5)


def test_the_program_begins_with_the_given_numbers():
    data = data_of(interactive.program(H, np.array([-0.45, 0.6]), 0.7).data)
    assert data["controls"] == {"lr": 0.7, "g1": 0.45, "g2": 0.6, "off": 1.2}
    np.testing.assert_array_equal(data["H"], H)
    with pytest.raises(ValueError, match="draws two weights"):
        interactive.program(np.eye(3), np.ones(3), 1.0)


def test_the_scrubber_shows_the_run(run):
    data = interactive.training_data(run)
    discrete, midpoint, central = run["discrete"], run["midpoint"], run["central"]
    refreshes = data["refreshes"]
    assert data["steps"] == len(data["loss"]) == len(data["predicted"]) == 60
    assert data["weights"] == [0, 10, 20]
    for name, values, digits in (
        ("loss", discrete["loss"], 4),
        ("predicted", central["predicted_loss"], 4),
        ("eigenvalues", midpoint["eigenvalues"][refreshes, : len(figures.EIGENVALUES)], 4),
        ("nu", discrete["nu"][refreshes], 3),
        ("flow_nu", central["nu"][refreshes], 3),
    ):
        np.testing.assert_allclose(np.array(data[name], dtype=float), values, rtol=10 ** (1 - digits), err_msg=name)
    flow = np.array(data["flow_eigenvalues"], dtype=float)[:, 0]
    exact = central["eigenvalues"][refreshes, 0].values
    assert np.isfinite(exact).any()
    np.testing.assert_allclose(flow[np.isfinite(exact)], exact[np.isfinite(exact)], rtol=1e-3)


def test_the_scrubber_shows_the_oscillation_and_begins_where_it_is_largest(run):
    data = interactive.training_data(run)
    central = run["central"]
    assert data["displacements"]
    for j, (displacements, deviations) in enumerate(zip(data["displacements"], data["deviations"], strict=True)):
        exact = central["displacements"][:, j].values
        np.testing.assert_allclose(np.array(displacements, dtype=float), exact, rtol=0.01)
        np.testing.assert_allclose(np.square(deviations), central["variances"][:, j], rtol=0.02)
    assert data["start"] == np.nanargmax(np.nanmax(abs(central["displacements"].fillna(0).values), 1))


def test_a_run_without_oscillation_can_be_shown(run):
    quiet = run.copy()
    quiet["central"] = run["central"].to_dataset().assign(displacements=np.nan * run["central"]["displacements"])
    data = interactive.training_data(quiet)
    assert data["displacements"] == data["deviations"] == []
    assert data["start"] == 30
    json.dumps(data, allow_nan=False)


def test_a_figure_asks_for_plotly_where_there_is_a_folder_for_it(monkeypatch, tmp_path, run):
    monkeypatch.setenv("CFLOWS_MEDIA", str(tmp_path))
    monkeypatch.setenv("CFLOWS_MEDIA_URL", "../some/where")
    for name, figure in (("quadratic", interactive.quadratic(H, P, W0)), ("training", interactive.training(run))):
        html = figure.data
        assert f'data-interactive="{name}" data-plotly="../some/where/plotly.min.js"' in html
        assert '<button type="button" class="load">' in html
        assert data_of(html)["steps"] == 60
        assert len(html) < 200_000
        assert not re.search(r"\b(?:src|href)=", html)
    assert "plotly.js v" in (tmp_path / "plotly.min.js").read_text(encoding="utf-8")


def test_a_figure_carries_plotly_otherwise(monkeypatch):
    monkeypatch.delenv("CFLOWS_MEDIA", raising=False)
    html = interactive.quadratic(H, P, W0).data
    assert 'data-interactive="quadratic" data-plotly=""' in html
    assert "plotly.js v" in html
