"""What users' modules and criteria do, beside values that are computed without cflows: plain autograd, in float64."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from cflows import Objective, RMSProp, simulate
from cflows.objective import derivative_check

torch.manual_seed(0)
X, Y = torch.randn(24, 4, dtype=torch.float64), torch.randn(24, 3, dtype=torch.float64)
LABELS = torch.arange(24) % 3


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double()


def plain(module, loss, shift):
    """Value and gradient of loss(module) by PyTorch alone, the module's own weights being moved by a vector."""
    own = [p for p in module.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in own]
    with torch.no_grad():
        for p, d in zip(own, shift.split([p.numel() for p in own]), strict=True):
            p += d.view_as(p)
    value = loss(module)
    slopes = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, own)])
    with torch.no_grad():
        for p, x in zip(own, before, strict=True):
            p.copy_(x)
    return value.detach(), slopes


def same(f, module, loss):
    """Whether derivatives are right at the module's weights and away from them, and the module is left alone."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    shifts = [size * torch.randn(f.dim, generator=torch.Generator().manual_seed(1)).double() for size in (0, 0.3)]
    found = [f.value_and_grad(f.w0 + shift) for shift in shifts]
    V = torch.randn(f.dim, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    products, eps = f.hvp(f.w0, V), 1e-6
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert all(type(p) is nn.Parameter for owner in module.modules() for p in owner._parameters.values())
    copy.deepcopy(module)
    for shift, (value, gradient) in zip(shifts, found, strict=True):
        exact, slope = plain(module, loss, shift)
        torch.testing.assert_close(value, exact, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-12)
    twins = [(plain(module, loss, eps * v)[1] - plain(module, loss, -eps * v)[1]) / (2 * eps) for v in V.T]
    torch.testing.assert_close(products, torch.stack(twins, 1), rtol=1e-5, atol=1e-7)


class Checkpointed(nn.Module):
    def __init__(self, reentrant=False):
        super().__init__()
        self.first, self.second, self.reentrant = nn.Linear(4, 6), nn.Linear(6, 3), reentrant

    def forward(self, x):
        h = checkpoint(lambda x: torch.tanh(self.first(x)), x, use_reentrant=self.reentrant)
        return checkpoint(
            lambda h: self.second(torch.tanh(h)) * self.first.weight.square().mean(), h, use_reentrant=False
        )


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project, self.head = nn.Linear(1, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = self.project(x[:, :, None])[:, None]
        return self.head(checkpoint(F.scaled_dot_product_attention, h, h, h, use_reentrant=False).mean((1, 2)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(1, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.cell(x[:, :, None])[0][:, -1])


class Closure(nn.Module):
    """A module that a function made at its construction reads."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.call = lambda x: torch.tanh(self.inner(x))

    def forward(self, x):
        return self.call(x)


def two_paths():
    inner = nn.Linear(4, 4)
    return nn.Sequential(inner, nn.Tanh(), inner, nn.Tanh(), nn.Linear(4, 3))


def parametrised():
    return nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3))


MODULES = {
    "checkpointed": Checkpointed, "checkpointed fused attention": Attention, "two paths": two_paths, "tied": Tied,
    "recurrent": Recurrent, "closure": Closure, "parametrised": parametrised,
}  # fmt: skip


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("name", MODULES)
def test_modules_have_the_derivatives_that_plain_autograd_gives(name, batch_size):
    module = seeded(MODULES[name])
    f = Objective.from_module(module, nn.MSELoss(), X, Y, batch_size)
    same(f, module, lambda m: F.mse_loss(m(X), Y))


def test_products_that_were_asked_for_before_are_those_of_their_own_weights():
    module = seeded(Checkpointed)
    f = Objective.from_module(module, nn.MSELoss(), X, Y)
    v = torch.ones(f.dim, 1, dtype=torch.float64)
    products = f.linearize(f.w0)[2]
    exact = f.hvp(f.w0, v)
    f.value_and_grad(f.w0 + 1)
    torch.testing.assert_close(products(v), exact, rtol=1e-12, atol=0)


