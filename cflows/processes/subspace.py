"""What the central flow knows of the eigenvectors near the threshold: predicted from step to step, and corrected.

To refresh costs Hessian-vector products and third derivatives. In between eigenvectors and third derivatives go on
changing as they did between the last two refreshes. A correction measures how far off that was, and sets by it when the
next is due.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .. import flows
from ..critical import Critical, Modes, diagonal, float64
from ..differences import Known
from ..eigen import Eigenpairs
from ..optimizers import Optimizer

MAX_SIN2_ROTATION = 0.1  # squared sine beyond which an eigenvector is a new one, not the old one that has turned
TIE = 1e-4  # of all variance, by which eigenvalues decide among axes of Σ
MIN_SHARE = 0.01  # of all variance, from which on an eigenvector counts as one that oscillates
MIN_DRIFT = 0.01  # thresholds: what the drift has missed of θ - λ counts relative to this, at least
MAX_NU_CORRECTION = 0.01  # share of ν: the correction is of first order, and right to its square
MAX_INTERVAL_GROWTH = 2.0  # of the time between refreshes, from one to the next
MIN_INTERVAL_GROWTH = 0.5
MAX_INTERVAL = 10.0  # units of time between refreshes
MIN_RISE = 0.001  # a unit of time: an eigenvalue that comes near is supposed to grow by that share, at least
ASSUMED_RISE = 2.0  # in units of how fast it last rose
# An eigenvector bends quadratically away from its extrapolation. ∫₀¹ t (1 + t) / 2 dt is the mean of what that misses,
# over what it misses at the end, if the last interval was as long.
MEAN_EXTRAPOLATION_ERROR = 5 / 12
MAX_REFINEMENT = 16  # steps are shortened by this factor at most


class Refresh(NamedTuple):
    """What is found at a refresh.

    Attributes
    ----------
    pairs : Eigenpairs
        Those that are followed, and the next.
    U, HU : Tensor (n, k)
        A P-orthonormal basis of the first k of them, the critical ones, and its products.
    T : Tensor (k, k, n)
        Third derivatives along it.
    carried : bool array (k, k), optional
        Of which pairs they are those expected, and not found anew.
    """

    pairs: Eigenpairs
    U: Float[Tensor, "n k"]
    HU: Float[Tensor, "n k"]
    T: Float[Tensor, "k k n"]
    carried: Bool[np.ndarray, "k k"] | None = None


@dataclass(frozen=True)
class Subspace:
    """The eigenvectors that are followed.

    Attributes
    ----------
    modes : Modes
        All of them, as of the last refresh.
    critical : Critical, optional
        Those near enough to the threshold to oscillate, as expected now.
    refreshed : float
        Time of the last refresh.
    interval : float
        Units of time until the next is due.
    arrival : float
        Units of time, from the refresh on, until the next eigenvalue may come to the threshold.
    drifted : float
        How far α has moved θ - λ since the last refresh.
    deficit : Tensor (n,) or (), optional
        What ν has missed, from a refresh to the end of the step.
    turn : int
        Number of the refresh.
    oscillating : int
        How many eigenvectors oscillated then.
    stale : bool
        Whether all third derivatives are due at the next.
    """

    modes: Modes
    critical: Critical | None
    refreshed: float
    interval: float
    arrival: float = math.inf
    drifted: float = 0.0
    deficit: Tensor | None = None
    turn: int = 0
    oscillating: int = 0
    stale: bool = False

    def rotated(
        self, U: Float[Tensor, "n k"], values: Float[Tensor, "k"], P: Float[Tensor, "n 1"], X: Tensor | None
    ) -> tuple[Float[Tensor, "k k"], Known | None]:
        """A basis of new critical eigenvectors in which Σ is diagonal, and the third derivatives that are known in it.

        Along the axes of Σ third derivatives are found anew at every refresh, since the penalty is made of them. Of the
        mixed ones, only a share is found anew, in turn. The others are those that are expected. What does not
        oscillate stays an eigenvector: by its small share the eigenvalue decides among axes of equal variance.
        """
        k, past = U.shape[1], self.critical
        eye = torch.eye(k, dtype=U.dtype, device=U.device)
        if past is None or X is None:
            return eye, None
        R, rest = project(U, past.U, P)
        variances = R.T @ X @ R
        tie = TIE * max(float(variances.trace()), torch.finfo(U.dtype).tiny) * values / values.abs().max()
        Q = torch.linalg.eigh(variances + tie.diag())[1].flip(1)
        R, rest = R @ Q, rest @ Q
        known = squares(rest, P) < MAX_SIN2_ROTATION
        T = torch.einsum("ca,db,cdn->abn", R, R, past.T)
        a, b = np.indices((k, k))
        due = (np.minimum(a, b) == self.turn % max(k - 1, 1)) | self.stale
        return Q, Known(T, np.outer(known, known) & ~due)

    def predict(self, step: flows.Step, dt: float) -> Subspace:
        """After a step."""
        if self.critical is None:
            return self
        assert step.drift is not None
        drifted = self.drifted + dt * float(np.linalg.norm(step.drift.alpha))
        return replace(self, critical=self.critical.after(dt)._replace(A=step.A), drifted=drifted)

    def compensate(self, opt: Optimizer, nu: Tensor, t: float) -> tuple[Subspace, Tensor]:
        """Give ν what it has missed, as far as that is little; and ν."""
        if self.critical is None or self.deficit is None:
            return self, nu
        U, most = self.critical.U, MAX_NU_CORRECTION * nu
        before, nu = opt.preconditioner(nu, t), nu + self.deficit.clamp(-most, most)
        change = (opt.preconditioner(nu, t) - before).expand(len(U))
        A = self.critical.A + float64(opt.threshold * U.T @ (change[:, None] * U))
        return replace(self, critical=self.critical._replace(A=A), deficit=None), nu

    def onset(self, values: Float[Tensor, "k"], oscillates: Bool[np.ndarray, "k"], t: float, threshold: float) -> float:
        """Units of time until one of the critical eigenvectors is expected to start to oscillate, as it last rose."""
        soonest = math.inf
        seen = self.modes.values.clamp(min=1e-3 * threshold).tolist()
        for now, before, begun in zip(values.tolist(), seen, oscillates, strict=False):
            if before < now < threshold and not begun:
                soonest = min(soonest, (t - self.refreshed) * math.log(threshold / now) / math.log(now / before))
        return soonest

    def missed(
        self, opt: Optimizer, P: Float[Tensor, "n 1"], critical: Float[Tensor, "n k"], X: Tensor | None, t: float
    ) -> Tensor | None:
        """What ν has missed of diag Σ, since critical eigenvectors have bent away from where they were expected."""
        if self.critical is None or X is None or not critical.shape[1]:
            return None
        expected = self.critical.U
        bent = project(expected, critical, P)[1]
        same = torch.as_tensor(squares(bent, P) < MAX_SIN2_ROTATION, dtype=bent.dtype, device=bent.device)
        change = diagonal(expected - same * bent, X) - diagonal(expected, X)
        rate = opt.rate * opt.moment(opt.excess(P[:, 0], change))
        return MEAN_EXTRAPOLATION_ERROR * (t - self.refreshed) * rate


def correct(
    old: Subspace | None,
    opt: Optimizer,
    t: float,
    dt: float,
    found: Refresh,
    P: Float[Tensor, "n 1"],
    X: Tensor | None,
    error: float,
    penalised: bool,
    escaped: bool,
) -> tuple[Subspace, Float[Tensor, "n m"] | None]:
    """Take up new eigenpairs, and judge by them what was supposed since the last refresh.

    What the drift has missed of θP - H is made up for over as long as it took to accrue, what ν has missed in a step.

    Parameters
    ----------
    old : Subspace, optional
        What was known, as predicted for now.
    opt : Optimizer
    t, dt : float
        Time, and the length of the steps.
    found : Refresh
    P : Tensor (n, 1)
        Diagonal of P.
    X : Tensor (j, j), optional
        Covariance over the critical eigenvectors in the last step.
    error : float
        How far eigenvectors may turn, and curvature be off, until the next refresh.
    penalised : bool
        Whether the flow has its curvature penalty.
    escaped : bool
        Whether an eigenvalue has left the threshold: the refresh came too late.

    Returns
    -------
    Subspace
    ahead : Tensor (n, m), optional
        Where the eigenvectors are expected at the next refresh.
    """
    pairs, critical, HU, T, carried = found
    k, values, U = T.shape[0], pairs.values, pairs.U
    A = float64(critical.T @ (opt.threshold * P * critical - HU))
    A, missed, dU, dT = (A + A.T) / 2, np.zeros((k, k)), torch.zeros_like(critical), torch.zeros_like(T)
    interval, arrival, onset, ahead, deficit, stale = dt, math.inf, math.inf, None, None, False
    begun, age = 0, dt
    if old:
        age, past = t - old.refreshed, old.critical
        deficit = old.missed(opt, P, critical, X, t)
        turned = project(U, old.modes.U, P)[1]  # out of the span of what was followed
        away = project(critical, old.modes.U, P)[1]
        recognised = torch.as_tensor(squares(turned, P) < MAX_SIN2_ROTATION, dtype=U.dtype, device=U.device)
        growth = MAX_INTERVAL_GROWTH if k == 0 else 0.0
        if past and k:
            # critical eigenvectors are those of the last refresh, but for a rotation and for what has turned
            R, rest = project(critical, past.after(-age).U, P)
            out = squares(rest, P)
            r, known = float64(R), out < MAX_SIN2_ROTATION
            missed = np.outer(known, known) * (A - r.T @ past.A @ r)
            strayed = squares(project(critical, past.U, P)[1], P).max(where=known, initial=0.0)
            lag = float(np.linalg.norm(missed)) / (old.drifted + MIN_DRIFT * opt.threshold)
            off, stale = max(lag, float(strayed) ** 0.5), lag > error
            growth = float(np.clip((error / max(off, 1e-12)) ** 0.5, MIN_INTERVAL_GROWTH, MAX_INTERVAL_GROWTH))
            growth = MIN_INTERVAL_GROWTH if escaped else growth
            growth = growth if known.all() else 0.0  # nothing is known of how a new one turns
            share = shares(project(U[:, :k], past.U, P)[0], X)
            onset = max(old.onset(values[:k], share > MIN_SHARE / 10, t, opt.threshold), 1.0)
            begun = int((share > MIN_SHARE / 10).sum())
            if (share > MIN_SHARE).sum() > old.oscillating:  # ν and the eigenvectors begin to change faster
                growth = 0.0
            same = torch.as_tensor(known, dtype=U.dtype, device=U.device)
            R = R / torch.as_tensor(1 - out * known, dtype=U.dtype, device=U.device).sqrt()  # to unit vectors
            change = T - torch.einsum("ca,db,cdn->abn", R, R, past.after(-age).T)
            true = came_true(age * past.dU @ R if torch.is_tensor(past.dU) else None, away, P)
            dU = same * true * away / age
            moving = torch.outer(same * true, same * true).sqrt()
            if carried is not None:  # what is not seen is not supposed to go on changing
                moving = moving * torch.as_tensor(~carried, dtype=U.dtype, device=U.device)
            dT = moving[:, :, None] * change / age
        interval = min(growth * age, MAX_INTERVAL, onset)
        if k < min(len(values), len(old.modes.values)):  # the next must not come to the threshold unseen
            now, before = (max(float(x[k]), 1e-3 * opt.threshold) for x in (values, old.modes.values))
            rate = max(math.log(now / before) / age, MIN_RISE)
            arrival = math.log(opt.threshold / now) / (ASSUMED_RISE * rate)
    interval = dt * max(1, math.floor(min(interval, arrival) / dt + 0.5))
    if arrival < dt:  # the next steps will be shorter
        interval = max(arrival, 1 / MAX_REFINEMENT)
    if old:
        ahead = U + interval / age * recognised * turned
    rates = (dU, dT) if old and old.critical else (0.0, 0.0)
    seen = Critical(A - missed, critical, T, penalised, missed / max(interval, age), *rates) if k else None
    turn = old.turn + 1 if old else 0
    return Subspace(Modes(values, U, P * U), seen, t, interval, arrival, 0.0, deficit, turn, begun, stale), ahead


def project(
    U: Float[Tensor, "n k"], V: Float[Tensor, "n m"], P: Float[Tensor, "n 1"]
) -> tuple[Float[Tensor, "m k"], Float[Tensor, "n k"]]:
    """Coefficients of U over V, and the part of U that is P-orthogonal to V."""
    R = torch.linalg.solve(V.T @ (P * V), V.T @ (P * U))
    return R, U - V @ R


def shares(R: Float[Tensor, "j k"], X: Tensor | None) -> Float[np.ndarray, "k"]:
    """Shares of some vectors in all variance, given their coefficients over those that X is the covariance of."""
    variances = float64((R * (X @ R)).sum(0)) if X is not None else np.zeros(R.shape[1])
    return variances / max(variances.sum(), 1e-300)


def came_true(
    expected: Float[Tensor, "n k"] | None, seen: Float[Tensor, "n k"], P: Float[Tensor, "n 1"]
) -> Float[Tensor, "k"]:
    """Share of an expected displacement that came true, column by column: 1 on a straight path, 0 where it is noise."""
    if expected is None:
        return seen.new_ones(seen.shape[1])
    along, size = (expected * P * seen).sum(0), (expected * P * expected).sum(0)
    return torch.where(size > 0, along / size, 1.0).clamp(0, 1)


def squares(U: Float[Tensor, "n k"], P: Float[Tensor, "n 1"]) -> Float[np.ndarray, "k"]:
    """‖u‖²_P of each column."""
    return float64((U * P * U).sum(0))
