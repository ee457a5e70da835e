"""RMSProp, Scalar RMSProp and gradient descent, each as a preconditioner p(ν, t) and a rule for ν.

All three take the step w ← w - g / p. They differ in the *moment* of the gradient that ν averages:
g² for each weight, ‖g‖² for all, or nothing. `Optimizer` lists all that flows need of one. Another optimizer is a
subclass, registered in `OPTIMIZERS`. Those with momentum are in `cflows.momentum`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .registry import Registry

Schedule = Callable[[float], float]


def _number(value: object, name: str) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError(f"{name} is {value!r}; it must be a number")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {value!r}; it must be a number") from error


@dataclass(frozen=True)
class Optimizer(ABC):
    """What the discrete process and the flows need of an optimizer w ← w - m / p(ν, t), p the diagonal of P.

    What an oscillation adds to the mean squared gradient, `excess`, is :eq:`eq-mean-square`. Without memory m is g.

    Parameters
    ----------
    lr : float, or callable t -> float
        Learning rate η > 0, or a schedule of it (t = 1 at the first step). Flows ask a schedule at real t, up to one
        past the last step.
    """

    lr: float | Schedule

    def __post_init__(self):
        if not callable(self.lr):
            object.__setattr__(self, "lr", self._check_lr(self.lr, "lr"))

    @staticmethod
    def _check_lr(value: float, name: str) -> float:
        value = _number(value, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; a learning rate must be positive and finite")
        return value

    def learning_rate(self, t: float) -> float:
        """η at the t-th step, t = 1 at the first.

        Parameters
        ----------
        t : float
            An integer for the optimizer; flows ask for real numbers in between.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If a schedule gives something that is not positive and finite.
        """
        return self._check_lr(self.lr(t), f"lr({t})") if callable(self.lr) else float(self.lr)

    @property
    def threshold(self) -> float:
        """Eigenvalue of P⁻¹H at which the optimizer begins to oscillate along its eigenvector: 2 without momentum.

        With it 2 (1+β₁) / (1-β₁), for a constant preconditioner: where w → -w, m is (1-β₁) / (1+β₁) of the gradient.
        With a share s of the gradient itself in the step (`lead`) it is 2 (1+β₁) / (1-β₁+2β₁s).
        """
        return 2 * (1 + self.memory) / (1 - self.memory + 2 * self.memory * self.lead)

    @property
    def memory(self) -> float:
        """β₁ of the momentum m ← β₁m + (1-β₁)g; 0 without."""
        return 0.0

    @property
    def lead(self) -> float:
        """Share s of the gradient itself in a step (1-s) m + s g, with memory; 0, or 1-β₁ of Nesterov's momentum."""
        return 0.0

    def shares(self, t: float) -> tuple[float, float]:
        """Those of g and m in a step, s and 1-s. Others, of a schedule, must keep θ: g's + (1-β₁)/(1+β₁) m's = 2/θ."""
        return self.lead, 1 - self.lead

    def direction(self, m: Float[Tensor, "n"], g: Float[Tensor, "n"], t: float) -> Float[Tensor, "n"]:
        """What the t-th step divides by p, with memory: m, or `shares` of the gradient g and of m."""
        if not self.lead:
            return m
        shares = self.shares(t)
        return shares[0] * g + shares[1] * m

    def decay(self, t: float) -> float:
        """Share of the weights that the t-th step takes away besides (decoupled weight decay); here 0."""
        return 0.0

    @property
    @abstractmethod
    def rate(self) -> float:
        """c of the flows: dν/dt = c (mean moment - ν)."""

    def init(self, w: Float[Tensor, "n"]) -> Tensor:
        """ν before the first step: zero, (n,), or () if there is one ν for all weights."""
        return torch.zeros_like(self.moment(w))

    @abstractmethod
    def moment(self, square: Float[Tensor, "n"]) -> Tensor:
        """What ν averages, like ν, as a linear function of the squared gradient (n,)."""

    @abstractmethod
    def update(self, nu: Tensor, g: Float[Tensor, "n"]) -> Tensor:
        """ν after a step with gradient g (n,)."""

    @abstractmethod
    def preconditioner(self, nu: Tensor, t: float) -> Tensor:
        """p, like ν, at the t-th step, whose gradient ν contains."""

    @abstractmethod
    def dp_dnu(self, nu: Tensor, t: float) -> Tensor:
        """∂p / ∂ν, like ν."""

    def momentum(
        self, m: Float[Tensor, "n"] | None, g: Float[Tensor, "n"], t: float
    ) -> tuple[Float[Tensor, "n"] | None, Float[Tensor, "n"]]:
        """What the t-th step remembers of gradients, and what it divides by p: nothing and g, or m and `direction`.

        Parameters
        ----------
        m : Tensor (n,) or None
            What the step before remembered; None at the first.
        g : Tensor (n,)
            Gradient.
        t : float
            Number of the step.

        Returns
        -------
        m : Tensor (n,) or None
        direction : Tensor (n,)
        """
        if not self.memory:
            return None, g
        m = (1 - self.memory) * g if m is None else self.memory * m + (1 - self.memory) * g
        return m, self.direction(m, g, t)

    def between(self, m: Float[Tensor, "n"] | None, g: Float[Tensor, "n"], t: float) -> Float[Tensor, "n"]:
        """The m of a flow that starts before the t-th step, with memory: it is half a step older than that of the step.

        The step is w(t+1) - w(t) = -m / p. So its m is the velocity half a step later, and that of the step before half
        a step earlier.

        Parameters
        ----------
        m : Tensor (n,) or None
            What the step before remembered; None at the first.
        g : Tensor (n,)
            Gradient.
        t : float
            Number of the step.

        Returns
        -------
        Tensor (n,)
            m_t with half a step's share of the gradient taken out, (m_t - (1-√β₁) g) / √β₁.
        """
        root = self.memory**0.5
        after = self.momentum(m, g, t)[0]
        assert after is not None
        return (after - (1 - root) * g) / root

    def excess(self, p: Tensor, diag: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """What an oscillation adds to the mean squared gradient, θ²p² ⊙ diag Σ.

        That is diag HΣH, since HΣ = θPΣ, with the threshold θ.

        Parameters
        ----------
        p : Tensor (n,) or ()
            Diagonal of P.
        diag : Tensor (n,)
            diag Σ.

        Returns
        -------
        Tensor (n,)
        """
        return self.threshold**2 * p.square() * diag

    def momentum_excess(self, p: Tensor, diag: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """What an oscillation of period two adds to the mean square of m: it is (1-β₁) / (1+β₁) of the gradient there.

        Parameters
        ----------
        p, diag
            As of `excess`.

        Returns
        -------
        Tensor (n,)
            4p² ⊙ diag Σ without weight decay and `lead`: the way from an iterate to its opposite is a step.
        """
        return self.excess(p, diag) * ((1 - self.memory) / (1 + self.memory)) ** 2

    def moves(self, nu: Tensor) -> Tensor:
        """Whether a weight has ever had a gradient (bool, like ν): until then it is at rest."""
        return torch.ones_like(nu, dtype=torch.bool)

    def with_own(self, nu: Tensor, g: Float[Tensor, "n"]) -> Tensor:
        """A flow's ν with no less of the present gradient than the optimizer's ν contains; here ν itself."""
        return nu


#: Optimizers by name.
OPTIMIZERS: Registry[type[Optimizer]] = Registry("optimizer")


@OPTIMIZERS.register("RMSProp")
@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp :cite:`tieleman2012`: ν ← β₂ν + (1-β₂)g², then w ← w - g / p with p = (√ν̂ + ε) / η.

    This is equation :eq:`eq-rmsprop` with an ε. ν starts at zero, and the step uses the ν that already contains g. ε
    stands outside the root, as in PyTorch (TensorFlow and the original lecture put it inside). With bias correction ν̂
    = ν / (1-β₂ᵗ) at the t-th step, which is Adam :cite:`kingma2015` without momentum; without it ν̂ = ν, which is
    ``torch.optim.RMSprop`` (whose β₂ is called alpha).

    Parameters
    ----------
    lr : float, or callable t -> float
        Learning rate η > 0, or a schedule of it (t = 1 at the first step). Flows ask a schedule at real t, up to one
        past the last step.
    beta2 : float
        Decay β₂ in [0, 1). Flows need β₂ > 0.
    eps : float
        ε ≥ 0. With 0, a weight whose gradient has always been exactly zero has no step size, and `simulate` says so.
    bias_correction : bool
        Whether ν is corrected for its start at zero.
    """

    beta2: float
    eps: float = 0.0
    bias_correction: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("beta2", "eps"):  # in double precision, whatever they came in
            object.__setattr__(self, name, _number(getattr(self, name), name))
        if not isinstance(self.bias_correction, (bool, np.bool_)):
            raise TypeError(f"bias_correction is {self.bias_correction!r}; it must be True or False")
        object.__setattr__(self, "bias_correction", bool(self.bias_correction))
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 is {self.beta2}; it must be in [0, 1)")
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise ValueError(f"eps is {self.eps}; it must be finite and not negative")

    def moment(self, square: Float[Tensor, "n"]) -> Tensor:
        """The squared gradient itself (n,)."""
        return square

    def update(self, nu: Tensor, g: Float[Tensor, "n"]) -> Tensor:
        """β₂ν + (1-β₂) moment(g²), like ν."""
        return self.beta2 * nu + (1 - self.beta2) * self.moment(g.square())

    @property
    def rate(self) -> float:
        """c = (1-β₂) / β₂ of the flows: exactly ν_t - ν_{t-1} = c (g_t² - ν_t)."""
        if self.beta2 == 0:
            raise ValueError("beta2 is 0: ν follows the gradient at once and has no flow; use beta2 > 0")
        return (1 - self.beta2) / self.beta2

    def corrected(self, nu: Tensor, t: float) -> Tensor:
        """ν̂, like ν, at the t-th step."""
        return nu / self._correction(t)

    def _correction(self, t: float) -> float:
        return 1 - self.beta2**t if self.bias_correction else 1.0

    def scale(self, t: float) -> float:
        """Factor of p at the t-th step that comes from the bias correction, or a schedule, of a momentum; here 1."""
        return 1.0

    def preconditioner(self, nu: Tensor, t: float) -> Tensor:
        """p = (√ν̂ + ε) / η, like ν: the inverse of the effective step size; with momentum times `scale`."""
        return (self.corrected(nu, t).sqrt() + self.eps) / self.learning_rate(t) * self.scale(t)

    def dp_dnu(self, nu: Tensor, t: float) -> Tensor:
        """∂p / ∂ν = 1 / (2 η √(ν (1-β₂ᵗ))), times `scale`; 0 where ν is 0, since it stays there.

        Where √ν is below a thousandth of ε, p hardly depends on it, and the slope is that at a thousandth.
        """
        root = (nu * self._correction(t)).sqrt().clamp(min=max(1e-3 * self.eps, torch.finfo(nu.dtype).tiny ** 0.5))
        return (1 / (2 * self.learning_rate(t) * root) * self.scale(t)).where(nu > 0, torch.zeros_like(nu))

    def moves(self, nu: Tensor) -> Tensor:
        """Where ν > 0."""
        return nu > 0

    def with_own(self, nu: Tensor, g: Float[Tensor, "n"]) -> Tensor:
        """ν, but no less than (1-β₂)g², since the optimizer's ν contains the gradient of its own step.

        So no step is longer than η / √(1-β₂). In a flow ν lags behind a gradient that grows many times over in a unit
        of time, as where it leaves a saddle; elsewhere this is ν.
        """
        return torch.maximum(nu, (1 - self.beta2) * self.moment(g.square()))


@OPTIMIZERS.register("ScalarRMSProp")
@dataclass(frozen=True)
class ScalarRMSProp(RMSProp):
    """RMSProp with one ν for all weights: ν ← β₂ν + (1-β₂)‖g‖², p = (√ν̂ + ε) / η · 1.

    Equation :eq:`eq-scalar`, with an ε. Conventions are those of `RMSProp`.

    Parameters
    ----------
    lr, beta2, eps, bias_correction
        As of `RMSProp`.
    """

    def moment(self, square: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        """The sum over all weights, (): ν averages ‖g‖²."""
        return square.sum()


@OPTIMIZERS.register("GradientDescent")
@dataclass(frozen=True)
class GradientDescent(Optimizer):
    """Gradient descent, w ← w - ηg: p = 1 / η, and nothing to average (ν is a zero that stays).

    Its methods take and return what those of `RMSProp` do.

    Parameters
    ----------
    lr : float, or callable t -> float
        Learning rate η > 0, or a schedule of it (t = 1 at the first step).
    """

    @property
    def rate(self) -> float:
        """0: ν does not change."""
        return 0.0

    def moment(self, square: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        """Nothing, whatever the squared gradient."""
        return square.new_zeros(())

    def update(self, nu: Tensor, g: Float[Tensor, "n"]) -> Tensor:
        """ν, unchanged."""
        return nu

    def preconditioner(self, nu: Tensor, t: float) -> Tensor:
        """p = 1 / η, (): inverse of the step size at the t-th step."""
        return torch.ones_like(nu) / self.learning_rate(t)

    def dp_dnu(self, nu: Tensor, t: float) -> Tensor:
        """Zero, ()."""
        return torch.zeros_like(nu)
