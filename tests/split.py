"""A run split between the processes that torchrun starts, by each with its half of the examples; saved by the first."""

import sys

import torch
import torch.distributed as dist
from torch import nn

import cflows


def examples():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(24, 4, generator=generator), torch.randn(24, 2, generator=generator)


def run(share: slice, split: bool, batch_size: int | None = None):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    x, y = (part[share] for part in examples())
    f = cflows.Objective.from_module(module, nn.MSELoss(), x, y, batch_size, split=split)
    opt = cflows.RMSProp(0.02, 0.95, bias_correction=True)
    tree = cflows.simulate(f, opt, 40, ("discrete", "central"), progress=False)
    U = torch.eye(f.dim)[:, :2]
    return tree, f.hessian_gradients(f.w0, U), f.hvp(f.w0, U)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank, n = dist.get_rank(), dist.get_world_size()
    tree, T, HU = run(slice(rank, None, n), True, 5)
    if rank == 0:
        losses = {name: torch.from_numpy(tree[name]["loss"].values) for name in ("discrete", "central")}
        torch.save({"T": T, "HU": HU, "variances": float(tree["central"]["variances"].max()), **losses}, sys.argv[1])
    dist.destroy_process_group()
