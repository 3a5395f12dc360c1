"""The layouts of the packed encoding for a 2:4 weight, side by side: bytes, bytes compressed, time to load.

python benchmarks/layout_candidates.py [--side N] [--rounds N]

A MatMul whose weight is 2:4 along its reduction axis, rebuilt by the operators of each layout. Before anything is timed
onnxruntime's product with the identity must be the weight, bit for bit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
import zstandard
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_tools.encodings.layouts import LAYOUTS, Chain, Kept

NAMES = ("bits", "gaps4", "gaps8", "2:4@-2")


def two_of_four(side: int, dtype: Any) -> NDArray[Any]:
    """(K, N), 2:4 along K."""
    weight = np.random.default_rng(0).standard_normal((side // 4, 4, side))
    ranks = np.abs(weight).argsort(axis=1).argsort(axis=1)
    return np.where(ranks >= 2, weight, 0).reshape(side, side).astype(dtype)


def packed(weight: NDArray[Any], name: str) -> bytes:
    """A model with the weight in a layout, or as it is."""
    chain = Chain("w", helper.np_dtype_to_tensor_dtype(weight.dtype), bytes(weight.itemsize))
    if name == "dense":
        return model(weight, chain, "values", {"values": weight})
    layout = LAYOUTS[name]
    pieces = layout.pack(Kept.of(weight.reshape(-1).view(f"u{weight.itemsize}"), 0, weight.shape))
    whole = layout.rebuild(chain, {piece: piece for piece in pieces}, weight.shape)
    return model(weight, chain, whole, {**pieces, "values": pieces["values"].view(weight.dtype)})


def model(weight: NDArray[Any], chain: Chain, whole: str, pieces: dict[str, NDArray[Any]]) -> bytes:
    """A MatMul of what is rebuilt."""
    shaped = chain.node("Reshape", whole, chain.constant(weight.shape, np.int64))
    nodes = [*chain.nodes, helper.make_node("MatMul", ["x", shaped], ["y"])]
    stored = [*chain.constants, *(numpy_helper.from_array(array, name) for name, array in pieces.items())]
    data_type = helper.np_dtype_to_tensor_dtype(weight.dtype)
    ends = [helper.make_tensor_value_info(name, data_type, [None, None]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made.SerializeToString()


def session(text: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"])


def check(text: bytes, weight: NDArray[Any]) -> None:
    """Stop unless the weight comes out, bit for bit."""
    made = session(text)
    for start in range(0, len(weight), 512):
        rows = np.eye(len(weight), dtype=weight.dtype)[start : start + 512]
        if not np.array_equal(made.run(None, {"x": rows})[0], weight[start : start + 512]):
            raise SystemExit("the weight that is rebuilt is another one")


def load_seconds(text: bytes, rounds: int) -> float:
    """The median time to create a session."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        session(text)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    heads = ("dtype", "layout", "bytes", "of dense", "zstd-3", "of dense", "load, s")
    print(f"| {' | '.join(heads)} |\n| :-- | :-- |{' --: |' * 5}")
    for dtype in (np.float32, np.float16):
        weight = two_of_four(options.side, dtype)
        for name in ("dense", *NAMES):
            text = packed(weight, name)
            check(text, weight)
            sizes = len(text), len(zstandard.compress(text, 3))
            cells = [f"{size:,} | {size / weight.nbytes:.1%}" for size in sizes]
            print(f"| {weight.dtype} | {name} | {' | '.join(cells)} | {load_seconds(text, options.rounds):.3f} |")


if __name__ == "__main__":
    main()
