"""The jobs that bench_onnx.py measures, each a command of its own, so that none pays for another's imports and memory.

python benchmarks/onnx_jobs.py generate FILE [--quick] | check BEFORE AFTER RULE | numpy|torch|onnxsim BEFORE AFTER

All prune every weight matrix and kernel by 50 % of its smallest magnitudes; onnxsim does so for every output row.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SPARSITY = 0.5
BLOCKS = 4


def generate(path: str, quick: bool) -> None:
    """97.5 M parameters, 390 MB: four transformer-like blocks, a wide layer, 3x3 convolutions and a Gemm head."""
    model = Builder()
    width, wide, channels = (64, 128, 16) if quick else (1024, 4096, 512)
    tokens = "tokens"
    for block in range(BLOCKS):
        for name in ("query", "key", "value", "out"):
            tokens = model.matmul(tokens, f"block{block}.{name}", width, width)
        tokens = model.matmul(tokens, f"block{block}.up", width, wide)
        if block == BLOCKS - 1:
            tokens = model.matmul(tokens, "wide", wide, wide)
        tokens = model.matmul(tokens, f"block{block}.down", wide, width)
    tokens = model.gemm(tokens, "head", width, 2 * width)
    image = "image"
    for layer in range(8):
        image = model.conv(image, f"conv{layer}", channels, channels)
    image = model.conv(image, "conv_up", channels, 2 * channels)
    image = model.conv(image, "conv_down", 2 * channels, channels)
    outputs = [(tokens, [8, 2 * width]), (image, [1, channels, 14, 14])]
    model.save(path, [("tokens", [8, width]), ("image", [1, channels, 14, 14])], outputs)


class Builder:
    """A model, node by node; each method returns the name of what its last node gives."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self.weights: list[Any] = []
        self.random = np.random.default_rng(0)

    def matmul(self, data: str, name: str, inputs: int, outputs: int) -> str:
        self.add("MatMul", [data, self.weight(f"{name}.weight", (inputs, outputs))], f"{name}.product")
        return self.add("Relu", [f"{name}.product"], name)

    def gemm(self, data: str, name: str, inputs: int, outputs: int) -> str:
        weights = [self.weight(f"{name}.weight", (outputs, inputs)), self.weight(f"{name}.bias", (outputs,))]
        return self.add("Gemm", [data, *weights], name, transB=1)

    def conv(self, data: str, name: str, inputs: int, outputs: int) -> str:
        weights = [self.weight(f"{name}.weight", (outputs, inputs, 3, 3)), self.weight(f"{name}.bias", (outputs,))]
        self.add("Conv", [data, *weights], f"{name}.sum", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        return self.add("Relu", [f"{name}.sum"], name)

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name: str, shape: tuple[int, ...]) -> str:
        values = self.random.standard_normal(shape, np.float32) * np.float32(0.02)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def save(self, path: str, inputs: list[tuple[str, list[int]]], outputs: list[tuple[str, list[int]]]) -> None:
        asked, given = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in some]
            for some in (inputs, outputs)
        )
        graph = helper.make_graph(self._nodes, "bench", asked, given, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def check(before: str, after: str, rule: str) -> None:
    """Fail unless AFTER has the right zeros: "tensor": 50 % of each; "row": of each output row; and no other change."""
    old, new = ({node.name: tensor for node, tensor in weights(onnx.load(path))} for path in (before, after))
    parameters = 0
    for name, tensor in old.items():
        values, pruned = numpy_helper.to_array(tensor), numpy_helper.to_array(new[name])
        parameters += values.size
        zeros = values.size - np.count_nonzero(pruned)
        wanted = math.floor(SPARSITY * values.size)
        slack = 0 if rule == "tensor" else max(values.shape)
        assert abs(zeros - wanted) <= slack, f"{name}: {zeros} zeros, not {wanted}"
        assert np.array_equal(np.where(pruned == 0, 0, values), pruned), f"{name}: what stays has changed"
        if rule == "tensor":
            assert abs(values[pruned == 0]).max() <= abs(values[pruned != 0]).min(), f"{name}: not the smallest fell"
    print(f"{parameters} parameters in {len(old)} weights checked")


def weights(model: onnx.ModelProto) -> list[tuple[Any, Any]]:
    """Each node that has a weight, and what it reads: onnxsim gives it another name and keeps the old one unused."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return [(node, tensors[node.input[1]]) for node in model.graph.node if len(node.input) > 1]


def prune_values(before: str, after: str, prune: Callable[[Any], Any]) -> None:
    """Load, prune every weight, save: what a script of one's own does."""
    model = onnx.load(before)
    for _, tensor in weights(model):
        tensor.raw_data = prune(numpy_helper.to_array(tensor).copy()).tobytes()
    onnx.save(model, after)


def numpy_prune(values: Any) -> Any:
    scores = np.abs(values).reshape(-1)
    values.reshape(-1)[np.argpartition(scores, k := int(SPARSITY * scores.size))[:k]] = 0
    return values


def torch_prune(values: Any) -> Any:
    torch: Any = importlib.import_module("torch")
    prune: Any = importlib.import_module("torch.nn.utils.prune")
    module = torch.nn.Module()
    module.register_parameter("weight", torch.nn.Parameter(torch.from_numpy(values)))
    prune.l1_unstructured(module, "weight", SPARSITY)
    prune.remove(module, "weight")
    return module.weight.detach().numpy()


def onnxsim_prune(before: str, after: str) -> None:
    pruning: Any = importlib.import_module("onnxsim.pruning")
    onnx.save(pruning.apply_magnitude_pruning(onnx.load(before), SPARSITY), after)


def main() -> None:
    job, *rest = sys.argv[1:]
    if job == "generate":
        generate(rest[0], "--quick" in rest)
    elif job == "check":
        check(*rest)
    elif job == "onnxsim":
        onnxsim_prune(*rest)
    else:
        prune_values(rest[0], rest[1], {"numpy": numpy_prune, "torch": torch_prune}[job])


if __name__ == "__main__":
    main()
