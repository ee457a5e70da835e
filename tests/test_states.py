"""States as values: saved by name, read back, observed without being changed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import mlp_objective
from torch import Tensor

from cflows import RMSProp, _states, files, simulate
from cflows.critical import Critical, Modes
from cflows.processes import PROCESSES, Settings, State, subspace

OPT = RMSProp(0.01, 0.95, bias_correction=True)
NAMES = tuple(PROCESSES)


def settings(f, **options):
    return Settings(f, OPT, 2, 1e-4, torch.arange(2), **options)


@pytest.fixture(scope="module")
def at_the_edge():
    """Every process some steps after the first eigenvalue has arrived, and what it saw on the way."""
    f = mlp_objective(width=8, examples=20)
    walkers = {name: PROCESSES[name](settings(f, outputs=lambda w: w[:2]), 2) for name in NAMES}
    now = {name: walker.start(f.w0, OPT.init(f.w0), 1) for name, walker in walkers.items()}
    for i in range(40):
        seen = {}
        for name, walker in walkers.items():
            seen[name] = walker.observe(now[name], i, seen)
        now = {name: walker.step(seen[name]) for name, walker in walkers.items()}
    assert max(seen["central"].row["variances"]) > 0
    return walkers, now, seen


def same(a, b):
    """Whether two states are equal to the bit."""
    return _states.pack(a).identical(_states.pack(b))


@pytest.mark.parametrize("name", NAMES)
def test_observing_changes_nothing(at_the_edge, name):
    walkers, now, others = at_the_edge
    before = _states.pack(now[name]).copy(deep=True)
    earlier = {other: seen for other, seen in others.items() if other != name}
    one, two = (walkers[name].observe(now[name], 40, earlier) for _ in range(2))
    assert before.identical(_states.pack(now[name]))
    assert one.row == two.row
    assert same(one.state, two.state)
    assert same(walkers[name].step(one), walkers[name].step(one))
    assert before.identical(_states.pack(now[name]))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_goes_through_a_file(at_the_edge, name, tmp_path):
    walkers, now, _ = at_the_edge
    files.save(tmp_path / "state.nc", xr.DataTree(_states.pack(now[name])))
    packed = files.load(tmp_path / "state.nc").to_dataset()
    back = _states.unpack(walkers[name].state_type, packed, torch.device("cpu"))
    assert type(back) is type(now[name])
    assert same(back, now[name])
    assert back.w.stride() == now[name].w.stride()
    lean = _states.unpack(walkers[name].state_type, _states.pack(now[name], caches=False), torch.device("cpu"))
    assert lean.guess is None
    assert torch.equal(lean.w.nan_to_num(), now[name].w.nan_to_num())


def test_fields_are_found_by_name():
    modes = Modes(torch.ones(2), torch.arange(6.0).reshape(2, 3).T, torch.zeros(3, 2))
    critical = Critical(np.eye(2), modes.U, torch.zeros(2, 2, 3), penalised=False, missed=np.ones((2, 2)))
    known = subspace.Subspace(modes, critical, 1.0, 2.0, deficit=torch.tensor(3.0))
    back = _states.unpack(subspace.Subspace, _states.pack(known), torch.device("cpu"))
    assert back.critical.penalised is False
    assert isinstance(back.critical.A, np.ndarray)
    assert isinstance(back.critical.missed, np.ndarray)
    assert back.critical.dU == 0.0
    assert back.modes.U.stride() == modes.U.stride()
    assert float(back.deficit) == 3
    assert back.arrival == float("inf")


def test_another_format_is_refused():
    @dataclass(frozen=True)
    class Point:
        x: Tensor
        y: float

    packed = _states.pack(Point(torch.ones(1), 2.0))
    with pytest.raises(ValueError, match="not one of Point"):
        _states.unpack(Point, packed.drop_vars("x"), torch.device("cpu"))
    packed.attrs["format"] = 0
    with pytest.raises(ValueError, match="the state has format 0; this version reads format 1"):
        _states.unpack(Point, packed, torch.device("cpu"))


def test_a_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    f, path = mlp_objective(), tmp_path / "run.ckpt"
    simulate(f, OPT, 3, checkpoint=path, progress=False)
    monkeypatch.setattr("cflows._run.ALGORITHM", 1000)
    with pytest.raises(ValueError, match=r"written by cflows .*, algorithm \d+, and this is .* 1000; delete it"):
        simulate(f, OPT, 3, checkpoint=path, progress=False)


def test_old_names_warn():
    f = mlp_objective(width=8, examples=20)
    with pytest.warns(FutureWarning, match="warmup is now called burn_in"):
        tree = simulate(f, OPT, 2, ("discrete",), warmup=3, progress=False)  # type: ignore[call-arg]
    new = simulate(f, OPT, 2, ("discrete",), burn_in=3, progress=False)
    xr.testing.assert_identical(tree["discrete"].to_dataset(), new["discrete"].to_dataset())
    with pytest.raises(TypeError, match="window is the old name of replay_steps"):
        simulate(f, OPT, 2, window=1, replay_steps=1, progress=False)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Part:
    a: float = 1.0


@dataclass(frozen=True)
class LargerPart(Part):
    b: float = 2.0


@dataclass(frozen=True)
class Odd(State):
    what: Any = None
    part: Part | None = None


@pytest.mark.parametrize(
    "odd",
    [{"what": Part()}, {"part": LargerPart()}, {"what": (1, 2)}, {"what": {"a": 1}}, {"what": [torch.ones(1)]}],
)
def test_what_could_not_be_restored_is_refused_at_once(odd):
    w = torch.ones(2)
    assert _states.settle(Odd(w, w, 1.0, part=Part(3.0), what=np.int64(7)), Odd).what == 7
    with pytest.raises(TypeError, match=rf"state.{next(iter(odd))} is a"):
        _states.settle(Odd(w, w, 1.0, **odd), Odd)
    with pytest.raises(TypeError, match="the state is a Odd, and declared as"):
        _states.settle(Odd(w, w, 1.0), State)


def test_fields_too_many_or_too_few_are_refused():
    w = torch.ones(2)
    with pytest.raises(ValueError, match=r"is not one of State.*part, what"):
        _states.unpack(State, _states.pack(Odd(w, w, 1.0)), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"is not one of Odd.*what is missing"):
        _states.unpack(Odd, _states.pack(State(w, w, 1.0)), torch.device("cpu"))