def test_what_is_done_to_the_module_later_does_not_matter():
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)))
    module(X), module.eval()
    f = Objective.from_module(module, nn.MSELoss(), X, Y)
    before = f.value_and_grad(f.w0)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.mul_(2)
    for a, b in zip(f.value_and_grad(f.w0), before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def weighted(outputs, targets):
    return F.cross_entropy(outputs, targets, weight=torch.tensor([1.0, 5.0, 20.0]).double())


CRITERIA = {
    "mean": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 20.0]).double()),
    "class weights in a function": weighted,
    "ignored labels": nn.CrossEntropyLoss(ignore_index=1),
    "weights and smoothing": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 20.0]).double(), label_smoothing=0.1),
}


@pytest.mark.parametrize("order", ["sorted", "mixed"])
@pytest.mark.parametrize("zero_head", [False, True])
@pytest.mark.parametrize("name", CRITERIA)
def test_batches_of_a_criterion_make_up_the_whole(name, zero_head, order):
    """In sorted order a batch may have ignored labels only; with a head of zeros all values are alike at first."""
    module, criterion = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))), CRITERIA[name]
    if zero_head:
        nn.init.zeros_(module[-1].weight), nn.init.zeros_(module[-1].bias)
    labels = LABELS.sort()[0] if order == "sorted" else LABELS
    for batch_size in (1, 5, 8):
        f = Objective.from_module(module, criterion, X, labels, batch_size)
        same(f, module, lambda m: criterion(m(X), labels))


def test_a_criterion_may_read_the_parameters_of_its_module():
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))

    def criterion(outputs, targets):
        return F.mse_loss(outputs, targets) + 0.1 * sum(p.square().sum() for p in module.parameters())

    for batch_size in (None, 5):
        f = Objective.from_module(module, criterion, X, Y, batch_size)
        same(f, module, lambda m: F.mse_loss(m(X), Y) + 0.1 * sum(p.square().sum() for p in m.parameters()))


def test_parameters_that_were_taken_from_the_module_before_are_refused():
    module = seeded(lambda: nn.Linear(4, 3))
    own = list(module.parameters())

    def criterion(outputs, targets):
        return F.mse_loss(outputs, targets) + 0.1 * sum(p.square().sum() for p in own)

    with pytest.raises(ValueError, match=r"depends on 'weight' of the module by another way.*f \+ cflows.Objective"):
        Objective.from_module(module, criterion, X, Y)


def test_objectives_add():
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    f = Objective.from_module(module, nn.MSELoss(), X, Y, 5)
    g = f + Objective(lambda w: 0.1 * w.square().sum(), f.w0)
    same(g, module, lambda m: F.mse_loss(m(X), Y) + 0.1 * sum(p.square().sum() for p in m.parameters()))
    torch.testing.assert_close(g.outputs(g.w0, X), module(X).detach())
    with pytest.raises(ValueError, match=r"objectives of 45|51 weights"):
        f + Objective(lambda w: w.sum(), torch.ones(2).double())
    with pytest.raises(TypeError):
        f + 1
    torch.testing.assert_close(sum([f, f])(f.w0), 2 * f(f.w0))


