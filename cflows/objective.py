"""A training objective as a function of one flat weight vector, with its derivatives up to the third order."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import checks, modules

HVP = Callable[[Tensor], Tensor]


class Term(NamedTuple):
    """A term of a loss.

    Attributes
    ----------
    loss : callable, Tensor (n,) -> scalar Tensor
        Its value.
    binding : modules.Binding, optional
        The module whose tensors are to be exchanged while it is computed, and differentiated.
    """

    loss: Callable[[Tensor], Tensor]
    binding: modules.Binding | None = None

    def within(self, w: Float[Tensor, "n"], compute: Callable[[], Any]) -> Any:
        """The result of a computation of the term or its derivatives at w."""
        return _within(self.binding, w, compute)

    def gradient(self, w: Float[Tensor, "n"], create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Value and gradient, to be called `within`; w requires gradients."""
        value = self.value(w)
        if not value.requires_grad:  # a term that is constant
            return value, torch.zeros_like(w)
        (grad,) = torch.autograd.grad(value, w, create_graph=create_graph, materialize_grads=True)
        return (value, grad) if create_graph else (value.detach(), grad)

    def value(self, w: Float[Tensor, "n"]) -> Tensor:
        """Value, to be called `within`."""
        value = self.loss(w)
        if not isinstance(value, Tensor) or value.ndim != 0:
            raise ValueError(f"the loss returned {_describe(value)}; it must return a scalar tensor (shape ())")
        return value


