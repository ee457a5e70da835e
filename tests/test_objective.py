import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import split
import torch
from conftest import hessian, mlp_objective
from torch import nn

import cflows
from cflows import Objective, models
from cflows.objective import terms


def test_derivatives_against_the_dense_hessian():
    f = mlp_objective()
    H = hessian(f, f.w0)
    np.testing.assert_allclose(f.hvp(f.w0, torch.eye(f.dim, dtype=f.w0.dtype)).numpy(), H, atol=1e-12)
    value, grad = f.value_and_grad(f.w0)
    loss, g, hvp = f.linearize(f.w0)
    assert value == loss
    torch.testing.assert_close(grad, g)
    V = torch.from_numpy(np.random.default_rng(0).standard_normal((f.dim, 3)))
    np.testing.assert_allclose(hvp(V).numpy(), H @ V.numpy(), atol=1e-12)
    assert hvp(V[:, :0]).shape == (f.dim, 0)


LAYERS = {
    "linear": (nn.Linear(12, 3), (4, 12)),
    "convolution": (nn.Conv2d(2, 3, 3, padding=1), (4, 2, 5, 5)),
    "strided convolution": (nn.Conv2d(2, 3, 3, 2, padding=1, bias=False), (4, 2, 6, 6)),
    "normalisation": (models._norm(4), (3, 4, 3, 3)),
    "block": (models.ResidualBlock(2, 4, 2), (3, 2, 6, 6)),
    "resnet": (models.ResNet(2, 1, 3), (3, 3, 8, 8)),
    "mlp": (models.MLP(12, 5, 3), (4, 3, 2, 2)),
    "cnn": (models.CNN(2, 3), (3, 3, 8, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_third_derivatives_of_every_layer_against_differences_of_products(name):
    module, shape = LAYERS[name]
    torch.manual_seed(0)
    module = module.double()
    x = torch.randn(shape, dtype=torch.float64)

    def criterion(outputs, targets):  # not quadratic, so that a linear layer has third derivatives too
        return torch.nn.functional.gelu(outputs - targets).square().mean()

    with torch.no_grad():
        y = torch.randn_like(module(x))
    f = Objective.from_module(module, criterion, x, y)
    U = torch.randn(f.dim, 3, dtype=torch.float64)
    U /= U.norm(dim=0)
    w = f.w0 + 0.1 * torch.randn_like(f.w0)
    T = f.hessian_gradients(w, U)
    assert T.shape == (3, 3, f.dim)
    torch.testing.assert_close(T, T.transpose(0, 1))
    eps = 1e-4
    for i in range(3):
        twin = (f.hvp(w + eps * U[:, i], U) - f.hvp(w - eps * U[:, i], U)) / (2 * eps)
        assert (T[i].T - twin).norm() <= 1e-6 * twin.norm()


def test_products_of_transformers_against_differences_of_gradients():
    """PyTorch's third derivatives of its normalisation are wrong; flows do without."""
    for module, x in (
        (models.VisionTransformer(4, 2, 8, 1, 3).double(), torch.randn(3, 3, 4, 4).double()),
        (models.SequenceTransformer(4, 3, 8, 1).double(), torch.randint(4, (3, 3))),
    ):
        f = Objective.from_module(module, nn.MSELoss(), x, torch.randn_like(module(x)).detach())
        w, v = f.nearby(f.w0), torch.randn(f.dim, dtype=torch.float64)
        v /= v.norm()
        twin = (f.value_and_grad(w + 1e-5 * v)[1] - f.value_and_grad(w - 1e-5 * v)[1]) / 2e-5
        torch.testing.assert_close(f.hvp(w, v[:, None])[:, 0], twin, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("criterion", [nn.MSELoss(), nn.MSELoss(reduction="sum"), nn.SmoothL1Loss()])
def test_batches_change_memory_not_values(criterion):
    x, y = torch.randn(10, 4, dtype=torch.float64), torch.randn(10, 2, dtype=torch.float64)
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    whole, parts = (Objective.from_module(module, criterion, x, y, b) for b in (None, 3))
    w, V = whole.w0, torch.randn(whole.dim, 2, dtype=torch.float64)
    for a, b in zip(whole.value_and_grad(w), parts.value_and_grad(w), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(whole.hvp(w, V), parts.hvp(w, V))
    torch.testing.assert_close(whole.hessian_gradients(w, V), parts.hessian_gradients(w, V))


def test_a_criterion_that_mixes_examples_is_refused_in_batches():
    x, y = torch.randn(10, 4), torch.randn(10, 2)

    def criterion(outputs, targets):
        return (outputs - targets).square().sum().sqrt()

    with pytest.raises(ValueError, match="it mixes examples"):
        Objective.from_module(nn.Linear(4, 2), criterion, x, y, batch_size=5)


def test_a_sum_of_which_the_first_terms_are_zero_is_a_sum():
    module = nn.Linear(4, 2, bias=False)
    x = torch.cat([torch.zeros(3, 4), torch.randn(4, 4)])
    whole, parts = (
        Objective.from_module(module, nn.MSELoss(reduction="sum"), x, torch.zeros(7, 2), b) for b in (None, 3)
    )
    torch.testing.assert_close(whole.value_and_grad(whole.w0), parts.value_and_grad(whole.w0))


class Noisy(nn.Linear):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x))


def test_frozen_parameters_stay():
    module = nn.Linear(4, 2)
    module.bias.requires_grad_(False)
    assert Objective.from_module(module, nn.MSELoss(), torch.randn(3, 4), torch.randn(3, 2)).dim == 8


def test_attention_by_fused_kernels_has_second_derivatives():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(4, 4)

        def forward(self, x):
            h = self.project(x)[:, None]  # (examples, heads, tokens, channels)
            return nn.functional.scaled_dot_product_attention(h, h, h).mean((1, 2))

    torch.manual_seed(0)
    f = Objective.from_module(Attention(), nn.MSELoss(), torch.randn(6, 5, 4), torch.randn(6, 4))
    V = torch.randn(f.dim, 2) / f.dim**0.5
    h = 1e-2
    ahead, behind = (torch.stack([f.value_and_grad(f.w0 + s * h * v)[1] for v in V.T], 1) for s in (1, -1))
    torch.testing.assert_close(f.hvp(f.w0, V), (ahead - behind) / (2 * h), rtol=1e-2, atol=1e-4)


def test_functions_without_curvature_have_zero_derivatives():
    linear = Objective(lambda w: w.sum(), torch.ones(3))
    assert not linear.hvp(linear.w0, torch.eye(3)).any()
    assert not linear.hessian_gradients(linear.w0, torch.eye(3)).any()
    square = Objective(lambda w: w.square().sum(), torch.ones(3))
    assert not square.hessian_gradients(square.w0, torch.eye(3)).any()


def test_the_module_is_left_alone():
    module = nn.Linear(4, 2)
    before = module.weight.detach().clone()
    f = Objective.from_module(module, nn.MSELoss(), torch.randn(3, 4), torch.randn(3, 2))
    cflows.simulate(f, cflows.GradientDescent(0.1), 3, ("discrete",), progress=False)
    torch.testing.assert_close(module.weight.detach(), before)
    assert module.weight.grad is None


X, Y = torch.randn(3, 4), torch.randn(3, 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Objective(sum, torch.ones(3, dtype=torch.int64)), TypeError, "int64"),
        (lambda: Objective(sum, np.ones(3)), TypeError, "ndarray"),
        (lambda: Objective(sum, torch.ones(2, 2)), ValueError, r"\(2, 2\)"),
        (lambda: Objective(sum, torch.tensor([1.0, torch.nan])), ValueError, "not finite"),
        (lambda: Objective.from_module(nn.Tanh(), nn.MSELoss(), X, Y), ValueError, "Tanh has no trainable"),
        (
            lambda: Objective.from_module(nn.Sequential(nn.Linear(4, 2), nn.Dropout()), nn.MSELoss(), X, Y),
            ValueError,
            r"'1' \(Dropout\) is in training mode.*eval",
        ),
        (
            lambda: Objective.from_module(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), nn.MSELoss(), X, Y),
            ValueError,
            "BatchNorm1d",
        ),
        (lambda: Objective([], torch.ones(2)), TypeError, r"loss is \[\]"),
        (lambda: Objective.from_module(Noisy(4, 2), nn.MSELoss(), X, Y), ValueError, "Noisy .* draws random numbers"),
        (
            lambda: Objective.from_module(nn.Linear(4, 1), nn.MSELoss(), X, Y[:, 0]),
            ValueError,
            "do not match.*target size",
        ),
        (
            lambda: Objective.from_module(nn.Linear(4, 2), nn.MSELoss(), X.double(), Y),
            TypeError,
            "inputs are torch.float64",
        ),
        (lambda: Objective.from_module(nn.Linear(4, 2), nn.MSELoss(), X.numpy(), Y), TypeError, "inputs is a ndarray"),
        (lambda: Objective(lambda w: w.detach().sum(), torch.ones(2)).linearize(torch.ones(2)), ValueError, "detach"),
        (lambda: Objective.from_module(nn.Linear(4, 2), nn.MSELoss(), X.long(), Y), TypeError, r"int64.*float\(\)"),
        (lambda: Objective.from_module(nn.Linear(4, 2), nn.MSELoss(), X, Y[:2]), ValueError, "3 inputs for 2 targets"),
        (lambda: Objective.from_module(nn.Linear(4, 2), nn.MSELoss(), X, Y, 0), ValueError, "batch_size is 0"),
        (
            lambda: Objective(lambda w: w, torch.ones(2)).value_and_grad(torch.ones(2)),
            ValueError,
            r"shape \(2,\).*scalar",
        ),
        (lambda: mlp_objective().value_and_grad(torch.ones(3)), ValueError, r"\(3,\).*\(44,\)"),
        (lambda: mlp_objective().hvp(mlp_objective().w0, torch.ones(44)), ValueError, r"\(44, k\)"),
        (lambda: mlp_objective().value_and_grad(torch.ones(44)), TypeError, "float32.*float64"),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_split_between_processes(tmp_path):
    """Two processes, each with half of the examples, take the same course as one with all of them."""
    there = tmp_path / "run.pt"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", split.__file__, str(there)]
    subprocess.run([sys.executable, *command], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    found, (tree, T, HU) = torch.load(there), split.run(slice(None), False)
    torch.testing.assert_close(found["HU"], HU)
    torch.testing.assert_close(found["T"], T)
    assert found["variances"] > 0
    for name in ("discrete", "central"):
        np.testing.assert_allclose(found[name], tree[name]["loss"], rtol=2e-4)


def test_split_asks_for_an_initialised_group():
    with pytest.raises(ValueError, match="init_process_group"):
        split.run(slice(None), True)


def told():
    """What PyTorch is told of TF32, in convolutions and products of matrices, and whether to use cuDNN."""
    matmul = torch.backends.cuda.matmul
    products = matmul.fp32_precision == "ieee" if hasattr(matmul, "fp32_precision") else not matmul.allow_tf32
    return torch.backends.cudnn.allow_tf32, products, torch.backends.cudnn.enabled


class Told(nn.Module):
    """A layer that notes what PyTorch is told."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.seen = layer, []

    def forward(self, x):
        self.seen.append(told())
        y = self.layer(x)
        return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("recurrent", [False, True])
def test_derivatives_are_without_tf32_and_without_kernels_that_have_no_second_ones(recurrent):
    """GPUs use TF32 for convolutions unless they are told not to, and cuDNN's recurrent layers have no products."""
    before, module = told(), Told(nn.GRU(2, 3, batch_first=True) if recurrent else nn.Linear(2, 3))
    f = Objective.from_module(module, nn.MSELoss(), torch.randn(4, 5, 2), torch.randn(4, 5, 3))
    f.hvp(f.w0, torch.ones(f.dim, 1))
    assert module.seen
    assert set(module.seen) == {(False, True, not recurrent)}
    assert told() == before
    assert before[0]


def test_a_module_may_do_without_cudnn_itself():
    class Without(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(2, 3, batch_first=True)

        def forward(self, x):
            with torch.backends.cudnn.flags(enabled=False):
                return self.layer(x)[0]

    f = Objective.from_module(Without(), nn.MSELoss(), torch.randn(4, 5, 2), torch.randn(4, 5, 3))
    assert f.hvp(f.w0, torch.ones(f.dim, 1)).isfinite().all()


def test_threads_leave_what_pytorch_was_told():
    """The first to be done does not take from the other what it needs."""
    before, first, second = told(), threading.Event(), threading.Event()
    held = terms.Held([(torch.backends.cudnn, "enabled", False)])
    seen = []

    def short():
        with held():
            first.set()
            second.wait(10)

    def long():
        first.wait(10)
        with held():
            second.set()
            thread.join(10)
            seen.append(torch.backends.cudnn.enabled)

    thread, other = threading.Thread(target=short), threading.Thread(target=long)
    thread.start()
    other.start()
    other.join(20)
    assert seen == [False]
    assert told() == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.jit")  # forward mode has scripts of its own
def test_the_transforms_of_torch_func_take_it():
    """Forward mode, too, and one within another: derivatives by them are those of `hvp` and `hessian_gradients`."""
    f = mlp_objective()
    U = torch.randn(f.dim, 2, dtype=f.w0.dtype, generator=torch.Generator().manual_seed(0))
    u, v = U.T
    for g in (f, Objective(lambda w: (w**3).sum() / 6, f.w0)):
        H = g.hvp(g.w0, torch.eye(g.dim, dtype=g.w0.dtype))
        for derivative in (torch.func.hessian(g), torch.func.jacfwd(torch.func.jacfwd(g))):
            torch.testing.assert_close(derivative(g.w0), H, rtol=1e-12, atol=1e-14)

        def along(w, g=g):
            return torch.func.jvp(lambda x: torch.func.jvp(g, (x,), (u,))[1], (w,), (v,))[1]

        torch.testing.assert_close(
            torch.func.grad(along)(g.w0), g.hessian_gradients(g.w0, U)[0, 1], rtol=1e-10, atol=1e-13
        )
