"""How far an ordinary training run is from its own edge of stability: a gauge for optimizers of ``torch.optim``.

With its state held fixed, an optimizer is a linear recursion near any point: w moves by -m / p, where p contains the
learning rate and the root of the averaged squared gradients, and m is what momentum makes of the gradient. An
oscillation w → -w neither grows nor decays if Hw = θ p ⊙ w, with the threshold θ: 2 without momentum. So the edge is
where the largest eigenvalue of P⁻¹H is θ; beyond, the oscillation grows until ν or the curvature has changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn, optim

from ..eigen import top_eigenpairs
from ..objective.terms import within
from .along import METHODS, Quotient, Watch
from .probe import Probe, untouched
from .rules import RULES, next_step

__all__ = ["Gauge", "Quotient", "Reading"]


@dataclass(frozen=True)
class Reading:
    """What a gauge says at a step.

    Attributes
    ----------
    eigenvalues : Tensor (k,)
        The largest of P⁻¹H; over the threshold, if parameter groups have several thresholds.
    threshold : float
        θ, at which the optimizer oscillates along an eigenvector; 1 if groups have several.
    ratio : float
        The largest eigenvalue over the threshold: above 1 the optimizer is beyond its edge.
    residuals : Tensor (k,)
        Of the eigenpairs, in the units of the eigenvalues, whose own errors are of the order of the squares.
    eps_share : float
        Share of ε in the preconditioner along the first eigenvector. Near 1 it is a floor, and not ν, that holds the
        eigenvalue down; or the eigenvector is of weights that the probe batch moves and training does not.
    max_lr : float, or list of float
        Learning rate, a list of all different ones if groups differ, at which the ratio would be 1 with ν and weights
        as they are. No advice: both change as soon as the learning rate does.
    loss : float
        On the probe batch.
    products : int
        Hessian-vector products spent.
    step : int
        Steps that the optimizer has taken, where it counts them; else 0.
    """

    eigenvalues: Float[Tensor, "k"]
    threshold: float
    ratio: float
    residuals: Float[Tensor, "k"]
    eps_share: float
    max_lr: float | list[float]
    loss: float
    products: int
    step: int

    def __str__(self) -> str:
        rates = self.max_lr if isinstance(self.max_lr, list) else [self.max_lr]
        floor = f"ε is {self.eps_share:.0%} of the preconditioner there; " if self.eps_share >= 0.01 else ""
        return (
            f"step {self.step}: largest eigenvalue {self.eigenvalues[0]:.4g} of {self.threshold:.4g} "
            f"(ratio {self.ratio:.3f}), stable up to a learning rate of {', '.join(f'{x:.3g}' for x in rates)}; "
            f"{floor}{self.products} products"
        )


class Gauge:
    """The largest eigenvalues of the preconditioned Hessian of a training run, against the optimizer's threshold.

    The gauge reads the optimizer's state and changes nothing: weights, gradients, states and random numbers are those
    of a run without it (and buffers, if it is given the module). The preconditioner is that of the optimizer's last
    step, with the learning rate that the groups have now. Groups with a learning rate of 0 count as frozen.

    Parameters
    ----------
    optimizer
        Of ``torch.optim``: SGD, RMSprop, Adagrad, Adam, AdamW, NAdam or Adamax, with any options, parameter groups
        and schedules.
    loss : callable () -> scalar Tensor
        Loss on a probe batch, always the same one, as a function of the optimizer's parameters as they are. Its
        gradient must be in the units of those that the optimizer is given: where these are clipped, or sums of several
        batches, multiply the loss by the same factor. It must not call ``backward()``.
    module : torch.nn.Module, optional
        Its buffers are put back as they were, where evaluating the loss changes them (batch normalisation).

    Raises
    ------
    TypeError
        If it is another optimizer, or parameters are not in float32 or float64.

    Examples
    --------
    >>> w = torch.tensor([1.0, 1.0], requires_grad=True)
    >>> optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    >>> gauge = Gauge(optimizer, lambda: (w * w * torch.tensor([1.0, 15.0])).sum())
    >>> print(gauge.measure())
    step 0: largest eigenvalue 3 of 3.8 (ratio 0.789), stable up to a learning rate of 0.127; 2 products
    """

    def __init__(self, optimizer: optim.Optimizer, loss: Callable[[], Tensor], module: nn.Module | None = None):
        if type(optimizer) not in RULES:
            known = ", ".join(kind.__name__ for kind in RULES)
            raise TypeError(f"the gauge does not know {type(optimizer).__name__}; it knows {known}")
        self.optimizer, self.probe = optimizer, Probe(loss, module)
        self._guesses: Tensor | None = None
        self._checked = False

    def measure(self, k: int = 1, tol: float = 1e-2) -> Reading:
        """Find the k largest eigenvalues, with the fewer products, the nearer the last measurement is.

        Parameters
        ----------
        k : int
        tol : float
            Residual allowed, relative to the largest eigenvalue.

        Returns
        -------
        Reading

        Raises
        ------
        ValueError
            If the optimizer has taken no step yet, or the loss is no scalar that depends on its parameters.
        ConvergenceError
            If eigenpairs do not converge.

        Warns
        -----
        UserWarning
            At the first measurement, if PyTorch's second derivatives of the loss are wrong.
        """
        now = next_step(self.optimizer)
        parameters, sizes = now.parameters, [parameter.numel() for parameter in now.parameters]

        def compute() -> Any:
            value, gradient = self.probe.gradient(parameters, create_graph=True)

            def hvp(V: Tensor) -> Tensor:
                HV = torch.zeros_like(V)
                for j, v in enumerate(V.unbind(1)):
                    HV[:, j] = self.probe.product(gradient, parameters, v)
                return now.sign[:, None] * HV + now.decay[:, None] * V

            guesses = self._guesses if self._guesses is not None and len(self._guesses) == sum(sizes) else None
            return value.detach(), top_eigenpairs(hvp, now.edge, k, guesses, tol)

        grads = [(p.grad, None if p.grad is None else p.grad._version) for p in parameters]
        with untouched(self.probe.module):
            value, pairs = within(None, None, compute)
        if not self._checked:
            u, own = pairs.U[:, 0], now.decay * pairs.U[:, 0]
            Hu = now.sign * (pairs.HU[:, 0] - own)
            with untouched(self.probe.module):  # with the same random numbers
                within(None, None, lambda: self.probe.check(parameters, u, Hu, float(own.norm())))
            self._checked = True
        if grads != [(p.grad, None if p.grad is None else p.grad._version) for p in parameters]:
            raise ValueError(
                "the loss has changed the gradients of the optimizer's parameters; it must not call backward()"
            )
        self._guesses = pairs.start
        unit = next(iter(now.thresholds)) if len(now.thresholds) == 1 else 1.0
        ratio, u = float(pairs.values[0]), pairs.U[:, 0]
        rates = [self._max_lr(lr, shrink, ratio) for lr, shrink in now.rates]
        return Reading(
            eigenvalues=unit * pairs.values,
            threshold=unit,
            ratio=ratio,
            residuals=unit * pairs.residuals,
            eps_share=float((u * now.floor * u).sum() / (u * now.edge * u).sum()),
            max_lr=rates[0] if len(rates) == 1 else rates,
            loss=float(value),
            products=pairs.products,
            step=now.count,
        )

    def attach(
        self, report: Callable[[Any], object], every: int = 100, method: str = "eigenvalues", k: int = 1
    ) -> ExitStack:
        """Report from the training loop itself, at every so many steps of the optimizer.

        Parameters
        ----------
        report : callable
            Is given each `Reading`, or `Quotient`: ``print``, for example, or
            ``lambda r: writer.add_scalar("edge", r.ratio, r.step)``.
        every : int
            Steps from one report to the next. A report of eigenvalues takes as long as ten steps or more, where the
            probe batch is as large as that of a step.
        method : str
            "eigenvalues": `measure`. The others see the curvature along one step alone, at two of its points or
            between them, and cost less. "product": one Hessian-vector product. "losses": three values of the loss on
            the probe batch. "gradients": copies of weights and gradients alone, since it compares the gradients of two
            steps of the run itself; it is right where these are of the same batch, and comes one step late.
        k : int
            Eigenvalues, as of `measure`.

        Returns
        -------
        contextlib.ExitStack
            Its ``close()``, or the end of a ``with`` block, ends the reports.

        Raises
        ------
        ValueError
            If there is no such method, or ``every`` is not positive.
        """
        if method not in METHODS:
            raise ValueError(f"method is {method!r}; it must be one of {', '.join(METHODS)}")
        if every < 1:
            raise ValueError(f"every is {every}; it must be at least 1")
        watch = Watch(self.optimizer, self.probe, report, every, method)
        if method == "eigenvalues":
            watch.look = lambda: self.measure(k)
        stack = ExitStack()
        stack.callback(self.optimizer.register_step_pre_hook(watch.before).remove)
        stack.callback(self.optimizer.register_step_post_hook(watch.after).remove)
        return stack

    @staticmethod
    def _max_lr(lr: float, shrink: float, ratio: float) -> float:
        """η at which the ratio is 1: it is proportional to η / (2 - ηλ), with a decoupled weight decay λ."""
        slope = ratio * (2 - lr * shrink) / lr
        return 2 / (slope + shrink) if slope + shrink > 0 else math.inf
