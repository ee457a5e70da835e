"""The laboratory's engine in V8, its menu, and the same runs by the library.

python tests/laboratory.py     writes the library's runs, at tight accuracy, into tests/laboratory.json (some minutes)
"""

from __future__ import annotations

import json
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from py_mini_racer import MiniRacer

import cflows

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "book/laboratory"
REFERENCES = Path(__file__).with_suffix(".json")
sys.path.insert(0, str(ROOT / "book/_ext"))
import live  # noqa: E402

#: Runs of the menu, as they stand in an address: each loss and each optimizer, both widths, a change on the way.
MENU = {
    "wave": "steps=400&penalty=off",
    "wave-slower": "lr=0.001&steps=240",
    "wave-change": "steps=240&changes=120:lr:0.0015",
    "bump": "loss=bump&seed=1&steps=240&penalty=off",
    "corner": "loss=corner&width=8&lr=0.005&steps=240&penalty=off",
    "step": "loss=step&seed=2&width=8&steps=240&penalty=off",
    "memory": "beta2=0.9&width=8&seed=1&steps=240",
    "adam": "optimizer=adam&lr=0.01&steps=160&penalty=off",
    "adam-light": "optimizer=adam&beta1=0.5&lr=0.01&loss=corner&width=8&steps=200&penalty=off",
    "scalar": "optimizer=scalar&lr=0.03&steps=240&penalty=off",
    "gd": "optimizer=gd&lr=0.1&steps=320",
    "valley": "loss=valley&optimizer=gd&lr=0.2&steps=480",
    "valley-rmsprop": "loss=valley&lr=0.02&steps=320",
    "bowl": "loss=bowl&lr=0.05&steps=320",
}
EVERY = 4  # steps between two that are kept
FLOWS = ("stable", "central", "ablated")
TIGHT = {"accuracy": 5e-5, "substeps": 8}
TIGHT_LEAPFROG = 8.0  # `cflows.leapfrog.STEPS`, which no argument sets: with momentum the stable flow takes as many


@cache
def engine() -> MiniRacer:
    """The engine, and the page's ways with addresses, in V8."""
    v8 = MiniRacer()
    v8.eval(f"const engine = {live.bundle(FOLDER / 'engine/laboratory.js')}")
    v8.eval(f"const sdcp = {live.bundle(FOLDER / 'engine/sdcp.js')}")
    v8.eval(f"const page = {live.bundle(FOLDER / 'page/address.js')}")
    v8.eval(f"const data = {json.dumps(live.data())}; let lab")
    v8.eval("class URLSearchParams extends Map { constructor(t) { super(t.split('&').map((x) => x.split('='))) } }")
    return v8


def ask(expression: str):
    """Its value, by way of JSON."""
    return json.loads(engine().eval(f"JSON.stringify({expression}) ?? 'null'"))


def run(address: str, steps: int | None = None) -> list[dict]:
    """The rows of a run by the engine."""
    settings = f"page.read({json.dumps(address)}, data)"
    steps = ask(f"{settings}.steps") if steps is None else steps
    engine().eval(f"lab = new engine.Laboratory(page.forEngine({settings}), data)")
    engine().eval(f"while (lab.step < {steps} && lab.advance());")
    return ask("lab.rows")


def lines(address: str, steps: int | None = None) -> str:
    """The lines of Python that the page offers."""
    more = "" if steps is None else f", steps: {steps}"
    return ask(f"page.python({{...page.read({json.dumps(address)}, data){more}}}, data)")


def reference(address: str, processes=("discrete", "stable", "central"), steps: int | None = None, **options):
    """The same run by the library: the page's lines up to the objective and the optimizer, then `simulate`."""
    names: dict = {}
    text = lines(address, steps)
    exec(text[: text.index("tree = ")], names)
    steps = ask(f"page.read({json.dumps(address)}, data).steps") if steps is None else steps
    ablated = ("ablated",) if '"ablated"' in text and "central" in processes else ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = {"discrete": 0, "midpoint": 10}
        return cflows.simulate(
            names["f"], names["opt"], steps + 1, (*processes, *ablated), eig_every=every, progress=False, **options
        )


def kept(tree) -> dict[str, dict[str, list]]:
    """What is compared of a run by the library, at every fourth step."""
    found: dict[str, dict[str, list]] = {}
    for name in set(FLOWS) & set(tree.children):
        node = tree[name].isel(step=slice(None, None, EVERY))
        found[name] = {v: rounded(node[v].values) for v in ("loss", "predicted_loss", "nu_sum")}
        found[name]["variances"] = rounded(node["variances"].values[:, :3])
    return found


def rounded(x):
    if np.ndim(x):
        return [rounded(row) for row in x]
    return float(f"{x:.6g}") if np.isfinite(x) else None


if __name__ == "__main__":
    references = json.loads(REFERENCES.read_text()) if REFERENCES.exists() else {}
    cflows.leapfrog.STEPS = TIGHT_LEAPFROG
    for name in sys.argv[1:] or MENU:
        references[name] = kept(reference(MENU[name], **TIGHT))
        REFERENCES.write_text(
            json.dumps(references, separators=(",", ":"), sort_keys=True).replace('},"', '},\n"') + "\n"
        )
        print(name, flush=True)
