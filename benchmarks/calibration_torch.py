"""Wanda and SparseGPT in torch, and ours beside them on the same matrices: the same masks? how fast?

python benchmarks/calibration_torch.py RESULT.json ROUNDS [--quick]

Written from the papers (Sun and others, 2024; Frantar and Alistarh, 2023, algorithm 1), with what torch does fastest.
The Hessian is factored in float64, as ours is; the weights are float32. Both count the elements that fall as we do.
The threads are those of the environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import Candidate, interleaved

from oxiprune_gpu import PruningConfig, prune_sparsegpt, prune_wanda

BLOCK, DAMPING = 128, 0.01
SHAPES = ((1024, 1024), (4096, 1024), (2048, 2048))
SMALL = ((96, 256), (64, 136))
RULES = ("50 %", "2:4")
Groups = tuple[int, int]


class Layer(NamedTuple):
    """A matrix and the sums of its inputs, for numpy and for torch, which share the memory."""

    weight: Any
    hessian: Any

    @classmethod
    def of(cls, outputs: int, features: int, dtype: Any = np.float32) -> Layer:
        """Inputs whose features go together and differ in size."""
        random = np.random.default_rng(features)
        mixing = random.standard_normal((features, features)) * random.lognormal(0, 0.5, features)
        inputs = random.standard_normal((2 * features, features)) @ mixing / features**0.5
        return cls(random.standard_normal((outputs, features)).astype(dtype), inputs.T @ inputs)

    @property
    def squares(self) -> Any:
        return np.diagonal(self.hessian).copy()

    def double(self) -> Layer:
        return Layer(self.weight.astype(np.float64), self.hessian)


def rule_of(text: str) -> tuple[float, Groups | None]:
    """The sparsity, and (kept, of) of N:M."""
    if ":" not in text:
        return float(text.removesuffix("%")) / 100, None
    keep, of = map(int, text.split(":"))
    return 1 - keep / of, (keep, of)


def lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Which `count` scores of each row are the lowest."""
    places = torch.topk(scores, count, dim=-1, largest=False, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, places, True)


def lowest_in_groups(scores: torch.Tensor, groups: Groups) -> torch.Tensor:
    keep, of = groups
    return lowest(scores.reshape(-1, of), of - keep).reshape(scores.shape)


def torch_wanda(layer: Layer, rule: str) -> tuple[Any, Any]:
    """The pruned matrix, and what is kept of it."""
    sparsity, groups = rule_of(rule)
    weight = torch.from_numpy(layer.weight)
    scores = weight.abs() * torch.from_numpy(layer.squares).sqrt().to(weight.dtype)
    fallen = lowest_in_groups(scores, groups) if groups else lowest(scores, int(sparsity * scores.shape[1]))
    return weight.masked_fill(fallen, 0).numpy(), ~fallen.numpy()


def torch_sparsegpt(layer: Layer, rule: str) -> tuple[Any, Any]:
    """The pruned matrix, and what is kept of it."""
    sparsity, groups = rule_of(rule)
    weight = torch.from_numpy(layer.weight).clone()
    factor = inverse_factor(torch.from_numpy(layer.hessian)).to(weight.dtype)
    fallen = torch.zeros_like(weight, dtype=torch.bool)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        own = factor[start:stop, start:stop]
        part, marks = weight[:, start:stop], fallen[:, start:stop]
        if groups is None:
            scores = (part / own.diagonal()) ** 2
            marks |= lowest(scores.reshape(1, -1), int(sparsity * scores.numel())).reshape(scores.shape)
        errors = block_errors(part, marks, own, groups)
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return weight.numpy(), ~fallen.numpy()


def inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The upper triangle of Cholesky of the inverse, after damping."""
    damped = hessian.clone()
    damped.diagonal().add_(DAMPING * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def block_errors(part: torch.Tensor, fallen: torch.Tensor, factor: torch.Tensor, groups: Groups | None) -> torch.Tensor:
    """Column by column: what falls becomes zero, its error goes to the columns behind, in this block at once."""
    errors = torch.zeros_like(part)
    for j in range(part.shape[1]):
        if groups and j % groups[1] == 0:
            own = slice(j, j + groups[1])
            fallen[:, own] = lowest_in_groups((part[:, own] / factor.diagonal()[own]) ** 2, groups)
        errors[:, j] = part[:, j].where(fallen[:, j], 0) / factor[j, j]
        part[:, j:].addr_(errors[:, j], factor[j, j:], alpha=-1)
        part[:, j].masked_fill_(fallen[:, j], 0)
    return errors


def our_wanda(layer: Layer, rule: str) -> tuple[Any, Any]:
    return prune_wanda(layer.weight, layer.squares, config(rule))


def our_sparsegpt(layer: Layer, rule: str) -> tuple[Any, Any]:
    found = prune_sparsegpt(layer.weight, layer.hessian, config(rule), block=BLOCK, damping=DAMPING)
    return found.pruned, found.mask


def config(rule: str) -> PruningConfig:
    sparsity, groups = rule_of(rule)
    return PruningConfig(granularity=rule) if groups else PruningConfig(sparsity)


Way = Callable[[Layer, str], tuple[Any, Any]]
WAYS: dict[str, tuple[Way, Way]] = {"wanda": (our_wanda, torch_wanda), "sparsegpt": (our_sparsegpt, torch_sparsegpt)}


def compared(layer: Layer, method: str, rule: str) -> dict[str, Any]:
    """In float64 the masks must be equal; in float32 rounding decides between scores that are nearly equal."""
    exact, rounded = ([way(each, rule) for way in WAYS[method]] for each in (layer.double(), layer))
    differing = [int((ours[1] != theirs[1]).sum()) for ours, theirs in (exact, rounded)]
    if differing[0] or (method == "wanda" and differing[1]):
        sys.exit(f"{method} {rule} {layer.weight.shape}: {differing} masks differ")
    np.testing.assert_allclose(exact[0][0], exact[1][0], rtol=1e-6, atol=1e-8)
    return {"elements": layer.weight.size, "differing": differing[1]}


def timed(layer: Layer, method: str, rule: str, rounds: int) -> dict[str, list[float | None]]:
    names = ("oxiprune", "torch")
    return interleaved(
        [Candidate(name, lambda way=way: way(layer, rule)) for name, way in zip(names, WAYS[method], strict=True)],
        rounds,
    )


def main() -> None:
    path, rounds, *quick = sys.argv[1:]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rows = []
    for shape in SMALL if quick else SHAPES:
        layer = Layer.of(*shape)
        for method in WAYS:
            for rule in RULES:
                row = {"method": method, "rule": rule, "shape": shape, **compared(layer, method, rule)}
                rows.append({**row, "seconds": timed(layer, method, rule, int(rounds))})
    Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
