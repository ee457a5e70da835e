"""The laboratory's engine against the library: the optimizer to rounding, the flows within a hundredth.

``tests/laboratory.py`` wrote the library's runs at tight accuracy; here one of them is computed again.
"""

import json
import re

import laboratory
import numpy as np
import pytest
from laboratory import EVERY, MENU, ask, engine, lines, reference, run

import cflows

REFERENCES = json.loads(laboratory.REFERENCES.read_text())
MAX_ERROR = 0.01  # of what flows predict, as a share of it
ENDS = 3  # recorded steps, at most, by which the engine looks earlier whether the stable flow has to end
MAX_DEVIATION = 0.005  # of eigenvalues at the threshold, as a share of it
ARRIVAL = 4  # recorded steps about an eigenvalue's coming to the threshold, or leaving it, that tell when it does


def column(rows, process, name):
    """What a process of the engine recorded; NaN where it recorded nothing."""
    values = [(row.get(process) or {}).get(name) for row in rows]
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def variances(rows, process):
    out = np.zeros((len(rows), 3))
    for i, row in enumerate(rows):
        found = ((row.get(process) or {}).get("variances") or [])[:3]
        out[i, : len(found)] = found
    return out


@pytest.fixture(scope="module")
def runs():
    return {name: run(address) for name, address in MENU.items()}


