"""What a GPU makes of it: tests, seconds a unit of time on five networks, a run of the paper's size, and the survey.

    python benchmarks/gpu.py FOLDER [--minutes 10] [--lr 1e-4] [--steps 800] [--survey]

Run and survey stop when their time is over, and go on where they were when the same is called again. All results are
written to the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
import xarray as xr
from bench_default import central, start
from networks import NETWORKS

from cflows import RMSProp, experiments, files, store, survey

UNITS = 30


def timed(work, times: int) -> float:
    """Seconds that it takes, device and all."""
    work()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / times


def waits(work) -> int:
    """How often the processor waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(w.message) for w in caught)


def derivatives(f, w) -> dict[str, float]:
    """Seconds of a gradient and of a product, and GiB that they take."""
    torch.cuda.reset_peak_memory_stats()
    hvp, V = f.linearize(w)[2], torch.randn(f.dim, 4, dtype=w.dtype, device=w.device)
    seconds = {"gradient": timed(lambda: f.value_and_grad(w), 20), "product": timed(lambda: hvp(V), 5) / 4}
    return {"weights": f.dim, **seconds, "memory": torch.cuda.max_memory_allocated() / 2**30}


def unit(f, opt, begin) -> dict[str, float]:
    """Seconds of a unit of the central flow from a state at the edge, and how often it waits."""
    w, nu, t = begin
    flow = central(f, opt)
    state = flow.state_type(w, nu, t)

    def follow(units: int) -> None:
        nonlocal state
        for i in range(units):
            state = flow.step(flow.observe(state, i, {}))

    follow(5)
    return {"unit": timed(lambda: follow(UNITS), 1) / UNITS, "waits": waits(lambda: follow(UNITS)) / UNITS}


def table() -> dict[str, dict[str, float]]:
    rows = {}
    for name, network in NETWORKS.items():
        f, opt = network.objective(), RMSProp(network.lr, 0.99, eps=1e-8, bias_correction=True)
        begin = start(network, f, opt)
        rows[name] = derivatives(f, begin[0]) | unit(f, opt, begin)
        print(name, rows[name], flush=True)
    f = experiments.get("rmsprop-resnet", "paper").objective()
    rows["the paper's ResNet"] = derivatives(f, f.w0)
    print(rows["the paper's ResNet"], flush=True)
    return rows


def paper(lr: float, steps: int, folder: Path, seconds: float) -> None:
    """A run of the size of the paper's, and its convex programs, in the time that is left; its curves are kept."""
    e = experiments.get(
        "rmsprop-resnet", "paper", lr=lr, burn_in=50, steps=steps, branch_step=0, replay_steps=0, replay_from=(),
        snapshot_every=steps // 8, processes=("discrete", "midpoint", "stable", "central", "ablated"),
        eig_every={"midpoint": 20},
    )  # fmt: skip

    begin = time.monotonic()
    try:
        limit(seconds)
        tree = experiments.compute(e)
        print(f"run: {time.monotonic() - begin:.0f} s", flush=True)
        files.save(folder / f"{e.path.stem}.curves.nc", curves(tree))
        solved = experiments.solve_convex_programs(e).drop_vars(["nu_all", "nu_stationary_all"])
        files.save(folder / f"{e.path.stem}.programs.nc", xr.DataTree(solved))
        print(f"and its programs: {time.monotonic() - begin:.0f} s", flush=True)
    except KeyboardInterrupt:
        print("the time is over; call it again to go on", flush=True)
        if e.path.with_suffix(".ckpt").exists():
            files.save(folder / f"{e.path.stem}.unfinished.nc", curves(files.load(e.path.with_suffix(".ckpt"))))
    signal.alarm(0)


def limit(seconds: float) -> None:
    """Interrupt what comes next once the time is over."""

    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(max(int(seconds), 1))


def surveyed(folder: Path, seconds: float) -> None:
    """The survey, in the time that is left."""
    try:
        limit(seconds)
        files.save(folder / survey.path().name, xr.DataTree(survey.table()))
    except KeyboardInterrupt:
        print("the time is over; call it again to go on", flush=True)
    signal.alarm(0)


def curves(tree: xr.DataTree) -> xr.DataTree:
    """A run without what it has for each weight."""
    kept = {n.path: n.to_dataset() for n in tree.subtree if not n.path.startswith(("/snapshots", "/state", "/now"))}
    found = xr.DataTree.from_dict({path: data.astype("float32") for path, data in kept.items() if data.data_vars})
    found.attrs = tree.attrs
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--survey", action="store_true")
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--skip-table", action="store_true")
    begin, chosen = time.monotonic(), parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("CFLOWS_CACHE", str(chosen.folder / "cache"))
    print(store.hardware(), torch.__version__, flush=True)
    code = 0
    if not chosen.skip_tests:
        tests = Path(__file__).parents[1] / "tests/test_device.py"
        code = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", str(tests)]).returncode
        print(f"tests: {time.monotonic() - begin:.0f} s", flush=True)
    if not chosen.skip_table:
        measured = {"hardware": store.hardware(), "torch": torch.__version__, "networks": table()}
        (chosen.folder / "gpu.json").write_text(json.dumps(measured, indent=1))
        print(f"table: {time.monotonic() - begin:.0f} s", flush=True)
    if chosen.steps:
        paper(chosen.lr, chosen.steps, chosen.folder, 60 * chosen.minutes - (time.monotonic() - begin))
    if chosen.survey:
        surveyed(chosen.folder, 60 * chosen.minutes - (time.monotonic() - begin))
    return code


if __name__ == "__main__":
    sys.exit(main())
