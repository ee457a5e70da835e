"""The processes that `simulate` runs side by side: the optimizer, its midpoints, and its flows.

Each holds a state, says what it sees there (`Process.observe`), and moves on by one step (`Process.advance`).
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import flows, stationary
from .differences import Reach, third_derivatives
from .eigen import Eigenpairs, top_eigenpairs
from .errors import DivergenceError
from .objective import HVP, Objective
from .optimizers import Optimizer

CRITICAL = 0.05  # eigenvalues above 2 - CRITICAL enter the complementarity problem
NEAR = 0.5  # eigenvalues above 2 - NEAR are followed at every step, and one below them is kept in sight
# The classical Runge-Kutta method: time and weight of each evaluation
STAGES = ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6))
TURNED = 0.1  # a critical eigenvector that has turned by more, as the square of a sine, is taken for a new one
LATE = 5 / 12  # mean of t (1 + t) / 2 from 0 to 1: the share of a bend in what it adds up to between equally late looks
LITTLE = 0.01  # share of ν beyond which a correction of it, which is of first order, is not trusted
BEND = 0.05  # where the second-order part of a step of the central flow is a larger share, its steps are shortened
#: Effective sharpness at which the stable flow, by then stiff and far away, is stopped.
STABLE_CAP = 8.0
#: Effective sharpness at which the central flow is stopped: a unit of time would take hundreds of steps.
CENTRAL_CAP = 1000.0
MAX_GRADIENTS = 30_000  # for third derivatives in a unit of time
ORDER = 0.5  # share by which the loss across the oscillation may differ from its leading order
LEFT = 0.01  # an eigenvalue that is so far above 2 has been left to itself for too long: steps are halved
FINEST = 16  # at most so often as many
MAX_BEND = 0.5  # a step with a larger second-order part is none
MAX_STEPS = 400  # in a unit of time
#: Effective sharpness beyond which what the central flow predicts is not to be trusted.
TRUSTED = 2.1

Record = dict[str, Any]  # numbers, and lists of numbers
Outputs = Callable[[Tensor], Tensor]  # weights (n,) -> (m,)


class Process(ABC):
    """State and bookkeeping that all processes share. ``t`` counts optimizer steps: the next one is the t-th.

    Parameters
    ----------
    f : Objective
    opt : Optimizer
    eigs : int
        Eigenvalues to look at when it is due, at least.
    eig_every : int
        Steps between two looks at them; 0: none.
    eig_tol : float
        Their residuals, relative to the largest.
    coords : int64 Tensor (c,)
        Weights whose squared gradient and ν are recorded.
    """

    w: Tensor
    nu: Tensor
    t: float
    pairs: Eigenpairs  # as of the last look

    def __init__(
        self,
        f: Objective,
        opt: Optimizer,
        eigs: int,
        eig_every: int,
        eig_tol: float,
        coords: Int[Tensor, "c"],
    ):
        self.f, self.opt, self.eigs, self.eig_tol, self.coords = f, opt, eigs, eig_tol, coords
        self.eig_every = eig_every
        self.guess: Tensor | None = None  # where the next eigenvalue problem starts
        self.near = 0  # eigenvalues above 2 - NEAR when last looked at
        self.sharpest: Tensor | None = None  # where the search for the sharpness starts

    def begin(self, w: Float[Tensor, "n"], nu: Tensor, t: int) -> None:
        """Start from weights w and the ν that the optimizer has before its t-th step."""
        self.w, self.nu, self.t = w, nu, t

    def state(self) -> dict[str, Any]:
        """All that the future depends on, before `observe` (by reference: states are replaced, never changed)."""
        return {name: getattr(self, name) for name in ("w", "nu", "t", "guess", "near", "sharpest", *self.extra)}

    extra: ClassVar[tuple[str, ...]] = ()  # further attributes that belong to the state
    # those of the state that only save time, or keep signs
    caches: ClassVar = {"guess", "sharpest", "axes", "critical", "modes", "looked", "X"}

    @abstractmethod
    def observe(self, i: int) -> Record:
        """What is recorded of step i."""

    @abstractmethod
    def advance(self) -> None:
        """Move on to the next step."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        for name, value in state.items():
            if name != "reach" or isinstance(value, tuple):  # runs of before have less of it
                setattr(self, name, value)

    def due(self, i: int) -> int:
        """How many eigenvalues are to be looked at in step i."""
        return self.eigs if self.eig_every > 0 and i % self.eig_every == 0 else 0

    def p(self) -> Float[Tensor, "n"]:
        """Diagonal of the preconditioner (n,) at the present state."""
        return self.opt.preconditioner(self.nu, self.t).expand_as(self.w)

    def absorb(self) -> None:  # noqa: B027
        """What the gradient at the present weights does to ν before a step: nothing, in a flow."""

    def look(self, eigs: int) -> Record:
        """Loss, gradient and some leading eigenpairs, if any, at the present state; they stay for the step."""
        if eigs:
            self.loss, self.g, hvp = self.f.linearize(self.w)
        else:
            self.loss, self.g = self.f.value_and_grad(self.w)
        if not (self.loss.isfinite() and self.g.isfinite().all()):
            what = "the gradient is not finite" if self.loss.isfinite() else f"the loss is {self.loss.item()}"
            raise DivergenceError(
                f"{what}; try a smaller learning rate, or look for log(0), 0/0 or overflow in the loss"
            )
        self.absorb()
        if not self.nu.isfinite().all():
            raise DivergenceError(
                f"ν is not finite: squares of gradients (up to {float(self.g.abs().max()):.2g}) overflow "
                f"{self.w.dtype}; scale the loss down, or use float64"
            )
        if not (self.p() > 0).all():
            zeros = int((self.p() <= 0).sum())
            raise DivergenceError(
                f"ν is exactly zero for {zeros} weights of {self.w.numel()}, so they have no step size (a unit that is "
                "never active, a token that does not occur, the key bias of an attention); set eps above 0, for "
                "example 1e-8 (in units of the gradient: far below it such weights take very long steps once they move)"
            )
        record: Record = {"loss": self.loss.item(), "predicted_loss": self.loss.item()}
        record["grad_norm_sq"] = self.g.double().square().sum().item()
        record["nu_sum"], record["p_sum"] = (x.double().sum().item() for x in (self.nu.expand_as(self.w), self.p()))
        if eigs:
            self.pairs = self.track(hvp, eigs)
            record["eigenvalues"] = self.pairs.values.tolist()
            record["eig_residual"] = max(self.pairs.residuals.tolist(), default=0.0)
        if len(self.coords):
            record["grad_sq"] = self.g[self.coords].square().tolist()
            record["nu"] = self.nu.expand_as(self.w)[self.coords].tolist()
        return record

    def snapshot(self) -> dict[str, Tensor]:
        """Arrays (n,) or (n, r) that were seen at the last look."""
        arrays = {"weights": self.w, "nu": self.nu.expand_as(self.w), "grad_sq": self.g.square()}
        return {name: array.cpu() for name, array in arrays.items()}

    def curvature(self) -> float:
        """Largest eigenvalue of H itself."""
        hvp = self.f.linearize(self.w)[2]
        found = top_eigenpairs(hvp, torch.ones_like(self.w), 1, self.sharpest, self.eig_tol)
        self.sharpest = found.start
        return float(found.values[0])

    grows: ClassVar = True  # whether all eigenvalues near 2 have to be known

    def track(self, hvp: HVP, k: int) -> Eigenpairs:
        """The k leading eigenpairs over the weights that move, or, for a flow, such that one is below 2 - NEAR."""
        moves = self.opt.moves(self.nu).expand_as(self.w)
        count = int(moves.sum())
        if count < self.f.dim:
            return _embedded(self._leading(_restricted(hvp, moves), moves, count, k), moves)
        return self._leading(hvp, None, count, k)

    def _leading(self, hvp: HVP, moves: Tensor | None, count: int, k: int) -> Eigenpairs:
        p, guess = self.p(), self.guess
        if moves is not None:
            p, guess = p[moves], None if guess is None else guess[moves]
        if count == 0:
            none, self.near = p.new_zeros(0, 0), 0
            return Eigenpairs(p.new_zeros(0), none, none, p.new_zeros(0), none, 0, True)
        k = min(k, count)
        while True:
            start = None if guess is None else guess[:, : k + 1]
            pairs = top_eigenpairs(hvp, p, k, start, self.eig_tol, loose_below=2 - NEAR)
            rest = p.new_empty(count, 0) if guess is None else guess[:, k + 1 :]
            guess = torch.cat([pairs.start, rest], dim=1)
            self.guess = guess if moves is None else _rows(guess, moves)
            self.near = int((pairs.values > 2 - NEAR).sum())
            if self.near < k or k == count or not self.grows:
                return pairs
            k += 1