class Experts(nn.Module):
    """What keeps experts evenly used is left behind by the forward pass, for the criterion."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 2), nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

    def forward(self, x):
        share = self.gate(x).softmax(1)
        self.even = share.mean(0).square().sum()
        return (share[:, None] * torch.stack([expert(x) for expert in self.experts], 2)).sum(2)


def test_what_a_forward_pass_leaves_behind_for_the_criterion():
    module = seeded(Experts)

    def loss(outputs, targets):
        return F.mse_loss(outputs, targets) + module.even

    f = Objective.from_module(module, loss, X, Y)
    assert not hasattr(module, "even")
    with pytest.raises(ValueError, match=r"it needs what the forward pass leaves behind.*batch_size=None"):
        Objective.from_module(module, loss, X, Y, 5)
    module.even = torch.ones(()).double()  # there is something, and it is not that of the batch
    with pytest.raises(ValueError, match="mixes examples"):
        Objective.from_module(module, loss, X, Y, 5)
    del module.even
    torch.testing.assert_close(f(f.w0), loss(module(X), Y).detach(), rtol=1e-12, atol=0)


def test_mixing_is_seen_behind_an_offset():
    layers = nn.BatchNorm1d(16, track_running_stats=False), nn.Tanh(), nn.Linear(16, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 16), *layers).eval()
        x, y = torch.randn(64, 4), 10 + torch.randn(64, 1)
    with torch.no_grad():
        module[3].bias.fill_(10.0)
        module[3].weight.mul_(0.01)
    with pytest.raises(ValueError, match="mixes examples"):
        Objective.from_module(module, nn.MSELoss(), x, y, 16)


def test_a_small_penalty_beside_a_large_sum_is_not_counted_for_each_batch():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, module = torch.randn(2000, 4), nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))

    def criterion(outputs, targets):
        penalty = 1e-3 * sum(p.square().sum() for p in module.parameters())
        return F.cross_entropy(outputs, targets, reduction="sum") + penalty

    with pytest.raises(ValueError, match="mixes examples"):
        Objective.from_module(module, criterion, x, (x[:, 0] > 0).long(), 100)


def test_a_value_is_that_of_which_the_gradient_is():
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))

    def criterion(outputs, targets):
        own = [p for p in module.parameters() if p.requires_grad]
        return F.mse_loss(outputs, targets) + 0.1 * sum(p.square().sum() for p in own)

    f = Objective.from_module(module, criterion, X, Y)
    with torch.no_grad():
        torch.testing.assert_close(f(f.w0), f.value_and_grad(f.w0)[0], rtol=1e-14, atol=0)
    assert not f(f.w0).requires_grad
    assert not f.outputs(f.w0, X).requires_grad
    assert f(f.w0.clone().requires_grad_()).requires_grad
    with pytest.raises(ValueError, match=r"shape \(3,\) where a tensor of shape \(51,\)"):
        f(torch.ones(3))
    with pytest.raises(ValueError, match=r"returned a tensor of shape \(2,\)"):
        Objective(lambda w: w, torch.ones(2))(torch.ones(2))


def test_a_gradient_that_is_not_that_of_the_loss_is_pointed_out():
    module = seeded(Reentrant)
    with pytest.warns(UserWarning, match=r"the gradient of Reentrant is not that of its loss.*use_reentrant=True"):
        Objective.from_module(module, nn.MSELoss(), X.clone().requires_grad_(), Y)


class Reentrant(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.second(checkpoint(lambda x: torch.tanh(self.first(x)), x, use_reentrant=True))


@pytest.mark.parametrize("batch_size", [None, 5])
def test_products_stay_those_of_the_weights_that_were_given(batch_size):
    f = Objective.from_module(seeded(Tied), nn.MSELoss(), X, Y, batch_size)
    w, V = f.w0.clone(), torch.ones(f.dim, 1, dtype=torch.float64)
    products = f.linearize(w)[2]
    w += 1
    torch.testing.assert_close(products(V), f.hvp(f.w0, V), rtol=1e-12, atol=0)


def test_an_interrupted_trial_is_made_again(monkeypatch):
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    module[0] = nn.utils.parametrizations.weight_norm(module[0])
    f = Objective.from_module(module, nn.MSELoss(), X, Y)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(derivative_check, "difference", interrupt)
        with pytest.raises(KeyboardInterrupt):
            f.hvp(f.w0, f.w0[:, None])
    with pytest.warns(UserWarning, match="products of this loss are off"):
        f.hvp(f.w0, f.w0[:, None])


def test_the_mode_of_a_layer_is_that_at_construction():
    layers = nn.Linear(4, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 3)
    module = nn.Sequential(*layers).double().eval()
    f = Objective.from_module(module, nn.MSELoss(), X, Y)
    before = f(f.w0)
    module.train()
    assert f(f.w0) == f(f.w0) == before
    assert module.training
    assert module[1].training


def test_tensors_in_the_same_memory_are_refused():
    module = seeded(lambda: nn.Linear(4, 3))
    module.register_buffer("twin", module.weight.data)
    with pytest.raises(ValueError, match=r"'(weight|twin)' and '(weight|twin)' lie in the same memory"):
        Objective.from_module(module, nn.MSELoss(), X, Y)


def test_a_padding_row_is_left_alone_by_trials():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(7, 5, padding_idx=0), nn.Linear(5, 3)

        def forward(self, tokens):
            return self.head(torch.tanh(self.table(tokens).mean(1)))

    module = seeded(Mean)
    with torch.no_grad():
        module.table.weight[0] = 0.3
    f = Objective.from_module(module, nn.MSELoss(), torch.arange(48).view(24, 2) % 7, Y)
    H = f.hvp(f.w0, torch.eye(f.dim, dtype=torch.float64))  # a warning would be an error
    torch.testing.assert_close(H, H.T, rtol=1e-9, atol=1e-12)


def test_what_looks_for_parameters_finds_none_and_is_refused():
    module = seeded(lambda: nn.Linear(4, 3))

    def criterion(outputs, targets):
        own = [p for p in module.parameters() if isinstance(p, nn.Parameter)]
        return F.mse_loss(outputs, targets) + 0.1 * sum(p.square().sum() for p in own)

    with pytest.raises(ValueError, match="once its parameters are the pieces of one vector"):
        Objective.from_module(module, criterion, X, Y)


def test_changes_in_place_are_refused():
    class Masked(nn.Linear):
        def forward(self, x):
            self.weight.data *= torch.ones_like(self.weight).tril()
            return super().forward(x)

    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x.div_(2))

    with pytest.raises(ValueError, match="changes its own weights in place"):
        Objective.from_module(seeded(lambda: Masked(4, 3)), nn.MSELoss(), X, Y)
    with pytest.raises(ValueError, match="changes its inputs in place"):
        Objective.from_module(seeded(lambda: Scaled(4, 3)), nn.MSELoss(), X.clone(), Y)


LINE = {
    "squeezed": lambda o, t: F.binary_cross_entropy_with_logits(o.squeeze(), t),
    "column": lambda o, t: (o[:, 0] - t).square().mean().sqrt(),
    "weighted": lambda o, t: (t * (o.squeeze(1) - t).square()).sum() / t.sum(),
    "weights of all": nn.BCEWithLogitsLoss(weight=torch.linspace(1, 2, 24).double()[:, None]),
}


@pytest.mark.parametrize("name", LINE)
def test_ordinary_criteria_of_one_output_are_accepted(name):
    module, target = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))), (X[:, 0] > 0).double()
    target = target[:, None] if name == "weights of all" else target
    same(Objective.from_module(module, LINE[name], X, target), module, lambda m: LINE[name](m(X), target))


def test_a_first_batch_without_labels():
    labels = LABELS.sort()[0]
    criterion = nn.CrossEntropyLoss(ignore_index=0)
    module = seeded(lambda: nn.Linear(4, 3))
    for loss in (criterion, lambda o, t: torch.zeros(()).double() if (t == 0).all() else criterion(o, t)):
        f = Objective.from_module(module, loss, X, labels, 4)
        same(f, module, lambda m: criterion(m(X), labels))


class Equation(nn.Module):
    """u' of a network u(x): a loss that holds derivatives with respect to the inputs."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x):
        x = x.detach().requires_grad_()
        u = self.net(x)
        return torch.autograd.grad(u.sum(), x, create_graph=True)[0] + u


