"""What a GPU makes of it: tests, seconds a unit of time on five networks, and a run of the size of the paper's.

    python benchmarks/gpu.py FOLDER [--minutes 10] [--lr 1e-4] [--steps 1000]

The run stops when its time is over, and goes on from its checkpoint when the same is called again. All results are
written to the folder. TF32 is off: that is PyTorch's default for products of matrices, not for convolutions.
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
from bench_default import central, start
from networks import NETWORKS

from cflows import RMSProp, experiments, store

torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False
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
    """The run, what time is left for; and its convex programs."""
    e = experiments.get(
        "rmsprop-resnet", "paper", lr=lr, steps=steps, branch_step=steps * 7 // 10, snapshot_every=steps // 10,
        replay_from=(steps // 2, steps * 8 // 10),
    )  # fmt: skip

    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(max(int(seconds), 1))
    try:
        begin = time.monotonic()
        experiments.compute(e)
        print(f"run: {time.monotonic() - begin:.0f} s", flush=True)
        experiments.solve_convex_programs(e)
        print(f"and its programs: {time.monotonic() - begin:.0f} s", flush=True)
    except KeyboardInterrupt:
        print("the time is over; call it again to go on", flush=True)
    signal.alarm(0)
    for path in (e.path, e.convex_programs_path):
        if path.exists():
            store.put(path, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--skip-table", action="store_true")
    begin, chosen = time.monotonic(), parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("CFLOWS_CACHE", str(chosen.folder / "cache"))
    print(store.hardware(), torch.__version__, flush=True)
    code = 0
    if not chosen.skip_table:
        tests = Path(__file__).parents[1] / "tests/test_device.py"
        code = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", str(tests)]).returncode
        print(f"tests: {time.monotonic() - begin:.0f} s", flush=True)
        (chosen.folder / "gpu.json").write_text(
            json.dumps({"hardware": store.hardware(), "networks": table()}, indent=1)
        )
        print(f"table: {time.monotonic() - begin:.0f} s", flush=True)
    if chosen.steps:
        paper(chosen.lr, chosen.steps, chosen.folder, 60 * chosen.minutes - (time.monotonic() - begin))
    return code


if __name__ == "__main__":
    sys.exit(main())