def _restricted(hvp: HVP, moves: Tensor) -> HVP:
    """Products with the rows and columns of H that belong to some weights."""
    return lambda V: hvp(_rows(V, moves))[moves]


def _rows(V: Float[Tensor, "m k"], moves: Tensor) -> Float[Tensor, "n k"]:
    """Vectors over some weights as vectors over all."""
    W = V.new_zeros(len(moves), V.shape[1])
    W[moves] = V
    return W


def _embedded(pairs: Eigenpairs, moves: Tensor) -> Eigenpairs:
    """Eigenpairs over some weights as eigenpairs over all: those at rest have no part in them."""
    U, HU, spare = (_rows(V, moves) for V in (pairs.U, pairs.HU, pairs.spare))
    return replace(pairs, U=U, HU=HU, spare=spare)


class Discrete(Process):
    """The optimizer itself."""

    grows = False
    previous: Tensor | None = None
    extra: ClassVar[tuple[str, ...]] = ("previous",)

    def absorb(self) -> None:
        self.nu = self.opt.update(self.nu, self.g)

    def observe(self, i: int) -> Record:
        record = self.look(self.due(i))
        self.next = self.w - self.g / self.p()
        return record

    def advance(self) -> None:
        self.previous, self.w, self.t = self.w, self.next, self.t + 1


