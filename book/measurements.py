"""The benchmarks page, from what `make bench` has measured and left in `benchmarks/results`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from programs_measured import network, scale, sdcp, stationary
from tables import TITLES, between, seconds, small, table, title, words

from cflows import files


def origins(results: dict[str, dict]) -> list[str]:
    """When and on what each table was measured."""
    rows = []
    for name, result in results.items():
        machine = result["machine_info"]
        who = [machine["cpu"]["brand_raw"], str(machine["threads"]), machine["python_version"]]
        rows.append([TITLES[name], result["datetime"][:10], *who, result["commit_info"]["id"][:7]])
    return table(["section", "measured on", "processor", "threads", "Python", "commit"], rows)


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
        *title("flow"),
        f"A ResNet ({entries[0]['weights']:,} weights, 200 images, single precision) over 50 units of time, which "
        "begin 20 units after its eigenvalues have come to 2. *Literal* is the published algorithm as it reads: four "
        "Euler steps a unit of time, eigenpairs by LOBPCG to what single precision allows, all third derivatives in "
        "each step by nested forward mode, complementarity by CVXPY.",
        "",
        *words(
            {
                "locked": "how many eigenvalues are held at 2. Four are reached with random labels of 8 classes, "
                f"{entries[-1]['weights']:,} weights and four times the learning rate",
                "gradients": "cost of a unit of time, in gradients of the same loss on the same machine",
                "ratio": "this cost over that of `cflows`",
                "products": "products with the Hessian in a unit of time",
                "residual": "the largest of an eigenpair when it was computed, in units of the eigenvalue",
                "distance, of ν": "from a reference with 16 steps a unit of time and everything fresh, for the weights "
                "and for ν, as shares of the way that they go",
            }
        ),
        *table(head, rows),
        "The difference has four causes. One step of second order replaces four of first order. Eigenvectors and "
        f"third derivatives are computed anew every {between(intervals)} units of time, as the "
        "accuracy asks, and extrapolated between. Third derivatives are differences of gradients. Eigenpairs are no "
        "more accurate than the flow needs them.",
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
        *title("default"),
        "Five networks over 100 units of time, which begin 20 units after an eigenvalue has come to 2, as `simulate` "
        "runs them. The default of `accuracy` is 2e‑3.",
        "",
        *words(
            {
                "locked": "the most eigenvalues that are at 2 at once",
                "gradients, linearisations, products": "how many a unit of time takes. A linearisation is a gradient "
                "that keeps its graph, a product is one with the Hessian",
                "cost": f"their sum in gradients' time, of which a product takes {dear}",
                "w, ν, loss": "errors at the end, of weights and ν as shares of the way that they go, and of the "
                "predicted loss on average. The reference has steps of half a unit, refreshed as an accuracy of 1e‑4 "
                "asks for",
            }
        ),
        *table([*head, "w", "ν", "loss"], rows),
        f"The error of the weights is {between(ratios, 1)} times the accuracy that was asked for.",
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
        "the device. Networks of this size do not keep it busy: most of the time goes into launching small kernels.",
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
        *title("growth"),
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


def laboratory(entries: Sequence[dict]) -> list[str]:
    head = ["run", "weights", "engine, units/s", "`simulate`, units/s", "engine, error", "`simulate`, error"]
    rows = [
        [f"`{e['run'].partition('&steps')[0].partition('steps')[0].strip('&') or 'default'}`", str(e["weights"])]
        + [f"{e['rows'][name]['units']:,.0f}" for name in ("engine", "cflows")]
        + [small(e["rows"][name]["error"], 1) for name in ("engine", "cflows")]
        for e in entries
    ]
    return [
        *title("laboratory"),
        "Units of the central flow's time in a second: the engine of the [Laboratory](laboratory), "
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
        *title("gauge"),
        "A step of Adam with a report of {class}`cflows.Gauge <cflows.gauge.Gauge>` at every step, by method: "
        "perceptrons on a batch of 256, the probe batch too. *More* is what the report adds to the step. With a report "
        "at every hundredth step, the default, the share is a hundredth of it. Memory is the peak of the process, "
        "PyTorch itself included.",
        "",
        *table(["weights", "report", "a step", "more", "memory"], rows),
    ]


SECTIONS = {
    "default": default, "flow": flow, "growth": growth, "gauge": gauge, "sdcp": sdcp, "stationary": stationary,
    "network": network, "scale": scale, "laboratory": laboratory,
}  # fmt: skip


def answers(entries: dict[str, list[dict]], gpu: dict | None) -> list[str]:
    """What the tables say, in a few lines."""
    lines = []
    if "default" in entries:
        usual = [x for e in entries["default"] for x in e["rows"] if x["accuracy"] == 2e-3]
        lines.append(
            f"A step of an optimizer's **central flow** costs {between([x['cost'] for x in usual])} times as much as a "
            f"gradient, for {len(entries['default'])} networks at the default accuracy."
        )
    if "flow" in entries:
        both = [(e["cflows"], e["published"]) for e in entries["flow"]]
        ratios = [theirs["gradients"] / ours["gradients"] for ours, theirs in both]
        nearer = all(ours["distance"] < theirs["distance"] for ours, theirs in both)
        lines.append(
            f"The **published algorithm**, as it reads, costs {between(ratios, 3)} times as much on the same network"
            + (" and ends farther from a precise solution." if nearer else ".")
        )
    if "sdcp" in entries:
        ratios = [e["cvxpy median"] / e["cflows median"] for e in entries["sdcp"]]
        lines.append(
            f"The **complementarity problem** of a step takes CVXPY {between(ratios)} times as long as `cflows`."
        )
    if large := [e for e in entries.get("scale", []) if e["products"]]:
        lines.append(
            f"A **stationary preconditioner** of {large[0]['n']:,} weights takes {seconds(large[0]['time'])} on one "
            "thread, with a certificate."
        )
    if "gauge" in entries:
        more = {
            name: [e["rows"][name]["seconds"] / e["rows"]["none"]["seconds"] - 1 for e in entries["gauge"]]
            for name in ("gradients", "eigenvalues")
        }
        free, exact = (f"{min(x):.2g} % to {max(x):.2g} %" for x in more.values())
        lines.append(
            f"With a report of the **gauge** at every hundredth step training takes {free} longer if it compares "
            f"gradients, and {exact} longer with eigenvalues, by size."
        )
    if gpu:
        units = [x["unit"] for x in gpu["networks"].values()]
        lines.append(
            f"On a **GPU** a step of the flow takes {seconds(min(units))} to {seconds(max(units))} for networks "
            "of the book's size."
        )
    return [f"- {line}" for line in lines]


def page(results: dict[str, dict], remarks: str = "", gpu: dict | None = None, run: xr.DataTree | None = None) -> str:
    """The page, in MyST."""
    entries = {
        name: [e["extra_info"] | {"test": e["name"], "time": e["stats"]["median"]} for e in results[name]["benchmarks"]]
        for name in TITLES
        if name in results
    }
    lines = [
        "(benchmarks)=",
        "# Benchmarks",
        "",
        "What does it cost to follow a central flow, to solve for a preconditioner, or to watch a run? And how far off "
        "is the result?",
        "",
    ]
    if not results:
        return "\n".join([*lines, "This copy holds no measurements yet: `make bench` makes them.", ""])
    lines += [*answers(entries, gpu), "", "The tables below say for what problems, and what is measured.", ""]
    for name, found in entries.items():
        lines += [*SECTIONS[name](found), ""]
    lines += on_gpu(gpu, run) if gpu else []
    lines += [
        "## How it was measured",
        "",
        "`make bench` measures all of it again but for the GPU. Compare times within a table; on another machine all "
        "of them differ.",
        "",
        *([remarks, ""] if remarks else []),
        *origins({name: results[name] for name in entries}),
    ]
    return "\n".join(lines) + "\n"


def write(results: Path, folder: Path) -> None:
    """Write `benchmarks.md` into a folder, from pytest-benchmark's files in another."""
    found = {p.stem: json.loads(p.read_text()) for p in sorted(results.glob("*.json"))}
    remarks, run, gpu = results / "remarks.md", results / "gpu.nc", found.pop("gpu", None)
    text = remarks.read_text() if remarks.exists() else ""
    curves = files.load(run, sealed=True) if run.exists() else None
    (folder / "benchmarks.md").write_text(page(found, text, gpu, curves))
