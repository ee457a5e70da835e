"""What a process is: a state as a value, an observation that changes nothing, and a step from one state to the next.

A process itself holds settings only. ``observe`` maps a state to an `Observation`, ``step`` maps that to the next
state. Another process is a subclass, registered in `PROCESSES`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..eigen import Eigenpairs, sharpness, top_eigenpairs
from ..errors import DivergenceError
from ..objective import HVP, Objective
from ..optimizers import Optimizer
from ..records import Variable
from ..registry import Registry

REFRESH_ERROR = 25.0  # over ν's memory a trajectory is off by about 1 / 25 of what is missed between two refreshes
MAX_REFRESH_ERROR = 0.5  # beyond it nothing is known of an eigenvector at the next refresh
Row = dict[str, Any]  # numbers, lists and tensors by the name of their variable
Outputs = Callable[[Tensor], Tensor]  # weights (n,) -> (m,)


@dataclass(frozen=True)
class Settings:
    """What the processes of a run have in common.

    Attributes
    ----------
    f : Objective
    opt : Optimizer
    eigs : int
        Eigenvalues to find where they are due, at least.
    eig_tol : float
        Their residuals, relative to the largest.
    coords : int64 Tensor (c,)
        Weights whose squared gradient and ν are recorded.
    substeps : int
        Steps of the central flow in a unit of time, at least.
    accuracy : float
        As of `simulate`.
    branch_step : int
        Step at which the stationary flows leave the central flow; 0: they start as the others do.
    outputs : callable, Tensor (n,) -> Tensor (m,), optional
        Functions of the weights to record.
    """

    f: Objective
    opt: Optimizer
    eigs: int
    eig_tol: float
    coords: Int[Tensor, "c"]
    substeps: int = 1
    accuracy: float = 0.002
    branch_step: int = 0
    outputs: Outputs | None = None

    @property
    def refresh_error(self) -> float:
        """What eigenvectors may turn from one refresh to the next, and curvature miss, relative to itself."""
        return min(REFRESH_ERROR * self.accuracy, MAX_REFRESH_ERROR)


#: Marks a field of a state that may be dropped: where a solver starts, or the signs of eigenvectors. None until known.
CACHE = {"cache": True}
#: Marks a field that states of older files do not have.
ADDED = {"added": True}


@dataclass(frozen=True)
class State:
    """All that the future of a process depends on.

    Attributes
    ----------
    w : Tensor (n,)
        Weights; NaN where there are none.
    nu : Tensor (n,) or ()
        ν.
    t : float
        Time in optimizer steps: the next one is the t-th.
    near : int
        Eigenvalues above ``tracks_above`` when last computed.
    guess : Tensor (n, k), optional
        Where the next eigenvalue problem starts.
    sharpest : Tensor (n, 2), optional
        Where the next search for the largest eigenvalue of H starts.
    """

    w: Float[Tensor, "n"]
    nu: Tensor
    t: float
    near: int = 0
    guess: Float[Tensor, "n k"] | None = field(default=None, metadata=CACHE)
    sharpest: Float[Tensor, "n s"] | None = field(default=None, metadata=CACHE)


@dataclass(frozen=True)
class Observation:
    """What a process sees at a state, which is enough for its step.

    Attributes
    ----------
    i : int
        Number of the step.
    state : State
        The state, with what was learned.
    row : dict
        What is recorded.
    loss : float
        Loss.
    g : Tensor (n,)
        Gradient.
    p : Tensor (n,)
        Diagonal of P.
    pairs : Eigenpairs, optional
        Leading eigenpairs of P⁻¹H, where they were due.
    message : str
        What the user should know.
    """

    i: int
    state: Any
    row: Row = field(default_factory=dict)
    loss: float = float("nan")
    g: Float[Tensor, "n"] | None = None
    p: Float[Tensor, "n"] | None = None
    pairs: Eigenpairs | None = None
    message: str = ""


#: What every process records.
COMMON = (
    Variable("loss", "", "loss L at the process's weights"),
    Variable("predicted_loss", "", "mean loss: L + θ/2 tr X, θ the threshold (L itself where there is no prediction)"),
    Variable("grad_norm_sq", "", "squared norm of the gradient"),
    Variable("nu_sum", "", "sum of ν over the weights"),
    Variable("p_sum", "", "trace of the preconditioner P; n / tr P is the harmonic mean of the effective step sizes"),
    Variable("eigenvalues", "eig", "largest eigenvalues of P⁻¹H, descending"),
    Variable("eig_residual", "", "largest residual of the eigenvalues, in their units", None),
    Variable("variances", "eig", "variances along the P-orthonormal eigenvectors of Σ, descending", 125, 0.0),
    Variable("sharpness", "", "largest eigenvalue of H itself, at steps at which snapshots are taken"),
    Variable("grad_sq", "coord", "squared gradient at some weights", 125),
    Variable("nu", "coord", "ν at some weights"),
    Variable("outputs", "output", "functions of the weights that were asked for"),
)  # fmt: skip


class Process(ABC):
    """Settings of a process, and what it does with a state.

    Parameters
    ----------
    settings : Settings
    eig_every : int
        Steps after which eigenvalues are due again; 0: never.
    """

    #: What it is called in messages.
    label: ClassVar[str] = "process"
    #: What it records.
    variables: tuple[Variable, ...] = COMMON
    #: And besides, or instead, of an optimizer with momentum.
    memory_variables: ClassVar[tuple[Variable, ...]] = ()
    #: Type of its states.
    state_type: ClassVar[type[State]] = State
    #: Whether snapshots of all weights are taken of it.
    snapshots: ClassVar[bool] = False
    #: How often it computes the eigenvalues that are asked for, unless one says; 0: when it needs them itself.
    default_eig_every: ClassVar[int] = 10
    #: It needs all eigenvalues above this, in thresholds, and the next, however many are asked for.
    tracks_above: ClassVar[float] = math.inf

    def __init__(self, settings: Settings, eig_every: int):
        self.settings, self.eig_every = settings, eig_every
        self.f, self.opt = settings.f, settings.opt
        if self.opt.memory:
            self.variables = tuple({v.name: v for v in (*self.variables, *self.memory_variables)}.values())

    def eig_tol(self, state: Any, top: float) -> float:
        """Largest residual of eigenvalues, relative to the largest of them, if that is known (else NaN)."""
        return self.settings.eig_tol

    def most_pairs(self, state: Any) -> int:
        """How many eigenpairs to compute at most, unless more are asked for."""
        return self.f.dim

    @classmethod
    def needs(cls, branch_step: int) -> tuple[str, ...]:
        """Processes whose observations of the same step it needs."""
        return ()

    @classmethod  # noqa: B027
    def check(cls, opt: Optimizer) -> None:
        """Raise a ValueError if there is no such process for an optimizer."""

    def start(self, w: Float[Tensor, "n"], nu: Tensor, t: int, m: Tensor | None = None) -> Any:
        """State at weights w, with the ν and momentum that the optimizer has before its t-th step."""
        return self.state_type(w, nu, t)

    @abstractmethod
    def observe(self, state: Any, i: int, others: Mapping[str, Observation]) -> Observation:
        """What there is to see at step i, given what the processes before it saw."""

    @abstractmethod
    def step(self, seen: Any) -> Any:
        """The next state."""

    def due(self, i: int) -> int:
        """Number of eigenvalues to compute at step i."""
        return self.settings.eigs if self.eig_every > 0 and i % self.eig_every == 0 else 0

    def updated(self, state: Any, g: Float[Tensor, "n"]) -> Any:
        """The state, once it has seen the gradient at its weights; a flow's is the same."""
        return state

    def preconditioner(self, state: Any, g: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Diagonal of P."""
        return self.opt.preconditioner(state.nu, state.t).expand_as(state.w)

    def evaluate(self, state: Any, i: int, eigs: int) -> Observation:
        """Loss, gradient and some leading eigenpairs, if any.

        Raises
        ------
        DivergenceError
            If one of them is not finite, or a weight has no step size.
        """
        f, s = self.f, self.settings
        loss, g, *hvp = f.linearize(state.w) if eigs else f.value_and_grad(state.w)
        if not (loss.isfinite() and g.isfinite().all()):
            what = "the gradient is not finite" if loss.isfinite() else f"the loss is {loss.item()}"
            raise DivergenceError(
                f"{what}; try a smaller learning rate, or look for log(0), 0/0 or overflow in the loss"
            )
        state = self.updated(state, g)
        if not state.nu.isfinite().all():
            raise DivergenceError(
                f"ν is not finite: squares of gradients (up to {float(g.abs().max()):.2g}) overflow {state.w.dtype}; "
                "scale the loss down, or use float64"
            )
        p = self.preconditioner(state, g)
        if not (p > 0).all():
            zeros = int((p <= 0).sum())
            raise DivergenceError(
                f"ν is exactly zero for {zeros} weights of {state.w.numel()}, so they have no step size (a unit that "
                "is never active, a token that does not occur, the key bias of an attention); set eps above 0, for "
                "example 1e-8 (in units of the gradient: far below it such weights take very long steps once they move)"
            )
        nu, pairs = state.nu.expand_as(state.w), None
        row: Row = {"loss": loss.item(), "predicted_loss": loss.item()}
        row["grad_norm_sq"] = g.double().square().sum().item()
        row["nu_sum"], row["p_sum"] = nu.double().sum().item(), p.double().sum().item()
        if eigs:
            state, pairs = self.track(state, p, hvp[0], eigs)
            row["eigenvalues"] = pairs.values.tolist()
            row["eig_residual"] = max(pairs.residuals.tolist(), default=0.0)
        if len(s.coords):
            row["grad_sq"], row["nu"] = g[s.coords].square().tolist(), nu[s.coords].tolist()
        return Observation(i, state, row, loss.item(), g, p, pairs)

    def with_sharpness(self, seen: Observation) -> Observation:
        """The same, with the largest eigenvalue of H itself."""
        hvp = self.f.linearize(seen.state.w)[2]
        value, start = sharpness(hvp, seen.state.w, seen.state.sharpest, self.settings.eig_tol)
        return replace(seen, state=replace(seen.state, sharpest=start), row=seen.row | {"sharpness": value})

    def snapshot(self, seen: Any) -> dict[str, Tensor]:
        """Arrays (n,) or (n, r) to keep of an observation."""
        w, g = seen.state.w, seen.g
        grad_sq = torch.full_like(w, torch.nan) if g is None else g.square()
        return {"weights": w, "nu": seen.state.nu.expand_as(w), "grad_sq": grad_sq}

    def track(self, state: Any, p: Float[Tensor, "n"], hvp: HVP, k: int) -> tuple[Any, Eigenpairs]:
        """The k leading eigenpairs over the weights that move, and more until one is not above ``tracks_above``."""
        moves = self.opt.moves(state.nu).expand_as(state.w)
        count, guess = int(moves.sum()), state.guess
        everywhere = count == self.f.dim
        if not everywhere:
            p, guess, hvp = p[moves], None if guess is None else guess[moves], _restricted(hvp, moves)
        if count == 0:
            none = state.w.new_zeros(self.f.dim, 0)
            return replace(state, near=0), Eigenpairs(none[0], none, none, none[0], none, 0, True)
        top = math.nan
        k, most = min(k, count), min(max(k, self.most_pairs(state)), count)
        while True:
            start = None if guess is None else guess[:, : k + 1]
            limit = self.tracks_above * self.opt.threshold
            pairs = top_eigenpairs(hvp, p, k, start, self.eig_tol(state, top), limit if limit < math.inf else -math.inf)
            rest = p.new_empty(count, 0) if guess is None else guess[:, k + 1 :]
            guess = torch.cat([pairs.start, rest], dim=1)
            above = int((pairs.values > limit).sum())
            if above < k or k == most:
                break
            top = float(pairs.values[0])
            k = min(k + max(1, k // 2), most)
        if not everywhere:
            U, HU, spare = (_rows(V, moves) for V in (pairs.U, pairs.HU, pairs.spare))
            pairs, guess = replace(pairs, U=U, HU=HU, spare=spare), _rows(guess, moves)
        return replace(state, guess=guess, near=above), pairs


def _restricted(hvp: HVP, moves: Tensor) -> HVP:
    """Products with the rows and columns of H that belong to some weights."""
    return lambda V: hvp(_rows(V, moves))[moves]


def _rows(V: Float[Tensor, "m k"], moves: Tensor) -> Float[Tensor, "n k"]:
    """Vectors over some weights as vectors over all, which have no part in the others."""
    W = V.new_zeros(len(moves), V.shape[1])
    W[moves] = V
    return W


#: Processes by name, in the order in which they act.
PROCESSES: Registry[type[Process]] = Registry("process", ("distance", "snapshots", "state", "now"))