class Midpoint(Process):
    """Midpoints of the optimizer, (w₋ + 2w + w₊) / 4 of three steps, with the ν of the middle one; from step 1 on.

    Parameters
    ----------
    discrete : Discrete
        The optimizer, as it goes on.
    **options
        As of `Process`.
    """

    grows = False

    def __init__(self, discrete: Discrete, **options):
        super().__init__(discrete.f, discrete.opt, **options)
        self.discrete = discrete

    def observe(self, i: int) -> Record:
        d = self.discrete
        if d.previous is None:
            self.w = torch.full_like(d.w, math.nan)
            return {}
        self.w, self.nu, self.t = (d.previous + 2 * d.w + d.next) / 4, d.nu, d.t
        return self.look(self.due(i))

    def advance(self) -> None:
        pass


class Flow(Process):
    """A flow starts from the ν that the optimizer's next step uses."""

    def begin(self, w, nu, t):
        super().begin(w, self.opt.update(nu, self.f.value_and_grad(w)[1]), t)

    seen: tuple[float, float, float] | None = (
        None  # time of the last look, top eigenvalue, slope since the last but one
    )
    reach: tuple[float, float, int] = Reach()  # of differences for third derivatives
    dt = 1.0  # length of a step in units of time
    stopped = False
    doubt = ""  # from which step on the flow is not to be trusted, or there is none, and why
    next: flows.Step
    extra: ClassVar[tuple[str, ...]] = ("seen", "reach", "stopped", "doubt")

    def state(self) -> dict[str, Any]:
        """All that the future depends on."""
        return super().state() | {"reach": tuple(self.reach)}

    def step(self, critical: flows.Critical | None = None, modes: flows.Modes | None = None) -> None:
        """Compute the next step, of length dt."""
        self.next = flows.step(self.f, self.opt, self.w, self.nu, self.t, self.dt, self.g, critical, modes)
        if MAX_BEND < self.next.bend < math.inf and self.dt * MAX_STEPS <= 1:
            raise flows.EndedError(
                f"the flow changes faster than {MAX_STEPS} steps in a unit of time can follow: it runs away from a "
                "saddle, along weights whose gradients were all but zero before; start elsewhere, or use a larger eps"
            )

    def begin_unit(self, critical: flows.Critical | None = None, modes: flows.Modes | None = None) -> None:
        """The same, with as many steps in the unit of time as the flow bends in it."""
        self.step(critical, modes)
        while BEND < self.next.bend < math.inf and self.dt * MAX_STEPS > 1:  # infinite: there is no way left to go
            shorter = 1 / min(math.ceil(self.next.bend / BEND / self.dt), MAX_STEPS)
            few = self.next.bend <= MAX_BEND
            self.dt = shorter
            self.step(critical, modes)
            if few:
                break

    def question(self, i: int, why: str) -> None:
        """Say that the flow is not to be trusted from step i on."""
        if not self.doubt:
            self.doubt = f"step {i}: {why}"
            warnings.warn(f"the {self.called} is not to be trusted from {self.doubt}", stacklevel=2)

    called: ClassVar = "flow"

    def stop(self, i: int, why: str) -> None:
        """End the flow at step i: all that is recorded from there on is NaN."""
        self.stopped, end = True, f"step {i}: {why}"
        self.doubt = f"{self.doubt}; it ends at {end}" if self.doubt else end
        warnings.warn(f"the {self.called} ends at {end}", stacklevel=2)

    def look(self, eigs: int) -> Record:
        record = super().look(eigs)
        if eigs:
            top = max(record["eigenvalues"], default=0.0)
            slope = math.inf
            if self.seen is not None and self.t > self.seen[0]:
                slope = (top - self.seen[1]) / (self.t - self.seen[0])
            self.seen = (self.t, top, slope)
        return record

    def pressing(self, limit: float) -> int:
        """How many eigenvalues to look at before it is due, since the top one may have passed a limit: 1 or none."""
        if self.seen is None or self.t <= self.seen[0]:
            return 0
        t, top, slope = self.seen
        growth = 2 * abs(slope) * (self.t - t) / max(top, 1e-30)  # twice as fast as it changed, if in another direction
        return int(top * math.exp(min(growth, 100)) > limit)

    def third_derivatives(
        self, U: Float[Tensor, "n k"], p: Float[Tensor, "n"], HU: Float[Tensor, "n k"]
    ) -> Float[Tensor, "k k n"]:
        """∇(uᵢᵀHuⱼ) by differences of gradients."""
        T, off, self.reach = third_derivatives(self.f, self.w, self.g, U, HU, p, Reach(*self.reach))
        if off > 0.1:
            raise DivergenceError(
                f"second derivatives of the loss are off from differences of its gradient by {off:.0%}: it is not "
                "smooth (use GELU or tanh in place of ReLU), a kernel of PyTorch's has them wrong, or the flow was "
                "thrown far off by eigenvalues well above 2"
            )
        return T


