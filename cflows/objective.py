"""A training objective as a function of one flat weight vector, with its derivatives up to the third order."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

HVP = Callable[[Tensor], Tensor]


class Objective:
    """A smooth scalar loss L(w) of a flat weight vector w (n,).

    Every derivative is PyTorch's own (reverse mode applied once, twice or three times), exact where its kernels are,
    and lives on the device and in the dtype of ``w0``. Known exception: third derivatives through the fused
    ``nn.LayerNorm`` are wrong in PyTorch (``nn.GroupNorm(1, channels)`` is right); flows use `differences`.
    Hessian-vector products are those of Pearlmutter :cite:yearpar:`pearlmutter1994`. A loss may be given as a sum of
    terms: then derivatives are accumulated term by term, so that memory is that of the largest term.

    Parameters
    ----------
    loss : callable, Tensor (n,) -> scalar Tensor, or a sequence of such callables
        The loss, or the terms that sum to it. It must be three times differentiable by PyTorch's autograd.
    w0 : Tensor (n,)
        Initial weights; fixes n, dtype and device.

    Attributes
    ----------
    w0 : Tensor (n,)
        A copy of the initial weights.

    Raises
    ------
    TypeError
        If ``w0`` is not a floating-point tensor.
    ValueError
        If ``w0`` is not one-dimensional, is empty or holds values that are not finite.

    Examples
    --------
    >>> f = Objective(lambda w: (w**3).sum() / 6, torch.tensor([1.0, 2.0]))
    >>> f.hvp(f.w0, torch.eye(2))  # the Hessian is diag(w)
    tensor([[1., 0.],
            [0., 2.]])
    """

    def __init__(self, loss: Callable[[Tensor], Tensor] | list[Callable[[Tensor], Tensor]], w0: Float[Tensor, "n"]):
        if not isinstance(w0, Tensor) or not w0.is_floating_point():
            kind = w0.dtype if isinstance(w0, Tensor) else type(w0).__name__
            raise TypeError(f"w0 is {kind}; it must be a floating-point torch.Tensor of shape (n,)")
        if w0.ndim != 1 or w0.numel() == 0:
            raise ValueError(f"w0 has shape {tuple(w0.shape)}; it must be a non-empty flat vector (n,)")
        if not w0.isfinite().all():
            raise ValueError("w0 holds values that are not finite; start from finite weights")
        self._terms = list(loss) if isinstance(loss, (list, tuple)) else [loss]
        if not self._terms or not all(callable(term) for term in self._terms):
            raise TypeError(f"loss is {loss!r}; it must be a function of the weights, or a list of such terms")
        self.w0 = w0.detach().clone()
        self._split = False  # whether the terms are this process's share of them
        self._outputs: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def dim(self) -> int:
        """Number of weights, n."""
        return self.w0.numel()

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        batch_size: int | None = None,
        split: bool = False,
    ) -> Objective:
        """The full-batch loss criterion(module(inputs), targets) of a module's trainable parameters.

        Parameters
        ----------
        module : torch.nn.Module
            Any module without randomness: put dropout and batch normalisation in ``eval()`` mode.
        criterion : callable
            (outputs, targets) -> scalar; the mean or the sum over examples.
        inputs, targets : Tensor (N, ...)
            All the data, on the module's device.
        batch_size : int, optional
            Work through the data this many examples at a time (bounds memory; the loss is still that of all N).
        split : bool
            The data are this process's share; the loss is that of all processes of ``torch.distributed``, which has to
            be initialised (by ``torchrun`` and ``init_process_group``: gloo on CPUs, nccl on GPUs). Every derivative
            is summed over them, so that all of them see the same and can run `simulate` side by side.

        Returns
        -------
        Objective

        Raises
        ------
        TypeError
            If the inputs are integers although the module computes with floats (embeddings excepted).
        ValueError
            If the module has no trainable parameters or behaves randomly (dropout or batch normalisation in
            training mode), if the data do not match, if ``batch_size`` or ``split`` is set and the criterion is
            neither a mean nor a sum over examples, or if split processes start from different weights.
        """
        parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not parameters:
            raise ValueError(f"{type(module).__name__} has no trainable parameters, so there is nothing to optimize")
        for name, layer in module.named_modules():
            random = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
            if layer.training and (random or isinstance(layer, nn.modules.batchnorm._BatchNorm)):
                raise ValueError(
                    f"layer {name!r} ({type(layer).__name__}) is in training mode, which makes the loss random or "
                    "dependent on how the data are batched; call module.eval(), or use a normalisation per example"
                )
        for name, value in (("inputs", inputs), ("targets", targets)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} is a {type(value).__name__}; convert it with torch.as_tensor")
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise ValueError(f"{len(inputs)} inputs for {len(targets)} targets; they must be as many, and at least one")
        embeds = any(isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) for layer in module.modules())
        if not inputs.is_floating_point() and not embeds:
            raise TypeError(f"inputs are {inputs.dtype}; convert them to floats, for example inputs.float()")
        kinds = {p.dtype for p in parameters.values()}
        if len(kinds) > 1 or (inputs.is_floating_point() and inputs.dtype not in kinds):
            raise TypeError(
                f"inputs are {inputs.dtype}, parameters {', '.join(map(str, kinds))}; convert all to one type, for "
                "example module.float() and inputs.float()"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1, or None for all the data at once")

        names, shapes = list(parameters), [p.shape for p in parameters.values()]
        sizes = [p.numel() for p in parameters.values()]
        w0 = torch.cat([p.detach().reshape(-1) for p in parameters.values()])

        def outputs(w: Tensor, x: Tensor) -> Tensor:
            pieces = (v.view(s) for v, s in zip(w.split(sizes), shapes, strict=True))
            return torch.func.functional_call(module, dict(zip(names, pieces, strict=True)), (x,))

        with torch.no_grad():
            few = inputs[:2]
            if not isinstance(out := outputs(w0, few), Tensor):
                raise TypeError(
                    f"{type(module).__name__} returns a {type(out).__name__}; wrap it in a module that returns the one "
                    "tensor which the criterion takes"
                )
            if not torch.equal(outputs(w0, few), outputs(w0, few)):
                raise ValueError(
                    f"{type(module).__name__} gives different outputs for the same inputs, so its loss is random; call "
                    "module.eval(), or take the randomness out of its forward method"
                )
            with warnings.catch_warnings():  # PyTorch only warns where shapes are made to match by repetition
                warnings.filterwarnings("error", message="Using a target size")
                try:
                    criterion(outputs(w0, few), targets[:2])
                except UserWarning as warning:
                    raise ValueError(f"outputs and targets do not match: {warning}") from warning

        if split and not dist.is_initialized():
            raise ValueError("split is set, but torch.distributed.init_process_group was not called in this process")
        if split and len(inputs) < 2:
            raise ValueError("a process has fewer than two examples as its share; use fewer processes")
        size = min(batch_size or len(inputs), len(inputs))
        is_sum = True
        if split or size < len(inputs):
            with torch.no_grad():
                part = min(size, (len(inputs) + 1) // 2)
                is_sum = _sums_over_examples(criterion, outputs, w0, inputs, targets, part)
        total = torch.tensor(len(inputs), device=w0.device)
        if split:
            dist.all_reduce(total)
            first = w0.clone()
            dist.broadcast(first, 0)
            if not torch.equal(first, w0):
                raise ValueError(
                    "the processes start from different weights; make the module with the same seed in each"
                )

        def term(s: slice) -> Callable[[Tensor], Tensor]:
            x, y = inputs[s], targets[s]
            share = 1.0 if is_sum else len(x) / int(total)
            return lambda w: share * criterion(outputs(w, x), y)

        f = cls([term(slice(a, a + size)) for a in range(0, len(inputs), size)], w0)
        f._outputs, f._split = outputs, split
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
        if self._outputs is None:
            raise TypeError("this objective was made from a loss, which has no outputs; use Objective.from_module")
        with sdpa_kernel(SDPBackend.MATH):
            return self._outputs(w, inputs)

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
        w = self._check(w).requires_grad_()
        value, grad = self._term_grad(self._terms[0], w)
        for term in self._terms[1:]:
            more = self._term_grad(term, w)
            value, grad = value + more[0], grad + more[1]
        return self._sum(value), self._sum(grad)

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
        w = self._check(w).requires_grad_()
        if len(self._terms) == 1:
            value, grad = self._term_grad(self._terms[0], w, create_graph=True)
            loss, g = self._sum(value.detach().clone()), self._sum(grad.detach().clone())
            return loss, g, lambda V: self._sum(_products(grad, w, self._check(V, 2)))

        def hvp(V: Tensor) -> Tensor:
            V = self._check(V, 2)
            products = torch.zeros_like(V)
            for term in self._terms:
                products += _products(self._term_grad(term, w, create_graph=True)[1], w, V)
            return self._sum(products)

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
        k = U.shape[1]
        T = w.new_zeros(k, k, self.dim)
        for term in self._terms:
            grad = self._term_grad(term, w, create_graph=True)[1]
            for j in range(k):
                Hu = vjp(grad, w, U[:, j], create_graph=True)
                for i in range(j + 1):
                    T[i, j] += vjp(Hu, w, U[:, i])
        for i, j in itertools.combinations(range(k), 2):
            T[j, i] = T[i, j]
        return self._sum(T)

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

    def _term_grad(self, term: Callable, w: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivatives
            value = term(w)
        if not isinstance(value, Tensor) or value.ndim != 0:
            raise ValueError(f"the loss returned {_describe(value)}; it must return a scalar tensor (shape ())")
        if not value.requires_grad:
            raise ValueError("the loss does not depend on the weights; is there a detach(), item() or no_grad() in it?")
        grad = vjp(value, w, None, create_graph=create_graph)
        return (value, grad) if create_graph else (value.detach(), grad)

    def _check(self, w: Tensor, ndim: int = 1) -> Tensor:
        expected = f"({self.dim},)" if ndim == 1 else f"({self.dim}, k)"
        if not isinstance(w, Tensor) or w.ndim != ndim or w.shape[0] != self.dim:
            raise ValueError(f"got {_describe(w)} where a tensor of shape {expected} is needed")
        if w.dtype != self.w0.dtype:
            raise TypeError(f"got {w.dtype} where the weights are {self.w0.dtype}; convert with .to(f.w0)")
        return w.detach()


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


def _sums_over_examples(
    criterion: Callable[[Tensor, Tensor], Tensor],
    outputs: Callable[[Tensor, Tensor], Tensor],
    w: Tensor,
    inputs: Tensor,
    targets: Tensor,
    batch_size: int,
) -> bool:
    """Whether a criterion sums over examples (True) or averages (False), by its value on all and on each batch."""
    out = [outputs(w, x) for x in inputs.split(batch_size)]
    whole = criterion(torch.cat(out), targets)
    parts = torch.stack([criterion(o, y) for o, y in zip(out, targets.split(batch_size), strict=True)])
    if parts.ndim != 1:
        raise ValueError(f"the criterion returned {_describe(whole)}; it must return the mean or sum over examples")
    shares = torch.tensor([len(o) for o in out], dtype=parts.dtype, device=parts.device) / len(inputs)
    mean, total = (shares * parts).sum(), parts.sum()
    if torch.allclose(whole, mean, rtol=1e-4, atol=0):
        return False
    if torch.allclose(whole, total, rtol=1e-4, atol=0):
        return True
    raise ValueError(
        f"the criterion gives {whole.item():.6g} on all examples, {mean.item():.6g} as the mean and {total.item():.6g} "
        "as the sum over batches: it mixes examples, so it can't be taken in batches; use another, or batch_size=None"
    )
