"""What bench_compaction.py does with torch: networks that it trains, and what Torch-Pruning makes of them.

python benchmarks/compaction_torch.py train FOLDER SEED EPOCHS | prune MODULE.pt RATIO P AFTER.onnx ...

Two networks for scikit-learn's digits, trained as scripts/train_demo_model.py trains the demo's: that one, and a
residual one. Several RATIO P AFTER.onnx may follow each other. Torch-Pruning (Fang and others, "DepGraph: Towards Any
Structural Pruning", CVPR 2023) removes RATIO of the channels of each layer, the lowest by its group magnitude with the
P-norm; both write ONNX by the same exporter.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
demo: Any = importlib.import_module("train_demo_model")

IMAGES = "images.npz"


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class DigitsResNet(nn.Module):
    """Three stages of two residual blocks each: 273,000 parameters for 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.blocks = nn.Sequential(
            *(Block(24, 24), Block(24, 24)),
            *(Block(24, 48, 2), Block(48, 48)),
            *(Block(48, 72, 2), Block(72, 72)),
        )
        self.head = nn.Linear(72, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.bn(self.stem(image))))
        return self.head(x.mean((2, 3)))


NETWORKS = {"demo": demo.DigitsCnn, "resnet": DigitsResNet}


def train(folder: Path, seed: int, epochs: int) -> None:
    """NAME.pt and NAME.onnx of both networks, and the held-out images, the same for every seed, with their labels."""
    images, held_out, labels, held_labels = demo.digits()
    demo.SEED, demo.EPOCHS = seed, epochs
    np.savez(folder / IMAGES, **{demo.INPUT: held_out, "labels": held_labels})
    for name, network in NETWORKS.items():
        demo.repeatable()
        model = demo.train(network(), torch.from_numpy(images), torch.from_numpy(labels))
        torch.save(model, folder / f"{name}.pt")
        (folder / f"{name}.onnx").write_bytes(demo.to_onnx(model))


def prune(module: Path, after: Path, ratio: float, p: int) -> None:
    """The last layer is left out, as all examples of Torch-Pruning have it: its outputs are the classes."""
    pruning: Any = importlib.import_module("torch_pruning")
    demo.repeatable()
    model = torch.load(module, weights_only=False)
    importance = pruning.importance.GroupMagnitudeImportance(p=p)
    pruner = pruning.pruner.BasePruner(
        model, torch.zeros(1, 1, 8, 8), importance=importance, pruning_ratio=ratio, ignored_layers=[model.head]
    )
    pruner.step()
    after.write_bytes(demo.to_onnx(model))


def main() -> None:
    job, at, *rest = sys.argv[1:]
    if job == "train":
        train(Path(at), int(rest[0]), int(rest[1]))
    else:
        for ratio, p, after in zip(*[iter(rest)] * 3, strict=True):
            prune(Path(at), Path(after), float(ratio), int(p))


if __name__ == "__main__":
    main()
