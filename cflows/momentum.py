"""Optimizers with momentum: the heavy ball, Adam and AdamW, whose step is w ← w - m / p with m ← β₁m + (1-β₁)g.

m is always the *averaged* gradient, and any other scale of it is in p. So the threshold θ = 2 (1+β₁) / (1-β₁) of P⁻¹H
and the flows are the same for all of them. Those with Nesterov's momentum take the step w ← w - (β₁m + (1-β₁)g) / p, as
if the gradient went on. There θ = 2 (1+β₁) / ((1-β₁)(1+2β₁)), between that of the others and 2, and the part of a step
that is the gradient itself acts at once in the flows. With β₁ = 0 they are gradient descent and RMSProp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from jaxtyping import Float
from torch import Tensor

from .optimizers import OPTIMIZERS, GradientDescent, RMSProp, _number


def _share(value: object, name: str) -> float:
    number = _number(value, name)
    if not 0 <= number < 1:
        raise ValueError(f"{name} is {number}; it must be in [0, 1)")
    return number


def _not_negative(value: object, name: str) -> float:
    number = _number(value, name)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} is {number}; it must be finite and not negative")
    return number


@OPTIMIZERS.register("HeavyBall")
@dataclass(frozen=True)
class HeavyBall(GradientDescent):
    """Gradient descent with momentum: b ← βb + (1-δ)g, then w ← w - ηb.

    That is ``torch.optim.SGD`` with momentum β and dampening δ, whose first b is g itself (PyTorch ignores δ if β = 0):
    the classical heavy ball :cite:`polyak1964` with δ = 0, averaged gradients with δ = β. In terms of m =
    (1-β)/(1-δ) b, an average of gradients, the preconditioner is p = (1-β) / ((1-δ)η).

    Parameters
    ----------
    lr : float, or callable t -> float
        Learning rate η > 0, or a schedule of it (t = 1 at the first step).
    beta : float
        Momentum β in [0, 1).
    dampening : float
        δ in [0, 1).

    Examples
    --------
    >>> HeavyBall(0.1, beta=0.5).threshold  # of P⁻¹H, where p = 5: the curvature reaches 30 = 2 (1 + β) / η
    6.0
    """

    beta: float = 0.9
    dampening: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("beta", "dampening"):
            object.__setattr__(self, name, _share(getattr(self, name), name))

    @property
    def memory(self) -> float:
        """β."""
        return self.beta

    def preconditioner(self, nu: Tensor, t: float) -> Tensor:
        """p = (1-β) / ((1-δ)η), ()."""
        return super().preconditioner(nu, t) * ((1 - self.beta) / (1 - self.dampening))

    def momentum(
        self, m: Float[Tensor, "n"] | None, g: Float[Tensor, "n"], t: float
    ) -> tuple[Float[Tensor, "n"] | None, Float[Tensor, "n"]]:
        """βm + (1-β)g twice; at the first step (1-β)/(1-δ) g, as PyTorch has it."""
        if m is None and self.dampening and self.beta:
            m = (1 - self.beta) / (1 - self.dampening) * g
            return m, m
        return super().momentum(m, g, t)


@OPTIMIZERS.register("Nesterov")
@dataclass(frozen=True)
class Nesterov(HeavyBall):
    """Gradient descent with Nesterov's momentum: b ← βb + g, then w ← w - η(g + βb).

    That is ``torch.optim.SGD`` with ``nesterov=True``, in the form of Sutskever et al. :cite:yearpar:`sutskever2013`,
    and its w is where gradients are taken. In terms of m = (1-β)b the step is (βm + (1-β)g) / p with p = (1-β) / η.

    Parameters
    ----------
    lr, beta
        As of `HeavyBall`.
    dampening : float
        0: PyTorch has no other one with Nesterov's momentum.

    Examples
    --------
    >>> opt = Nesterov(0.1, beta=0.5)
    >>> opt.threshold  # of P⁻¹H, where p = 5: the curvature reaches 15 = 2 (1 + β) / (η (1 + 2β))
    3.0
    """

    def __post_init__(self):
        super().__post_init__()
        if self.dampening:
            raise ValueError(f"dampening is {self.dampening}; Nesterov's momentum has none")

    @property
    def lead(self) -> float:
        """1-β."""
        return 1 - self.beta


@OPTIMIZERS.register("Adam")
@dataclass(frozen=True, kw_only=True)
class Adam(RMSProp):
    """Adam :cite:`kingma2015`: m ← β₁m + (1-β₁)g, ν ← β₂ν + (1-β₂)g², then w ← w - m̂ / (√ν̂ + ε) · η.

    Equation :eq:`eq-adam`, with an ε; its threshold is :eq:`eq-adam-threshold`.
    Both start at zero; with bias correction m̂ = m / (1-β₁ᵗ) and ν̂ = ν / (1-β₂ᵗ) at the t-th step, which is
    ``torch.optim.Adam``. The correction of m is in the preconditioner, p = (1-β₁ᵗ)(√ν̂ + ε) / η, so that the step is
    -m / p. With β₁ = 0 this is `RMSProp`.

    Parameters
    ----------
    lr : float, or callable t -> float
        Learning rate η > 0, or a schedule of it (t = 1 at the first step). Flows ask a schedule at real t, up to one
        past the last step.
    beta1 : float
        Decay β₁ in [0, 1) of the averaged gradient.
    beta2 : float
        Decay β₂ in [0, 1) of the averaged square. Flows need β₂ > 0.
    eps : float
        ε ≥ 0, as of `RMSProp`.
    bias_correction : bool
        Whether both averages are corrected for their start at zero.

    Examples
    --------
    >>> round(Adam(1e-3, beta1=0.9).threshold, 12)
    38.0
    """

    beta2: float = 0.999
    eps: float = 0.0
    bias_correction: bool = True
    beta1: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "beta1", _share(self.beta1, "beta1"))

    @property
    def memory(self) -> float:
        """β₁."""
        return self.beta1

    def _filled(self, t: float) -> float:
        return 1 - self.beta1**t if self.bias_correction else 1.0

    def scale(self, t: float) -> float:
        """1-β₁ᵗ with bias correction: p = (1-β₁ᵗ)(√ν̂ + ε) / η."""
        return self._filled(t)

    def between(self, m: Float[Tensor, "n"] | None, g: Float[Tensor, "n"], t: float) -> Float[Tensor, "n"]:
        """As of `Optimizer`, but in proportion to 1-β₁ᵗ, as after the step: (1-β₁ᵗ)g if all gradients were g."""
        return super().between(m, g, t) * (self._filled(t) / self._filled(t - 0.5))


@OPTIMIZERS.register("AdamW")
@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay λ :cite:`loshchilov2019`: w ← (1-ηλ) w - m / p, ``torch.optim.AdamW``.

    Equation :eq:`eq-adamw`.
    The decay acts outside of the gradient. Neither m nor ν contains it. It leaves 2 - ηλ of the 2 that an iterate has
    to move to be its opposite, so the threshold is (2-ηλ) (1+β₁) / (1-β₁); under a schedule, that of its first η.

    Parameters
    ----------
    lr, beta1, beta2, eps, bias_correction
        As of `Adam`.
    weight_decay : float
        λ ≥ 0, with ηλ < 1.
    """

    weight_decay: float = 1e-2

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "weight_decay", _not_negative(self.weight_decay, "weight_decay"))
        self.decay(1)

    def decay(self, t: float) -> float:
        """ηλ at the t-th step."""
        share = self.learning_rate(t) * self.weight_decay
        if share >= 1:
            raise ValueError(
                f"lr · weight_decay is {share:.3g}; a step takes that share of the weights, so keep it well below 1"
            )
        return share

    @property
    def threshold(self) -> float:
        """(2-ηλ) (1+β₁) / (1-β₁)."""
        return (1 - self.decay(1) / 2) * super().threshold


