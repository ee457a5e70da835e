"""Where training meets its edge of stability: how long an optimizer takes to settle, and at which learning rates."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from .eigen import COLD_PAIRS
from .errors import ConvergenceError, DivergenceError
from .objective import Objective
from .optimizers import Optimizer
from .processes import PROCESSES, Settings
from .torch_optim import Start

SETTLED = 1.05  # largest eigenvalue of P⁻¹H, over the threshold, at which a flow can start
AT_EDGE = 0.99  # the same, from which the optimizer is at its edge
LOOKS_IN_A_ROW = 3
LONGEST_BURN_IN = 2000
EIG_TOL = 1e-2
FACTOR = 2.0  # between two learning rates that are tried
MOST_TRIED = 16
MIN_FALL = 0.9  # of the loss, over the largest of all learning rates that were tried


def ratios(f: Objective, opt: Optimizer, steps: int, start: Start | None = None) -> Iterator[tuple[int, float, float]]:
    """Follow an optimizer and look at the largest eigenvalue of P⁻¹H now and then.

    Parameters
    ----------
    f : Objective
    opt : Optimizer
    steps : int
        When to stop.
    start : Start, optional
        As of `simulate`.

    Yields
    ------
    step : int
        Steps taken so far. Looks are five steps apart at first, then a fifth of those taken.
    ratio : float
        The eigenvalue over the threshold, at the midpoint of three steps; infinite if the optimizer diverges, which
        ends it.
    loss : float
        There.
    """
    settings = Settings(f, opt, min(COLD_PAIRS, f.dim), EIG_TOL, torch.empty(0, dtype=torch.int64))
    optimizer, midpoint = PROCESSES["discrete"](settings, 0), PROCESSES["midpoint"](settings, 1)
    begin = (start or Start(f.w0)).fitted(opt, f.w0)
    state: Any = optimizer.start(begin.w, begin.nu, begin.taken + 1, begin.m)
    middle: Any = midpoint.start(begin.w, begin.nu, begin.taken + 1)
    due = 5
    for i in range(steps + 1):
        try:
            seen = optimizer.observe(state, i, {})
            if i in (due, steps):
                found = midpoint.observe(middle, i, {"discrete": seen})
                middle, due = found.state, i + max(5, i // 5)
                yield i, found.row["eigenvalues"][0] / opt.threshold, found.loss
        except DivergenceError:
            yield i, math.inf, math.inf
            return
        state = optimizer.step(seen)


def settling_time(
    f: Objective,
    opt: Optimizer,
    longest: int = LONGEST_BURN_IN,
    progress: bool = True,
    start: Start | None = None,
) -> int:
    """Steps that an optimizer takes until it is stable, or at its edge, and no longer beyond.

    That is when the largest eigenvalue of P⁻¹H, at midpoints, has been within 5 % of the threshold, or below, at three
    looks in a row, with a loss not above that at the start. ``simulate(burn_in="auto")`` starts there.

    Parameters
    ----------
    f : Objective
    opt : Optimizer
    longest : int
        Steps after which to give up.
    progress : bool
        Show a progress bar.
    start : Start, optional
        As of `simulate`.

    Returns
    -------
    int

    Raises
    ------
    ConvergenceError
        If it does not settle.
    """
    row, lowest, first = 0, (math.inf, 0), float(f.value_and_grad(f.w0 if start is None else start.w.to(f.w0))[0])
    bar = tqdm(desc="burn-in", unit="step", disable=not progress, mininterval=0.5 if sys.stderr.isatty() else 30.0)
    with bar:
        for i, ratio, loss in ratios(f, opt, longest, start):
            bar.set_postfix_str(f"λ {ratio * opt.threshold:.3g}, threshold {opt.threshold:.3g}", refresh=False)
            bar.update(i - bar.n)
            row, lowest = row + 1 if ratio <= SETTLED and loss <= first else 0, min(lowest, (ratio, i))
            if row == LOOKS_IN_A_ROW:
                return i
    raise ConvergenceError(
        f"the optimizer does not settle: after {i} steps the largest eigenvalue of P⁻¹H is "
        f"{ratio * opt.threshold:.3g}, the threshold {opt.threshold:.3g} (lowest: {lowest[0] * opt.threshold:.3g}, "
        f"after {lowest[1]}), the loss {loss:.3g} (at the start {first:.3g}); use a smaller learning "
        "rate (cflows.suggest_lr finds one), or a loss that is smooth"
    )


@dataclass(frozen=True)
class Tried:
    """What a learning rate led to.

    Attributes
    ----------
    edge : float
        Steps after which the optimizer was first at its edge, other than on its way down from beyond; infinite if it
        did not get there, NaN if it had not settled (`settling_time`) after a quarter of the steps.
    loss : float
        At the midpoint after a quarter of them.
    """

    edge: float
    loss: float


@dataclass(frozen=True)
class LearningRates:
    """Learning rates by when the optimizer comes to its edge; ``print`` says it in words.

    Attributes
    ----------
    early : float
        Smallest of those tried that brings it there within half of the steps; NaN if none does.
    largest : float
        Largest that lets it settle within a quarter of them, where the loss has fallen by no less than nine tenths of
        the most that it has with any. Beyond, no flow can start. NaN if none does.
    never : float
        Largest that leaves it below the edge for all of them; NaN if none does.
    steps : int
        How many steps that are.
    tried : dict
        From learning rate to `Tried`.
    """

    early: float
    largest: float
    never: float
    steps: int
    tried: dict[float, Tried]

    def __str__(self) -> str:
        names = {math.inf: "below the edge"}
        early = "none" if math.isnan(self.early) else f"lr {self.early:.2g} to {self.largest:.2g}"
        never = "none" if math.isnan(self.never) else f"lr up to {self.never:.2g}"
        lines = [f"edge in the first half of {self.steps} steps: {early}; not at all: {never}"]
        for lr, found in sorted(self.tried.items()):
            where = "beyond the edge" if math.isnan(found.edge) else names.get(found.edge, f"edge at step {found.edge}")
            lines.append(f"  lr {lr:.2g}: {where}, loss {found.loss:.3g} after a quarter")
        return "\n".join(lines)


def suggest_lr(f: Objective, opt: Optimizer, steps: int = 300, progress: bool = True) -> LearningRates:
    """Find the learning rates at which an optimizer comes to its edge of stability early, and not at all.

    It tries learning rates that are a factor of 2 apart, each for so many plain steps, with up to twenty eigenvalue
    problems on the way, and ends each as soon as its answer is known.

    Parameters
    ----------
    f : Objective
    opt : Optimizer
        Its learning rate is the first to be tried.
    steps : int
        How long a run is meant to be, at least 60.
    progress : bool
        Show what is being tried.

    Returns
    -------
    LearningRates

    Raises
    ------
    TypeError
        If the learning rate is a schedule.
    ValueError
        If there are too few steps.

    Examples
    --------
    >>> import torch
    >>> from cflows import GradientDescent, Objective, suggest_lr
    >>> f = Objective(lambda w: 1 + (w * w).sum() / 2, torch.ones(1, dtype=torch.float64))  # sharpness 1
    >>> print(suggest_lr(f, GradientDescent(0.7), progress=False))
    edge in the first half of 300 steps: none; not at all: lr up to 1.4
      lr 0.7: below the edge, loss 1 after a quarter
      lr 1.4: below the edge, loss 1 after a quarter
      lr 2.8: beyond the edge, loss 1.03e+42 after a quarter
    """
    if callable(opt.lr):
        raise TypeError("the learning rate is a schedule; give a number to start the search from")
    if steps < 60:
        raise ValueError(f"steps is {steps}; give the length that a run shall have, at least 60")
    first, tried, initial = float(opt.lr), dict[float, Tried](), float(f.value_and_grad(f.w0)[0])

    with tqdm(desc="learning rates", unit="run", disable=not progress) as bar:

        def edge(k: int) -> float:
            lr = first * FACTOR**k
            if lr not in tried:
                bar.set_postfix_str(f"lr {lr:.2g}")
                tried[lr] = _tried(f, replace(opt, lr=lr), steps)
                bar.update()
            return tried[lr].edge

        def trains(k: int) -> bool:
            settled = not math.isnan(edge(k))
            most = initial - min(x.loss for x in tried.values())
            return settled and initial - tried[first * FACTOR**k].loss >= MIN_FALL * most

        top = max(itertools.takewhile(trains, range(MOST_TRIED)), default=None)
        if top is None:
            top = next((k for k in range(-1, -MOST_TRIED, -1) if trains(k)), None)
        if top is not None:
            next((k for k in range(top, top - MOST_TRIED, -1) if edge(k) == math.inf), None)
    largest = math.nan if top is None else first * FACTOR**top
    edges = {lr: found.edge for lr, found in tried.items() if lr <= largest}
    return LearningRates(
        early=min((lr for lr, edge in edges.items() if edge <= steps / 2), default=math.nan),
        largest=largest,
        never=max((lr for lr, edge in edges.items() if edge == math.inf), default=math.nan),
        steps=steps,
        tried=tried,
    )


def _tried(f: Objective, opt: Optimizer, steps: int) -> Tried:
    row, settled, edge, loss = 0, False, math.inf, math.inf
    for i, ratio, value in ratios(f, opt, steps):
        row = row + 1 if ratio <= SETTLED else 0
        settled = settled or row == LOOKS_IN_A_ROW
        if row == 0 and not settled:
            edge = math.inf  # beyond it, so far
        elif ratio >= AT_EDGE:
            edge = min(edge, i)
        loss = value if i <= steps / 4 else loss
        if i >= steps / 4 and not settled:
            return Tried(math.nan, value)
        if i >= steps / 4 and edge < math.inf:
            break
    return Tried(edge if settled else math.nan, loss)