class Objective:
    """A smooth scalar loss L(w) of a flat weight vector w (n,).

    Gradients are PyTorch's own and live on the device and in the dtype of ``w0``. Hessian-vector products are those of
    Pearlmutter :cite:yearpar:`pearlmutter1994`: reverse mode applied twice, which is exact where PyTorch's kernels are.
    Some are not (weight normalisation, for example), others have no second derivatives: when products are asked for
    first, two of them are compared with each other and with a difference of gradients; where they are off, all
    products are differences of gradients, and a warning says so. Third derivatives are tried in the same way. A loss
    may be given as a sum of terms: then derivatives are accumulated term by term, so that memory is that of the largest
    term. Objectives of the same weights can be added: ``f + Objective(lambda w: 1e-3 * w.square().sum(), f.w0)``.

    Parameters
    ----------
    loss : callable, Tensor (n,) -> scalar Tensor, or a sequence of such callables
        The loss, or the terms that sum to it. It must be three times differentiable by PyTorch's autograd.
    w0 : Tensor (n,)
        Initial weights; fixes n, dtype and device.
    check : bool
        Whether PyTorch's second and third derivatives are tried before they are used (once, about ten gradients' time
        for products, fifty for third derivatives).

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
        self._tried: dict[str, bool] = {}  # whether PyTorch's own derivatives, by name, have proved right

    @property
    def dim(self) -> int:
        """Number of weights, n."""
        return self.w0.numel()

    @property
    def binding(self) -> modules.Binding | None:
        """The module whose parameters the weights are, if it was made from one."""
        return self._model[0] if self._model else None

    def nearby(self, w: Float[Tensor, "n"], share: float = 0.05, seed: int = 0) -> Float[Tensor, "n"]:
        """Weights a little away from w, as of `modules.nearby`.

        Parameters
        ----------
        w : Tensor (n,)
        share : float
            How far, relative to their size.
        seed : int
            Of the random direction.

        Returns
        -------
        Tensor (n,)
        """
        if self.binding:
            return self.binding.nearby(w, share, seed)
        return modules.nearby(w, [self.dim], share, seed)

    def __call__(self, w: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        """The loss at w, as PyTorch differentiates it (over the terms of this process, if they are split)."""
        self._flat(w)
        loss = torch.stack([term.within(w, partial(term.value, w)) for term in self._terms]).sum()
        return loss if w.requires_grad else loss.detach()

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
        f._terms, f._model, f._tried = self._terms + other._terms, self._model or other._model, {}
        return f

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        criterion: checks.Criterion,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int | None = None,
        split: bool = False,
        check: bool = True,
    ) -> Objective:
        """The full-batch loss criterion(module(inputs), targets) of a module's trainable parameters.

        The module is left as it is. The objective has copies of its weights and buffers; weights that are frozen are
        the module's own.

        Parameters
        ----------
        module : torch.nn.Module
            Any module without randomness or memory: put dropout in ``eval()`` mode.
        criterion : callable
            (outputs, targets) -> scalar. It may read the module's parameters.
        inputs, targets : Tensor (N, ...)
            All the data, on the module's device; they are not copied.
        batch_size : int, optional
            Work through the data this many examples at a time (bounds memory; the loss is still that of all N). The
            criterion must be a sum or a mean over examples; weights of classes and ``ignore_index`` are taken for what
            they are.
        split : bool
            The data are this process's share; the loss is that of all processes of ``torch.distributed``, which has to
            be initialised (by ``torchrun`` and ``init_process_group``: gloo on CPUs, nccl on GPUs). Every derivative
            is summed over them, so that all of them see the same and can run `simulate` side by side.
        check : bool
            Whether to try that the loss is the same each time that it is computed and, in batches, that of all data:
            gradients are computed three times, in batches once or twice more, near the module's weights. Also as of
            `Objective`.

        Returns
        -------
        Objective

        Raises
        ------
        TypeError
            If parameters or data have types that can't be handled, or the module returns something other than a tensor.
        ValueError
            If the module has no trainable parameters or behaves randomly, has a memory (buffers that change) or layers
            that can't be handled, if the data do not match or hold NaN, if ``batch_size`` or ``split`` is set and
            module or criterion mix examples, if the loss depends on tensors of the module that were
            taken from it before, or if split processes start from different weights.
        """
        binding, size = modules.Binding(module), checks.check_data(criterion, inputs, targets, batch_size)
        if split and not dist.is_initialized():
            raise ValueError("split is set, but torch.distributed.init_process_group was not called in this process")
        if split and len(inputs) < 2:
            raise ValueError("a process has fewer than two examples as its share; use fewer processes")
        w0, count, name = binding.w0, len(inputs), type(module).__name__
        within = partial(_within, binding)

        def batched(size: int) -> list[slice]:
            return [slice(a, min(a + size, count)) for a in range(0, count, size)]

        def terms(batches: list[slice], factors: list[float]) -> list[Term]:
            def term(x: Tensor, y: Tensor, share: float) -> Term:
                return Term(lambda w: share * criterion(module(x), y), binding)

            return [term(inputs[b], targets[b], a) for b, a in zip(batches, factors, strict=True) if a]

        def even(batches: list[slice]) -> list[float]:
            return [(b.stop - b.start) / count for b in batches]

        batches = batched(size)
        f = cls(lambda w: w.sum(), w0, check)
        f._terms, f._model, f._split = terms(batches, even(batches)), (binding, module), split
        some = (binding, criterion, inputs[:size], targets[:size], within)
        value = checks.check_outputs(*some, whole=size == count) if check else 0.0
        near, factors = binding.nearby(w0), [1.0]
        part = size if size < count or not split else (count + 1) // 2
        parts, others = batched(part), batched(part // 2 or 2)
        if part < count:
            values = partial(_values, criterion, within, near)
            out = [within(near, lambda b=b: module(inputs[b])).detach() for b in parts]  # type: ignore[misc]
            try:
                factors = checks.shares(values, out, targets, parts)
            except ValueError:
                checks.check_repeats(binding, near, lambda: f._local(near)[1])  # the reason may be that it is random
                raise
            f._terms = terms(parts, factors)
        if check:
            times = 3 if part == count else 2  # and another in smaller batches
            g = checks.check_repeats(binding, near, lambda: f._local(near)[1], times)
            if not g.isfinite().all():
                near = w0
                g = checks.check_repeats(binding, near, lambda: f._local(near)[1], times)
            checks.check_plain(*some, value)
            checks.check_slope(binding, f, near, g)
        if check and part < count:
            rows = sum(map(len, out)) // count
            pieces = torch.cat(out).split([(b.stop - b.start) * rows for b in others])
            twin = copy.copy(f)
            twin._terms = terms(others, checks.shares(values, pieces, targets, others))
            checks.check_batches(name, g, lambda: twin._local(near)[1], part // 2 or 2)
        if split:
            total = torch.tensor(count, device=w0.device)
            dist.all_reduce(total)
            first = w0.clone()
            dist.broadcast(first, 0)
            if not torch.equal(first, w0):
                raise ValueError(
                    "the processes start from different weights; make the module with the same seed in each"
                )
            mean = factors == even(batched(part))
            if not mean and factors != [1.0] * len(factors):
                raise ValueError(
                    "the criterion is a weighted mean, whose weights other processes do not know; use a sum over "
                    "examples divided by a number, or split=False"
                )
            factors = [(b.stop - b.start) / int(total) if mean else 1.0 for b in batches]
        f._terms = terms(batches, factors)
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
            If the objective was made from a loss and not `from_module`.
        """
        if self._model is None:
            raise TypeError("this objective was made from a loss, which has no outputs; use Objective.from_module")
        binding, module = self._model
        out = _within(binding, self._flat(w), lambda: module(inputs))
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
        value, grad = self._local(w)
        return self._sum(value), self._sum(grad)

    def _local(self, w: Float[Tensor, "n"]) -> tuple[Tensor, Tensor]:
        """Loss and gradient over the terms of this process."""
        w = self._check(w).requires_grad_()
        value, grad = w.new_zeros(()), torch.zeros_like(w)
        for term in self._terms:
            more = term.within(w, partial(term.gradient, w))
            value, grad = value + more[0], grad + more[1]
        if not self._depends:
            self._depends = bool(grad.any()) or any(
                term.within(w, partial(term.value, w)).requires_grad for term in self._terms
            )
            if not self._depends:
                raise ValueError(
                    "the loss does not depend on the weights; is there a detach(), item() or no_grad() in it?"
                )
        return value, grad

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

        With a loss of one term the products share the graph of the gradient, which costs less than asking
        for each by itself; the graph is freed with the map. With several terms, one graph at a time is built.

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
        w = self._check(w).clone().requires_grad_()  # which may be changed while products are still asked for
        if not self._proved("products", w):
            return *self.value_and_grad(w), lambda V: self._product_differences(w.detach(), self._check(V, 2))
        return self._linearize(w)

    def _linearize(self, w: Float[Tensor, "n"]) -> tuple[Tensor, Tensor, HVP]:
        """`linearize` by PyTorch's second derivatives, whether they are right or not."""
        if len(self._terms) == 1:
            (term,) = self._terms
            value, grad = term.within(w, lambda: term.gradient(w, create_graph=True))
            loss, g = self._sum(value.detach().clone()), self._sum(grad.detach().clone())
            return loss, g, lambda V: self._sum(term.within(w, lambda: _products(grad, w, self._check(V, 2))))

        def product(term: Term, V: Tensor) -> Tensor:
            return _products(term.gradient(w, create_graph=True)[1], w, V)

        def hvp(V: Tensor) -> Tensor:
            V = self._check(V, 2)
            products = torch.zeros_like(V)
            for term in self._terms:
                products += term.within(w, partial(product, term, V))
            return self._sum(products)

        return *self.value_and_grad(w), hvp

    def _product_differences(self, w: Float[Tensor, "n"], V: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """H(w)V by central differences of gradients, over a share of the size of the weights."""
        reach = torch.finfo(w.dtype).eps ** (1 / 3) * (float(w.norm()) or 1.0)
        products = torch.zeros_like(V)
        for j, v in enumerate(V.T):
            if size := float(v.norm()):
                products[:, j] = self.difference(w, v * (reach / size)) * (size / reach)
        return products

    def difference(self, w: Float[Tensor, "n"], v: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """(∇L(w + v) - ∇L(w - v)) / 2, which is H(w)v but for an error of third order in v.

        Parameters
        ----------
        w, v : Tensor (n,)

        Returns
        -------
        Tensor (n,)
        """
        return (self.value_and_grad(w + v)[1] - self.value_and_grad(w - v)[1]) / 2

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
        if U.shape[1] and not self._proved("third derivatives", w):
            return self._third_differences(w.detach(), U)
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

    def _third_differences(self, w: Float[Tensor, "n"], U: Float[Tensor, "n k"]) -> Float[Tensor, "k k n"]:
        """`hessian_gradients` by central differences of products, over a share of the size of the weights."""
        reach = torch.finfo(w.dtype).eps ** (1 / 4) * (float(w.norm()) or 1.0)
        k = U.shape[1]
        T = w.new_zeros(k, k, self.dim)
        for j, u in enumerate(U.T):
            if size := float(u.norm()):
                ahead, behind = (self.hvp(w + s * reach / size * u, U) for s in (1, -1))
                T[:, j] = (ahead - behind).T * (size / (2 * reach))
        return (T + T.transpose(0, 1)) / 2

    def differences(
        self, w: Float[Tensor, "n"], g: Float[Tensor, "n"], U: Float[Tensor, "n k"], eps: float
    ) -> tuple[Float[Tensor, "n k"], Float[Tensor, "k k n"]]:
        """HU and `hessian_gradients` by central differences of gradients.

        Costs k(k+1) gradients and no higher derivative. Errors are of second order in ``eps``, beside those of
        rounding, which grow as eps⁻² (eps⁻¹ for HU).

        Parameters
        ----------
        w : Tensor (n,)
        g : Tensor (n,)
            Gradient at w.
        U : Tensor (n, k)
        eps : float
            Differences are taken over this times the columns of U.

        Returns
        -------
        HU : Tensor (n, k)
        T : Tensor (k, k, n)
        """
        U = self._check(U, 2)
        k = U.shape[1]
        HU, T = torch.zeros_like(U), U.new_zeros(k, k, self.dim)
        for i in range(k):
            for j in range(i, -1, -1):  # with i = j first
                u = U[:, i] if i == j else (U[:, i] + U[:, j]) / math.sqrt(2)
                ahead, behind = (self.value_and_grad(w + s * eps * u)[1] for s in (1, -1))
                bend = (ahead + behind - 2 * g) / eps**2
                if i == j:
                    HU[:, i], T[i, i] = (ahead - behind) / (2 * eps), bend
                else:
                    T[i, j] = T[j, i] = bend - (T[i, i] + T[j, j]) / 2
        return HU, T

    def _sum(self, x: Tensor) -> Tensor:
        """The sum of a derivative over the processes among which the terms are split, in place."""
        if self._split:
            dist.all_reduce(x)
        return x

    def _proved(self, what: str, w: Float[Tensor, "n"]) -> bool:
        """Whether PyTorch's own products, or third derivatives, are right: tried once, near w."""
        if what not in self._tried:
            self._tried[what] = True  # while they are tried, too
            try:
                wrong = self._try(what, w.detach()) if self._check_derivatives else ""
            except BaseException:
                del self._tried[what]
                raise
            if wrong:
                self._tried[what] = False
                warnings.warn(
                    f"PyTorch's {what} of this loss {wrong}; differences are used instead, which are slower and less "
                    "exact",
                    stacklevel=4,
                )
        return self._tried[what]

    def _try(self, what: str, w: Float[Tensor, "n"]) -> str:
        """What is wrong with PyTorch's products, or third derivatives; nothing if they agree with differences."""
        binding = self.binding
        sizes = binding.sizes if binding else [self.dim]
        g = self.value_and_grad(near := self.nearby(w))[1]
        w = near if g.isfinite().all() else w
        away = [self.nearby(w, 1.0, seed) - w for seed in (1, 2)]
        U = torch.stack([v / (v.norm() or 1.0) for v in away], 1)
        try:
            if what == "products":
                own = self._linearize(w.clone().requires_grad_())[2](U)
                skew = abs(float(U[:, 0] @ own[:, 1] - U[:, 1] @ own[:, 0]))
                first = own[:, 0]
            else:
                own, T = self.hvp(w, U[:, :1]), self._hessian_gradients(w.clone().requires_grad_(), U)
                skew, first = abs(float(T[0, 0] @ U[:, 1] - T[0, 1] @ U[:, 0])), T[0, 0]
        except (RuntimeError, NotImplementedError) as error:
            return f"can't be computed ({str(error).splitlines()[0]})"
        if not first.isfinite().all():
            return ""  # what uses them will say so
        size, third = float(away[0].norm()), what != "products"
        single = w.dtype == torch.float32
        twins = []
        for share in (1e-2, 1e-3, 1e-1) if single else (1e-4, 1e-6, 1e-2):
            v = share * size * U[:, 0]
            if third:
                twin = (self.hvp(w + v, U[:, :1]) - self.hvp(w - v, U[:, :1]))[:, 0] / (2 * share * size)
            else:
                twin = self.difference(w, v) / (share * size)
            off = [float(x.norm()) for x in (first - twin).split(sizes)]
            rounding = 30 * torch.finfo(w.dtype).eps * float((own if third else g).norm()) / (share * size)
            floor = (1e-3 if single else 1e-5) * float(twin.norm()) + rounding
            allowed = [0.02 * float(x.norm()) + floor for x in twin.split(sizes)]
            if all(a <= b for a, b in zip(off, allowed, strict=True)) or not twin.isfinite().all():
                return ""
            twins.append(twin)
        if (twins[0] - twins[1]).norm() > 0.3 * (first - twins[0]).norm():
            return ""  # differences do not agree with each other either: a loss that is not smooth
        worst = max(range(len(off)), key=lambda i: float((first - twins[0]).split(sizes)[i].norm()))
        where = f", most of all for {binding.names[worst]!r}" if binding else ""
        share = float((first - twins[0]).norm() / twins[0].norm())
        symmetric = "" if skew <= 1e-3 * float(first.norm()) else ", and not symmetric"
        return f"are off from differences by {share:.1%}{symmetric}{where}"

    def _check(self, w: Tensor, ndim: int = 1) -> Tensor:
        return self._flat(w, ndim).detach()

    def _flat(self, w: Tensor, ndim: int = 1) -> Tensor:
        """w, if it is what it should be."""
        expected = f"({self.dim},)" if ndim == 1 else f"({self.dim}, k)"
        if not isinstance(w, Tensor) or w.ndim != ndim or w.shape[0] != self.dim:
            raise ValueError(f"got {_describe(w)} where a tensor of shape {expected} is needed")
        if w.dtype != self.w0.dtype:
            raise TypeError(f"got {w.dtype} where the weights are {self.w0.dtype}; convert with .to(f.w0)")
        return w


def _values(criterion: checks.Criterion, within: Callable, w: Tensor, out: Tensor, targets: Tensor) -> Tensor:
    """A criterion of outputs alone, with w in place."""
    return within(w, lambda: criterion(out, targets))


def _within(binding: modules.Binding | None, w: Float[Tensor, "n"] | None, compute: Callable[[], Any]) -> Any:
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivatives
        return binding.within(w, compute) if binding else compute()


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def vjp(y: Tensor, w: Tensor, v: Tensor | None, create_graph: bool = False) -> Tensor:
    """vᵀ ∂y/∂w, zero where y does not depend on w; keeps the graph of y for further calls.

    Parameters
    ----------
    y : Tensor (...)
        Computed from w.
    w : Tensor (n,)
    v : Tensor (...) or None
        Of the shape of y; None if that is ().
    create_graph : bool
        Whether the result is to be differentiated in turn.

    Returns
    -------
    Tensor (n,)
    """
    if not y.requires_grad:  # a derivative that is constant in w, as that of a linear loss
        return torch.zeros_like(w)
    (g,) = torch.autograd.grad(y, w, v, retain_graph=True, create_graph=create_graph, materialize_grads=True)
    return g


def _products(grad: Tensor, w: Tensor, V: Tensor) -> Tensor:
    if V.shape[1] == 0:
        return torch.zeros_like(V)
    return torch.stack([vjp(grad, w, v) for v in V.unbind(1)], dim=1)
