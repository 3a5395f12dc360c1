"""Masks of onnxsim and ours on real models, weight by weight: where the rule is the same, and where it is not.

OXIPRUNE_CORPUS=FOLDER python benchmarks/sparse_masks.py RESULT.json

Only weights that both prune are compared, and for the global scope only those compete. onnxsim's 50 % is of each output
row, ours of each tensor; its groups run over channels and kernel of a Conv, ours over the channels.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from commands import oxiprune
from onnx import numpy_helper

RULES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "2:4": (["--granularity", "2:4"], {"n": 2, "m": 4}),
    "50 %": (["--sparsity", "0.5"], {"sparsity": 0.5}),
    "50 %, global": (["--sparsity", "0.5", "--allocation", "global"], {"sparsity": 0.5, "global_sparsity": True}),
}
"""Options of ours, and arguments of onnxsim's `apply_magnitude_pruning`."""


def models() -> list[Path]:
    """The models of the corpus; none without it."""
    root = os.environ.get("OXIPRUNE_CORPUS")
    return sorted(Path(root, "models").glob("*/model.onnx")) if root else []


def weights(model: onnx.ModelProto) -> list[tuple[str, str, Any]]:
    """Operator, name and values of what each node of the main graph reads as its weight, in the nodes' order."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    return [
        (node.op_type, node.input[1], numpy_helper.to_array(constants[node.input[1]]))
        for node in model.graph.node
        if node.op_type in {"MatMul", "Gemm", "Conv"} and node.input[1] in constants
    ]


def by_onnxsim(model: Path, arguments: dict[str, Any]) -> list[tuple[str, str, Any]]:
    pruning: Any = importlib.import_module("onnxsim.pruning")
    return weights(pruning.apply_magnitude_pruning(onnx.load(model), **arguments))


def by_oxiprune(model: Path, output: Path, options: list[str], names: list[str]) -> list[tuple[str, str, Any]]:
    chosen = [word for name in names for word in ("--include", name.replace("[", "[[]"))]
    common = ["--min-elements", "0", "--depthwise", "--quiet", "--force"]
    command = [*oxiprune(), "prune", str(model), "-o", str(output), *options, *common, *chosen]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return weights(onnx.load(output))


def rows_of(model: Path, folder: Path) -> Iterator[dict[str, str | int]]:
    """A line for each rule and kind of weight."""
    before = weights(onnx.load(model))
    patterned = by_onnxsim(model, RULES["2:4"][1])
    theirs = [index for index, (old, new) in enumerate(zip(before, patterned, strict=True)) if changed(old[2], new[2])]
    if not theirs:
        return
    names = sorted({before[index][1] for index in theirs})
    for rule, (options, arguments) in RULES.items():
        pruned = by_onnxsim(model, arguments)
        ours = by_oxiprune(model, folder / "out.onnx", options, names)
        pairs = [(before[index], ours[index][2], pruned[index][2]) for index in theirs]
        for kind in ("MatMul, Gemm, Conv 1x1", "Conv"):
            some = [(left != 0, right != 0) for old, left, right in pairs if kind_of(old[0], old[2]) == kind]
            if some:
                yield {"model": model.parent.name, "rule": rule, "weights": kind, **agreement(some)}


def changed(before: Any, after: Any) -> bool:
    return not np.array_equal(before, after)


def kind_of(op: str, values: Any) -> str:
    return "Conv" if op == "Conv" and np.prod(values.shape[2:]) > 1 else "MatMul, Gemm, Conv 1x1"


def agreement(pairs: list[tuple[Any, Any]]) -> dict[str, int]:
    """How many masks there are, how many are equal, and in how many elements the others differ."""
    return {
        "masks": len(pairs),
        "equal": sum(np.array_equal(ours, theirs) for ours, theirs in pairs),
        "elements": sum(ours.size for ours, _ in pairs),
        "differing": sum(int((ours != theirs).sum()) for ours, theirs in pairs),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="oxiprune-masks-") as folder:
        rows = [row for model in models() for row in rows_of(model, Path(folder))]
    Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
