"""RMSProp, Scalar RMSProp and gradient descent, each as a preconditioner p(ν, t) and a rule for ν.

All three take the step w ← w - g / p. They differ in the *moment* of the gradient that ν averages:
g² for each weight, ‖g‖² for all, or nothing. Flows need of an optimizer what is written here and no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Schedule = Callable[[float], float]


def _number(value: object, name: str) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError(f"{name} is {value!r}; it must be a number")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {value!r}; it must be a number") from error


@dataclass(frozen=True)
class _Optimizer:
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


@dataclass(frozen=True)
class RMSProp(_Optimizer):
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

    def init(self, w: Float[Tensor, "n"]) -> Tensor:
        """ν before the first step: zero.

        Parameters
        ----------
        w : Tensor (n,)
            Weights; fixes n, dtype and device.

        Returns
        -------
        Tensor (n,), or () if there is one ν for all weights
        """
        return torch.zeros_like(self.moment(w))

    def moment(self, square: Float[Tensor, "n"]) -> Tensor:
        """What ν averages, as a linear function of the squared gradient.

        Parameters
        ----------
        square : Tensor (n,)

        Returns
        -------
        Tensor (n,) or (), like ν
        """
        return square

    def update(self, nu: Tensor, g: Float[Tensor, "n"]) -> Tensor:
        """ν after a step.

        Parameters
        ----------
        nu : Tensor (n,) or ()
            ν before it.
        g : Tensor (n,)
            Gradient.

        Returns
        -------
        Tensor, like ν
        """
        return self.beta2 * nu + (1 - self.beta2) * self.moment(g.square())

    @property
    def rate(self) -> float:
        """c = (1-β₂) / β₂ of the flows: exactly ν_t - ν_{t-1} = c (g_t² - ν_t)."""
        if self.beta2 == 0:
            raise ValueError("beta2 is 0: ν follows the gradient at once and has no flow; use beta2 > 0")
        return (1 - self.beta2) / self.beta2

    def _correction(self, t: float) -> float:
        return 1 - self.beta2**t if self.bias_correction else 1.0

    def preconditioner(self, nu: Tensor, t: float) -> Tensor:
        """p, the inverse of the effective step size.

        Parameters
        ----------
        nu : Tensor (n,) or ()
            ν of the step, which contains its gradient.
        t : float
            Number of the step.

        Returns
        -------
        Tensor, like ν
        """
        return ((nu / self._correction(t)).sqrt() + self.eps) / self.learning_rate(t)

    def dp_dnu(self, nu: Tensor, t: float) -> Tensor:
        """∂p / ∂ν = 1 / (2 η √(ν (1-β₂ᵗ))); 0 where ν is 0, since it stays there.

        Where √ν is below a thousandth of ε, p hardly depends on it, and the slope is that at a thousandth.

        Parameters
        ----------
        nu, t
            As of `preconditioner`.

        Returns
        -------
        Tensor, like ν
        """
        root = (nu * self._correction(t)).sqrt().clamp(min=max(1e-3 * self.eps, torch.finfo(nu.dtype).tiny ** 0.5))
        return (1 / (2 * self.learning_rate(t) * root)).where(nu > 0, torch.zeros_like(nu))

    def moves(self, nu: Tensor) -> Tensor:
        """Whether a weight has ever had a gradient: until then it is at rest, whatever the curvature.

        Parameters
        ----------
        nu : Tensor (n,) or ()

        Returns
        -------
        bool Tensor, like ν
        """
        return nu > 0

    def with_own(self, nu: Tensor, g: Float[Tensor, "n"]) -> Tensor:
        """ν, but no less than (1-β₂)g², since the optimizer's ν contains the gradient of its own step.

        So no step is longer than η / √(1-β₂). In a flow ν lags behind a gradient that grows many times over in a unit
        of time, as where it leaves a saddle; elsewhere this is ν.

        Parameters
        ----------
        nu : Tensor (n,) or ()
        g : Tensor (n,)
            Gradient.

        Returns
        -------
        Tensor, like ν
        """
        return torch.maximum(nu, (1 - self.beta2) * self.moment(g.square()))


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
        """The sum over all weights: ν averages ‖g‖².

        Parameters
        ----------
        square : Tensor (n,)

        Returns
        -------
        Tensor ()
        """
        return square.sum()


@dataclass(frozen=True)
class GradientDescent(_Optimizer):
    """Gradient descent, w ← w - ηg: p = 1 / η, and nothing to average (ν is a zero that stays).

    Its methods take and return what those of `RMSProp` do.

    Parameters
    ----------
    lr : float, or callable t -> float
        Learning rate η > 0, or a schedule of it (t = 1 at the first step).
    """

    #: c of the flows.
    rate = 0.0

    def init(self, w: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        """ν before the first step: zero."""
        return self.moment(w)

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

    def moves(self, nu: Tensor) -> Tensor:
        """True, ()."""
        return torch.ones_like(nu, dtype=torch.bool)

    def with_own(self, nu: Tensor, g: Float[Tensor, "n"]) -> Tensor:
        """ν, unchanged."""
        return nu


#: Any of them.
Optimizer = RMSProp | GradientDescent
