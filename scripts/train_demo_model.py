"""Trains the model of the demo and writes it, the held-out images and their labels to demo.

Needs the `bench` extra (torch, scikit-learn). On one machine two runs give the same bytes: seeds, one thread and
deterministic algorithms only. Another processor or another torch may round differently and give another model.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

DEMO = Path(__file__).resolve().parent.parent / "demo"
INPUT, OUTPUT = "image", "logits"
SEED, EPOCHS, BATCH = 0, 80, 64
HELD_OUT = 0.3
NEEDED_ACCURACY, MOST_BYTES = 0.98, 500_000


class DigitsCnn(nn.Module):
    """Three convolutions with batch normalisation and two dense layers: 91,000 parameters for 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.conv3, self.bn3 = nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.dense = nn.Linear(64 * 2 * 2, 256)
        self.head = nn.Linear(256, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.max_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        x = F.dropout(F.relu(self.dense(torch.flatten(x, 1))), 0.3, self.training)
        return self.head(x)


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images, held-out images (float32, 0 to 1, shaped n x 1 x 8 x 8) and their labels."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    return train_test_split(images, data.target, test_size=HELD_OUT, random_state=SEED, stratify=data.target)


def moved_a_little(images: torch.Tensor) -> torch.Tensor:
    """Each image turned by up to 12 degrees, scaled by up to 10 % and shifted by up to a pixel."""
    n = len(images)
    angle = (torch.rand(n) * 2 - 1) * 0.21
    scale = 1 + (torch.rand(n) * 2 - 1) * 0.1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.cos(angle) * scale
    theta[:, 0, 1] = torch.sin(angle) * scale
    theta[:, 1, 0] = -theta[:, 0, 1]
    theta[:, :, 2] = (torch.rand(n, 2) * 2 - 1) * 0.25
    return F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """The model after the last epoch: nothing is chosen by looking at the held-out images."""
    steps = EPOCHS * (len(images) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(model(moved_a_little(images[batch])), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def to_onnx(model: nn.Module) -> bytes:
    """The model's file. Batch normalisation stays a node of its own, as in models that come from a training run."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter is chosen: the newer one folds batch normalisation away
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, 8, 8),),
            file,
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=17,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
    content = file.getvalue()
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    return content


def repeatable() -> None:
    """Two runs on one machine give the same."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def main() -> None:
    repeatable()
    train_images, test_images, train_labels, test_labels = digits()
    model = train(DigitsCnn(), torch.from_numpy(train_images), torch.from_numpy(train_labels))
    with torch.no_grad():
        right = model(torch.from_numpy(test_images)).argmax(1).numpy() == test_labels
    content = to_onnx(model)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {len(content):,} bytes; trained on {len(train_images):,} images")
    print(f"held-out accuracy {right.mean():.4f} ({right.sum()} of {len(right)})")
    if right.mean() < NEEDED_ACCURACY or len(content) >= MOST_BYTES:
        sys.exit("Not good enough for the demo: nothing was written.")
    DEMO.mkdir(exist_ok=True)
    (DEMO / "digits_cnn.onnx").write_bytes(content)
    np.savez_compressed(DEMO / "digits_eval.npz", **{INPUT: test_images})
    np.save(DEMO / "digits_labels.npy", test_labels.astype(np.uint8))


if __name__ == "__main__":
    main()
