"""Deep models for bench_compaction.py: residual convolutions and residual dense layers, node after node.

python benchmarks/compaction_models.py FILE NODES CHANNELS

Blocks of three kinds follow each other: two 3x3 convolutions with batch normalisation; two branches, one of them
depthwise, joined by Concat; two dense layers (MatMul, Add) twice as wide inside. Each adds to what came in, so that all
blocks of an input share their channels: the ties go through the whole model.
"""

from __future__ import annotations

import sys

import numpy as np
from onnx import numpy_helper
from onnx_jobs import Builder

SIDE, TOKENS = 8, 8
NODES_OF_A_ROUND = 22


class DeepBuilder(Builder):
    """A builder of blocks."""

    def convolutions(self, image: str, name: str, channels: int) -> str:
        """Seven nodes."""
        inner = self.add("Relu", [self.normalised(image, f"{name}.1", channels)], f"{name}.inner")
        total = self.add("Add", [self.normalised(inner, f"{name}.2", channels), image], f"{name}.total")
        return self.add("Relu", [total], name)

    def normalised(self, image: str, name: str, channels: int) -> str:
        """A convolution and its batch normalisation."""
        made = self.add("Conv", [image, self.weight(f"{name}.weight", (channels, channels, 3, 3))], name, pads=[1] * 4)
        around = {"scale": 1.0, "shift": 0.0, "mean": 0.0, "variance": 1.0}
        parts = [self.vector(f"{name}.{part}", channels, value) for part, value in around.items()]
        return self.add("BatchNormalization", [made, *parts], f"{name}.normalised")

    def branches(self, image: str, name: str, channels: int) -> str:
        """Eight nodes."""
        half = channels // 2
        both = []
        for part in ("left", "right"):
            narrow = self.weight(f"{name}.{part}.weight", (half, channels, 1, 1))
            both.append(self.add("Relu", [self.add("Conv", [image, narrow], f"{name}.{part}")], f"{name}.{part}.relu"))
        deep = self.weight(f"{name}.depthwise.weight", (half, 1, 3, 3))
        both[1] = self.add("Conv", [both[1], deep], f"{name}.depthwise", group=half, pads=[1] * 4)
        joined = self.add("Concat", both, f"{name}.joined", axis=1)
        last = self.weight(f"{name}.last.weight", (channels, channels, 1, 1))
        return self.add("Add", [self.add("Conv", [joined, last], f"{name}.last"), image], name)

    def dense(self, tokens: str, name: str, width: int) -> str:
        """Seven nodes."""
        up = self.biased(tokens, f"{name}.up", width, 2 * width)
        inner = self.add("Sigmoid", [self.add("Relu", [up], f"{name}.inner")], f"{name}.gate")
        return self.add("Add", [self.biased(inner, f"{name}.down", 2 * width, width), tokens], name)

    def biased(self, tokens: str, name: str, inputs: int, outputs: int) -> str:
        """A MatMul and the addition of its bias."""
        made = self.add("MatMul", [tokens, self.weight(f"{name}.weight", (inputs, outputs))], f"{name}.product")
        return self.add("Add", [made, self.weight(f"{name}.bias", (outputs,))], name)

    def vector(self, name: str, size: int, around: float) -> str:
        """A stored vector of values a little off `around`."""
        values = np.float32(around) + self.random.standard_normal(size, np.float32) * np.float32(0.1)
        self.weights.append(numpy_helper.from_array(values, name))
        return name


def deep(path: str, nodes: int, channels: int) -> None:
    """About `nodes` nodes, with `channels` channels in the images and twice as many in the tokens."""
    model, width = DeepBuilder(), 2 * channels
    image, tokens = model.conv("image", "stem", 3, channels), model.matmul("tokens", "embedding", width, width)
    for block in range(nodes // NODES_OF_A_ROUND):
        image = model.convolutions(image, f"convolutions{block}", channels)
        image = model.branches(image, f"branches{block}", channels)
        tokens = model.dense(tokens, f"dense{block}", width)
    outputs = [(model.conv(image, "last_image", channels, 8), [1, 8, SIDE, SIDE])]
    outputs += [(model.gemm(tokens, "last_tokens", width, 8), [TOKENS, 8])]
    model.save(path, [("image", [1, 3, SIDE, SIDE]), ("tokens", [TOKENS, width])], outputs)


def main() -> None:
    deep(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    main()
