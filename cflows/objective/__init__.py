"""A training objective as a function of one flat weight vector, with its derivatives up to the third order."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from .. import modules
from . import derivative_check, terms
from .full_batch import batch_terms
from .own_loss import loss_terms
from .terms import Term, vjp

__all__ = ["Objective"]

HVP = Callable[[Tensor], Tensor]


class Objective:
    """A smooth scalar loss L(w) of a flat weight vector w (n,).

    Gradients are PyTorch's own and live on the device and in the dtype of ``w0``. Hessian-vector products use reverse
    mode twice :cite:`pearlmutter1994`, which is exact where PyTorch's kernels are. Some kernels are wrong (weight
    normalisation, for example), others have no second derivatives. The first call for products therefore compares two
    of them with each other and with a difference of gradients. If they disagree, all products are differences of
    gradients, and a warning says so. Third derivatives are checked in the same way. A loss given as a list of terms is
    differentiated term by term, so that memory is that of the largest term. Objectives of the same weights can be
    added: ``f + Objective(lambda w: 1e-3 * w.square().sum(), f.w0)``.

    Parameters
    ----------
    loss : callable, Tensor (n,) -> scalar Tensor, or a sequence of such callables
        The loss, or the terms that sum to it. It must be smooth. Flows take third
        derivatives by differences of gradients; PyTorch's own serve `hessian_gradients` alone.
    w0 : Tensor (n,)
        Initial weights; fixes n, dtype and device.
    check : bool
        Whether PyTorch's second and third derivatives are checked before their first use (once; about the time of ten
        gradients for products, fifty for third derivatives).

    Attributes
    ----------
    w0 : Tensor (n,)
        A copy of the initial weights.

    Raises
    ------
    TypeError
        If ``w0`` is not a float32 or float64 tensor.
    ValueError
        If ``w0`` is not one-dimensional, is empty or holds values that are not finite.

    Examples
    --------
    >>> f = Objective(lambda w: (w**3).sum() / 6, torch.tensor([1.0, 2.0]))
    >>> f.hvp(f.w0, torch.eye(2))  # the Hessian is diag(w)
    tensor([[1., 0.],
            [0., 2.]])
    """

    def __init__(
        self,
        loss: Callable[[Tensor], Tensor] | list[Callable[[Tensor], Tensor]],
        w0: Float[Tensor, "n"],
        check: bool = True,
    ):
        if not isinstance(w0, Tensor) or w0.dtype not in (torch.float32, torch.float64):
            kind = w0.dtype if isinstance(w0, Tensor) else type(w0).__name__
            raise TypeError(
                f"w0 is {kind}; it must be a torch.Tensor of shape (n,) in float32 or float64 (in fewer bits second "
                "derivatives drown in rounding)"
            )
        if w0.ndim != 1 or w0.numel() == 0:
            raise ValueError(f"w0 has shape {tuple(w0.shape)}; it must be a non-empty flat vector (n,)")
        if not w0.isfinite().all():
            raise ValueError("w0 holds values that are not finite; start from finite weights")
        losses = list(loss) if isinstance(loss, (list, tuple)) else [loss]
        if not losses or not all(callable(term) for term in losses):
            raise TypeError(f"loss is {loss!r}; it must be a function of the weights, or a list of such terms")
        self.w0 = w0.detach().clone()
        self._terms = [Term(term) for term in losses]
        self._split = False  # whether the terms are this process's share of them
        self._model: tuple[modules.Binding, nn.Module] | None = None
        self._check_derivatives = check
        self._depends = False  # whether the loss is known to depend on the weights
        self._right: dict[str, bool] = {}  # whether PyTorch's own derivatives, by name, are right; absent if unchecked

    @property
    def dim(self) -> int:
        """Number of weights, n."""
        return self.w0.numel()

    @property
    def binding(self) -> modules.Binding | None:
        """The module whose parameters the weights are; None for an objective made from a loss."""
        return self._model[0] if self._model else None

    def nearby(self, w: Float[Tensor, "n"], share: float = 0.05, seed: int = 0) -> Float[Tensor, "n"]:
        """Weights near w, at which no gradient vanishes merely because a layer starts at zero.

        Parameters
        ----------
        w : Tensor (n,)
        share : float
            Distance, relative to the size of each parameter.
        seed : int
            Of the random direction.

        Returns
        -------
        Tensor (n,)
        """
        return terms.nearby(self.binding, w, share, seed)

    def __call__(self, w: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        """The loss at w, differentiable by PyTorch (of this process's terms alone, if they are split)."""
        self._flat(w)
        loss = terms.value(self._terms, w)
        return loss.detach() if loss.requires_grad and not w.requires_grad else loss

    def __radd__(self, other: object) -> Objective:
        return self if other == 0 else NotImplemented  # sum() begins with 0

    def __add__(self, other: Objective) -> Objective:
        if not isinstance(other, Objective):
            return NotImplemented
        if (self.dim, self.w0.dtype) != (other.dim, other.w0.dtype) or self._split != other._split:
            raise ValueError(
                f"objectives of {self.dim} weights in {self.w0.dtype} and {other.dim} in {other.w0.dtype} can't be "
                "added; both must be of the same weights, and both or none of them split"
            )
        f = copy.copy(self)
        f._depends = self._depends or other._depends
        f._terms, f._model, f._right = self._terms + other._terms, self._model or other._model, {}
        return f

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        batch_size: int | None = None,
        split: bool = False,
        check: bool = True,
    ) -> Objective:
        """The full-batch loss criterion(module(inputs), targets) of a module's trainable parameters.

        The module is left unchanged. The objective copies its trainable weights and buffers, and reads its frozen
        weights in place.

        Parameters
        ----------
        module : torch.nn.Module
            Any module without randomness or memory: put dropout in ``eval()`` mode.
        criterion : callable
            (outputs, targets) -> scalar. It may read the module's parameters.
        inputs, targets : Tensor (N, ...)
            All the data, on the module's device; they are not copied.
        batch_size : int, optional
            Examples in a term (bounds memory; the loss is still that of all N). The criterion must be a sum or a mean
            over examples; class weights and ``ignore_index`` are accounted for.
        split : bool
            The data are this process's share, and the loss is that of all processes of ``torch.distributed`` (start it
            with ``torchrun`` and ``init_process_group``: gloo on CPUs, nccl on GPUs). Every derivative is summed over
            the processes, so that each of them can run `simulate` and gets the same result.
        check : bool
            Whether to check that the loss is the same at each evaluation, and in batches that of all data. This takes
            three gradients near the module's weights, and one or two more in batches. Also as in `Objective`.

        Returns
        -------
        Objective

        Raises
        ------
        TypeError
            If parameters or data have types that can't be handled, or the module returns something other than a tensor.
        ValueError
            If the module has no trainable parameters, is random, has buffers that change or layers that can't be
            handled; if the data do not match or hold NaN; if ``batch_size`` or ``split`` is set and module or criterion
            mix examples; if the loss reads tensors that were taken from the module before; or if split processes start
            from different weights.
        """
        binding = modules.Binding(module)
        f = cls(lambda w: w.sum(), binding.w0, check)
        f._terms = batch_terms(binding, criterion, inputs, targets, batch_size, split, check)
        f._model, f._split = (binding, module), split
        return f

    @classmethod
    def from_loss(
        cls,
        module: nn.Module,
        loss: Callable[[nn.Module, Any], Tensor | tuple[Tensor, Any]],
        data: Any,
        batch_size: int | None = None,
        weight_decay: float = 0.0,
        check: bool = True,
    ) -> Objective:
        """The loss of a module over all data, as you compute it: any inputs, outputs and targets.

        The module is left unchanged, as by `from_module`.

        Parameters
        ----------
        module : torch.nn.Module
            As of `from_module`.
        loss : callable (module, batch)
            The loss of a batch: a scalar, the mean over its examples; or (sum, weight), a scalar sum and the number
            of what was summed (such as tokens that are not padding), or the sum of their weights. The loss over all
            data then is the sum of all sums over that of all weights.
        data
            A tensor, or dicts, lists and tuples of tensors with the examples along the first dimension; a Dataset; or
            a DataLoader, gone through once. A batch has the same form. Tensors on the module's device are not copied.
        batch_size : int, optional
            As of `from_module`.
        weight_decay : float
            Factor λ of a penalty ½ λ ‖w‖² on the trainable weights, as of ``torch.optim``.
        check : bool
            As of `from_module`.

        Returns
        -------
        Objective

        Raises
        ------
        TypeError
            If parameters have types that can't be handled, or the loss returns different kinds of things.
        ValueError
            If the loss returns no scalar, is random, changes what it is given or mixes examples across batches; if the
            data have no length in common; or as of `from_module`.

        Examples
        --------
        >>> data = {"x": torch.eye(2), "y": torch.ones(2, 1)}
        >>> f = Objective.from_loss(nn.Linear(2, 1), lambda m, b: (m(b["x"]) - b["y"]).square().mean(), data)
        """
        binding = modules.Binding(module)
        f = cls(lambda w: w.sum(), binding.w0, check)
        f._terms = loss_terms(binding, loss, data, batch_size, weight_decay, check)
        f._model = (binding, module)
        return f

    def outputs(self, w: Float[Tensor, "n"], inputs: Tensor) -> Tensor:
        """The module's outputs for any inputs, at weights w.

        Parameters
        ----------
        w : Tensor (n,)
        inputs : Tensor (N, ...)

        Returns
        -------
        Tensor (N, ...)

        Raises
        ------
        TypeError
            If the objective was made from a function of the weights, and not from a module.
        """
        if self._model is None:
            raise TypeError("this objective is a function of weights, without outputs; use Objective.from_module")
        binding, module = self._model
        out = terms.within(binding, self._flat(w), lambda: module(inputs))
        return out if w.requires_grad else out.detach()

    def value_and_grad(self, w: Float[Tensor, "n"]) -> tuple[Float[Tensor, ""], Float[Tensor, "n"]]:
        """Loss and gradient.

        Parameters
        ----------
        w : Tensor (n,)

        Returns
        -------
        loss : Tensor ()
            L(w).
        gradient : Tensor (n,)
            ∇L(w).
        """
        loss, grad = terms.gradient(self._terms, self._check(w))
        if not self._depends:
            terms.require_dependence(self._terms, w, grad)
            self._depends = True
        return self._sum(loss), self._sum(grad)

    def hvp(self, w: Float[Tensor, "n"], V: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Hessian-vector products, column by column (memory does not grow with k).

        Parameters
        ----------
        w : Tensor (n,)
        V : Tensor (n, k)

        Returns
        -------
        Tensor (n, k)
            H(w)V.
        """
        return self.linearize(w)[2](V)

    def linearize(self, w: Float[Tensor, "n"]) -> tuple[Float[Tensor, ""], Float[Tensor, "n"], HVP]:
        """Loss, gradient and the map V (n, k) -> H(w)V (n, k) at one point.

        The products of a loss with one term share the graph of the gradient, which saves forward passes; the graph
        lives as long as the map. With several terms, each call builds one graph at a time.

        Parameters
        ----------
        w : Tensor (n,)

        Returns
        -------
        loss : Tensor ()
            L(w).
        gradient : Tensor (n,)
            ∇L(w).
        hvp : callable, Tensor (n, k) -> Tensor (n, k)
            V to H(w)V.
        """
        w = self._check(w).clone().requires_grad_()  # the caller may change its own later
        if not self._trusted("products", w):
            return *self.value_and_grad(w), lambda V: derivative_check.products(self, w.detach(), self._check(V, 2))
        return self._linearize(w)

    def _linearize(self, w: Float[Tensor, "n"]) -> tuple[Tensor, Tensor, HVP]:
        """`linearize` by PyTorch's second derivatives, whether they are right or not."""
        if len(self._terms) == 1:
            (term,) = self._terms
            loss, grad = term.within(w, lambda: term.gradient(w, create_graph=True))
            loss, g = self._sum(loss.detach().clone()), self._sum(grad.detach().clone())
            return loss, g, lambda V: self._sum(term.within(w, lambda: terms.products(grad, w, self._check(V, 2))))

        def product(term: Term, V: Tensor) -> Tensor:
            return terms.products(term.gradient(w, create_graph=True)[1], w, V)

        def hvp(V: Tensor) -> Tensor:
            V = self._check(V, 2)
            return self._sum(sum((t.within(w, partial(product, t, V)) for t in self._terms), torch.zeros_like(V)))

        return *self.value_and_grad(w), hvp

    def hessian_gradients(self, w: Float[Tensor, "n"], U: Float[Tensor, "n k"]) -> Float[Tensor, "k k n"]:
        """Third derivatives T[i, j] = ∇_w (uᵢᵀ H(w) uⱼ) for the columns of U; T is symmetric in i, j.

        Costs k Hessian-vector products and k(k+1)/2 further backward passes.

        Parameters
        ----------
        w : Tensor (n,)
        U : Tensor (n, k)

        Returns
        -------
        Tensor (k, k, n)
            T.
        """
        w, U = self._check(w).requires_grad_(), self._check(U, 2)
        if U.shape[1] and not self._trusted("third derivatives", w):
            return derivative_check.hessian_gradients(self, w.detach(), U)
        return self._hessian_gradients(w, U)

    def _hessian_gradients(self, w: Float[Tensor, "n"], U: Float[Tensor, "n k"]) -> Float[Tensor, "k k n"]:
        """`hessian_gradients` by PyTorch's third derivatives, whether they are right or not."""
        k = U.shape[1]
        T = w.new_zeros(k, k, self.dim)

        def accumulate(term: Term) -> None:
            grad = term.gradient(w, create_graph=True)[1]
            for j in range(k):
                Hu = vjp(grad, w, U[:, j], create_graph=True)
                for i in range(j + 1):
                    T[i, j] += vjp(Hu, w, U[:, i])

        for term in self._terms:
            term.within(w, partial(accumulate, term))
        for i, j in itertools.combinations(range(k), 2):
            T[j, i] = T[i, j]
        return self._sum(T)

    def _sum(self, x: Tensor) -> Tensor:
        """The sum of a derivative over the processes among which the terms are split, in place."""
        if self._split:
            dist.all_reduce(x)
        return x

    def _trusted(self, what: str, w: Float[Tensor, "n"]) -> bool:
        """Whether PyTorch's own products, or third derivatives, are right: checked once, near w."""
        if what not in self._right:
            self._right[what] = True  # so that the check itself can use them
            try:
                wrong = derivative_check.fault(self, w.detach(), what != "products") if self._check_derivatives else ""
            except BaseException:
                del self._right[what]
                raise
            if wrong:
                self._right[what] = False
                warnings.warn(
                    f"PyTorch's {what} of this loss {wrong}; differences are used instead, which are slower and less "
                    "exact",
                    stacklevel=4,
                )
        return self._right[what]

    def _check(self, w: Tensor, ndim: int = 1) -> Tensor:
        return self._flat(w, ndim).detach()

    def _flat(self, w: Tensor, ndim: int = 1) -> Tensor:
        """w, if its shape and type are those of the weights or of vectors beside them; else an error."""
        expected = f"({self.dim},)" if ndim == 1 else f"({self.dim}, k)"
        if not isinstance(w, Tensor) or w.ndim != ndim or w.shape[0] != self.dim:
            raise ValueError(f"got {terms.describe(w)} where a tensor of shape {expected} is needed")
        if w.dtype != self.w0.dtype:
            raise TypeError(f"got {w.dtype} where the weights are {self.w0.dtype}; convert with .to(f.w0)")
        if w.device != self.w0.device:
            raise ValueError(f"got a tensor on {w.device} where the weights are on {self.w0.device}; use .to(f.w0)")
        return w
