"""The benchmarks page, from what `make bench` has measured and left in `benchmarks/results`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def seconds(x: float) -> str:
    return f"{1e3 * x:.0f} ms" if x < 1 else f"{x:.1f} s" if x < 100 else f"{x / 60:.1f} min"


def program(lr: str) -> str:
    return "P̂" if lr == "inf" else "P̄"


def origin(result: dict) -> str:
    machine = result["machine_info"]
    return (
        f"*Measured on {result['datetime'][:10]}: {machine['cpu']['brand_raw']}, threads used: {machine['threads']}, "
        f"Python {machine['python_version']}.*"
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
        error = e.get("gap", e.get("objective"))
        quality = "none" if error != error else f"{'gap' if 'gap' in e else 'off by'} {error:.0e}"
        ended = f", {e['status']}" if e.get("status", "optimal") != "optimal" else ""
        ratio = e["time"] / ours[e["n"], e["lr"]]
        names = [str(e["n"]), program(e["lr"]), method(e["test"])]
        rows.append([*names, seconds(e["time"]), f"{ratio:.3g}", quality + ended])
    return rows


def page(results: dict[str, dict]) -> str:
    lines = [
        "(benchmarks)=",
        "# Benchmarks",
        "",
        "What `make bench` measures: times and errors, each table with the machine that it comes from. Compare times "
        "within a table; on another machine all of them differ.",
        "",
    ]
    if not results:
        lines += ["This copy holds no measurements yet: `make bench` makes them.", ""]
    entries = {
        name: [e["extra_info"] | {"test": e["name"], "time": e["stats"]["median"]} for e in result["benchmarks"]]
        for name, result in results.items()
    }
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
                        f"{e['gap']:.0e}",
                        f"{e['products']:,}",
                        str(e["rank"]),
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
    (folder / "benchmarks.md").write_text(page(found))
