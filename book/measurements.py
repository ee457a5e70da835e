"""The benchmarks page, from what `make bench` has measured and left in `benchmarks/results`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from cflows import files


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def seconds(x: float) -> str:
    return f"{1e3 * x:.0f} ms" if x < 1 else f"{x:.1f} s" if x < 100 else f"{x / 60:.1f} min"


def small(x: float, digits: int = 0) -> str:
    return f"{x:.{digits}e}".replace("e-0", "e-").replace("e+00", "").replace("-", "\N{NON-BREAKING HYPHEN}")


def program(lr: str) -> str:
    return "P̂" if lr == "inf" else "P̄"


def origin(result: dict) -> str:
    machine = result["machine_info"]
    return (
        f"*Measured on {result['datetime'][:10]}: {machine['cpu']['brand_raw']}, threads used: {machine['threads']}, "
        f"Python {machine['python_version']}, commit {result['commit_info']['id'][:7]}.*"
    )


def method(test: str) -> str:
    """The name that the table shows, from that of the test."""
    words = test.replace("]", "-").replace("[", "-").split("-")
    form, solver = ([w for w in words if w in names] for names in (("primal", "dual"), ("SCS", "CLARABEL")))
    return f"CVXPY, {form[0]}, {solver[0]}" if form else "cflows"


def dense(entries: Sequence[dict]) -> list[list[str]]:
    ours = {(e["n"], e["lr"]): e["time"] for e in entries if method(e["test"]) == "cflows"}
    rows = []
    for e in sorted(entries, key=lambda e: (e["n"], program(e["lr"]), e["time"])):
        error = e["gap"] if "gap" in e else e["objective"]
        quality = "none" if error != error else f"{'gap' if 'gap' in e else 'off by'} {small(error)}"
        ended = f", {e['status']}" if e.get("status", "optimal") != "optimal" else ""
        ratio = e["time"] / ours[e["n"], e["lr"]]
        names = [str(e["n"]), program(e["lr"]), method(e["test"])]
        rows.append([*names, seconds(e["time"]), f"{ratio:.3g}", quality + ended])
    return rows


def flow(entries: Sequence[dict]) -> list[str]:
    head = ["locked", "by", "gradients", "ratio", "products", "residual", "distance", "of ν"]
    rows = []
    for e in entries:
        for name, label in (("cflows", "cflows"), ("published", "literal")):
            x = e[name]
            cost, ratio = f"{x['gradients']:.3g}", f"{x['gradients'] / e['cflows']['gradients']:.3g}"
            quality = [f"{x['products']:.3g}", *(small(x[what], 1) for what in ("residual", "distance", "nu"))]
            rows.append([str(e["k"]), label, cost, ratio, *quality])
    intervals = [1 / e["cflows"]["refreshes"] for e in entries]
    return [
        "## A unit of time of the central flow",
        "",
        f"A ResNet ({entries[0]['weights']:,} weights, 200 images, single precision) over 50 "
        "units of time, from the point where the number of eigenvalues in the first column has been locked at 2 for 20 "
        f"units (4: with random labels of 8 classes, {entries[-1]['weights']:,} weights, and four times the learning "
        "rate, else it does not come to that). *Literal* is the published algorithm as it "
        "reads: four Euler steps a unit of time, eigenpairs by LOBPCG to what single precision allows, all third "
        "derivatives in each step by nested forward mode, complementarity by CVXPY. Costs of a unit of time are in "
        "gradients of the same loss on the same machine; *products* are those with the Hessian; *residual* is the "
        "largest of an eigenpair when it was computed, in units of the eigenvalue. *Distance* is that of the weights "
        "at the end from a reference with 16 steps a unit of time, "
        "everything fresh, as a share of the way that they go; and the same of ν. *Ratio*: costs over those of "
        "`cflows`.",
        "",
        *table(head, rows),
        "Where the difference comes from: one step of second order a unit of time; eigenvectors and third derivatives "
        f"are refreshed only every {min(intervals):.0f} to {max(intervals):.0f} units of time, as the accuracy "
        "asks, and supposed to go on changing as they did; third derivatives are differences of gradients; eigenpairs "
        "are only as good as "
        "the flow needs them.",
        "",
    ]


def default(entries: Sequence[dict]) -> list[str]:
    head = ["network", "weights", "locked", "`accuracy`", "gradients", "linearisations", "products", "cost"]
    rows = []
    for e in entries:
        for x in e["rows"]:
            names = [e["network"], f"{e['size']:,}", str(x["locked"])] if x is e["rows"][0] else ["", "", ""]
            counts = [f"{x[what]:.2g}" for what in ("gradients", "linearisations", "products", "cost")]
            errors = [small(x[what], 1) for what in ("weights", "nu", "loss")]
            rows.append([*names, small(x["accuracy"]), *counts, *errors])
    ratios = [x["weights"] / x["accuracy"] for e in entries for x in e["rows"]]
    dear = ", ".join(f"{e['product']:.1f} ({e['network'].split(',')[0]})" for e in entries)
    return [
        "## The central flow, as `simulate` runs it",
        "",
        "Five networks over 100 units of time, from where an eigenvalue has been locked at 2 for 20 units, with the "
        "defaults of `simulate` but for `accuracy`, whose default is 2e‑3. Counted for a unit of "
        "time: gradients, linearisations (a gradient with its graph) and products with the Hessian; *cost* is their sum"
        f" in gradients' time, of which a product takes {dear}. Errors are those at the end from steps of a third and "
        "refreshes as often as an accuracy of 8e‑5 asks for: of the weights and of ν, as shares "
        "of the way that they go, and of the predicted loss, the mean over all steps. *Locked* is the most at once.",
        "",
        *table([*head, "w", "ν", "loss"], rows),
        f"The error of the weights is {min(ratios):.1g} to {max(ratios):.1g} times the accuracy that was asked for.",
        "",
    ]


def on_gpu(measured: dict, run: xr.DataTree | None) -> list[str]:
    rows = [
        [
            name,
            f"{x['weights']:,}",
            *(seconds(x[what]) for what in ("gradient", "product", "unit")),
            f"{x['waits']:.0f}",
        ]
        for name, x in measured["networks"].items()
    ]
    lines = [
        "## On a GPU",
        "",
        f"Networks of `benchmarks/networks.py` on an {measured['hardware']} (PyTorch {measured['torch']}, single "
        "precision without TF32), by `benchmarks/gpu.py`. *Waits*: how often in a unit of time the processor waits for "
        "the device. Networks of this size do not fill it: it is launching small kernels that takes the time.",
        "",
        *table(["network", "weights", "a gradient", "a product", "a unit of time", "waits"], rows),
    ]
    if run is None:
        return lines
    optimizer = json.loads(json.loads(run.attrs["fingerprint"])["optimizer"])
    options, n = json.loads(run.attrs["options"]), run["distance"].sizes["step"]

    def late(process: str, variable: str) -> float:
        return float(run[process].to_dataset()[variable][-20:].mean())

    lines += [
        f"The network of the `paper` preset ({json.loads(run.attrs['fingerprint'])['weights']:,} weights, 1,000 images "
        f"of 32 × 32, η = {optimizer['lr']:g}, {options['burn_in']} steps of burn-in) was followed there for {n} steps "
        f"by {len(options['processes'])} processes, in {seconds(float(run.attrs['seconds']))}: all that there was time "
        f"for. Over the last 20 steps RMSProp's loss is {late('discrete', 'loss'):.4f} on average. The central flow "
        f"predicts {late('central', 'predicted_loss'):.4f}; at its own weights the loss is "
        f"{late('central', 'loss'):.4f}. Without the curvature penalty the flow predicts "
        f"{late('ablated', 'predicted_loss'):.4f}.",
        "",
    ]
    return lines


def slope(pairs: Sequence[tuple[float, float]]) -> float:
    x, y = np.log(np.array(pairs)).T
    return float(np.polyfit(x, y, 1)[0])


def growth(entries: Sequence[dict]) -> list[str]:
    rows = {name: [e for e in entries if f"test_{name}" in e["test"]] for name in ("weights", "examples", "critical")}
    several = rows["examples"][0]

    def cost(e: dict) -> list[str]:
        return [f"{e['refresh']:.3g}", f"{e['step']:.3g}", seconds(e["refresh"] * e["gradient"])]

    def exponents(key: str, found: Sequence[dict]) -> str:
        refreshes, steps, time = (
            slope([(e[key], value(e)) for e in found])
            for value in (lambda e: e["refresh"], lambda e: e["step"], lambda e: e["refresh"] * e["gradient"])
        )
        return f"Fitted powers: {refreshes:.2f} (refresh) and {steps:.2f} (step) in gradients, {time:.2f} in time."

    head = ["a refresh", "a step", "time of a refresh"]
    return [
        "## How the cost grows",
        "",
        "A refresh (eigenpairs from those of a point nearby, third derivatives), due every few units "
        "of time, and a step, of which there is one in each, besides a gradient: in gradients of the same loss. "
        "Random images of 8 × 8, ResNets of growing width with 100 of them, one critical eigenvalue, P = I:",
        "",
        *table(["weights", *head], [[f"{e['weights']:,}", *cost(e)] for e in rows["weights"]]),
        exponents("weights", rows["weights"]),
        "",
        f"More examples, {several['batch_size']} at a time, {several['weights']:,} weights:",
        "",
        *table(
            ["examples", *head, "peak memory"],
            [[f"{e['examples']:,}", *cost(e), f"{e['peak GB']:.2f} GB"] for e in rows["examples"]],
        ),
        exponents("examples", rows["examples"]),
        "",
        f"More critical eigenvalues ({rows['critical'][0]['weights']:,} weights, {rows['critical'][0]['examples']} "
        "images of 16 × 16):",
        "",
        *table(
            ["critical", *head, "products", "gradients"],
            [
                [str(e["k"]), *cost(e), *(str(e.get(what, "–")) for what in ("products", "gradients"))]
                for e in rows["critical"]
            ],
        ),
        exponents("k", rows["critical"]),
        "",
    ]


def sdcp(entries: Sequence[dict]) -> list[str]:
    rows = [
        [
            str(e["k"]),
            "all stay at 2" if e["locked"] else "some leave",
            f"{1e6 * e['cflows median']:.0f} µs",
            f"{1e3 * e['cvxpy median']:.1f} ms",
            f"{e['cvxpy median'] / e['cflows median']:.3g}",
            small(e["cflows residual"]),
            small(e["cvxpy residual"]),
        ]
        for e in entries
    ]
    return [
        "## The complementarity problem of a step",
        "",
        "Random problems; CVXPY's program has parameters and is compiled beforehand, its solver is CLARABEL. "
        "Median times, largest relative residuals of the optimality conditions: relative to the answer's own size, "
        "so that where the solution is zero (1 critical, some leave) that of any other answer, however small, is 1.",
        "",
        *table(["critical", "eigenvalues", "cflows", "CVXPY", "ratio", "residual", "CVXPY's"], rows),
    ]


def network(entries: Sequence[dict]) -> list[str]:
    rows = [
        [f"{e['lr']:g}", name, str(x["products"]), seconds(x["seconds"]), small(x["gap"]), str(x["rank"])]
        for e in entries
        for name, x in e["rows"].items()
    ]
    return [
        "## Stationary preconditioner of a network",
        "",
        f"A ResNet ({entries[0]['weights']:,} weights, single precision), at the last "
        "snapshot of the central flow of three learning rates. *Products* with the Hessian include those of the "
        "certificate. "
        "*Warm*: from the oscillation of the central flow (P̂: from the solution for P̄).",
        "",
        *table(["η", "program", "products", "time", "gap", "rank"], rows),
    ]


def laboratory(entries: Sequence[dict]) -> list[str]:
    head = ["run", "weights", "engine, units/s", "`simulate`, units/s", "engine, error", "`simulate`, error"]
    rows = [
        [f"`{e['run'].partition('&steps')[0].partition('steps')[0].strip('&') or 'default'}`", str(e["weights"])]
        + [f"{e['rows'][name]['units']:,.0f}" for name in ("engine", "cflows")]
        + [small(e["rows"][name]["error"], 1) for name in ("engine", "cflows")]
        for e in entries
    ]
    return [
        "## The laboratory",
        "",
        "Units of the central flow's time in a second, on one thread: the engine of the [Laboratory](laboratory), "
        "run in V8 without a page, and `simulate` at its defaults, which is made for larger networks. Errors are those "
        "of the predicted loss, on average, against `simulate` at tight accuracy.",
        "",
        *table(head, rows),
    ]


def gauge(entries: Sequence[dict]) -> list[str]:
    rows = []
    for e in entries:
        plain = e["rows"]["none"]
        rows.append([f"{e['weights']:,}", "no report", seconds(plain["seconds"]), "", f"{plain['memory']:.2f} GB"])
        for name, x in e["rows"].items():
            if name != "none":
                more = (x["seconds"] - plain["seconds"]) / plain["seconds"]
                rows.append(["", name, seconds(x["seconds"]), f"{more:.0%}", f"{x['memory']:.2f} GB"])
    return [
        "## The gauge",
        "",
        "A step of Adam with a report of {class}`cflows.Gauge <cflows.gauge.Gauge>` at every step, by method: "
        "perceptrons on a batch of 256, the probe batch too. *More* is what the report adds to the step. With a report "
        "at every tenth step the share is a tenth of it. Memory is the peak of the process, PyTorch itself included.",
        "",
        *table(["weights", "report", "a step", "more", "memory"], rows),
    ]


def page(results: dict[str, dict], remarks: str = "", gpu: dict | None = None, run: xr.DataTree | None = None) -> str:
    lines = [
        "(benchmarks)=",
        "# Benchmarks",
        "",
        "What `make bench` measures: times and errors, each table with the machine that it comes from. Compare times "
        "within a table; on another machine all of them differ.",
        "",
        remarks,
        "",
    ]
    if not results:
        lines += ["This copy holds no measurements yet: `make bench` makes them.", ""]
    entries = {
        name: [e["extra_info"] | {"test": e["name"], "time": e["stats"]["median"]} for e in result["benchmarks"]]
        for name, result in results.items()
    }
    if "default" in results:
        lines += [*default(entries["default"]), origin(results["default"]), ""]
    if gpu:
        lines += on_gpu(gpu, run)
    if "flow" in results:
        lines += [*flow(entries["flow"]), origin(results["flow"]), ""]
    if "growth" in results:
        lines += [*growth(entries["growth"]), origin(results["growth"]), ""]
    if "sdcp" in results:
        lines += [*sdcp(entries["sdcp"]), origin(results["sdcp"]), ""]
    if "stationary" in results:
        (agreement,) = (e for e in entries["stationary"] if "programs" in e)
        lines += [
            "## Stationary preconditioner beside CVXPY",
            "",
            f"{agreement['programs']} random programs of up to 60 weights, with and without the second term: the "
            f"objectives differ by at most {agreement['objective']:.1e}, relatively; the solutions by at most "
            f"{agreement['p']:.1e} of their largest entry. CVXPY's solver is CLARABEL there, with tolerances of 1e-9.",
            "",
            "Dense random Hessians, double precision. CVXPY's times are those of `solve` at each solver's own "
            "tolerances, for the primal and the dual program; *ratio* is to `cflows`.",
            "",
            *table(
                ["weights", "program", "method", "time", "ratio", "accuracy"],
                dense([e for e in entries["stationary"] if "programs" not in e]),
            ),
            origin(results["stationary"]),
            "",
        ]
    if "laboratory" in results:
        lines += [*laboratory(entries["laboratory"]), origin(results["laboratory"]), ""]
    if "gauge" in results:
        lines += [*gauge(entries["gauge"]), origin(results["gauge"]), ""]
    if "network" in results:
        lines += [*network(entries["network"]), origin(results["network"]), ""]
    if "scale" in results:
        lines += [
            "## Beyond CVXPY's reach",
            "",
            "A dense matrix; and a million weights with a Hessian that is a diagonal plus one of rank 20, known by "
            "its products alone. Double precision; memory is the peak of the whole process.",
            "",
            *table(
                ["weights", "program", "Hessian", "time", "peak memory", "gap", "products", "rank"],
                [
                    [
                        f"{e['n']:,}",
                        program(e["lr"]),
                        "products" if e["products"] else "dense",
                        seconds(e["time"]),
                        f"{e['peak GB']:.1f} GB",
                        small(e["gap"]),
                        f"{e['products']:,}" if e["products"] else "–",
                        str(e["rank"]) if e["products"] else "–",
                    ]
                    for e in entries["scale"]
                ],
            ),
            origin(results["scale"]),
            "",
        ]
    return "\n".join(lines) + "\n"


def write(results: Path, folder: Path) -> None:
    """Write `benchmarks.md` into a folder, from pytest-benchmark's files in another."""
    found = {p.stem: json.loads(p.read_text()) for p in sorted(results.glob("*.json"))}
    remarks, run, gpu = results / "remarks.md", results / "gpu.nc", found.pop("gpu", None)
    text = remarks.read_text() if remarks.exists() else ""
    curves = files.load(run, sealed=True) if run.exists() else None
    (folder / "benchmarks.md").write_text(page(found, text, gpu, curves))
