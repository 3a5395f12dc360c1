"""Trains a pruned torch network in which what was pruned stays zero: after every step the masks are applied again.

It shows: torch tensors are pruned and masked where they lie, through DLPack and without a copy, on the CPU as on a
GPU; the mask comes back as a torch tensor.

Needs torch (and on a GPU, CuPy):

    python examples/torch_masks.py
"""

from __future__ import annotations

import sys

from oxiprune_gpu import PruningConfig, WeightTensor, apply_mask, prune_tensor_inplace

try:
    import torch
except ImportError:
    sys.exit("this example needs torch: pip install torch")


def main() -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)).to(device)
    inputs = torch.randn(512, 16, device=device)
    targets = inputs[:, :4].prod(dim=1, keepdim=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)

    for _ in range(100):
        step(network, optimizer, inputs, targets)
    weights = {name: weight for name, weight in network.named_parameters() if weight.dim() == 2}
    config = PruningConfig(0.8, "l1", "unstructured")
    masks = {name: prune_tensor_inplace(WeightTensor(name, weight), config) for name, weight in weights.items()}
    print(f"pruned:  loss {loss_of(network, inputs, targets).item():.4f}")

    for _ in range(200):
        step(network, optimizer, inputs, targets)
        for name, weight in weights.items():
            apply_mask(weight, masks[name], out=weight)
    print(f"trained: loss {loss_of(network, inputs, targets).item():.4f}")
    for name, weight in weights.items():
        print(f"{name}: {int((weight == 0).sum()):,} of {weight.numel():,} are zero")


def step(
    network: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, targets: torch.Tensor
) -> None:
    optimizer.zero_grad()
    loss_of(network, inputs, targets).backward()
    optimizer.step()


def loss_of(network: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.mse_loss(network(inputs), targets)


if __name__ == "__main__":
    main()
