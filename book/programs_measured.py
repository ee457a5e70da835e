"""Sections of the benchmarks page on convex programs and complementarity problems."""

from __future__ import annotations

from collections.abc import Sequence

from tables import seconds, small, table, title


def program(lr: str) -> str:
    return "P̂" if lr == "inf" else "P̄"


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


def sdcp(entries: Sequence[dict]) -> list[str]:
    rows = [
        [
            str(e["k"]),
            "all stay at 2" if e["locked"] else "some leave",
            f"{1e6 * e['cflows median']:.0f}\N{NO-BREAK SPACE}µs",
            f"{1e3 * e['cvxpy median']:.1f}\N{NO-BREAK SPACE}ms",
            f"{e['cvxpy median'] / e['cflows median']:.3g}",
            small(e["cflows residual"]),
            small(e["cvxpy residual"]),
        ]
        for e in entries
    ]
    return [
        *title("sdcp"),
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
        *title("network"),
        f"A ResNet ({entries[0]['weights']:,} weights, single precision), at the last "
        "snapshot of the central flow of three learning rates. *Products* with the Hessian include those of the "
        "certificate. "
        "*Warm*: from the oscillation of the central flow (P̂: from the solution for P̄).",
        "",
        *table(["η", "program", "products", "time", "gap", "rank"], rows),
    ]


def stationary(entries: Sequence[dict]) -> list[str]:
    (agreement,) = (e for e in entries if "programs" in e)
    return [
        *title("stationary"),
        f"{agreement['programs']} random programs of up to 60 weights, with and without the second term: the "
        f"objectives differ by at most {agreement['objective']:.1e}, relatively, the solutions by at "
        f"most {agreement['p']:.1e} of their largest entry. There CVXPY's solver is CLARABEL, with tolerances of 1e-9.",
        "",
        "Dense random Hessians, double precision. CVXPY's times are those of `solve` at each solver's own tolerances, "
        "for the primal and the dual program; *ratio* is to `cflows`.",
        "",
        *table(
            ["weights", "program", "method", "time", "ratio", "accuracy"],
            dense([e for e in entries if "programs" not in e]),
        ),
    ]


def scale(entries: Sequence[dict]) -> list[str]:
    rows = [
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
        for e in entries
    ]
    return [
        *title("scale"),
        "A dense matrix; and a million weights with a Hessian that is a diagonal plus one of rank 20, known by its "
        "products alone. Double precision; memory is the peak of the whole process.",
        "",
        *table(["weights", "program", "Hessian", "time", "peak memory", "gap", "products", "rank"], rows),
    ]