@OPTIMIZERS.register("NAdam")
@dataclass(frozen=True, kw_only=True)
class NAdam(Adam):
    """Adam with Nesterov's momentum :cite:`dozat2016`: w ← w - (a g + b m) / (√ν̂ + ε) · η, m and ν as of `Adam`.

    That is ``torch.optim.NAdam`` without its decoupled weight decay. Its momentum has a schedule, μ_t = β₁ (1 - ½
    0.96^(ψt)). With Π_t = μ₁⋯μ_t, the t-th step has a = (1-μ_t) / (1-Π_t) and b = μ_{t+1} / (1-Π_t μ_{t+1}). They go to
    1-β₁ and β₁ within some multiples of 25/ψ steps, thousands with PyTorch's ψ. Until then an oscillation begins at a
    smaller curvature. That is in the preconditioner, as Adam's bias correction is: p = (√ν̂ + ε) / η · (2/θ) / (a + b
    (1-β₁)/(1+β₁)). So θ = 2 (1+β₁) / ((1-β₁)(1+2β₁)) at all times.

    Parameters
    ----------
    lr, beta1, beta2, eps
        As of `Adam`.
    bias_correction : bool
        Whether averages are corrected for their start at zero; without, Π_t is taken as 0.
    momentum_decay : float
        ψ ≥ 0.

    Examples
    --------
    >>> round(NAdam(1e-3, beta1=0.9).threshold, 2)
    13.57
    """

    momentum_decay: float = 4e-3

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "momentum_decay", _not_negative(self.momentum_decay, "momentum_decay"))

    @property
    def lead(self) -> float:
        """1-β₁."""
        return 1 - self.beta1

    def _parts(self, t: float) -> tuple[float, float]:
        """a and b; between two steps Π is a geometric mean."""
        beta, decay = self.beta1, self.momentum_decay
        product = _product(beta, decay, int(t)) * _mu(beta, decay, int(t) + 1) ** (t - int(t))
        if not self.bias_correction:
            product = 0.0
        ahead = _mu(beta, decay, t + 1)
        return (1 - _mu(beta, decay, t)) / (1 - product), ahead / (1 - product * ahead)

    def scale(self, t: float) -> float:
        """(2/θ) / (a + b (1-β₁)/(1+β₁))."""
        own, averaged = self._parts(t)
        return 2 / self.threshold / (own + (1 - self.beta1) / (1 + self.beta1) * averaged)

    def shares(self, t: float) -> tuple[float, float]:
        """a and b, each times (2/θ) / (a + (1-β₁)/(1+β₁) b)."""
        scale = self.scale(t)
        own, averaged = self._parts(t)
        return scale * own, scale * averaged


def _mu(beta: float, decay: float, t: float) -> float:
    return beta * (1 - 0.5 * 0.96 ** (t * decay))


@cache
def _product(beta: float, decay: float, t: int) -> float:
    """μ₁⋯μ_t, or 0 where it is below rounding."""
    product = 1.0
    for i in range(1, t + 1):
        product *= _mu(beta, decay, i)
        if product < 1e-18:
            return 0.0
    return product