class Stable(Flow):
    """The stable flow, with as many substeps as its effective sharpness asks for, until that reaches `STABLE_CAP`.

    Equation :eq:`eq-stable-flow`. Its parameters are those of `Process`.
    """

    called = "stable flow"

    def observe(self, i: int) -> Record:
        if self.stopped:
            return {}
        limit = 2 - NEAR if self.seen is None else max(2 - NEAR, 1.3 * self.seen[1])
        record = self.look(self.due(i) or self.pressing(limit))
        self.sharpness, self.i = self.seen[1] if self.seen else 0.0, i
        self.stopped = self.sharpness >= STABLE_CAP
        return record | {"variances": []}

    def advance(self) -> None:
        if self.stopped:
            self.w = torch.full_like(self.w, math.nan)
            return
        start, self.dt = self.t, 1 / max(1, math.ceil(self.sharpness / 1.5), math.ceil(self.opt.rate))
        try:
            self.begin_unit()
            count = round(1 / self.dt)
            for j in range(count):
                if j > 0:
                    self.g = self.f.value_and_grad(self.w)[1]
                    self.step()
                self.w, self.nu = self.next.w, self.next.nu
                self.t = start + (j + 1) / count
        except flows.EndedError as error:
            self.stop(self.i, str(error))
            self.w = torch.full_like(self.w, math.nan)