@pytest.mark.parametrize("batch_size", [None, 6])
def test_forward_passes_that_differentiate(batch_size):
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    module = seeded(Equation)
    f = Objective.from_module(module, nn.MSELoss(), x, x.sin(), batch_size)
    same(f, module, lambda m: F.mse_loss(m(x), x.sin()))
    opt = RMSProp(1e-3, 0.9, bias_correction=True)
    tree = simulate(f, opt, 3, outputs=lambda w: f.outputs(w, x).flatten(), progress=False)
    assert tree["central"]["outputs"].notnull().all()


class Stochastic(nn.Module):
    """A residual block that is dropped with probability p, for all examples at once."""

    def __init__(self, draw):
        super().__init__()
        self.first, self.head, self.draw = nn.Linear(4, 4), nn.Linear(4, 3), draw
        nn.init.zeros_(self.head.weight)  # nothing of it is seen in the loss at first

    def forward(self, x):
        return self.head(x + self.draw(torch.tanh(self.first(x))))


def drop_path(h):
    return h * (torch.rand(()) > 0.1) / 0.9


GENERATOR = torch.Generator().manual_seed(3)
DRAWS = {
    "drop path": drop_path,
    "drop path by random": lambda h: h * (random.random() > 0.01),
    "drop path by NumPy": lambda h: h * float(np.random.rand() > 0.01),  # noqa: NPY002
    "functional dropout": lambda h: F.dropout(h, 0.01),
    "noise of its own generator": lambda h: h + torch.randn(h.shape, generator=GENERATOR).to(h),
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", DRAWS)
def test_randomness_is_refused(name, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with pytest.raises(ValueError, match=r"draws random numbers|different gradients.*random"):
            Objective.from_module(Stochastic(DRAWS[name]).double(), nn.MSELoss(), X, Y)


def test_dropout_that_drops_nothing_is_not_random():
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0)).double()
    Objective.from_module(module, lambda o, t: F.mse_loss(F.dropout(o, 0.0), t), X, Y)
    assert module.training