@pytest.mark.parametrize("name", MENU)
def test_the_optimizer_agrees_to_rounding(name):
    rows = run(MENU[name], 50)
    tree = reference(MENU[name], ("discrete",), 50)
    np.testing.assert_allclose(column(rows, "optimizer", "loss"), tree["discrete"]["loss"], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(column(rows, "optimizer", "nu_sum"), tree["discrete"]["nu_sum"], rtol=1e-9)


def arrivals(known, width):
    """Whether an eigenvalue comes to the threshold, or leaves it, so many recorded steps about."""
    count = (np.array(known["variances"], dtype=float) > 0).sum(1)
    jump = np.abs(np.diff(count, prepend=0)) > 0
    return np.convolve(jump, np.ones(2 * width + 1), "same") > 0


@pytest.mark.parametrize("name", MENU)
def test_the_flows_agree_within_a_hundredth(runs, name):
    rows = runs[name][::EVERY]
    for process, known in REFERENCES[name].items():
        for what in ("loss", "predicted_loss", "nu_sum"):
            here, there = column(rows, process, what), np.array(known[what], dtype=float)
            both = np.isfinite(here) & np.isfinite(there)
            assert both.sum() >= np.isfinite(there).sum() - ENDS
            if what == "predicted_loss":
                both &= ~arrivals(known, 1)
            scale = np.maximum(abs(there), 1e-3 * np.nanmax(abs(there), initial=1e-300))  # it may pass zero
            assert (abs(here - there) / scale)[both].max() < MAX_ERROR, f"{process} {what}"


@pytest.mark.parametrize("name", MENU)
def test_the_oscillation_agrees_within_a_hundredth(runs, name):
    """Variances of each direction that has a share in all, but about those steps at which one arrives."""
    rows = runs[name][::EVERY]
    for process, known in REFERENCES[name].items():
        here, there = variances(rows, process), np.array(known["variances"], dtype=float)
        there[np.isnan(there)] = 0
        for j in range(there.shape[1]):
            steady = (there[:, j] > 0.02 * there.sum(1)) & ~arrivals(known, ARRIVAL)
            error = abs(here - there)[steady, j] / there[steady, j]
            assert error.max(initial=0) < MAX_ERROR, f"{process} {j}"


@pytest.mark.parametrize("name", MENU)
def test_eigenvalues_stay_at_the_threshold(runs, name):
    """From one step after they have arrived on."""
    for process in ("central", "ablated"):
        before = 0
        for row in runs[name]:
            now, edge = row.get(process) or {}, row["threshold"]
            count = sum(x > 0 for x in now.get("variances") or [])
            if held := min(count, before):
                off = abs(np.array(now["eigenvalues"])[:held] / edge - 1).max()
                assert now["doubt"] or off < MAX_DEVIATION, row["step"]
            before = count


def test_adam_without_momentum_is_rmsprop_and_has_its_own_threshold_with_it():
    assert run("optimizer=adam&beta1=0&width=8&steps=90&penalty=off") == run("width=8&steps=90&penalty=off")
    for beta1 in (0.5, 0.9):
        row = run(f"optimizer=adam&beta1={beta1}&width=8&steps=0")[0]
        assert row["threshold"] == pytest.approx(cflows.Adam(1e-3, beta1=beta1).threshold, rel=1e-14)


def test_the_library_still_says_what_is_compared_with():
    for name in ("valley", "bowl", "corner"):
        steps = 60
        tree = reference(MENU[name], steps=steps, **laboratory.TIGHT | {"substeps": 2, "accuracy": 5e-4})
        there = np.array(REFERENCES[name]["central"]["predicted_loss"][: steps // EVERY + 1], dtype=float)
        np.testing.assert_allclose(tree["central"]["predicted_loss"][::EVERY], there, rtol=5e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Data has no positive values")
def test_the_lines_of_python_repeat_the_run(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    drawn = ",".join(["0.5", "-0.25"] * 8)
    for address in (
        "width=8&steps=40&penalty=off",
        "width=8&steps=40&changes=20:lr:0.001",
        "optimizer=adam&beta1=0.5&width=8&steps=30",
        "loss=valley&optimizer=gd&lr=0.2&steps=30",
        "loss=bowl&lr=0.05&steps=30",
        f"width=8&optimizer=scalar&lr=0.03&steps=20&loss=drawn&targets={drawn}",
    ):
        names: dict = {}
        exec(lines(address), names)
        rows, tree = run(address), names["tree"]
        np.testing.assert_allclose(column(rows, "optimizer", "loss"), tree["discrete"]["loss"], rtol=1e-9)
        last = tree["central"]["predicted_loss"].values[-1]
        assert rows[-1]["central"]["predicted_loss"] == pytest.approx(
            last, rel=2 * MAX_ERROR
        )  # at the library's default accuracy
        assert ("ablated" in tree) == ("penalty" in address)
        plt.close("all")


def test_an_address_says_all():
    for address in MENU.values():
        again = ask(f"page.write(page.read({json.dumps(address)}, data))")
        assert ask(f"page.read({json.dumps(again)}, data)") == ask(f"page.read({json.dumps(address)}, data)")
    assert ask("page.write(page.DEFAULTS)") == ""
    bad = "loss=x&optimizer=y&lr=-1&beta1=1&beta2=2&seed=9&width=7&steps=-3&changes=a:lr:1,3:lr:z&targets=1,2"
    assert ask(f"page.write(page.read({json.dumps(bad)}, data))") == ""


def test_a_state_is_a_value():
    """Back to a step and on again is the same run, to the last bit; so is one with a change as it goes."""
    address = "width=8&steps=130"
    rows = run(address)
    engine().eval("lab.back(70); while (lab.step < 130) lab.advance()")
    assert ask("lab.rows") == rows
    engine().eval("lab.back(70); lab.change({lr: 0.001}); while (lab.step < 130) lab.advance()")
    assert ask("lab.rows") == run("width=8&steps=130&changes=70:lr:0.001")


def test_the_table_has_a_line_a_step():
    run("width=8&steps=20&penalty=off")
    table = ask("page.table(lab.rows)").splitlines()
    names = table[0].split(",")
    assert len(table) == 22
    assert {len(line.split(",")) for line in table} == {len(names)}
    last = dict(zip(names, table[-1].split(","), strict=True))
    assert float(last["ablated_predicted_loss"]) == ask("lab.rows[20].ablated.predicted_loss")


@pytest.mark.parametrize(
    ("address", "process", "why"),
    [
        ("optimizer=gd&lr=0.3&steps=200", "optimizer", r"diverges: the largest eigenvalue of P⁻¹H is [\d.]+, above 2"),
        ("loss=bowl&optimizer=gd&lr=0.9&steps=40", "optimizer", "diverges"),
        ("loss=bowl&optimizer=gd&lr=0.9&steps=40", "central", "no solution"),
        ("optimizer=gd&lr=0.3&steps=3", "central", "beyond the edge"),
        ("lr=0.02&width=20&steps=40", "central", "above 2"),
        ("optimizer=adam&beta1=0.5&lr=0.1&width=8&steps=20", "central", "above 6"),
        ("steps=110", "stable", "above 8"),
    ],
)
def test_it_fails_visibly(address, process, why):
    rows = run(address)
    said = [row[process].get("end") or row[process].get("doubt") for row in rows]
    assert re.search(why, " ".join(filter(None, said)))
    assert all(np.isfinite(row["optimizer"]["loss"]) for row in rows[:-1])


@pytest.mark.parametrize("seed", range(8))
def test_complementarity_problems_are_solved(seed):
    """Random ones of up to six eigenvalues, with entries over several decades, by their optimality conditions."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 7))
    D = np.diag(10.0 ** rng.uniform(-2, 2, k))
    m = k * (k + 1) // 2
    G = rng.standard_normal((m, m if seed % 3 else max(1, m - 2)))
    at = [(i, j) for i in range(k) for j in range(i + 1)]
    weights = np.array([1.0 if i == j else 2**0.5 for i, j in at])
    scale = np.array([D[i, i] * D[j, j] for i, j in at])
    B = scale[:, None] * (G @ G.T + 0.01 * np.eye(m)) * scale
    A = rng.standard_normal((k, k))
    A = D @ (A + A.T) @ D * 10.0 ** rng.uniform(-3, 3)
    X, residual = ask(
        f"(({{ X, residual }}) => [X.map((row) => [...row]), residual])(sdcp.solve({A.tolist()}, {B.tolist()}))"
    )
    X = np.array(X)
    full = np.zeros((k, k, k, k))
    for r, (a, b) in enumerate(at):
        for s, (c, d) in enumerate(at):
            value = B[r, s] / weights[r] / weights[s]
            for x, y in {(a, b), (b, a)}:
                for z, t in {(c, d), (d, c)}:
                    full[x, y, z, t] = value
    assert residual == pytest.approx(cflows.sdcp.kkt_residual(A, full, X), abs=1e-12)
    assert residual < 1e-8
    there = cflows.sdcp.solve(A, full).X
    here, wanted = (np.einsum("abcd,cd", full, x) for x in (X, there))  # X itself need not be unique
    np.testing.assert_allclose(here, wanted, rtol=1e-4, atol=1e-6 * abs(A).max())