class Central(Flow):
    """The central flow, in as many equal steps a unit of time as asked for, or more where stability needs more.

    Equation :eq:`eq-central-flow`.

    Parameters
    ----------
    f, opt
        As of `Process`.
    substeps : int
        Steps a unit of time, at least.
    accuracy : float
        Of what is supposed between two looks at the eigenvalues, as of `simulate`.
    outputs : callable, Tensor (n,) -> Tensor (m,), optional
        Functions of the weights whose averages to predict.
    **options
        As of `Process`.
    """

    critical: flows.Critical | None = None  # as of the last look, A as far as the drift has taken it since
    modes: flows.Modes | None = None  # eigenvectors that were followed
    looked = -math.inf  # time of the last look at the eigenvalues
    interval = 0.0  # units of time from one look to the next
    arrival = math.inf  # units of time until the next eigenvalue may come to 2
    drifted = 0.0  # how far α has moved 2 - λ since the last look
    late: Tensor | None = None  # what ν lacks, from a look to the end of the step
    X: Float[Tensor, "k k"] | None = None  # covariance over the critical eigenvectors in the last step
    axes: Tensor | None = None  # P-orthonormal eigenvectors of Σ (n, k), by descending variance
    factor: Tensor  # F (n, k) with Σ = FFᵀ: axes times standard deviations
    checked = 0.0  # the largest variance at which the loss across the oscillation was looked at
    finer = 1  # by how much steps are shorter than they would be, since an eigenvalue left 2
    settled = False  # whether all eigenvalues were at 2 or below once
    extra: ClassVar = (
        *Flow.extra,
        "dt",
        "looked",
        "interval",
        "drifted",
        "axes",
        "X",
        "settled",
        "finer",
        "checked",
        "arrival",
    )
    penalised: ClassVar = True
    called = "central flow"

    def __init__(
        self, f: Objective, opt: Optimizer, substeps: int, accuracy: float, outputs: Outputs | None = None, **options
    ):
        super().__init__(f, opt, **options)
        self.outputs = outputs
        self.substeps, self.dt = substeps, 1 / substeps
        self.accuracy = accuracy
        # eigenvectors that are off by more would seem to turn
        self.eig_tol = min(self.eig_tol, max(accuracy / 10, 100 * torch.finfo(f.w0.dtype).eps))

    def state(self) -> dict[str, Any]:
        critical = self.critical and tuple(map(torch.as_tensor, self.critical))
        return super().state() | {"critical": critical, "modes": self.modes and tuple(self.modes)}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        if self.critical:
            A, U, T, penalised, missed, *rates = map(torch.as_tensor, self.critical)
            self.critical = flows.Critical(flows.float64(A), U, T, bool(penalised), flows.float64(missed), *rates)
        if self.modes:
            self.modes = flows.Modes(*self.modes)

    def observe(self, i: int) -> Record:
        if self.stopped:
            return {}
        self.i = i
        record = self.look(self.wanted())
        if "eigenvalues" in record:
            top = max(record["eigenvalues"], default=0.0)
            if i == 0 and 2.5 < top < CENTRAL_CAP:
                self.warn_of_the_start(top)
            if not self.refresh():
                return record | {"predicted_loss": math.nan}
        assert self.modes is not None
        top = max(self.modes.values.tolist(), default=0.0)
        soon = math.ceil(1 / max(self.arrival, 1 / FINEST)) if self.near else 1
        count = max(self.substeps, math.ceil(top / 2.5), math.ceil(self.opt.rate))
        self.dt = 1 / max(self.finer * count, soon)
        try:
            self.begin_unit(self.critical, self.modes)
        except flows.EndedError as error:
            self.stop(i, str(error))
            return record | {"predicted_loss": math.nan}
        record |= self.predict(record)
        return record | {"trusted": float(not self.doubt and top <= TRUSTED)}

    def warn_of_the_start(self, top: float) -> None:
        """Say that the flow starts beyond the edge, and how it could start elsewhere."""
        corrected = getattr(self.opt, "bias_correction", True)
        warnings.warn(
            f"the central flow starts with {self.near} eigenvalues of P⁻¹H near or above 2, the largest {top:.3g}: "
            "until they are down to 2 it says little and is slow; let the optimizer settle first (warmup), or use "
            f"{'' if corrected else 'bias_correction=True or '}a smaller lr",
            stacklevel=3,
        )

    def predict(self, record: Record) -> Record:
        """What the oscillation adds to what is seen at the flow's own weights."""
        variances = self.resolve()
        self.check_order(variances)
        extra = flows.excess(self.p(), self.factor.square().sum(1))
        record = {
            "variances": variances.tolist(),
            "predicted_loss": record["loss"] + float(variances.sum()),
            "predicted_grad_norm_sq": record["grad_norm_sq"] + extra.double().sum().item(),
        }
        if len(self.coords):
            record["predicted_grad_sq"] = (self.g.square() + extra)[self.coords].tolist()
        if self.outputs is not None:
            mean, deviation = flows.spread(self.outputs, self.w, self.factor)
            record |= {"predicted_outputs": mean.tolist(), "output_deviations": deviation.tolist()}
        if self.next.drift is not None and self.next.X.any():
            rise, curvature, growth = flows.Balance.of(self.next.drift, self.next.X)
            record |= {"rise": rise, "curvature_reduction": curvature, "nu_growth": growth}
        return record

    def check_order(self, variances: Float[np.ndarray, "k"]) -> None:
        """Question the flow if the loss across the oscillation is far from quadratic; when it has grown, two losses."""
        if not len(variances) or variances[0] <= 2 * self.checked:
            return
        assert self.axes is not None
        self.checked, way = float(variances[0]), self.axes[:, 0] * float(variances[0]) ** 0.5
        rise = float(sum(self.f.value_and_grad(self.w + s * way)[0] for s in (1, -1)) / 2 - self.loss)
        rounding = 100 * torch.finfo(self.w.dtype).eps * abs(float(self.loss))
        if not abs(rise - variances[0]) <= ORDER * variances[0] + rounding:
            self.question(
                self.i,
                f"across an oscillation of the size that would hold the eigenvalues at 2 the loss rises by {rise:.3g} "
                f"on average, where its second derivatives say {variances[0]:.3g}: it is too large for them",
            )

    def resolve(self) -> Float[np.ndarray, "k"]:
        """Variances along the P-orthonormal eigenvectors of Σ, descending; sets ``axes`` and ``factor``."""
        U = self.critical.U if self.critical else self.w.new_empty(self.f.dim, 0)
        C = np.linalg.cholesky(flows.float64(U.T @ (self.p()[:, None] * U)))  # P has moved on since U was orthonormal
        variances, Q = np.linalg.eigh(C.T @ self.next.X @ C)
        variances, Q = variances[::-1], np.linalg.solve(C.T, Q[:, ::-1])
        variances = np.where(variances > 1e-12 * variances.max(initial=0), variances, 0.0)
        axes = U @ torch.as_tensor(Q, dtype=U.dtype, device=U.device)
        if self.axes is not None:  # keep their directions from step to step
            overlap = self.axes.T @ (self.p()[:, None] * axes)
            if overlap.numel():
                nearest = overlap.gather(0, overlap.abs().argmax(0, keepdim=True))[0]
                axes = torch.where(nearest < 0, -axes, axes)
        self.axes = axes
        self.factor = axes * torch.as_tensor(np.sqrt(variances), dtype=U.dtype, device=U.device)
        return variances

    def displacements(self, w: Float[Tensor, "n"]) -> list[float]:
        """vᵀP(w - w(t)) along the P-orthonormal eigenvectors v of Σ."""
        if self.stopped or self.axes is None:
            return []
        return (self.axes.T @ (self.p() * (w - self.w))).tolist()

    def snapshot(self) -> dict[str, Tensor]:
        factor = self.w.new_zeros(self.f.dim, 0) if self.stopped else self.factor
        return super().snapshot() | {"factor": factor.cpu()}

    def wanted(self, between: bool = False) -> int:
        """How many eigenvalues to look at now, at a whole step or between two; near the edge as the accuracy asks."""
        interval = min(self.interval, self.eig_every) if self.near else self.eig_every
        due = self.t >= self.looked + interval - (1e-9 if between else 0.5)
        if due and (interval < 1 - 1e-9 or not between):
            return max(self.eigs, min(self.near + 1, self.f.dim))
        return 0 if self.near else self.pressing(2 - NEAR)

    def advance(self) -> None:
        start, count = self.t, round(1 / self.dt)
        for j in range(count):
            if j > 0 and not self.stopped:
                try:
                    if "eigenvalues" not in self.look(self.wanted(between=True)) or self.refresh():
                        self.step(self.critical, self.modes)
                except flows.EndedError as error:
                    self.stop(self.i, str(error))
            if self.stopped:
                self.w = torch.full_like(self.w, math.nan)
                return
            self.w, self.nu = self.next.w, self.next.nu
            self.t = start + (j + 1) / count
            if self.critical:
                assert self.next.drift is not None
                self.critical = self.critical.after(self.dt)._replace(A=self.next.A)
                self.X = torch.as_tensor(self.next.X, dtype=self.w.dtype, device=self.w.device)
                self.drifted += self.dt * float(np.linalg.norm(self.next.drift.alpha))
                self.catch_up()

    def lacking(self, critical: Float[Tensor, "n k"]) -> Tensor | None:
        """What ν has missed of diag Σ: critical eigenvectors have bent away from where they were expected.

        They have done so more and more since the last look; most of this comes with the same sign from look to look.
        """
        if self.critical is None or self.X is None or not critical.shape[1]:
            return None
        expected, P = self.critical.U, self.p()[:, None]
        bent = _expand(expected, critical, P)[1]
        same = torch.as_tensor(_squares(bent, P) < TURNED, dtype=bent.dtype, device=bent.device)
        missed = flows.diagonal(expected - same * bent, self.X) - flows.diagonal(expected, self.X)
        rate = self.opt.rate * self.opt.moment(flows.excess(P[:, 0], missed))
        return LATE * (self.t - self.looked) * rate

    def catch_up(self) -> None:
        """Give ν what it lacks, as far as that is little."""
        if self.critical is None or self.late is None:
            return
        U, p = self.critical.U, self.p()
        self.nu = self.nu + self.late.clamp(-LITTLE * self.nu, LITTLE * self.nu)
        A = self.critical.A + flows.float64(2 * U.T @ ((self.p() - p)[:, None] * U))
        self.critical, self.late = self.critical._replace(A=A), None

    def refresh(self) -> bool:
        """Take up what was seen of the eigenvalues near 2, and judge by it what was supposed since the last look.

        False if the flow ends there.

        Until the next look eigenvectors and third derivatives go on changing as they have since the last. What the
        drift has missed of 2P - H is made up for over as long as it took to accrue, what ν has missed in a step.
        """
        values, U, P = self.pairs.values, self.pairs.U, self.p()[:, None]
        top, many = max(values.tolist(), default=0.0), int((values > 2 - CRITICAL).sum())
        if top > CENTRAL_CAP or top / 2.5 * many * (many + 1) > MAX_GRADIENTS:
            self.stop(
                self.i,
                f"the effective sharpness is {top:.3g} and {many} eigenvalues are above 2, far beyond the edge, where "
                "a unit of time takes very long and says nothing of the optimizer; let the optimizer settle first "
                "(warmup), or use a larger eps or a smaller lr",
            )
            return False
        self.settled = self.settled or top <= TRUSTED
        if self.settled and top > 2 + LEFT:
            self.finer = min(2 * self.finer, FINEST)
        elif self.finer > 1 and top < 2 + LEFT / 4:
            self.finer //= 2
        if self.settled and top > TRUSTED:
            self.question(
                self.i, f"the top eigenvalue of P⁻¹H has left 2 and is {top:.3g}, so that what the flow predicts is off"
            )
        k, past, before = int((values > 2 - CRITICAL).sum()), self.critical, self.modes
        critical, HU = U[:, :k], self.pairs.HU[:, :k]
        self.late = self.lacking(critical)
        A = flows.float64(critical.T @ (2 * P * critical - HU))
        A, missed = (A + A.T) / 2, np.zeros((k, k))
        interval, age, self.arrival = self.dt, self.t - self.looked, math.inf
        if before:
            turned = _expand(U, before.U, P)[1]  # out of the span of what was followed
            same = torch.as_tensor(_squares(turned, P) < TURNED, dtype=U.dtype, device=U.device)
            growth = 2.0 if k == 0 else 0.0
            if past and k:
                # critical eigenvectors are those of the last look, but for a rotation and for what has turned
                R, rest = _expand(critical, before.U[:, : len(past.A)], P)
                out = _squares(rest, P)
                r, known = flows.float64(R), out < TURNED
                missed = np.outer(known, known) * (A - r.T @ past.A @ r)
                strayed = _squares(_expand(critical, past.U, P)[1], P).max(where=known, initial=0.0)
                off = max(float(np.linalg.norm(missed)) / max(self.drifted, 1e-30), float(strayed) ** 0.5)
                growth = float(np.clip(self.accuracy / max(off, 1e-12), 0.5, 2.0)) if known.any() else 0.5
            interval = growth * age
            if k < min(len(values), len(before.values)):  # the next should not come to 2 unseen
                rise = max(float(values[k] - before.values[k]) / age, 0.01)
                self.arrival = float(2 - values[k]) / (2 * rise)
        self.interval = self.dt * max(1, math.floor(min(interval, self.arrival) / self.dt + 0.5))
        if self.arrival < self.dt:  # the next steps will be shorter
            self.interval = max(self.arrival, 1 / FINEST)
        if before and self.guess is not None:
            self.guess = torch.cat([U + self.interval / age * same * turned, self.guess[:, U.shape[1] :]], dim=1)
        self.critical = None
        if k:
            T = self.third_derivatives(critical, P[:, 0], HU)
            self.critical = flows.Critical(A - missed, critical, T, self.penalised, missed / self.interval)
            if past:
                same = torch.as_tensor(known, dtype=U.dtype, device=U.device)
                R = R / torch.as_tensor(1 - out * known, dtype=U.dtype, device=U.device).sqrt()  # to unit vectors
                change = T - torch.einsum("ca,db,cdn->abn", R, R, past.after(-age).T)
                dT = torch.outer(same, same)[:, :, None] * change / age
                self.critical = self.critical._replace(dU=same * turned[:, :k] / age, dT=dT)
        self.modes, self.looked, self.drifted = flows.Modes(values, U, P * U), self.t, 0.0
        return True


