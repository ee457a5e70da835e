"""The laboratory's engine, in V8, beside `simulate`: units of the central flow's time in a second, and errors.

    make bench BENCH=laboratory

The first units of the central flow, alone, of runs of the laboratory's menu. Errors are those of the predicted loss
against the library's at tight accuracy (tests/laboratory.json), the mean over the recorded steps.
"""

import json
import time

import laboratory
import numpy as np
import pytest

UNITS = 200
FLOW = """(() => {
  const flow = lab.processes.central.clone(), opt = lab.optimizer(), begin = Date.now(), predicted = []
  for (let i = 0; i <= UNITS; i++) {
    const seen = flow.observe(opt)
    predicted.push(seen.predicted)
    flow.step(opt, seen)
  }
  return [Date.now() - begin, predicted]
})()""".replace("UNITS", str(UNITS))


def measure(name):
    known = json.loads(laboratory.REFERENCES.read_text())[name]["central"]["predicted_loss"]
    known = np.array(known[: UNITS // laboratory.EVERY + 1], dtype=float)

    def error(predicted):
        return float(np.nanmean(abs(np.asarray(predicted)[:: laboratory.EVERY] - known)) / np.nanmean(abs(known)))

    laboratory.run(laboratory.MENU[name], 30)  # V8 compiles what is often asked for
    laboratory.run(laboratory.MENU[name], 0)
    milliseconds, predicted = laboratory.ask(FLOW)
    weights = laboratory.ask("lab.f.dim")
    begin = time.perf_counter()
    tree = laboratory.reference(laboratory.MENU[name].replace("penalty=off", ""), ("central",), UNITS)
    elapsed = time.perf_counter() - begin
    rows = {
        "engine": {"units": UNITS / max(milliseconds, 1) * 1e3, "error": error(predicted)},
        "cflows": {"units": UNITS / elapsed, "error": error(tree["central"]["predicted_loss"].values)},
    }
    return {"run": laboratory.MENU[name], "weights": weights, "rows": rows}


@pytest.mark.parametrize("name", ["wave", "corner", "adam-light", "scalar", "gd", "valley", "bowl"])
def test_laboratory(benchmark, name):
    benchmark.extra_info |= benchmark.pedantic(measure, (name,), rounds=1)