def test_memory_is_refused():
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3).double())
    with pytest.raises(ValueError, match=r"changes the buffer '.*_u'.*eval\(\)"):
        Objective.from_module(module, nn.MSELoss(), X, Y)
    Objective.from_module(module.eval(), nn.MSELoss(), X, Y)

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = nn.Linear(4, 3), [0]

        def forward(self, x):
            self.calls[0] += 1
            return self.inner(x) * (1 + 0.1 * self.calls[0])

    with pytest.raises(ValueError, match="different gradients"):
        Objective.from_module(Counts().double(), nn.MSELoss(), X, Y)


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.head(h - h.mean(0))


@pytest.mark.parametrize("batch_size", [1, 8, 23])
@pytest.mark.parametrize(
    "make",
    [
        Centred,
        lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)).eval(),
    ],
)
def test_modules_that_mix_examples_are_refused_in_batches_only(make, batch_size):
    module = seeded(make)
    same(Objective.from_module(module, nn.MSELoss(), X, Y), module, lambda m: F.mse_loss(m(X), Y))
    with pytest.raises(ValueError, match=r"mixes examples.*batch_size=None|Expected more than 1 value"):
        Objective.from_module(module, nn.MSELoss(), X, Y, batch_size)


def test_checks_cost_no_more_than_five_gradients_and_can_be_left_out():
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    count = {"forward": 0, "backward": 0}
    module[1].register_forward_hook(lambda m, i, o: count.update(forward=count["forward"] + len(o)))
    module[1].register_full_backward_hook(lambda m, i, o: count.update(backward=count["backward"] + len(o[0])))
    Objective.from_module(module, nn.MSELoss(), X, Y, 6)
    assert count["backward"] <= 4 * len(X)
    assert count["forward"] <= 9 * len(X)  # by itself a third of a gradient, at most: four are those of gradients
    count.update(forward=0, backward=0)
    Objective.from_module(module, nn.MSELoss(), X, Y, check=False)
    assert count["forward"] == 0