def _expand(
    U: Float[Tensor, "n k"], V: Float[Tensor, "n m"], P: Float[Tensor, "n 1"]
) -> tuple[Float[Tensor, "m k"], Float[Tensor, "n k"]]:
    """Coefficients of U over V, and the part of U that is P-orthogonal to V."""
    R = torch.linalg.solve(V.T @ (P * V), V.T @ (P * U))
    return R, U - V @ R


def _squares(U: Float[Tensor, "n k"], P: Float[Tensor, "n 1"]) -> Float[np.ndarray, "k"]:
    """‖u‖²_P of each column."""
    return flows.float64((U * P * U).sum(0))


class Ablated(Central):
    """The central flow without its curvature penalty: ν alone holds the eigenvalues at 2. Equation :eq:`eq-ablated`."""

    penalised = False
    called = "flow without penalty"


class Stationary(Flow):
    """The stationary flow of RMSProp, equation :eq:`eq-stationary-flow`: w alone, with P̄(w) and Σ̄(w) of the program.

    P̄ and ½ ∇⟨Σ̄, H⟩ change slowly. They are solved for at some steps, from where they were before, and extrapolated
    from the last two solutions over the steps between, but never below abs(g) / η, which P̄ never is. How far the
    extrapolated velocity is off at the next solution says how long the interval may be; the step that led there is not
    taken back. Over a step the flow is integrated by the classical Runge-Kutta method.

    Parameters
    ----------
    f, opt
        As of `Process`.
    source : Central or None
        Where it leaves from; None: where all start.
    branch : int
        Step at which it does.
    accuracy : float
        Relative error of the extrapolated velocity, as of `simulate`.
    **options
        As of `Process`.
    """

    penalised: ClassVar = True
    solved: tuple[tuple[float, Tensor, Tensor], ...] = ()  # the last two: time, P̄, ½ ∇⟨Σ̄, H⟩
    V: Tensor | None = None  # of the last one: Σ̄ = (η²/4) VVᵀ
    interval = 1.0  # units of time from the last solution to the next
    extra: ClassVar = (*Flow.extra, "solved", "V", "interval")

    def __init__(self, f: Objective, opt: Optimizer, source: Central | None, branch: int, accuracy: float, **options):
        super().__init__(f, opt, **options)
        self.source, self.branch, self.accuracy = source, branch, accuracy

    def p(self) -> Float[Tensor, "n"]:
        return self.held(self.at(self.t)[0], self.g, self.t)

    def held(self, p: Float[Tensor, "n"], g: Float[Tensor, "n"], t: float) -> Float[Tensor, "n"]:
        """p, but no less than abs(g) / η."""
        return torch.maximum(p, g.abs() / self.opt.learning_rate(t))

    def absorb(self) -> None:
        self.nu = (self.opt.learning_rate(self.t) * self.p()).square()

    def at(self, t: float) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """P̄ and ½ ∇⟨Σ̄, H⟩ at a time not long after the last solution."""
        (t0, p0, penalty0), (t1, p1, penalty1) = self.solved[0], self.solved[-1]
        s = (t - t1) / (t1 - t0) if t1 > t0 else 0.0
        return p1 * ((p1 / p0) ** s).clamp(0.5, 2), penalty1 + s * (penalty1 - penalty0)

    def observe(self, i: int) -> Record:
        if i < self.branch or self.stopped or (i == self.branch and self.source is not None and self.source.stopped):
            self.w, self.stopped = torch.full_like(self.w, math.nan), i >= self.branch
            return {}
        if i == self.branch and self.source is not None:
            self.w, self.t = self.source.w, self.source.t
            self.V = 2 / self.opt.learning_rate(self.t) * self.source.factor
        record: Record = {}
        if not self.solved or self.t >= self.solved[-1][0] + self.interval - 1e-9:
            record = self.solve()
        record |= self.look(self.due(i - self.branch))
        if max(record.get("eigenvalues", []), default=0.0) > TRUSTED:
            self.interval = 1.0  # what is extrapolated has gone astray
        assert self.V is not None
        p, V = self.p(), self.V
        X = self.opt.learning_rate(self.t) ** 2 / 4 * flows.float64(V.T @ (p[:, None] * V))
        variances = np.linalg.eigvalsh((X + X.T) / 2)[::-1].clip(min=0)
        return record | {"variances": variances.tolist(), "predicted_loss": record["loss"] + float(variances.sum())}

    def solve(self) -> Record:
        """The stationary preconditioner at w; how far extrapolation was off sets when the next is due."""
        lr = self.opt.learning_rate(self.t)
        _, g, hvp = self.f.linearize(self.w)
        self.g = g
        found = stationary.solve(hvp, g, lr, start=self.V)
        X, Q = torch.linalg.eigh(found.factor.T @ (found.p[:, None] * found.factor))
        self.V = (found.factor @ Q[:, X / X[-1:] > 1e-6]).flip(1)  # the same Σ̄ in as few directions as it has
        penalty = torch.zeros_like(self.w)
        if self.penalised:
            for v in self.V.T:
                size = (found.p * v.square()).sum().sqrt()
                u = (v / size)[:, None]
                T = self.third_derivatives(u, found.p, hvp(u))[0, 0]
                penalty = penalty + lr**2 / 8 * size**2 * T
        record: Record = {"gap": found.gap, "products": found.hvps}
        if self.solved:
            p, expected = self.at(self.t)
            p = self.held(p, g, self.t)
            velocity = (g + penalty) / found.p
            off = (g + expected) / p - velocity
            error = ((found.p * off.square()).sum() / (found.p * velocity.square()).sum()).sqrt().item()
            record["extrapolation"] = error
            growth = min(2.0, math.sqrt(self.accuracy / max(error, 1e-12)))
            self.interval = max(1.0, growth * (self.t - self.solved[-1][0]))
        self.solved = (*self.solved[-1:], (self.t, found.p, penalty))
        return record

    def advance(self) -> None:
        if not self.solved:
            return
        start, t, dt = self.w, self.t, 1.0
        total, slope = torch.zeros_like(start), torch.zeros_like(start)
        for c, share in STAGES:
            w = start + c * dt * slope
            g = self.g if c == 0 else self.f.value_and_grad(w)[1]
            p, penalty = self.at(t + c * dt)
            slope = -(g + penalty) / self.held(p, g, t + c * dt)
            total = total + share * slope
        self.w, self.t = start + dt * total, t + dt


class AblatedStationary(Stationary):
    """The stationary flow without its curvature penalty."""

    penalised = False


KINDS: dict[str, Any] = {
    "discrete": Discrete,
    "midpoint": Midpoint,
    "stable": Stable,
    "central": Central,
    "ablated": Ablated,
    "stationary": Stationary,
    "ablated_stationary": AblatedStationary,
}
