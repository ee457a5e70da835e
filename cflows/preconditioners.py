"""The preconditioners of a run beside those that the convex programs give, and how fast each lets the loss fall."""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from . import stationary
from ._options import read
from .eigen import sharpness
from .momentum import NAdam
from .objective import Objective
from .optimizers import Optimizer, RMSProp, ScalarRMSProp


def along(f: Objective, opt: Optimizer, tree: xr.DataTree, tol: float | None = None) -> xr.Dataset:
    """Solve both convex programs at the snapshots of the central flow: equations :eq:`eq-program`, :eq:`eq-first-term`.

    Parameters
    ----------
    f : Objective
        That of the run.
    opt : RMSProp, Adam or AdamW
        That of the run.
    tree : xarray.DataTree
        Result of `simulate` with process "central" and ``snapshot_every``.
    tol : float, optional
        Relative duality gap, as of `stationary.solve`.

    Returns
    -------
    xarray.Dataset
        Over ``step`` (the snapshots):

        - ``speed`` ‖g‖²_{P⁻¹}, the fall of the loss in a step, by ``preconditioner``: "rmsprop", the flow's own;
          "stationary", P̄; "first-term", P̂; "gradient-descent", ½ S I, with S = ``sharpness``. With momentum, whose
          threshold is θ, that of (θ/2) P for each, in (θ/2) steps.
        - ``cosine`` and ``log_correlation`` of the flow's ν (bias-corrected) with ν̄; ``log_correlation_past``: with
          an exponential average of past ν̄ (decay β₂).
        - ``gap``, ``products``, ``rank``, ``seconds`` of each ``program``.
        - ``nu``, ``nu_stationary`` at the recorded weights (``coord``).

        For the last snapshot ``nu_all`` and ``nu_stationary_all`` (``weight``).

    Raises
    ------
    ValueError
        If the run has no snapshots of the central flow, or its optimizer is another.

    Warns
    -----
    UserWarning
        Where a convex program was not solved as well as asked for; its ``gap`` says how well.
    """
    if "snapshots" not in tree or "central" not in tree["snapshots"]:
        raise ValueError('the run holds no snapshots of the central flow; simulate with "central" and snapshot_every')
    if isinstance(opt, (ScalarRMSProp, NAdam)) or not isinstance(opt, RMSProp):
        raise ValueError(f"opt is {type(opt).__name__}; the convex programs are those of RMSProp and Adam")
    taken = tree["snapshots/central"].to_dataset()
    if taken["weights"].isnull().any():
        raise ValueError(
            "the run was stored without the weights of its snapshots; set CFLOWS_STORED= to compute it anew"
        )
    first = read(tree)[0].first
    recorded = tree["central"].to_dataset().coords
    coords = np.array(recorded.get("coord", []), dtype=int)
    rows: list[dict] = []
    lagging, guess = None, None
    for i in tqdm(range(taken.sizes["step"]), desc="convex programs", leave=False):
        at = {name: torch.tensor(x.values).to(f.w0) for name, x in taken.isel(step=i).data_vars.items()}
        t = int(taken["step"][i]) + first
        lr = opt.learning_rate(t) * (2 / opt.threshold)  # the programs are those of a threshold of 2
        p = opt.preconditioner(at["nu"], t) * (opt.threshold / 2)
        _, g, hvp = f.linearize(at["weights"])
        start = 2 / lr * at["factor"]
        start = start[:, start.any(0)]
        critical = start.numel() > 0
        begin = time.perf_counter()
        bar = stationary.solve(hvp, g, lr, start=start if critical else None, tol=tol, throw=False)
        middle = time.perf_counter()
        near = bar.factor if critical else None  # without oscillation the one says little about the other
        hat = stationary.solve(hvp, g, math.inf, start=near, tol=tol, throw=False)
        seconds = [middle - begin, time.perf_counter() - middle]
        top, guess = sharpness(hvp, f.w0, guess)
        solved = bar, hat
        for s in solved:
            if not s.converged:
                warnings.warn(f"at step {int(taken['step'][i])}, gap {s.gap:.2g}: {s.message}", stacklevel=2)
        nu, nu_bar = (x.double().cpu() for x in (opt.corrected(at["nu"], t), (lr * bar.p).square()))
        if lagging is None:
            lagging = nu  # what ν would be had it followed ν̄ from the first snapshot on
        else:
            share = opt.beta2 ** float(taken["step"][i] - taken["step"][i - 1])
            lagging = share * lagging + (1 - share) * (nu_bar + rows[-1]["all"][1]) / 2
        rows.append(
            {
                "all": (nu, nu_bar),
                "speed": [*(float((g.square() / x).sum()) for x in (p, bar.p, hat.p, top / 2))],
                "sharpness": top,
                "cosine": float(nu @ nu_bar / nu.norm() / nu_bar.norm()),
                "log_correlation": _log_correlation(nu, nu_bar),
                "log_correlation_past": _log_correlation(nu, lagging),
                "gap": [s.gap for s in solved],
                "products": [s.hvps for s in solved],
                "rank": [s.factor.shape[1] for s in solved],
                "seconds": seconds,
                "nu": nu[coords],
                "nu_stationary": nu_bar[coords],
            }
        )
    dims = {"speed": "preconditioner", "nu": "coord", "nu_stationary": "coord"}
    dims |= dict.fromkeys(["gap", "products", "rank", "seconds"], "program")
    variables = {name: (("step", dims[name]) if name in dims else "step", np.array([row[name] for row in rows]))
                 for name in rows[0] if name != "all"}  # fmt: skip
    for name, x in zip(("nu_all", "nu_stationary_all"), rows[-1]["all"], strict=True):
        variables[name] = ("weight", x.float().numpy())
    names = {
        "step": taken["step"].values,
        "coord": coords,
        "program": ["stationary", "first-term"],
        "preconditioner": ["rmsprop", "stationary", "first-term", "gradient-descent"],
    }
    return xr.Dataset(variables, names)


def _log_correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    both = (x > 0) & (y > 0)
    return float(np.corrcoef(x[both].log(), y[both].log())[0, 1])