def test_products_that_are_wrong_are_replaced_by_differences():
    """`torch.nn.utils.weight_norm` by its fused kernel: not symmetric, and off."""
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    module[0] = nn.utils.parametrizations.weight_norm(module[0])
    f = Objective.from_module(module, nn.MSELoss(), X, Y)
    eye = torch.eye(f.dim, dtype=torch.float64)
    eps = 1e-5
    twin = torch.stack(
        [(f.value_and_grad(f.w0 + eps * v)[1] - f.value_and_grad(f.w0 - eps * v)[1]) / (2 * eps) for v in eye]
    )
    with pytest.warns(UserWarning, match=r"products of this loss are off .*not symmetric, most of all for '0\.param"):
        H = f.hvp(f.w0, eye)
    torch.testing.assert_close(H, twin, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(H, H.T, rtol=1e-4, atol=1e-6)


class Skewed(torch.autograd.Function):
    """tanh whose gradient is right and whose second derivative is half of what it should be."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        slope = 1 - x.tanh().square()
        return g * (slope + slope.detach()) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_with_wrong_second_derivatives_is_named(dtype):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(Skewed.apply(self.first(x)))

    module = seeded(Layer).to(dtype)
    f = Objective.from_module(module, nn.MSELoss(), X.to(dtype), Y.to(dtype))
    with pytest.warns(UserWarning, match=r"PyTorch's products of this loss are off from differences by .*'first"):
        H = f.hvp(f.w0, torch.eye(f.dim, dtype=dtype))
    double = seeded(Layer)
    eps, eye = 1e-5, torch.eye(f.dim, dtype=torch.float64)

    def gradient(shift):
        return plain(double, lambda m: F.mse_loss(m.head(torch.tanh(m.first(X))), Y), shift)[1]

    twin = torch.stack([(gradient(eps * v) - gradient(-eps * v)) / (2 * eps) for v in eye])
    torch.testing.assert_close(H.double(), twin, rtol=1e-2, atol=2e-4 if dtype == torch.float32 else 1e-7)


def test_layers_without_second_derivatives_work_by_differences():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(7, 5), nn.Linear(5, 3)

        def forward(self, tokens):
            return self.head(torch.tanh(self.bag(tokens)))

    module = seeded(Bag)
    tokens = torch.arange(48).view(24, 2) % 7
    f = Objective.from_module(module, nn.MSELoss(), tokens, Y)
    with pytest.warns(UserWarning, match="can't be computed"):
        H = f.hvp(f.w0, torch.eye(f.dim, dtype=torch.float64))
    torch.testing.assert_close(H, H.T, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(
    "layer", [nn.InstanceNorm1d(4), nn.LayerNorm(6), nn.BatchNorm1d(4, track_running_stats=False).eval()]
)
def test_third_derivatives_are_right_whatever_the_layer(layer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.layer, self.head = nn.Linear(1, 6), layer, nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.layer(self.first(x[:, :, None])))).mean(1)

    f = Objective.from_module(seeded(Net), nn.MSELoss(), X, Y)
    U = torch.randn(f.dim, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    U = U / U.norm(dim=0)
    with pytest.warns(UserWarning, match="third derivatives of this loss are off from differences"):
        T, eps = f.hessian_gradients(f.w0, U), 1e-3
    for i in range(2):
        for j in range(2):
            a, b = eps * (U[:, i] + U[:, j]), eps * (U[:, i] - U[:, j])
            g = [f.value_and_grad(f.w0 + s)[1] for s in (a, -a, b, -b)]
            twin = (g[0] + g[1] - g[2] - g[3]) / (4 * eps**2)
            assert (T[i, j] - twin).norm() <= 1e-3 * twin.norm() + 1e-6


TOKENS = torch.arange(24) % 7


@pytest.mark.parametrize("module", ["index", "one-hot", "embedding"])
def test_integers_that_a_module_can_use_are_used(module):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(7, 3))
            self.embedding = nn.Embedding.from_pretrained(torch.randn(7, 3), freeze=False)

        def forward(self, x):
            if module == "index":
                return torch.tanh(self.table)[x]
            return F.one_hot(x, 7).double() @ self.table if module == "one-hot" else torch.tanh(self.embedding(x))

    net = seeded(Tokens)
    if module != "embedding":
        del net.embedding
    else:
        del net.table
    same(Objective.from_module(net, nn.MSELoss(), TOKENS, Y, 5), net, lambda m: F.mse_loss(m(TOKENS), Y))


def holed(x, at):
    x = x.clone()
    x[at] = torch.nan
    return x


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=torch.complex64))


LINEAR = nn.Linear(4, 3).double()
BAD = {
    "NaN inputs": (lambda: (LINEAR, nn.MSELoss(), holed(X, 1), Y), "inputs hold NaN in 1 of 24 examples.*number 1"),
    "NaN targets": (lambda: (LINEAR, nn.MSELoss(), X, holed(Y, 20), 5), "targets hold NaN.*number 20"),
    "half": (lambda: (nn.Linear(4, 3).bfloat16(), nn.MSELoss(), X.bfloat16(), Y), r"bfloat16.*module.float\(\)"),
    "complex": (lambda: (Complex(), nn.MSELoss(), X, Y), "'weight' is torch.complex64.*real"),
    "sparse": (lambda: (nn.Embedding(7, 3, sparse=True), nn.MSELoss(), TOKENS, Y.float()), "sparse=False"),
    "max_norm": (lambda: (nn.Embedding(7, 3, max_norm=1.0), nn.MSELoss(), TOKENS, Y.float()), "max_norm=None"),
    "uneven vectors": (lambda: (LINEAR, nn.MSELoss(reduction="none"), X, Y, 5), r"criterion returned a tensor.*scalar"),
    "broadcast": (
        lambda: (nn.Linear(4, 1).double(), lambda o, t: (o - t).square().mean(), X, Y[:, 0]),
        r"shape \(24, 1\), targets \(24,\).*broadcasts",
    ),
    "integers": (lambda: (LINEAR, nn.MSELoss(), X.long(), Y), r"inputs are torch.int64.*inputs.float\(\)"),
    "no module": (lambda: (torch.tanh, nn.MSELoss(), X, Y), "must be a torch.nn.Module"),
    "no criterion": (lambda: (LINEAR, None, X, Y), "criterion is None"),
    "lazy": (lambda: (nn.LazyLinear(3), nn.MSELoss(), X, Y), "has no shape yet; run the module"),
    "batch size": (lambda: (LINEAR, nn.MSELoss(), X, Y, 2.5), r"batch_size is 2\.5; it must be an integer"),
    "frequencies": (
        lambda: (nn.Embedding(7, 3, scale_grad_by_freq=True).double(), nn.MSELoss(), TOKENS, Y),
        "scale_grad_by_freq=False",
    ),
    "batch norm": (
        lambda: (nn.Sequential(LINEAR, nn.BatchNorm1d(3).double()), nn.MSELoss(), X, Y),
        "BatchNorm1d.*training mode.*fresh network.*normalises nothing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    make, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match=message):
        Objective.from_module(*make())


def test_a_criterion_that_knows_what_to_do_with_shapes_is_left_to_it():
    module = nn.Linear(4, 1).double()
    f = Objective.from_module(module, lambda o, t: (o.squeeze(1) - t).square().mean(), X, Y[:, 0])
    same(f, module, lambda m: (m(X).squeeze(1) - Y[:, 0]).square().mean())


def test_half_precision_weights_are_refused():
    with pytest.raises(TypeError, match=r"w0 is torch.float16.*float32"):
        Objective(lambda w: w.square().sum(), torch.ones(3).half())
