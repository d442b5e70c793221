"""A network of PyTorch, trained by several processes: three spirals of points, told apart by a small MLP.

    mpirun -n 3 python scripts/pytorch.py         one server, two workers
    python scripts/pytorch.py                     all in one process

The parameters are pulled into the module's own tensors and the gradients pushed from them, by DLPack, without a copy in between
(NumPy 2.1 or newer). The rule is the servers', so there is no torch.optim; PyTorch draws the first values and does the rest.
"""

import math

import torch
from torch import nn

import mpips

CLASSES, STEPS, BATCH = 3, 300, 64
torch.set_num_threads(1)  # several workers share this machine's cores
torch.manual_seed(0)  # every rank makes the same first values; mpips compares them
net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))
params = {name: value.detach() for name, value in net.named_parameters()}  # the same memory
rule = mpips.optim.Adam(lr=mpips.optim.Warmup(mpips.optim.Cosine(0.01, STEPS), clocks=10))
tables = [mpips.Dense(name, tuple(value.shape), rule, mpips.init.array(value.clone()), combine="mean")
          for name, value in params.items()]


def spirals(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points in the plane, and the arm of the spiral on which each lies."""
    draw = torch.Generator().manual_seed(seed)
    arm = torch.randint(CLASSES, (n,), generator=draw)
    far = torch.rand(n, generator=draw)
    angle = 2 * math.pi * (far + arm / CLASSES) + 0.1 * torch.randn(n, generator=draw)
    return torch.stack([far * torch.cos(angle), far * torch.sin(angle)], dim=1), arm


def work(ps: mpips.Worker) -> float:
    names, tensors = list(params), list(params.values())
    for clock in range(ps.now, STEPS):
        ps.pull(names, out=tensors)
        x, arm = spirals(BATCH, seed=clock * ps.workers + ps.index)
        net.zero_grad()
        loss = nn.functional.cross_entropy(net(x), arm)
        loss.backward()
        ps.push({name: value.grad for name, value in net.named_parameters()})
        ps.clock()
        if ps.index == 0 and (clock + 1) % 100 == 0:
            print(f"step {clock + 1}  loss {loss.item():.4f}", flush=True)
    ps.pull(names, out=tensors)
    x, arm = spirals(2000, seed=-1)
    with torch.no_grad():
        return float((net(x).argmax(dim=1) == arm).float().mean())


if __name__ == "__main__":
    accuracies = mpips.run(work, tables, device="cpu")
    if accuracies is not None:  # on worker 0
        print(f"held-out accuracy {accuracies[0]:.4f}")
